//! Conversions to 8-bit floats as scalar programs, where the plain cast (which saturates, and rounds powers of two up) is not what is asked for.

use onnxc_ir::DType;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarProgram, UnOp};
use onnxc_ir::small_float::{self, Rounding};

/// How values that a type does not have are converted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Conversion {
    /// Beyond the largest finite value: that value. Otherwise infinity, or NaN where there is none.
    pub saturate: bool,
    /// For powers of two (f8e8m0).
    pub rounding: Rounding,
}

/// Appends the conversion of node `x` to `to`.
pub(crate) fn convert(p: &mut ScalarProgram, x: NodeIx, to: DType, how: Conversion) -> NodeIx {
    if to == DType::F8E8M0 {
        return power_of_two(p, x, how);
    }
    let Some((limit, tie)) = small_float::overflow(to).filter(|_| !how.saturate && to.bits() == 8) else {
        return p.cast(x, to);
    };
    let wide = match p.dtype(x) {
        t @ (DType::F32 | DType::F64) => t,
        t if t.is_float() => DType::F32,
        _ => DType::F64,
    };
    let x = p.cast(x, wide);
    let (magnitude, limit, zero) = (p.un(UnOp::Abs, x), p.float(limit, wide), p.float(0.0, wide));
    let over = p.bin(if tie { BinOp::Ge } else { BinOp::Gt }, magnitude, limit);
    let inside = p.cast(x, to);
    // What the type has of infinity: encoding an infinite constant does not saturate.
    let (top, bottom) = (p.float(f64::INFINITY, to), p.float(f64::NEG_INFINITY, to));
    let negative = p.bin(BinOp::Lt, x, zero);
    let outside = p.select(negative, bottom, top);
    p.select(over, outside, inside)
}

fn power_of_two(p: &mut ScalarProgram, x: NodeIx, how: Conversion) -> NodeIx {
    let x = p.cast(x, DType::F32);
    let rounded = match how.rounding {
        Rounding::Up => x,
        Rounding::Down => cut(p, x, 0),
        // Half of the mantissa carries into the exponent.
        Rounding::Nearest => cut(p, x, 1 << 22),
    };
    let code = p.cast(rounded, DType::F8E8M0);
    if how.saturate {
        return code;
    }
    let (most, zero) = (p.float(2f64.powi(127), DType::F32), p.float(0.0, DType::F32));
    let (above, below) = (p.bin(BinOp::Gt, rounded, most), p.bin(BinOp::Le, x, zero));
    let outside = p.bin(BinOp::Or, above, below);
    let nan = p.float(f64::NAN, DType::F8E8M0);
    p.select(outside, nan, code)
}

/// An f32 with `more` added to its bits and the mantissa cleared; NaN stays.
fn cut(p: &mut ScalarProgram, x: NodeIx, more: i64) -> NodeIx {
    let bits = p.push(onnxc_ir::scalar::ScalarOp::Un(UnOp::Bitcast, x), DType::I32);
    let (more, exponent) = (p.int(more, DType::I32), p.int(-(1 << 23), DType::I32));
    let sum = p.bin(BinOp::Add, bits, more);
    let power = p.bin(BinOp::And, sum, exponent);
    let power = p.push(onnxc_ir::scalar::ScalarOp::Un(UnOp::Bitcast, power), DType::F32);
    let nan = p.un(UnOp::IsNan, x);
    p.select(nan, x, power)
}
