//! Filters whose results go to different places are convolutions of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::{Lower, OpSet};
use onnxc_ir::{Dim, ValueId};

use super::movement::{CHANNELS, moved, producers};
use super::parts;

/// A result that is read in slices.
struct Sliced {
    /// Its convolution and what follows, up to the node that has the result.
    chain: Vec<usize>,
    /// Slices, ascending and apart, with the values that are them.
    slices: Vec<(Range<u32>, ValueId)>,
    /// The slices that stay together.
    groups: Vec<Range<usize>>,
}

/// The graph with convolutions of their own for slices, as far as they fill vectors of `lanes` as the whole does; `None` where there is nothing to take
/// apart.
pub(super) fn run(graph: &Graph, ops: OpSet, lanes: u32) -> Option<Graph> {
    let finder = Finder { graph, uses: graph.uses(), producers: producers(graph), lanes };
    let found: BTreeMap<usize, Sliced> =
        graph.nodes.iter().enumerate().filter_map(|(n, node)| Some((n, finder.sliced(n, node)?))).collect();
    if found.is_empty() {
        return None;
    }
    let chains: BTreeSet<usize> = found.values().flat_map(|s| s.chain.iter().copied()).collect();
    let gone: BTreeSet<ValueId> = found.values().flat_map(|s| s.slices.iter().map(|slice| slice.1)).collect();
    let mut out = graph.clone();
    let mut renamed: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for (n, mut node) in std::mem::take(&mut out.nodes).into_iter().enumerate() {
        node.inputs.iter_mut().flatten().for_each(|id| *id = renamed.get(id).copied().unwrap_or(*id));
        if let Some(sliced) = found.get(&n) {
            take_apart(&mut out, ops, graph, sliced, &mut renamed);
        } else if !chains.contains(&n) && !node.outputs.iter().all(|id| gone.contains(id)) {
            out.nodes.push(node);
        }
    }
    Some(out)
}

struct Finder<'g> {
    graph: &'g Graph,
    uses: Vec<Vec<(usize, usize)>>,
    producers: BTreeMap<ValueId, usize>,
    lanes: u32,
}

impl Finder<'_> {
    /// The result of node `n`, if it is worth to compute its slices apart.
    fn sliced(&self, n: usize, node: &Node) -> Option<Sliced> {
        let y = self.only(node)?;
        let slices = self.slices(y)?;
        let joined = |id: &ValueId| self.uses[id.0 as usize].iter().any(|u| self.graph.nodes[u.0].op.name == "concat");
        if slices.len() < 2 || !slices.iter().any(|s| joined(&s.1)) {
            return None;
        }
        let groups = groups(&slices, self.lanes);
        (groups.len() > 1).then_some(())?;
        Some(Sliced { chain: self.chain(n)?, slices, groups })
    }

    /// The one result of a node, which is no output of the graph.
    fn only(&self, node: &Node) -> Option<ValueId> {
        let [y] = node.outputs[..] else { return None };
        (!self.graph.outputs.contains(&y)).then_some(y)
    }

    /// All that reads a value, if it is slices of channels that have none in common.
    fn slices(&self, y: ValueId) -> Option<Vec<(Range<u32>, ValueId)>> {
        let mut slices = Vec::new();
        for (n, i) in &self.uses[y.0 as usize] {
            let node = &self.graph.nodes[*n];
            if *i != 0
                || !matches!(node.op.name, "slice" | "split")
                || node.outputs.iter().any(|id| self.graph.outputs.contains(id))
            {
                return None;
            }
            for (id, from) in node.outputs.iter().zip(moved(self.graph, &self.producers, node)?.from) {
                let start = from.first()?.1;
                let ascending = from.iter().zip(start..).all(|(channel, c)| channel.1 == c);
                ascending.then(|| slices.push((start..start + from.len() as u32, *id)))?;
            }
        }
        slices.sort_by_key(|s| s.0.start);
        slices.windows(2).all(|p| p[0].0.end <= p[1].0.start).then_some(slices)
    }

    /// The nodes from a convolution of 1 by 1 to node `n`: one behind the other, read by nobody else.
    fn chain(&self, n: usize) -> Option<Vec<usize>> {
        let node = &self.graph.nodes[n];
        if node.op.name == "conv" {
            let weights = self.graph.constant(node.inputs.get(1).copied().flatten()?)?;
            let single = weights.shape().get(2..)?.iter().all(|k| *k == 1) && node.attrs.int("group").unwrap_or(1) == 1;
            let plain = node.inputs.len() <= 3 && node.attrs.get("epilogue").is_none();
            let constant = |id: &ValueId| self.graph.constant(*id).is_some_and(|t| t.dtype().bits() >= 8);
            let constant = node.inputs.iter().skip(1).flatten().all(constant);
            return (single && plain && constant).then(|| vec![n]);
        }
        let x = parts::along(self.graph, node)?;
        let alone = self.uses[x.0 as usize].len() == 1 && !self.graph.outputs.contains(&x);
        (matches!(node.op.lower, Lower::Elementwise(_)) && alone).then_some(())?;
        let mut chain = self.chain(*self.producers.get(&x)?)?;
        chain.push(n);
        Some(chain)
    }
}

/// Neighbours in groups that are convolutions of their own, such that fewest slices share one (which are copied then) while all groups together take no
/// more vectors than the whole.
fn groups(slices: &[(Range<u32>, ValueId)], lanes: u32) -> Vec<Range<usize>> {
    let vectors = |g: &Range<usize>| (slices[g.end - 1].0.end - slices[g.start].0.start).div_ceil(lanes) as usize;
    let most = vectors(&(0..slices.len()));
    // For the first slices and a number of vectors: how many share a group, in how many groups, and where the last one begins.
    let mut best: Vec<Vec<Option<(usize, usize, usize)>>> = vec![vec![None; most + 1]; slices.len() + 1];
    best[0][0] = Some((0, 0, 0));
    for end in 1..=slices.len() {
        for start in 0..end {
            let width = vectors(&(start..end));
            let sharing = if end - start > 1 { end - start } else { 0 };
            for used in 0..=most.saturating_sub(width) {
                let Some((shared, groups, _)) = best[start][used] else { continue };
                let found = (shared + sharing, groups + 1, start);
                let known = &mut best[end][used + width];
                *known = Some(known.map_or(found, |k| k.min(found)));
            }
        }
    }
    let mut end = slices.len();
    let mut used =
        (0..=most).filter(|v| best[end][*v].is_some()).min_by_key(|v| best[end][*v]).expect("internal: the whole is a group");
    let mut groups = Vec::new();
    while end > 0 {
        let (_, _, start) = best[end][used].expect("internal: a group was found");
        groups.push(start..end);
        (end, used) = (start, used - vectors(&(start..end)));
    }
    groups.reverse();
    groups
}

/// Puts the convolutions of all groups with what follows them behind the graph's nodes, and slices where a group has several.
fn take_apart(out: &mut Graph, ops: OpSet, graph: &Graph, sliced: &Sliced, renamed: &mut BTreeMap<ValueId, ValueId>) {
    for group in &sliced.groups {
        let slices = &sliced.slices[group.clone()];
        let (start, end) = (slices[0].0.start, slices[slices.len() - 1].0.end);
        let numbers: Vec<u32> = (start..end).collect();
        let mut last = None;
        for n in &sliced.chain {
            let mut node = graph.nodes[*n].clone();
            node.inputs.iter_mut().flatten().for_each(|id| *id = renamed.get(id).copied().unwrap_or(*id));
            let one =
                parts::chosen(out, &node, last, &numbers).expect("internal: channel_order: convolutions and maps have parts");
            last = Some(one.outputs[0]);
            out.nodes.push(one);
        }
        let whole = last.expect("internal: a chain has nodes");
        for (range, id) in slices {
            let part = range.start - start..range.end - start;
            if out.ty(whole).shape[CHANNELS] == Dim::Const(u64::from(part.end - part.start)) {
                renamed.insert(*id, whole);
                continue;
            }
            let origins = graph.nodes[sliced.chain[sliced.chain.len() - 1]].origins.clone();
            let node = parts::slice(out, ops, whole, part, &origins);
            renamed.insert(*id, node.outputs[0]);
            out.nodes.push(node);
        }
    }
}
