//! The passes of onnxc, one file each, grouped by phase: `canonicalize`, `fuse`, then layout, lowering and memory.
//!
//! Rewriting phases export `rules()`; all rules of a phase share one e-graph, which is extracted once. Where weights are quantised, the rule that makes
//! floats of them has a second one.

pub mod across;
pub mod canonicalize;
pub mod channel_order;
mod channels;
pub mod choose;
pub mod coded;
pub mod compress;
pub mod cost;
pub mod fuse;
pub mod layer;
pub mod layout;
pub mod memory;
pub mod plan;
pub mod requantize;
pub mod row_chain;
pub mod sparsity;
pub mod strassen;
mod streams;
pub mod threads;
pub mod winograd;

use canonicalize::quantized::fold;
use onnxc_egraph::{Limits, Outcome, Rule, RuleClass};
use onnxc_ir::op::OpSet;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Attr, Graph};

/// A rewriting phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Exact and reassociating simplification, recognition of decomposed operators, folding into weights.
    Canonicalize,
    /// Elementwise chains into maps and epilogues.
    Fuse,
}

impl Phase {
    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Canonicalize => "canonicalize",
            Phase::Fuse => "fuse",
        }
    }

    /// Rules of the phase.
    pub fn rules(self) -> Vec<Rule> {
        match self {
            Phase::Canonicalize => canonicalize::rules(),
            Phase::Fuse => fuse::rules(),
        }
    }
}

/// How far passes may go from the numbers of the model's own operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Math {
    /// The same real numbers, rounded in another order.
    Strict,
    /// Rounding may grow by a stated bound.
    #[default]
    Fast,
}

impl Math {
    /// May a rule of this class be used?
    pub fn allows(self, class: RuleClass) -> bool {
        self == Math::Fast || class != RuleClass::Bounded
    }
}

/// Runs a phase, in bodies too. The result computes the same function and costs no more under the target's model.
pub fn run(phase: Phase, graph: &Graph, target: &TargetDesc) -> (Graph, Outcome) {
    run_within(Math::default(), phase, graph, target)
}

/// The same with the rules that `math` allows.
pub fn run_within(math: Math, phase: Phase, graph: &Graph, target: &TargetDesc) -> (Graph, Outcome) {
    let ops = OpSet(onnxc_ops::ALL);
    let inner = with_bodies(graph, &|body| run_within(math, phase, body, target).0);
    let narrow = if phase == Phase::Canonicalize { streams::narrow(inner.as_ref().unwrap_or(graph)) } else { None };
    let inner = narrow.or(inner);
    let rules: Vec<Rule> = phase.rules().into_iter().filter(|r| math.allows(r.class)).collect();
    let graph = inner.as_ref().unwrap_or(graph);
    let stage = |graph: &Graph, rules: &[Rule]| {
        onnxc_egraph::rewrite(graph, ops, rules, &cost::TargetCost::new(target), Limits::default())
    };
    if phase == Phase::Canonicalize && fold::has_weights(graph) {
        let early: Vec<Rule> = rules.iter().copied().filter(|r| r.name != fold::LATE).collect();
        let (integers, first) = stage(graph, &early);
        let (graph, last) = stage(&coded::run(&integers, ops), &rules);
        let saturated = first.saturated && last.saturated;
        return (graph, Outcome { cost: (first.cost.0, last.cost.1), saturated, ..last });
    }
    stage(graph, &rules)
}

/// The graph with every body replaced by what `pass` makes of it; `None` when it has no bodies.
fn with_bodies(graph: &Graph, pass: &dyn Fn(&Graph) -> Graph) -> Option<Graph> {
    let is_body = |a: &Attr| matches!(a, Attr::Graph(_));
    if !graph.nodes.iter().any(|n| n.attrs.0.values().any(is_body)) {
        return None;
    }
    let mut out = graph.clone();
    for attr in out.nodes.iter_mut().flat_map(|n| n.attrs.0.values_mut()) {
        if let Attr::Graph(body) = attr {
            **body = pass(body);
        }
    }
    Some(out)
}
