//! Which products leave out weights that are zero.
//!
//! What   a product whose constant weights are mostly zero gets `sparse` in its attribute `schedule`, with the tile whose panels share most zeros.
//! When   after fusion, beside Winograd's algorithm, which is the other way not to multiply directly.
//! Why    models are pruned in training, or by a search; what all columns of a panel multiply by zero takes neither time nor memory in a list.
//! Class  exact for numbers, but a zero no longer makes NaN of an infinity or of NaN: `--math=strict` forbids it for floats. Integers have neither.
//! Paper  Ma et al., "PCONV: The Missing but Desirable Sparsity in DNN Weight Pruning", 2020; Guo et al., "Accelerating Sparse DNN Models without
//!        Hardware-Support via Tile-Wise Sparsity", 2020.
//! Misses extents that come with the call, depthwise and transposed convolutions, zero points of weights other than 0 (128 of u8).
//!
//! The ways of a layer are lowered, counted and priced by the model of the target (`onnxc_ir::workload::latency`), so that what is compared is the code.

use onnxc_egraph::RuleClass;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{DType, Graph, Tensor};
use onnxc_ops::schedule::{self, Choice};

use crate::Math;
use crate::choose::{Way, algorithms, by_prediction};
use crate::layer::Layer;

/// What the choice does to floats.
pub const CLASS: RuleClass = RuleClass::Bounded;

/// What a list must gain over all weights by the model, which errs by as much.
const LEAST_GAIN: f64 = 0.15;

/// Elements of weights that are looked at to tell whether they have zeros.
const SAMPLE: usize = 4096;

/// Has the node constant weights with so many zeros that lists may pay, where `math` permits them?
pub fn fits(graph: &Graph, node: &onnxc_ir::graph::Node, math: Math) -> bool {
    let floats = node.inputs.first().copied().flatten().is_some_and(|x| graph.ty(x).dtype == DType::F32);
    weights(graph, node).any(|w| (!floats || math.allows(CLASS)) && has_zeros(w, floats))
}

/// The constant weights of products.
pub fn weights<'g>(graph: &'g Graph, node: &'g onnxc_ir::graph::Node) -> impl Iterator<Item = &'g Tensor> {
    let operand = |i: &usize| graph.constant(node.inputs.get(*i).copied().flatten()?);
    schedule::weights(node.op.name).iter().filter_map(operand)
}

/// The ways of a layer that [`fits`], among `around` bytes of constants; none if no list is worth it.
pub fn ways(layer: &Layer, target: &TargetDesc, math: Math, around: u64) -> Vec<Way> {
    by_prediction(layer, choices(layer, target, math), LEAST_GAIN, (target, math), around)
}

/// The choices that leave zeros out of a layer that [`fits`].
pub fn choices(layer: &Layer, target: &TargetDesc, math: Math) -> Vec<Choice> {
    let node = layer.node();
    let direct = schedule::sparse(node.op.name, &node.attrs, &layer.inputs(), target);
    let with = |name| direct.iter().map(move |list| Choice { algorithm: Some(name), ..list.clone() });
    let tiled: Vec<Choice> = algorithms(layer, target, math).into_iter().flat_map(with).collect();
    direct.into_iter().chain(tiled).collect()
}

/// What tells weights of the same type apart where zeros are left out: a hash of the places of their zeros (Fowler, Noll, Vo), if they have enough.
pub fn pattern(w: &Tensor) -> Option<u64> {
    let step = |hash: u64, zero: bool| (hash ^ u64::from(zero)).wrapping_mul(0x100_0000_01b3);
    has_zeros(w, w.dtype() == DType::F32).then(|| zeros(w).fold(0xcbf2_9ce4_8422_2325, step))
}

/// Of each element, whether it is zero: 128 of unsigned bytes, from which kernels take as much.
fn zeros(w: &Tensor) -> impl Iterator<Item = bool> {
    let dtype = w.dtype();
    w.bytes().chunks_exact(dtype.bytes() as usize).map(move |e| if dtype == DType::U8 { e == [128] } else { dtype.all_zero(e) })
}

/// Are enough of some elements zero? Trained floats and words never are; bytes are without being left out, where they are small, of those beside operands of `floats`
/// fewer: what the others multiply was rounded too, and their lists pay later.
fn has_zeros(w: &Tensor, floats: bool) -> bool {
    let size = w.dtype().bytes() as usize;
    let n = w.bytes().len() / size.max(1);
    if n == 0 || !matches!(w.dtype(), DType::F32 | DType::I16 | DType::I8 | DType::U8) {
        return false;
    }
    // An odd stride, so that all channels and positions are seen.
    let step = (n / SAMPLE.min(n)) | 1;
    let seen = n.div_ceil(step);
    let share = match (size, floats) {
        (1, false) => 3,
        (1, true) => 6,
        _ => 16,
    };
    zeros(w).step_by(step).filter(|zero| *zero).count() * share >= seen
}
