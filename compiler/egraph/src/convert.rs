//! Graph to e-graph and back.

use std::collections::{BTreeMap, BTreeSet};

use egg::{Id, Language};
use onnxc_ir::graph::{Graph as IrGraph, Node};
use onnxc_ir::op::OpSet;
use onnxc_ir::{TensorType, ValueId};

use crate::analysis::{Facts, Graph};
use crate::extract::Choice;
use crate::lang::{ENode, Tables};

/// An e-graph with the classes of the graph's outputs.
pub struct Converted {
    /// The e-graph, clean.
    pub egraph: Graph,
    /// One class per graph output.
    pub roots: Vec<Id>,
    /// What every class was in the input graph: the choice that reproduces it.
    pub original: Choice,
    /// The class of each value of the graph; `None` for constants that nothing reads.
    pub values: Vec<Option<Id>>,
}

/// Builds the e-graph of a graph; equal nodes fall into one class (common subexpressions).
pub fn to_egraph(graph: &IrGraph, ops: OpSet) -> Converted {
    let inputs = graph.inputs.iter().map(|id| graph.ty(*id).clone()).collect();
    let bounds = graph.bounds.clone();
    let mut egraph = Graph::new(Facts::new(Tables::new(ops), inputs, bounds));
    let mut classes: Vec<Option<Id>> = vec![None; graph.values.len()];
    for (n, id) in graph.inputs.iter().enumerate() {
        classes[id.0 as usize] = Some(egraph.add(ENode::Input(n as u32)));
    }
    let absent = egraph.add(ENode::Absent);
    let mut chosen = Vec::new();
    for node in &graph.nodes {
        let children = node.inputs.iter().map(|input| input.map_or(absent, |id| class_of(&mut egraph, graph, &mut classes, id)));
        let children: Box<[Id]> = children.collect();
        add_node(&mut egraph, graph, node, children, &mut classes, &mut chosen);
    }
    let roots: Vec<Id> = graph.outputs.iter().map(|id| class_of(&mut egraph, graph, &mut classes, *id)).collect();
    // A node that takes a value twice is one user.
    let operands = |n: &Node| n.inputs.iter().flatten().copied().collect::<BTreeSet<ValueId>>();
    for id in graph.nodes.iter().flat_map(operands).chain(graph.outputs.iter().copied()) {
        if let Some(class) = classes[id.0 as usize] {
            egraph[class].data.uses += 1;
        }
    }
    egraph.rebuild();
    let original = chosen.into_iter().map(|(id, node): (Id, ENode)| (egraph.find(id), node)).collect();
    let values = classes.into_iter().map(|class| class.map(|id| egraph.find(id))).collect();
    Converted { egraph, roots, original: Choice(original), values }
}

fn class_of(egraph: &mut Graph, graph: &IrGraph, classes: &mut [Option<Id>], id: ValueId) -> Id {
    *classes[id.0 as usize].get_or_insert_with(|| {
        let tensor = graph.constant(id).expect("internal: a value is used before it is defined").clone();
        let constant = egraph.analysis.tables.intern_const(tensor);
        let class = egraph.add(ENode::Const(constant));
        egraph[class].data.name.get_or_insert_with(|| graph.value(id).name.clone());
        class
    })
}

fn add_node(
    egraph: &mut Graph,
    graph: &IrGraph,
    node: &Node,
    children: Box<[Id]>,
    classes: &mut [Option<Id>],
    chosen: &mut Vec<(Id, ENode)>,
) {
    let op = egraph.analysis.tables.op_index(node.op.name).expect("internal: operator outside the set");
    let attrs = egraph.analysis.tables.intern_attrs(node.attrs.clone());
    egraph.analysis.origins.clone_from(&node.origins);
    egraph.analysis.origins.sort();
    let results = node.outputs.len();
    let enode = ENode::Op { op, attrs, results: results as u8, children };
    let class = egraph.add(enode.clone());
    chosen.push((class, enode));
    for (n, output) in node.outputs.iter().enumerate() {
        let class = if results == 1 {
            class
        } else {
            let proj = ENode::Proj(n as u8, [class]);
            let id = egraph.add(proj.clone());
            chosen.push((id, proj));
            id
        };
        egraph[class].data.name.get_or_insert_with(|| graph.value(*output).name.clone());
        classes[output.0 as usize] = Some(class);
    }
    egraph.analysis.origins.clear();
}

/// The graph that a choice of one e-node per class describes. Inputs keep their number and names.
pub fn from_egraph(egraph: &Graph, roots: &[Id], choice: &Choice, source: &IrGraph) -> IrGraph {
    let mut out = IrGraph::new(&source.name);
    out.bounds.clone_from(&source.bounds);
    for id in &source.inputs {
        out.add_input(&source.value(*id).name, source.ty(*id).clone());
    }
    let mut build = Build { egraph, choice, out, done: BTreeMap::new() };
    let outputs: Vec<ValueId> = roots.iter().map(|root| build.value(egraph.find(*root))[0]).collect();
    let mut out = build.out;
    // Output names are the caller's interface: the values take them unless two outputs share one value.
    for (new, old) in outputs.iter().zip(&source.outputs) {
        if !out.inputs.contains(new) {
            out.values[new.0 as usize].name.clone_from(&source.value(*old).name);
        }
    }
    out.outputs = outputs;
    out.make_names_unique();
    out
}

struct Build<'a> {
    egraph: &'a Graph,
    choice: &'a Choice,
    out: IrGraph,
    done: BTreeMap<Id, Vec<ValueId>>,
}

impl Build<'_> {
    /// Values of a class, building what it needs first (iteratively: models are thousands of nodes deep).
    fn value(&mut self, root: Id) -> Vec<ValueId> {
        let mut stack = vec![root];
        while let Some(id) = stack.last().copied() {
            if self.done.contains_key(&id) {
                stack.pop();
                continue;
            }
            let node = self.choice.node(self.egraph, id);
            let missing = node.children().iter().map(|c| self.egraph.find(*c)).filter(|c| !self.done.contains_key(c));
            let missing: Vec<Id> = missing.collect();
            if missing.is_empty() {
                let values = self.emit(id, &node);
                self.done.insert(id, values);
                stack.pop();
            } else {
                stack.extend(missing.into_iter().rev());
            }
        }
        self.done[&root].clone()
    }

    fn emit(&mut self, id: Id, node: &ENode) -> Vec<ValueId> {
        let class = &self.egraph[id].data;
        let tables = &self.egraph.analysis.tables;
        let name = class.name.clone().unwrap_or_default();
        match node {
            ENode::Absent => Vec::new(),
            ENode::Input(n) => vec![self.out.inputs[*n as usize]],
            ENode::Const(c) => vec![self.out.add_const(&name, tables.constant(*c).clone())],
            ENode::Proj(n, [child]) => {
                let value = self.done[&self.egraph.find(*child)][*n as usize];
                if !name.is_empty() {
                    self.out.values[value.0 as usize].name = name;
                }
                vec![value]
            }
            ENode::Part(..) => unreachable!("internal: only lossy forms read parts, and they are not extracted as a graph"),
            ENode::Op { op, attrs, children, .. } => {
                let inputs = children.iter().map(|c| self.done[&self.egraph.find(*c)].first().copied()).collect();
                let op = tables.op(*op);
                let types: &[TensorType] = &class.types;
                let name = if name.is_empty() { op.name.to_string() } else { name };
                let outputs: Vec<ValueId> = types.iter().map(|ty| self.out.add_value(&name, ty.clone(), None)).collect();
                let attrs = tables.attrs(*attrs).clone();
                self.out.nodes.push(Node { op, inputs, outputs: outputs.clone(), attrs, origins: class.origins.clone() });
                outputs
            }
        }
    }
}
