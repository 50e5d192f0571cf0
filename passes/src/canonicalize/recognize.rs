//! Operators that exporters wrote out in pieces are put together again.
//!
//! What   `x * sigmoid(x)` = `swish(x)`; `clip(x*a + b, 0, c) / c` = `hard_sigmoid`; `x * hard_sigmoid(x){1/6, 1/2}` = `hard_swish(x)`;
//!        `x/2 * (1 + erf(x/sqrt 2))` in its usual orders = `gelu(x)`, and `x/2 * (1 + tanh(k (x + c x^3)))` = its approximation; `(x - mean) / sqrt(var + eps) * g + b` over the last dimension, or with the variance from
//!        the mean square over any dimension = `layer_normalization`;
//!        `exp(x - max) / sum` over one dimension = `softmax`.
//! When   canonicalize phase, before elementwise operators lose their names in maps.
//! Why    one kernel with well-conditioned arithmetic instead of a chain of reductions and maps.
//! Class  reassociates.

mod activation;
mod moments;
mod normalization;

use onnxc_egraph::{Id, Rule, RuleCx};

/// The rules of this file's parts.
pub fn rules() -> Vec<Rule> {
    [activation::rules(), normalization::rules(), moments::rules()].concat()
}

/// The class, and what it is another shape of.
fn reshaped(cx: &RuleCx, id: Id) -> Vec<Id> {
    let inner = ["reshape", "unsqueeze"].into_iter().flat_map(|op| cx.find(id, op)).filter_map(|m| m.input(0));
    std::iter::once(id).chain(inner).collect()
}

/// True where the class has the shape of `x` with extent 1 along `axis`, so that it broadcasts back.
fn kept(cx: &RuleCx, id: Id, x: Id, axis: usize) -> bool {
    let mut shape = cx.ty(x).shape.clone();
    shape[axis] = onnxc_ir::Dim::Const(1);
    cx.ty(id).shape == shape
}
