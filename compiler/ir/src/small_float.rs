//! The 8-bit and 4-bit float storage types: to and from f64, exactly as ONNX defines them.
//!
//! Sources: "FP8 Formats for Deep Learning" (Micikevicius et al., 2022) for E4M3FN and E5M2, the ONNX documentation "Float stored in 8 bits" for the
//! FNUZ variants, the OCP MX specification 1.0 for E8M0 and E2M1.

use crate::dtype::DType;

struct Format {
    mantissa: u32,
    bias: i32,
    /// Largest finite code without its sign.
    max: u8,
    /// Code of NaN, if there is one.
    nan: Option<u8>,
    /// Code of infinity, if there is one.
    inf: Option<u8>,
    /// No negative zero: its code is NaN.
    unsigned_zero: bool,
    sign: u8,
}

fn format(dtype: DType) -> Option<Format> {
    let f =
        |mantissa, bias, max, nan, inf, unsigned_zero, sign| Some(Format { mantissa, bias, max, nan, inf, unsigned_zero, sign });
    match dtype {
        DType::F8E4M3FN => f(3, 7, 0x7e, Some(0x7f), None, false, 0x80),
        DType::F8E4M3FNUZ => f(3, 8, 0x7f, Some(0x80), None, true, 0x80),
        // Any code above infinity is NaN; the reference writes this one.
        DType::F8E5M2 => f(2, 15, 0x7b, Some(0x7e), Some(0x7c), false, 0x80),
        DType::F8E5M2FNUZ => f(2, 16, 0x7f, Some(0x80), None, true, 0x80),
        DType::F4E2M1 => f(1, 1, 0x7, None, None, false, 0x8),
        _ => None,
    }
}

/// The nearest value of a small float type (`None` for other types); values beyond the largest finite one become it, unless they are infinite
/// and `saturate` is false.
pub fn nearest(dtype: DType, x: f64, saturate: bool) -> Option<f64> {
    decode(dtype, encode(dtype, x, saturate)?)
}

/// The value of a code; `None` for other types than the small floats.
pub fn decode(dtype: DType, code: u8) -> Option<f64> {
    if dtype == DType::F8E8M0 {
        return Some(if code == 0xff { f64::NAN } else { 2f64.powi(i32::from(code) - 127) });
    }
    let f = format(dtype)?;
    let magnitude = code & (f.sign - 1);
    if f.nan == Some(code) || (!f.unsigned_zero && (f.nan == Some(magnitude) || f.inf.is_some_and(|inf| magnitude > inf))) {
        return Some(if code == f.sign || code & f.sign == 0 { f64::NAN } else { -f64::NAN });
    }
    let sign = if code & f.sign != 0 { -1.0 } else { 1.0 };
    if f.inf == Some(magnitude) {
        return Some(sign * f64::INFINITY);
    }
    Some(sign * positive(&f, magnitude))
}

fn positive(f: &Format, magnitude: u8) -> f64 {
    let exponent = i32::from(magnitude >> f.mantissa);
    let fraction = f64::from(magnitude & ((1 << f.mantissa) - 1)) / f64::from(1u32 << f.mantissa);
    if exponent == 0 { fraction * 2f64.powi(1 - f.bias) } else { (1.0 + fraction) * 2f64.powi(exponent - f.bias) }
}

/// The nearest code, ties to even. Values beyond the largest finite one saturate if `saturate`, else become infinity or NaN. `None` for other
/// types than the small floats.
pub fn encode(dtype: DType, x: f64, saturate: bool) -> Option<u8> {
    if dtype == DType::F8E8M0 {
        return Some(encode_e8m0(if saturate || x.is_finite() { x } else { f64::NAN }));
    }
    let f = format(dtype)?;
    let negative = if x.is_sign_negative() { f.sign } else { 0 };
    if x.is_nan() {
        return Some(f.nan.map_or(0, |nan| if f.unsigned_zero { nan } else { nan | negative }));
    }
    let overflow = |sign: u8| match (saturate, f.inf, f.nan) {
        (false, Some(inf), _) => inf | sign,
        (false, None, Some(nan)) if f.unsigned_zero => nan,
        (false, None, Some(nan)) => nan | sign,
        _ => f.max | sign,
    };
    let a = x.abs();
    let (limit, tie) = limit(&f);
    if a.is_infinite() || a > limit || (a == limit && tie) {
        return Some(overflow(negative));
    }
    // Few codes: a search for the nearest is exact and short.
    let mut best = 0u8;
    let mut distance = f64::INFINITY;
    for code in 0..=f.max {
        let d = (positive(&f, code) - a).abs();
        if d < distance || (d == distance && code & 1 == 0) {
            (best, distance) = (code, d);
        }
    }
    Some(if best == 0 && f.unsigned_zero { 0 } else { best | negative })
}

/// Half a step above the largest finite value, and whether it rounds away from that value (whose mantissa decides ties).
fn limit(f: &Format) -> (f64, bool) {
    let largest = positive(f, f.max);
    (largest + (largest - positive(f, f.max - 1)) / 2.0, f.max & 1 == 1)
}

/// The magnitude above which values of a small float type overflow, and whether it does so itself. `None` for other types, and for f8e8m0.
pub fn overflow(dtype: DType) -> Option<(f64, bool)> {
    format(dtype).as_ref().map(limit)
}

/// How a value between two powers of two becomes one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    /// The larger one.
    Up,
    /// The smaller one.
    Down,
    /// The nearer one, the larger one if both are.
    Nearest,
}

/// `x` as f8e8m0 has it. Without saturation, zero and what is beyond the largest value are NaN.
pub fn power_of_two(x: f64, rounding: Rounding, saturate: bool) -> f64 {
    if !x.is_finite() || x <= 0.0 {
        let kept = saturate && !x.is_nan() && x >= 0.0;
        return if !kept { f64::NAN } else { x.clamp(2f64.powi(-127), 2f64.powi(127)) };
    }
    let below = f64::from_bits(x.to_bits() & !((1 << 52) - 1));
    let power = match rounding {
        _ if below == x => x,
        Rounding::Up => below * 2.0,
        Rounding::Nearest if x >= below * 1.5 => below * 2.0,
        Rounding::Down | Rounding::Nearest => below,
    };
    if power > 2f64.powi(127) && !saturate { f64::NAN } else { power.clamp(2f64.powi(-127), 2f64.powi(127)) }
}

/// A power of two, rounded up as the ONNX reference does by default.
fn encode_e8m0(x: f64) -> u8 {
    if x.is_nan() || x < 0.0 {
        return 0xff;
    }
    if x.is_infinite() {
        return 0xfe;
    }
    (0..=0xfe).find(|code| 2f64.powi(i32::from(*code as u8) - 127) >= x).map_or(0xfe, |code: i32| code as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_a_round_trip() {
        for dtype in [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F4E2M1, DType::F8E8M0] {
            let codes = if dtype == DType::F4E2M1 { 16 } else { 256 };
            for code in 0..codes {
                let value = decode(dtype, code as u8).expect("a small float");
                if !value.is_nan() {
                    assert_eq!(encode(dtype, value, false), Some(code as u8), "{dtype} {code:#x} {value}");
                }
            }
        }
    }

    #[test]
    fn known_values() {
        assert_eq!(decode(DType::F8E4M3FN, 0x7e), Some(448.0));
        assert_eq!(decode(DType::F8E5M2, 0x7b), Some(57344.0));
        assert_eq!(decode(DType::F8E4M3FNUZ, 0x7f), Some(240.0));
        assert_eq!(encode(DType::F8E4M3FN, 1e6, true), Some(0x7e));
        assert_eq!(encode(DType::F8E4M3FN, 1e6, false), Some(0x7f));
        assert_eq!(encode(DType::F8E5M2, -1e6, false), Some(0xfc));
        assert_eq!(decode(DType::F4E2M1, 0xf), Some(-6.0));
    }
}
