//! 32-bit floats, as the model has them.

use onnxc_ir::graph::Node;
use onnxc_ir::{DType, Tensor};
use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_passes::compress::{Matrix, Moments, Shape};

use super::{Applied, Coded, Numbers};
use crate::assemble::Method;
use crate::recipe::Weights;
use crate::search::Goal;

/// The numbers.
pub struct Float;

impl Numbers for Float {
    fn weights(&self) -> Weights {
        Weights::F32
    }

    fn wanted(&self, _: &Goal) -> bool {
        true
    }

    fn fits(&self, _: &Weighted) -> bool {
        true
    }

    fn integers(&self) -> bool {
        false
    }

    fn unit(&self) -> usize {
        1
    }

    fn bytes(&self) -> f64 {
        4.0
    }

    fn fitted(
        &self,
        layer: &Weighted,
        weights: &Matrix,
        _: (&Moments, Option<&Moments>),
        _: Option<(&Shape, &[Vec<u32>])>,
        _: Method,
    ) -> Coded {
        self.rough(layer, weights)
    }

    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        let tensor = Tensor::from_vec(&layer.shape(), layer.operand(&weights.values));
        Coded { arrays: vec![("weights", tensor)], shift: vec![0.0; weights.n], error: 0.0 }
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        let weights = cx.array(name, "weights", DType::F32, &layer.shape())?;
        weighted::replace(cx.graph, layer, weights);
        Ok(None)
    }
}
