//! `cast`: conversion of the element type. Attribute `to` is the type, `saturate` matters for 8-bit floats only.

use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::ScalarProgram;
use onnxc_ir::scalar_eval::{Scalar, Writer};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::common::elements::not_numeric;
use crate::common::sample::{data, sample};
use crate::ml::BINARIZER;

/// `cast`
pub(crate) static CAST: OpDef = OpDef {
    name: "cast",
    onnx: &[
        Import { domain: "", name: "Cast", opsets: (6, NEWEST), build: import },
        Import { domain: "", name: "CastLike", opsets: (15, NEWEST), build: import_like },
        BINARIZER,
    ],
    infer,
    infer_dims: Some(dims),
    eval,
    lower: Lower::Elementwise(program),
    tolerance: Tolerance::EXACT,
    samples,
};

fn to_attrs(cx: &dyn ImportCx, to: DType) -> Attrs {
    let attrs = Attrs::default().with("to", Attr::Type(to));
    cx.attrs().int("saturate").map_or(attrs.clone(), |s| attrs.with("saturate", Attr::Int(s)))
}

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let to = match cx.attrs().get("to") {
        Some(Attr::Type(t)) => *t,
        Some(Attr::Int(code)) => i32::try_from(*code)
            .ok()
            .and_then(DType::from_onnx)
            .ok_or_else(|| OpError::new(format!("attribute to: there is no element type {code}")))?,
        _ => return Err(OpError::new("attribute to is missing")),
    };
    let (x, attrs) = (cx.input(0)?, to_attrs(cx, to));
    cx.node("cast", &[Some(x)], attrs)
}

fn import_like(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, to) = (cx.input(0)?, cx.ty(1)?.dtype);
    let attrs = to_attrs(cx, to);
    cx.node("cast", &[Some(x)], attrs)
}

fn target(attrs: &Attrs) -> OpResult<DType> {
    attrs.dtype("to").ok_or_else(|| OpError::new("attribute to is missing"))
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, to) = (cx.input(0)?, target(cx.attrs)?);
    for t in [x.dtype, to] {
        if matches!(t, DType::Str | DType::C64 | DType::C128) && x.dtype != to {
            return Err(OpError::new(format!("casts between {} and {to} are not supported", x.dtype)));
        }
    }
    Ok(vec![TensorType::new(to, x.shape.clone())])
}

fn dims(cx: &InferCx) -> Option<Vec<Dim>> {
    let to = target(cx.attrs).ok()?;
    // Narrow types would wrap.
    if matches!(to, DType::I64 | DType::I32) && cx.constant(0).is_none() { cx.as_dims(0) } else { None }
}

fn program(attrs: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    let (from, to) = (*t.first().ok_or_else(|| OpError::new("the operand is missing"))?, target(attrs)?);
    if let Some(t) = [from, to].iter().find(|t| t.bits() < 8) {
        return Err(OpError::new(format!("a cast of packed elements of type {t} is not supported in compiled code")));
    }
    if attrs.int("saturate") == Some(0) && to.is_float() && to.bits() == 8 && to != DType::F8E8M0 {
        return Err(OpError::new(format!("a cast to {to} that does not saturate is not supported in compiled code")));
    }
    let mut p = ScalarProgram::default();
    let x = p.arg(0, from);
    p.cast(x, to);
    Ok(p)
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    convert(cx, target(cx.attrs)?)
}

fn convert(cx: &EvalCx, to: DType) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    if x.dtype() == to {
        return Ok(vec![x.clone()]);
    }
    let mut out = Writer::new(to).saturate(cx.attrs.int("saturate").unwrap_or(1) != 0);
    for i in 0..x.len() {
        let value = Scalar::read(x.dtype(), x.bytes(), i).ok_or_else(|| not_numeric(x.dtype()))?;
        out.push(value.cast(to));
    }
    Ok(vec![out.finish(x.shape())])
}

fn samples() -> Vec<Sample> {
    use DType::*;
    let types = [F32, F64, F16, BF16, I8, U8, I16, U16, I32, U32, I64, U64, Bool];
    // Values that every type holds: what a float beyond an integer's range becomes is not defined by ONNX.
    let one = |from: DType, to: DType| {
        let (low, high) = if from == Bool { (0.0, 1.0) } else { (0.0, 100.0) };
        let attrs = Attrs::default().with("to", Attr::Type(to));
        sample(attrs, vec![crate::common::sample::data_in(from, &[3, 7], low, high)])
    };
    let mut all: Vec<Sample> = types.iter().flat_map(|from| types.iter().map(|to| one(*from, *to))).collect();
    all.push(sample(Attrs::default().with("to", Attr::Type(I32)), vec![data(F32, &[2, 0])]));
    all
}
