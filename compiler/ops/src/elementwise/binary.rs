//! Arithmetic of two operands: add, sub, mul, div, pow, mod, prelu.

use onnxc_ir::op::{Import, InferCx, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::{Attrs, DType, Dim};

use super::{by_axis, combine_dims, elementwise, eval, float_program, is_computable_float, like, numeric_program, same};
use crate::common::import;
use crate::common::nest::compute_type;
use crate::common::sample::{data, data_in, f32s, int_attrs, plain, sample};

/// Pairs of shapes: equal, broadcast either way, scalars, empty.
const PAIRS: &[(&[u64], &[u64])] = &[
    (&[3, 17], &[3, 17]),
    (&[2, 3, 4], &[4]),
    (&[2, 1, 4], &[3, 1]),
    (&[], &[5]),
    (&[33], &[1]),
    (&[2, 0], &[1, 1]),
    (&[2, 3, 5, 7], &[1, 3, 1, 1]),
];

pub(super) fn pairs(low: f64, types: &[DType]) -> Vec<Sample> {
    let one = |t, s| data_in(t, s, low, low + 8.0);
    let mut all: Vec<Sample> = PAIRS.iter().map(|(a, b)| plain(vec![one(DType::F32, a), one(DType::F32, b)])).collect();
    all.extend(types.iter().map(|t| plain(vec![one(*t, &[2, 9]), one(*t, &[9])])));
    all
}

const NUMBERS: &[DType] =
    &[DType::F64, DType::F16, DType::BF16, DType::I8, DType::U8, DType::I32, DType::U32, DType::I64, DType::U64];

macro_rules! arithmetic {
    ($($id:ident $name:literal $onnx:literal $op:ident $low:literal $dims:expr;)*) => {$(
        elementwise!($id, $name, [same!($onnx, 7, $name), by_axis!($onnx, $name)],
            |_, t| two(t).and_then(|_| numeric_program(t, |p, a| p.bin(BinOp::$op, a[0], a[1]))),
            eval: |cx| eval(cx, |_, t| numeric_program(t, |p, a| p.bin(BinOp::$op, a[0], a[1]))),
            dims: $dims, Tolerance::EXACT, || pairs($low, NUMBERS));
    )*};
}

fn two(t: &[DType]) -> OpResult<()> {
    if t.len() == 2 { Ok(()) } else { Err(OpError::new(format!("takes 2 operands, {} are given", t.len()))) }
}

arithmetic! {
    ADD "add" "Add" Add 1.0 Some(|cx| combine_dims(cx, |a, b| Some(a.add(b))));
    SUB "sub" "Sub" Sub 1.0 Some(|cx| combine_dims(cx, difference));
    MUL "mul" "Mul" Mul 1.0 Some(|cx| combine_dims(cx, |a, b| Some(a.mul(b))));
    DIV "div" "Div" Div 1.0 Some(|cx| combine_dims(cx, quotient));
}

fn difference(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a, b) {
        (Dim::Const(a), Dim::Const(b)) => a.checked_sub(*b).map(Dim::Const),
        // `3 - N` may be negative, which a dimension cannot be.
        (Dim::Const(_), _) => None,
        _ => Some(a.sub(b)),
    }
}

fn quotient(a: &Dim, b: &Dim) -> Option<Dim> {
    if *b == Dim::Const(0) { None } else { Some(a.div(b)) }
}

fn pow(_: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    two(t)?;
    let (base, exponent) = (t[0], t[1]);
    if let Some(bad) = t.iter().find(|t| !is_computable_float(**t) && !t.is_int()) {
        return Err(OpError::new(format!("elements of type {bad} are not allowed: numbers are needed")));
    }
    let mut p = ScalarProgram::default();
    let (x, y) = (p.arg(0, base), p.arg(1, exponent));
    // The result has the base's type; an integer to a float power is computed in the float's type.
    let work = match (base.is_int(), exponent.is_int()) {
        (true, false) => compute_type(exponent),
        _ => compute_type(base),
    };
    let (x, y) = (p.cast(x, work), p.cast(y, work));
    let z = p.bin(BinOp::Pow, x, y);
    let z = p.cast(z, base);
    Ok(p.finish(z))
}

elementwise!(POW, "pow", [same!("Pow", 7, "pow"), by_axis!("Pow", "pow")], pow,
eval: |cx| eval(cx, pow), dims: None, Tolerance::POLY,
|| {
    let mut all = pairs(0.5, &[DType::F64]);
    all.push(plain(vec![data_in(DType::I32, &[7], -5.0, 5.0), data_in(DType::I32, &[7], 0.0, 5.0)]));
    all.push(plain(vec![f32s(&[7]), Some(onnxc_ir::op::SampleInput::Const(onnxc_ir::Tensor::scalar(2f32)))]));
    all.push(plain(vec![data_in(DType::F32, &[7], 0.5, 3.0), data_in(DType::I64, &[7], -2.0, 5.0)]));
    all
});

fn modulo(attrs: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    two(t)?;
    let c = attrs.int("fmod").unwrap_or(0) != 0;
    numeric_program(t, |p, a| p.bin(if c { BinOp::Rem } else { BinOp::Mod }, a[0], a[1]))
}

elementwise!(MOD, "mod", [same!("Mod", 10, "mod")], modulo,
eval: |cx| eval(cx, modulo), dims: Some(mod_dims), Tolerance::POLY,
|| {
    let ints = [DType::I32, DType::I64, DType::U8];
    let mut all: Vec<Sample> = ints.iter().map(|t| plain(vec![data(*t, &[3, 5]), data_in(*t, &[5], 1.0, 9.0)])).collect();
    let fmod = int_attrs(&[("fmod", 1)]);
    all.push(sample(fmod.clone(), vec![f32s(&[9]), data_in(DType::F32, &[1], 1.5, 4.0)]));
    all.push(sample(fmod, vec![data(DType::I32, &[9]), data_in(DType::I32, &[1], 2.0, 4.0)]));
    all
});

fn mod_dims(cx: &InferCx) -> Option<Vec<Dim>> {
    combine_dims(cx, |a, b| match (a.as_const()?, b.as_const()?) {
        (_, 0) => None,
        (a, b) => Some(Dim::Const(a % b)),
    })
}

fn prelu(_: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    two(t)?;
    numeric_program(t, |p, a| {
        let zero = like(p, a[0], 0.0);
        let negative = p.bin(BinOp::Lt, a[0], zero);
        let small = p.bin(BinOp::Mul, a[0], a[1]);
        p.select(negative, small, a[0])
    })
}

/// Before opset 7 a vector of slopes was one for each channel.
const PRELU_6: Import = Import {
    domain: "",
    name: "PRelu",
    opsets: (1, 6),
    build: |cx| {
        let (x, mut slope) = (cx.input(0)?, cx.input(1)?);
        let rank = cx.ty(0)?.rank() as i64;
        if cx.ty(1)?.rank() == 1 && rank > 2 {
            let axes = import::ints(cx, &(1..rank - 1).collect::<Vec<_>>());
            slope = cx.node1("unsqueeze", &[slope, axes], Attrs::default())?;
        }
        cx.node("prelu", &[Some(x), Some(slope)], Attrs::default())
    },
};

elementwise!(PRELU, "prelu", [same!("PRelu", 7, "prelu"), PRELU_6], prelu,
eval: |cx| eval(cx, prelu), dims: None, Tolerance::EXACT,
|| {
    let mut all = vec![
        plain(vec![f32s(&[2, 3, 4]), f32s(&[3, 1])]),
        plain(vec![f32s(&[2, 3, 4]), f32s(&[1])]),
        plain(vec![f32s(&[17]), f32s(&[17])]),
    ];
    all.push(plain(vec![data(DType::F16, &[7]), data(DType::F16, &[7])]));
    all
});

fn bit_shift(attrs: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    two(t)?;
    let op = match attrs.str("direction") {
        Some("LEFT") => BinOp::Shl,
        Some("RIGHT") => BinOp::Shr,
        other => return Err(OpError::new(format!("direction {other:?} is neither LEFT nor RIGHT"))),
    };
    match t.iter().find(|t| !t.is_int()) {
        None => numeric_program(t, |p, a| {
            // Shifts by the width or more (also by negative numbers, as unsigned ones) leave zeros, or the sign.
            let (dtype, bits) = (p.dtype(a[0]), 8 * p.dtype(a[0]).bytes() as i64);
            let (width, last, zero) = (p.int(bits, dtype), p.int(bits - 1, dtype), p.int(0, dtype));
            let mut beyond = p.bin(BinOp::Ge, a[1], width);
            if !dtype.is_unsigned_int() {
                let negative = p.bin(BinOp::Lt, a[1], zero);
                beyond = p.bin(BinOp::Or, beyond, negative);
            }
            let shifted = p.bin(op, a[0], a[1]);
            let rest = if op == BinOp::Shr && !dtype.is_unsigned_int() { p.bin(op, a[0], last) } else { zero };
            p.select(beyond, rest, shifted)
        }),
        Some(t) => Err(OpError::new(format!("elements of type {t} cannot be shifted"))),
    }
}

elementwise!(BIT_SHIFT, "bit_shift", [same!("BitShift", 11, "bit_shift")], bit_shift,
eval: |cx| eval(cx, bit_shift), dims: None, Tolerance::EXACT,
|| {
    let direction = |d: &str| Attrs::default().with("direction", onnxc_ir::Attr::Str(d.into()));
    let types = [(DType::U8, 0.0), (DType::U32, 0.0), (DType::U64, 0.0), (DType::I32, -40.0), (DType::I8, -10.0)];
    let shift = |d, (t, low)| sample(direction(d), vec![data(t, &[3, 5]), data_in(t, &[5], low, 40.0)]);
    types.iter().flat_map(|t| [shift("LEFT", *t), shift("RIGHT", *t)]).collect()
});

/// Only floats.
pub(super) fn mean_program(t: &[DType]) -> OpResult<ScalarProgram> {
    let n = t.len() as f64;
    float_program(t, |p, a| {
        let sum = a[1..].iter().fold(a[0], |s, x| p.bin(BinOp::Add, s, *x));
        let n = like(p, sum, n);
        p.bin(BinOp::Div, sum, n)
    })
}
