//! Convolutions read channels in the order in which they are, not in that of the model.

use std::collections::BTreeMap;

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::OpSet;
use onnxc_ir::{DType, ValueId};

use super::movement::{CHANNELS, Channel, channels, moved, producers};
use super::parts::{self, along};

/// Channels that neighbours in the model must have on average to be read as they are: slices of few are not worth it.
const LEAST_RUN: usize = 8;
/// The part of weights that may be zero.
const MOST_ZEROS: f64 = 0.25;

/// The graph with convolutions that read channels where they are; `None` where no channels are shuffled.
pub(super) fn run(graph: &Graph, ops: OpSet) -> Option<Graph> {
    let mut order = Ordering::of(graph, ops)?;
    let mut out = graph.clone();
    let nodes = std::mem::take(&mut out.nodes);
    for mut node in nodes {
        if let Some(weights) = weights(graph, &node) {
            order.conv(&mut out, &mut node, weights);
        } else if let Some(x) = along(graph, &node) {
            order.channelwise(&mut out, &node, x);
        } else {
            order.trace(graph, &node);
        }
        out.nodes.push(node);
    }
    Some(out)
}

/// The operand with the weights of a convolution that can have its input channels in any order.
fn weights(graph: &Graph, node: &Node) -> Option<usize> {
    let operand = match node.op.name {
        "conv" | "conv_integer" => 1,
        "qlinear_conv" => 3,
        _ => return None,
    };
    let w = graph.constant(node.inputs.get(operand).copied().flatten()?)?;
    let plain = node.attrs.int("group").unwrap_or(1) == 1 && node.attrs.get("epilogue").is_none();
    (plain && w.dtype().bits() >= 8 && zeros(w.dtype(), w.bytes()) <= MOST_ZEROS).then_some(operand)
}

/// The share of elements that are zero.
fn zeros(dtype: DType, bytes: &[u8]) -> f64 {
    let elements = bytes.chunks_exact(dtype.bytes().max(1) as usize);
    let all = elements.len().max(1);
    elements.filter(|e| dtype.all_zero(e)).count() as f64 / all as f64
}

/// Channels of a value: the first one and behind the last one.
type Run = (ValueId, u32, u32);

/// What is known of channels on the way through the graph.
struct Ordering<'g> {
    graph: &'g Graph,
    ops: OpSet,
    producers: BTreeMap<ValueId, usize>,
    uses: Vec<Vec<(usize, usize)>>,
    /// For values whose channels have been moved: what they are, and whether they were shuffled. Others are what they are.
    of: BTreeMap<ValueId, (Vec<Channel>, bool)>,
    /// Answers of [`Ordering::only_read_by_convolutions`].
    free: BTreeMap<ValueId, bool>,
    /// Slices and concatenations that were made, by what they consist of.
    made: BTreeMap<Vec<Run>, ValueId>,
}

impl<'g> Ordering<'g> {
    fn of(graph: &'g Graph, ops: OpSet) -> Option<Ordering<'g>> {
        let producers = producers(graph);
        let shuffles = |n: &Node| moved(graph, &producers, n).is_some_and(|m| m.shuffles);
        if !graph.nodes.iter().any(shuffles) {
            return None;
        }
        let (uses, of, free, made) = (graph.uses(), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Some(Ordering { graph, ops, producers, uses, of, free, made })
    }

    /// Takes down where the results of a node that moves channels come from.
    fn trace(&mut self, graph: &Graph, node: &Node) {
        let Some(found) = moved(graph, &self.producers, node) else { return };
        if found.shuffles && !self.only_read_by_convolutions(node.outputs[0], true) {
            return;
        }
        for (id, from) in node.outputs.iter().zip(found.from) {
            let mut shuffled = found.shuffles;
            let mut source = |(x, c): Channel| match self.of.get(&x) {
                Some((known, s)) => {
                    shuffled |= s;
                    known[c as usize]
                }
                None => (x, c),
            };
            let from: Vec<Channel> = from.into_iter().map(&mut source).collect();
            self.of.insert(*id, (from, shuffled));
        }
    }

    /// Do all who read a value accept its channels in any order? Then nobody needs it in that of the model. `moves`: through what moves channels too.
    fn only_read_by_convolutions(&mut self, id: ValueId, moves: bool) -> bool {
        if let Some(known) = self.free.get(&id).filter(|_| moves) {
            return *known;
        }
        let graph = self.graph;
        let mut all = !graph.outputs.contains(&id) && !self.uses[id.0 as usize].is_empty();
        for (n, i) in self.uses[id.0 as usize].clone() {
            let node = &graph.nodes[n];
            all = all
                && if weights(graph, node).is_some() {
                    i == 0
                } else if along(graph, node) == Some(id) {
                    self.only_read_by_convolutions(node.outputs[0], false)
                } else {
                    moves && self.moves_for_convolutions(node)
                };
        }
        if moves {
            self.free.insert(id, all);
        }
        all
    }

    fn moves_for_convolutions(&mut self, node: &Node) -> bool {
        let graph = self.graph;
        // The first two nodes of a shuffle move nothing that can be told of channels.
        let begins = matches!(node.op.name, "reshape" | "transpose") && moved(graph, &self.producers, node).is_none();
        let shuffled = |n: &(usize, usize)| {
            let next = &graph.nodes[n.0];
            next.op.name == "transpose" || moved(graph, &self.producers, next).is_some()
        };
        if begins && !self.uses[node.outputs[0].0 as usize].iter().all(shuffled) {
            return false;
        }
        (begins || moved(graph, &self.producers, node).is_some())
            && node.outputs.iter().all(|to| self.only_read_by_convolutions(*to, true))
    }

    /// The channels of a value in the order in which they are in memory, if they were shuffled.
    fn sorted(&self, x: ValueId) -> Option<(Vec<u32>, Vec<Run>)> {
        let (from, _) = self.of.get(&x).filter(|t| t.1)?;
        let mut order: Vec<u32> = (0..from.len() as u32).collect();
        order.sort_by_key(|c| from[*c as usize]);
        let mut runs: Vec<Run> = Vec::new();
        for (id, c) in order.iter().map(|c| from[*c as usize]) {
            match runs.last_mut() {
                Some((last, _, end)) if *last == id && *end == c => *end += 1,
                _ => runs.push((id, c, c + 1)),
            }
        }
        (runs.len() * LEAST_RUN <= from.len()).then_some((order, runs))
    }

    /// Runs of channels as one value.
    fn value(&mut self, out: &mut Graph, runs: Vec<Run>, origins: &[String]) -> ValueId {
        if let Some(known) = self.made.get(&runs) {
            return *known;
        }
        let id = match runs[..] {
            [(x, 0, end)] if channels(out, x) == Some(end) => x,
            [(x, start, end)] => {
                let node = parts::slice(out, self.ops, x, start..end, origins);
                out.nodes.push(node);
                out.nodes[out.nodes.len() - 1].outputs[0]
            }
            _ => {
                let each = runs.iter().map(|run| self.value(out, vec![*run], origins)).collect();
                let node = parts::concat(out, self.ops, each, origins.to_vec());
                out.nodes.push(node);
                out.nodes[out.nodes.len() - 1].outputs[0]
            }
        };
        self.made.insert(runs, id);
        id
    }

    fn conv(&mut self, out: &mut Graph, node: &mut Node, operand: usize) {
        let (Some(x), Some(w)) = (node.inputs[0], node.inputs[operand]) else { return };
        let Some((order, runs)) = self.sorted(x) else { return };
        let Some(weights) = out.constant(w).and_then(|t| parts::at(t, CHANNELS, &order)) else { return };
        let name = out.value(w).name.clone();
        node.inputs[0] = Some(self.value(out, runs, &self.mover(x)));
        node.inputs[operand] = Some(out.add_const(&name, weights));
    }

    /// What is computed of each channel for itself is computed in the order in which channels are, if convolutions alone read it.
    fn channelwise(&mut self, out: &mut Graph, node: &Node, x: ValueId) {
        let Some((order, runs)) = self.sorted(x) else { return };
        if !self.only_read_by_convolutions(node.outputs[0], false) {
            return;
        }
        let x = self.value(out, runs, &self.mover(x));
        let Some(one) = parts::chosen(out, node, Some(x), &order) else { return };
        let to = one.outputs[0];
        out.nodes.push(one);
        let mut from = vec![(to, 0); order.len()];
        order.iter().enumerate().for_each(|(at, c)| from[*c as usize].1 = at as u32);
        self.of.insert(node.outputs[0], (from, true));
    }

    /// The ONNX nodes that moved the channels of a value.
    fn mover(&self, x: ValueId) -> Vec<String> {
        self.producers.get(&x).map(|n| self.graph.nodes[*n].origins.clone()).unwrap_or_default()
    }
}
