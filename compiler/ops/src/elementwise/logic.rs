//! Comparisons, logic, bitwise operations, where.

use onnxc_ir::op::{InferCx, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::{Attrs, DType, Dim, Tensor};

use super::{elementwise, eval, numeric_program, same};
use crate::common::broadcast::infer_broadcast;
use crate::common::elements::{Picker, for_coords, offset};
use crate::common::sample::{data, f32s, plain};
use crate::composed::optimizers;

fn pairs(types: &[DType]) -> Vec<Sample> {
    let shapes: &[(&[u64], &[u64])] = &[(&[3, 17], &[17]), (&[2, 1, 4], &[3, 1]), (&[], &[5]), (&[0], &[1])];
    types.iter().flat_map(|t| shapes.iter().map(|(a, b)| plain(vec![data(*t, a), data(*t, b)]))).collect()
}

fn compare(t: &[DType], op: BinOp, equality: bool) -> OpResult<ScalarProgram> {
    match t {
        [DType::Bool, DType::Bool] if equality => bools(t, op),
        [_, _] => numeric_program(t, |p, a| p.bin(op, a[0], a[1])),
        _ => Err(OpError::new(format!("takes 2 operands, {} are given", t.len()))),
    }
}

fn bools(t: &[DType], op: BinOp) -> OpResult<ScalarProgram> {
    if *t != [DType::Bool, DType::Bool] {
        return Err(OpError::new("takes two operands of type bool"));
    }
    let mut p = ScalarProgram::default();
    let (a, b) = (p.arg(0, DType::Bool), p.arg(1, DType::Bool));
    p.bin(op, a, b);
    Ok(p)
}

fn bits(t: &[DType], op: BinOp) -> OpResult<ScalarProgram> {
    match t {
        [a, b] if a.is_int() && b.is_int() => numeric_program(t, |p, a| p.bin(op, a[0], a[1])),
        _ => Err(OpError::new("takes two operands of integers")),
    }
}

const NUMBERS: &[DType] = &[DType::F32, DType::F64, DType::F16, DType::I32, DType::I64, DType::U8, DType::U64];

/// Whether sizes are equal, where that is certain: a size is never negative, and one that is not known may be anything else.
fn equal_dims(cx: &InferCx) -> Option<Vec<Dim>> {
    let size = |i: usize| cx.constant(i).is_none().then(|| cx.as_dims(i)).flatten();
    let (sizes, other) = if let Some(a) = size(0) { (a, 1) } else { (size(1)?, 0) };
    if cx.inputs.iter().flatten().any(|t| t.rank() > 1) {
        return None;
    }
    let n = infer_broadcast(cx).ok()?;
    let n = if n.rank() == 0 { 1 } else { n.shape[0].as_const()? as usize };
    let given = cx.constant(other).and_then(Tensor::to_i64s);
    let others = cx.as_dims(other);
    let at = |len: usize, i: usize| if len == 1 { 0 } else { i };
    let one = |i: usize| {
        let size = sizes.get(at(sizes.len(), i))?;
        if given.as_ref().is_some_and(|g| g.get(at(g.len(), i)).is_some_and(|n| *n < 0)) {
            return Some(Dim::Const(0));
        }
        let other = others.as_ref()?.get(at(others.as_ref()?.len(), i))?;
        match (size.as_const(), other.as_const()) {
            (Some(a), Some(b)) => Some(Dim::Const(u64::from(a == b))),
            _ => (size == other).then_some(Dim::Const(1)),
        }
    };
    (0..n).map(one).collect()
}

macro_rules! logic {
    ($($id:ident $name:literal $onnx:literal $since:literal $program:expr, $types:expr $(, dims: $dims:expr)?;)*) => {$(
        elementwise!($id, $name, [same!($onnx, $since, $name)], |_, t| $program(t),
            eval: |cx| eval(cx, |_, t| $program(t)), dims: logic!(@dims $($dims)?), Tolerance::EXACT, || pairs($types));
    )*};
    (@dims) => { None };
    (@dims $dims:expr) => { Some($dims) };
}

logic! {
    EQUAL "equal" "Equal" 7 |t| compare(t, BinOp::Eq, true), &[DType::F32, DType::I32, DType::I64, DType::Bool], dims: equal_dims;
    GREATER "greater" "Greater" 7 |t| compare(t, BinOp::Gt, false), NUMBERS;
    GREATER_OR_EQUAL "greater_or_equal" "GreaterOrEqual" 12 |t| compare(t, BinOp::Ge, false), NUMBERS;
    LESS "less" "Less" 7 |t| compare(t, BinOp::Lt, false), NUMBERS;
    LESS_OR_EQUAL "less_or_equal" "LessOrEqual" 12 |t| compare(t, BinOp::Le, false), NUMBERS;
    AND "and" "And" 7 |t| bools(t, BinOp::And), &[DType::Bool];
    OR "or" "Or" 7 |t| bools(t, BinOp::Or), &[DType::Bool];
    XOR "xor" "Xor" 7 |t| bools(t, BinOp::Xor), &[DType::Bool];
    BITWISE_AND "bitwise_and" "BitwiseAnd" 18 |t| bits(t, BinOp::And), &[DType::I32, DType::U8, DType::I64];
    BITWISE_OR "bitwise_or" "BitwiseOr" 18 |t| bits(t, BinOp::Or), &[DType::I32, DType::U8, DType::I64];
    BITWISE_XOR "bitwise_xor" "BitwiseXor" 18 |t| bits(t, BinOp::Xor), &[DType::I32, DType::U8, DType::I64];
}

fn where_program(_: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    match *t {
        [DType::Bool, a, b] if a == b => {
            let mut p = ScalarProgram::default();
            let (c, x, y) = (p.arg(0, DType::Bool), p.arg(1, a), p.arg(2, a));
            p.select(c, x, y);
            Ok(p)
        }
        [DType::Bool, a, b] => Err(OpError::new(format!("operands have different types: {a} and {b}"))),
        _ => Err(OpError::new("takes a condition of type bool and two operands")),
    }
}

fn where_dims(cx: &InferCx) -> Option<Vec<Dim>> {
    let condition = cx.constant(0)?.to_i64s()?;
    let (a, b) = (cx.as_sizes(1)?, cx.as_sizes(2)?);
    let n = infer_broadcast(cx).ok()?;
    let n = if n.rank() == 0 { 1 } else { n.shape[0].as_const()? as usize };
    if cx.inputs.iter().flatten().any(|t| t.rank() > 1) {
        return None;
    }
    let pick = |v: &[Dim], i: usize| v.get(if v.len() == 1 { 0 } else { i }).cloned();
    let truth = |i: usize| condition.get(if condition.len() == 1 { 0 } else { i }).map(|c| *c != 0);
    (0..n).map(|i| if truth(i)? { pick(&a, i) } else { pick(&b, i) }).collect()
}

elementwise!(WHERE, "where", [same!("Where", 9, "where"), crate::composed::classic::prepare::IMPUTER, optimizers::ADAGRAD, optimizers::ADAM, optimizers::MOMENTUM], where_program,
eval: |cx| {
    let shape = cx.out_shape(0);
    let strides: Vec<Vec<usize>> = (0..3).map(|i| {
        let s = onnxc_ir::scalar_eval::broadcast_strides(cx.input(i).shape(), &shape).expect("internal: inference broadcasts");
        s.into_iter().map(|s| s as usize).collect()
    }).collect();
    let condition = cx.input(0).bytes();
    let mut out = Picker::new(cx.outputs[0].dtype);
    for_coords(&shape, |at| {
        let from = if condition[offset(at, &strides[0])] != 0 { 1 } else { 2 };
        out.pick(cx.input(from), offset(at, &strides[from]));
    });
    Ok(vec![out.finish(&shape)])
},
dims: Some(where_dims), Tolerance::EXACT,
|| {
    let mut all = vec![
        plain(vec![data(DType::Bool, &[3, 17]), f32s(&[3, 17]), f32s(&[3, 17])]),
        plain(vec![data(DType::Bool, &[3, 1]), f32s(&[]), f32s(&[5])]),
    ];
    all.extend([DType::I64, DType::F16, DType::U8, DType::Bool, DType::I4, DType::F4E2M1, DType::F8E5M2].map(|t| plain(vec![data(DType::Bool, &[9]), data(t, &[9]), data(t, &[1])])));
    all
});
