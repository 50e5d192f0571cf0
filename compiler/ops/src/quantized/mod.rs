//! Quantisation and arithmetic on 8-bit integers.

mod conv_integer;
mod dequantize_linear;
mod direct;
mod dynamic_quantize_linear;
mod integer;
mod lower;
mod matmul_integer;
pub(crate) mod params;
mod qlinear_conv;
mod qlinear_matmul;
mod quantize_linear;
mod spread;

pub(crate) use conv_integer::CONV_INTEGER;
pub(crate) use dequantize_linear::DEQUANTIZE_LINEAR;
pub(crate) use dynamic_quantize_linear::DYNAMIC_QUANTIZE_LINEAR;
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
fn requantization(dtype: DType, zero: Option<i64>) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (acc, factor) = (p.arg(0, DType::I32), p.arg(1, DType::F32));
    let acc = p.cast(acc, DType::F32);
    let scaled = p.bin(BinOp::Mul, acc, factor);
    let (low, high) = (p.float(-1e6, DType::F32), p.float(1e6, DType::F32));
    let bounded = p.bin(BinOp::Min, scaled, high);
    let bounded = p.bin(BinOp::Max, bounded, low);
    let rounded = p.un(UnOp::Round, bounded);
    let whole = p.cast(rounded, DType::I32);
    let zero = match zero {
        Some(z) => p.push(ScalarOp::Const(z as u64), DType::I32),
        None => p.arg(2, DType::I32),
    };
    let moved = p.bin(BinOp::Add, whole, zero);
    let (low, high) = dtype.int_range().unwrap_or((0, 255));
    let low = p.push(ScalarOp::Const(low as i64 as u64), DType::I32);
    let high = p.push(ScalarOp::Const(high as u64), DType::I32);
    let moved = p.bin(BinOp::Max, moved, low);
    let moved = p.bin(BinOp::Min, moved, high);
    let result = p.cast(moved, dtype);
    p.finish(result)
}
