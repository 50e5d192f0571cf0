//! The meaning of scalar programs: an interpreter for one element and for whole tensors.
//!
//! Floats are computed in f64 and rounded to the type of the node. For `+ - * / sqrt` on f32 and smaller types that is the correctly rounded
//! result (f64 has more than twice their digits and two). Integers are computed in i128 and wrap to the type of the node.

use half::{bf16, f16};

use crate::dtype::DType;
use crate::scalar::{BinOp, ScalarOp, ScalarProgram, UnOp};
use crate::small_float;
use crate::tensor::{Bytes, Tensor, element_count};

/// The value of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// A float of any type, already rounded to it.
    Float(f64),
    /// An integer of any type, or a bool as 0 or 1.
    Int(i128),
}

impl Scalar {
    /// As a float.
    pub fn float(self) -> f64 {
        match self {
            Scalar::Float(x) => x,
            Scalar::Int(i) => i as f64,
        }
    }

    /// As an integer; floats truncate and saturate.
    pub fn int(self) -> i128 {
        match self {
            Scalar::Float(x) => x as i128,
            Scalar::Int(i) => i,
        }
    }

    /// Not zero.
    pub fn truth(self) -> bool {
        match self {
            Scalar::Float(x) => x != 0.0,
            Scalar::Int(i) => i != 0,
        }
    }

    /// A bool.
    pub fn bool(b: bool) -> Scalar {
        Scalar::Int(i128::from(b))
    }

    /// The bits of a [`ScalarOp::Const`] of type `dtype`.
    pub fn from_bits(dtype: DType, bits: u64) -> Scalar {
        match dtype {
            _ if dtype.is_float() => {
                let x = f64::from_bits(bits);
                small_float::nearest(dtype, x, false).map_or(Scalar::Float(x).rounded(dtype), Scalar::Float)
            }
            DType::U64 => Scalar::Int(i128::from(bits)),
            _ => Scalar::Int(i128::from(bits as i64)),
        }
    }

    /// Rounded or wrapped to what `dtype` can hold.
    #[must_use]
    pub fn rounded(self, dtype: DType) -> Scalar {
        match (self, dtype) {
            (Scalar::Float(x), DType::F32) => Scalar::Float(f64::from(x as f32)),
            (Scalar::Float(x), DType::F16) => Scalar::Float(f16::from_f64(x).to_f64()),
            (Scalar::Float(x), DType::BF16) => Scalar::Float(bf16::from_f64(x).to_f64()),
            (Scalar::Float(x), _) => Scalar::Float(small_float::nearest(dtype, x, true).unwrap_or(x)),
            (Scalar::Int(i), DType::Bool) => Scalar::bool(i != 0),
            (Scalar::Int(i), _) if dtype.is_int() => {
                let bits = dtype.bits() as u32;
                let low = i & ((1i128 << bits) - 1);
                let negative = dtype.is_signed_int() && low >> (bits - 1) != 0;
                Scalar::Int(if negative { low - (1i128 << bits) } else { low })
            }
            _ => self,
        }
    }

    /// Element `i` of packed or plain little-endian `bytes`. `None` for strings and complex types.
    pub fn read(dtype: DType, bytes: &[u8], i: usize) -> Option<Scalar> {
        let n = dtype.bytes() as usize;
        fn array<const N: usize>(bytes: &[u8], i: usize) -> [u8; N] {
            bytes[i * N..(i + 1) * N].try_into().expect("internal: element size")
        }
        let nibble = |bits: usize| bytes[i * bits / 8] >> (i * bits % 8) & ((1 << bits) - 1);
        Some(match dtype {
            DType::F32 => Scalar::Float(f64::from(f32::from_le_bytes(array(bytes, i)))),
            DType::F64 => Scalar::Float(f64::from_le_bytes(array(bytes, i))),
            DType::F16 => Scalar::Float(f16::from_le_bytes(array(bytes, i)).to_f64()),
            DType::BF16 => Scalar::Float(bf16::from_le_bytes(array(bytes, i)).to_f64()),
            DType::U64 => Scalar::Int(i128::from(u64::from_le_bytes(array(bytes, i)))),
            DType::I64 => Scalar::Int(i128::from(i64::from_le_bytes(array(bytes, i)))),
            DType::U4 | DType::I4 => Scalar::Int(i128::from(nibble(4))).rounded(dtype),
            DType::U2 | DType::I2 => Scalar::Int(i128::from(nibble(2))).rounded(dtype),
            DType::F4E2M1 => Scalar::Float(small_float::decode(dtype, nibble(4))?),
            DType::Bool => Scalar::bool(bytes[i] != 0),
            _ if dtype.is_int() => {
                let mut raw = [0u8; 16];
                raw[..n].copy_from_slice(&bytes[i * n..(i + 1) * n]);
                Scalar::Int(i128::from_le_bytes(raw)).rounded(dtype)
            }
            _ => Scalar::Float(small_float::decode(dtype, *bytes.get(i)?)?),
        })
    }

    /// Conversion from `from` to `to`: float to integer truncates and saturates (NaN gives 0; types below a byte take the low bits of an i32),
    /// integers wrap, to bool is `!= 0`.
    #[must_use]
    pub fn cast(self, to: DType) -> Scalar {
        match self {
            _ if to == DType::Bool => Scalar::bool(self.truth()),
            // What ONNX asks of types below a byte: only their low bits stay.
            Scalar::Float(x) if to.is_int() && to.bits() < 8 => Scalar::Int(i128::from(x as i32)).rounded(to),
            Scalar::Float(x) if to.is_int() => {
                let (low, high) = to.int_range().expect("internal: an integer type");
                Scalar::Int((x as i128).clamp(low, high))
            }
            // Through f64 a 64-bit integer would be rounded twice.
            Scalar::Int(i) if to == DType::F32 => Scalar::Float(f64::from(i as f32)),
            Scalar::Int(i) if to.is_float() => Scalar::Float(i as f64).rounded(to),
            _ => self.rounded(to),
        }
    }
}

/// Collects elements of one type into a tensor.
pub struct Writer {
    dtype: DType,
    bytes: Vec<u8>,
    count: usize,
    saturate: bool,
}

impl Writer {
    /// For elements of type `dtype`; floats beyond the range of an 8-bit type saturate.
    pub fn new(dtype: DType) -> Writer {
        Writer { dtype, bytes: Vec::new(), count: 0, saturate: true }
    }

    /// Whether floats beyond the range of an 8-bit type saturate.
    #[must_use]
    pub fn saturate(mut self, saturate: bool) -> Writer {
        self.saturate = saturate;
        self
    }

    /// Appends a value, rounded to the type.
    pub fn push(&mut self, value: Scalar) {
        let i = self.count;
        self.count += 1;
        match self.dtype {
            DType::F32 => self.bytes.extend_from_slice(&(value.float() as f32).to_le_bytes()),
            DType::F64 => self.bytes.extend_from_slice(&value.float().to_le_bytes()),
            DType::F16 => self.bytes.extend_from_slice(&f16::from_f64(value.float()).to_le_bytes()),
            DType::BF16 => self.bytes.extend_from_slice(&bf16::from_f64(value.float()).to_le_bytes()),
            DType::Bool => self.bytes.push(u8::from(value.truth())),
            DType::U4 | DType::I4 | DType::U2 | DType::I2 => self.pack(i, value.int() as u8),
            DType::F4E2M1 => {
                let code = small_float::encode(self.dtype, value.float(), true).expect("internal: a small float");
                self.pack(i, code);
            }
            t if t.is_int() => self.bytes.extend_from_slice(&value.int().to_le_bytes()[..t.bytes() as usize]),
            t => self.bytes.push(small_float::encode(t, value.float(), self.saturate).expect("internal: a numeric type")),
        }
    }

    fn pack(&mut self, i: usize, code: u8) {
        let bits = self.dtype.bits() as usize;
        if (i * bits).is_multiple_of(8) {
            self.bytes.push(0);
        }
        let last = self.bytes.last_mut().expect("internal: a byte to pack into");
        *last |= (code & ((1 << bits) - 1)) << (i * bits % 8);
    }

    /// The tensor. Panics when the number of elements is not the shape's (a broken invariant of the caller).
    pub fn finish(self, shape: &[u64]) -> Tensor {
        Tensor::from_bytes(self.dtype, shape.to_vec(), Bytes::new(self.bytes)).expect("internal: element count is the shape's")
    }
}

/// Runs a program on its operands; `values` is scratch space.
pub fn run(program: &ScalarProgram, args: &[Scalar], values: &mut Vec<Scalar>) -> Scalar {
    values.clear();
    for node in &program.nodes {
        let get = |n: u16| values[n as usize];
        let value = match node.op {
            ScalarOp::Arg(n) => args[n as usize],
            ScalarOp::Const(bits) => Scalar::from_bits(node.dtype, bits),
            ScalarOp::Un(op, a) => un(op, get(a), program.dtype(a)).rounded(node.dtype),
            ScalarOp::Bin(op, a, b) => bin(op, get(a), get(b), program.dtype(a)).rounded(node.dtype),
            ScalarOp::Fma(a, b, c) => match (get(a), get(b), get(c)) {
                (Scalar::Int(a), Scalar::Int(b), Scalar::Int(c)) => {
                    Scalar::Int(a.wrapping_mul(b).wrapping_add(c)).rounded(node.dtype)
                }
                (a, b, c) => Scalar::Float(a.float().mul_add(b.float(), c.float())).rounded(node.dtype),
            },
            ScalarOp::Select(c, a, b) => {
                if get(c).truth() {
                    get(a)
                } else {
                    get(b)
                }
            }
            ScalarOp::Cast(a) => get(a).cast(node.dtype),
        };
        values.push(value);
    }
    *values.last().expect("internal: empty scalar program")
}

/// One-operand operation on a value of type `dtype`, before rounding.
pub fn un(op: UnOp, a: Scalar, dtype: DType) -> Scalar {
    match (op, a) {
        (UnOp::IsNan, _) => Scalar::bool(a.float().is_nan()),
        (UnOp::IsInf, _) => Scalar::bool(a.float().is_infinite()),
        (UnOp::Bitcast, Scalar::Float(x)) => Scalar::Int(i128::from((x as f32).to_bits() as i32)),
        (UnOp::Bitcast, Scalar::Int(i)) => Scalar::Float(f64::from(f32::from_bits(i as u32))),
        (UnOp::Neg, Scalar::Int(i)) => Scalar::Int(-i),
        (UnOp::Abs, Scalar::Int(i)) => Scalar::Int(i.abs()),
        (UnOp::Sign, Scalar::Int(i)) => Scalar::Int(i.signum()),
        (UnOp::Not, Scalar::Int(i)) => {
            if dtype == DType::Bool {
                Scalar::bool(i == 0)
            } else {
                Scalar::Int(!i)
            }
        }
        (UnOp::Floor | UnOp::Ceil | UnOp::Trunc | UnOp::Round, Scalar::Int(_)) => a,
        _ => Scalar::Float(un_float(op, a.float())),
    }
}

fn un_float(op: UnOp, x: f64) -> f64 {
    match op {
        UnOp::Neg => -x,
        UnOp::Abs => x.abs(),
        UnOp::Sqrt => x.sqrt(),
        UnOp::Recip | UnOp::RecipNear => 1.0 / x,
        UnOp::Exp | UnOp::ExpNonPositive => x.exp(),
        UnOp::Log => x.ln(),
        UnOp::Sin => x.sin(),
        UnOp::Cos => x.cos(),
        UnOp::Tan => x.tan(),
        UnOp::Asin => x.asin(),
        UnOp::Acos => x.acos(),
        UnOp::Atan => x.atan(),
        UnOp::Sinh => x.sinh(),
        UnOp::Cosh => x.cosh(),
        UnOp::Tanh => x.tanh(),
        UnOp::Asinh => x.asinh(),
        UnOp::Acosh => x.acosh(),
        UnOp::Atanh => x.atanh(),
        UnOp::Erf => erf(x),
        UnOp::NormalCdf => 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        UnOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnOp::Floor => x.floor(),
        UnOp::Ceil => x.ceil(),
        UnOp::Trunc => x.trunc(),
        UnOp::Round => x.round_ties_even(),
        UnOp::Sign => {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }
        UnOp::Not | UnOp::IsNan | UnOp::IsInf | UnOp::Bitcast => f64::NAN,
    }
}

/// The error function: `2/sqrt(pi) * exp(-x^2) * sum 2^n x^(2n+1) / (2n+1)!!`, whose terms are all of one sign (Abramowitz and Stegun 7.1.6).
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    if a > 6.0 {
        return 1f64.copysign(x);
    }
    let (mut term, mut sum, mut n) = (a, a, 0.0);
    while term > sum * 1e-17 {
        n += 1.0;
        term *= 2.0 * a * a / (2.0 * n + 1.0);
        sum += term;
    }
    (std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum).min(1.0).copysign(x)
}

/// Two-operand operation on values of type `dtype`, before rounding.
pub fn bin(op: BinOp, a: Scalar, b: Scalar, dtype: DType) -> Scalar {
    match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => bin_int(op, a, b, dtype),
        _ => bin_float(op, a.float(), b.float()),
    }
}

fn bin_int(op: BinOp, a: i128, b: i128, dtype: DType) -> Scalar {
    let bits = dtype.bits() as i128;
    Scalar::Int(match op {
        BinOp::Add => a + b,
        BinOp::Sub => a - b,
        BinOp::Mul => a.wrapping_mul(b),
        BinOp::Div => a.checked_div(b).unwrap_or(0),
        BinOp::Rem => a.checked_rem(b).unwrap_or(0),
        BinOp::Mod => {
            let r = a.checked_rem(b).unwrap_or(0);
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }
        BinOp::Pow => int_pow(a, b, dtype),
        BinOp::Min => a.min(b),
        BinOp::Max => a.max(b),
        BinOp::And => a & b,
        BinOp::Or => a | b,
        BinOp::Xor => a ^ b,
        // Shift counts are taken modulo the width, as processors do.
        BinOp::Shl => a << b.rem_euclid(bits),
        BinOp::Shr => a >> b.rem_euclid(bits),
        _ => return Scalar::bool(compare(op, a.partial_cmp(&b))),
    })
}

fn int_pow(base: i128, exponent: i128, dtype: DType) -> i128 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 => {
                if exponent % 2 == 0 {
                    1
                } else {
                    -1
                }
            }
            _ => 0,
        };
    }
    let (mut result, mut square, mut left) = (1i128, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result = Scalar::Int(result.wrapping_mul(square)).rounded(dtype).int();
        }
        square = Scalar::Int(square.wrapping_mul(square)).rounded(dtype).int();
        left >>= 1;
    }
    result
}

fn bin_float(op: BinOp, a: f64, b: f64) -> Scalar {
    let nan = a.is_nan() || b.is_nan();
    Scalar::Float(match op {
        BinOp::Add => a + b,
        BinOp::Sub => a - b,
        BinOp::Mul => a * b,
        BinOp::Div => a / b,
        BinOp::Rem => a % b,
        BinOp::Mod => {
            let r = a % b;
            match r {
                // A zero has the divisor's sign too.
                0.0 => 0.0f64.copysign(b),
                _ if (r < 0.0) != (b < 0.0) => r + b,
                _ => r,
            }
        }
        BinOp::Pow => a.powf(b),
        BinOp::Min => {
            if nan {
                f64::NAN
            } else {
                a.min(b)
            }
        }
        BinOp::Max => {
            if nan {
                f64::NAN
            } else {
                a.max(b)
            }
        }
        BinOp::And | BinOp::Or | BinOp::Xor | BinOp::Shl | BinOp::Shr => f64::NAN,
        _ => return Scalar::bool(compare(op, a.partial_cmp(&b))),
    })
}

fn compare(op: BinOp, order: Option<std::cmp::Ordering>) -> bool {
    match op {
        BinOp::Eq => order.is_some_and(|o| o.is_eq()),
        BinOp::Ne => !order.is_some_and(|o| o.is_eq()),
        BinOp::Lt => order.is_some_and(|o| o.is_lt()),
        BinOp::Le => order.is_some_and(|o| o.is_le()),
        BinOp::Gt => order.is_some_and(|o| o.is_gt()),
        BinOp::Ge => order.is_some_and(|o| o.is_ge()),
        _ => false,
    }
}

/// Runs a program on every element of operands broadcast (numpy's rules) to `shape`. `None` when an operand does not broadcast, has no numeric
/// type, or `shape` is too large.
pub fn run_tensors(program: &ScalarProgram, inputs: &[&Tensor], shape: &[u64]) -> Option<Tensor> {
    let total = element_count(shape)?;
    let strides: Vec<Vec<u64>> = inputs.iter().map(|t| broadcast_strides(t.shape(), shape)).collect::<Option<_>>()?;
    let dtype = program.dtype(program.result());
    // The program has rounded its results, and may have made infinities.
    let mut out = Writer::new(dtype).saturate(false);
    let mut at = vec![0u64; shape.len()];
    let mut offsets = vec![0u64; inputs.len()];
    let (mut args, mut values) = (Vec::with_capacity(inputs.len()), Vec::new());
    for _ in 0..total {
        args.clear();
        for (t, offset) in inputs.iter().zip(&offsets) {
            args.push(Scalar::read(t.dtype(), t.bytes(), *offset as usize)?);
        }
        out.push(run(program, &args, &mut values));
        for d in (0..shape.len()).rev() {
            at[d] += 1;
            offsets.iter_mut().zip(&strides).for_each(|(o, s)| *o += s[d]);
            if at[d] < shape[d] {
                break;
            }
            offsets.iter_mut().zip(&strides).for_each(|(o, s)| *o -= s[d] * shape[d]);
            at[d] = 0;
        }
    }
    Some(out.finish(shape))
}

/// Row-major element strides of an operand of shape `from` seen as `to`; 0 along broadcast dimensions. `None` when it does not broadcast.
pub fn broadcast_strides(from: &[u64], to: &[u64]) -> Option<Vec<u64>> {
    let lead = to.len().checked_sub(from.len())?;
    let mut strides = vec![0; to.len()];
    let mut step = 1;
    for d in (0..from.len()).rev() {
        if from[d] != 1 {
            if from[d] != to[lead + d] {
                return None;
            }
            strides[lead + d] = step;
        }
        step *= from[d];
    }
    Some(strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_known_values() {
        for (x, y) in [(0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (3.0, 0.999_977_909_503_001_4)] {
            assert!((erf(x) - y).abs() < 1e-15 && (erf(-x) + y).abs() < 1e-15);
        }
        assert!(erf(f64::NAN).is_nan());
    }

    #[test]
    fn integers_wrap_and_divide_like_the_type() {
        let i8 = |v: i128| Scalar::Int(v).rounded(DType::I8);
        assert_eq!(i8(128), Scalar::Int(-128));
        assert_eq!(bin(BinOp::Mod, Scalar::Int(-7), Scalar::Int(3), DType::I32), Scalar::Int(2));
        assert_eq!(bin(BinOp::Rem, Scalar::Int(-7), Scalar::Int(3), DType::I32), Scalar::Int(-1));
        assert_eq!(bin(BinOp::Div, Scalar::Int(5), Scalar::Int(0), DType::I32), Scalar::Int(0));
        assert_eq!(Scalar::Float(300.0).cast(DType::I8), Scalar::Int(127));
        assert_eq!(Scalar::Float(f64::NAN).cast(DType::I32), Scalar::Int(0));
    }

    #[test]
    fn programs_broadcast() {
        let mut p = ScalarProgram::default();
        let (a, b) = (p.arg(0, DType::F32), p.arg(1, DType::F32));
        p.bin(BinOp::Sub, a, b);
        let x = Tensor::from_vec(&[2, 1], vec![1f32, 2.0]);
        let y = Tensor::from_vec(&[3], vec![10f32, 20.0, 30.0]);
        let out = run_tensors(&p, &[&x, &y], &[2, 3]).expect("broadcasts");
        assert_eq!(out.to_vec::<f32>(), [-9.0, -19.0, -29.0, -8.0, -18.0, -28.0]);
    }
}
