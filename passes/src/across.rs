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
use onnxc_ops::schedule::{self, Choice};

use crate::Math;
use crate::choose::Way;
use crate::layer::Layer;
use crate::sparsity::{algorithms, way};

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
    let way = |choice: Choice| way(layer, choice, target, around);
    let (Some(direct), Some(filters)) = (way(Choice::default()), filters(layer.graph(), layer.node())) else { return Vec::new() };
    let wide = schedule::across(filters, target.lanes).filter_map(way);
    let mut ways: Vec<Way> = wide.filter(|wide| wide.time < direct.time * (1.0 - LEAST_GAIN)).collect();
    if !ways.is_empty() {
        ways.push(direct);
        ways.extend(algorithms(layer, math).into_iter().map(Choice::algorithm).filter_map(way));
    }
    ways
}
