//! What the e-graph knows of a class: types, constant value, origins, how often the input graph used it, and what was priced of it.

use std::collections::BTreeSet;

use egg::{Analysis, DidMerge, EGraph, Id};
use onnxc_ir::dim::DimBounds;
use onnxc_ir::interp::as_dims;
use onnxc_ir::op::{InferCx, OpDef, OpResult};
use onnxc_ir::{Attrs, Dim, Tensor, TensorType};

use crate::lang::{ENode, Tables};
use crate::lossy::{self, Priced};

/// The e-graph of onnxc.
pub type Graph = EGraph<ENode, Facts>;

/// Facts about a class.
#[derive(Clone, Debug)]
pub struct Class {
    /// Types of the results (one for everything but operators with several results; none for an absent operand).
    pub types: Vec<TensorType>,
    /// Id of the constant that the class equals.
    pub constant: Option<u32>,
    /// The class's integers as sizes, where they follow from shapes.
    pub sizes: Option<Vec<Dim>>,
    /// ONNX nodes whose work the class does, sorted.
    pub origins: Vec<String>,
    /// Uses in the graph from which the e-graph was made, graph outputs included; 0 for classes that rules made.
    pub uses: u32,
    /// A name for the value, from the model.
    pub name: Option<String>,
    /// E-nodes with prices, lossy ones among them: for extraction under constraints alone ([`crate::lossy`]).
    pub priced: Vec<Priced>,
}

impl Class {
    fn new() -> Class {
        Class { types: Vec::new(), constant: None, sizes: None, origins: Vec::new(), uses: 0, name: None, priced: Vec::new() }
    }
}

/// The analysis: holds the tables and what new classes inherit.
#[derive(Debug)]
pub struct Facts {
    /// Interned attributes and constants.
    pub tables: Tables,
    /// Types of the graph inputs.
    pub inputs: Vec<TensorType>,
    /// Bounds of open dimensions.
    pub bounds: DimBounds,
    /// Origins that classes made from now on get.
    pub origins: Vec<String>,
    /// What rules have put together already: the rule, its root and the other e-node.
    pub joined: BTreeSet<(&'static str, ENode, ENode)>,
}

impl Facts {
    /// Facts of a graph with these inputs.
    pub fn new(tables: Tables, inputs: Vec<TensorType>, bounds: DimBounds) -> Facts {
        Facts { tables, inputs, bounds, origins: Vec::new(), joined: BTreeSet::new() }
    }
}

impl Analysis<ENode> for Facts {
    type Data = Class;

    fn make(egraph: &mut Graph, enode: &ENode, _id: Id) -> Class {
        let facts = &egraph.analysis;
        let mut class = Class::new();
        match enode {
            ENode::Absent => {}
            ENode::Input(n) => class.types.push(facts.inputs[*n as usize].clone()),
            ENode::Const(id) => {
                let tensor = facts.tables.constant(*id);
                class.types.push(TensorType::fixed(tensor.dtype(), tensor.shape()));
                class.sizes = as_dims(tensor);
                class.constant = Some(*id);
            }
            ENode::Proj(n, [child]) => {
                class.types.push(egraph[*child].data.types[*n as usize].clone());
                class.origins.clone_from(&egraph[*child].data.origins);
            }
            ENode::Part(_, [child]) => class.types.clone_from(&egraph[*child].data.types),
            ENode::Op { op, attrs, results, children } => {
                let (op, attrs) = (facts.tables.op(*op), facts.tables.attrs(*attrs));
                (class.types, class.sizes) = infer_all(egraph, op, attrs, children, *results as usize)
                    .unwrap_or_else(|e| panic!("internal: {}: inference refuses a node in the e-graph: {e}", op.name));
                class.origins.clone_from(&facts.origins);
            }
        }
        class
    }

    fn merge(&mut self, a: &mut Class, b: Class) -> DidMerge {
        assert!(compatible(&a.types, &b.types), "internal: a rule joined {:?} and {:?}", a.types, b.types);
        let mut did = DidMerge(false, false);
        match (a.constant, b.constant) {
            (None, Some(_)) => (a.constant, did.0) = (b.constant, true),
            (Some(_), None) => did.1 = true,
            _ => {}
        }
        match (&a.sizes, b.sizes) {
            (None, Some(sizes)) => (a.sizes, did.0) = (Some(sizes), true),
            (Some(_), None) => did.1 = true,
            _ => {}
        }
        // Nothing follows from prices: parents need not hear of them.
        lossy::join(&mut a.priced, b.priced);
        a.uses = a.uses.max(b.uses);
        if a.name.is_none() {
            a.name = b.name;
        }
        for origin in b.origins {
            if let Err(at) = a.origins.binary_search(&origin) {
                a.origins.insert(at, origin);
            }
        }
        did
    }
}

/// Equal element types and no two known extents that differ.
pub fn compatible(a: &[TensorType], b: &[TensorType]) -> bool {
    let dims = |a: &TensorType, b: &TensorType| {
        a.shape.iter().zip(&b.shape).all(|(x, y)| x == y || x.as_const().is_none() || y.as_const().is_none())
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.dtype == b.dtype && a.rank() == b.rank() && dims(a, b))
}

/// Result types of an operator over classes.
pub fn infer(egraph: &Graph, op: &OpDef, attrs: &Attrs, children: &[Id], results: usize) -> OpResult<Vec<TensorType>> {
    infer_all(egraph, op, attrs, children, results).map(|(types, _)| types)
}

/// Result types, and the first result's integers as sizes.
fn infer_all(
    egraph: &Graph,
    op: &OpDef,
    attrs: &Attrs,
    children: &[Id],
    results: usize,
) -> OpResult<(Vec<TensorType>, Option<Vec<Dim>>)> {
    let class = |id: &Id| &egraph[*id].data;
    let inputs: Vec<Option<TensorType>> = children.iter().map(|c| class(c).types.first().cloned()).collect();
    let constant = |id: &Id| class(id).constant.map(|n| egraph.analysis.tables.constant(n).clone());
    let constants: Vec<Option<Tensor>> = children.iter().map(constant).collect();
    let dims: Vec<_> = children.iter().map(|id| class(id).sizes.clone()).collect();
    let cx = InferCx { attrs, inputs: &inputs, constants: &constants, dims: &dims, n_outputs: results };
    let (mut types, mut sizes) = ((op.infer)(&cx)?, op.infer_dims.and_then(|f| f(&cx)));
    // Operators infer all results that they can have; nodes may name fewer.
    types.truncate(results.max(1));
    let bounds = &egraph.analysis.bounds;
    if !bounds.is_empty() {
        types.iter_mut().flat_map(|t| &mut t.shape).chain(sizes.iter_mut().flatten()).for_each(|d| *d = d.within(bounds));
    }
    Ok((types, sizes))
}
