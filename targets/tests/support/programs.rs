//! Epilogues that kernels are tested with.

use onnxc_ir::DType;
use onnxc_ir::scalar::{BinOp, ScalarProgram, UnOp};

/// The program that is only its operand.
pub fn identity(dtype: DType) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    p.arg(0, dtype);
    p
}

pub fn relu() -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let x = p.arg(0, DType::F32);
    let zero = p.float(0.0, DType::F32);
    p.bin(BinOp::Max, x, zero);
    p
}

/// `clip(a0 * a1, -0.5, 0.5) + a2`.
pub fn scale_clip_add() -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (x, s, r) = (p.arg(0, DType::F32), p.arg(1, DType::F32), p.arg(2, DType::F32));
    let (lo, hi) = (p.float(-0.5, DType::F32), p.float(0.5, DType::F32));
    let x = p.bin(BinOp::Mul, x, s);
    let x = p.bin(BinOp::Max, x, lo);
    let x = p.bin(BinOp::Min, x, hi);
    p.bin(BinOp::Add, x, r);
    p
}

/// GELU: long, needs many registers.
pub fn gelu() -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let x = p.arg(0, DType::F32);
    let (half, root, one) = (p.float(0.5, DType::F32), p.float(0.5f64.sqrt(), DType::F32), p.float(1.0, DType::F32));
    let y = p.bin(BinOp::Mul, x, root);
    let y = p.un(UnOp::Erf, y);
    let y = p.bin(BinOp::Add, y, one);
    let y = p.bin(BinOp::Mul, y, x);
    p.bin(BinOp::Mul, y, half);
    p
}

/// i32 accumulator to a byte: `i8_or_u8(i32(clamp(round(f32(a0) * a1))) + 7)`, as lowerings write it.
pub fn quantise(dtype: DType) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (x, s) = (p.arg(0, DType::I32), p.arg(1, DType::F32));
    let (low, high) = dtype.int_range().unwrap();
    let (lo, hi) = (p.float(low as f64 - 7.0, DType::F32), p.float(high as f64 - 7.0, DType::F32));
    let x = p.cast(x, DType::F32);
    let x = p.bin(BinOp::Mul, x, s);
    let x = p.bin(BinOp::Min, x, hi);
    let x = p.bin(BinOp::Max, x, lo);
    let x = p.un(UnOp::Round, x);
    let x = p.cast(x, DType::I32);
    let zero_point = p.int(7, DType::I32);
    let x = p.bin(BinOp::Add, x, zero_point);
    p.cast(x, dtype);
    p
}

/// [`quantise`] to u8, and `u8(max(i32(round(abs(f32(i32(byte) - 100) * 0.75))), 9))` of that.
pub fn bend() -> ScalarProgram {
    let mut p = quantise(DType::U8);
    let x = p.cast(p.result(), DType::I32);
    let hundred = p.int(100, DType::I32);
    let x = p.bin(BinOp::Sub, x, hundred);
    let x = p.cast(x, DType::F32);
    let slope = p.float(0.75, DType::F32);
    let x = p.bin(BinOp::Mul, x, slope);
    let x = p.un(UnOp::Abs, x);
    let x = p.un(UnOp::Round, x);
    let (x, nine) = (p.cast(x, DType::I32), p.int(9, DType::I32));
    let x = p.bin(BinOp::Max, x, nine);
    p.cast(x, DType::U8);
    p
}

/// A program of one float, of an i32 accumulator times an operand.
pub fn scaled(of: &ScalarProgram) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (x, s) = (p.arg(0, DType::I32), p.arg(1, DType::F32));
    let x = p.cast(x, DType::F32);
    let x = p.bin(BinOp::Mul, x, s);
    p.inline(of, &[x]);
    p
}

/// i32 accumulator to u8: `clamp(round(f32(a0) * a1) + 7, 0, 255)`.
pub fn requantise() -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (x, s) = (p.arg(0, DType::I32), p.arg(1, DType::F32));
    let x = p.cast(x, DType::F32);
    let x = p.bin(BinOp::Mul, x, s);
    let x = p.un(UnOp::Round, x);
    let x = p.cast(x, DType::I32);
    let (zero_point, lo, hi) = (p.int(7, DType::I32), p.int(0, DType::I32), p.int(255, DType::I32));
    let x = p.bin(BinOp::Add, x, zero_point);
    let x = p.bin(BinOp::Max, x, lo);
    let x = p.bin(BinOp::Min, x, hi);
    p.cast(x, DType::U8);
    p
}

/// `u8(round(clamp(swish(a0 * a1 + a2) / 0.0065)) + 42)` of a float: long, and ends in bytes.
pub fn swish_to_bytes() -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (x, s, b) = (p.arg(0, DType::F32), p.arg(1, DType::F32), p.arg(2, DType::F32));
    let x = p.bin(BinOp::Mul, x, s);
    let x = p.bin(BinOp::Add, x, b);
    let y = p.un(UnOp::Sigmoid, x);
    let x = p.bin(BinOp::Mul, x, y);
    let (scale, lo, hi) = (p.float(0.0065, DType::F32), p.float(-42.0, DType::F32), p.float(213.0, DType::F32));
    let x = p.bin(BinOp::Div, x, scale);
    let x = p.bin(BinOp::Min, x, hi);
    let x = p.bin(BinOp::Max, x, lo);
    let x = p.un(UnOp::Round, x);
    let (x, zero_point) = (p.cast(x, DType::I32), p.int(42, DType::I32));
    let x = p.bin(BinOp::Add, x, zero_point);
    p.cast(x, DType::U8);
    p
}
