//! 8-bit weights with a scale for each output, beside operands of floats.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Grid, Matrix, Moments, Shape, WeightRange, nearest, round};

use super::{Applied, Coded, Numbers, bytes};
use crate::assemble::Method;
use crate::recipe::Weights;
use crate::search::Goal;

/// The numbers.
pub struct Byte;

const GRID: Grid = Grid { bits: 8, block: None, range: WeightRange::Mse, sums: None };

impl Numbers for Byte {
    fn weights(&self) -> Weights {
        Weights::Byte
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

    fn grid(&self, _: &Weighted) -> Option<Grid> {
        Some(GRID)
    }

    fn unit(&self) -> usize {
        1
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
        bytes::coded(layer, round(weights, moments, &GRID, kept, method.rounding))
    }

    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        bytes::exact(layer, weights.n, nearest(weights, &GRID))
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        bytes::put(cx, layer, name).map(Some)
    }
}
