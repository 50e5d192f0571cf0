//! A layer that reads some of its channels only: the surgery that puts the choice in front of it.
//!
//! What   conv(x, w, b), with w zero for some channels, = conv(gather(x, kept), w', b); the same for products of matrices.
//! When   compress, before canonicalisation, whose exact rules (`canonicalize/channels.rs`) take the choice on to the layers that compute the channels.
//! Why    these layers compute fewer filters, and everything between works on fewer channels.
//! Class  exact but for rounding: what is lossy is the choice ([`super::prune`] with [`super::Shape::structured`]).
//! Paper  He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, section 3.
//! Misses grouped convolutions.

use onnxc_ir::graph::Node;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Attr, Attrs, DType, Dim, Graph, Tensor, TensorType};

use super::Matrix;
use super::weighted::{Form, Weighted};

/// The layer with this many channels.
pub fn narrowed(layer: &Weighted, channels: usize) -> Weighted {
    Weighted { channels, ..layer.clone() }
}

/// The positions of a row that belong to some channels, in the order that they have in the layer with these channels only.
pub fn positions(layer: &Weighted, kept: &[u32]) -> Vec<usize> {
    (0..layer.taps).flat_map(|tap| kept.iter().map(move |c| tap * layer.channels + *c as usize)).collect()
}

/// Some columns of a matrix.
pub fn columns(matrix: &Matrix, at: &[usize]) -> Matrix {
    let rows = matrix.values.chunks_exact(matrix.k.max(1));
    Matrix { n: matrix.n, k: at.len(), values: rows.flat_map(|row| at.iter().map(|p| row[*p])).collect() }
}

/// Lets a layer read these channels, ascending, with weights of zero. The node that chooses them is behind all other nodes: [`super::split::settle`] puts it in
/// its place.
pub fn put(graph: &mut Graph, ops: OpSet, layer: &Weighted, kept: &[u32]) -> Weighted {
    let (x, weights) = (layer.x(graph), graph.value(layer.weights(graph)).name.clone());
    let (name, mut shape) = (graph.value(x).name.clone(), graph.ty(x).shape.clone());
    let axis = if matches!(layer.form, Form::Conv(_)) { 1 } else { shape.len() - 1 };
    shape[axis] = Dim::Const(kept.len() as u64);
    let list = Tensor::from_vec(&[kept.len() as u64], kept.iter().map(|c| i64::from(*c)).collect());
    let list = graph.add_const(&format!("{name}.channels"), list);
    let chosen = graph.add_value(&format!("{name}.kept"), TensorType::new(DType::F32, shape), None);
    let op = ops.get("gather").expect("internal: compress: an operator of this name");
    let attrs = Attrs::default().with("axis", Attr::Int(axis as i64));
    let origins = graph.nodes[layer.node].origins.clone();
    graph.nodes.push(Node { op, inputs: vec![Some(x), Some(list)], outputs: vec![chosen], attrs, origins });
    let less = narrowed(layer, kept.len());
    let w = graph.add_const(&weights, Tensor::from_vec(&less.shape(), vec![0f32; less.n * less.k()]));
    let node = &mut graph.nodes[layer.node];
    (node.inputs[0], node.inputs[1]) = (Some(chosen), Some(w));
    less
}
