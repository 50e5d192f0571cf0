//! Extraction: one e-node per class, so that the whole graph costs least.
//!
//! Costs are those of a DAG: a shared class is paid once. Greedy bottom-up choice by tree cost gives a first selection; the input graph's own
//! selection is the other; then single changes are tried, in class order, as long as they lower the true DAG cost. So the
//! result never costs more than the input. All ties go to the smaller e-node: the choice is deterministic.

use std::collections::BTreeMap;

use egg::{Id, Language};
use onnxc_ir::op::OpDef;
use onnxc_ir::{Attrs, TensorType};

use crate::analysis::Graph;
use crate::lang::ENode;

/// Prices an operator; leaves are free.
pub trait CostModel {
    /// Cost of one application, positive and finite: nanoseconds, or any unit that is used throughout.
    fn cost(&self, op: &OpDef, attrs: &Attrs, inputs: &[Option<Operand>], outputs: &[TensorType]) -> f64;
}

/// An operand as the cost model sees it.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// Its type.
    pub ty: &'a TensorType,
    /// True when it is a constant of the model.
    pub constant: bool,
}

/// A chosen e-node per class.
#[derive(Clone, Debug, Default)]
pub struct Choice(pub BTreeMap<Id, ENode>);

impl Choice {
    /// The chosen e-node of a class; a class that holds a leaf is that leaf, chosen or not.
    pub fn node(&self, egraph: &Graph, id: Id) -> ENode {
        leaf(egraph, id).cloned().unwrap_or_else(|| self.0[&egraph.find(id)].clone())
    }
}

/// An input, constant or absent operand in the class: nothing is cheaper.
pub(crate) fn leaf(egraph: &Graph, id: Id) -> Option<&ENode> {
    egraph[id].nodes.iter().filter(|n| n.is_leaf() && !matches!(n, ENode::Op { .. })).min()
}

struct Pricer<'a> {
    egraph: &'a Graph,
    model: &'a dyn CostModel,
}

impl Pricer<'_> {
    fn own_cost(&self, id: Id, node: &ENode) -> f64 {
        let ENode::Op { op, attrs, children, .. } = node else { return 0.0 };
        let tables = &self.egraph.analysis.tables;
        let operand = |c: &Id| {
            let class = &self.egraph[*c].data;
            class.types.first().map(|ty| Operand { ty, constant: class.constant.is_some() })
        };
        let inputs: Vec<Option<Operand>> = children.iter().map(operand).collect();
        self.model.cost(tables.op(*op), tables.attrs(*attrs), &inputs, &self.egraph[id].data.types).max(1e-9)
    }

    /// Greedy bottom-up choice by tree cost, to a fixed point.
    fn greedy(&self) -> BTreeMap<Id, (ENode, f64)> {
        let mut ids: Vec<Id> = self.egraph.classes().map(|c| c.id).collect();
        ids.sort();
        let mut best: BTreeMap<Id, (f64, ENode, f64)> = BTreeMap::new();
        loop {
            let mut changed = false;
            for id in &ids {
                let mut nodes: Vec<&ENode> = self.egraph[*id].nodes.iter().collect();
                nodes.sort();
                for node in nodes {
                    let children = node.children().iter().map(|c| {
                        let c = self.egraph.find(*c);
                        if leaf(self.egraph, c).is_some() { Some(0.0) } else { best.get(&c).map(|b| b.0) }
                    });
                    let Some(below) = children.sum::<Option<f64>>() else { continue };
                    let own = self.own_cost(*id, node);
                    let tree = own + below;
                    if best.get(id).is_none_or(|b| tree < b.0 * (1.0 - 1e-12)) {
                        best.insert(*id, (tree, node.clone(), own));
                        changed = true;
                    }
                }
            }
            if !changed {
                return best.into_iter().map(|(id, (_, node, own))| (id, (node, own))).collect();
            }
        }
    }
}

/// A choice as the cost of the whole graph wants it: by class number, with what has been seen of it.
struct Dag {
    roots: Vec<usize>,
    /// Classes that cost nothing.
    leaf: Vec<bool>,
    /// Cost and operands of the chosen e-node of each class.
    chosen: Vec<Option<(f64, Vec<usize>)>>,
    /// In which count a class was entered, and in which it was left.
    entered: Vec<u32>,
    left: Vec<u32>,
    counts: u32,
    stack: Vec<(usize, bool)>,
}

impl Dag {
    fn new(egraph: &Graph, roots: &[Id], choice: &BTreeMap<Id, (ENode, f64)>) -> Dag {
        let number = |id: &Id| usize::from(egraph.find(*id));
        let classes = egraph.classes().map(|c| usize::from(c.id) + 1).max().unwrap_or(0);
        let mut dag = Dag {
            roots: roots.iter().map(number).collect(),
            leaf: vec![false; classes],
            chosen: vec![None; classes],
            entered: vec![0; classes],
            left: vec![0; classes],
            counts: 0,
            stack: Vec::new(),
        };
        egraph.classes().for_each(|c| dag.leaf[usize::from(c.id)] = leaf(egraph, c.id).is_some());
        choice.iter().for_each(|(id, (node, cost))| dag.choose(egraph, *id, node, *cost));
        dag
    }

    fn choose(&mut self, egraph: &Graph, id: Id, node: &ENode, cost: f64) {
        let operands = node.children().iter().map(|c| usize::from(egraph.find(*c))).collect();
        self.chosen[usize::from(egraph.find(id))] = Some((cost, operands));
    }

    /// Cost of everything that the roots need; `None` when the choice is cyclic or incomplete, or costs `limit` or more.
    fn cost(&mut self, limit: f64) -> Option<f64> {
        self.counts += 1;
        let now = self.counts;
        self.stack.clear();
        self.stack.extend(self.roots.iter().map(|r| (*r, false)));
        let mut total = 0.0;
        while let Some((class, leaving)) = self.stack.pop() {
            if leaving {
                self.left[class] = now;
                continue;
            }
            if self.left[class] == now || self.leaf[class] {
                continue;
            }
            if self.entered[class] == now {
                return None;
            }
            self.entered[class] = now;
            let (cost, operands) = self.chosen[class].as_ref()?;
            total += cost;
            if total >= limit {
                return None;
            }
            self.stack.push((class, true));
            for operand in operands {
                let done = self.left[*operand] == now;
                if self.entered[*operand] == now && !done {
                    return None;
                }
                if !done {
                    self.stack.push((*operand, false));
                }
            }
        }
        Some(total)
    }
}

/// Chooses e-nodes for everything that `roots` need. `original` reproduces the input graph. Returns the choice with its cost and the original's.
pub fn extract(egraph: &Graph, roots: &[Id], original: &Choice, model: &dyn CostModel) -> (Choice, f64, f64) {
    let pricer = Pricer { egraph, model };
    let greedy = pricer.greedy();
    let priced = |(id, node): (&Id, &ENode)| {
        let id = egraph.find(*id);
        let node = node.clone().map_children(|c| egraph.find(c));
        let cost = pricer.own_cost(id, &node);
        (id, (node, cost))
    };
    // Classes that rules made have no original node: the greedy choice stands in.
    let mut input: BTreeMap<Id, (ENode, f64)> = greedy.clone();
    input.extend(original.0.iter().map(priced));
    let dag_cost = |choice| Dag::new(egraph, roots, choice).cost(f64::INFINITY);
    let input_cost = dag_cost(&input);
    let greedy_cost = dag_cost(&greedy).expect("internal: greedy choice is acyclic");
    let (mut choice, mut cost) = match input_cost {
        Some(c) if c <= greedy_cost => (input, c),
        _ => (greedy, greedy_cost),
    };
    improve(&pricer, roots, &mut choice, &mut cost);
    (Choice(choice.into_iter().map(|(id, (node, _))| (id, node)).collect()), cost, input_cost.unwrap_or(f64::INFINITY))
}

/// Single changes while they lower the DAG cost; bounded by a number of sweeps and of tries.
fn improve(pricer: &Pricer, roots: &[Id], choice: &mut BTreeMap<Id, (ENode, f64)>, cost: &mut f64) {
    let mut tries = 20_000usize;
    let mut dag = Dag::new(pricer.egraph, roots, choice);
    for _ in 0..4 {
        let mut changed = false;
        let ids: Vec<Id> = choice.keys().copied().filter(|id| pricer.egraph[*id].nodes.len() > 1).collect();
        for id in ids {
            let mut nodes: Vec<ENode> = pricer.egraph[id].nodes.clone();
            nodes.sort();
            for node in nodes {
                if choice[&id].0 == node || tries == 0 {
                    continue;
                }
                tries -= 1;
                let own = pricer.own_cost(id, &node);
                dag.choose(pricer.egraph, id, &node, own);
                match dag.cost(*cost * (1.0 - 1e-9)) {
                    Some(now) => {
                        *cost = now;
                        changed = true;
                        choice.insert(id, (node, own));
                    }
                    None => {
                        let (before, own) = &choice[&id];
                        dag.choose(pricer.egraph, id, before, *own);
                    }
                }
            }
        }
        if !changed {
            return;
        }
    }
}
