//! `if`: one of two graphs. Operands: the condition (bool, one element), then captures, which both graphs take as inputs. Attributes `then` and `else`.
//!
//! Extents of results that are not the same in both branches are those of the one that is taken; attribute `extents` has a symbol for each of them
//! (all extents of all results, one after the other; the other ones do not matter).
//!
//! The importer builds it and inlines conditions that are known; the planner lays both bodies out and branches between them.

use onnxc_ir::graph::Node;
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Dim, Graph, Tensor, TensorType, ValueId, interp};

use crate::common::sample::{data, f32s};

/// `if`
pub(crate) static IF: OpDef =
    OpDef { name: "if", onnx: &[], infer, infer_dims: None, eval, lower: Lower::None, tolerance: Tolerance::EXACT, samples };

fn body<'a>(attrs: &'a Attrs, name: &str) -> OpResult<&'a Graph> {
    attrs.graph(name).ok_or_else(|| OpError::new(format!("branch {name} is missing")))
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let cond = cx.input(0)?;
    if cond.dtype != DType::Bool {
        return Err(OpError::new(format!("the condition is {cond}, it must be one bool")));
    }
    let (then, other) = (body(cx.attrs, "then")?, body(cx.attrs, "else")?);
    if then.outputs.len() != other.outputs.len() {
        return Err(OpError::new("the branches have different numbers of outputs"));
    }
    let mut stated = cx.attrs.dims("extents");
    let pairs = then.outputs.iter().zip(&other.outputs).enumerate();
    let result = |(i, (a, b)): (usize, (&ValueId, &ValueId))| {
        let (a, b) = (then.ty(*a), other.ty(*b));
        let own = stated.map(|all| all.split_at(a.rank().min(all.len())));
        stated = own.map(|(_, rest)| rest);
        merge(i, a, b, own.map(|(own, _)| own))
    };
    pairs.map(result).collect()
}

/// The type of a result that has one of two types: where they differ, with the extents that are stated for that.
fn merge(i: usize, a: &TensorType, b: &TensorType, stated: Option<&[Dim]>) -> OpResult<TensorType> {
    let differ = || {
        OpError::new(format!("output {i} is {a} in one branch and {b} in the other"))
            .help("make the condition a constant, or give both branches the same shape")
    };
    if a.dtype != b.dtype || a.rank() != b.rank() || stated.is_some_and(|s| s.len() != a.rank()) {
        return Err(differ());
    }
    let dim = |(d, (x, y)): (usize, (&Dim, &Dim))| match (stated, x.as_const(), y.as_const()) {
        _ if x == y => Ok(x.clone()),
        (Some(extents), ..) => Ok(extents[d].clone()),
        (None, Some(_), Some(_)) => Err(differ()),
        (None, None, Some(n)) => Ok(Dim::Const(n)),
        (None, ..) => Ok(x.clone()),
    };
    let shape = a.shape.iter().zip(&b.shape).enumerate().map(dim).collect::<OpResult<Vec<Dim>>>()?;
    Ok(TensorType::new(a.dtype, shape))
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let taken = cx.input(0).to_i64s().and_then(|v| v.first().copied()).unwrap_or(0) != 0;
    let graph = body(cx.attrs, if taken { "then" } else { "else" })?;
    let captures: Vec<Tensor> = cx.inputs[1..].iter().flatten().map(|t| (*t).clone()).collect();
    interp::run(graph, &captures).map_err(|e| OpError::new(e.to_string()))
}

fn samples() -> Vec<Sample> {
    let branch = |op: &'static OpDef, shape: &[u64]| {
        let mut graph = Graph::new("branch");
        let ty = TensorType::fixed(DType::F32, shape);
        let x = graph.add_input("x", ty.clone());
        let y = graph.add_value("y", ty, None);
        let origins = vec!["branch".to_string()];
        graph.nodes.push(Node { op, inputs: vec![Some(x)], outputs: vec![y], attrs: Attrs::default(), origins });
        graph.outputs = vec![y];
        Attr::Graph(Box::new(graph))
    };
    let shape = [3, 17];
    let attrs = Attrs::default()
        .with("then", branch(&crate::elementwise::NEG, &shape))
        .with("else", branch(&crate::elementwise::ABS, &shape));
    vec![Sample { attrs, inputs: vec![data(DType::Bool, &[]), f32s(&shape)], n_outputs: 1 }]
}
