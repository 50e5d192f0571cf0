//! `qlinear_conv`: convolution of integers of 8 bits, or of 16 bits with sign, requantised to integers of 8 or 16: `saturate(round(acc * (sx * sw / sy)) + zy)`.
//!
//! Operands: x, its scale and zero point, w, its scales and zero points (one, or one per output channel), scale and zero point of y, i32 bias, then
//! those of the epilogue, whose argument 0 is the requantised result.

use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType};

use super::conv_integer::{const_integers, in_tiles, integer_data, sums};
use super::lower;
use super::params::{check_factors, check_per_channel, check_result, check_scalar, requantize, scalar_f32, scalar_zero};
use crate::common::convolution::infer_shape;
use crate::common::elements::f64s;
use crate::common::epilogue;
use crate::common::sample::lists;
use crate::common::{elements, sample};
use crate::conv::winograd;
use onnxc_ir::scalar::{BinOp, ScalarProgram, UnOp};
use onnxc_ir::scalar_eval::Scalar;

pub(crate) static QLINEAR_CONV: OpDef = OpDef {
    name: "qlinear_conv",
    onnx: &[
        Import { domain: "", name: "QLinearConv", opsets: (10, NEWEST), build: |cx| cx.forward("qlinear_conv") },
        crate::composed::contrib::layout::QLINEAR_CONV,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower::qlinear_conv),
    tolerance: Tolerance::EXACT,
    samples,
};

/// Operands before those of the epilogue.
pub(super) const OWN: usize = 9;

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    crate::schedule::check(cx.attrs)?;
    winograd::check(cx.attrs, cx.input(3)?)?;
    check_factors(cx.input(0)?.dtype, cx.input(3)?.dtype)?;
    let raw = cx.input(7)?.dtype;
    check_result(raw)?;
    let shape = infer_shape(cx, 0, 3, 8)?;
    for (i, what) in [(1, "the scale of x"), (2, "the zero point of x"), (6, "the scale of y"), (7, "the zero point of y")] {
        check_scalar(cx, i, what)?;
    }
    check_per_channel(cx, 4, shape[1].as_const(), "the scale of the weights")?;
    check_per_channel(cx, 5, shape[1].as_const(), "the zero point of the weights")?;
    if cx.opt(8).is_some_and(|b| b.dtype != DType::I32) {
        return Err(OpError::new("the bias must be of type i32"));
    }
    Ok(vec![TensorType::new(epilogue::result_dtype(cx.attrs, raw), shape)])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let shape = cx.out_shape(0);
    let acc = sums(cx.input(0), cx.input(3), (cx.opt(2), cx.opt(5)), cx.attrs, &shape)?;
    let (sx, sy, zy) = (scalar_f32(cx.input(1))?, scalar_f32(cx.input(6))?, scalar_zero(cx.opt(7))?);
    let sw = f64s(cx.input(4))?;
    let bias = cx.opt(8).and_then(Tensor::to_i64s);
    let per_channel = shape[2..].iter().product::<u64>() as usize;
    let dtype = cx.input(7).dtype();
    let channels = shape[1] as usize;
    let y = acc.into_iter().enumerate().map(|(i, acc)| {
        let c = i / per_channel % channels;
        let acc = acc.wrapping_add(bias.as_ref().map_or(0, |b| b[c] as i32));
        let multiplier = sx * sw[c % sw.len()] as f32 / sy;
        Scalar::Int(requantize(acc, multiplier, zy, dtype).into())
    });
    Ok(vec![epilogue::apply(cx, elements::from_scalars(dtype, &shape, y)?, OWN)?])
}

/// `u8((i32(a0) + i32(a1)) / 2)`, for samples with an epilogue.
fn halved_sum() -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (a, b) = (p.arg(0, DType::U8), p.arg(1, DType::U8));
    let (a, b) = (p.cast(a, DType::I32), p.cast(b, DType::I32));
    let sum = p.bin(BinOp::Add, a, b);
    let one = p.int(1, DType::I32);
    let half = p.bin(BinOp::Shr, sum, one);
    p.cast(half, DType::U8);
    p
}

/// `u8(round(f32(i32(a0) - 100) * clip(f32(i32(a0) - 100) * 0.01 + 0.5, 0, 1)) + 3)`: a function of the byte alone, for samples with an epilogue.
fn swish() -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let a = p.arg(0, DType::U8);
    let (a, zero) = (p.cast(a, DType::I32), p.int(100, DType::I32));
    let x = p.bin(BinOp::Sub, a, zero);
    let x = p.cast(x, DType::F32);
    let (slope, half) = (p.float(0.01, DType::F32), p.float(0.5, DType::F32));
    let (least, most) = (p.float(0.0, DType::F32), p.float(1.0, DType::F32));
    let gate = p.bin(BinOp::Mul, x, slope);
    let gate = p.bin(BinOp::Add, gate, half);
    let gate = p.bin(BinOp::Max, gate, least);
    let gate = p.bin(BinOp::Min, gate, most);
    let y = p.bin(BinOp::Mul, x, gate);
    let y = p.un(UnOp::Round, y);
    let (y, three) = (p.cast(y, DType::I32), p.int(3, DType::I32));
    let y = p.bin(BinOp::Add, y, three);
    let y = p.cast(y, DType::U8);
    p.finish(y)
}

fn samples() -> Vec<Sample> {
    let constant = |t: Tensor| Some(SampleInput::Const(t));
    let scale = |v: f32| constant(Tensor::scalar(v));
    let case = |attrs: Attrs, x: (DType, &[u64]), w: (DType, &[u64]), per_channel: bool, bias: bool| {
        let zero = |t: DType, u: u8, i: i8| {
            constant(match t {
                DType::U8 => Tensor::scalar(u),
                DType::I8 => Tensor::scalar(i),
                _ => Tensor::scalar(0i16),
            })
        };
        let sw = if per_channel { sample::const_f32s(&w.1[..1]) } else { scale(0.02) };
        let bias =
            bias.then(|| SampleInput::Const(Tensor::from_vec(&w.1[..1], (0..w.1[0]).map(|i| 100 * i as i32 - 300).collect())));
        let (zx, zw, zy) = (zero(x.0, 120, 5), zero(w.0, 130, 0), zero(x.0, 100, -10));
        sample::sample(
            attrs,
            vec![integer_data(x.0, x.1), scale(0.01), zx, const_integers(w.0, w.1), sw, zw, scale(0.5), zy, bias],
        )
    };
    let pads = || lists(&[("pads", &[1, 1, 1, 1])]);
    let depthwise = |n: i64, more: Attrs| more.with("group", Attr::Int(n));
    let (u, s, words) = (DType::U8, DType::I8, DType::I16);
    let strided = lists(&[("pads", &[1, 1, 1, 1]), ("strides", &[2, 2])]);
    let dilated = lists(&[("pads", &[4, 4, 4, 4]), ("dilations", &[2, 2])]);
    let mut residual = case(pads(), (u, &[1, 4, 5, 6]), (s, &[24, 4, 3, 3]), true, true);
    residual.attrs = residual.attrs.with("epilogue", Attr::Program(halved_sum()));
    residual.inputs.push(integer_data(u, &[1, 24, 5, 6]));
    let mut deep = case(depthwise(68, pads()), (u, &[1, 68, 4, 3]), (s, &[68, 1, 3, 3]), true, true);
    deep.attrs = deep.attrs.with("epilogue", Attr::Program(halved_sum()));
    deep.inputs.push(integer_data(u, &[1, 68, 4, 3]));
    let swished = |mut sample: Sample| {
        sample.attrs = sample.attrs.with("epilogue", Attr::Program(swish()));
        sample
    };
    // The scale of a result that has some values in its range and some beyond.
    let of_words = |mut sample: Sample| {
        sample.inputs[6] = scale(2000.0);
        sample
    };
    let wide = |stride: i64| lists(&[("pads", &[2, 2, 2, 2]), ("strides", &[stride, stride])]);
    let all = vec![
        residual,
        deep,
        case(depthwise(67, strided), (u, &[1, 67, 9, 8]), (u, &[67, 1, 3, 3]), true, true),
        case(depthwise(20, dilated), (s, &[2, 20, 9, 7]), (s, &[20, 1, 5, 5]), false, false),
        case(depthwise(96, Attrs::default()), (u, &[1, 96, 7, 7]), (s, &[96, 1, 7, 7]), true, false),
        case(Attrs::default(), (u, &[1, 4, 5, 6]), (s, &[5, 4, 3, 3]), false, true),
        case(pads(), (u, &[2, 3, 7, 7]), (u, &[33, 3, 3, 3]), false, false),
        case(pads(), (s, &[1, 8, 6, 5]), (s, &[16, 8, 3, 3]), true, true),
        case(pads().with("group", Attr::Int(6)), (u, &[1, 6, 5, 5]), (s, &[6, 1, 3, 3]), true, true),
        case(Attrs::default(), (u, &[1, 24, 4, 4]), (s, &[40, 24, 1, 1]), true, false),
        case(depthwise(72, wide(1)), (u, &[1, 72, 7, 9]), (s, &[72, 1, 5, 5]), true, true),
        swished(case(depthwise(152, wide(2)), (u, &[2, 152, 8, 13]), (s, &[152, 1, 5, 5]), true, true)),
        swished(case(depthwise(116, pads()), (u, &[1, 116, 5, 12]), (s, &[116, 1, 3, 3]), false, true)),
        swished(case(pads(), (u, &[1, 5, 7, 6]), (s, &[40, 5, 3, 3]), true, true)),
        of_words(case(pads(), (words, &[1, 7, 6, 5]), (words, &[21, 7, 3, 3]), true, true)),
        of_words(case(Attrs::default(), (words, &[1, 32, 5, 5]), (words, &[40, 32, 1, 1]), true, true)),
        case(depthwise(40, wide(1)), (u, &[1, 40, 5, 9]), (u, &[40, 1, 2, 4]), true, true),
        case(depthwise(76, pads()), (u, &[1, 76, 7, 6]), (s, &[76, 1, 6, 3]), false, true),
        swished(case(depthwise(24, wide(2)), (u, &[1, 24, 9, 11]), (u, &[24, 1, 4, 5]), true, false)),
    ];
    let residual_in_tiles = in_tiles(&all[0]);
    let mut all = sample::and_sparse(all, &[0, 2, 6, 7, 9, 14, 15], 3, (0, 1));
    all.extend(residual_in_tiles);
    all.extend(
        [
            case(pads(), (s, &[1, 8, 6, 5]), (s, &[16, 8, 3, 3]), true, true),
            swished(case(pads(), (u, &[1, 20, 7, 6]), (s, &[40, 20, 3, 3]), true, true)),
            case(Attrs::default(), (u, &[2, 34, 9, 11]), (s, &[37, 34, 3, 3]), false, false),
        ]
        .iter()
        .flat_map(in_tiles),
    );
    all
}
