//! `conv_integer`: convolution of integers of 8 bits, or of 16 bits with sign, with zero points; sums are exact in i32, modulo 2^32.
//!
//! Operands: x, w, zero point of x, zero point of w (one, or one per output channel), then those of the epilogue.

use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType};

use super::lower;
use super::params::{check_factors, check_per_channel, check_scalar, scalar_zero};
use crate::common::convolution::{groups, infer_shape, products, window};
use crate::common::elements::{from_scalars, strides};
use crate::common::sample::lists;
use crate::common::{epilogue, sample};
use crate::conv::winograd;
use onnxc_ir::op::OpError;
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::scalar_eval::Scalar;

pub(crate) static CONV_INTEGER: OpDef = OpDef {
    name: "conv_integer",
    onnx: &[Import { domain: "", name: "ConvInteger", opsets: (10, NEWEST), build: |cx| cx.forward("conv_integer") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower::conv_integer),
    tolerance: Tolerance::EXACT,
    samples,
};

/// Operands before those of the epilogue.
pub(crate) const OWN: usize = 4;

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    crate::schedule::check(cx.attrs)?;
    winograd::check(cx.attrs, cx.input(1)?)?;
    check_factors(cx.input(0)?.dtype, cx.input(1)?.dtype)?;
    let shape = infer_shape(cx, 0, 1, usize::MAX)?;
    check_scalar(cx, 2, "the zero point of x")?;
    check_per_channel(cx, 3, shape[1].as_const(), "the zero point of the weights")?;
    Ok(vec![TensorType::new(epilogue::result_dtype(cx.attrs, DType::I32), shape)])
}

/// Sums of products minus zero points, wrapped to i32.
pub(crate) fn sums(
    x: &Tensor,
    w: &Tensor,
    zeros: (Option<&Tensor>, Option<&Tensor>),
    attrs: &Attrs,
    y: &[u64],
) -> OpResult<Vec<i32>> {
    let ints = |t: &Tensor| t.to_i64s().ok_or_else(|| OpError::new("an operand is not of an integer type"));
    let (xv, wv, x_zero) = (ints(x)?, ints(w)?, scalar_zero(zeros.0)?);
    let w_zeros = zeros.1.map_or(Ok(vec![0]), ints)?;
    let per_filter = strides(w.shape())[0];
    let win = window(attrs, x.shape(), w.shape())?;
    let mut sums = vec![0i64; y.iter().product::<u64>() as usize];
    products(x.shape(), w.shape(), y, &win, groups(attrs)?, |o, i, k| {
        sums[o] += (xv[i] - x_zero) * (wv[k] - w_zeros[k / per_filter % w_zeros.len()]);
    });
    Ok(sums.into_iter().map(|s| s as i32).collect())
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let shape = cx.out_shape(0);
    let sums = sums(cx.input(0), cx.input(1), (cx.opt(2), cx.opt(3)), cx.attrs, &shape)?;
    let raw = from_scalars(DType::I32, &shape, sums.into_iter().map(|s| Scalar::Int(s.into())))?;
    Ok(vec![epilogue::apply(cx, raw, OWN)?])
}

/// Constant weights of a type of at most 16 bits over its whole range.
pub(crate) fn const_integers(dtype: DType, shape: &[u64]) -> Option<SampleInput> {
    let n: u64 = shape.iter().product();
    let value = |i: u64| i128::from(if dtype == DType::I16 { i * 30_011 % 65_536 } else { i * 37 % 256 });
    let values = (0..n).map(|i| Scalar::Int(value(i)).rounded(dtype));
    Some(SampleInput::Const(from_scalars(dtype, shape, values).expect("internal: a type of integers")))
}

/// `clip(f32(a0) / 1024, -4, 4)`, for a sample with an epilogue of some length to floats, in which nothing is rounded.
fn clipped() -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let sum = p.arg(0, DType::I32);
    let sum = p.cast(sum, DType::F32);
    let [unit, low, high] = [1.0 / 1024.0, -4.0, 4.0].map(|c| p.float(c, DType::F32));
    let scaled = p.bin(BinOp::Mul, sum, unit);
    let above = p.bin(BinOp::Max, scaled, low);
    p.bin(BinOp::Min, above, high);
    p
}

fn samples() -> Vec<Sample> {
    let case = |attrs: Attrs, x: (DType, &[u64]), w: (DType, &[u64]), zx: bool, zw: Option<Tensor>| {
        let zx = if zx { sample::data(x.0, &[]) } else { None };
        sample::sample(attrs, vec![integer_data(x.0, x.1), const_integers(w.0, w.1), zx, zw.map(SampleInput::Const)])
    };
    let pads = || lists(&[("pads", &[1, 1, 1, 1])]);
    let (u, s, words) = (DType::U8, DType::I8, DType::I16);
    let mut few_filters = case(Attrs::default(), (u, &[1, 40, 3, 3]), (s, &[1, 40, 1, 1]), true, None);
    few_filters.attrs = few_filters.attrs.with("epilogue", Attr::Program(clipped()));
    let all = vec![
        few_filters,
        case(Attrs::default(), (u, &[1, 4, 5, 6]), (s, &[5, 4, 3, 3]), false, None),
        case(pads(), (u, &[2, 3, 7, 7]), (u, &[33, 3, 3, 3]), true, Some(Tensor::scalar(121u8))),
        case(pads(), (s, &[1, 8, 6, 5]), (s, &[16, 8, 3, 3]), true, Some(Tensor::scalar(-3i8))),
        case(pads().with("strides", Attr::Ints(vec![2, 2])), (s, &[1, 5, 9, 8]), (u, &[18, 5, 3, 3]), true, None),
        case(Attrs::default(), (u, &[1, 24, 4, 4]), (u, &[24, 24, 1, 1]), true, Some(Tensor::scalar(94u8))),
        case(pads().with("group", Attr::Int(2)), (u, &[1, 6, 5, 5]), (s, &[4, 3, 3, 3]), true, None),
        case(pads(), (u, &[1, 4, 5, 5]), (u, &[3, 4, 3, 3]), true, Some(Tensor::from_vec(&[3], vec![1u8, 200, 128]))),
        case(lists(&[("pads", &[2, 0])]), (u, &[2, 5, 11]), (s, &[7, 5, 3]), true, None),
        case(pads(), (u, &[1, 16, 6, 5]), (s, &[19, 16, 3, 3]), true, None),
        case(pads(), (words, &[1, 5, 6, 5]), (words, &[19, 5, 3, 3]), true, None),
        case(pads(), (words, &[2, 8, 5, 6]), (words, &[33, 8, 3, 3]), false, None),
        case(Attrs::default(), (words, &[1, 18, 4, 5]), (words, &[40, 18, 1, 1]), false, None),
        case(pads().with("group", Attr::Int(2)), (words, &[1, 6, 5, 5]), (words, &[4, 3, 3, 3]), true, None),
        case(pads().with("group", Attr::Int(6)), (words, &[1, 6, 5, 5]), (words, &[6, 1, 3, 3]), false, None),
        case(pads(), (words, &[1, 4, 5, 5]), (words, &[3, 4, 3, 3]), true, Some(Tensor::scalar(-300i16))),
    ];
    let all = sample::and_short(all, &[0, 1, 3, 6, 8, 9], 1);
    let short: Vec<usize> = (all.len() - 3..all.len()).collect();
    let mut all = sample::and_sparse(all, &[&[2, 3, 4, 5, 6, 7, 10, 11, 12], &short[..]].concat(), 1, (0, 1));
    let ragged = || lists(&[("pads", &[1, 0, 2, 1])]);
    all.extend(
        [
            case(pads(), (u, &[2, 6, 9, 8]), (s, &[33, 6, 3, 3]), true, None),
            case(ragged(), (s, &[1, 70, 5, 6]), (s, &[19, 70, 3, 3]), true, None),
            case(pads(), (u, &[1, 16, 7, 13]), (u, &[35, 16, 3, 3]), false, Some(Tensor::scalar(128u8))),
            case(Attrs::default(), (u, &[1, 2, 3, 3]), (s, &[1, 2, 3, 3]), false, None),
            // The attribute is no more than a permission.
            case(pads(), (u, &[1, 5, 6, 5]), (s, &[4, 5, 3, 3]), true, None),
            case(pads(), (s, &[1, 8, 6, 5]), (s, &[16, 8, 3, 3]), true, Some(Tensor::scalar(-3i8))),
        ]
        .iter()
        .flat_map(in_tiles),
    );
    let mut strided =
        case(ragged().with("strides", Attr::Ints(vec![2, 2])), (u, &[2, 10, 9, 14]), (s, &[19, 10, 3, 3]), true, None);
    strided.attrs = strided.attrs.with(winograd::ATTR, Attr::Str("winograd2_by_2".to_string()));
    all.push(strided);
    all
}

/// A sample by Winograd's algorithm, in smaller and in larger tiles.
pub(crate) fn in_tiles(sample: &Sample) -> [Sample; 2] {
    let with =
        |name: &str| Sample { attrs: sample.attrs.clone().with(winograd::ATTR, Attr::Str(name.to_string())), ..sample.clone() };
    ["winograd2", "winograd4"].map(with)
}

/// Run-time data of a type of at most 16 bits over its whole range.
pub(crate) fn integer_data(dtype: DType, shape: &[u64]) -> Option<SampleInput> {
    let (low, high) = dtype.int_range().expect("internal: a type of integers");
    sample::data_in(dtype, shape, low as f64, high as f64)
}
