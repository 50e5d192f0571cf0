//! Elementwise operators of one operand that are one operation.

use onnxc_ir::op::{OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::scalar::{BinOp, ScalarProgram, UnOp};
use onnxc_ir::scalar_eval::{Scalar, Writer};
use onnxc_ir::{Attrs, DType};

use super::{elementwise, eval, float_program, is_computable_float, like, numeric_program, same};
use crate::common::sample::{SHAPES, data, data_in, int_attrs, plain, sample};

fn samples(low: f64, high: f64, types: &[DType]) -> Vec<Sample> {
    let mut out: Vec<Sample> = SHAPES.iter().map(|s| plain(vec![data_in(DType::F32, s, low, high)])).collect();
    out.extend(types.iter().map(|t| plain(vec![data_in(*t, &[2, 9], low, high)])));
    out
}

/// With angles of all magnitudes and the largest number, infinity and NaN.
fn angle_samples(low: f64, high: f64, types: &[DType]) -> Vec<Sample> {
    let mut out = samples(low, high, types);
    for t in [DType::F32].iter().chain(types) {
        let largest = if *t == DType::F16 { 65_504.0 } else { f64::from(f32::MAX) };
        // Powers of a number that is none of two, with both signs, each few large ones between small ones.
        let powers = (-20..220).map(|k| 1.5f64.powi(k) * [1.0, -1.0, 1.0, 0.001][k.rem_euclid(4) as usize]);
        let special = [0.0, -0.0, largest, -largest, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        let values: Vec<f64> = powers.filter(|x| x.abs() < largest).chain(special).collect();
        let mut tensor = Writer::new(*t).saturate(false);
        values.iter().for_each(|x| tensor.push(Scalar::Float(*x)));
        out.push(plain(vec![Some(SampleInput::Const(tensor.finish(&[values.len() as u64])))]));
    }
    out
}

const FLOATS: &[DType] = &[DType::F64, DType::F16, DType::BF16];
const NUMBERS: &[DType] = &[DType::F64, DType::F16, DType::BF16, DType::I8, DType::I32, DType::I64];

macro_rules! unary {
    ($samples:ident; $($id:ident $name:literal $onnx:literal $since:literal $program:ident $op:ident ($low:expr, $high:expr) $types:ident $tolerance:ident;)*) => {$(
        elementwise!($id, $name, [same!($onnx, $since, $name)],
            |_, t| $program(&t[..1.min(t.len())], |p, a| p.un(UnOp::$op, a[0])),
            eval: |cx| eval(cx, |_, t| $program(t, |p, a| p.un(UnOp::$op, a[0]))),
            dims: None, Tolerance::$tolerance, || $samples($low, $high, $types));
    )*};
}

unary! {
    angle_samples;
    COS "cos" "Cos" 7 float_program Cos (-9.0, 9.0) FLOATS POLY;
    SIN "sin" "Sin" 7 float_program Sin (-9.0, 9.0) FLOATS POLY;
    TAN "tan" "Tan" 7 float_program Tan (-1.5, 1.5) FLOATS POLY;
}

unary! {
    samples;
    ABS "abs" "Abs" 1 numeric_program Abs (-3.0, 3.0) NUMBERS EXACT;
    ACOS "acos" "Acos" 7 float_program Acos (-1.0, 1.0) FLOATS POLY;
    ACOSH "acosh" "Acosh" 9 float_program Acosh (1.0, 9.0) FLOATS POLY;
    ASIN "asin" "Asin" 7 float_program Asin (-1.0, 1.0) FLOATS POLY;
    ASINH "asinh" "Asinh" 9 float_program Asinh (-9.0, 9.0) FLOATS POLY;
    ATAN "atan" "Atan" 7 float_program Atan (-9.0, 9.0) FLOATS POLY;
    ATANH "atanh" "Atanh" 9 float_program Atanh (-0.99, 0.99) FLOATS POLY;
    CEIL "ceil" "Ceil" 1 float_program Ceil (-9.0, 9.0) FLOATS EXACT;
    COSH "cosh" "Cosh" 9 float_program Cosh (-3.0, 3.0) FLOATS POLY;
    ERF "erf" "Erf" 9 float_program Erf (-4.0, 4.0) FLOATS POLY;
    EXP "exp" "Exp" 1 float_program Exp (-9.0, 9.0) FLOATS POLY;
    FLOOR "floor" "Floor" 1 float_program Floor (-9.0, 9.0) FLOATS EXACT;
    LOG "log" "Log" 1 float_program Log (0.001, 9.0) FLOATS POLY;
    NEG "neg" "Neg" 1 numeric_program Neg (-9.0, 9.0) NUMBERS EXACT;
    RECIPROCAL "reciprocal" "Reciprocal" 1 float_program Recip (0.1, 9.0) FLOATS EXACT;
    ROUND "round" "Round" 11 float_program Round (-9.0, 9.0) FLOATS EXACT;
    SIGMOID "sigmoid" "Sigmoid" 1 float_program Sigmoid (-9.0, 9.0) FLOATS POLY;
    SIGN "sign" "Sign" 9 numeric_program Sign (-9.0, 9.0) NUMBERS EXACT;
    SINH "sinh" "Sinh" 9 float_program Sinh (-3.0, 3.0) FLOATS POLY;
    SQRT "sqrt" "Sqrt" 1 float_program Sqrt (0.0, 9.0) FLOATS EXACT;
    TANH "tanh" "Tanh" 1 float_program Tanh (-9.0, 9.0) FLOATS POLY;
}

fn bit_samples(types: &[DType]) -> Vec<Sample> {
    types.iter().map(|t| plain(vec![data(*t, &[3, 5])])).collect()
}

fn not(_: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    let mut p = ScalarProgram::default();
    match t.first() {
        Some(DType::Bool) => {
            let a = p.arg(0, DType::Bool);
            p.un(UnOp::Not, a);
            Ok(p)
        }
        Some(other) => Err(OpError::new(format!("the operand is {other}, it must be bool"))),
        None => Err(OpError::new("the operand is missing")),
    }
}

elementwise!(NOT, "not", [same!("Not", 1, "not")], not,
    eval: |cx| eval(cx, not), dims: None, Tolerance::EXACT, || bit_samples(&[DType::Bool]));

fn bitwise_not(_: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    match t.first() {
        Some(t) if t.is_int() => numeric_program(&[*t], |p, a| p.un(UnOp::Not, a[0])),
        _ => Err(OpError::new("the operand must be of integers")),
    }
}

elementwise!(BITWISE_NOT, "bitwise_not", [same!("BitwiseNot", 18, "bitwise_not")], bitwise_not,
    eval: |cx| eval(cx, bitwise_not), dims: None, Tolerance::EXACT, || bit_samples(&[DType::I32, DType::U8, DType::I64]));

/// Tests of a float; the result is bool, so f16 needs no cast back.
fn test_program(t: &[DType], body: impl Fn(&mut ScalarProgram, u16) -> u16) -> OpResult<ScalarProgram> {
    match t.first() {
        Some(t) if is_computable_float(*t) => numeric_program(&[*t], |p, a| body(p, a[0])),
        _ => Err(OpError::new("the operand must be of floats")),
    }
}

fn is_nan(_: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    test_program(t, |p, x| p.un(UnOp::IsNan, x))
}

elementwise!(IS_NAN, "is_nan", [same!("IsNaN", 9, "is_nan")], is_nan,
    eval: |cx| eval(cx, is_nan), dims: None, Tolerance::EXACT, || samples(-1.0, 1.0, FLOATS));

fn is_inf(attrs: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    let wanted = |name| attrs.int(name).unwrap_or(1) != 0;
    let (negative, positive) = (wanted("detect_negative"), wanted("detect_positive"));
    test_program(t, |p, x| {
        let inf = p.un(UnOp::IsInf, x);
        let zero = like(p, x, 0.0);
        match (negative, positive) {
            (true, true) => inf,
            (false, false) => p.int(0, DType::Bool),
            (false, true) => {
                let above = p.bin(BinOp::Gt, x, zero);
                p.bin(BinOp::And, inf, above)
            }
            (true, false) => {
                let below = p.bin(BinOp::Lt, x, zero);
                p.bin(BinOp::And, inf, below)
            }
        }
    })
}

elementwise!(IS_INF, "is_inf", [same!("IsInf", 10, "is_inf")], is_inf,
eval: |cx| eval(cx, is_inf), dims: None, Tolerance::EXACT,
|| {
    let mut all = samples(-1.0, 1.0, FLOATS);
    all.push(sample(int_attrs(&[("detect_negative", 0)]), vec![data(DType::F32, &[5])]));
    all
});
