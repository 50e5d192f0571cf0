//! `matmul_integer`: product of 8-bit matrices with zero points, exact in i32.
//!
//! Operands: a, b, zero point of a (one, or one per row), zero point of b (one, or one per column), then those of the epilogue.

use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::scalar_eval::{Scalar, broadcast_strides};
use onnxc_ir::{Attrs, DType, Tensor, TensorType};

use super::conv_integer::{const_integers, integer_data};
use super::lower;
use super::params::check_factors;
use crate::common::elements::from_scalars;
use crate::common::{epilogue, sample};
use crate::composed::contrib::qmatmul;
use crate::matmul::shapes as matrix;

pub(crate) static MATMUL_INTEGER: OpDef = OpDef {
    name: "matmul_integer",
    onnx: &[
        Import { domain: "", name: "MatMulInteger", opsets: (10, NEWEST), build: |cx| cx.forward("matmul_integer") },
        qmatmul::DYNAMIC_QUANTIZE_MATMUL,
        qmatmul::MATMUL_INTEGER_TO_FLOAT,
        qmatmul::QGEMM,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower::matmul_integer),
    tolerance: Tolerance::EXACT,
    samples,
};

/// Operands before those of the epilogue.
pub(crate) const OWN: usize = 4;

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    crate::schedule::check(cx.attrs)?;
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    check_factors(a.dtype, b.dtype)?;
    let shape = matrix::infer_shape(a, b)?;
    if let (Some(a), Some(b)) = (a.const_shape(), b.const_shape()) {
        for (i, left, other) in [(2, true, &a), (3, false, &b)] {
            if let Some(zero) = cx.opt(i).and_then(TensorType::const_shape) {
                parameter_strides(&zero, other, left)?;
            }
        }
    }
    Ok(vec![TensorType::new(epilogue::result_dtype(cx.attrs, DType::I32), shape)])
}

/// Strides of a scale or zero point over its (stacked) operand: one element per row of the left operand, per column of the right one, or as the
/// operand's own broadcastable shape.
pub(crate) fn parameter_strides(parameter: &[u64], operand: &[u64], left: bool) -> OpResult<Vec<u64>> {
    let mut shape = parameter.to_vec();
    if left && shape.len() == 1 && operand.len() > 1 {
        shape.push(1);
    }
    if shape.iter().product::<u64>() == 1 {
        return Ok(vec![0; operand.len()]);
    }
    broadcast_strides(&shape, operand)
        .ok_or_else(|| OpError::new(format!("a zero point or scale of shape {parameter:?} for an operand of shape {operand:?}")))
}

/// The elements of a byte tensor minus their zero points.
pub(crate) fn centred(t: &Tensor, zero: Option<&Tensor>, left: bool) -> OpResult<Vec<i64>> {
    let ints = |t: &Tensor| t.to_i64s().ok_or_else(|| OpError::new("an operand is not of an integer type"));
    let mut values = ints(t)?;
    if let Some(zero) = zero {
        let (strides, zeros) = (parameter_strides(zero.shape(), t.shape(), left)?, ints(zero)?);
        let mut i = 0;
        crate::common::elements::for_coords(t.shape(), |at| {
            values[i] -= zeros[at.iter().zip(&strides).map(|(a, s)| a * *s as usize).sum::<usize>()];
            i += 1;
        });
    }
    Ok(values)
}

/// Sums of products minus zero points, wrapped to i32.
pub(crate) fn sums(a: &Tensor, b: &Tensor, zeros: (Option<&Tensor>, Option<&Tensor>), n: usize) -> OpResult<Vec<i32>> {
    let (av, bv) = (centred(a, zeros.0, true)?, centred(b, zeros.1, false)?);
    let mut y = vec![0i64; n];
    matrix::products(a.shape(), b.shape(), |o, i, j| y[o] += av[i] * bv[j]);
    Ok(y.into_iter().map(|s| s as i32).collect())
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let shape = cx.out_shape(0);
    let n = shape.iter().product::<u64>() as usize;
    let sums = sums(cx.input(0), cx.input(1), (cx.opt(2), cx.opt(3)), n)?;
    let raw = from_scalars(DType::I32, &shape, sums.into_iter().map(|s| Scalar::Int(s.into())))?;
    Ok(vec![epilogue::apply(cx, raw, OWN)?])
}

fn samples() -> Vec<Sample> {
    let (u, s, words) = (DType::U8, DType::I8, DType::I16);
    let constant = |t: Tensor| Some(SampleInput::Const(t));
    let case = |a: Option<SampleInput>, b: Option<SampleInput>, za, zb| sample::sample(Attrs::default(), vec![a, b, za, zb]);
    let all = vec![
        case(integer_data(u, &[3, 8]), const_integers(s, &[8, 21]), None, None),
        case(integer_data(u, &[5, 13]), const_integers(u, &[13, 40]), sample::data(u, &[]), constant(Tensor::scalar(119u8))),
        case(integer_data(s, &[2, 4, 6]), const_integers(s, &[6, 17]), sample::data(s, &[]), None),
        case(
            integer_data(s, &[4, 6]),
            const_integers(u, &[6, 5]),
            None,
            constant(Tensor::from_vec(&[5], vec![1u8, 9, 200, 128, 0])),
        ),
        case(integer_data(u, &[4, 7]), integer_data(s, &[7, 3]), sample::data(u, &[]), sample::data(s, &[])),
        case(integer_data(u, &[4, 7]), integer_data(u, &[7, 3]), sample::data(u, &[4]), sample::data(u, &[3])),
        case(integer_data(u, &[2, 3, 4]), integer_data(s, &[2, 4, 5]), None, None),
        case(integer_data(words, &[5, 13]), const_integers(words, &[13, 40]), sample::data(words, &[]), None),
        case(integer_data(words, &[1, 3, 48]), const_integers(words, &[48, 21]), None, None),
        case(integer_data(words, &[4, 7]), integer_data(words, &[7, 3]), sample::data(words, &[]), sample::data(words, &[])),
    ];
    sample::and_sparse(sample::and_short(all, &[0], 1), &[0, 1, 2, 3, 7, 8, 10, 11, 12], 1, (1, 0))
}
