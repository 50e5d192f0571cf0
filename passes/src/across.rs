//! Convolutions of few filters compute several outputs of a row as filters of one.
//!
//! What   `conv(x, w, b)` whose filters fill at most half of a vector gets the schedule `across=p`, if that takes less time by the model of latencies.
//! When   after fusion: shapes, epilogues and users are settled.
//! Why    a vector of 16 lanes for 8 filters computes 8 products for nothing. With two outputs a kernel of 5 by 5 multiplies vectors 30 times, not 50.
//! Class  bounded: every element is the same sum in the same order, with products by zero in between; an infinity or NaN beside a window is seen.
//! Misses rows that do not divide, groups, weights that are computed, results that are not stored channels last.

use onnxc_egraph::RuleClass;
use onnxc_ir::graph::Node;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{DType, Graph};
use onnxc_ops::schedule;

use crate::Math;
use crate::choose::{Way, by_prediction};
use crate::layer::Layer;

/// What the choice does to numbers.
pub const CLASS: RuleClass = RuleClass::Bounded;

/// The part of a layer's time that it has to save.
const LEAST_GAIN: f64 = 0.05;

/// The filters of a convolution of few.
fn filters(graph: &Graph, node: &Node) -> Option<u64> {
    let w = graph.constant(node.inputs.get(1).copied().flatten()?)?;
    let plain = node.op.name == "conv" && w.dtype() == DType::F32 && node.attrs.int("group").unwrap_or(1) == 1;
    w.shape().first().copied().filter(|_| plain)
}

/// Is there anything to choose?
pub fn fits(graph: &Graph, node: &Node, target: &TargetDesc, math: Math) -> bool {
    math.allows(CLASS) && filters(graph, node).is_some_and(|n| schedule::across(n, target.lanes).next().is_some())
}

/// The ways of a layer that [`fits`], among `around` bytes of constants; none if several outputs at a time are not worth it.
pub fn ways(layer: &Layer, target: &TargetDesc, math: Math, around: u64) -> Vec<Way> {
    let Some(filters) = filters(layer.graph(), layer.node()) else { return Vec::new() };
    by_prediction(layer, schedule::across(filters, target.lanes), LEAST_GAIN, (target, math), around)
}
