//! `cast`: conversion of the element type. Attribute `to` is the type, `saturate` matters for 8-bit floats only, `round_mode` for f8e8m0.

use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::scalar::ScalarProgram;
use onnxc_ir::scalar_eval::{Scalar, Writer};
use onnxc_ir::small_float::{Rounding, power_of_two};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::common::elements::not_numeric;
use crate::common::sample::{data, sample};
use crate::common::small_float::{Conversion, convert};
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
    // Nothing to say where it does not matter: equal casts are to be equal nodes.
    let kept = |name: &&str| to.is_float() && to.bits() == 8 && (*name == "saturate" || to == DType::F8E8M0);
    let given = ["saturate", "round_mode"].into_iter().filter(kept).filter_map(|n| Some((n, cx.attrs().get(n)?.clone())));
    given.fold(attrs, |attrs, (name, attr)| attrs.with(name, attr))
}

/// How values that the type does not have are converted.
fn conversion(attrs: &Attrs) -> OpResult<Conversion> {
    let rounding = match attrs.str("round_mode").unwrap_or("up") {
        "up" => Rounding::Up,
        "down" => Rounding::Down,
        "nearest" => Rounding::Nearest,
        other => return Err(OpError::new(format!("round_mode {other:?} is unknown")).help("use up, down or nearest")),
    };
    Ok(Conversion { saturate: attrs.int("saturate").unwrap_or(1) != 0, rounding })
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
    conversion(cx.attrs)?;
    Ok(vec![TensorType::new(to, x.shape.clone())])
}

fn dims(cx: &InferCx) -> Option<Vec<Dim>> {
    let to = target(cx.attrs).ok()?;
    // Narrow types would wrap.
    if matches!(to, DType::I64 | DType::I32) && cx.constant(0).is_none() { cx.as_sizes(0) } else { None }
}

fn program(attrs: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    let (from, to) = (*t.first().ok_or_else(|| OpError::new("the operand is missing"))?, target(attrs)?);
    let mut p = ScalarProgram::default();
    let x = p.arg(0, from);
    convert(&mut p, x, to, conversion(attrs)?);
    Ok(p)
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, to, how) = (cx.input(0), target(cx.attrs)?, conversion(cx.attrs)?);
    if x.dtype() == to {
        return Ok(vec![x.clone()]);
    }
    let mut out = Writer::new(to).saturate(how.saturate);
    for i in 0..x.len() {
        let value = Scalar::read(x.dtype(), x.bytes(), i).ok_or_else(|| not_numeric(x.dtype()))?;
        out.push(match to {
            DType::F8E8M0 => Scalar::Float(power_of_two(value.float(), how.rounding, how.saturate)),
            // The writer rounds to these, and may not saturate.
            _ if to.is_float() && to.bits() <= 8 => value,
            _ => value.cast(to),
        });
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
    all.extend(small_samples());
    all
}

/// Packed types with odd counts, 8-bit floats beyond their range.
fn small_samples() -> Vec<Sample> {
    use DType::*;
    let to = |t: DType| Attrs::default().with("to", Attr::Type(t));
    let one = |from: DType, attrs: Attrs, bound: f64| {
        sample(
            attrs,
            vec![crate::common::sample::data_in(from, &[3, 7], if from.is_unsigned_int() { 0.0 } else { -bound }, bound)],
        )
    };
    let mut all = Vec::new();
    for packed in [U4, I4, U2, I2, F4E2M1] {
        for wide in [F32, F16, F64, I8, U8, I64, U4, I2, F4E2M1, Bool, F8E5M2] {
            all.push(one(packed, to(wide), 8.0));
            all.push(one(wide, to(packed), if wide == Bool { 1.0 } else { 20.0 }));
        }
        // No element, one, whole bytes; bytes that the weights hold.
        for shape in [&[2, 0][..], &[], &[5, 16]] {
            all.push(sample(to(packed), vec![data(F32, shape)]));
            all.push(sample(to(F32), vec![data(packed, shape)]));
        }
        let bytes = onnxc_ir::tensor::Bytes::new(vec![0x1b, 0xe4, 0x9c]);
        let count = 24 / packed.bits() - 1;
        all.push(sample(to(F32), vec![Tensor::from_bytes(packed, vec![count], bytes).map(SampleInput::Const)]));
    }
    for small in [F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0] {
        for wide in [F32, F16, F64, I32] {
            all.push(one(small, to(wide), 100.0));
            for saturate in [0, 1] {
                let attrs = to(small).with("saturate", Attr::Int(saturate));
                all.push(one(wide, attrs.clone(), 600.0));
                all.push(one(wide, attrs, if wide == F16 { 65504.0 } else { 90000.0 }));
            }
        }
    }
    for mode in ["up", "down", "nearest"] {
        for saturate in [0, 1] {
            let attrs = to(F8E8M0).with("saturate", Attr::Int(saturate)).with("round_mode", Attr::Str(mode.into()));
            all.push(one(F32, attrs.clone(), 50.0));
            all.push(one(F32, attrs, 3.4e38));
        }
    }
    all
}
