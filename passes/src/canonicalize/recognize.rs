//! Operators that exporters wrote out in pieces are put together again.
//!
//! What   `x * sigmoid(x)` = `swish(x)`; `clip(x*a + b, 0, c) / c` = `hard_sigmoid`; `x * hard_sigmoid(x){1/6, 1/2}` = `hard_swish(x)`;
//!        `x/2 * (1 + erf(x/sqrt 2))` in its usual orders = `gelu(x)`; `(x - mean) / sqrt(var + eps) * g + b` over the last dimension = `layer_normalization`;
//!        `exp(x - max) / sum` over one dimension = `softmax`.
//! When   canonicalize phase, before elementwise operators lose their names in maps.
//! Why    one kernel with well-conditioned arithmetic instead of a chain of reductions and maps.
//! Class  reassociates.

mod activation;
mod normalization;

use onnxc_egraph::Rule;

/// The rules of this file's parts.
pub fn rules() -> Vec<Rule> {
    [activation::rules(), normalization::rules()].concat()
}
