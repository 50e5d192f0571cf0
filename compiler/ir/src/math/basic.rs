//! Evaluation of one element of a program of basic operations: the judge of generated vector code in tests.

use crate::dtype::DType;
use crate::scalar::{BinOp, ScalarOp, ScalarProgram, UnOp};

/// The value of an element: f64 for every float type (rounded to the type), i64 for integers and bool.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Scalar {
    /// A float.
    F(f64),
    /// An integer or bool.
    I(i64),
}

impl Scalar {
    /// As a float; integers convert.
    pub fn f(self) -> f64 {
        match self {
            Scalar::F(x) => x,
            Scalar::I(x) => x as f64,
        }
    }

    /// As an integer; floats truncate.
    pub fn i(self) -> i64 {
        match self {
            Scalar::F(x) => x as i64,
            Scalar::I(x) => x,
        }
    }
}

/// Rounds or wraps to what the type holds.
fn fit(x: Scalar, dtype: DType) -> Scalar {
    match (x, dtype) {
        (Scalar::F(x), DType::F32) => Scalar::F(f64::from(x as f32)),
        (Scalar::F(x), DType::F16) => Scalar::F(half::f16::from_f64(x).to_f64()),
        (Scalar::I(x), DType::Bool) => Scalar::I((x != 0).into()),
        (Scalar::I(x), t) if t.bits() < 64 => {
            let up = 64 - t.bits() as u32;
            Scalar::I(if t.is_unsigned_int() { ((x as u64) << up >> up) as i64 } else { x << up >> up })
        }
        (x, _) => x,
    }
}

/// The result of `program` for these operands, or None when it contains an operation that [`super::expand`] removes.
pub fn evaluate(program: &ScalarProgram, args: &[Scalar]) -> Option<Scalar> {
    let mut vals: Vec<Scalar> = Vec::with_capacity(program.nodes.len());
    for node in &program.nodes {
        let get = |n: u16| vals[n as usize];
        let val = match node.op {
            ScalarOp::Arg(n) => args[n as usize],
            ScalarOp::Const(bits) if node.dtype.is_float() => Scalar::F(f64::from_bits(bits)),
            ScalarOp::Const(bits) => Scalar::I(bits as i64),
            ScalarOp::Un(op, a) => unary(op, get(a), program.dtype(a), node.dtype)?,
            ScalarOp::Bin(op, a, b) => binary(op, get(a), get(b))?,
            ScalarOp::Fma(a, b, c) => match node.dtype {
                DType::F64 => Scalar::F(get(a).f().mul_add(get(b).f(), get(c).f())),
                // The product of two f32 is exact in f64; f32::mul_add rounds once.
                t if t.is_float() => Scalar::F(f64::from((get(a).f() as f32).mul_add(get(b).f() as f32, get(c).f() as f32))),
                _ => Scalar::I(get(a).i().wrapping_mul(get(b).i()).wrapping_add(get(c).i())),
            },
            ScalarOp::Select(c, a, b) => {
                if get(c).i() != 0 {
                    get(a)
                } else {
                    get(b)
                }
            }
            ScalarOp::Cast(a) => cast(get(a), node.dtype),
        };
        vals.push(fit(val, node.dtype));
    }
    vals.pop()
}

fn cast(x: Scalar, to: DType) -> Scalar {
    match x {
        Scalar::F(x) if to == DType::Bool => Scalar::I((x != 0.0).into()),
        Scalar::F(x) if to.is_float() => Scalar::F(x),
        Scalar::F(x) => {
            let (lo, hi) = to.int_range().unwrap_or((0, 1));
            Scalar::I((x as i128).clamp(lo, hi) as i64)
        }
        Scalar::I(x) if to.is_float() => Scalar::F(x as f64),
        Scalar::I(x) => Scalar::I(x),
    }
}

fn unary(op: UnOp, x: Scalar, from: DType, to: DType) -> Option<Scalar> {
    use UnOp::*;
    Some(match (op, x) {
        (Bitcast, Scalar::F(x)) if from == DType::F64 => Scalar::I(x.to_bits() as i64),
        (Bitcast, Scalar::F(x)) => Scalar::I((x as f32).to_bits() as i32 as i64),
        (Bitcast, Scalar::I(x)) if to == DType::F64 => Scalar::F(f64::from_bits(x as u64)),
        (Bitcast, Scalar::I(x)) => Scalar::F(f64::from(f32::from_bits(x as u32))),
        (Neg, Scalar::F(x)) => Scalar::F(-x),
        (Abs, Scalar::F(x)) => Scalar::F(x.abs()),
        // sqrt and division of f32 through f64 round correctly: 53 >= 2*24 + 2.
        (Sqrt, Scalar::F(x)) => Scalar::F(x.sqrt()),
        (Recip | RecipNear, Scalar::F(x)) => Scalar::F(1.0 / x),
        (Floor, Scalar::F(x)) => Scalar::F(x.floor()),
        (Ceil, Scalar::F(x)) => Scalar::F(x.ceil()),
        (Trunc, Scalar::F(x)) => Scalar::F(x.trunc()),
        (Round, Scalar::F(x)) => Scalar::F(x.round_ties_even()),
        (IsNan, Scalar::F(x)) => Scalar::I(x.is_nan().into()),
        (IsInf, Scalar::F(x)) => Scalar::I(x.is_infinite().into()),
        (Neg, Scalar::I(x)) => Scalar::I(x.wrapping_neg()),
        (Abs, Scalar::I(x)) => Scalar::I(x.wrapping_abs()),
        (Not, Scalar::I(x)) if to == DType::Bool => Scalar::I((x == 0).into()),
        (Not, Scalar::I(x)) => Scalar::I(!x),
        (Floor | Ceil | Trunc | Round, Scalar::I(x)) => Scalar::I(x),
        _ => return None,
    })
}

fn binary(op: BinOp, a: Scalar, b: Scalar) -> Option<Scalar> {
    use BinOp::*;
    let bool = |x: bool| Some(Scalar::I(x.into()));
    match (a, b) {
        (Scalar::F(a), Scalar::F(b)) => match op {
            Add => Some(Scalar::F(a + b)),
            Sub => Some(Scalar::F(a - b)),
            Mul => Some(Scalar::F(a * b)),
            Div => Some(Scalar::F(a / b)),
            Min | Max if a.is_nan() || b.is_nan() => Some(Scalar::F(f64::NAN)),
            Min => Some(Scalar::F(a.min(b))),
            Max => Some(Scalar::F(a.max(b))),
            Eq => bool(a == b),
            Ne => bool(a != b),
            Lt => bool(a < b),
            Le => bool(a <= b),
            Gt => bool(a > b),
            Ge => bool(a >= b),
            _ => None,
        },
        _ => {
            let (a, b) = (a.i(), b.i());
            match op {
                Add => Some(Scalar::I(a.wrapping_add(b))),
                Sub => Some(Scalar::I(a.wrapping_sub(b))),
                Mul => Some(Scalar::I(a.wrapping_mul(b))),
                Div => Some(Scalar::I(if b == 0 { 0 } else { a.wrapping_div(b) })),
                Min => Some(Scalar::I(a.min(b))),
                Max => Some(Scalar::I(a.max(b))),
                And => Some(Scalar::I(a & b)),
                Or => Some(Scalar::I(a | b)),
                Xor => Some(Scalar::I(a ^ b)),
                Shl => Some(Scalar::I(a.wrapping_shl(b as u32))),
                Shr => Some(Scalar::I(a.wrapping_shr(b as u32))),
                Eq => bool(a == b),
                Ne => bool(a != b),
                Lt => bool(a < b),
                Le => bool(a <= b),
                Gt => bool(a > b),
                Ge => bool(a >= b),
                _ => None,
            }
        }
    }
}
