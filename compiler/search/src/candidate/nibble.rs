//! 4-bit weights: numbers of the elements of a table of 16 signed bytes, with a scale for each output, beside operands of floats.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Matrix, Moments, Shape, nearest_in_table, round_to_table};

use super::{Applied, Coded, Numbers, bytes};
use crate::assemble::Method;
use crate::recipe::Weights;
use crate::search::Goal;

/// The numbers.
pub struct Nibble;

impl Numbers for Nibble {
    fn weights(&self) -> Weights {
        Weights::Nibble
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.weight_only
    }

    fn fits(&self, layer: &Weighted) -> bool {
        layer.groups == 1
    }

    fn integers(&self) -> bool {
        false
    }

    fn unit(&self) -> usize {
        1
    }

    fn bytes(&self) -> f64 {
        0.5
    }

    fn fitted(
        &self,
        layer: &Weighted,
        weights: &Matrix,
        moments: (&Moments, Option<&Moments>),
        kept: Option<(&Shape, &[Vec<u32>])>,
        method: Method,
    ) -> Coded {
        bytes::coded(layer, round_to_table(weights, moments, kept, method.rounding))
    }

    /// The table that suits the weights if all inputs count the same.
    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        bytes::exact(layer, weights.n, nearest_in_table(weights))
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        bytes::put(cx, layer, name).map(Some)
    }
}
