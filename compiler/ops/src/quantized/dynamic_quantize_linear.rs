//! `dynamic_quantize_linear`: u8 values with the scale and zero point that cover the tensor's range and 0.

use onnxc_ir::lir::{Expr, Stmt};
use onnxc_ir::lower::LowerCx;
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
    let (low, high) = (cx.let_(Expr::f32(0.0)), cx.let_(Expr::f32(0.0)));
    if !x.view.shape.contains(&0) {
        nest::each_run(cx, &x, &x, &mut |cx, at, _| {
            let value = nest::at(x.buf, at);
            cx.set(low, Expr::bin(BinOp::Min, Expr::Var(low), value.clone()));
            cx.set(high, Expr::bin(BinOp::Max, Expr::Var(high), value));
        });
    }
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
    nest::each_run(cx, &x, &y, &mut |cx, from, to| {
        let value = quantise(nest::at(x.buf, from), Expr::Var(zero));
        cx.push(Stmt::Store(y.buf, to, value.cast_from(DType::I32, DType::U8)));
    });
    Ok(())
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
