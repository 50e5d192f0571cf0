//! `quantize_linear`: `saturate(round(x / scale) + zero_point)`, rounding to nearest even; for 8-bit floats a conversion of `x / scale`, for f4e2m1
//! one of `x / scale + zero_point`.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, ScalarProgram, UnOp};
use onnxc_ir::scalar_eval::{Scalar, Writer};
use onnxc_ir::small_float::Rounding;
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId};

use super::params::{Spread, round_clamp};
use super::spread;
use crate::common::elements::{for_coords, scalars};
use crate::common::nest::{self, ExprExt, int};
use crate::common::sample;
use crate::common::small_float::{Conversion, convert};
use crate::composed::contrib::qlinear;

pub(crate) static QUANTIZE_LINEAR: OpDef = OpDef {
    name: "quantize_linear",
    onnx: &[
        Import { domain: "", name: "QuantizeLinear", opsets: (10, NEWEST), build },
        Import { domain: "com.microsoft", name: "QuantizeLinear", opsets: (1, NEWEST), build },
        qlinear::QLINEAR_ADD,
        qlinear::QLINEAR_MUL,
        qlinear::QLINEAR_SIGMOID,
        qlinear::QLINEAR_LEAKY_RELU,
        qlinear::QLINEAR_SOFTMAX,
        qlinear::QLINEAR_REDUCE_MEAN,
        qlinear::QLINEAR_AVERAGE_POOL,
        qlinear::QLINEAR_GLOBAL_AVERAGE_POOL,
        qlinear::QLINEAR_CONCAT,
        qlinear::QLINEAR_WHERE,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

/// `output_dtype` arrives as an ONNX type code.
fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let mut attrs = cx.attrs().clone();
    if let Some(code) = attrs.int("output_dtype") {
        attrs.0.remove("output_dtype");
        if code != 0 {
            let code = i32::try_from(code).unwrap_or(-1);
            let dtype = DType::from_onnx(code).ok_or_else(|| OpError::new(format!("output_dtype {code} is unknown")))?;
            attrs = attrs.with("output_dtype", Attr::Type(dtype));
        }
    }
    let inputs = cx.inputs().to_vec();
    cx.node("quantize_linear", &inputs, attrs)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    if !x.dtype.is_float() && x.dtype != DType::I32 {
        return Err(OpError::new(format!("quantising {} is not supported", x.dtype)));
    }
    if !scale.dtype.is_float() && scale.dtype != DType::I32 {
        return Err(OpError::new(format!("scales of type {} are not supported", scale.dtype)));
    }
    Spread::new(cx.attrs, x, scale, cx.opt(2))?;
    let dtype = cx.opt(2).map(|z| z.dtype).or(cx.attrs.dtype("output_dtype")).unwrap_or(DType::U8);
    let small = dtype.is_float() && dtype.bits() <= 8 && dtype != DType::F8E8M0;
    let whole = dtype.is_int() && dtype.bits() <= 16;
    if !small && !whole {
        return Err(OpError::new(format!("quantising to {dtype} is not supported"))
            .help("quantise to an integer of at most 16 bits or a float of at most 8"));
    }
    Ok(vec![TensorType::new(dtype, x.shape.clone())])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, scale) = (cx.input(0), cx.input(1));
    let ty = |t: &Tensor| TensorType::fixed(t.dtype(), t.shape());
    let spread = Spread::new(cx.attrs, &ty(x), &ty(scale), cx.opt(2).map(ty).as_ref())?;
    let dtype = cx.outputs[0].dtype;
    let (values, scales) = (scalars(x)?, scalars(scale)?);
    let zeros = cx.opt(2).map(scalars).transpose()?;
    let mut out = Writer::new(dtype).saturate(cx.attrs.int("saturate").unwrap_or(1) != 0);
    let mut i = 0;
    for_coords(x.shape(), |at| {
        let p = spread.index(at, scale.shape());
        let ratio = values[i].float() as f32 / scales[p].float() as f32;
        let zero = zeros.as_ref().map_or(Scalar::Int(0), |z| z[p]);
        out.push(match dtype {
            DType::F4E2M1 => Scalar::Float(f64::from(ratio + zero.float() as f32)),
            _ if dtype.is_float() => Scalar::Float(f64::from(ratio)),
            _ => Scalar::Int(i128::from(round_clamp(ratio, zero.int() as i64, dtype))),
        });
        i += 1;
    });
    Ok(vec![out.finish(x.shape())])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    if y.dtype.is_float() {
        return lower_float(cx, &x, &y);
    }
    let (low, high) = y.dtype.int_range().expect("internal: inference accepts no other types");
    spread::over_parameters(cx, &x, &y, |cx, at, scale, zero| {
        let ratio = Expr::bin(BinOp::Div, value(cx, &x, at), scale);
        let bounded = Expr::bin(BinOp::Max, Expr::bin(BinOp::Min, ratio, Expr::f32(1e6)), Expr::f32(-1e6));
        let rounded = Expr::un(UnOp::Round, bounded).cast_from(DType::F32, DType::I32);
        let shifted = match zero {
            Some(z) => Expr::bin(BinOp::Add, rounded, z),
            None => rounded,
        };
        let inside = Expr::bin(BinOp::Max, shifted, int(DType::I32, low as i64));
        let inside = Expr::bin(BinOp::Min, inside, int(DType::I32, high as i64));
        cx.store(&y, at, inside.cast_from(DType::I32, y.dtype.carrier()));
    })
}

/// The element to quantise, as f32.
fn value(cx: &LowerCx, x: &Arg, at: &[Expr]) -> Expr {
    nest::load(cx, x, at).cast_from(nest::compute_type(x.dtype), DType::F32)
}

fn lower_float(cx: &mut LowerCx, x: &Arg, y: &Arg) -> OpResult<()> {
    let saturate = cx.attrs.int("saturate").unwrap_or(1) != 0;
    let mut program = ScalarProgram::default();
    let ratio = program.arg(0, DType::F32);
    convert(&mut program, ratio, y.dtype, Conversion { saturate, rounding: Rounding::Up });
    spread::over_parameters(cx, x, y, |cx, at, scale, zero| {
        let ratio = Expr::bin(BinOp::Div, value(cx, x, at), scale);
        let shifted = match zero.filter(|_| y.dtype == DType::F4E2M1) {
            Some(z) => ratio.add(z),
            None => ratio,
        };
        let shifted = Expr::Var(cx.let_(shifted));
        let code = cx.program(&program, &[shifted]);
        cx.store(y, at, code);
    })
}

fn samples() -> Vec<Sample> {
    let zero = |t: Tensor| Some(onnxc_ir::op::SampleInput::Const(t));
    let axis = |a: i64| Attrs::default().with("axis", Attr::Int(a));
    let u8s = |v: Vec<u8>| zero(Tensor::from_vec(&[v.len() as u64], v));
    let x = |shape: &[u64]| sample::data_in(DType::F32, shape, -40.0, 40.0);
    let scale = |v: f32| zero(Tensor::scalar(v));
    let mut all = vec![
        sample::plain(vec![x(&[3, 37]), scale(0.25), zero(Tensor::scalar(128u8))]),
        sample::plain(vec![x(&[2, 3, 5]), scale(0.3), zero(Tensor::scalar(-5i8))]),
        sample::plain(vec![x(&[2, 3, 5]), scale(0.01), None]),
        sample::plain(vec![x(&[2, 3, 5]), scale(0.001), zero(Tensor::scalar(100i16))]),
        sample::sample(axis(1), vec![x(&[2, 3, 5]), sample::const_f32s(&[3]), u8s(vec![3, 100, 255])]),
        sample::sample(axis(-1), vec![x(&[4, 20]), sample::const_f32s(&[20]), None]),
        sample::sample(axis(0), vec![x(&[3, 20]), sample::const_f32s(&[3]), u8s(vec![1, 2, 3])]),
        sample::plain(vec![x(&[17]), sample::data_in(DType::F32, &[], 0.1, 1.0), sample::data(DType::U8, &[])]),
        sample::sample(axis(1).with("block_size", Attr::Int(2)), vec![x(&[2, 4, 3]), sample::const_f32s(&[2, 2, 3]), None]),
    ];
    for small in super::SMALL {
        let to = Attrs::default().with("output_dtype", Attr::Type(small));
        all.push(sample::sample(to.clone(), vec![x(&[3, 7]), scale(0.1), None]));
        all.push(sample::sample(to.clone().with("saturate", Attr::Int(0)), vec![x(&[3, 7]), scale(0.001), None]));
        all.push(sample::sample(to.with("block_size", Attr::Int(2)), vec![x(&[3, 4]), sample::const_f32s(&[3, 2]), None]));
        let run_time = sample::data_in(small, &[3], 0.0, 3.0);
        all.push(sample::sample(axis(0), vec![x(&[3, 5]), sample::data_in(DType::F32, &[3], 0.1, 4.0), run_time]));
    }
    all
}
