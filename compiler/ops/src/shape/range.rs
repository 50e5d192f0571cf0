//! `range`: start, start + delta, ... below limit. The count must be known when compiling, the values need not be.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, SampleInput, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{DType, Dim, Tensor, TensorType};

use crate::at_run_time::{self, or_counted};
use crate::common::axes::unknown;
use crate::common::broadcast::same_dtype;
use crate::common::elements::{from_scalars, scalars};
use crate::common::nest::{ExprExt, compute_type};
use crate::common::sample::{int, plain};

/// `range`
pub(crate) static RANGE: OpDef = OpDef {
    name: "range",
    onnx: &[Import {
        domain: "",
        name: "Range",
        opsets: (11, NEWEST),
        build: |cx| or_counted(cx, |cx| cx.forward("range"), at_run_time::range),
    }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::POLY,
    samples: || {
        let f = |x: f32| Some(SampleInput::Const(Tensor::scalar(x)));
        vec![plain(vec![int(3), int(20), int(4)]), plain(vec![int(10), int(-3), int(-1)]), plain(vec![f(1.0), f(2.0), f(0.25)])]
    },
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    same_dtype(cx, 0..3)?;
    let dtype = cx.input(0)?.dtype;
    if (0..3).all(|i| cx.constant(i).is_some()) {
        let get = |i: usize| {
            cx.constant(i).and_then(|t| scalars(t).ok()?.first().copied()).ok_or_else(|| OpError::new("operands must be scalars"))
        };
        return Ok(vec![TensorType::new(dtype, vec![Dim::Const(count(get(0)?, get(1)?, get(2)?)?)])]);
    }
    // `range(0, N, 1)` of a symbolic N.
    let scalar = |i: usize| cx.as_dims(i).and_then(|d| d.first().cloned());
    match (scalar(0), scalar(1), scalar(2)) {
        (Some(start), Some(limit), Some(Dim::Const(delta))) if delta > 0 => {
            Ok(vec![TensorType::new(dtype, vec![limit.sub(&start).div_ceil(&Dim::Const(delta))])])
        }
        _ => Err(unknown("the number of elements")),
    }
}

fn count(start: Scalar, limit: Scalar, delta: Scalar) -> OpResult<u64> {
    let n = match (start, limit, delta) {
        (_, _, Scalar::Int(0)) => return Err(OpError::new("delta is 0")),
        (Scalar::Int(a), Scalar::Int(b), Scalar::Int(d)) => {
            let (span, step) = if d > 0 { (b - a, d) } else { (a - b, -d) };
            if span <= 0 { 0.0 } else { ((span + step - 1) / step) as f64 }
        }
        _ if delta.float() == 0.0 => return Err(OpError::new("delta is 0")),
        _ => ((limit.float() - start.float()) / delta.float()).ceil().max(0.0),
    };
    if n < 1e15 { Ok(n as u64) } else { Err(OpError::new("has too many elements")) }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let get = |i: usize| scalars(cx.input(i)).map(|v| v[0]);
    let (start, delta, n) = (get(0)?, get(2)?, cx.out_shape(0)[0]);
    let dtype = cx.outputs[0].dtype;
    let value = |i: u64| match (start, delta) {
        (Scalar::Int(a), Scalar::Int(d)) => Scalar::Int(a + d * i128::from(i)),
        (a, d) => Scalar::Float(a.float() + d.float() * i as f64),
    };
    Ok(vec![from_scalars(dtype, &[n], (0..n).map(value))?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (out, start, delta) = (cx.output(0), cx.input(0), cx.input(2));
    let work = compute_type(out.dtype);
    let first = |cx: &LowerCx, arg: &onnxc_ir::lower::Arg| {
        let zeros = vec![Expr::Int(0); arg.view.shape.len()];
        cx.load(arg, &zeros).cast_from(arg.dtype, work)
    };
    cx.for_in(LoopKind::Serial, &out.view.extent(0), |cx, i| {
        let step = first(cx, &delta).mul(i.clone().cast_from(DType::I64, work));
        let value = Expr::bin(BinOp::Add, first(cx, &start), step).cast_from(work, out.dtype);
        cx.store(&out, &[i], value);
    });
    Ok(())
}
