//! Concatenations of quantised values join integers.
//!
//! What   `quantize(concat(x, y))` = `concat(quantize(x), quantize(y))`; `concat(dequantize(x), dequantize(y))` with equal parameters =
//!        `dequantize(concat(x, y))`.
//! When   canonicalize phase.
//! Class  exact.
//! Misses parameters per axis.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};

use super::params::{Dequantized, dequantized, quantizes};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Exact, roots: Roots::Named(roots), apply };
    vec![rule("quantize-above-concat", &["quantize_linear"], rise), rule("dequantize-below-concat", &["concat"], sink)]
}

fn rise(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    quantizes(cx, m)?;
    let x = m.input(0).filter(|x| cx.single_use(*x))?;
    let concat = cx.find(x, "concat").into_iter().next()?;
    let parts: Option<Vec<Option<Id>>> = concat
        .inputs
        .iter()
        .map(|part| cx.node("quantize_linear", &[*part, m.input(1), m.input(2)], m.attrs.clone()).map(Some))
        .collect();
    cx.absorb(x);
    cx.node("concat", &parts?, concat.attrs)
}

fn sink(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let parts: Option<Vec<Dequantized>> = m.inputs.iter().map(|part| dequantized(cx, (*part)?)).collect();
    let parts = parts?;
    let first = parts.first()?.clone();
    if parts.iter().any(|p| p.params != first.params) {
        return None;
    }
    let inputs: Vec<Id> = parts.iter().map(|p| p.x).collect();
    let joined = cx.node_of("concat", &inputs, m.attrs.clone())?;
    cx.node("dequantize_linear", &[Some(joined), Some(first.scale), first.zero], Default::default())
}
