//! Integers of 8 bits with a scale for each output; what they multiply becomes 8 bits wide with a range that is found at run time, for each inference.
//!
//! Nothing has to be known of the operand: one that is a thousand times as large for one sample as for another loses no more than others do. It takes one pass
//! over the operand more than a range that is known, and what comes out are floats.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Grid, Matrix, Moments, Shape, WeightRange, error, nearest, noise, pairs, round};

use super::{Applied, Coded, Numbers, bytes, centred};
use crate::assemble::Method;
use crate::recipe::Weights;
use crate::search::Goal;

/// The numbers.
pub struct Dynamic;

const GRID: Grid = Grid { bits: 8, block: None, range: WeightRange::Mse, sums: None };

/// The range of an operand over the root of its mean square. A million elements of a normal distribution have 10; with more the error is larger than stated.
const RANGE: f64 = 12.0;
/// What rounding to one of 256 steps of that range does, by the operand's mean square: a twelfth of the square of a step.
const ROUNDING: f64 = (RANGE / 255.0) * (RANGE / 255.0) / 12.0;

impl Numbers for Dynamic {
    fn weights(&self) -> Weights {
        Weights::Dynamic
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.integers && goal.dynamic
    }

    fn fits(&self, layer: &Weighted) -> bool {
        layer.groups == 1 && !layer.is_state()
    }

    /// No range is known.
    fn integers(&self) -> bool {
        false
    }

    fn dynamic(&self) -> bool {
        true
    }

    fn unit(&self) -> usize {
        4
    }

    fn bytes(&self) -> f64 {
        1.0
    }

    /// Nothing is added to the bias: what rounding moves results by on average is as large as the operand is, and would be that of the largest ones.
    ///
    /// The stated error is that of the weights and, as an estimate from the moments, that of the operand: its elements are off by up to half a step, each by itself.
    /// What both do to the answers is measured, with a model in which the operand is rounded.
    fn fitted(
        &self,
        layer: &Weighted,
        weights: &Matrix,
        (fit, check): (&Moments, Option<&Moments>),
        kept: Option<(&Shape, &[Vec<u32>])>,
        method: Method,
    ) -> Coded {
        let rounded = round(weights, (&centred(fit, false), None), &GRID, kept, method.rounding);
        let real = |(row, scale): (&[i8], &f32)| row.iter().map(|q| f32::from(*q) * scale).collect::<Vec<f32>>();
        let values = rounded.values.chunks(weights.k.max(1)).zip(&rounded.scales).flat_map(real).collect();
        let now = Matrix { values, ..*weights };
        // Of the rows that the layer is fed, whatever the dense model's are.
        let fed = check.unwrap_or(fit);
        let fed = Moments { cross: None, dense: None, dense_sum: fed.sum.clone(), ..fed.clone() };
        let error = error(weights, &now, &vec![0.0; weights.n], &fed) + noise(weights, ROUNDING, &fed);
        Coded { error, ..bytes::coded(layer, rounded) }
    }

    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        bytes::exact(layer, weights.n, nearest(weights, &GRID))
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        let weights = bytes::put(cx, layer, name)?;
        pairs::found(cx.graph, cx.ops, layer);
        Ok(Some(weights))
    }
}
