//! A model that is run part by part: what it computes on the way to one layer is where the way to the next one begins.
//!
//! Layers that are repaired one after another each need what the model as it is so far feeds them. Everything before a layer stays as it is once that layer's
//! turn has come, so that each part of the model runs once for each sample, not once for each layer behind it.

use std::collections::{BTreeSet, HashMap};

use onnxc_codegen::JitModel;
use onnxc_ir::{Graph, TensorType, ValueId};
use onnxc_passes::compress::weighted::Weighted;
use rayon::prelude::*;

use crate::taps::Answers;
use crate::{Backend, Error, Result, Samples};

/// Bytes that are kept of where a walk has come to; where more is alive, the next way begins with the model's inputs.
const KEPT: u64 = 3 << 27;

/// How far the samples have come.
pub struct Walk<'a> {
    backend: &'a dyn Backend,
    dense: &'a Graph,
    samples: &'a Samples,
    reached: Reached,
}

/// Values that everything behind can be computed from.
#[derive(Default)]
struct Reached {
    /// Values of the dense graph. Others have numbers that mean something else in another graph.
    values: Vec<(ValueId, TensorType)>,
    /// Their bytes for each sample.
    of: HashMap<usize, Vec<Vec<u8>>>,
}

/// The part of a model from where a walk is to the operands of some layers.
pub struct Way {
    jit: JitModel,
    /// Which of the values that were reached it begins with; `None`: the model's inputs.
    begins: Option<Vec<usize>>,
    /// The operands.
    wanted: Vec<Place>,
    /// What is reached at its end.
    next: Option<(Reached, Vec<Place>)>,
}

/// Where the bytes of a value are.
#[derive(Clone, Copy)]
enum Place {
    Output(usize),
    Reached(usize),
}

impl<'a> Walk<'a> {
    /// At the inputs of graphs that are made from a dense one.
    pub fn new(backend: &'a dyn Backend, dense: &'a Graph, samples: &'a Samples) -> Walk<'a> {
        Walk { backend, dense, samples, reached: Reached::default() }
    }

    /// The way to the operands of layers in a graph. What is before the layer `first` stays as it is in graphs of later ways.
    ///
    /// # Errors
    /// When the part has no code.
    pub fn way(&self, graph: &Graph, first: &Weighted, layers: &[&Weighted]) -> Result<Way> {
        let wanted = layers.iter().map(|l| l.x_within(self.dense, graph)).collect();
        let next = self.alive(graph, first).filter(|next| self.fits(graph, next)).unwrap_or_default();
        self.way_to(graph, wanted, next)
    }

    /// The way to some values, and to those that are reached at its end.
    fn way_to(&self, graph: &Graph, wanted: Vec<ValueId>, next: Vec<ValueId>) -> Result<Way> {
        let all: BTreeSet<ValueId> = wanted.iter().chain(&next).copied().collect();
        let known = |id: &ValueId| self.reached.values.iter().position(|(other, _)| other == id);
        let (cut, begins) = match self.onwards(graph, &all) {
            Some((cut, begins)) => (cut, Some(begins)),
            None => (part(graph, &graph.inputs, all.iter().copied().collect()), None),
        };
        let place = |id: &ValueId| match known(id) {
            Some(n) if begins.is_some() => Place::Reached(n),
            _ => Place::Output(cut.outputs.iter().position(|o| o == id).expect("internal: search: what is wanted is an output")),
        };
        let values = next.iter().map(|id| (*id, graph.ty(*id).clone())).collect();
        let places: Vec<Place> = next.iter().map(place).collect();
        Ok(Way {
            jit: self.backend.runner(&cut)?,
            wanted: wanted.iter().map(place).collect(),
            next: (!next.is_empty()).then(|| (Reached { values, of: HashMap::new() }, places)),
            begins,
        })
    }

    /// The operands that a way leads to, for several samples.
    ///
    /// # Errors
    /// When the model answers with a status.
    pub fn run(&self, way: &mut Way, which: &[usize]) -> Result<Vec<Vec<Vec<u8>>>> {
        let one = |i: &usize| -> Result<Vec<Vec<u8>>> {
            let inputs = match &way.begins {
                None => self.samples.get(*i),
                Some(begins) => begins.iter().map(|n| &self.reached.of[i][*n][..]).collect(),
            };
            let mut outputs = Vec::new();
            way.jit.run(&inputs, &mut outputs, 1).map_err(|e| Error::Input(format!("sample {i}: {e}")))?;
            Ok(outputs)
        };
        let outputs = which.par_iter().map(one).collect::<Result<Vec<_>>>()?;
        let bytes = |place: &Place, (i, outputs): (&usize, &Vec<Vec<u8>>)| match place {
            Place::Output(n) => outputs[*n].clone(),
            Place::Reached(n) => self.reached.of[i][*n].clone(),
        };
        let all = |places: &[Place], of: (&usize, &Vec<Vec<u8>>)| places.iter().map(|place| bytes(place, of)).collect();
        if let Some((next, places)) = &mut way.next {
            next.of.extend(which.iter().zip(&outputs).map(|(i, outputs)| (*i, all(places, (i, outputs)))));
        }
        Ok(which.iter().zip(&outputs).map(|of| all(&way.wanted, of)).collect())
    }

    /// Goes to a layer of the dense graph with some samples.
    ///
    /// # Errors
    /// As [`Walk::way`] and [`Walk::run`].
    pub fn go(&mut self, layer: &Weighted, which: &[usize]) -> Result<()> {
        let mut way = self.way(self.dense, layer, &[])?;
        if way.next.is_some() {
            self.run(&mut way, which)?;
        }
        self.arrive(way);
        Ok(())
    }

    /// What a graph answers to samples that have come to a layer with nothing before it that is not the dense graph's.
    ///
    /// # Errors
    /// As [`Walk::way`] and [`Walk::run`].
    pub fn answers(&self, graph: &Graph, which: &[usize]) -> Result<Answers> {
        self.run(&mut self.way_to(graph, graph.outputs.clone(), Vec::new())?, which)
    }

    /// At the end of a way that all samples have gone.
    pub fn arrive(&mut self, way: Way) {
        self.reached = way.next.map(|(reached, _)| reached).unwrap_or_default();
    }

    /// The part of a graph that computes these values from those that were reached, and which of them it needs; `None` if it needs others, or one of them is
    /// not what it was.
    fn onwards(&self, graph: &Graph, outputs: &BTreeSet<ValueId>) -> Option<(Graph, Vec<usize>)> {
        let reached = &self.reached.values;
        if reached.is_empty() || reached.iter().any(|(id, ty)| graph.ty(*id) != ty) {
            return None;
        }
        let ids: Vec<ValueId> = reached.iter().map(|(id, _)| *id).collect();
        let mut part = part(graph, &ids, outputs.iter().copied().filter(|id| !ids.contains(id)).collect());
        let read = |id: &ValueId| part.nodes.iter().any(|n| n.inputs.contains(&Some(*id)));
        let made = |id: &ValueId| part.nodes.iter().any(|n| n.outputs.contains(id));
        let is_other = |id: &ValueId| !ids.contains(id) && (read(id) || part.outputs.contains(id));
        if part.outputs.is_empty() || ids.iter().any(made) || graph.inputs.iter().any(is_other) {
            return None;
        }
        let begins: Vec<usize> = (0..ids.len()).filter(|n| read(&ids[*n])).collect();
        part.inputs = begins.iter().map(|n| ids[*n]).collect();
        Some((part, begins))
    }

    /// The values of the dense graph from which a layer and all that is behind it can be computed.
    fn alive(&self, graph: &Graph, layer: &Weighted) -> Option<Vec<ValueId>> {
        let result = self.dense.nodes[layer.node].outputs[0];
        let first = graph.nodes.iter().position(|n| n.outputs[0] == result)?;
        let mut varying: BTreeSet<ValueId> = graph.inputs.iter().copied().collect();
        for node in &graph.nodes[..first] {
            if node.inputs.iter().flatten().any(|id| varying.contains(id)) {
                varying.extend(&node.outputs);
            }
        }
        let mut needed: BTreeSet<ValueId> =
            graph.nodes[first..].iter().flat_map(|n| n.inputs.iter().flatten()).copied().collect();
        let is_dense = |id: &ValueId| (id.0 as usize) < self.dense.values.len();
        for node in graph.nodes[..first].iter().rev() {
            // What another change may have put there is computed again from what is before it.
            if node.outputs.iter().any(|id| needed.contains(id) && varying.contains(id) && !is_dense(id)) {
                needed.extend(node.inputs.iter().flatten());
            }
        }
        Some(needed.into_iter().filter(|id| varying.contains(id) && is_dense(id)).collect())
    }

    /// Is there memory for these values of all samples?
    fn fits(&self, graph: &Graph, values: &[ValueId]) -> bool {
        let bytes = |id: &ValueId| graph.ty(*id).const_shape().and(graph.ty(*id).least_bytes());
        let sum = values.iter().map(bytes).sum::<Option<u64>>();
        sum.is_some_and(|sum| sum.saturating_mul(self.samples.count as u64) <= KEPT)
    }
}

/// The part of a graph that computes some values from others.
fn part(graph: &Graph, inputs: &[ValueId], outputs: Vec<ValueId>) -> Graph {
    let mut needed: BTreeSet<ValueId> = outputs.iter().copied().collect();
    let mut nodes = Vec::new();
    for node in graph.nodes.iter().rev() {
        if node.outputs.iter().any(|id| needed.contains(id) && !inputs.contains(id)) {
            needed.extend(node.inputs.iter().flatten());
            nodes.push(node.clone());
        }
    }
    nodes.reverse();
    Graph { nodes, outputs, ..graph.clone() }
}
