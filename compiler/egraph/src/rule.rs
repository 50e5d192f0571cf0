//! Rules: Rust functions that look at the e-nodes of a class and add equal ones.
//!
//! A rule names the operators at its root; for every e-node with such an operator it may build other e-nodes, which are then united with the
//! class. Conditions that cannot tell answer "no". Saturation is bounded by iterations and e-nodes, never by time.

use std::collections::BTreeMap;

use egg::{Id, Language, Rewrite, Runner, SearchMatches, Searcher, SimpleScheduler, Subst, Var};
use onnxc_ir::dim::DimBounds;
use onnxc_ir::op::{EvalCx, Lower, OpDef, OpSet};
use onnxc_ir::{Attrs, Dim, Tensor, TensorType};

use crate::analysis::{self, Facts, Graph};
use crate::lang::{ENode, Head, Tables};

/// What a rule may do to numbers. Rules that change the function are none of these: [`crate::lossy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleClass {
    /// Same bits.
    Exact,
    /// Same real-number value, other rounding.
    Reassociates,
    /// Rounding grows by a stated bound (Winograd, polynomials).
    Bounded,
}

/// Operators at which a rule looks.
#[derive(Clone, Copy)]
pub enum Roots {
    /// These.
    Named(&'static [&'static str]),
    /// All that a predicate accepts.
    Where(fn(&OpDef) -> bool),
}

impl Roots {
    fn heads(self, tables: &Tables) -> Vec<Head> {
        match self {
            Roots::Named(names) => names.iter().filter_map(|n| tables.op_index(n)).map(Head::Op).collect(),
            Roots::Where(accepts) => tables.indices().filter(|i| accepts(tables.op(*i))).map(Head::Op).collect(),
        }
    }
}

/// A rewrite rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// kebab-case, says the equation.
    pub name: &'static str,
    /// Effect on numbers.
    pub class: RuleClass,
    /// Operators at the root.
    pub roots: Roots,
    /// Returns a class that equals the matched node, or `None`.
    pub apply: fn(&mut RuleCx, &Match) -> Option<Id>,
}

/// An operator e-node that a rule looks at.
#[derive(Clone, Debug)]
pub struct Match {
    /// Its class.
    pub id: Id,
    /// The operator.
    pub op: &'static OpDef,
    /// Its attributes.
    pub attrs: Attrs,
    /// Operands; `None` where absent.
    pub inputs: Vec<Option<Id>>,
    /// Number of results.
    pub results: usize,
    /// The same as the e-graph has it, with the classes that its operands are in now.
    node: ENode,
}

impl Match {
    /// Operand `i` if present.
    pub fn input(&self, i: usize) -> Option<Id> {
        self.inputs.get(i).copied().flatten()
    }
}

/// Longest chain of operators that one rule puts together: eight, each of which quantises what it has dequantised.
const MAX_CHAIN: usize = 24;

/// What a rule works on.
pub struct RuleCx<'a> {
    egraph: &'a mut Graph,
    /// Nodes whose work new nodes do, besides the root's.
    origins: Vec<String>,
}

impl RuleCx<'_> {
    /// The operator e-nodes of a class with this operator, in a fixed order.
    pub fn find(&self, id: Id, op: &str) -> Vec<Match> {
        let head = self.egraph.analysis.tables.op_index(op).map(Head::Op);
        self.find_heads(id, head.as_slice())
    }

    /// The operator e-nodes with several results of which this class is one, and which of their results it is, in a fixed order.
    pub fn results_of(&self, id: Id, op: &str) -> Vec<(usize, Match)> {
        let projections = self.egraph[id].nodes.iter().filter_map(|n| match n {
            ENode::Proj(n, [of]) => Some((*n as usize, *of)),
            _ => None,
        });
        let mut projections: Vec<(usize, Id)> = projections.collect();
        projections.sort_unstable();
        projections.into_iter().flat_map(|(n, of)| self.find(of, op).into_iter().map(move |m| (n, m))).collect()
    }

    /// The elementwise e-nodes of a class, in a fixed order.
    pub fn elementwise(&self, id: Id) -> Vec<Match> {
        let tables = &self.egraph.analysis.tables;
        let heads = Roots::Where(|op| matches!(op.lower, Lower::Elementwise(_))).heads(tables);
        self.find_heads(id, &heads)
    }

    /// All operator e-nodes of a class, in a fixed order.
    pub fn operators(&self, id: Id) -> Vec<Match> {
        let heads = Roots::Where(|_| true).heads(&self.egraph.analysis.tables);
        self.find_heads(id, &heads)
    }

    fn find_heads(&self, id: Id, heads: &[Head]) -> Vec<Match> {
        let nodes = self.egraph[id].nodes.iter().filter(|n| heads.contains(&n.discriminant()));
        let mut nodes: Vec<&ENode> = nodes.collect();
        nodes.sort();
        nodes.into_iter().filter_map(|n| self.as_match(self.egraph.find(id), n)).collect()
    }

    fn as_match(&self, id: Id, node: &ENode) -> Option<Match> {
        let ENode::Op { op, attrs, results, children } = node else { return None };
        let tables = &self.egraph.analysis.tables;
        let present = |c: &Id| (!self.egraph[*c].data.types.is_empty()).then(|| self.egraph.find(*c));
        Some(Match {
            id,
            op: tables.op(*op),
            attrs: tables.attrs(*attrs).clone(),
            inputs: children.iter().map(present).collect(),
            results: *results as usize,
            node: node.clone().map_children(|c| self.egraph.find(c)),
        })
    }

    /// Type of a class (its first result's).
    pub fn ty(&self, id: Id) -> &TensorType {
        &self.egraph[id].data.types[0]
    }

    /// Types of all results of the operators in a class.
    pub fn types(&self, id: Id) -> &[TensorType] {
        &self.egraph[id].data.types
    }

    /// The constant that a class equals.
    pub fn constant(&self, id: Id) -> Option<&Tensor> {
        self.egraph[id].data.constant.map(|n| self.egraph.analysis.tables.constant(n))
    }

    /// The integers of a class as sizes, where they follow from shapes and none is -1.
    pub fn sizes(&self, id: Id) -> Option<&[Dim]> {
        self.egraph[id].data.sizes.as_deref().filter(|sizes| !sizes.iter().any(Dim::is_rest))
    }

    /// True when sizes follow from the extents of the graph's inputs alone, and no data has a say in them.
    pub fn of_inputs(&self, sizes: &[Dim]) -> bool {
        let symbols = |dims: &mut dyn Iterator<Item = &Dim>| {
            let mut all = Vec::new();
            dims.for_each(|d| d.symbols(&mut all));
            all
        };
        let known = symbols(&mut self.egraph.analysis.inputs.iter().flat_map(|ty| &ty.shape));
        symbols(&mut sizes.iter()).iter().all(|s| known.contains(s))
    }

    /// The single f32/f64/f16/integer value of a constant with one element, as f64.
    pub fn scalar(&self, id: Id) -> Option<f64> {
        let tensor = self.constant(id).filter(|t| t.len() == 1)?;
        tensor.to_f64s().map(|v| v[0])
    }

    /// True when at most one node of the input graph used the class, so that absorbing it duplicates no work.
    pub fn single_use(&self, id: Id) -> bool {
        self.egraph[id].data.uses <= 1
    }

    /// True when the rule said before that it has put these together ([`RuleCx::join`]): the result is in the class of the first.
    pub fn joined(&self, rule: &'static str, [root, other]: [&Match; 2]) -> bool {
        self.egraph.analysis.joined.contains(&(rule, root.node.clone(), other.node.clone()))
    }

    /// Remembers that the rule has put these together, for rules whose result takes time to make.
    pub fn join(&mut self, rule: &'static str, [root, other]: [&Match; 2]) {
        self.egraph.analysis.joined.insert((rule, root.node.clone(), other.node.clone()));
    }

    /// Same class?
    pub fn same(&self, a: Id, b: Id) -> bool {
        self.egraph.find(a) == self.egraph.find(b)
    }

    /// New nodes also do the work of this class's origins (call it for nodes that the rule absorbs).
    pub fn absorb(&mut self, id: Id) {
        let more = self.egraph[id].data.origins.clone();
        self.origins.extend(more);
    }

    /// The same for everything between this class and `leaf`, which is the operand that the new node reads.
    pub fn absorb_down_to(&mut self, id: Id, leaf: Id) {
        let mut seen = BTreeMap::new();
        self.reaches(id, self.egraph.find(leaf), MAX_CHAIN, &mut seen);
        seen.into_iter().filter(|(_, between)| *between).for_each(|(id, _)| self.absorb(id));
    }

    /// Is `leaf` below this class? Answers for all classes on the way go to `seen`.
    fn reaches(&self, id: Id, leaf: Id, depth: usize, seen: &mut BTreeMap<Id, bool>) -> bool {
        let id = self.egraph.find(id);
        if id == leaf || depth == 0 {
            return id == leaf;
        }
        if let Some(known) = seen.get(&id) {
            return *known;
        }
        seen.insert(id, false);
        let mut nodes: Vec<&ENode> = self.egraph[id].nodes.iter().filter(|n| matches!(n, ENode::Op { .. })).collect();
        nodes.sort();
        let below: Vec<Id> = nodes.into_iter().flat_map(|n| n.children().to_vec()).collect();
        let hits = below.into_iter().filter(|c| self.reaches(*c, leaf, depth - 1, seen)).count();
        seen.insert(id, hits > 0);
        hits > 0
    }

    /// Adds an operator with one result; `None` when its inference refuses the operands.
    pub fn node(&mut self, op: &str, inputs: &[Option<Id>], attrs: Attrs) -> Option<Id> {
        let index = self.egraph.analysis.tables.op_index(op)?;
        let absent = self.egraph.add(ENode::Absent);
        let children: Box<[Id]> = inputs.iter().map(|i| i.unwrap_or(absent)).collect();
        analysis::infer(self.egraph, self.egraph.analysis.tables.op(index), &attrs, &children, 1).ok()?;
        let attrs = self.egraph.analysis.tables.intern_attrs(attrs);
        self.origins.sort();
        self.origins.dedup();
        self.egraph.analysis.origins.clone_from(&self.origins);
        let id = self.egraph.add(ENode::Op { op: index, attrs, results: 1, children });
        self.egraph.analysis.origins.clear();
        Some(id)
    }

    /// [`RuleCx::node`] with all operands present.
    pub fn node_of(&mut self, op: &str, inputs: &[Id], attrs: Attrs) -> Option<Id> {
        let inputs: Vec<Option<Id>> = inputs.iter().copied().map(Some).collect();
        self.node(op, &inputs, attrs)
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, tensor: Tensor) -> Id {
        let constant = self.egraph.analysis.tables.intern_const(tensor);
        self.egraph.add(ENode::Const(constant))
    }

    /// Says that two classes are equal, for rules that build several forms of their root.
    pub fn unite(&mut self, a: Id, b: Id) {
        assert!(
            analysis::compatible(self.types(a), self.types(b)),
            "internal: a rule unites {:?} and {:?}",
            self.ty(a),
            self.ty(b)
        );
        self.egraph.union(a, b);
    }

    /// Applies an operator to constants by its reference evaluation.
    pub fn fold(&mut self, op: &str, inputs: &[Tensor], attrs: &Attrs) -> Option<Tensor> {
        let index = self.egraph.analysis.tables.op_index(op)?;
        let op = self.egraph.analysis.tables.op(index);
        let ids: Vec<Id> = inputs.iter().map(|t| self.add_constant(t.clone())).collect();
        let types = analysis::infer(self.egraph, op, attrs, &ids, 1).ok()?;
        let refs: Vec<Option<&Tensor>> = inputs.iter().map(Some).collect();
        (op.eval)(&EvalCx { attrs, inputs: &refs, outputs: &types }).ok()?.into_iter().next()
    }
}

/// Bounds of a saturation.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Iterations over all rules.
    pub iterations: usize,
    /// E-nodes.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { iterations: 24, nodes: 200_000 }
    }
}

/// Runs rules until nothing is added or a limit is reached; says whether it saturated.
pub fn saturate(egraph: Graph, rules: &[Rule], limits: Limits) -> (Graph, bool) {
    let rewrites: Vec<Rewrite<ENode, Facts>> = rules
        .iter()
        .map(|rule| Rewrite::new(rule.name, Search(*rule), Apply(*rule)).expect("internal: rules bind no pattern variables"))
        .collect();
    // A runner starts with an e-graph of its own, which is replaced at once.
    let empty = Facts::new(Tables::new(OpSet(&[])), Vec::new(), DimBounds::new());
    let runner: Runner<ENode, Facts> = Runner::new(empty)
        .with_egraph(egraph)
        .with_scheduler(SimpleScheduler)
        .with_iter_limit(limits.iterations)
        .with_node_limit(limits.nodes)
        .with_time_limit(std::time::Duration::from_secs(u64::from(u32::MAX)))
        .run(&rewrites);
    let saturated = matches!(runner.stop_reason, Some(egg::StopReason::Saturated));
    (runner.egraph, saturated)
}

struct Search(Rule);

impl Searcher<ENode, Facts> for Search {
    fn search_eclass_with_limit(&self, egraph: &Graph, eclass: Id, _limit: usize) -> Option<SearchMatches<'_, ENode>> {
        let heads = self.0.roots.heads(&egraph.analysis.tables);
        let hit = egraph[eclass].nodes.iter().any(|n| heads.contains(&n.discriminant()));
        hit.then(|| SearchMatches { eclass, substs: vec![Subst::default()], ast: None })
    }

    fn search_with_limit(&self, egraph: &Graph, _limit: usize) -> Vec<SearchMatches<'_, ENode>> {
        let heads = self.0.roots.heads(&egraph.analysis.tables);
        let classes = heads.iter().flat_map(|h| egraph.classes_for_op(h).into_iter().flatten());
        let mut classes: Vec<Id> = classes.collect();
        classes.sort();
        classes.dedup();
        classes.into_iter().map(|eclass| SearchMatches { eclass, substs: vec![Subst::default()], ast: None }).collect()
    }

    fn vars(&self) -> Vec<Var> {
        Vec::new()
    }
}

struct Apply(Rule);

impl egg::Applier<ENode, Facts> for Apply {
    fn apply_one(
        &self,
        egraph: &mut Graph,
        eclass: Id,
        _: &Subst,
        _: Option<&egg::PatternAst<ENode>>,
        name: egg::Symbol,
    ) -> Vec<Id> {
        let root_origins = egraph[eclass].data.origins.clone();
        let heads = self.0.roots.heads(&egraph.analysis.tables);
        let mut cx = RuleCx { egraph, origins: Vec::new() };
        let matches = cx.find_heads(eclass, &heads);
        let mut changed = Vec::new();
        for found in matches {
            cx.origins.clone_from(&root_origins);
            let Some(equal) = (self.0.apply)(&mut cx, &found) else { continue };
            let (root, new) = (cx.egraph.find(eclass), cx.egraph.find(equal));
            let (a, b) = (&cx.egraph[root].data.types, &cx.egraph[new].data.types);
            assert!(analysis::compatible(a, b), "internal: rule {name} made {b:?} from {a:?}");
            if cx.egraph.union(root, new) {
                changed.push(cx.egraph.find(root));
            }
        }
        changed
    }
}
