//! 8-bit integers with a scale for each output; what they multiply is 8 bits wide too.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Grid, Matrix, Moments, Shape, WeightRange, round};

use super::{Applied, Coded, Numbers, bytes};
use crate::assemble::Method;
use crate::recipe::Weights;
use crate::search::Goal;

/// The numbers.
pub struct Int8;

impl Numbers for Int8 {
    fn weights(&self) -> Weights {
        Weights::Int8
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.integers
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
        let grid = Grid { bits: 8, block: None, range: WeightRange::Mse };
        let rounded = round(weights, moments, &grid, kept, method.rounding);
        bytes::coded(layer, rounded)
    }

    /// Nearest integers with the least squared error of each output's weights by themselves.
    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        bytes::nearest(layer, weights)
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        bytes::put(cx, layer, name).map(Some)
    }
}
