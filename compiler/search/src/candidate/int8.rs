//! Integers of 8 bits, or of 7, with a scale for each output; what they multiply is 8 bits wide.
//!
//! Those of 7 bits are short weights ([`onnxc_ir::target::SHORT_WEIGHT`]), for targets that multiply these faster.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Grid, Matrix, Moments, Shape, WeightRange, round};

use super::{Applied, Coded, Numbers, bytes};
use crate::assemble::Method;
use crate::recipe::Weights;
use crate::search::Goal;

/// The numbers of so many bits.
pub struct Integers {
    bits: u32,
}

/// 8 bits.
pub const INT8: Integers = Integers { bits: 8 };
/// 7 bits.
pub const INT7: Integers = Integers { bits: 7 };

impl Numbers for Integers {
    fn weights(&self) -> Weights {
        if self.bits == 8 { Weights::Int8 } else { Weights::Int7 }
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.integers && (self.bits == 8 || goal.short_integers)
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
        moments: &Moments,
        kept: Option<(&Shape, &[Vec<u32>])>,
        method: Method,
    ) -> Coded {
        let grid = Grid { bits: self.bits, block: None, range: WeightRange::Mse };
        let rounded = round(weights, moments, &grid, kept, method.rounding);
        bytes::coded(layer, rounded)
    }

    /// Nearest integers with the least squared error of each output's weights by themselves.
    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        bytes::nearest(layer, weights, self.bits)
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        bytes::put(cx, layer, name).map(Some)
    }
}
