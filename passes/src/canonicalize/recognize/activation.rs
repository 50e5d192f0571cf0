//! Activations from their pieces.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Reassociates, roots: Roots::Named(roots), apply };
    vec![
        rule("recognize-swish", &["mul"], swish),
        rule("recognize-hard-sigmoid", &["div", "mul"], hard_sigmoid),
        rule("recognize-hard-swish", &["mul"], hard_swish),
        rule("recognize-hard-swish-late-division", &["div", "mul"], hard_swish_late),
        rule("recognize-gelu", &["mul"], gelu),
        rule("recognize-gelu-tanh", &["mul"], gelu_tanh),
    ]
}

/// Both orders of a commutative operator's operands.
pub(super) fn orders(m: &Match) -> Option<[(Id, Id); 2]> {
    let (a, b) = (m.input(0)?, m.input(1)?);
    Some([(a, b), (b, a)])
}

/// `(x, k)` when the class is `x op k` (either order for add and mul) with a scalar constant.
pub(super) fn with_scalar(cx: &RuleCx, id: Id, op: &str) -> Option<(Id, f64)> {
    for found in cx.find(id, op) {
        let (a, b) = (found.input(0)?, found.input(1)?);
        if let Some(k) = cx.scalar(b) {
            return Some((a, k));
        }
        if let (Some(k), "add" | "mul") = (cx.scalar(a), op) {
            return Some((b, k));
        }
    }
    None
}

fn swish(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (x, gate) = orders(m)?
        .into_iter()
        .find(|(x, gate)| cx.find(*gate, "sigmoid").iter().any(|s| s.input(0).is_some_and(|y| cx.same(y, *x))))?;
    cx.absorb(gate);
    cx.node_of("swish", &[x], Attrs::default().with("alpha", Attr::Float(1.0)))
}

/// `clip(x + b, 0, c)`: `(x, b, c)`.
fn shifted_clip(cx: &RuleCx, id: Id) -> Option<(Id, f64, f64)> {
    let clip = cx.find(id, "clip").into_iter().next()?;
    let (lo, hi) = (cx.scalar(clip.input(1)?)?, cx.scalar(clip.input(2)?)?);
    let (x, shift) = with_scalar(cx, clip.input(0)?, "add")?;
    (lo == 0.0 && hi > 0.0).then_some((x, shift, hi))
}

/// `id / c` or `id * (1/c)`: the operand and c.
fn divided(cx: &RuleCx, m: &Match) -> Option<(Id, f64)> {
    if m.op.name == "div" {
        return Some((m.input(0)?, cx.scalar(m.input(1)?)?));
    }
    let (x, k) = orders(m)?.into_iter().find_map(|(x, k)| Some((x, cx.scalar(k)?)))?;
    (k > 0.0).then(|| (x, 1.0 / k))
}

fn hard_sigmoid(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (clipped, c) = divided(cx, m)?;
    let (x, shift, hi) = shifted_clip(cx, clipped)?;
    if (hi / c - 1.0).abs() > 1e-6 {
        return None;
    }
    cx.absorb_down_to(clipped, x);
    let attrs = Attrs::default().with("alpha", Attr::Float((1.0 / c) as f32)).with("beta", Attr::Float((shift / c) as f32));
    cx.node_of("hard_sigmoid", &[x], attrs)
}

/// True for `hard_sigmoid(x, 1/6, 1/2)`.
fn is_hard_swish_gate(cx: &RuleCx, gate: Id, x: Id) -> bool {
    cx.find(gate, "hard_sigmoid").iter().any(|g| {
        let near = |name, default: f32, want: f32| (g.attrs.float(name).unwrap_or(default) - want).abs() < 1e-6;
        near("alpha", 0.2, 1.0 / 6.0) && near("beta", 0.5, 0.5) && g.input(0).is_some_and(|y| cx.same(y, x))
    })
}

fn hard_swish(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (x, gate) = orders(m)?.into_iter().find(|(x, gate)| is_hard_swish_gate(cx, *gate, *x))?;
    cx.absorb(gate);
    cx.node_of("hard_swish", &[x], Attrs::default())
}

/// `x * clip(x + 3, 0, 6) / 6`, divided last.
fn hard_swish_late(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (product, c) = divided(cx, m)?;
    if (c - 6.0).abs() > 1e-5 {
        return None;
    }
    let mul = cx.find(product, "mul").into_iter().next()?;
    let (x, _) = orders(&mul)?.into_iter().find(|(x, clipped)| {
        shifted_clip(cx, *clipped).is_some_and(|(y, shift, hi)| shift == 3.0 && hi == 6.0 && cx.same(y, *x))
    })?;
    cx.absorb_down_to(product, x);
    cx.node_of("hard_swish", &[x], Attrs::default())
}

/// `1 + erf(x / sqrt 2)`: x.
fn gelu_gate(cx: &RuleCx, id: Id) -> Option<Id> {
    let (erf, one) = with_scalar(cx, id, "add")?;
    let erf = cx.find(erf, "erf").into_iter().next()?;
    let inner = erf.input(0)?;
    let root = std::f64::consts::SQRT_2;
    let by_div = with_scalar(cx, inner, "div").filter(|(_, k)| (k - root).abs() < 1e-4);
    let by_mul = with_scalar(cx, inner, "mul").filter(|(_, k)| (k - 1.0 / root).abs() < 1e-4);
    let (x, _) = by_div.or(by_mul)?;
    (one == 1.0).then_some(x)
}

/// The coefficient of `k * x^n` in any order of the factors.
fn monomial(cx: &RuleCx, id: Id, x: Id, n: u32, factors: u32) -> Option<f64> {
    if n == 0 {
        return cx.scalar(id);
    }
    if n == 1 && cx.same(id, x) || with_scalar(cx, id, "pow").is_some_and(|(y, k)| k == f64::from(n) && cx.same(y, x)) {
        return Some(1.0);
    }
    if factors == 0 {
        return None;
    }
    cx.find(id, "mul").iter().find_map(|m| {
        orders(m)?.into_iter().find_map(|(a, b)| match cx.scalar(a) {
            Some(k) => monomial(cx, b, x, n, factors - 1).map(|c| c * k),
            None if cx.same(a, x) => monomial(cx, b, x, n - 1, factors - 1),
            None => None,
        })
    })
}

/// `1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))`: x.
fn gelu_tanh_gate(cx: &RuleCx, id: Id) -> Option<Id> {
    let (tanh, one) = with_scalar(cx, id, "add")?;
    let tanh = cx.find(tanh, "tanh").into_iter().next()?;
    let (sum, k) = with_scalar(cx, tanh.input(0)?, "mul")?;
    if one != 1.0 || (k - (2.0 / std::f64::consts::PI).sqrt()).abs() > 1e-5 {
        return None;
    }
    let add = cx.find(sum, "add").into_iter().next()?;
    let cubic = |x: Id, rest: Id| monomial(cx, rest, x, 3, 4).is_some_and(|c| (c - 0.044_715).abs() < 1e-6);
    orders(&add)?.into_iter().find(|(x, rest)| cubic(*x, *rest)).map(|(x, _)| x)
}

fn gelu(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    gated(cx, m, gelu_gate, Attrs::default())
}

fn gelu_tanh(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    gated(cx, m, gelu_tanh_gate, Attrs::default().with("approximate", Attr::Str("tanh".into())))
}

/// `x * gate * 0.5`, `(x * 0.5) * gate`, `x * (gate * 0.5)`.
fn gated(cx: &mut RuleCx, m: &Match, gelu_gate: fn(&RuleCx, Id) -> Option<Id>, attrs: Attrs) -> Option<Id> {
    for (a, b) in orders(m)? {
        let found = if cx.scalar(b) == Some(0.5) {
            cx.find(a, "mul")
                .iter()
                .find_map(|mul| orders(mul)?.into_iter().find_map(|(x, gate)| gelu_gate(cx, gate).filter(|y| cx.same(*y, x))))
        } else if let Some((x, 0.5)) = with_scalar(cx, a, "mul") {
            gelu_gate(cx, b).filter(|y| cx.same(*y, x))
        } else if let Some((gate, 0.5)) = with_scalar(cx, b, "mul") {
            gelu_gate(cx, gate).filter(|y| cx.same(*y, a))
        } else {
            None
        };
        if let Some(x) = found {
            cx.absorb_down_to(a, x);
            cx.absorb_down_to(b, x);
            return cx.node_of("gelu", &[x], attrs);
        }
    }
    None
}
