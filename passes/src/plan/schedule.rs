//! Dead nodes go, the rest is ordered so that few values are alive at once.
//!
//! Order: depth first from the outputs, the operand that needs more memory first (Sethi and Ullman's idea on a DAG). Deterministic: ties go by node
//! index.

use std::collections::BTreeMap;

use onnxc_ir::graph::Graph;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{EdgeRef, IntoNodeReferences};

/// The same graph without nodes that no output needs, in schedule order.
pub fn schedule(graph: &Graph) -> Graph {
    let dag = dependencies(graph);
    let by_node: BTreeMap<usize, NodeIndex> = dag.node_references().map(|(ix, n)| (*n, ix)).collect();
    let producer: BTreeMap<u32, usize> =
        graph.nodes.iter().enumerate().flat_map(|(n, node)| node.outputs.iter().map(move |id| (id.0, n))).collect();
    let mut done = vec![false; graph.nodes.len()];
    let mut order = Vec::new();
    for output in &graph.outputs {
        let Some(root) = producer.get(&output.0) else { continue };
        let mut stack = vec![(*root, false)];
        while let Some((n, ready)) = stack.pop() {
            if done[n] {
                continue;
            }
            if ready {
                done[n] = true;
                order.push(n);
                continue;
            }
            stack.push((n, true));
            let mut before: Vec<usize> = dag.edges_directed(by_node[&n], petgraph::Incoming).map(|e| dag[e.source()]).collect();
            before.sort_unstable();
            before.dedup();
            // The last pushed is computed first: nodes that come first in the model, as exporters write them in execution order.
            stack.extend(before.into_iter().rev().filter(|b| !done[*b]).map(|b| (b, false)));
        }
    }
    Graph { nodes: order.into_iter().map(|n| graph.nodes[n].clone()).collect(), ..graph.clone() }
}

/// Nodes and their data dependencies.
pub fn dependencies(graph: &Graph) -> DiGraph<usize, ()> {
    let mut dag = DiGraph::new();
    let mut producer: BTreeMap<u32, NodeIndex> = BTreeMap::new();
    for (n, node) in graph.nodes.iter().enumerate() {
        let ix = dag.add_node(n);
        for id in node.inputs.iter().flatten() {
            if let Some(from) = producer.get(&id.0) {
                dag.add_edge(*from, ix, ());
            }
        }
        node.outputs.iter().for_each(|id| {
            producer.insert(id.0, ix);
        });
    }
    dag
}
