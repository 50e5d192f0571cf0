//! `loop`: a graph that is run again and again. ONNX `Loop` and `Scan` become this.
//!
//! Operands: the most iterations (one i64, may be absent), the condition (one bool, may be absent: true), `carried` values, then captures. The body
//! (attribute `body`) takes the number of the iteration (i64), the condition (bool), the carried values and the captures, and gives the condition of
//! the next iteration, the carried values, and values of this iteration. Results: the carried values after the last iteration; of each value of the
//! iterations, all of them along a new first dimension of attribute `extent`; the number of iterations (i64).
//!
//! Carried values may change their extents: those that are among the symbols of attribute `sizes` in the body's inputs have in each iteration, and in the
//! results, the value that the iteration before gave them, or the operands if there was none.
//!
//! Should there be more iterations than `extent`, the values beyond it are dropped; should there be fewer, the rest is undefined. The importer
//! requires the number of iterations to be `extent` where it is not sure.

use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Dim, Graph, Node, Tensor, TensorType, interp};

use crate::common::elements::Picker;
use crate::common::sample::{f32s, int};

/// `loop`
pub(crate) static LOOP: OpDef =
    OpDef { name: "loop", onnx: &[], infer, infer_dims: None, eval, lower: Lower::None, tolerance: Tolerance::EXACT, samples };

/// Iterations that the interpreter runs before it gives up.
const MOST: u64 = 1 << 24;

fn body(attrs: &Attrs) -> OpResult<&Graph> {
    attrs.graph("body").ok_or_else(|| OpError::new("the body is missing"))
}

fn carried(attrs: &Attrs) -> usize {
    attrs.int("carried").and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (body, carried) = (body(cx.attrs)?, carried(cx.attrs));
    for (i, what, dtype) in [(0, "the number of iterations", DType::I64), (1, "the condition", DType::Bool)] {
        if let Some(ty) = cx.opt(i).filter(|ty| ty.dtype != dtype || !ty.shape.iter().all(Dim::is_one)) {
            return Err(OpError::new(format!("{what} is {ty}, it must be one {dtype}")));
        }
    }
    let broken = || OpError::new("the body does not fit the operands");
    if body.inputs.len() != cx.inputs.len() || body.outputs.len() < 1 + carried || cx.inputs.len() < 2 + carried {
        return Err(broken());
    }
    for (i, formal) in body.inputs.iter().enumerate().skip(2) {
        if cx.input(i)?.dtype != body.ty(*formal).dtype {
            return Err(broken());
        }
    }
    let mut types: Vec<TensorType> = body.inputs[2..2 + carried].iter().map(|id| body.ty(*id).clone()).collect();
    let sizes = cx.attrs.strs("sizes").unwrap_or(&[]);
    let free = |d: &Dim| matches!(d, Dim::Sym(name) if sizes.iter().any(|s| **s == **name));
    let keeps = |ty: &TensorType, other: &TensorType| {
        // The interpreter knows a number where the body has a symbol.
        let same = |(d, o): (&Dim, &Dim)| d == o || free(d) || d.as_const().is_none() && o.as_const().is_some();
        ty.dtype == other.dtype && ty.rank() == other.rank() && ty.shape.iter().zip(&other.shape).all(same)
    };
    for (i, ty) in types.iter().enumerate() {
        let (before, after) = (cx.input(2 + i)?, body.ty(body.outputs[1 + i]));
        if !keeps(ty, before) || !keeps(ty, after) {
            return Err(OpError::new(format!("carried value {i} is {before} before and {after} after an iteration")));
        }
    }
    if let Some(ty) =
        body.outputs[1 + carried..].iter().map(|id| body.ty(*id)).find(|ty| ty.shape.iter().any(|d| mentions(d, sizes)))
    {
        let error = OpError::new(format!("a value of each iteration is kept, and its extents change: {ty}"));
        return Err(error.help("pad it to its largest size inside of the body"));
    }
    let extent = cx.attrs.int("extent").and_then(|n| u64::try_from(n).ok());
    for id in &body.outputs[1 + carried..] {
        let mut ty = body.ty(*id).clone();
        ty.shape.insert(0, Dim::Const(extent.ok_or_else(|| OpError::new("the number of iterations is not known"))?));
        types.push(ty);
    }
    types.push(TensorType::fixed(DType::I64, &[]));
    Ok(types)
}

/// Does an extent depend on one of these symbols?
fn mentions(extent: &Dim, symbols: &[String]) -> bool {
    symbols.iter().any(|s| extent.mentions(s))
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (body, carried) = (body(cx.attrs)?, carried(cx.attrs));
    let number = |t: &Tensor| t.to_i64s().and_then(|v| v.first().copied());
    let trips = cx.opt(0).and_then(number).map_or(u64::MAX, |n| n.max(0) as u64);
    let mut go_on = cx.opt(1).and_then(number).is_none_or(|c| c != 0);
    let mut state: Vec<Tensor> = cx.inputs[2..2 + carried].iter().flatten().map(|t| (*t).clone()).collect();
    let captures: Vec<Tensor> = cx.inputs[2 + carried..].iter().flatten().map(|t| (*t).clone()).collect();
    let mut gathered: Vec<Picker> = cx.outputs[carried..cx.outputs.len() - 1].iter().map(|ty| Picker::new(ty.dtype)).collect();
    let mut count = 0;
    while go_on && count < trips {
        if count == MOST {
            return Err(OpError::new("the loop does not end"));
        }
        let mut inputs = vec![Tensor::scalar(count as i64), Tensor::scalar(true)];
        inputs.extend(state.iter().chain(&captures).cloned());
        let results = interp::run(body, &inputs).map_err(|e| OpError::new(e.to_string()))?;
        go_on = number(&results[0]).unwrap_or(0) != 0;
        let kept = cx.attrs.int("extent").is_none_or(|n| count < n as u64);
        for (all, one) in gathered.iter_mut().zip(&results[1 + carried..]).filter(|_| kept) {
            (0..one.len()).for_each(|i| all.pick(one, i));
        }
        state = results[1..=carried].to_vec();
        within_bounds(body, &state)?;
        count += 1;
    }
    for (i, mut all) in gathered.into_iter().enumerate() {
        let shape = cx.out_shape(carried + i);
        (all.len()..shape.iter().product::<u64>() as usize).for_each(|_| all.zero());
        state.push(all.finish(&shape));
    }
    state.push(Tensor::scalar(count as i64));
    Ok(state)
}

/// Are carried values no larger than their symbols may be?
fn within_bounds(body: &Graph, state: &[Tensor]) -> OpResult<()> {
    for (id, value) in body.inputs[2..].iter().zip(state) {
        for (extent, n) in body.ty(*id).shape.iter().zip(value.shape()) {
            if let (Dim::Sym(_), (_, most)) = (extent, extent.range(&body.bounds))
                && *n > most
            {
                return Err(OpError::new(format!(
                    "a carried value has {n} elements along a dimension, more than the bound {most}"
                )));
            }
        }
    }
    Ok(())
}

/// `y = -y` a number of times, each of them kept.
fn samples() -> Vec<Sample> {
    let mut graph = Graph::new("body");
    let ty = TensorType::fixed(DType::F32, &[5]);
    graph.add_input("i", TensorType::fixed(DType::I64, &[]));
    let cond = graph.add_input("go_on", TensorType::fixed(DType::Bool, &[]));
    let x = graph.add_input("x", ty.clone());
    let y = graph.add_value("y", ty, None);
    let (inputs, origins) = (vec![Some(x)], vec!["body".to_string()]);
    graph.nodes.push(Node { op: &crate::elementwise::NEG, inputs, outputs: vec![y], attrs: Attrs::default(), origins });
    graph.outputs = vec![cond, y, y];
    let attrs =
        Attrs::default().with("body", Attr::Graph(Box::new(graph))).with("carried", Attr::Int(1)).with("extent", Attr::Int(3));
    vec![Sample { attrs, inputs: vec![int(3), None, f32s(&[5])], n_outputs: 3 }]
}
