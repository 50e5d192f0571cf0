//! `dequantize_linear`: `(x - zero_point) * scale`.

use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::scalar_eval::{Scalar, Writer};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType};

use super::params::Spread;
use super::spread;
use crate::common::elements::{for_coords, scalars};
use crate::common::nest::{self, ExprExt};
use crate::common::sample;

pub(crate) static DEQUANTIZE_LINEAR: OpDef = OpDef {
    name: "dequantize_linear",
    onnx: &[
        Import { domain: "", name: "DequantizeLinear", opsets: (10, NEWEST), build },
        Import { domain: "com.microsoft", name: "DequantizeLinear", opsets: (1, NEWEST), build },
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn build(cx: &mut dyn onnxc_ir::op::ImportCx) -> OpResult<Vec<onnxc_ir::ValueId>> {
    let mut attrs = cx.attrs().clone();
    if let Some(code) = attrs.int("output_dtype") {
        attrs.0.remove("output_dtype");
        if code != 0 {
            let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
            let dtype = dtype.ok_or_else(|| OpError::new(format!("output_dtype {code} is unknown")))?;
            attrs = attrs.with("output_dtype", Attr::Type(dtype));
        }
    }
    let inputs = cx.inputs().to_vec();
    cx.node("dequantize_linear", &inputs, attrs)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let numeric = |t: DType| t.is_int() || t.is_float();
    if let Some(zero) = cx.opt(2).filter(|z| z.dtype.is_float() != x.dtype.is_float()) {
        return Err(OpError::new(format!("a zero point of type {} for elements of type {}", zero.dtype, x.dtype)));
    }
    if !numeric(x.dtype) || !scale.dtype.is_float() || cx.opt(2).is_some_and(|z| !numeric(z.dtype)) {
        return Err(OpError::new(format!("dequantising {} with scales of type {} is not supported", x.dtype, scale.dtype)));
    }
    Spread::new(cx.attrs, x, scale, cx.opt(2))?;
    let dtype = cx.attrs.dtype("output_dtype").unwrap_or(scale.dtype);
    if !dtype.is_float() || dtype.bits() < 16 {
        return Err(OpError::new(format!("dequantising to {dtype} is not supported"))
            .help("give output_dtype as one of float, double, float16 and bfloat16"));
    }
    Ok(vec![TensorType::new(dtype, x.shape.clone())])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, scale) = (cx.input(0), cx.input(1));
    let ty = |t: &Tensor| TensorType::fixed(t.dtype(), t.shape());
    let spread = Spread::new(cx.attrs, &ty(x), &ty(scale), cx.opt(2).map(ty).as_ref())?;
    let (values, scales) = (scalars(x)?, scalars(scale)?);
    let zeros = cx.opt(2).map(scalars).transpose()?;
    let mut out = Writer::new(cx.outputs[0].dtype);
    let mut i = 0;
    for_coords(x.shape(), |at| {
        let p = spread.index(at, scale.shape());
        let zero = zeros.as_ref().map_or(Scalar::Int(0), |z| z[p]);
        let shifted = match (values[i], zero) {
            (Scalar::Int(v), Scalar::Int(z)) => (v - z) as f32,
            (v, z) => (v.float() - z.float()) as f32,
        };
        out.push(Scalar::Float(f64::from(shifted * scales[p].float() as f32)));
        i += 1;
    });
    Ok(vec![out.finish(x.shape())])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::require(y.dtype)?;
    let difference = if x.dtype.is_float() { DType::F32 } else { DType::I32 };
    spread::over_parameters(cx, &x, &y, |cx, at, scale, zero| {
        let value = cx.load(&x, at).cast_from(x.dtype, difference);
        let shifted = match zero {
            Some(z) => value.minus(z),
            None => value,
        };
        let result = shifted.cast_from(difference, DType::F32).mul(scale);
        cx.store(&y, at, result.cast_from(DType::F32, y.dtype));
    })
}

fn samples() -> Vec<Sample> {
    let constant = |t: Tensor| Some(SampleInput::Const(t));
    let axis = |a: i64| Attrs::default().with("axis", Attr::Int(a));
    let scale = |v: f32| constant(Tensor::scalar(v));
    let mut all = vec![
        sample::plain(vec![sample::data(DType::U8, &[3, 37]), scale(0.25), constant(Tensor::scalar(128u8))]),
        sample::plain(vec![sample::data(DType::I8, &[2, 3, 5]), scale(0.3), None]),
        sample::plain(vec![sample::data(DType::I32, &[2, 3, 5]), scale(0.01), None]),
        sample::sample(
            axis(1),
            vec![
                sample::data(DType::U8, &[2, 3, 5]),
                sample::const_f32s(&[3]),
                constant(Tensor::from_vec(&[3], vec![3u8, 100, 255])),
            ],
        ),
        sample::sample(axis(-1), vec![sample::data(DType::I8, &[4, 20]), sample::const_f32s(&[20]), None]),
        sample::plain(vec![sample::data(DType::U8, &[17]), sample::f32s(&[]), sample::data(DType::U8, &[])]),
        sample::sample(
            axis(1).with("block_size", Attr::Int(2)),
            vec![sample::data(DType::I8, &[2, 4, 3]), sample::const_f32s(&[2, 2, 3]), None],
        ),
    ];
    for small in super::SMALL {
        let x = |shape: &[u64]| sample::data_in(small, shape, if small.is_unsigned_int() { 0.0 } else { -8.0 }, 8.0);
        all.push(sample::plain(vec![x(&[3, 7]), scale(0.3), None]));
        all.push(sample::sample(axis(0), vec![x(&[3, 7]), sample::const_f32s(&[3]), sample::data_in(small, &[3], 0.0, 3.0)]));
        let blocks = Attrs::default().with("block_size", Attr::Int(2));
        all.push(sample::sample(blocks, vec![x(&[3, 4]), sample::const_f32s(&[3, 2]), None]));
        let powers = Attrs::default().with("output_dtype", Attr::Type(DType::F16));
        all.push(sample::sample(powers, vec![x(&[3, 4]), sample::data_in(DType::F8E8M0, &[], 120.0, 130.0), None]));
    }
    all
}
