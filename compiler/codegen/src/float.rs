//! Floats without hardware help: storage formats (f16, bf16, 8-bit, f4), rounding to whole numbers, remainders.
//!
//! Everything is exact or correctly rounded (nearest, ties to even), and no intermediate value is subnormal unless the operand was, so the
//! results do not depend on flush-to-zero. 8-bit formats saturate, as ONNX `Cast` does by default.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use cranelift_frontend::FunctionBuilder;
use onnxc_ir::DType;
use onnxc_ir::scalar::UnOp;

use crate::error::{Error, Result};

/// How a format spends its highest codes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Top {
    /// Infinity and NaN in the highest exponent.
    Ieee,
    /// No infinity; NaN is all ones.
    AllOnesNan,
    /// No infinity, no negative zero: its code is the NaN.
    NegativeZeroNan,
    /// Finite values only.
    Finite,
}

/// A small binary float format.
#[derive(Clone, Copy)]
struct Format {
    exponent: u32,
    mantissa: u32,
    bias: i32,
    top: Top,
    saturate: bool,
}

fn format(dtype: DType) -> Option<Format> {
    let (exponent, mantissa, bias, top, saturate) = match dtype {
        DType::F16 => (5, 10, 15, Top::Ieee, false),
        DType::F8E4M3FN => (4, 3, 7, Top::AllOnesNan, true),
        DType::F8E4M3FNUZ => (4, 3, 8, Top::NegativeZeroNan, true),
        DType::F8E5M2 => (5, 2, 15, Top::Ieee, true),
        DType::F8E5M2FNUZ => (5, 2, 16, Top::NegativeZeroNan, true),
        DType::F4E2M1 => (2, 1, 1, Top::Finite, true),
        _ => return None,
    };
    Some(Format { exponent, mantissa, bias, top, saturate })
}

/// Floats of at most 8 bits that code can convert.
pub(crate) fn is_small(dtype: DType) -> bool {
    dtype == DType::F8E8M0 || (dtype != DType::F16 && format(dtype).is_some())
}

fn bits_of(b: &mut FunctionBuilder, x: Value) -> Value {
    let ty = if b.func.dfg.value_type(x) == types::F32 { types::I32 } else { types::I64 };
    b.ins().bitcast(ty, MemFlagsData::new(), x)
}

fn f32_of(b: &mut FunctionBuilder, bits: Value) -> Value {
    b.ins().bitcast(types::F32, MemFlagsData::new(), bits)
}

fn i32c(b: &mut FunctionBuilder, x: u32) -> Value {
    b.ins().iconst(types::I32, i64::from(x))
}

/// Storage format to f32.
pub(crate) fn to_f32(b: &mut FunctionBuilder, dtype: DType, a: Value) -> Result<Value> {
    let raw = b.ins().uextend(types::I32, a);
    if dtype == DType::BF16 {
        let bits = b.ins().ishl_imm_u(raw, 16);
        return Ok(f32_of(b, bits));
    }
    if dtype == DType::F8E8M0 {
        return Ok(power_to_f32(b, raw));
    }
    let f = format(dtype).ok_or_else(|| Error::unsupported(format!("conversion of {dtype}")))?;
    let width = f.exponent + f.mantissa;
    let shift = 23 - f.mantissa;
    let magnitude = b.ins().band_imm_u(raw, (1i64 << width) - 1);
    let shifted = b.ins().ishl_imm_u(magnitude, i64::from(shift));
    let normal = b.ins().iadd_imm_s(shifted, i64::from(127 - f.bias) << 23);
    // Subnormals count units of the smallest step.
    let units = b.ins().fcvt_from_sint(types::F32, magnitude);
    let step = b.ins().f32const(2f32.powi(1 - f.bias - f.mantissa as i32));
    let small = b.ins().fmul(units, step);
    let small = bits_of(b, small);
    let is_small = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, magnitude, 1 << f.mantissa);
    let mut bits = b.ins().select(is_small, small, normal);
    match f.top {
        Top::Ieee => {
            let is_top =
                b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, shifted, i64::from(((1u32 << f.exponent) - 1) << 23));
            let special = b.ins().bor_imm_u(shifted, 0x7f80_0000);
            bits = b.ins().select(is_top, special, bits);
        }
        Top::AllOnesNan | Top::NegativeZeroNan => {
            let (value, code) = if f.top == Top::AllOnesNan { (magnitude, (1i64 << width) - 1) } else { (raw, 1 << width) };
            let is_nan = b.ins().icmp_imm_u(IntCC::Equal, value, code);
            let nan = i32c(b, 0x7fc0_0000);
            bits = b.ins().select(is_nan, nan, bits);
        }
        Top::Finite => {}
    }
    let sign = b.ins().band_imm_u(raw, 1 << width);
    let sign = b.ins().ishl_imm_u(sign, i64::from(31 - width));
    let bits = b.ins().bor(bits, sign);
    Ok(f32_of(b, bits))
}

/// f8e8m0 is the exponent of an f32: its lowest code is a subnormal there, its highest NaN.
fn power_to_f32(b: &mut FunctionBuilder, raw: Value) -> Value {
    let bits = b.ins().ishl_imm_u(raw, 23);
    let (lowest, nan) = (i32c(b, 0x0040_0000), i32c(b, 0x7fc0_0000));
    let is_lowest = b.ins().icmp_imm_u(IntCC::Equal, raw, 0);
    let bits = b.ins().select(is_lowest, lowest, bits);
    let is_nan = b.ins().icmp_imm_u(IntCC::Equal, raw, 0xff);
    let bits = b.ins().select(is_nan, nan, bits);
    f32_of(b, bits)
}

/// f32 to f8e8m0, the next power of two upwards; saturates. NaN and negative numbers are NaN.
fn power_from_f32(b: &mut FunctionBuilder, bits: Value) -> Value {
    let magnitude = b.ins().band_imm_u(bits, 0x7fff_ffff);
    let raised = b.ins().iadd_imm_u(magnitude, 0x7f_ffff);
    let raised = b.ins().ushr_imm_u(raised, 23);
    let (zero, most, nan) = (i32c(b, 0), i32c(b, 0xfe), i32c(b, 0xff));
    let is_lowest = b.ins().icmp_imm_u(IntCC::UnsignedLessThanOrEqual, magnitude, 0x0040_0000);
    let code = b.ins().select(is_lowest, zero, raised);
    let over = b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, code, 0xfe);
    let code = b.ins().select(over, most, code);
    // Negative numbers and NaN have the highest bits, -0.0 has no magnitude.
    let has_none = b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, bits, 0x7f80_0000);
    let nonzero = b.ins().icmp_imm_u(IntCC::NotEqual, magnitude, 0);
    let is_nan = b.ins().band(has_none, nonzero);
    let code = b.ins().select(is_nan, nan, code);
    b.ins().ireduce(types::I8, code)
}

/// f32 to a storage format, to nearest even.
pub(crate) fn from_f32(b: &mut FunctionBuilder, dtype: DType, x: Value) -> Result<Value> {
    let bits = bits_of(b, x);
    let is_nan = b.ins().fcmp(FloatCC::Unordered, x, x);
    if dtype == DType::BF16 {
        let odd = b.ins().ushr_imm_u(bits, 16);
        let odd = b.ins().band_imm_u(odd, 1);
        let rounded = b.ins().iadd_imm_u(bits, 0x7fff);
        let rounded = b.ins().iadd(rounded, odd);
        let nan = b.ins().bor_imm_u(bits, 0x40_0000);
        let bits = b.ins().select(is_nan, nan, rounded);
        let high = b.ins().ushr_imm_u(bits, 16);
        return Ok(b.ins().ireduce(types::I16, high));
    }
    if dtype == DType::F8E8M0 {
        return Ok(power_from_f32(b, bits));
    }
    let f = format(dtype).ok_or_else(|| Error::unsupported(format!("conversion to {dtype}")))?;
    let width = f.exponent + f.mantissa;
    let shift = 23 - f.mantissa;
    let magnitude = b.ins().band_imm_u(bits, 0x7fff_ffff);
    let odd = b.ins().ushr_imm_u(magnitude, i64::from(shift));
    let odd = b.ins().band_imm_u(odd, 1);
    let rebased = b.ins().iadd_imm_s(magnitude, (i64::from(f.bias - 127) << 23) + (1i64 << (shift - 1)) - 1);
    let rebased = b.ins().iadd(rebased, odd);
    let normal = b.ins().ushr_imm_u(rebased, i64::from(shift));
    // Adding this constant makes the FPU round at the format's smallest step.
    let magic = 2f32.powi(24 - f.bias - f.mantissa as i32);
    let magic_value = b.ins().f32const(magic);
    let abs = f32_of(b, magnitude);
    let sum = b.ins().fadd(abs, magic_value);
    let sum = bits_of(b, sum);
    let small = b.ins().iadd_imm_s(sum, -i64::from(magic.to_bits()));
    let is_small = b.ins().icmp_imm_u(IntCC::UnsignedLessThan, magnitude, i64::from(128 - f.bias) << 23);
    let finite = b.ins().select(is_small, small, normal);
    let code = limit(b, f, magnitude, finite);
    let sign = b.ins().ushr_imm_u(bits, i64::from(31 - width));
    let sign = b.ins().band_imm_u(sign, 1 << width);
    let mut signed = b.ins().bor(code, sign);
    let nan = match f.top {
        Top::Ieee => {
            let quiet = i32c(b, ((1 << f.exponent) - 1) << f.mantissa | 1 << (f.mantissa - 1));
            b.ins().bor(quiet, sign)
        }
        Top::AllOnesNan => {
            let ones = i32c(b, (1 << width) - 1);
            b.ins().bor(ones, sign)
        }
        Top::NegativeZeroNan => {
            let zero = b.ins().icmp_imm_u(IntCC::Equal, code, 0);
            signed = b.ins().select(zero, code, signed);
            i32c(b, 1 << width)
        }
        Top::Finite => i32c(b, 0),
    };
    let result = b.ins().select(is_nan, nan, signed);
    Ok(b.ins().ireduce(if width == 15 { types::I16 } else { types::I8 }, result))
}

/// Codes above the largest finite one become infinity, or the largest finite one where the format saturates.
fn limit(b: &mut FunctionBuilder, f: Format, magnitude: Value, code: Value) -> Value {
    let width = f.exponent + f.mantissa;
    let largest = match f.top {
        Top::Ieee => (((1u32 << f.exponent) - 1) << f.mantissa) - 1,
        Top::AllOnesNan => (1 << width) - 2,
        Top::NegativeZeroNan | Top::Finite => (1 << width) - 1,
    };
    let over = b.ins().icmp_imm_s(IntCC::SignedGreaterThan, code, i64::from(largest));
    let is_inf = b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, magnitude, 0x7f80_0000);
    let over = b.ins().bor(over, is_inf);
    let limit = i32c(b, if f.saturate { largest } else { largest + 1 });
    b.ins().select(over, limit, code)
}

/// f64 to a storage format with one rounding: f64 is first rounded to odd in f32, which has more than two bits to spare.
pub(crate) fn from_f64(b: &mut FunctionBuilder, dtype: DType, x: Value) -> Result<Value> {
    let near = b.ins().fdemote(types::F32, x);
    let back = b.ins().fpromote(types::F64, near);
    let bits = bits_of(b, near);
    let (abs_back, abs_x) = (b.ins().fabs(back), b.ins().fabs(x));
    let too_far = b.ins().fcmp(FloatCC::GreaterThan, abs_back, abs_x);
    let down = b.ins().iadd_imm_s(bits, -1);
    let truncated = b.ins().select(too_far, down, bits);
    let odd = b.ins().bor_imm_u(truncated, 1);
    let inexact = b.ins().fcmp(FloatCC::OrderedNotEqual, back, x);
    let bits = b.ins().select(inexact, odd, bits);
    let rounded = f32_of(b, bits);
    from_f32(b, dtype, rounded)
}

/// floor, ceil, trunc, nearest-even for instruction sets that have none of them. Beyond 2^23 (2^52) every float is whole.
pub(crate) fn round_in_software(b: &mut FunctionBuilder, op: UnOp, dtype: DType, x: Value) -> Result<Value> {
    let single = dtype == DType::F32;
    let constant = |b: &mut FunctionBuilder, v: f64| if single { b.ins().f32const(v as f32) } else { b.ins().f64const(v) };
    let limit = constant(b, if single { 2f64.powi(23) } else { 2f64.powi(52) });
    let abs = b.ins().fabs(x);
    let has_fraction = b.ins().fcmp(FloatCC::LessThan, abs, limit);
    let whole = if op == UnOp::Round {
        let up = b.ins().fadd(abs, limit);
        b.ins().fsub(up, limit)
    } else {
        let (int, float) = if single { (types::I32, types::F32) } else { (types::I64, types::F64) };
        let i = b.ins().fcvt_to_sint_sat(int, abs);
        b.ins().fcvt_from_sint(float, i)
    };
    let mut r = b.ins().fcopysign(whole, x);
    let one = constant(b, 1.0);
    if op == UnOp::Floor {
        let above = b.ins().fcmp(FloatCC::GreaterThan, r, x);
        let less = b.ins().fsub(r, one);
        r = b.ins().select(above, less, r);
    } else if op == UnOp::Ceil {
        let below = b.ins().fcmp(FloatCC::LessThan, r, x);
        let more = b.ins().fadd(r, one);
        r = b.ins().select(below, more, r);
    }
    Ok(b.ins().select(has_fraction, r, x))
}

/// C's `fmod`: exact, with the sign of the dividend. Subtracts the largest power-of-two multiple of the divisor until less is left; each
/// subtraction is exact because the operands are within a factor of two (Sterbenz). f32 is computed in f64, where its subnormals are normal.
pub(crate) fn rem(b: &mut FunctionBuilder, dtype: DType, x: Value, y: Value) -> Value {
    if dtype == DType::F32 {
        let (x, y) = (b.ins().fpromote(types::F64, x), b.ins().fpromote(types::F64, y));
        let r = rem(b, DType::F64, x, y);
        return b.ins().fdemote(types::F32, r);
    }
    let (mantissa, exponent) = ((1i64 << 52) - 1, 0x7ff0_0000_0000_0000i64);
    let (start, d) = (b.ins().fabs(x), b.ins().fabs(y));
    let inf = b.ins().f64const(f64::INFINITY);
    let smallest = b.ins().f64const(f64::MIN_POSITIVE);
    let finite = b.ins().fcmp(FloatCC::LessThan, start, inf);
    let divides = b.ins().fcmp(FloatCC::GreaterThanOrEqual, d, smallest);
    let valid = b.ins().band(finite, divides);
    let d_mantissa = bits_of(b, d);
    let d_mantissa = b.ins().band_imm_u(d_mantissa, mantissa);
    let (head, body, done) = (b.create_block(), b.create_block(), b.create_block());
    let r = b.append_block_param(head, types::F64);
    b.ins().jump(head, &[start.into()]);
    b.switch_to_block(head);
    let more = b.ins().fcmp(FloatCC::GreaterThanOrEqual, r, d);
    let more = b.ins().band(more, valid);
    b.ins().brif(more, body, &[], done, &[]);
    b.switch_to_block(body);
    let r_bits = bits_of(b, r);
    let r_exponent = b.ins().band_imm_u(r_bits, exponent);
    let t = b.ins().bor(r_exponent, d_mantissa);
    let t = b.ins().bitcast(types::F64, MemFlagsData::new(), t);
    let half = b.ins().f64const(0.5);
    let halved = b.ins().fmul(t, half);
    let over = b.ins().fcmp(FloatCC::GreaterThan, t, r);
    let t = b.ins().select(over, halved, t);
    let rest = b.ins().fsub(r, t);
    b.ins().jump(head, &[rest.into()]);
    b.seal_block(body);
    b.seal_block(head);
    b.seal_block(done);
    b.switch_to_block(done);
    let signed = b.ins().fcopysign(r, x);
    let nan = b.ins().f64const(f64::NAN);
    let y_is_number = b.ins().fcmp(FloatCC::Ordered, y, y);
    let valid = b.ins().band(valid, y_is_number);
    b.ins().select(valid, signed, nan)
}
