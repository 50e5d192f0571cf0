//! Between which numbers the values of a scalar program lie: conversions inside of these limits need no care.

use onnxc_ir::DType;
use onnxc_ir::float_sums;
use onnxc_ir::kernel::{EpilogueOperand, Values};
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarNode, ScalarOp, ScalarProgram, UnOp};

/// The least and the largest value that each node can have; a NaN besides, if its type has one. Infinite where nothing is known.
pub(crate) fn limits(program: &ScalarProgram, values: &[Values]) -> Vec<(f64, f64)> {
    let mut all = Vec::with_capacity(program.nodes.len());
    for node in &program.nodes {
        let of = of_node(program, *node, &all);
        let known = match node.op {
            ScalarOp::Arg(k) => values.get(k as usize).and_then(|v| v.limit()),
            _ => scaled_sum(program, *node, values),
        };
        all.push(known.map_or(of, |limit| (-limit, limit)));
    }
    all
}

/// What is known of the arguments of an epilogue: nothing of the sum.
pub(crate) fn values_of(operands: &[EpilogueOperand]) -> Vec<Values> {
    std::iter::once(Values::Any).chain(operands.iter().map(|o| o.values)).collect()
}

/// The limit of the product of the sum with one of its scales.
fn scaled_sum(program: &ScalarProgram, node: ScalarNode, values: &[Values]) -> Option<f64> {
    let of_operand = |k: u8| values.get(k as usize)?.scaled_limit();
    if let Some(scale) = float_sums::scale_of(program, node) {
        return of_operand(scale);
    }
    let ScalarOp::Bin(BinOp::Mul, a, b) = node.op else { return None };
    let op = |n: NodeIx| program.nodes[n as usize].op;
    let is_sum = |n: NodeIx| matches!(op(n), ScalarOp::Cast(sum) if op(sum) == ScalarOp::Arg(0));
    let scale = |n: NodeIx| match op(n) {
        ScalarOp::Arg(k) if k > 0 => of_operand(k),
        _ => None,
    };
    let (of_a, of_b) = (scale(a).filter(|_| is_sum(b)), scale(b).filter(|_| is_sum(a)));
    of_a.or(of_b).filter(|_| node.dtype == DType::F32)
}

/// The same of one node, when those before it have theirs.
fn of_node(program: &ScalarProgram, node: ScalarNode, before: &[(f64, f64)]) -> (f64, f64) {
    let of = |n: NodeIx| before[n as usize];
    let found = match node.op {
        ScalarOp::Const(bits) if node.dtype.is_float() => (f64::from_bits(bits), f64::from_bits(bits)),
        ScalarOp::Const(bits) if node.dtype.is_int() => (bits as i64 as f64, bits as i64 as f64),
        ScalarOp::Bin(BinOp::Min, a, b) => ends(of(a), of(b), f64::min),
        ScalarOp::Bin(BinOp::Max, a, b) => ends(of(a), of(b), f64::max),
        ScalarOp::Bin(BinOp::Add, a, b) if node.dtype == DType::I32 => ends(of(a), of(b), |a, b| a + b),
        ScalarOp::Bin(op @ (BinOp::Add | BinOp::Mul), a, b) if node.dtype == DType::F32 => combined(op, of(a), of(b)),
        // The product of finite limits does not overflow an f64, and loses less than the sum's rounding.
        ScalarOp::Fma(a, b, c) if node.dtype == DType::F32 => combined(BinOp::Add, products(of(a), of(b)), of(c)),
        ScalarOp::Cast(a) if program.dtype(a).is_int() && node.dtype == DType::F32 => rounded(of(a)),
        ScalarOp::Un(UnOp::Round, a) => (of(a).0.round_ties_even(), of(a).1.round_ties_even()),
        ScalarOp::Cast(a) if program.dtype(a).is_int() && node.dtype == DType::I32 => of(a),
        // NaN becomes 0.
        ScalarOp::Cast(a) if program.dtype(a) == DType::F32 && node.dtype == DType::I32 => {
            (of(a).0.trunc().min(0.0), of(a).1.trunc().max(0.0))
        }
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    };
    // Integers never leave their type; what could have left it may have come in again from the other end.
    match node.dtype.int_range() {
        Some((low, high)) if !(found.0 >= low as f64 && found.1 <= high as f64) => (low as f64, high as f64),
        _ => found,
    }
}

/// Limits of a sum or product of floats, rounded.
fn combined(op: BinOp, (a, b): (f64, f64), (c, d): (f64, f64)) -> (f64, f64) {
    if [a, b, c, d].iter().any(|x| x.is_infinite()) {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    rounded(if op == BinOp::Add { (a + c, b + d) } else { products((a, b), (c, d)) })
}

/// Limits of a product that is not rounded.
fn products((a, b): (f64, f64), (c, d): (f64, f64)) -> (f64, f64) {
    if [a, b, c, d].iter().any(|x| x.is_infinite()) {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    let all = [a * c, a * d, b * c, b * d];
    (all.into_iter().fold(f64::INFINITY, f64::min), all.into_iter().fold(f64::NEG_INFINITY, f64::max))
}

/// Limits of what is rounded to f32.
fn rounded((low, high): (f64, f64)) -> (f64, f64) {
    (f64::from(low as f32), f64::from(high as f32))
}

fn ends((a, b): (f64, f64), (c, d): (f64, f64), f: impl Fn(f64, f64) -> f64) -> (f64, f64) {
    (f(a, c), f(b, d))
}

/// What is known of a float.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Known {
    Nothing,
    /// It is no NaN.
    Number,
    /// Nor infinite.
    Finite,
}

/// What is known of each node's value, if it is a float; `values` tells of the operands.
pub(crate) fn known(program: &ScalarProgram, values: &[Values]) -> Vec<Known> {
    let mut all = Vec::with_capacity(program.nodes.len());
    for (node, (low, high)) in program.nodes.iter().zip(limits(program, values)) {
        let found = known_of(program, *node, &all, values);
        // A number between finite limits.
        all.push(if found == Known::Number && low > f64::NEG_INFINITY && high < f64::INFINITY { Known::Finite } else { found });
    }
    all
}

fn known_of(program: &ScalarProgram, node: ScalarNode, before: &[Known], values: &[Values]) -> Known {
    let of = |n: NodeIx| before[n as usize];
    match node.op {
        ScalarOp::Arg(n) if values.get(n as usize).is_some_and(|v| *v >= Values::Finite) => Known::Finite,
        _ if scaled_sum(program, node, values).is_some() => Known::Finite,
        ScalarOp::Const(bits) if f64::from_bits(bits).is_finite() => Known::Finite,
        ScalarOp::Cast(x) if program.dtype(x).is_int() => Known::Finite,
        ScalarOp::Bin(BinOp::Mul, x, y) if is_small(program, x) && is_small(program, y) => Known::Finite,
        ScalarOp::Bin(BinOp::Mul, x, y) if of(x).min(of(y)) == Known::Finite => Known::Number,
        ScalarOp::Bin(BinOp::Add | BinOp::Sub, x, y) if of(x).max(of(y)) == Known::Finite => of(x).min(of(y)).min(Known::Number),
        // The sum of a product and something that is not infinite is NaN only if the product is.
        ScalarOp::Fma(x, y, z) if of(x).min(of(y)).min(of(z)) == Known::Finite => Known::Number,
        // One of them says how far it can go, on one side.
        ScalarOp::Bin(BinOp::Min | BinOp::Max, x, y) => of(x).min(of(y)),
        _ => Known::Nothing,
    }
}

/// An integer, or a constant that is far from the largest float even when multiplied by one.
fn is_small(program: &ScalarProgram, node: NodeIx) -> bool {
    match program.nodes[node as usize].op {
        ScalarOp::Const(bits) => f64::from_bits(bits).abs() < 1e18,
        ScalarOp::Cast(x) => program.dtype(x).is_int() && program.dtype(x).bits() <= 32,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_quantisation() {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, DType::F32);
        let (low, high) = (p.float(-100.0, DType::F32), p.float(155.0, DType::F32));
        let bounded = p.bin(BinOp::Min, x, high);
        assert_eq!(limits(&p, &[])[bounded as usize], (f64::NEG_INFINITY, 155.0));
        let bounded = p.bin(BinOp::Max, bounded, low);
        let rounded = p.un(UnOp::Round, bounded);
        let whole = p.cast(rounded, DType::I32);
        let zero = p.int(100, DType::I32);
        let moved = p.bin(BinOp::Add, whole, zero);
        assert_eq!(limits(&p, &[])[moved as usize], (0.0, 255.0));
        let product = p.bin(BinOp::Mul, moved, moved);
        let sum = p.bin(BinOp::Add, product, moved);
        assert_eq!(limits(&p, &[])[sum as usize], (f64::from(i32::MIN), f64::from(i32::MAX)), "the sum may wrap");
    }

    #[test]
    fn a_scaled_integer_is_no_nan() {
        let mut p = ScalarProgram::default();
        let (acc, factor) = (p.arg(0, DType::I32), p.arg(1, DType::F32));
        let acc = p.cast(acc, DType::F32);
        let scaled = p.bin(BinOp::Mul, acc, factor);
        let high = p.float(255.0, DType::F32);
        let bounded = p.bin(BinOp::Min, scaled, high);
        let finite = [Values::Any, Values::Finite];
        assert_eq!(known(&p, &finite)[bounded as usize], Known::Number);
        assert_eq!(known(&p, &[])[bounded as usize], Known::Nothing, "the factor may be infinite, the integer 0");
        assert_eq!(limits(&p, &finite)[scaled as usize].1, f64::INFINITY);
        let scale = [Values::Any, Values::Scale(22)];
        assert_eq!(limits(&p, &scale)[scaled as usize], (-4_194_304.0, 4_194_304.0));
        assert_eq!(known(&p, &scale)[scaled as usize], Known::Finite);
        let sum = p.bin(BinOp::Add, scaled, scaled);
        assert_eq!(known(&p, &finite)[sum as usize], Known::Nothing, "infinite of both signs");
        let moved = p.bin(BinOp::Mul, sum, sum);
        let bias = [Values::Any, Values::Small(22)];
        assert!(known(&p, &bias)[moved as usize] == Known::Finite, "products of what is bounded are bounded");
        assert_eq!(known(&p, &finite)[moved as usize], Known::Nothing, "one may be infinite, the other 0");
        let third = p.float(0.3, DType::F32);
        let small = p.bin(BinOp::Mul, acc, third);
        let sum = p.bin(BinOp::Add, scaled, small);
        assert_eq!((known(&p, &[])[small as usize], known(&p, &finite)[sum as usize]), (Known::Finite, Known::Number));
    }
}
