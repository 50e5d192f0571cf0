//! What import leaves behind: nodes that nothing uses after folding, constants that were folded away, names that clash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onnxc_ir::{Attr, Graph, ValueId};

/// Drops nodes and constants that no output needs, and gives every value a name of its own: inputs and outputs keep theirs.
pub fn prune(mut graph: Graph) -> Graph {
    let mut live = vec![false; graph.values.len()];
    graph.inputs.iter().chain(&graph.outputs).for_each(|id| live[id.0 as usize] = true);
    let mut keep = vec![false; graph.nodes.len()];
    for (n, node) in graph.nodes.iter().enumerate().rev() {
        if node.outputs.iter().any(|id| live[id.0 as usize]) {
            keep[n] = true;
            node.inputs.iter().flatten().chain(&node.outputs).for_each(|id| live[id.0 as usize] = true);
        }
    }
    let mut kept = keep.iter();
    graph.nodes.retain(|_| *kept.next().expect("internal: one flag per node"));
    renumber(&mut graph, &live);
    let mut symbols = Vec::new();
    mentioned(&graph, &mut symbols);
    graph.bounds.retain(|name, _| symbols.iter().any(|s| **s == *name));
    name(&mut graph);
    graph
}

/// Symbols in the types of a graph and of the bodies in it.
fn mentioned(graph: &Graph, symbols: &mut Vec<Arc<str>>) {
    graph.values.iter().flat_map(|v| &v.ty.shape).for_each(|d| d.symbols(symbols));
    for attr in graph.nodes.iter().flat_map(|n| n.attrs.0.values()) {
        if let Attr::Graph(body) = attr {
            mentioned(body, symbols);
        }
    }
}

fn renumber(graph: &mut Graph, live: &[bool]) {
    let mut map = vec![ValueId(0); live.len()];
    let mut values = Vec::new();
    for (i, value) in std::mem::take(&mut graph.values).into_iter().enumerate() {
        if live[i] {
            map[i] = ValueId(values.len() as u32);
            values.push(value);
        }
    }
    graph.values = values;
    let new = |id: &mut ValueId| *id = map[id.0 as usize];
    for node in &mut graph.nodes {
        node.inputs.iter_mut().flatten().for_each(new);
        node.outputs.iter_mut().for_each(new);
    }
    graph.inputs.iter_mut().for_each(new);
    graph.outputs.iter_mut().for_each(new);
}

fn name(graph: &mut Graph) {
    let first = graph.inputs.iter().chain(&graph.outputs).copied();
    let rest = (0..graph.values.len() as u32).map(ValueId);
    let order: Vec<ValueId> = first.chain(rest).collect();
    let (mut taken, mut done) = (BTreeSet::new(), vec![false; graph.values.len()]);
    // How far the numbers behind a name are used up: thousands of values of one node have its name.
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for id in order {
        if std::mem::replace(&mut done[id.0 as usize], true) {
            continue;
        }
        let value = &mut graph.values[id.0 as usize];
        let base = if value.name.is_empty() { "v" } else { &value.name }.to_string();
        let mut name = base.clone();
        while taken.contains(&name) {
            let n = last.entry(base.clone()).or_default();
            *n += 1;
            name = format!("{base}.{n}");
        }
        taken.insert(name.clone());
        value.name = name;
    }
}
