//! Canonicalisation: remove what does nothing, fold constants into weights, recognise decomposed operators.

pub mod channels;
pub mod conv_fold;
pub mod extremes;
pub mod identity;
pub mod lookup;
pub mod movement;
pub mod pad_fold;
pub mod quantized;
pub mod recognize;
pub mod sizes;

use onnxc_egraph::Rule;

/// All rules of the phase; they share one e-graph.
pub fn rules() -> Vec<Rule> {
    let lists = [
        identity::rules(),
        movement::rules(),
        conv_fold::rules(),
        channels::rules(),
        lookup::rules(),
        extremes::rules(),
        pad_fold::rules(),
        recognize::rules(),
        quantized::rules(),
        sizes::rules(),
    ];
    lists.concat()
}
