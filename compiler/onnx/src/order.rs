//! Structure of a list of nodes: who defines what, in which order nodes can be built, which of them are needed at all.

use std::collections::BTreeSet;

use onnx_protobuf::{GraphProto, NodeProto};
use rustc_hash::FxHashMap;

use crate::report::Problem;

/// The node's name, or its first output's, or its operator's.
pub fn label(node: &NodeProto) -> &str {
    let named = if node.name.is_empty() { node.output.iter().find(|o| !o.is_empty()) } else { Some(&node.name) };
    named.map_or(&node.op_type, |s| s)
}

/// Everything that a graph or function defines before its nodes: name and what it is.
pub type Given<'m> = Vec<(&'m str, &'static str)>;

/// Names that a node needs: its inputs and what its bodies take from outside.
fn needed<'m>(node: &'m NodeProto, out: &mut Vec<&'m str>) {
    out.extend(node.input.iter().map(String::as_str).filter(|i| !i.is_empty()));
    for body in node.attribute.iter().flat_map(|a| a.g.as_ref().into_iter().chain(&a.graphs)) {
        free_names(body, out);
    }
}

fn free_names<'m>(body: &'m GraphProto, out: &mut Vec<&'m str>) {
    let mut inner = Vec::new();
    body.node.iter().for_each(|n| needed(n, &mut inner));
    inner.extend(body.output.iter().map(|o| o.name.as_str()));
    let mut own: BTreeSet<&str> = body.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
    own.extend(body.input.iter().map(|i| i.name.as_str()));
    own.extend(body.initializer.iter().map(|t| t.name.as_str()));
    own.extend(body.sparse_initializer.iter().map(|t| t.values.name.as_str()));
    out.extend(inner.into_iter().filter(|n| !own.contains(n)));
}

/// The nodes that `outputs` need, in an order in which they can be built: the file's own order wherever that works.
///
/// `outer` answers whether a name is visible from outside. Everything that is wrong with the names of all nodes (needed or not) is
/// reported: double definitions, names from nowhere, cycles.
pub fn order<'m>(
    nodes: &'m [NodeProto],
    given: &Given<'m>,
    outputs: &[&'m str],
    outer: &dyn Fn(&str) -> bool,
) -> Result<Vec<usize>, Vec<Problem>> {
    let mut problems = Vec::new();
    let producers = definitions(nodes, given, &mut problems);
    let is_given: BTreeSet<&str> = given.iter().map(|(name, _)| *name).collect();
    // Node by node, the nodes that it waits for.
    let mut waits: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut names = Vec::new();
        needed(node, &mut names);
        let mut producers_of_node = Vec::new();
        for name in names {
            match producers.get(name) {
                Some(p) => producers_of_node.push(*p),
                None if is_given.contains(name) || outer(name) => {}
                None => problems.push(undefined(node, name)),
            }
        }
        waits.push(producers_of_node);
    }
    for name in outputs {
        if !producers.contains_key(name) && !is_given.contains(name) && !outer(name) {
            problems.push(Problem::model("import::structure", format!("output {name:?} is defined nowhere")));
        }
    }
    let sorted = sort(nodes, &waits, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut live = vec![false; nodes.len()];
    outputs.iter().filter_map(|o| producers.get(o)).for_each(|p| live[*p] = true);
    for n in sorted.iter().rev().copied() {
        if live[n] {
            waits[n].iter().for_each(|p| live[*p] = true);
        }
    }
    Ok(sorted.into_iter().filter(|n| live[*n]).collect())
}

/// Which node defines which name; names that are defined twice are problems.
fn definitions<'m>(nodes: &'m [NodeProto], given: &Given<'m>, problems: &mut Vec<Problem>) -> FxHashMap<&'m str, usize> {
    let mut by: FxHashMap<&str, &str> = FxHashMap::default();
    for (name, what) in given {
        if name.is_empty() {
            problems.push(Problem::model("import::structure", format!("an {what} has no name")));
        } else if let Some(before) = by.insert(name, what) {
            let reason = format!("{name:?} is defined twice: as {before} and as {what}");
            problems.push(Problem::model("import::structure", reason));
        }
    }
    let mut producers = FxHashMap::default();
    for (n, node) in nodes.iter().enumerate() {
        for name in node.output.iter().map(String::as_str).filter(|o| !o.is_empty()) {
            let before = by.insert(name, "result of a node");
            if let Some(before) = before {
                let reason = format!("defines {name:?}, which is defined already (as {before}): a name cannot be defined twice");
                problems.push(Problem::node("import::structure", node, reason));
            }
            producers.entry(name).or_insert(n);
        }
    }
    producers
}

fn undefined(node: &NodeProto, name: &str) -> Problem {
    let own = node.input.iter().any(|i| i == name);
    let reason = format!("{} {name:?} is defined nowhere", if own { "input" } else { "a body uses" });
    Problem::node("import::structure", node, reason).help("the model is broken: export it again")
}

/// Depth-first, in the file's order; each cycle is reported once, with its members.
fn sort(nodes: &[NodeProto], waits: &[Vec<usize>], problems: &mut Vec<Problem>) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut state = vec![State::New; nodes.len()];
    let mut sorted = Vec::with_capacity(nodes.len());
    for first in 0..nodes.len() {
        if state[first] != State::New {
            continue;
        }
        // The path of open nodes, each with the number of its producers that were looked at.
        let mut path = vec![(first, 0)];
        state[first] = State::Open;
        while let Some((n, seen)) = path.last_mut() {
            let Some(p) = waits[*n].get(*seen).copied() else {
                state[*n] = State::Done;
                sorted.push(*n);
                path.pop();
                continue;
            };
            *seen += 1;
            match state[p] {
                State::New => {
                    state[p] = State::Open;
                    path.push((p, 0));
                }
                State::Open => {
                    let from = path.iter().position(|(n, _)| *n == p).unwrap_or(0);
                    let members: Vec<String> =
                        path[from..].iter().take(8).map(|(n, _)| format!("{:?}", label(&nodes[*n]))).collect();
                    let reason = format!("these nodes form a cycle: {}", members.join(", "));
                    problems.push(Problem::node("import::structure", &nodes[p], reason));
                }
                State::Done => {}
            }
        }
    }
    sorted
}
