//! Sums of integers as the bits of floats.
//!
//! The float `2^23 + s` has the bits of `2^23`, plus s, for every integer s from 0 to 2^23: a sum of integers that begins with these bits is a float without a
//! conversion. To scale it is one fused operation then, `f32(s) * scale = fma(2^23 + s, scale, -2^23 * scale)`, bit for bit, as the product that is taken off
//! is exact. Of negative sums the floats below 2^23 are not far enough away, half as far or less, but on the right side: a result that is nowhere below 0
//! then, as behind a ReLU, is the same all the same ([`POSITIVE`]).
//!
//! Sums of both signs begin in the middle, with the bits of `1.5 * 2^23` ([`SIGNED`]). What is taken off is exact where scales have no more than 22 digits, as
//! [`short`] makes them.

use crate::dtype::DType;
use crate::scalar::{BinOp, NodeIx, ScalarNode, ScalarOp, ScalarProgram, UnOp};

/// What sums begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin {
    /// The bits of a float.
    pub bits: i32,
    /// Sums between these become floats as this page says.
    pub limits: (i64, i64),
}

/// `2^23`. Sums that are larger have other bits, and those that are smaller no bits of a positive float.
pub const POSITIVE: Begin = Begin { bits: 0x4B00_0000, limits: (-(1 << 30), (1 << 23) - 1) };

/// `1.5 * 2^23`. The floats around it are integers.
pub const SIGNED: Begin = Begin { bits: 0x4B40_0000, limits: (-(1 << 22), (1 << 22) - 1) };

impl Begin {
    /// What is taken off, if that is exact, and if positive scales keep the order of sums.
    pub fn offset(self, scale: f32) -> Option<f32> {
        let product = -f64::from(f32::from_bits(self.bits as u32)) * f64::from(scale);
        let exact = f64::from(product as f32) == product && (product as f32).is_finite();
        // Negative sums times 0 are -0, which the fused operation does not give.
        (exact && (scale > 0.0 && scale.is_normal() || scale == 0.0 && self == POSITIVE)).then_some(product as f32)
    }
}

/// A scale with 22 digits of its 24.
pub fn short(scale: f32) -> f32 {
    let bits = scale.to_bits();
    f32::from_bits((bits + 1 + (bits >> 2 & 1)) & !3)
}

/// The operand that scales a sum, argument 0, in a node of a program, if it does so as this page says.
pub fn scale_of(program: &ScalarProgram, node: ScalarNode) -> Option<u8> {
    let op = |n: NodeIx| program.nodes[n as usize].op;
    let ScalarOp::Fma(bits, scale, offset) = node.op else { return None };
    let ScalarOp::Un(UnOp::Bitcast, sum) = op(bits) else { return None };
    match (op(sum), program.dtype(sum), op(scale), op(offset)) {
        (ScalarOp::Arg(0), DType::I32, ScalarOp::Arg(scale), ScalarOp::Arg(_)) => Some(scale),
        _ => None,
    }
}

/// How a program reads its sum, argument 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scaled {
    /// The sum as a float.
    pub real: NodeIx,
    /// The operand that it is multiplied with.
    pub scale: u8,
    /// Products below 0 are the same as 0.
    pub positive: bool,
}

/// How a program reads its sum, if it does nothing with it but scale it.
pub fn scaled(program: &ScalarProgram) -> Option<Scaled> {
    let op = |n: NodeIx| program.nodes[n as usize].op;
    let one = |of: NodeIx| {
        let mut users = (of..program.nodes.len() as NodeIx).filter(|n| op(*n).operands().any(|o| o == of));
        users.next().filter(|_| users.next().is_none())
    };
    let sum = (0..program.nodes.len() as NodeIx).find(|n| op(*n) == ScalarOp::Arg(0))?;
    let real = one(sum).filter(|n| matches!(op(*n), ScalarOp::Cast(_)) && program.dtype(*n) == DType::F32)?;
    let product = one(real)?;
    let ScalarOp::Bin(BinOp::Mul, a, b) = op(product) else { return None };
    let ScalarOp::Arg(scale) = op(if a == real { b } else { a }) else { return None };
    (program.dtype(sum) == DType::I32).then(|| Scaled { real, scale, positive: is_positive(program, product, &one) })
}

/// True when values of a node that are below 0 are the same as 0. `one`: the only reader of a node.
fn is_positive(program: &ScalarProgram, product: NodeIx, one: &dyn Fn(NodeIx) -> Option<NodeIx>) -> bool {
    let op = |n: NodeIx| program.nodes[n as usize].op;
    let mut bounded = product;
    while bounded != program.result() {
        let Some(next) = one(bounded) else { return false };
        let ScalarOp::Bin(bound @ (BinOp::Min | BinOp::Max), a, b) = op(next) else { return false };
        let ScalarOp::Const(bits) = op(if a == bounded { b } else { a }) else { return false };
        match (bound, f64::from_bits(bits) >= 0.0) {
            (BinOp::Max, true) => return true,
            (BinOp::Min, true) => bounded = next,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_sums_are_the_same_bit_for_bit() {
        let sums = [0, 1, 77, 12_345, 4_194_305, POSITIVE.limits.1 as i32];
        let scales = [1.0, 0.1, 3.7e-5, 0.99999994, 1.0e-9, 123.456];
        for (sum, scale) in sums.into_iter().flat_map(|s| scales.map(|scale| (s, scale))) {
            let (bits, by) = (f32::from_bits((POSITIVE.bits + sum) as u32), POSITIVE.offset(scale).unwrap());
            assert_eq!(bits.mul_add(scale, by), sum as f32 * scale, "{sum} * {scale}");
        }
    }

    #[test]
    fn sums_of_both_signs_need_short_scales() {
        let scales = [1.0, 0.1, 3.7e-5, 0.99999994, 1.0e-9, 123.456];
        for sum in [SIGNED.limits.0, -12_345, -1, 0, 1, 77, 1_048_577, SIGNED.limits.1] {
            for scale in scales.map(short) {
                let (bits, by) = (f32::from_bits((SIGNED.bits + sum as i32) as u32), SIGNED.offset(scale).unwrap());
                assert_eq!(bits.mul_add(scale, by).to_bits(), (sum as f32 * scale).to_bits(), "{sum} * {scale}");
            }
        }
        assert_eq!((SIGNED.offset(0.1), SIGNED.offset(0.0), SIGNED.offset(f32::MAX)), (None, None, None));
        for scale in scales {
            assert!((short(scale) / scale - 1.0).abs() <= f32::EPSILON, "{scale}");
        }
    }

    #[test]
    fn negative_sums_stay_below_zero() {
        for sum in [-1, -2, -77, -8_388_608, -8_388_609, POSITIVE.limits.0 as i32] {
            let bits = f32::from_bits((POSITIVE.bits + sum) as u32);
            let scaled = bits.mul_add(0.1, POSITIVE.offset(0.1).unwrap());
            assert!(bits > 0.0 && scaled < 0.0 && scaled >= sum as f32 * 0.1, "{sum}: {scaled}");
        }
        assert_eq!([-0.5, f32::NAN, f32::MAX].map(|s| POSITIVE.offset(s)), [None; 3]);
    }

    /// `bound(bound(f32(a0) * a1))`
    fn program(bounds: &[(BinOp, f64)]) -> ScalarProgram {
        let mut p = ScalarProgram::default();
        let (sum, scale) = (p.arg(0, DType::I32), p.arg(1, DType::F32));
        let real = p.cast(sum, DType::F32);
        let mut x = p.bin(BinOp::Mul, real, scale);
        for (bound, at) in bounds {
            let at = p.float(*at, DType::F32);
            x = p.bin(*bound, x, at);
        }
        p.finish(x)
    }

    #[test]
    fn what_may_be_negative_needs_its_sum() {
        let of = |positive| Some(Scaled { real: 2, scale: 1, positive });
        assert_eq!(scaled(&program(&[(BinOp::Min, 6.0), (BinOp::Max, 0.0)])), of(true));
        assert_eq!(scaled(&program(&[(BinOp::Max, 0.0), (BinOp::Min, 6.0)])), of(true));
        assert_eq!(scaled(&program(&[(BinOp::Min, 255.0), (BinOp::Max, -3.0)])), of(false));
        assert_eq!(scaled(&program(&[(BinOp::Min, -1.0), (BinOp::Max, 0.0)])), of(false), "of no use, and not thought of");
        assert_eq!(scaled(&program(&[])), of(false));
    }
}
