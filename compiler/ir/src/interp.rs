//! The reference interpreter: the judge of meaning. It runs a graph node by node through the operators' `eval` and is never optimised.

use crate::dim::{Dim, DimBindings};
use crate::graph::{Attr, Graph, Node, TensorType};
use crate::op::{EvalCx, InferCx, OpError};
use crate::tensor::Tensor;

/// Why a graph could not be run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InterpError {
    /// The wrong number of inputs.
    #[error("the graph takes {want} inputs, {got} were given")]
    InputCount {
        /// Inputs of the graph.
        want: usize,
        /// Inputs given.
        got: usize,
    },
    /// An input has another type than the graph's.
    #[error("input {name}: expected {want}, got {got}")]
    InputType {
        /// Name of the input.
        name: String,
        /// Type in the graph.
        want: TensorType,
        /// Type given.
        got: TensorType,
    },
    /// An operator refused.
    #[error("{op} ({origin}): {error}")]
    Op {
        /// Mnemonic.
        op: &'static str,
        /// ONNX node.
        origin: String,
        /// Reason.
        error: OpError,
    },
}

/// Runs `graph` on `inputs`, which may have any extents that the graph's symbolic types allow.
pub fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, InterpError> {
    Ok(run_all(graph, inputs)?.1)
}

/// Like [`run`], and also every value of the graph (for finding where two graphs diverge).
pub fn run_all(graph: &Graph, inputs: &[Tensor]) -> Result<(Vec<Option<Tensor>>, Vec<Tensor>), InterpError> {
    if graph.inputs.len() != inputs.len() {
        return Err(InterpError::InputCount { want: graph.inputs.len(), got: inputs.len() });
    }
    let mut values: Vec<Option<Tensor>> = graph.values.iter().map(|v| v.constant.clone()).collect();
    for (id, tensor) in graph.inputs.iter().zip(inputs) {
        let (want, got) = (graph.ty(*id), TensorType::fixed(tensor.dtype(), tensor.shape()));
        if !accepts(want, &got) {
            let name = graph.value(*id).name.clone();
            return Err(InterpError::InputType { name, want: want.clone(), got });
        }
        values[id.0 as usize] = Some(tensor.clone());
    }
    let mut sizes = sizes_of(graph, inputs);
    for node in &graph.nodes {
        let operands: Vec<Option<&Tensor>> = node
            .inputs
            .iter()
            .map(|i| i.map(|id| values[id.0 as usize].as_ref().expect("internal: nodes are out of order")))
            .collect();
        let results = match with_sizes(node, &sizes) {
            Some(node) => run_node(&node, &operands)?,
            None => run_node(node, &operands)?,
        };
        for (id, tensor) in node.outputs.iter().zip(results) {
            learn(graph.ty(*id), &tensor, &mut sizes);
            values[id.0 as usize] = Some(tensor);
        }
    }
    let outputs = graph.outputs.iter().map(|id| values[id.0 as usize].clone().expect("internal: an output is not computed"));
    let outputs = outputs.collect();
    Ok((values, outputs))
}

/// Values of the symbols that are extents of inputs.
fn sizes_of(graph: &Graph, inputs: &[Tensor]) -> DimBindings {
    let mut sizes = DimBindings::new();
    for (id, tensor) in graph.inputs.iter().zip(inputs) {
        learn(graph.ty(*id), tensor, &mut sizes);
    }
    sizes
}

/// Symbols that are extents of a type, and not known yet, have the values that a tensor of that type shows.
fn learn(ty: &TensorType, tensor: &Tensor, sizes: &mut DimBindings) {
    for (dim, n) in ty.shape.iter().zip(tensor.shape()) {
        if let Dim::Sym(name) = dim {
            sizes.entry(name.to_string()).or_insert(*n);
        }
    }
}

/// A node with numbers in the place of symbols, if it has lists of sizes among its attributes.
pub fn with_sizes(node: &Node, sizes: &DimBindings) -> Option<Node> {
    node.attrs.0.values().any(|a| matches!(a, Attr::Dims(_))).then(|| {
        let mut node = node.clone();
        for attr in node.attrs.0.values_mut() {
            if let Attr::Dims(dims) = attr {
                dims.iter_mut().for_each(|d| *d = d.bind(sizes));
            }
        }
        node
    })
}

/// Runs one node: infers its result types for the operands at hand, then evaluates.
pub fn run_node(node: &Node, operands: &[Option<&Tensor>]) -> Result<Vec<Tensor>, InterpError> {
    let origin = || node.origins.join(", ");
    let fail = |error| InterpError::Op { op: node.op.name, origin: origin(), error };
    let inputs: Vec<Option<TensorType>> = operands.iter().map(|t| t.map(|t| TensorType::fixed(t.dtype(), t.shape()))).collect();
    let constants: Vec<Option<Tensor>> = operands.iter().map(|t| t.cloned()).collect();
    let dims: Vec<Option<Vec<Dim>>> = constants.iter().map(|t| t.as_ref().and_then(as_dims)).collect();
    let cx = InferCx { attrs: &node.attrs, inputs: &inputs, constants: &constants, dims: &dims, n_outputs: node.outputs.len() };
    let outputs = (node.op.infer)(&cx).map_err(fail)?;
    let results = (node.op.eval)(&EvalCx { attrs: &node.attrs, inputs: operands, outputs: &outputs }).map_err(fail)?;
    for (result, ty) in results.iter().zip(&outputs) {
        let got = TensorType::fixed(result.dtype(), result.shape());
        assert!(accepts(ty, &got), "internal: {}: eval gives {got}, inference says {ty}", node.op.name);
    }
    Ok(results)
}

/// A constant integer tensor as dimensions; -1 is [`Dim::rest`], and what else is negative is none.
pub fn as_dims(tensor: &Tensor) -> Option<Vec<Dim>> {
    if !tensor.dtype().is_int() || tensor.len() > 64 {
        return None;
    }
    let dim = |n: i64| if n == -1 { Some(Dim::rest()) } else { u64::try_from(n).ok().map(Dim::Const) };
    tensor.to_i64s()?.into_iter().map(dim).collect()
}

/// Does a value of type `got` (constant extents) fit the possibly symbolic type `want`?
pub fn accepts(want: &TensorType, got: &TensorType) -> bool {
    let dims = |(w, g): (&Dim, &Dim)| w.as_const().is_none() || w == g;
    want.dtype == got.dtype && want.rank() == got.rank() && want.shape.iter().zip(&got.shape).all(dims)
}
