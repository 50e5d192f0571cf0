//! Integers of 8 bits with a scale for each output; what they multiply is 8 bits wide.
//!
//! Those that go in pairs are short weights ([`onnxc_ir::target::SHORT_PAIR`]), for targets that multiply these faster.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Grid, Matrix, Moments, Shape, WeightRange, nearest, round};

use super::{Applied, Coded, Numbers, bytes};
use crate::assemble::Method;
use crate::recipe::Weights;
use crate::search::Goal;

/// The numbers.
pub struct Integers {
    paired: bool,
}

/// All of 8 bits.
pub const ALL: Integers = Integers { paired: false };
/// Those that go in pairs.
pub const PAIRED: Integers = Integers { paired: true };

impl Integers {
    fn grid(&self, layer: &Weighted) -> Grid {
        let pairs = self.paired.then_some(layer.channels.max(1));
        Grid { bits: 8, block: None, range: WeightRange::Mse, pairs }
    }
}

impl Numbers for Integers {
    fn weights(&self) -> Weights {
        if self.paired { Weights::Paired } else { Weights::Int8 }
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.integers && (!self.paired || goal.short_integers)
    }

    fn fits(&self, _: &Weighted) -> bool {
        true
    }

    fn integers(&self) -> bool {
        true
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
        bytes::coded(layer, round(weights, moments, &self.grid(layer), kept, method.rounding))
    }

    /// Nearest integers with the least squared error of each output's weights by themselves.
    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        bytes::exact(layer, weights.n, nearest(weights, &self.grid(layer)))
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        bytes::put(cx, layer, name).map(Some)
    }
}
