//! Integers that follow from the sizes of the inputs are written down as such: the nodes that took shapes apart disappear.
//!
//! What   `concat(gather(shape(x), 0), 8)` and whatever else the operators' records tell of shape values = `sizes {dims[N, 8]}`.
//! When   canonicalize phase, for values that are no constants, and in which no data has a say (`prefix`).
//! Class  exact.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs, DType};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let roots = Roots::Where(|op| op.infer_dims.is_some() && op.name != "sizes");
    vec![Rule { name: "sizes-of-inputs", class: RuleClass::Exact, roots, apply }]
}

fn apply(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let ty = cx.ty(m.id).clone();
    if m.results != 1 || !matches!(ty.dtype, DType::I64 | DType::I32) || ty.rank() > 1 || cx.constant(m.id).is_some() {
        return None;
    }
    let dims = cx.sizes(m.id).filter(|dims| cx.of_inputs(dims))?.to_vec();
    let attrs = Attrs::default().with("dims", Attr::Dims(dims)).with("to", Attr::Type(ty.dtype));
    let attrs = if ty.rank() == 0 { attrs.with("scalar", Attr::Int(1)) } else { attrs };
    cx.node("sizes", &[], attrs)
}
