//! Integers of 8 bits with a scale for each output; what they multiply is 8 bits wide.
//!
//! Those of which few add up to much are short weights ([`onnxc_ir::target::SHORT_SUM`]), for targets that multiply these faster, the more so the more steps of
//! k are added up.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Grid, Matrix, Moments, Shape, Sums, WeightRange, nearest, round};

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
/// Those of which pairs add up to little.
pub const PAIRED: Integers = Integers { weights: Weights::Paired, steps: 1 };
/// Those of which two pairs do.
pub const PAIRED_2: Integers = Integers { weights: Weights::Paired2, steps: 2 };
/// Four pairs.
pub const PAIRED_4: Integers = Integers { weights: Weights::Paired4, steps: 4 };

impl Integers {
    /// With steps that are short whichever go together, if they are to be `apart`.
    fn range(&self, layer: &Weighted, apart: bool) -> Grid {
        let sums = Sums { channels: layer.channels.max(1), steps: self.steps as usize, apart };
        Grid { bits: 8, block: None, range: WeightRange::Mse, sums: (self.steps > 0).then_some(sums) }
    }
}

impl Numbers for Integers {
    fn weights(&self) -> Weights {
        self.weights
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.integers && self.steps <= goal.short_steps
    }

    fn fits(&self, layer: &Weighted) -> bool {
        !layer.is_state()
    }

    fn integers(&self) -> bool {
        true
    }

    fn largest(&self) -> Option<f64> {
        Some(f64::from(i8::MAX))
    }

    fn grid(&self, layer: &Weighted) -> Option<Grid> {
        Some(self.range(layer, false))
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
        bytes::coded(layer, round(weights, moments, &self.range(layer, method.apart), kept, method.rounding))
    }

    /// Nearest integers with the least squared error of each output's weights by themselves. Which steps of pruned layers go together is not known here.
    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        bytes::exact(layer, weights.n, nearest(weights, &self.range(layer, true)))
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        bytes::put(cx, layer, name).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::candidate::numbers;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Line {
        weights: Weights,
    }

    #[test]
    fn recipes_name_the_steps_that_are_added() {
        for (of, name) in [(&ALL, "int8"), (&PAIRED, "paired"), (&PAIRED_2, "paired2"), (&PAIRED_4, "paired4")] {
            let line = Line { weights: of.weights };
            assert_eq!(toml::to_string(&line).unwrap(), format!("weights = \"{name}\"\n"));
            assert_eq!(toml::from_str::<Line>(&format!("weights = {name:?}")).unwrap(), line);
            assert_eq!(numbers(of.weights).weights(), of.weights);
            if let Some(steps) = name.strip_prefix("paired").filter(|steps| !steps.is_empty()) {
                assert_eq!(steps, of.steps.to_string());
            }
        }
    }
}
