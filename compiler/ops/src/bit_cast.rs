//! `bit_cast`: the same bits as another element type of the same width. Attribute `to`.

use onnxc_ir::lir::BufKind;
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::ScalarProgram;
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId};

use crate::common::nest;
use crate::common::sample::{data, sample};

/// The record.
pub(crate) static BIT_CAST: OpDef = OpDef {
    name: "bit_cast",
    onnx: &[Import { domain: "", name: "BitCast", opsets: (26, NEWEST), build: import }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let to = match cx.attrs().get("to") {
        Some(Attr::Type(t)) => Some(*t),
        Some(Attr::Int(code)) => i32::try_from(*code).ok().and_then(DType::from_onnx),
        _ => None,
    };
    let to = to.ok_or_else(|| OpError::new("attribute to names no element type"))?;
    let x = cx.input(0)?;
    cx.node("bit_cast", &[Some(x)], Attrs::default().with("to", Attr::Type(to)))
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, to) = (cx.input(0)?, cx.attrs.dtype("to").ok_or_else(|| OpError::new("attribute to is missing"))?);
    if x.dtype == DType::Str || to == DType::Str || x.dtype.bits() != to.bits() {
        return Err(OpError::new(format!("the bits of {} are not those of {to}: the widths differ", x.dtype)));
    }
    Ok(vec![TensorType::new(to, x.shape.clone())])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let to = cx.outputs[0].dtype;
    // A bool is 0 or 1; other bytes are true.
    let bytes = if to == DType::Bool { x.bytes().iter().map(|b| u8::from(*b != 0)).collect() } else { x.bytes().to_vec() };
    let y = Tensor::from_bytes(to, x.shape().to_vec(), Bytes::new(bytes));
    Ok(vec![y.ok_or_else(|| OpError::new("the bits do not fill the elements"))?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::movable(x.dtype)?;
    nest::movable(y.dtype)?;
    if x.dtype.is_packed() {
        low_bits(cx, x, y);
        return Ok(());
    }
    let plain = match x.dtype.bytes() {
        1 => DType::U8,
        2 => DType::U16,
        4 => DType::U32,
        _ => DType::U64,
    };
    // Both sides as unsigned integers, so that nothing is converted on the way; as bool, where that is the result.
    let from = if y.dtype == DType::Bool { DType::Bool } else { plain };
    let to = if y.dtype == DType::Bool { DType::Bool } else { plain };
    let from = Arg { buf: cx.func.buf(from, BufKind::Input(0)), dtype: from, constant: None, ..x };
    let to = Arg { buf: cx.func.buf(to, BufKind::Output(0)), dtype: to, ..y };
    nest::copy(cx, &from, &to);
    Ok(())
}

/// Below a byte: bits above those of the element follow its sign, where it has one.
fn low_bits(cx: &mut LowerCx, x: Arg, y: Arg) {
    let code = match (y.dtype.bits(), y.dtype.is_signed_int()) {
        (4, false) => DType::U4,
        (_, false) => DType::U2,
        _ => y.dtype,
    };
    let mut program = ScalarProgram::default();
    let bits = program.arg(0, DType::U8);
    program.cast(bits, code);
    let from = Arg { buf: cx.func.buf(DType::U8, BufKind::Input(0)), dtype: DType::U8, constant: None, ..x };
    let to = Arg { buf: cx.func.buf(code.carrier(), BufKind::Output(0)), dtype: code, ..y };
    cx.map(&program, &to, &[from]);
}

fn samples() -> Vec<Sample> {
    use DType::*;
    let of = |from: DType, to: DType| sample(Attrs::default().with("to", Attr::Type(to)), vec![data(from, &[3, 5])]);
    let mut all =
        vec![of(F32, I32), of(I32, F32), of(F64, U64), of(U8, I8), of(Bool, U8), of(F16, U16), of(I16, BF16), of(I64, F64)];
    all.extend([of(U4, I4), of(I4, F4E2M1), of(F4E2M1, U4), of(I2, U2), of(F8E5M2, I8), of(U8, F8E8M0)]);
    all
}
