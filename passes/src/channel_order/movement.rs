//! What moves channels: which channel of the operand each channel of a result is.

use std::collections::BTreeMap;

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::{Dim, Tensor, ValueId};

/// Dimension of the channels.
pub(super) const CHANNELS: usize = 1;

/// A channel of a value.
pub(super) type Channel = (ValueId, u32);

/// The number of the node that makes each value.
pub(super) fn producers(graph: &Graph) -> BTreeMap<ValueId, usize> {
    graph.nodes.iter().enumerate().flat_map(|(n, node)| node.outputs.iter().map(move |id| (*id, n))).collect()
}

/// Channels of a value that has any.
pub(super) fn channels(graph: &Graph, id: ValueId) -> Option<u32> {
    graph.ty(id).shape.get(CHANNELS)?.as_const().and_then(|n| u32::try_from(n).ok())
}

/// A node that moves whole channels: where those of its results come from.
pub(super) struct Moved {
    /// For each result the channel of an operand that each of its channels is.
    pub from: Vec<Vec<Channel>>,
    /// Is it more than parts in their order?
    pub shuffles: bool,
}

/// What a node moves, if that is what it does. A shuffle is three nodes, of which this is the last one.
pub(super) fn moved(graph: &Graph, producers: &BTreeMap<ValueId, usize>, node: &Node) -> Option<Moved> {
    let (from, shuffles) = match node.op.name {
        "concat" => (vec![concat(graph, node)?], false),
        "split" => (split(graph, node)?, false),
        "slice" => (vec![slice(graph, node)?], false),
        "gather" => (vec![gather(graph, node)?], true),
        "reshape" => (vec![shuffle(graph, producers, node)?], true),
        _ => return None,
    };
    Some(Moved { from, shuffles })
}

/// Is the attribute `axis`, or what takes its place, that of the channels?
fn along_channels(graph: &Graph, node: &Node, default: i64) -> bool {
    let rank = node.inputs.iter().flatten().next().map_or(0, |x| graph.ty(*x).rank() as i64);
    node.attrs.int("axis").unwrap_or(default).rem_euclid(rank.max(1)) == CHANNELS as i64
}

fn operand(node: &Node, i: usize) -> Option<ValueId> {
    node.inputs.get(i).copied().flatten()
}

fn constant<'g>(graph: &'g Graph, node: &Node, i: usize) -> Option<&'g Tensor> {
    graph.constant(operand(node, i)?)
}

fn concat(graph: &Graph, node: &Node) -> Option<Vec<Channel>> {
    if !along_channels(graph, node, 0) {
        return None;
    }
    let mut from = Vec::new();
    for x in node.inputs.iter().flatten() {
        from.extend((0..channels(graph, *x)?).map(|c| (*x, c)));
    }
    Some(from)
}

fn split(graph: &Graph, node: &Node) -> Option<Vec<Vec<Channel>>> {
    if !along_channels(graph, node, 0) {
        return None;
    }
    let (x, mut start) = (operand(node, 0)?, 0);
    let part = |id: &ValueId| {
        let n = channels(graph, *id)?;
        start += n;
        Some((start - n..start).map(|c| (x, c)).collect())
    };
    node.outputs.iter().map(part).collect()
}

/// A slice along the channels alone, forwards.
fn slice(graph: &Graph, node: &Node) -> Option<Vec<Channel>> {
    let (x, to) = (operand(node, 0)?, node.outputs[0]);
    let rest = |id: ValueId| graph.ty(id).shape.iter().enumerate().filter(|d| d.0 != CHANNELS).map(|d| d.1.clone());
    if !rest(x).eq(rest(to)) {
        return None;
    }
    let list = |i: usize| constant(graph, node, i)?.to_i64s();
    let (starts, all) = (list(1)?, i64::from(channels(graph, x)?));
    let axes = if operand(node, 3).is_some() { list(3)? } else { (0..starts.len() as i64).collect() };
    let rank = graph.ty(x).rank() as i64;
    let at = axes.iter().position(|a| a.rem_euclid(rank) == CHANNELS as i64)?;
    let step = if operand(node, 4).is_some() { *list(4)?.get(at)? } else { 1 };
    // Other dimensions may be given too, but are left whole: backwards they would have the same extents.
    let forwards = operand(node, 4).is_none() || list(4)?.iter().all(|s| *s > 0);
    let start = *starts.get(at)?;
    let start = (if start < 0 { start + all } else { start }).clamp(0, all);
    let count = i64::from(channels(graph, to)?);
    let last = start + (count - 1).max(0).checked_mul(step)?;
    (forwards && last < all.max(1)).then(|| (0..count).map(|i| (x, (start + i * step) as u32)).collect())
}

fn gather(graph: &Graph, node: &Node) -> Option<Vec<Channel>> {
    let x = operand(node, 0)?;
    let all = i64::from(channels(graph, x)?);
    let indices = constant(graph, node, 1).filter(|t| t.shape().len() == 1 && along_channels(graph, node, 0))?.to_i64s()?;
    let from = |i: i64| (-all..all).contains(&i).then(|| (x, i.rem_euclid(all) as u32));
    indices.into_iter().map(from).collect()
}

/// `reshape(transpose(reshape x))` that takes the channels apart, puts the parts into another order, and joins them.
fn shuffle(graph: &Graph, producers: &BTreeMap<ValueId, usize>, node: &Node) -> Option<Vec<Channel>> {
    let before = |id: ValueId, op: &str| producers.get(&id).map(|n| &graph.nodes[*n]).filter(|n| n.op.name == op);
    let transpose = before(operand(node, 0)?, "transpose")?;
    let apart = before(operand(transpose, 0)?, "reshape")?;
    let (x, to) = (operand(apart, 0)?, node.outputs[0]);
    let perm = transpose.attrs.ints("perm")?;
    let parts = graph.ty(apart.outputs[0]).const_shape()?;
    // The dimensions between that of the batch and the last one that changes its place are the channels.
    let end = 1 + (0..perm.len()).rfind(|d| perm[*d] != *d as i64)?;
    let (first, whole) = (&graph.ty(x).shape, &graph.ty(to).shape);
    let same = first.len() == whole.len() && first.len() > CHANNELS && first.first() == Some(&Dim::Const(parts[0]));
    let count: u64 = parts.get(1..end)?.iter().product();
    if perm[0] != 0 || !same || first != whole || first[CHANNELS] != Dim::Const(count) || count == 0 {
        return None;
    }
    // Steps within the channels of x.
    let mut steps = vec![1u64; end];
    (1..end - 1).rev().for_each(|d| steps[d] = steps[d + 1] * parts[d + 1]);
    let source = |mut c: u64| {
        let mut at = 0;
        for d in perm[1..end].iter().rev().map(|d| *d as usize) {
            at += c % parts[d] * steps[d];
            c /= parts[d];
        }
        at
    };
    (0..count).map(|c| Some((x, u32::try_from(source(c)).ok()?))).collect()
}
