//! Normalisations from their pieces.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs, DType, Tensor};

use super::activation::{orders, with_scalar};
use super::{kept, reshaped};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Reassociates, roots: Roots::Named(roots), apply };
    vec![
        rule("recognize-layer-norm", &["div", "mul"], layer_norm),
        rule("recognize-layer-norm-scale", &["mul"], layer_norm_scale),
        rule("recognize-layer-norm-shift", &["add"], layer_norm_shift),
        rule("recognize-softmax", &["div"], softmax),
    ]
}

/// A reduction over the last dimension that keeps it or gets it back by a reshape: its operand.
fn last_axis(cx: &RuleCx, id: Id, op: &str) -> Option<Id> {
    reshaped(cx, id).into_iter().find_map(|inner| {
        let reduce = cx.find(inner, op).into_iter().next()?;
        let x = reduce.input(0)?;
        let axes = cx.constant(reduce.input(1)?)?.to_i64s()?;
        let rank = cx.ty(x).rank();
        let last = matches!(axes[..], [axis] if axis == -1 || axis == rank as i64 - 1);
        (last && kept(cx, id, x, rank - 1)).then_some(x)
    })
}

/// `x - reduce_mean(x)`: x.
fn centred(cx: &RuleCx, id: Id) -> Option<Id> {
    let sub = cx.find(id, "sub").into_iter().next()?;
    let x = sub.input(0)?;
    last_axis(cx, sub.input(1)?, "reduce_mean").filter(|y| cx.same(*y, x))
}

/// `sqrt(reduce_mean(c^2) + eps)` of the centred operand c: eps.
fn deviation(cx: &RuleCx, id: Id, centre: Id) -> Option<f64> {
    let sqrt = cx.find(id, "sqrt").into_iter().next()?;
    let (variance, eps) = with_scalar(cx, sqrt.input(0)?, "add")?;
    let square = last_axis(cx, variance, "reduce_mean")?;
    let by_pow = with_scalar(cx, square, "pow").is_some_and(|(c, k)| k == 2.0 && same_centre(cx, c, centre));
    let by_mul = cx
        .find(square, "mul")
        .iter()
        .any(|m| m.input(0).zip(m.input(1)).is_some_and(|(a, b)| cx.same(a, b) && same_centre(cx, a, centre)));
    (by_pow || by_mul).then_some(eps)
}

/// The same class, or another centring of the same operand.
fn same_centre(cx: &RuleCx, a: Id, b: Id) -> bool {
    cx.same(a, b) || centred(cx, a).zip(centred(cx, b)).is_some_and(|(x, y)| cx.same(x, y))
}

fn layer_norm(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (centre, eps) = if m.op.name == "div" {
        let centre = m.input(0)?;
        (centre, deviation(cx, m.input(1)?, centre)?)
    } else {
        orders(m)?.into_iter().find_map(|(centre, factor)| {
            let reciprocal = cx.find(factor, "reciprocal").into_iter().next()?;
            Some((centre, deviation(cx, reciprocal.input(0)?, centre)?))
        })?
    };
    let x = centred(cx, centre)?;
    let ty = cx.ty(x).clone();
    let width = ty.shape.last()?.as_const().filter(|_| ty.dtype == DType::F32)?;
    let ones = cx.add_constant(Tensor::from_vec(&[width], vec![1f32; width as usize]));
    m.inputs.iter().flatten().for_each(|part| cx.absorb_down_to(*part, x));
    let attrs = Attrs::default().with("axis", Attr::Int(-1)).with("epsilon", Attr::Float(eps as f32));
    let norm = cx.node("layer_normalization", &[Some(x), Some(ones)], attrs)?;
    (*cx.ty(norm) == *cx.ty(m.id)).then_some(norm)
}

/// A layer normalisation over the last dimension whose scale is all ones and that has no shift, and a constant vector beside it.
fn unscaled(cx: &RuleCx, m: &Match, want_ones: bool) -> Option<(Match, Id)> {
    orders(m)?.into_iter().find_map(|(x, k)| {
        let norm = cx.find(x, "layer_normalization").into_iter().find(|n| {
            let scale = n.input(1).and_then(|s| cx.constant(s));
            let ones = scale.is_some_and(|t| t.dtype() == DType::F32 && t.to_vec::<f32>().iter().all(|v| *v == 1.0));
            n.input(2).is_none() && n.results == 1 && n.attrs.int("axis") == Some(-1) && (ones || !want_ones)
        })?;
        let width = cx.ty(x).shape.last()?.as_const()?;
        let vector = cx.constant(k).is_some_and(|t| t.len() as u64 == width && t.shape().last() == Some(&width));
        (vector && cx.single_use(x)).then_some((norm, k))
    })
}

fn vector(cx: &mut RuleCx, k: Id) -> Option<Id> {
    let tensor = cx.constant(k)?.reshaped(&[cx.constant(k)?.len() as u64])?;
    Some(cx.add_constant(tensor))
}

fn layer_norm_scale(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (norm, k) = unscaled(cx, m, true)?;
    let scale = vector(cx, k)?;
    cx.absorb(norm.id);
    let id = cx.node("layer_normalization", &[norm.input(0), Some(scale)], norm.attrs.clone())?;
    (*cx.ty(id) == *cx.ty(m.id)).then_some(id)
}

fn layer_norm_shift(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (norm, k) = unscaled(cx, m, false)?;
    let shift = vector(cx, k)?;
    cx.absorb(norm.id);
    let id = cx.node("layer_normalization", &[norm.input(0), norm.input(1), Some(shift)], norm.attrs.clone())?;
    (*cx.ty(id) == *cx.ty(m.id)).then_some(id)
}

/// `exp(x - reduce_max(x)) / reduce_sum(exp(...))` over the last dimension.
fn softmax(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (top, sum) = (m.input(0)?, m.input(1)?);
    let summed = last_axis(cx, sum, "reduce_sum")?;
    if !cx.same(summed, top) {
        return None;
    }
    let exp = cx.find(top, "exp").into_iter().next()?;
    let shifted = exp.input(0)?;
    let sub = cx.find(shifted, "sub").into_iter().next()?;
    let x = sub.input(0)?;
    last_axis(cx, sub.input(1)?, "reduce_max").filter(|y| cx.same(*y, x))?;
    cx.absorb_down_to(top, x);
    cx.absorb_down_to(sum, x);
    let id = cx.node_of("softmax", &[x], Attrs::default().with("axis", Attr::Int(-1)))?;
    (*cx.ty(id) == *cx.ty(m.id)).then_some(id)
}
