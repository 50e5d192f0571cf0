//! Layer normalisation as TensorFlow and JAX write it out: the variance from the means of x and of its square, over any one dimension.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs, DType, Tensor};

use super::activation::{orders, with_scalar};
use super::{kept, reshaped};

/// The rule of this file.
pub fn rules() -> Vec<Rule> {
    let roots = Roots::Named(&["mul"]);
    vec![Rule { name: "recognize-layer-norm-moments", class: RuleClass::Reassociates, roots, apply: layer_norm }]
}

/// A mean over one dimension, which may be gone from the shape: the operand and the dimension.
fn mean(cx: &RuleCx, id: Id) -> Option<(Id, usize)> {
    let reduced = |op: &str, id: Id| {
        cx.find(id, op).into_iter().find_map(|r| {
            let x = r.input(0)?;
            let axes = cx.constant(r.input(1)?)?.to_i64s()?;
            let [axis] = axes[..] else { return None };
            let rank = cx.ty(x).rank() as i64;
            usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().map(|d| (x, d))
        })
    };
    if let Some(found) = reduced("reduce_mean", id) {
        return Some(found);
    }
    let (sum, factor) = with_scalar(cx, id, "mul").or_else(|| with_scalar(cx, id, "div").map(|(s, k)| (s, 1.0 / k)))?;
    let (x, axis) = reduced("reduce_sum", sum)?;
    let n = cx.ty(x).shape[axis].as_const()? as f64;
    ((factor * n - 1.0).abs() < 1e-5).then_some((x, axis))
}

/// `x - mean(x)`: x and the dimension.
fn centred(cx: &RuleCx, id: Id) -> Option<(Id, usize)> {
    cx.find(id, "sub").into_iter().find_map(|sub| {
        let (x, m) = (sub.input(0)?, sub.input(1)?);
        let (_, axis) = reshaped(cx, m).into_iter().find_map(|m| mean(cx, m).filter(|(y, _)| cx.same(*y, x)))?;
        kept(cx, m, x, axis).then_some((x, axis))
    })
}

/// The square of a class: its operand.
fn squared(cx: &RuleCx, id: Id) -> Option<Id> {
    let product = cx.find(id, "mul").into_iter().find_map(|m| m.input(0).filter(|a| m.input(1).is_some_and(|b| cx.same(*a, b))));
    product.or_else(|| with_scalar(cx, id, "pow").filter(|(_, k)| *k == 2.0).map(|(x, _)| x))
}

/// `mean(x*x) - mean(x)^2`, perhaps with `max(.., 0)` around it.
fn is_variance(cx: &RuleCx, id: Id, x: Id, axis: usize) -> bool {
    let of_x = |found: Option<(Id, usize)>| found.is_some_and(|(y, d)| d == axis && cx.same(y, x));
    let clamped = cx.find(id, "max").into_iter().find_map(|m| orders(&m)?.into_iter().find(|(_, k)| cx.scalar(*k) == Some(0.0)));
    cx.find(clamped.map_or(id, |(v, _)| v), "sub").into_iter().any(|sub| {
        let (Some(squares), Some(square)) = (sub.input(0), sub.input(1)) else { return false };
        let first = mean(cx, squares).is_some_and(|(q, d)| d == axis && squared(cx, q).is_some_and(|y| cx.same(y, x)));
        first && squared(cx, square).is_some_and(|m| of_x(mean(cx, m)))
    })
}

/// `1 / sqrt(variance + eps)`: eps.
fn inverse_deviation(cx: &RuleCx, id: Id, x: Id, axis: usize) -> Option<f64> {
    let reciprocal = cx.find(id, "reciprocal").into_iter().next()?;
    let sqrt = cx.find(reciprocal.input(0)?, "sqrt").into_iter().next()?;
    let sum = sqrt.input(0)?;
    let (variance, eps) = with_scalar(cx, sum, "add")?;
    let found = reshaped(cx, variance).into_iter().any(|v| is_variance(cx, v, x, axis));
    (found && kept(cx, sum, x, axis)).then_some(eps)
}

/// `(x - mean) * (1/deviation)` or `(x - mean) * (1/deviation * scale)`. Over another dimension than the last one, between two transpositions.
fn layer_norm(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (x, axis, eps, scale) = orders(m)?.into_iter().find_map(|(centre, factor)| {
        let (x, axis) = centred(cx, centre)?;
        if let Some(eps) = inverse_deviation(cx, factor, x, axis) {
            return Some((x, axis, eps, None));
        }
        cx.find(factor, "mul").into_iter().find_map(|f| {
            orders(&f)?.into_iter().find_map(|(d, scale)| {
                let eps = inverse_deviation(cx, d, x, axis)?;
                Some((x, axis, eps, Some(along(cx, scale, x, axis)?)))
            })
        })
    })?;
    let ty = cx.ty(x).clone();
    let width = ty.shape[axis].as_const().filter(|_| ty.dtype == DType::F32)?;
    let scale = cx.add_constant(scale.unwrap_or_else(|| Tensor::from_vec(&[width], vec![1f32; width as usize])));
    m.inputs.iter().flatten().for_each(|part| cx.absorb_down_to(*part, x));
    let attrs = Attrs::default().with("axis", Attr::Int(-1)).with("epsilon", Attr::Float(eps as f32));
    // Exchanging two dimensions is its own inverse.
    let mut perm: Vec<i64> = (0..ty.rank() as i64).collect();
    perm.swap(axis, ty.rank() - 1);
    let exchange = Attrs::default().with("perm", Attr::Ints(perm));
    let last = axis + 1 == ty.rank();
    let x = if last { x } else { cx.node_of("transpose", &[x], exchange.clone())? };
    let norm = cx.node("layer_normalization", &[Some(x), Some(scale)], attrs)?;
    let y = if last { norm } else { cx.node_of("transpose", &[norm], exchange)? };
    (*cx.ty(y) == *cx.ty(m.id)).then_some(y)
}

/// A constant that varies along `axis` of `x` only, as a vector.
fn along(cx: &RuleCx, id: Id, x: Id, axis: usize) -> Option<Tensor> {
    let (tensor, rank) = (cx.constant(id)?, cx.ty(x).rank());
    let width = cx.ty(x).shape[axis].as_const()?;
    let place = (tensor.shape().len() + axis).checked_sub(rank)?;
    let fits = tensor.len() as u64 == width && tensor.shape().get(place) == Some(&width);
    if fits { tensor.reshaped(&[width]) } else { None }
}
