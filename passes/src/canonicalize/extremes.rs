//! Activations and shifts of the extremes instead of the extremes of activations and of what is shifted.
//!
//! What   `reduce_max(x + c)` = `reduce_max(x) + c` for constants that do not vary along what is reduced, `reduce_min` likewise; `reduce_max(f(x))` = `f(reduce_max(x))` where f never falls; = `max(f(reduce_max(x)), f(reduce_min(x)))` where f falls first and rises then (`gelu`, `swish`).
//! When   canonicalize phase, before elementwise operators lose their names in maps.
//! Why    a convolutional network that ends in a global maximum pool computes its last activation for every position otherwise.
//! Class  reassociates: values that f makes equal but for rounding.
//! Misses activations that others read too, other parameters of activations.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::Attrs;

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Reassociates, roots, apply };
    vec![
        rule("maximum-below-activation", Roots::Named(&["reduce_max"]), below_activation),
        rule("extreme-below-sum", Roots::Named(&["reduce_max", "reduce_min"]), below_sum),
    ]
}

/// Activations that never fall.
const RISING: &[&str] = &["relu", "sigmoid", "tanh", "exp", "softplus", "erf", "hard_sigmoid", "softsign"];
/// Activations that fall to one minimum and rise from there.
const VALLEYS: &[&str] = &["gelu", "swish", "hard_swish", "mish", "abs"];

fn below_activation(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let from = m.input(0).filter(|x| cx.single_use(*x))?;
    let activation = RISING.iter().chain(VALLEYS).flat_map(|op| cx.find(from, op)).next()?;
    // Parameters may make another function of it.
    let usual = activation.inputs.len() == 1 && ["alpha", "beta", "gamma"].iter().all(|a| activation.attrs.get(a).is_none());
    let x = activation.input(0).filter(|x| usual && cx.ty(*x) == cx.ty(from))?;
    if cx.find(m.id, activation.op.name).into_iter().chain(cx.find(m.id, "max")).next().is_some() {
        return None;
    }
    cx.absorb(from);
    let of = |cx: &mut RuleCx, reduce: &str| {
        let inputs: Vec<Option<Id>> = std::iter::once(Some(x)).chain(m.inputs.iter().skip(1).copied()).collect();
        let extreme = cx.node(reduce, &inputs, m.attrs.clone())?;
        cx.node_of(activation.op.name, &[extreme], activation.attrs.clone())
    };
    let high = of(cx, "reduce_max")?;
    if RISING.contains(&activation.op.name) {
        return Some(high);
    }
    let low = of(cx, "reduce_min")?;
    cx.node_of("max", &[high, low], Attrs::default())
}

fn below_sum(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let from = m.input(0)?;
    let axes = m.inputs.get(1).copied().flatten().and_then(|axes| cx.constant(axes)?.to_i64s())?;
    if !cx.find(m.id, "add").is_empty() {
        return None;
    }
    let sum = cx.find(from, "add").into_iter().next()?;
    let (a, b) = (sum.input(0)?, sum.input(1)?);
    let rank = cx.ty(from).rank();
    let fits = |cx: &RuleCx, x: Id, c: Id| {
        let along = |axis: &i64| cx.ty(c).shape.get((axis + rank as i64) as usize % rank).and_then(|d| d.as_const()) == Some(1);
        cx.constant(c).is_some() && cx.ty(x) == cx.ty(from) && cx.ty(c).rank() == rank && axes.iter().all(along)
    };
    let (x, c) = [(a, b), (b, a)].into_iter().find(|(x, c)| fits(cx, *x, *c))?;
    cx.absorb(from);
    let mut of = |x: Id| {
        let inputs: Vec<Option<Id>> = std::iter::once(Some(x)).chain(m.inputs.iter().skip(1).copied()).collect();
        cx.node(m.op.name, &inputs, m.attrs.clone())
    };
    let (x, c) = (of(x)?, of(c)?);
    cx.node_of("add", &[x, c], Attrs::default())
}
