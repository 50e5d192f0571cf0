//! `qlinear_matmul`: product of 8-bit matrices, requantised to 8 bits.
//!
//! Operands: a, its scale and zero point (one, or one per row), b, its scale and zero point (one, or one per column), scale and zero point of y, then
//! those of the epilogue, whose argument 0 is the requantised result.

use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attrs, DType, Tensor, TensorType};

use super::conv_integer::{const_integers, integer_data};
use super::lower;
use super::matmul_integer::{parameter_strides, sums};
use super::params::{check_factors, check_result, check_scalar, requantize, scalar_f32, scalar_zero};
use crate::common::elements::{f64s, for_coords, from_scalars};
use crate::common::{epilogue, float, sample};
use crate::matmul::shapes as matrix;

pub(crate) static QLINEAR_MATMUL: OpDef = OpDef {
    name: "qlinear_matmul",
    onnx: &[Import { domain: "", name: "QLinearMatMul", opsets: (10, NEWEST), build: |cx| cx.forward("qlinear_matmul") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower::qlinear_matmul),
    tolerance: Tolerance::EXACT,
    samples,
};

/// Operands before those of the epilogue.
pub(super) const OWN: usize = 8;

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    crate::schedule::check(cx.attrs)?;
    let (a, b) = (cx.input(0)?, cx.input(3)?);
    check_factors(a.dtype, b.dtype)?;
    let raw = cx.input(7)?.dtype;
    check_result(raw)?;
    for (i, what) in [(6, "the scale of y"), (7, "the zero point of y")] {
        check_scalar(cx, i, what)?;
    }
    for i in [1, 4, 6] {
        float::check(cx.input(i)?.dtype, "a scale")?;
    }
    if let (Some(sa), Some(sb)) = (a.const_shape(), b.const_shape()) {
        for (i, operand, left) in [(1, &sa, true), (2, &sa, true), (4, &sb, false), (5, &sb, false)] {
            if let Some(p) = cx.opt(i).and_then(TensorType::const_shape) {
                parameter_strides(&p, operand, left)?;
            }
        }
    }
    Ok(vec![TensorType::new(epilogue::result_dtype(cx.attrs, raw), matrix::infer_shape(a, b)?)])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (a, b) = (cx.input(0), cx.input(3));
    let shape = cx.out_shape(0);
    let acc = sums(a, b, (cx.opt(2), cx.opt(5)), shape.iter().product::<u64>() as usize)?;
    let (sy, zy) = (scalar_f32(cx.input(6))?, scalar_zero(cx.opt(7))?);
    let (sa, sb) = (f64s(cx.input(1))?, f64s(cx.input(4))?);
    let (stack_a, stack_b, stack_y) = matrix::stacked(a.shape(), b.shape());
    let ta = parameter_strides(cx.input(1).shape(), &stack_a, true)?;
    let tb = parameter_strides(cx.input(4).shape(), &stack_b, false)?;
    let pick = |strides: &[u64], at: &[usize]| at.iter().zip(strides).map(|(a, s)| a * *s as usize).sum::<usize>();
    let dtype = cx.input(7).dtype();
    let mut y = Vec::with_capacity(acc.len());
    for_coords(&stack_y, |at| {
        let multiplier = sa[pick(&ta, at)] as f32 * sb[pick(&tb, at)] as f32 / sy;
        y.push(Scalar::Int(requantize(acc[y.len()], multiplier, zy, dtype).into()));
    });
    Ok(vec![epilogue::apply(cx, from_scalars(dtype, &shape, y)?, OWN)?])
}

fn samples() -> Vec<Sample> {
    let constant = |t: Tensor| Some(SampleInput::Const(t));
    let scale = |v: f32| constant(Tensor::scalar(v));
    let (u, s, words) = (DType::U8, DType::I8, DType::I16);
    let case = |a, b, za: Tensor, zb: Tensor, sb, zy: Tensor| {
        let inputs = vec![a, scale(0.02), constant(za), b, sb, constant(zb), scale(0.7), constant(zy)];
        sample::sample(Attrs::default(), inputs)
    };
    let (u0, s0, w0) = (Tensor::scalar(117u8), Tensor::scalar(-4i8), Tensor::scalar(0i16));
    let all = vec![
        case(integer_data(u, &[5, 13]), const_integers(u, &[13, 40]), u0.clone(), u0.clone(), scale(0.01), u0.clone()),
        case(integer_data(s, &[2, 4, 8]), const_integers(s, &[8, 17]), s0.clone(), s0.clone(), scale(0.03), s0.clone()),
        case(integer_data(u, &[4, 7]), const_integers(s, &[7, 3]), u0.clone(), s0.clone(), sample::const_f32s(&[3]), u0.clone()),
        case(integer_data(u, &[2, 4, 7]), integer_data(u, &[2, 7, 3]), u0.clone(), u0.clone(), scale(0.01), u0.clone()),
        case(integer_data(words, &[5, 14]), const_integers(words, &[14, 40]), w0.clone(), w0.clone(), scale(0.001), w0.clone()),
        case(integer_data(words, &[3, 20]), const_integers(words, &[20, 17]), w0.clone(), w0, scale(0.3), u0),
    ];
    sample::and_sparse(all, &[0, 1, 4, 5], 3, (1, 0))
}
