//! Explicit zero padding moves into the convolution behind it.
//!
//! What   `conv(pad(x){constant 0}, w, b)` = `conv(x, w, b)` with larger `pads`.
//! When   canonicalize phase.
//! Class  exact.
//! Misses padding of batch or channels, negative padding, other values and modes, automatic padding.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::Attr;

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    vec![Rule { name: "pad-into-conv", class: RuleClass::Exact, roots: Roots::Named(&["conv"]), apply }]
}

fn apply(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let pad = cx.find(m.input(0)?, "pad").into_iter().next()?;
    let rank = cx.ty(m.input(0)?).rank();
    let zero = pad.input(2).is_none_or(|v| cx.scalar(v) == Some(0.0));
    if pad.attrs.str("mode").unwrap_or("constant") != "constant" || !zero || pad.input(3).is_some() {
        return None;
    }
    if m.attrs.str("auto_pad").unwrap_or("NOTSET") != "NOTSET" {
        return None;
    }
    let amounts = cx.constant(pad.input(1)?)?.to_i64s()?;
    if amounts.len() != 2 * rank || amounts.iter().any(|p| *p < 0) {
        return None;
    }
    let spatial = rank - 2;
    if [0, 1, rank, rank + 1].iter().any(|d| amounts[*d] != 0) {
        return None;
    }
    let mut pads = m.attrs.ints("pads").map_or_else(|| vec![0; 2 * spatial], <[i64]>::to_vec);
    for d in 0..spatial {
        pads[d] += amounts[d + 2];
        pads[d + spatial] += amounts[rank + d + 2];
    }
    let mut inputs = m.inputs.clone();
    inputs[0] = pad.input(0);
    cx.absorb(pad.id);
    cx.node("conv", &inputs, m.attrs.clone().with("pads", Attr::Ints(pads)))
}
