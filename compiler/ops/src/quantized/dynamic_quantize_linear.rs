//! `dynamic_quantize_linear`: u8 values with the scale and zero point that cover the tensor's range and 0.

use onnxc_ir::lir::{Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{DType, Tensor, TensorType};

use super::params::{range_with_zero, round_clamp};
use crate::common::nest::{self, ExprExt, int, select};
use crate::common::sample;

pub(crate) static DYNAMIC_QUANTIZE_LINEAR: OpDef = OpDef {
    name: "dynamic_quantize_linear",
    onnx: &[Import {
        domain: "",
        name: "DynamicQuantizeLinear",
        opsets: (11, NEWEST),
        build: |cx| cx.forward("dynamic_quantize_linear"),
    }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    if x.dtype != DType::F32 {
        return Err(OpError::new(format!("quantising {} is not supported", x.dtype)));
    }
    Ok(vec![TensorType::new(DType::U8, x.shape.clone()), TensorType::new(DType::F32, vec![]), TensorType::new(DType::U8, vec![])])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0).to_vec::<f32>();
    let (low, high) = range_with_zero(&x);
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    let zero = round_clamp(-low / scale, 0, DType::U8);
    let y = x.iter().map(|v| round_clamp(v / scale, zero, DType::U8) as u8).collect();
    Ok(vec![Tensor::from_vec(cx.input(0).shape(), y), Tensor::scalar(scale), Tensor::scalar(zero as u8)])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let all = divided(cx, &x, &y);
    let (low, high) = range(cx, &x, all);
    let same = Expr::bin(BinOp::Eq, Expr::Var(high), Expr::Var(low));
    let spread = Expr::bin(BinOp::Div, Expr::Var(high).minus(Expr::Var(low)), Expr::f32(255.0));
    let scale = cx.let_(select(same, Expr::f32(1.0), spread));
    let quantise = |value: Expr, zero: Expr| {
        let ratio = Expr::bin(BinOp::Div, value, Expr::Var(scale));
        let bounded = Expr::bin(BinOp::Max, Expr::bin(BinOp::Min, ratio, Expr::f32(1e6)), Expr::f32(-1e6));
        let rounded = Expr::un(UnOp::Round, bounded).cast_from(DType::F32, DType::I32);
        let shifted = Expr::bin(BinOp::Add, rounded, zero);
        Expr::bin(BinOp::Min, Expr::bin(BinOp::Max, shifted, int(DType::I32, 0)), int(DType::I32, 255))
    };
    let zero = cx.let_(quantise(Expr::f32(0.0).minus(Expr::Var(low)), int(DType::I32, 0)));
    let (scale_out, zero_out) = (cx.output(1), cx.output(2));
    cx.store(&scale_out, &[], Expr::Var(scale));
    cx.store(&zero_out, &[], Expr::Var(zero).cast_from(DType::I32, DType::U8));
    if x.view.shape.contains(&0) {
        return Ok(());
    }
    let mut one = |cx: &mut LowerCx, from: Expr, to: Expr| {
        let value = quantise(nest::at(x.buf, from), Expr::Var(zero));
        cx.push(Stmt::Store(y.buf, to, value.cast_from(DType::I32, DType::U8)));
    };
    let Some(n) = all else {
        nest::each_run(cx, &x, &y, &mut one);
        return Ok(());
    };
    let (from, to) = (first(&x), first(&y));
    tasks(cx, n, |cx, _, elements| {
        cx.for_range(LoopKind::Vector, elements.0, elements.1, 1, |cx, i| one(cx, from.add(i.clone()), to.add(i)));
    });
    Ok(())
}

/// Elements of a task.
const TASK: u64 = 8 * 1024;

/// How many elements there are, if they are neighbours in both and worth several tasks.
fn divided(cx: &LowerCx, x: &Arg, y: &Arg) -> Option<u64> {
    let (outer, run) = nest::runs(x, y);
    (outer.is_empty() && run >= 2 * TASK && cx.target.max_threads > 1 && cx.at_top_level()).then_some(run)
}

/// Where the first element is.
fn first(of: &Arg) -> Expr {
    of.index(&nest::origin(of.view.shape.len()))
}

/// A loop over tasks, each with its number and the first and the last one of its elements.
fn tasks(cx: &mut LowerCx, n: u64, body: impl FnOnce(&mut LowerCx, Expr, (Expr, Expr))) {
    cx.for_(LoopKind::Parallel, n.div_ceil(TASK), |cx, task| {
        let from = Expr::Var(cx.let_(task.clone().times(TASK as i64)));
        let to = Expr::bin(BinOp::Min, from.clone().add(Expr::Int(TASK as i64)), Expr::Int(n as i64));
        let to = Expr::Var(cx.let_(to));
        body(cx, task, (from, to));
    });
}

/// The smallest and the largest element, or 0 if that is beyond; of so many neighbours tasks find their own ones first.
fn range(cx: &mut LowerCx, x: &Arg, all: Option<u64>) -> (Var, Var) {
    let start = |cx: &mut LowerCx| (cx.let_(Expr::f32(0.0)), cx.let_(Expr::f32(0.0)));
    let widen = |cx: &mut LowerCx, (low, high): (Var, Var), from: Expr, to: Expr| {
        cx.set(low, Expr::bin(BinOp::Min, Expr::Var(low), from));
        cx.set(high, Expr::bin(BinOp::Max, Expr::Var(high), to));
    };
    let Some(n) = all else {
        let ends = start(cx);
        if !x.view.shape.contains(&0) {
            nest::each_run(cx, x, x, &mut |cx, at, _| {
                let value = nest::at(x.buf, at);
                widen(cx, ends, value.clone(), value);
            });
        }
        return ends;
    };
    let count = n.div_ceil(TASK);
    let found = cx.scratch(DType::F32, 2 * count, false);
    let behind = |task: Expr| task.add(Expr::Int(count as i64));
    let origin = first(x);
    tasks(cx, n, |cx, task, elements| {
        let own = start(cx);
        cx.for_range(LoopKind::Vector, elements.0, elements.1, 1, |cx, i| {
            let value = nest::at(x.buf, origin.add(i));
            widen(cx, own, value.clone(), value);
        });
        cx.push(Stmt::Store(found, task.clone(), Expr::Var(own.0)));
        cx.push(Stmt::Store(found, behind(task), Expr::Var(own.1)));
    });
    let ends = start(cx);
    cx.for_(LoopKind::Serial, count, |cx, task| widen(cx, ends, nest::at(found, task.clone()), nest::at(found, behind(task))));
    ends
}

fn samples() -> Vec<Sample> {
    let case = |shape: &[u64], low: f64, high: f64| Sample {
        n_outputs: 3,
        ..sample::plain(vec![sample::data_in(DType::F32, shape, low, high)])
    };
    // NaN and infinities are in the range, wherever they are.
    let with = |value: f32, at: usize| {
        let x = (0..37).map(|i| if i == at { value } else { i as f32 / 8.0 - 2.0 }).collect();
        Sample { n_outputs: 3, ..sample::plain(vec![Some(SampleInput::Const(Tensor::from_vec(&[37], x)))]) }
    };
    vec![
        with(f32::NAN, 0),
        with(f32::NAN, 19),
        with(f32::NAN, 36),
        with(f32::INFINITY, 5),
        with(f32::NEG_INFINITY, 30),
        case(&[3, 37], -2.0, 5.0),
        case(&[2, 5, 4, 3], 1.0, 9.0),
        case(&[17], -8.0, -1.0),
        case(&[4], 0.0, 0.0),
        case(&[], -1.0, 1.0),
    ]
}
