//! Sums of integers as the bits of floats.
//!
//! The float `2^23 + s` has the bits `BEGIN + s` for every integer s from 0 to 2^23: a sum of integers that begins with [`BEGIN`] is a float without a
//! conversion. To scale it is one fused operation then, `f32(s) * scale = fma(2^23 + s, scale, -2^23 * scale)`, bit for bit, as the product that is taken off
//! is exact. Of negative sums the floats below 2^23 are not far enough away, half as far or less, but on the right side: a result that is nowhere below 0
//! then, as behind a ReLU, is the same all the same.

use crate::dtype::DType;
use crate::scalar::{BinOp, NodeIx, ScalarNode, ScalarOp, ScalarProgram, UnOp};

/// The bits of `2^23`.
pub const BEGIN: i32 = 0x4B00_0000;

/// Sums that are larger have other bits, and those that are smaller no bits of a positive float.
pub const LIMITS: (i64, i64) = (-(1 << 30), (1 << 23) - 1);

/// `-2^23 * scale`, if that is exact and positive scales keep the order of sums.
pub fn offset(scale: f32) -> Option<f32> {
    let product = -f32::from_bits(BEGIN as u32) * scale;
    (scale == 0.0 || scale > 0.0 && scale.is_normal() && product.is_finite()).then_some(product)
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

/// The node of a program that is the sum, argument 0, as a float, and the operand that scales it, if nothing else is done with the sum and products below 0
/// are the same as 0.
pub fn scaled(program: &ScalarProgram) -> Option<(NodeIx, u8)> {
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
    let mut bounded = product;
    while bounded != program.result() {
        let next = one(bounded)?;
        let ScalarOp::Bin(bound @ (BinOp::Min | BinOp::Max), a, b) = op(next) else { return None };
        let ScalarOp::Const(bits) = op(if a == bounded { b } else { a }) else { return None };
        match (bound, f64::from_bits(bits) >= 0.0) {
            (BinOp::Max, true) => return (program.dtype(sum) == DType::I32).then_some((real, scale)),
            (BinOp::Min, true) => bounded = next,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_sums_are_the_same_bit_for_bit() {
        let sums = [0, 1, 77, 12_345, 4_194_305, LIMITS.1 as i32];
        let scales = [1.0, 0.1, 3.7e-5, 0.99999994, 1.0e-9, 123.456];
        for (sum, scale) in sums.into_iter().flat_map(|s| scales.map(|scale| (s, scale))) {
            let (bits, by) = (f32::from_bits((BEGIN + sum) as u32), offset(scale).unwrap());
            assert_eq!(bits.mul_add(scale, by), sum as f32 * scale, "{sum} * {scale}");
        }
    }

    #[test]
    fn negative_sums_stay_below_zero() {
        for sum in [-1, -2, -77, -8_388_608, -8_388_609, LIMITS.0 as i32] {
            let bits = f32::from_bits((BEGIN + sum) as u32);
            let scaled = bits.mul_add(0.1, offset(0.1).unwrap());
            assert!(bits > 0.0 && scaled < 0.0 && scaled >= sum as f32 * 0.1, "{sum}: {scaled}");
        }
        assert_eq!((offset(-0.5), offset(f32::NAN), offset(f32::MAX)), (None, None, None));
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
        assert_eq!(scaled(&program(&[(BinOp::Min, 6.0), (BinOp::Max, 0.0)])), Some((2, 1)));
        assert_eq!(scaled(&program(&[(BinOp::Max, 0.0), (BinOp::Min, 6.0)])), Some((2, 1)));
        assert_eq!(scaled(&program(&[(BinOp::Min, 255.0), (BinOp::Max, -3.0)])), None);
        assert_eq!(scaled(&program(&[(BinOp::Min, -1.0), (BinOp::Max, 0.0)])), None, "of no use, and not thought of");
        assert_eq!(scaled(&program(&[])), None);
    }
}
