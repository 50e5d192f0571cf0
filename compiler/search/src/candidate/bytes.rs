//! What numbers of signed bytes with a scale for each output have in common.

use onnxc_ir::graph::Node;
use onnxc_ir::{DType, Tensor};
use onnxc_passes::compress::Rounded;
use onnxc_passes::compress::pairs::{self, Integers};
use onnxc_passes::compress::weighted::Weighted;

use super::{Applied, Coded};

/// Rounded weights as a recipe has them.
pub(super) fn coded(layer: &Weighted, rounded: Rounded) -> Coded {
    Coded { arrays: arrays(layer, &rounded.values, &rounded.scales), shift: rounded.bias_shift, error: rounded.error }
}

/// Values and scales of so many outputs as they are.
pub(super) fn exact(layer: &Weighted, outputs: usize, (values, scales): (Vec<i8>, Vec<f32>)) -> Coded {
    Coded { arrays: arrays(layer, &values, &scales), shift: vec![0.0; outputs], error: 0.0 }
}

/// Gives a layer of a graph the weights that a recipe has; the node that makes floats of them.
///
/// # Errors
/// The array that is missing or does not fit.
pub(super) fn put(cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Node, String> {
    let values = cx.array(name, "weights", DType::I8, &layer.shape())?;
    let scales = cx.array(name, "scales", DType::F32, &[layer.n as u64])?.to_vec();
    Ok(pairs::weights(cx.graph, cx.ops, layer, &Integers { values, scales }))
}

fn arrays(layer: &Weighted, values: &[i8], scales: &[f32]) -> Vec<(&'static str, Tensor)> {
    let (values, scales) = without_dust(values, scales);
    vec![
        ("weights", Tensor::from_vec(&layer.shape(), layer.operand(&values))),
        ("scales", Tensor::from_vec(&[scales.len() as u64], scales)),
    ]
}

/// Scales below this one are of outputs that training has switched off: products with them would be subnormal, which not every target computes with.
const DUST: f32 = 1e-20;

/// Integers whose scales are not far below all else: what they stand for is zero.
fn without_dust(values: &[i8], scales: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let (mut values, mut scales) = (values.to_vec(), scales.to_vec());
    let k = values.len() / scales.len().max(1);
    for (row, scale) in values.chunks_mut(k.max(1)).zip(&mut scales).filter(|(_, scale)| **scale <= DUST || scale.is_nan()) {
        row.fill(0);
        *scale = 1.0;
    }
    (values, scales)
}
