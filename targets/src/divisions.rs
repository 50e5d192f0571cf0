//! Divisions by constants as multiplications, where results become integers and are the same bit for bit.
//!
//! A quotient by a constant `c` that is bounded, rounded and made an integer is `fma(x, h, x * l)` with `h + l` about `1/c`, which rounds like the
//! division for nearly all constants (Brisebarre, Muller and Raina 2004); [`Reciprocal::of`] proves it for the one at hand.

use onnxc_ir::DType;
use onnxc_ir::kernel::Values;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram, UnOp};

use crate::limits::{Known, known, limits};

/// Quotients by constants as products where that rounds alike. `values` tells of the operands, `roots` are the results; answers where they are then.
pub(crate) fn without_divisions(program: &ScalarProgram, values: &[Values], roots: &[NodeIx]) -> (ScalarProgram, Vec<NodeIx>) {
    let mut out = ScalarProgram::default();
    let mut map: Vec<Option<NodeIx>> = vec![None; program.nodes.len()];
    let (rounded, limits, known) = (rounded_to_int(program, roots), limits(program, values), known(program, values));
    let bounded = |x: NodeIx| {
        let (low, high) = limits[x as usize];
        known[x as usize] >= Known::Number && low > -FAR && high < FAR
    };
    for (n, node) in program.nodes.iter().enumerate() {
        if map[n].is_some() {
            continue;
        }
        let get = |o: NodeIx| map[o as usize].expect("internal: operands come first");
        map[n] = Some(match divided(program, n as NodeIx).filter(|_| rounded[n]) {
            Some((x, by)) if bounded(x) => multiplied(&mut out, get(x), by),
            Some((x, by)) => match Bounds::of(program, roots, n as NodeIx, by.of) {
                Some(bounds) => {
                    let x = bounds.before(&mut out, get(x));
                    let product = multiplied(&mut out, x, by);
                    bounds.nodes.iter().for_each(|b| map[*b as usize] = Some(product));
                    product
                }
                None => out.push(node.op.map_operands(get), node.dtype),
            },
            None => out.push(node.op.map_operands(get), node.dtype),
        });
    }
    let at = roots.iter().map(|r| map[*r as usize].expect("internal: all nodes are mapped")).collect();
    (out, at)
}

/// The product that takes the place of a quotient.
fn multiplied(out: &mut ScalarProgram, x: NodeIx, by: Reciprocal) -> NodeIx {
    let (high, low) = (out.float(f64::from(by.high), DType::F32), out.float(f64::from(by.low), DType::F32));
    let rest = out.bin(BinOp::Mul, x, low);
    out.push(ScalarOp::Fma(x, high, rest), DType::F32)
}

/// Bounds of a quotient that is rounded to an integer then, integers both. They may as well bound what is divided, by so many times as much: quotients do
/// not decrease, and that of such a bound is less than a half away from the integer.
struct Bounds {
    /// The operations: which, is the constant its first operand, the bound of what is divided.
    ops: [(BinOp, bool, f32); 2],
    /// Their nodes.
    nodes: [NodeIx; 2],
}

impl Bounds {
    /// Larger ones could be moved by their own rounding.
    const MOST: f64 = 65_536.0;

    /// Those of the quotient `n` by `c`.
    fn of(program: &ScalarProgram, roots: &[NodeIx], n: NodeIx, c: f32) -> Option<Bounds> {
        let uses = onnxc_ir::rare_arm::uses(program, roots);
        let next = |n: NodeIx| -> Option<(NodeIx, (BinOp, bool, f32))> {
            let user = (n + 1..=program.result()).find(|u| program.nodes[*u as usize].op.operands().any(|o| o == n))?;
            let ScalarOp::Bin(op @ (BinOp::Min | BinOp::Max), a, b) = program.nodes[user as usize].op else { return None };
            let constant = if a == n { b } else { a };
            let ScalarOp::Const(bits) = program.nodes[constant as usize].op else { return None };
            let bound = f64::from_bits(bits);
            let usable = uses[n as usize] == 1 && bound.fract() == 0.0 && bound.abs() <= Bounds::MOST && c > 0.0;
            usable.then_some((user, (op, constant == a, bound as f32 * c)))
        };
        let (first, a) = next(n)?;
        let (second, b) = next(first)?;
        (a.0 != b.0).then_some(Bounds { ops: [a, b], nodes: [first, second] })
    }

    /// The bounds on what is divided.
    fn before(&self, out: &mut ScalarProgram, x: NodeIx) -> NodeIx {
        self.ops.iter().fold(x, |x, (op, first, bound)| {
            let bound = out.float(f64::from(*bound), DType::F32);
            if *first { out.bin(*op, bound, x) } else { out.bin(*op, x, bound) }
        })
    }
}

/// The nodes that nothing uses but bounds and roundings to integers: the sign of a zero and numbers next to zero do not matter.
fn rounded_to_int(program: &ScalarProgram, roots: &[NodeIx]) -> Vec<bool> {
    let n = program.nodes.len();
    // What a node becomes is known before what its operands become.
    let (mut only, mut round) = (vec![true; n], vec![true; n]);
    for root in roots {
        only[*root as usize] = false;
        round[*root as usize] = false;
    }
    for (i, node) in program.nodes.iter().enumerate().rev() {
        for o in node.op.operands().map(usize::from) {
            match node.op {
                ScalarOp::Un(UnOp::Round, _) => only[o] &= round[i],
                ScalarOp::Bin(BinOp::Min | BinOp::Max, ..) => only[o] &= only[i],
                _ => only[o] = false,
            }
            round[o] &= matches!(node.op, ScalarOp::Cast(_)) && node.dtype.is_int();
        }
    }
    only
}

/// Far from the largest and the smallest numbers.
const FAR: f64 = 1e30;

/// Operand and reciprocal of a quotient by a constant that a product can take the place of.
fn divided(program: &ScalarProgram, n: NodeIx) -> Option<(NodeIx, Reciprocal)> {
    let node = program.nodes[n as usize];
    let ScalarOp::Bin(BinOp::Div, x, c) = node.op else { return None };
    let ScalarOp::Const(bits) = program.nodes[c as usize].op else { return None };
    Some((x, Reciprocal::of(f64::from_bits(bits) as f32).filter(|_| node.dtype == DType::F32)?))
}

/// Two numbers whose sum is the reciprocal of a constant, nearly.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Reciprocal {
    of: f32,
    high: f32,
    low: f32,
}

/// Bits of the significand of an f32.
const BITS: u32 = 24;
/// Significands of constants with fewer bits than this (without the zeros at their end) have too many operands that would have to be tried.
const FEWEST: u64 = 1 << 12;
/// The error of the product is below `2^-47` of it. A quotient of significands X and C lies at least `|D| / (X * 2^25)` of it from the next number in the
/// middle of two neighbours, with an integer D that is not 0: only operands with a `|D|` of at most 4 can be rounded wrongly. Some more are tried.
const TRIED: i64 = 8;

impl Reciprocal {
    /// That of `c`, if for every x whose quotient is a normal number `fma(x, high, x * low)` is `x / c`.
    fn of(c: f32) -> Option<Reciprocal> {
        if !(f64::from(c).abs() > 1e-6 && f64::from(c).abs() < 1e6) {
            return None;
        }
        let high = 1.0 / c;
        let low = (1.0 / f64::from(c) - f64::from(high)) as f32;
        let by = Reciprocal { of: c, high, low };
        let significand = u64::from(c.to_bits() & ((1 << (BITS - 1)) - 1) | 1 << (BITS - 1));
        let odd = significand >> significand.trailing_zeros();
        if odd < FEWEST {
            return (low == 0.0).then_some(by);
        }
        let exact = |x: u64| {
            let x = x as f32;
            x.mul_add(high, x * low) == x / c
        };
        // X * 2^j - M * C = D for the odd M of a number in the middle, where X / C is at least 1 (j = 24) or less (j = 25).
        let close = |j: u32, d: i64| {
            let zeros = significand.trailing_zeros();
            let possible = d % (1 << zeros) == 0;
            let first = (d >> zeros).rem_euclid(odd as i64) as u64 * inverse_of_two(odd, j - zeros) % odd;
            let from = first + (1u64 << (BITS - 1)).saturating_sub(first).div_ceil(odd) * odd;
            (from..1 << BITS).step_by(odd as usize).filter(move |_| possible)
        };
        let differences = (-TRIED..=TRIED).filter(|d| *d != 0);
        differences.flat_map(|d| [BITS, BITS + 1].map(|j| (j, d))).all(|(j, d)| close(j, d).all(exact)).then_some(by)
    }
}

/// The inverse of `2^j` modulo an odd number.
fn inverse_of_two(odd: u64, j: u32) -> u64 {
    let half = odd.div_ceil(2);
    (0..j).fold(1 % odd, |inverse, _| inverse * half % odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_one(program: &ScalarProgram) -> ScalarProgram {
        let (out, at) = without_divisions(program, &[], &[program.result()]);
        out.finish(at[0])
    }

    /// Numbers that look random.
    fn random(n: usize) -> impl Iterator<Item = u32> {
        let mut state = 9u64;
        (0..n).map(move |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        })
    }

    #[test]
    fn quotients_are_rounded_alike() {
        let mut proved = 0;
        for bits in random(40) {
            let c = f32::from_bits(0x3C00_0000 | (bits & 0x00FF_FFFF));
            let Some(by) = Reciprocal::of(c) else { continue };
            proved += 1;
            for x in random(100_000).map(|b| f32::from_bits(0x4000_0000 | (b & 0x03FF_FFFF))) {
                assert_eq!(x.mul_add(by.high, x * by.low), x / c, "{x} / {c}");
            }
        }
        assert!(proved > 30, "{proved} of 40");
    }

    /// All significands, for a few constants; and a constant for which it does not hold is found out.
    #[test]
    fn proofs_agree_with_all_significands() {
        for c in [0.06899234_f32, 0.08864514, 3.0, 0.1, 1.0 / 3.0, 0.75, 16777215.0 / 16777216.0] {
            let high = 1.0 / c;
            let low = (1.0 / f64::from(c) - f64::from(high)) as f32;
            let all = (1u32 << 23..1 << 24).all(|x| (x as f32).mul_add(high, x as f32 * low) == x as f32 / c);
            let proved = Reciprocal::of(c).is_some();
            assert!(all || !proved, "{c}: proved, but not so");
            assert!(proved || !all || (c.to_bits() & 0x7F_FFFF | 0x80_0000).trailing_zeros() > 11, "{c}: not proved, but so");
        }
    }

    #[test]
    fn quotients_that_are_rounded_become_products() {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, DType::U8);
        let x = p.cast(x, DType::I32);
        let x = p.cast(x, DType::F32);
        let c = p.float(f64::from(0.08864514f32), DType::F32);
        let quotient = p.bin(BinOp::Div, x, c);
        let whole = p.un(UnOp::Round, quotient);
        let whole = p.cast(whole, DType::I32);
        let rounded = p.finish(whole);
        assert!(of_one(&rounded).to_string().contains("fma"));
        let plain = p.finish(quotient);
        assert_eq!(of_one(&plain), plain, "its smallest bits are wanted");
    }

    /// Whatever is divided, infinite numbers and NaN too, where quotients lie between integers and at the bounds.
    #[test]
    fn bounded_quotients_become_products_of_bounded_numbers() {
        for (c, low, high) in [(0.040_859_8_f32, -9.0, 246.0), (0.088_645_14, -128.0, 127.0), (1.7e-5, -32768.0, 32767.0)] {
            let mut p = ScalarProgram::default();
            let (x, by) = (p.arg(0, DType::F32), p.float(f64::from(c), DType::F32));
            let (least, most) = (p.float(low, DType::F32), p.float(high, DType::F32));
            let x = p.bin(BinOp::Div, x, by);
            let x = p.bin(BinOp::Min, x, most);
            let x = p.bin(BinOp::Max, x, least);
            let x = p.un(UnOp::Round, x);
            let whole = p.cast(x, DType::I32);
            let divided = p.finish(whole);
            let product = of_one(&divided);
            let text = product.to_string();
            assert!(text.contains("fma") && !text.contains("div") && text.matches("min").count() == 1, "{text}");
            let halves = (low as i32 - 2..=high as i32 + 2).flat_map(|n| [n as f32 - 0.5, n as f32]).map(|q| q * c);
            let near = |x: f32| (-3..=3).map(move |d| f32::from_bits(x.to_bits().wrapping_add_signed(d)));
            let extremes = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-40, -0.0];
            for x in halves.flat_map(near).chain(extremes) {
                let of = |p| onnxc_ir::math::evaluate(p, &[onnxc_ir::math::Scalar::F(f64::from(x))]);
                assert_eq!(of(&product), of(&divided), "{x} / {c}");
            }
        }
    }

    /// What several results need is no less theirs because one of them is rounded.
    #[test]
    fn a_quotient_that_is_a_result_too_stays() {
        let mut p = ScalarProgram::default();
        let (x, c) = (p.arg(0, DType::U8), p.float(f64::from(0.08864514f32), DType::F32));
        let x = p.cast(x, DType::F32);
        let quotient = p.bin(BinOp::Div, x, c);
        let whole = p.un(UnOp::Round, quotient);
        let whole = p.cast(whole, DType::I32);
        let text = |roots: &[NodeIx]| without_divisions(&p, &[], roots).0.to_string();
        assert!(text(&[whole]).contains("fma") && !text(&[whole, quotient]).contains("fma"));
    }
}
