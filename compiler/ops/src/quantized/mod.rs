//! Quantisation and arithmetic on 8-bit integers.

mod conv_integer;
mod depthwise;
mod dequantize_linear;
mod direct;
mod dynamic_quantize_linear;
mod float_sums;
mod integer;
mod lookup;
mod lower;
mod matmul_integer;
pub(crate) mod params;
mod qlinear_conv;
mod qlinear_matmul;
mod quantize_linear;
mod spread;
mod tiles;
mod weights;
mod words;

pub(crate) use conv_integer::CONV_INTEGER;
pub(crate) use dequantize_linear::DEQUANTIZE_LINEAR;
pub(crate) use dynamic_quantize_linear::DYNAMIC_QUANTIZE_LINEAR;
pub(crate) use lookup::LOOKUP;
pub(crate) use matmul_integer::MATMUL_INTEGER;
pub(crate) use qlinear_conv::QLINEAR_CONV;
pub(crate) use qlinear_matmul::QLINEAR_MATMUL;
pub(crate) use quantize_linear::QUANTIZE_LINEAR;

use onnxc_ir::DType;
use onnxc_ir::scalar::{BinOp, ScalarOp, ScalarProgram, UnOp};

/// Types below a byte, and small floats: what samples cover besides the usual ones.
const SMALL: [DType; 9] = {
    use DType::*;
    [U4, I4, U2, I2, F4E2M1, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ]
};

/// `program` with its argument 0 replaced by `result` of `front`, which has `extra` arguments behind its own argument 0; those of `program` follow them.
fn behind(front: &ScalarProgram, result: u16, program: &ScalarProgram, extra: u8) -> ScalarProgram {
    let mut out = front.clone();
    let mut map: Vec<u16> = Vec::new();
    for node in &program.nodes {
        let new = match node.op {
            ScalarOp::Arg(0) => result,
            ScalarOp::Arg(n) => out.push(ScalarOp::Arg(n + extra), node.dtype),
            op => out.push(op.map_operands(|o| map[o as usize]), node.dtype),
        };
        map.push(new);
    }
    let last = map.last().copied().unwrap_or(result);
    out.finish(last)
}

/// `saturate(round(a0 * a1) + zero)` in `dtype`: requantisation of an i32 sum by an f32 multiplier; the zero point is a constant or argument 2 (i32).
///
/// With a constant zero point the range is clamped before rounding: limits are whole numbers, so that this changes nothing but the number of operations.
fn requantization(dtype: DType, zero: Option<i64>) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (acc, factor) = (p.arg(0, DType::I32), p.arg(1, DType::F32));
    let acc = p.cast(acc, DType::F32);
    let scaled = p.bin(BinOp::Mul, acc, factor);
    let (low, high) = dtype.int_range().unwrap_or((0, 255));
    if let Some(z) = zero {
        return finish_quantization(p, scaled, dtype, z);
    }
    let (least, most) = (p.float(-1e6, DType::F32), p.float(1e6, DType::F32));
    let bounded = p.bin(BinOp::Min, scaled, most);
    let bounded = p.bin(BinOp::Max, bounded, least);
    let rounded = p.un(UnOp::Round, bounded);
    let whole = p.cast(rounded, DType::I32);
    let zero = p.arg(2, DType::I32);
    let moved = p.bin(BinOp::Add, whole, zero);
    let (low, high) = (p.int(low as i64, DType::I32), p.int(high as i64, DType::I32));
    let moved = p.bin(BinOp::Max, moved, low);
    let moved = p.bin(BinOp::Min, moved, high);
    let result = p.cast(moved, dtype);
    p.finish(result)
}

/// `p` with `saturate(round(scaled) + zero)` as its result.
fn finish_quantization(mut p: ScalarProgram, scaled: u16, dtype: DType, zero: i64) -> ScalarProgram {
    let (low, high) = dtype.int_range().unwrap_or((0, 255));
    let (low, high) = (p.float((low as i64 - zero) as f64, DType::F32), p.float((high as i64 - zero) as f64, DType::F32));
    let bounded = p.bin(BinOp::Min, scaled, high);
    let bounded = p.bin(BinOp::Max, bounded, low);
    let rounded = p.un(UnOp::Round, bounded);
    let whole = p.cast(rounded, DType::I32);
    let moved = match zero {
        0 => whole,
        zero => {
            let zero = p.int(zero, DType::I32);
            p.bin(BinOp::Add, whole, zero)
        }
    };
    let result = p.cast(moved, dtype);
    p.finish(result)
}

/// `quantize_linear` of an f32 by one scale and zero point: the program of one element.
pub fn quantization(scale: f32, zero: i64, dtype: DType) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let x = p.arg(0, DType::F32);
    let scale = p.float(f64::from(scale), DType::F32);
    let ratio = p.bin(BinOp::Div, x, scale);
    finish_quantization(p, ratio, dtype, zero)
}

/// `dequantize_linear` to f32 by one scale and zero point: the program of one element.
pub fn dequantization(scale: f32, zero: i64, dtype: DType) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let x = p.arg(0, dtype);
    let wide = p.cast(x, DType::I32);
    let moved = if zero == 0 {
        wide
    } else {
        let zero = p.int(zero, DType::I32);
        p.bin(BinOp::Sub, wide, zero)
    };
    let real = p.cast(moved, DType::F32);
    let scale = p.float(f64::from(scale), DType::F32);
    let result = p.bin(BinOp::Mul, real, scale);
    p.finish(result)
}
