//! Products of values whose range is found at run time: sums of integers, made floats in registers.
//!
//! What   `conv(dequantize(q, s, z), dequantize(w), b)` = `conv_integer(q, w, z){float(sum) * (s * sw) + b}`, where s and z are those of a
//!        `dynamic_quantize_linear`, and the same for `matmul` and `gemm`; w as in `sums`.
//! When   canonicalize phase.
//! Why    products of bytes, for operands whose range differs so much between inferences that no constant suits it (dynamic quantisation). Nothing is known of
//!        the next range before all results are there, so that these stay floats.
//! Class  reassociates: the sum is exact, then three roundings.
//! Misses what `sums` misses; scales and zero points of run time that are from elsewhere: `dynamic_quantize_linear` gives one positive scale for all values (1 where
//!        all are zero), NaN where a value is NaN, and then both sides are NaN.

use onnxc_egraph::{Id, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::DType;

use super::params::Params;
use super::sums::{Operand, conv, gemm, matmul};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Reassociates, roots: Roots::Named(roots), apply };
    vec![
        rule("dynamic-sums-of-conv", &["conv"], |cx, m| conv(cx, m, found)),
        rule("dynamic-sums-of-matmul", &["matmul"], |cx, m| matmul(cx, m, found)),
        rule("dynamic-sums-of-gemm", &["gemm"], |cx, m| gemm(cx, m, found)),
    ]
}

/// Which result of `dynamic_quantize_linear` is the scale, and which the zero point.
const SCALE: usize = 1;
const ZERO: usize = 2;

/// Integers whose scale and zero point one `dynamic_quantize_linear` has found.
fn found(cx: &RuleCx, id: Id) -> Option<Operand> {
    let result = |of: Id, n: usize| {
        let all = cx.results_of(of, "dynamic_quantize_linear");
        all.into_iter().find(|(i, _)| *i == n).map(|(_, m)| m.id)
    };
    cx.find(id, "dequantize_linear").into_iter().find_map(|m| {
        let (x, scale, zero) = (m.input(0)?, m.input(SCALE)?, m.input(ZERO)?);
        let one = result(scale, SCALE).is_some_and(|of| result(zero, ZERO).is_some_and(|other| cx.same(of, other)));
        let plain = m.attrs.int("block_size").unwrap_or(0) == 0 && cx.ty(m.id).dtype == DType::F32;
        // No more is known of the scale than that it has one element.
        let params = Params { scale: f32::NAN, zero: 0, dtype: cx.ty(x).dtype };
        let fits = one && plain && params.dtype == DType::U8 && cx.constant(x).is_none();
        fits.then_some(Operand { x, zero: Some(zero), params, found: Some(scale) })
    })
}
