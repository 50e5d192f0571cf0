//! The verifier: what must hold of every graph between passes. It reports everything that is wrong, not only the first.

use std::collections::{BTreeMap, BTreeSet};

use crate::dim::Dim;
use crate::graph::{Attr, Graph, ValueId};
use crate::interp::as_dims;
use crate::op::InferCx;

/// Checks order of definitions, types against inference, names, and bodies. Each message names the node or value.
pub fn verify(graph: &Graph) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    check_ids(graph, &mut problems);
    if problems.is_empty() {
        check_order(graph, &mut problems);
        check_names(graph, &mut problems);
        check_types(graph, &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn check_ids(graph: &Graph, problems: &mut Vec<String>) {
    let operands = graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten().chain(&n.outputs));
    for id in operands.chain(&graph.inputs).chain(&graph.outputs) {
        if id.0 as usize >= graph.values.len() {
            problems.push(format!("value {} does not exist", id.0));
        }
    }
}

fn check_order(graph: &Graph, problems: &mut Vec<String>) {
    let mut defined: BTreeSet<ValueId> = BTreeSet::new();
    let constants = (0..graph.values.len() as u32).map(ValueId).filter(|id| graph.constant(*id).is_some());
    for id in constants.chain(graph.inputs.iter().copied()) {
        if !defined.insert(id) {
            problems.push(format!("%{} is defined twice", graph.value(id).name));
        }
    }
    for node in &graph.nodes {
        for id in node.inputs.iter().flatten() {
            if !defined.contains(id) {
                problems.push(format!("{} uses %{} before it is defined", node.op.name, graph.value(*id).name));
            }
        }
        for id in &node.outputs {
            if !defined.insert(*id) {
                problems.push(format!("%{} is defined twice", graph.value(*id).name));
            }
        }
    }
    for id in &graph.outputs {
        if !defined.contains(id) {
            problems.push(format!("output %{} is never defined", graph.value(*id).name));
        }
    }
}

fn check_names(graph: &Graph, problems: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for value in &graph.values {
        if !names.insert(&value.name) {
            problems.push(format!("two values are called %{}", value.name));
        }
    }
}

fn check_types(graph: &Graph, problems: &mut Vec<String>) {
    // Integer values that follow from shapes, as far as operators tell them.
    let mut values: BTreeMap<ValueId, Vec<Dim>> = BTreeMap::new();
    for node in &graph.nodes {
        let inputs: Vec<_> = node.inputs.iter().map(|i| i.map(|id| graph.ty(id).clone())).collect();
        let constants: Vec<_> = node.inputs.iter().map(|i| i.and_then(|id| graph.constant(id).cloned())).collect();
        let known = |id: &ValueId| graph.constant(*id).and_then(as_dims).or_else(|| values.get(id).cloned());
        let dims: Vec<_> = node.inputs.iter().map(|i| i.as_ref().and_then(known)).collect();
        let cx =
            InferCx { attrs: &node.attrs, inputs: &inputs, constants: &constants, dims: &dims, n_outputs: node.outputs.len() };
        if let Some(known) = node.op.infer_dims.and_then(|f| f(&cx)) {
            values.insert(node.outputs[0], known);
        }
        let name = &graph.value(node.outputs[0]).name;
        match (node.op.infer)(&cx) {
            Err(e) => problems.push(format!("%{name} = {}: {e}", node.op.name)),
            Ok(types) => {
                for (id, ty) in node.outputs.iter().zip(&types) {
                    // Shapes that depend on values which only import knew stay as the graph states them.
                    let known = ty.shape.iter().zip(&graph.ty(*id).shape).all(|(a, b)| a == b || a.as_const().is_none());
                    if ty.dtype != graph.ty(*id).dtype || ty.rank() != graph.ty(*id).rank() || !known {
                        problems.push(format!(
                            "%{} is {}, but {} gives {ty}",
                            graph.value(*id).name,
                            graph.ty(*id),
                            node.op.name
                        ));
                    }
                }
                if types.len() < node.outputs.len() {
                    problems.push(format!(
                        "%{name} = {}: {} results, inference gives {}",
                        node.op.name,
                        node.outputs.len(),
                        types.len()
                    ));
                }
            }
        }
        for attr in node.attrs.0.values() {
            if let Attr::Graph(body) = attr
                && let Err(inner) = verify(body)
            {
                problems.extend(inner.into_iter().map(|p| format!("in the body of %{name}: {p}")));
            }
        }
    }
}
