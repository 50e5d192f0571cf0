//! Operators that do nothing disappear; arithmetic with neutral constants too.
//!
//! What   `identity(x)`, `dropout(x)`, `cast(x)` to its own type, `reshape`/`expand`/`slice`/`transpose` that keep type and order, `x*1`, `x/1`,
//!        `x-0`, `x+(-0)`, `x^1`, `max(x, -inf)`, `min(x, inf)` = `x`.
//! When   canonicalize phase.
//! Class  exact: `x+0` is left alone because `-0 + 0` is `+0`.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Exact, roots: Roots::Named(roots), apply };
    vec![
        rule("identity-removal", &["identity", "dropout"], |_, m| m.input(0)),
        rule("cast-to-same-type", &["cast"], same_type),
        rule("view-of-same-shape", &["reshape", "expand", "squeeze", "unsqueeze", "flatten"], same_type),
        rule("transpose-identity", &["transpose"], transpose_identity),
        rule("full-slice", &["slice"], full_slice),
        rule("neutral-constant", &["mul", "div", "sub", "add", "pow", "max", "min"], neutral),
    ]
}

fn same_type(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let x = m.input(0)?;
    (cx.ty(x) == cx.ty(m.id)).then_some(x)
}

fn transpose_identity(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let x = m.input(0)?;
    // Moving dimensions of extent 1 about changes no order either, but the shape must stay.
    let perm = m.attrs.ints("perm")?;
    let moved: Vec<i64> = perm.iter().copied().filter(|p| !cx.ty(x).shape[*p as usize].is_one()).collect();
    (cx.ty(x) == cx.ty(m.id) && moved.is_sorted()).then_some(x)
}

fn full_slice(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let x = m.input(0)?;
    let forward = m.input(4).is_none_or(|s| cx.constant(s).and_then(|t| t.to_i64s()).is_some_and(|v| v.iter().all(|s| *s > 0)));
    (forward && cx.ty(x) == cx.ty(m.id) && cx.ty(x).const_shape().is_some()).then_some(x)
}

fn neutral(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (a, b) = (m.input(0)?, m.input(1)?);
    let is = |cx: &RuleCx, id: Id, value: f64| {
        let values = cx.constant(id).and_then(|t| t.to_f64s());
        values.is_some_and(|v| !v.is_empty() && v.iter().all(|x| x.to_bits() == value.to_bits()))
    };
    let float = cx.ty(a).dtype.is_float();
    let x = match m.op.name {
        "mul" if is(cx, b, 1.0) => a,
        "mul" if is(cx, a, 1.0) => b,
        "div" | "pow" if is(cx, b, 1.0) => a,
        "sub" if is(cx, b, 0.0) => a,
        "add" if is(cx, b, if float { -0.0 } else { 0.0 }) => a,
        "add" if is(cx, a, if float { -0.0 } else { 0.0 }) => b,
        "max" | "min" if m.inputs.len() == 2 && float => {
            let end = if m.op.name == "max" { f64::NEG_INFINITY } else { f64::INFINITY };
            if is(cx, b, end) {
                a
            } else if is(cx, a, end) {
                b
            } else {
                return None;
            }
        }
        _ => return None,
    };
    (cx.ty(x) == cx.ty(m.id)).then_some(x)
}
