//! Dequantised constants are constants too, and a quantisation undoes a dequantisation.
//!
//! What   `dequantize(w)` of a constant = its value; `quantize(dequantize(x))` with equal parameters = `x`.
//! When   canonicalize phase. Import keeps weights as integers, so that the product rules see them; whoever wants floats takes the other form.
//! Class  exact: `(x - z) * s / s` is within two roundings of the integer `x - z`, which is below 2^17.
//! Misses different parameters: fusion makes a map from integers to integers of it.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};

use super::params::{dequantized, quantizes};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Exact, roots: Roots::Named(roots), apply };
    vec![
        rule("fold-dequantized-constant", &["dequantize_linear", "cast"], fold),
        rule("quantize-of-dequantize", &["quantize_linear"], round_trip),
    ]
}

fn fold(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if cx.constant(m.id).is_some() {
        return None;
    }
    let operands: Option<Vec<_>> = m.inputs.iter().flatten().map(|id| cx.constant(*id).cloned()).collect();
    let operands = operands.filter(|o| o.first().is_some_and(|x| x.dtype().is_int() && x.dtype().bits() <= 8))?;
    let value = cx.fold(m.op.name, &operands, &m.attrs)?;
    Some(cx.add_constant(value))
}

fn round_trip(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let inner = dequantized(cx, m.input(0)?)?;
    (quantizes(cx, m)? == inner.params).then_some(inner.x)
}
