//! Convolutions one behind the other become one node that computes them some rows at a time.
//!
//! What   `conv(conv(x, w), v)`, the inner result needed by nobody else, becomes `row_chain(x, w, v)`: expand, depthwise, project of an inverted
//!        residual block, or two of these, or several blocks one behind the other.
//! When   after the choice of algorithms: epilogues and users are settled, and what is computed in tiles of images is no link.
//! Why    values in between that are larger than the second-level cache are never written there and read again. Of all ways to divide links that follow
//!        each other into chains, the one is taken that takes least by the model of latencies ([`price`]) and needs no more memory at a time than the links do.
//! Class  reassociates: every element is the same sum, in the same order unless the product has so few columns that its form depends on its rows.
//! Paper  Alwani, Chen, Ferdman and Milder, "Fused-Layer CNN Accelerators", 2016; Sandler et al., "MobileNetV2: Inverted Residuals and Linear
//!        Bottlenecks", 2018, section 5.
//! Misses extents that come with the call, weights that are computed, dense kernels of more than one element behind the first link: they multiply so often
//!        that rows in memory do not matter.

mod price;

use std::collections::BTreeMap;

use onnxc_egraph::RuleClass;
use onnxc_ir::graph::Node;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Attr, Attrs, DType, Graph, ValueId};
use onnxc_ops::row_chain::{BODY, Link, ROW_CHAIN, Rows, link, room, row_bytes};

use crate::with_bodies;
use price::{Between, Prices};

/// What the rule does to numbers.
pub const CLASS: RuleClass = RuleClass::Reassociates;

/// A chain has to take less than this part of what its links take by themselves: the model of latencies is not more exact than that.
const WORTH_IT: f64 = 0.95;

/// Links of a chain, at most.
const LINKS: usize = 6;

/// The graph with chains.
pub fn run(graph: &Graph, target: &TargetDesc) -> Graph {
    let mut out = with_bodies(graph, &|body| run(body, target)).unwrap_or_else(|| graph.clone());
    let chains = Finder::new(graph, target).chains();
    let mut by_last: BTreeMap<usize, &Vec<usize>> = chains.iter().map(|c| (c[c.len() - 1], c)).collect();
    let inner: Vec<usize> = chains.iter().flat_map(|c| &c[..c.len() - 1]).copied().collect();
    let nodes = std::mem::take(&mut out.nodes);
    for (n, node) in nodes.into_iter().enumerate() {
        match by_last.remove(&n) {
            Some(chain) => out.nodes.push(chained(graph, chain)),
            None if inner.contains(&n) => {}
            None => out.nodes.push(node),
        }
    }
    out
}

/// How a convolution goes through memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// One element of every channel.
    Point,
    /// One kernel for each channel.
    Depthwise,
    /// Anything else without groups.
    Dense,
}

struct Finder<'g> {
    graph: &'g Graph,
    target: &'g TargetDesc,
    uses: Vec<Vec<(usize, usize)>>,
    links: Vec<Option<(Link, Form)>>,
    prices: Prices<'g>,
}

impl<'g> Finder<'g> {
    fn new(graph: &'g Graph, target: &'g TargetDesc) -> Finder<'g> {
        let links = graph.nodes.iter().map(|n| form(graph, n)).collect();
        Finder { graph, target, uses: graph.uses(), links, prices: Prices::new(graph, target) }
    }

    /// Nodes of each chain. None is in two.
    fn chains(&mut self) -> Vec<Vec<usize>> {
        let next: Vec<Option<usize>> = (0..self.graph.nodes.len()).map(|n| self.next(n)).collect();
        let mut chains = Vec::new();
        for n in 0..next.len() {
            if self.links[n].is_some() && !next.contains(&Some(n)) {
                let run: Vec<usize> = std::iter::successors(Some(n), |n| next[*n]).collect();
                chains.extend(self.divided(&run));
            }
        }
        chains
    }

    /// The node that a chain with this one can go on with.
    fn next(&self, n: usize) -> Option<usize> {
        self.links[n]?;
        let y = self.graph.nodes[n].outputs[0];
        let [(next, 0)] = self.uses[y.0 as usize][..] else { return None };
        let (_, form) = self.links[next]?;
        let large = self.bytes(y)? >= self.least(y);
        (form != Form::Dense && !self.graph.outputs.contains(&y) && large).then_some(next)
    }

    /// Bytes below which a value is near anyway. Of bytes there are a quarter as many, beside as many pixels.
    fn least(&self, y: ValueId) -> u64 {
        self.target.l2_bytes / if self.graph.ty(y).dtype == DType::F32 { 2 } else { 8 }
    }

    /// The chains in links that follow each other, so that all together take least.
    fn divided(&mut self, run: &[usize]) -> Vec<Vec<usize>> {
        if run.len() < 2 {
            return Vec::new();
        }
        // Seconds of the links from each one on, and how many of them the chain has that begins there.
        let mut best: Vec<(f64, usize)> = vec![(0.0, 1); run.len() + 1];
        for i in (0..run.len()).rev() {
            let Some(alone) = self.prices.of(&self.graph.nodes[run[i]], Between::default()) else { return Vec::new() };
            best[i] = (alone + best[i + 1].0, 1);
            let mut links = alone;
            for n in 2..=LINKS.min(run.len() - i) {
                let Some(last) = self.prices.of(&self.graph.nodes[run[i + n - 1]], Between::default()) else { break };
                links += last;
                let Some(between) = self.between(&run[i..i + n]) else { continue };
                let Some(chain) = self.prices.of(&chained(self.graph, &run[i..i + n]), between) else { continue };
                if chain < WORTH_IT * links && chain + best[i + n].0 < best[i].0 {
                    best[i] = (chain + best[i + n].0, n);
                }
            }
        }
        let mut chains = Vec::new();
        let mut i = 0;
        while i < run.len() {
            let n = best[i].1;
            if n > 1 {
                chains.push(run[i..i + n].to_vec());
            }
            i += n;
        }
        chains
    }

    /// What a chain has between its links, if the rows stay in the cache, and no more memory is needed at a time than by its links.
    fn between(&self, chain: &[usize]) -> Option<Between> {
        let links: Vec<Link> = chain.iter().map(|n| self.links[*n].map(|l| l.0)).collect::<Option<_>>()?;
        let nodes = || chain.iter().map(|n| &self.graph.nodes[*n]);
        let values: Vec<ValueId> = nodes().take(1).filter_map(|n| n.inputs[0]).chain(nodes().map(|n| n.outputs[0])).collect();
        let shapes: Vec<(DType, Vec<u64>)> =
            values.iter().map(|id| Some((self.graph.ty(*id).dtype, self.graph.ty(*id).const_shape()?))).collect::<Option<_>>()?;
        let rows = Rows {
            windows: links.iter().map(|l| l.window).collect(),
            heights: shapes.iter().map(|(_, s)| s[2] as i64).collect(),
        };
        let bytes: Vec<u64> = shapes.iter().zip(&links).map(|((t, s), l)| row_bytes(*t, s, l.columns)).collect();
        let weights = links.iter().map(|l| self.bytes(l.weights)).sum::<Option<u64>>()?;
        let threads = u64::from(self.target.max_threads.max(1));
        let step = rows.choose(&bytes, room(self.target.l2_bytes, weights), threads as i64)?;
        let held = rows.bytes(step, &bytes);
        let placed: Vec<u64> = values.iter().map(|id| self.placed(*id)).collect();
        let most = placed.windows(2).map(|w| w[0] + w[1]).max()?;
        let tasks = shapes[0].1[0] * rows.bands(step, threads as i64).1 as u64;
        let moved = values[1..rows.last()].iter().map(|id| self.bytes(*id).map(|n| 2 * n)).sum::<Option<u64>>()?;
        (placed[0] + placed[rows.last()] + threads * held <= most).then_some(Between { moved, held, tasks })
    }

    /// Bytes of a value in the arena.
    fn placed(&self, id: ValueId) -> u64 {
        let elsewhere = self.graph.inputs.contains(&id) || self.graph.outputs.contains(&id);
        if elsewhere { 0 } else { self.bytes(id).unwrap_or(0) }
    }

    fn bytes(&self, id: ValueId) -> Option<u64> {
        self.graph.ty(id).least_bytes()
    }
}

/// A node as a link: its own operands but the image are constants.
fn form(graph: &Graph, node: &Node) -> Option<(Link, Form)> {
    let link = link(graph, node)?;
    let x = graph.ty(node.inputs[0]?);
    let mut own = node.inputs.iter().take(link.own).skip(1).flatten();
    let constant = |id: &ValueId| graph.constant(*id).is_some();
    if !own.all(constant) {
        return None;
    }
    let kinds = [DType::F32, DType::U8, DType::I8];
    if !kinds.contains(&x.dtype) || !kinds.contains(&graph.ty(node.outputs[0]).dtype) {
        return None;
    }
    let (channels, w) = (x.shape[1].as_const()?, graph.ty(link.weights).const_shape()?);
    let group = node.attrs.int("group").unwrap_or(1) as u64;
    let point = w[2] == 1 && w[3] == 1 && link.window.step == 1 && link.columns == (0, 0) && link.window.before == 0;
    match group {
        1 if point => Some((link, Form::Point)),
        1 => Some((link, Form::Dense)),
        g if g == channels && g == w[0] => Some((link, Form::Depthwise)),
        _ => None,
    }
}

/// The node that a chain becomes.
fn chained(graph: &Graph, chain: &[usize]) -> Node {
    let mut body = Graph::new("body");
    let (mut inputs, mut origins) = (Vec::new(), Vec::new());
    let mut formal: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut image = None;
    for node in chain.iter().map(|n| &graph.nodes[*n]) {
        let mut operand = |body: &mut Graph, id: ValueId| {
            let value = graph.value(id);
            inputs.push(Some(id));
            body.add_input(&value.name, value.ty.clone())
        };
        let x = image.or_else(|| node.inputs[0].map(|id| operand(&mut body, id)));
        let others = node.inputs.iter().skip(1).map(|i| i.map(|id| *formal.entry(id).or_insert_with(|| operand(&mut body, id))));
        let operands: Vec<Option<ValueId>> = std::iter::once(x).chain(others).collect();
        let y = graph.value(node.outputs[0]);
        let y = body.add_value(&y.name, y.ty.clone(), None);
        body.nodes.push(Node { inputs: operands, outputs: vec![y], ..node.clone() });
        origins.extend(node.origins.iter().cloned());
        image = Some(y);
    }
    body.outputs.extend(image);
    body.make_names_unique();
    let last = &graph.nodes[chain[chain.len() - 1]];
    let attrs = Attrs::default().with(BODY, Attr::Graph(Box::new(body)));
    Node { op: &ROW_CHAIN, inputs, outputs: last.outputs.clone(), attrs, origins }
}
