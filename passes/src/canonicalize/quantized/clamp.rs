//! Clamps in front of a quantisation become clamps of integers, or nothing where the type's range is as narrow.
//!
//! What   `quantize(relu(x))` = `max(quantize(x), zero point)`; `quantize(clip(x, a, b))` = `min(max(quantize(x), quantize(a)), quantize(b))`.
//! When   canonicalize phase.
//! Why    the convolution in front of the clamp then has its quantisation behind it.
//! Class  exact: quantisation is monotonic, and NaN becomes the zero point, which lies inside the limits.
//! Misses limits that do not include 0, or that are computed at run time.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::Tensor;

use super::params::{Params, integer, quantizes};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, apply| Rule { name, class: RuleClass::Exact, roots: Roots::Named(&["quantize_linear"]), apply };
    vec![rule("quantize-above-relu", relu), rule("quantize-above-clip", clip)]
}

fn relu(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let params = quantizes(cx, m)?;
    let relu = above(cx, m, "relu")?;
    clamped(cx, m, &relu, params, Some(params.zero), None)
}

fn clip(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let params = quantizes(cx, m)?;
    let clip = above(cx, m, "clip")?;
    let limit = |cx: &mut RuleCx, i: usize| -> Option<Option<i64>> {
        let Some(limit) = clip.input(i) else { return Some(None) };
        let value = cx.scalar(limit).filter(|v| !v.is_nan())? as f32;
        let mut operands = vec![Tensor::scalar(value), Tensor::scalar(params.scale)];
        operands.push(integer(params.zero, params.dtype)?);
        let q = cx.fold("quantize_linear", &operands, &m.attrs)?;
        Some(Some(q.to_i64s()?[0]))
    };
    let (low, high) = (limit(cx, 1)?, limit(cx, 2)?);
    if low.is_some_and(|l| l > params.zero) || high.is_some_and(|h| h < params.zero) {
        return None;
    }
    clamped(cx, m, &clip, params, low, high)
}

/// The clamp whose result only this quantisation reads.
fn above(cx: &RuleCx, m: &Match, op: &str) -> Option<Match> {
    let x = m.input(0).filter(|x| cx.single_use(*x))?;
    cx.find(x, op).into_iter().next()
}

/// The clamp's operand quantised, then clamped as integers where the type allows more.
fn clamped(cx: &mut RuleCx, m: &Match, clamp: &Match, params: Params, low: Option<i64>, high: Option<i64>) -> Option<Id> {
    let (least, most) = params.dtype.int_range()?;
    cx.absorb(clamp.id);
    let mut y = cx.node("quantize_linear", &[clamp.input(0), m.input(1), m.input(2)], m.attrs.clone())?;
    for (op, limit, end) in [("max", low, least), ("min", high, most)] {
        if let Some(limit) = limit.filter(|l| i128::from(*l) != end) {
            let limit = cx.add_constant(integer(limit, params.dtype)?);
            y = cx.node_of(op, &[y, limit], Default::default())?;
        }
    }
    Some(y)
}
