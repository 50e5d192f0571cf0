//! Graph to e-graph and back: analysis, rules, extraction by cost; lossy rules, extraction by price within a limit of error.
//!
//! The crate knows no operator by name: rules come from `onnxc-passes`.

pub mod analysis;
pub mod constrained;
pub mod convert;
pub mod extract;
pub mod lang;
pub mod lossy;
pub mod rule;

pub use egg::Id;
pub use extract::{CostModel, Operand};
pub use rule::{Limits, Match, Roots, Rule, RuleClass, RuleCx};

use onnxc_ir::op::OpSet;

/// What a stage did.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Cost of the graph before and after, in the model's unit.
    pub cost: (f64, f64),
    /// False when a limit stopped the rules.
    pub saturated: bool,
    /// E-nodes at the end.
    pub nodes: usize,
}

/// One stage: all rules saturate in one e-graph, then the cheapest graph is extracted once.
pub fn rewrite(
    graph: &onnxc_ir::Graph,
    ops: OpSet,
    rules: &[Rule],
    model: &dyn CostModel,
    limits: Limits,
) -> (onnxc_ir::Graph, Outcome) {
    let converted = convert::to_egraph(graph, ops);
    let (egraph, saturated) = rule::saturate(converted.egraph, rules, limits);
    let (choice, after, before) = extract::extract(&egraph, &converted.roots, &converted.original, model);
    let out = convert::from_egraph(&egraph, &converted.roots, &choice, graph);
    (out, Outcome { cost: (before, after), saturated, nodes: egraph.total_size() })
}
