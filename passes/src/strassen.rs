//! Which products of matrices are computed by Strassen's algorithm.
//!
//! What   `matmul`, `gemm` and `conv` of 1 by 1 with constant weights get the schedule `strassen`, if that takes less time by the model of latencies.
//! When   after fusion: shapes, epilogues and users are settled.
//! Why    an eighth of the multiplications less, where these are nearly all that a product takes.
//! Class  bounded: errors are at most four and a half times the bound of direct sums, relative to the largest elements of both factors. `--math=strict`
//!        forbids it. A row is added to another one, and what is infinite or NaN in one is in both.
//! Paper  Strassen, "Gaussian Elimination is not Optimal", 1969; Huang et al., "Strassen's Algorithm Reloaded", 2016.
//! Misses several samples in a call (one must not depend on another), products whose sums are results of the model or lead to them by nothing but elementwise
//!        operators, softmax and the like, weights that are computed or coded, odd k or columns, extents that come with the call.

use onnxc_egraph::RuleClass;
use onnxc_ir::graph::Node;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{DType, Graph, Tensor};
use onnxc_ops::schedule;

use crate::Math;
use crate::choose::{Way, by_prediction};
use crate::layer::Layer;
use crate::sparsity;

/// What the choice does to numbers.
pub const CLASS: RuleClass = RuleClass::Bounded;

/// The part of a layer's time that it has to save.
const LEAST_GAIN: f64 = 0.05;

/// Rows from which on it is worth a look, extents of weights, and their elements: sums of A take a part of the time that falls with the columns, those of C
/// one that falls with k, those of B one that falls with the rows, and all of them more than the model of latencies says.
const LEAST_ROWS: u64 = 64;
const LEAST_EXTENT: u64 = 128;
const LEAST_WEIGHTS: u64 = 128 << 10;

/// What scales its operand by its own size.
const NORMALIZATIONS: [&str; 5] =
    ["group_normalization", "instance_normalization", "layer_normalization", "lp_normalization", "rms_normalization"];

/// Is it a product that may be computed so?
pub fn permits(graph: &Graph, node: &Node, math: Math) -> bool {
    math.allows(CLASS) && single(graph) && extents(graph, node).is_some() && !answers(graph, node)
}

/// Are the sums of a node, or what is made of them element by element, results of the graph? Errors of those are what users see, and a softmax of large sums
/// makes them larger; all others are multiplied or normalised again.
fn answers(graph: &Graph, node: &Node) -> bool {
    let ends = |node: &Node| !schedule::weights(node.op.name).is_empty() || NORMALIZATIONS.contains(&node.op.name);
    let (mut seen, mut open) = (vec![false; graph.values.len()], node.outputs.clone());
    while let Some(value) = open.pop() {
        if graph.outputs.contains(&value) {
            return true;
        }
        if !std::mem::replace(&mut seen[value.0 as usize], true) {
            let users = graph.nodes.iter().filter(|n| n.inputs.contains(&Some(value)) && !ends(n));
            open.extend(users.flat_map(|n| n.outputs.iter().copied()));
        }
    }
    false
}

/// The part of a model's multiplications that has to gain by it, for each layer has more kernels then.
const LEAST_SHARE: f64 = 0.25;

/// Is there anything to choose?
pub fn fits(graph: &Graph, node: &Node, math: Math) -> bool {
    is_large(graph, node, math) && {
        let count = |nodes: &mut dyn Iterator<Item = &Node>| nodes.map(|n| multiplications(graph, n)).sum::<f64>();
        let large = count(&mut graph.nodes.iter().filter(|n| is_large(graph, n, math)));
        large >= LEAST_SHARE * count(&mut graph.nodes.iter())
    }
}

fn is_large(graph: &Graph, node: &Node, math: Math) -> bool {
    let large = |(rows, k, columns): (u64, u64, u64)| {
        rows >= LEAST_ROWS && k.min(columns) >= LEAST_EXTENT && k.saturating_mul(columns) >= LEAST_WEIGHTS
    };
    extents(graph, node).is_some_and(large) && permits(graph, node, math)
}

/// The constant weights of a node that is one product.
fn weights<'g>(graph: &'g Graph, node: &'g Node) -> Option<&'g Tensor> {
    sparsity::weights(graph, node).next().filter(|_| schedule::weights(node.op.name).len() == 1)
}

/// Multiplications by constant weights.
fn multiplications(graph: &Graph, node: &Node) -> f64 {
    let Some(weights) = weights(graph, node) else { return 0.0 };
    let Some(shape) = node.outputs.first().and_then(|y| graph.ty(*y).const_shape()) else { return 0.0 };
    let columns = if weights.shape().len() > 2 { weights.shape().first() } else { shape.last() };
    let product = |shape: &[u64]| shape.iter().map(|n| *n as f64).product::<f64>();
    product(&shape) * product(weights.shape()) / columns.map_or(1.0, |n| (*n).max(1) as f64)
}

/// A call has one sample: the first extents of inputs are one, or the only ones that they have.
fn single(graph: &Graph) -> bool {
    graph.inputs.iter().all(|id| {
        let shape = &graph.ty(*id).shape;
        shape.len() < 2 || shape[0].is_one()
    })
}

/// Rows, k and columns of a product of matrices of f32, the right one constant.
fn extents(graph: &Graph, node: &Node) -> Option<(u64, u64, u64)> {
    let weights = weights(graph, node).filter(|w| w.dtype() == DType::F32)?;
    let (x, y) = (node.inputs.first().copied().flatten()?, node.outputs.first()?);
    let (shape, w) = (graph.ty(*y).const_shape()?, weights.shape());
    let columns = match node.op.name {
        "matmul" | "gemm" => *shape.last()?,
        "conv" if w[2..].iter().all(|k| *k == 1) && node.attrs.int("group").unwrap_or(1) == 1 => w[0],
        _ => return None,
    };
    let of = |elements: u64| elements.checked_div(columns);
    let extents = (of(shape.iter().product())?, of(w.iter().product())?, columns);
    Some(extents).filter(|_| graph.ty(x).dtype == DType::F32)
}

/// The ways of a layer that [`fits`], among `around` bytes of constants; none if halves are not worth it.
pub fn ways(layer: &Layer, target: &TargetDesc, math: Math, around: u64) -> Vec<Way> {
    by_prediction(layer, schedule::strassen(target).into_iter().take(1), LEAST_GAIN, (target, math), around)
}
