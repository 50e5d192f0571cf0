//! Which products of matrices are computed by Strassen's algorithm.
//!
//! What   `matmul`, `gemm` and `conv` of 1 by 1 with constant weights get the schedule `strassen`, if that takes less time by the model of latencies.
//! When   after fusion: shapes, epilogues and users are settled.
//! Why    an eighth of the multiplications less, where these are nearly all that a product takes.
//! Class  bounded: errors are at most four and a half times the bound of direct sums, relative to the largest elements of both factors. `--math=strict`
//!        forbids it. A row is added to another one, and what is infinite or NaN in one is in both.
//! Paper  Strassen, "Gaussian Elimination is not Optimal", 1969; Huang et al., "Strassen's Algorithm Reloaded", 2016.
//! Misses several samples in a call (one must not depend on another), weights that are computed or coded, odd k or columns, extents that come with the call.

use onnxc_egraph::RuleClass;
use onnxc_ir::graph::Node;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{DType, Graph};
use onnxc_ops::schedule::{Choice, STRASSEN};

use crate::Math;
use crate::choose::{Way, by_prediction};
use crate::layer::Layer;
use crate::sparsity;

/// What the choice does to numbers.
pub const CLASS: RuleClass = RuleClass::Bounded;

/// The part of a layer's time that it has to save.
const LEAST_GAIN: f64 = 0.03;

/// Rows from which on it is worth a look, extents of weights, and their elements: sums of A take a part of the time that falls with the columns, those of C
/// one that falls with k, those of B one that falls with the rows, and all of them more than the model of latencies says.
const LEAST_ROWS: u64 = 64;
const LEAST_EXTENT: u64 = 128;
const LEAST_WEIGHTS: u64 = 128 << 10;

/// Is there anything to choose?
pub fn fits(graph: &Graph, node: &Node, math: Math) -> bool {
    math.allows(CLASS) && single(graph) && is_large(graph, node).unwrap_or(false)
}

/// A call has one sample: the first extents of inputs are one, or the only ones that they have.
fn single(graph: &Graph) -> bool {
    graph.inputs.iter().all(|id| {
        let shape = &graph.ty(*id).shape;
        shape.len() < 2 || shape[0].is_one()
    })
}

fn is_large(graph: &Graph, node: &Node) -> Option<bool> {
    let weights = sparsity::weights(graph, node).filter(|w| w.dtype() == DType::F32)?;
    let (x, y) = (node.inputs.first().copied().flatten()?, node.outputs.first()?);
    let (shape, w) = (graph.ty(*y).const_shape()?, weights.shape());
    let columns = match node.op.name {
        "matmul" | "gemm" => *shape.last()?,
        "conv" if w[2..].iter().all(|k| *k == 1) && node.attrs.int("group").unwrap_or(1) == 1 => w[0],
        _ => return None,
    };
    let rows = shape.iter().product::<u64>() / columns.max(1);
    let elements = w.iter().product::<u64>();
    let extents = columns.min(elements / columns.max(1));
    let large = rows >= LEAST_ROWS && extents >= LEAST_EXTENT && elements >= LEAST_WEIGHTS;
    Some(graph.ty(x).dtype == DType::F32 && large)
}

/// The ways of a layer that [`fits`], among `around` bytes of constants; none if halves are not worth it.
pub fn ways(layer: &Layer, target: &TargetDesc, math: Math, around: u64) -> Vec<Way> {
    by_prediction(layer, [choice()], LEAST_GAIN, (target, math), around)
}

fn choice() -> Choice {
    Choice { algorithm: None, schedule: Some(STRASSEN.to_string()) }
}
