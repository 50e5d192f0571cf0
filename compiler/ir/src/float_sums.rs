//! Sums of integers as the bits of floats.
//!
//! The float `1.5 * 2^23 + s` has the bits `BEGIN + s` for every integer s of a magnitude below 2^22: a sum of integers that begins with [`BEGIN`] is a
//! float without a conversion. To scale it is one fused operation then, `f32(s) * scale = fma(1.5 * 2^23 + s, scale, offset(scale))`, bit for bit, as the
//! product that is taken off is exact for scales of 22 significant bits ([`short`]).

use crate::dtype::DType;
use crate::scalar::{BinOp, NodeIx, ScalarNode, ScalarOp, ScalarProgram, UnOp};

/// The bits of `1.5 * 2^23`.
pub const BEGIN: i32 = 0x4B40_0000;

/// Sums are of a magnitude below this.
pub const LIMIT: i64 = 1 << 22;

/// `scale` to 22 significant bits, by Veltkamp's splitting (Dekker, "A floating-point technique for extending the available precision", 1971).
pub fn short(scale: f32) -> f32 {
    let up = scale * SPLIT;
    up - (up - scale)
}

/// The factor of the splitting: `2^2 + 1`.
pub const SPLIT: f32 = 5.0;

/// `-1.5 * 2^23 * scale`, if that is exact.
pub fn offset(scale: f32) -> Option<f32> {
    let product = -f64::from(f32::from_bits(BEGIN as u32)) * f64::from(scale);
    (f64::from(product as f32) == product).then_some(product as f32)
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

/// The node of a program that is the sum, argument 0, as a float, and the operand that scales it, if nothing else is done with the sum.
pub fn scaled(program: &ScalarProgram) -> Option<(NodeIx, u8)> {
    let op = |n: NodeIx| program.nodes[n as usize].op;
    let users = |of: NodeIx| (0..program.nodes.len() as NodeIx).filter(move |n| op(*n).operands().any(|o| o == of));
    let one = |of: NodeIx| {
        let mut users = users(of);
        users.next().filter(|_| users.next().is_none())
    };
    let sum = (0..program.nodes.len() as NodeIx).find(|n| op(*n) == ScalarOp::Arg(0))?;
    let real = one(sum).filter(|n| matches!(op(*n), ScalarOp::Cast(_)) && program.dtype(*n) == DType::F32)?;
    let ScalarOp::Bin(BinOp::Mul, a, b) = op(one(real)?) else { return None };
    match op(if a == real { b } else { a }) {
        ScalarOp::Arg(k) if program.dtype(sum) == DType::I32 => Some((real, k)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_sums_are_the_same_bit_for_bit() {
        let sums = [0, 1, -1, 77, -12_345, LIMIT as i32 - 1, 1 - LIMIT as i32];
        let scales = [1.0, 0.1, 3.7e-5, 0.99999994, 1.0e-9, 123.456, -0.3];
        for (sum, scale) in sums.into_iter().flat_map(|s| scales.map(|scale| (s, short(scale)))) {
            let (bits, by) = (f32::from_bits((BEGIN + sum) as u32), offset(scale).unwrap());
            assert_eq!(bits.mul_add(scale, by), sum as f32 * scale, "{sum} * {scale}");
        }
    }

    #[test]
    fn scales_get_shorter() {
        assert_eq!(short(0.1).to_bits() % 4, 0);
        assert!((short(0.1) - 0.1).abs() < 0.1 / f32::exp2(22.0));
        assert_eq!(short(0.375), 0.375);
        assert_eq!(offset(0.99999994), None, "24 bits");
    }
}
