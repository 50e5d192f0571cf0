//! Channels stay in the order in which layers leave them.
//!
//! What   `conv(p(x), w)` = `conv(concat(slices of x), w')`, where p shuffles, splits, joins and chooses channels and w' has its input channels in the
//!        order in which x has them ([`order`]); and `slices(act(conv(x, w)))`, of which concatenations read some, = `act(conv(x, slice of w))` for each
//!        slice ([`filters`]), which is then computed in its place within the concatenation.
//! When   before fusion, after compression: weights are what they will be.
//! Why    a shuffle copies every channel (ShuffleNet: 6 % of the time), and a concatenation whatever is not computed for it alone.
//! Class  reassociates: sums over channels in another order.
//! Misses grouped convolutions that are not depthwise, products behind a shuffle, weights with zeros (whose lists go by blocks of channels), shuffles
//!        that others than convolutions need too, channels that are quantised anew on the way; filters of integers stay together.

use std::collections::BTreeSet;

use onnxc_ir::op::OpSet;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Graph, ValueId};

mod filters;
mod movement;
mod order;
mod parts;

/// Filters that a convolution has at least, if it is one of several that were one.
const LEAST_FILTERS: u32 = 8;

/// The graph with channels in an order in which fewer of them are moved.
pub fn run(graph: &Graph, target: &TargetDesc) -> Graph {
    let ops = OpSet(onnxc_ops::ALL);
    let ordered = order::run(graph, ops).map(live);
    let split = filters::run(ordered.as_ref().unwrap_or(graph), ops, target.lanes.max(LEAST_FILTERS));
    let mut out = split.map(live).or(ordered).unwrap_or_else(|| graph.clone());
    out.make_names_unique();
    out
}

/// The graph without nodes that nobody needs.
fn live(mut graph: Graph) -> Graph {
    let mut needed: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    let mut kept = Vec::with_capacity(graph.nodes.len());
    for node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        if node.outputs.iter().any(|id| needed.contains(id)) {
            needed.extend(node.inputs.iter().flatten());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
    graph
}
