//! Graphs of `quantize_linear` and `dequantize_linear` around float operators become integer operators.
//!
//! Two kinds of rules. Exact ones keep every bit: a quantisation rises above data movement, concatenation and clamps, a dequantisation sinks below data
//! movement and maxima, both cancel when they meet with equal parameters. The others are the integer interpretation: sums are exact in i32, then one
//! multiplication by `sx * sw / sy` where the float graph multiplies and divides three times. Results differ by at most one quantisation step, and only where
//! the real number lies near the middle between two steps; their class is `Bounded`.
//!
//! What is elementwise (additions, multiplications, activations without tables) needs no rule here: fusion makes one `map` from 8 bits to 8 bits of it.

pub mod clamp;
pub mod concat;
pub mod dynamic;
pub mod fold;
pub mod lookup;
pub mod matmul;
pub mod means;
pub mod movement;
pub(crate) mod params;
pub mod products;
pub mod report;
pub mod sums;

use onnxc_egraph::Rule;

/// The rules of this folder.
pub fn rules() -> Vec<Rule> {
    [
        fold::rules(),
        movement::rules(),
        concat::rules(),
        clamp::rules(),
        products::rules(),
        matmul::rules(),
        means::rules(),
        sums::rules(),
        dynamic::rules(),
        lookup::rules(),
    ]
    .concat()
}
