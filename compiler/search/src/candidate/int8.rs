//! Integers of 8 bits with a scale for each output; what they multiply is 8 bits wide.
//!
//! Those that go in pairs are short weights ([`onnxc_ir::target::SHORT_PAIR`]), for targets that multiply these faster, the more so the less two of them add up
//! to ([`short_room`]).

use onnxc_ir::graph::Node;
use onnxc_ir::target::short_room;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Grid, Matrix, Moments, Pairs, Shape, WeightRange, nearest, round};

use super::{Applied, Coded, Numbers, bytes};
use crate::assemble::Method;
use crate::recipe::Weights;
use crate::search::Goal;

/// The numbers.
pub struct Integers {
    weights: Weights,
    /// Steps whose products add up within 16 bits; 0: those of one need not.
    steps: u32,
}

/// All of 8 bits.
pub const ALL: Integers = Integers { weights: Weights::Int8, steps: 0 };
/// Those that go in pairs.
pub const PAIRED: Integers = Integers { weights: Weights::Paired, steps: 1 };
/// The same for two steps together.
pub const PAIRED_64: Integers = Integers { weights: Weights::Paired64, steps: 2 };
/// The same for four.
pub const PAIRED_32: Integers = Integers { weights: Weights::Paired32, steps: 4 };

impl Integers {
    fn range(&self, layer: &Weighted) -> Grid {
        let pairs = (self.steps > 0).then(|| Pairs { channels: layer.channels.max(1), room: short_room(self.steps) });
        Grid { bits: 8, block: None, range: WeightRange::Mse, pairs }
    }
}

impl Numbers for Integers {
    fn weights(&self) -> Weights {
        self.weights
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.integers && self.steps <= goal.short_steps
    }

    fn fits(&self, _: &Weighted) -> bool {
        true
    }

    fn integers(&self) -> bool {
        true
    }

    fn largest(&self) -> Option<f64> {
        let all = f64::from(i8::MAX);
        Some(if self.steps > 0 { f64::from(short_room(self.steps)).min(all) } else { all })
    }

    fn grid(&self, layer: &Weighted) -> Option<Grid> {
        Some(self.range(layer))
    }

    fn unit(&self) -> usize {
        4
    }

    fn bytes(&self) -> f64 {
        1.0
    }

    fn fitted(
        &self,
        layer: &Weighted,
        weights: &Matrix,
        moments: (&Moments, Option<&Moments>),
        kept: Option<(&Shape, &[Vec<u32>])>,
        method: Method,
    ) -> Coded {
        bytes::coded(layer, round(weights, moments, &self.range(layer), kept, method.rounding))
    }

    /// Nearest integers with the least squared error of each output's weights by themselves.
    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        bytes::exact(layer, weights.n, nearest(weights, &self.range(layer)))
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        bytes::put(cx, layer, name).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use onnxc_ir::target::short_room;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::candidate::numbers;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Line {
        weights: Weights,
    }

    #[test]
    fn recipes_name_what_two_weights_add_up_to() {
        for (of, name) in [(&ALL, "int8"), (&PAIRED, "paired"), (&PAIRED_64, "paired64"), (&PAIRED_32, "paired32")] {
            let line = Line { weights: of.weights };
            assert_eq!(toml::to_string(&line).unwrap(), format!("weights = \"{name}\"\n"));
            assert_eq!(toml::from_str::<Line>(&format!("weights = {name:?}")).unwrap(), line);
            assert_eq!(numbers(of.weights).weights(), of.weights);
            if let Some(room) = name.strip_prefix("paired").filter(|room| !room.is_empty()) {
                assert_eq!(room, short_room(of.steps).to_string());
            }
        }
    }
}
