//! Fusion: elementwise chains into maps, maps into the epilogues of kernels, attention into one operator.

pub mod attention;
pub mod epilogue;
pub mod map;
pub mod quantized;

use onnxc_egraph::Rule;

/// All rules of the phase; they share one e-graph.
pub fn rules() -> Vec<Rule> {
    [map::rules(), quantized::rules(), epilogue::rules(), attention::rules()].concat()
}
