//! What layers take where weights are stored coded by their entropy, before there is a plan of them.
//!
//! The coder (`onnxc_codegen::coded_bytes`) counts how often each byte occurs, so that the order in which tiles have weights hardly matters: what it makes of
//! the arrays of a layer by themselves is near to what it will make of them among others. Positions that a panel leaves out are zeros of an array but are not
//! stored; 16 different values are two to a byte.

use std::collections::BTreeSet;

use onnxc_codegen::coded_bytes;
use onnxc_ir::{DType, Tensor};
use onnxc_passes::compress::weighted::Weighted;

use crate::assemble::Subject;
use crate::candidate::{self, Pick, Treated};

/// Different values of weights that take half a byte each beside operands of floats.
const NIBBLE: usize = 16;

/// Bytes that a layer takes which becomes this or stays as it is: weights and scales.
pub fn bytes(subject: &Subject, layer: &Weighted, pick: Pick, treated: Option<&Treated>) -> f64 {
    let numbers = candidate::numbers(pick.weights);
    let own = subject.graph.constant(layer.weights(&subject.graph)).map(|t| ("weights".to_string(), t.clone()));
    let arrays = treated.map_or_else(|| own.as_slice(), |treated| &treated.arrays);
    let of = |what: &'static str| arrays.iter().filter(move |a| a.0.ends_with(what)).map(|a| &a.1);
    let (mut many, mut coded) = (0, 0);
    for tensor in of("weights") {
        let (count, stored) = stored(tensor, pick.form.by_panels(), !numbers.integers() && !numbers.dynamic());
        many += count;
        coded += coded_bytes(&stored);
    }
    let ratio = coded as f64 / (many as f64 * numbers.bytes()).max(1.0);
    // Lists of positions have about as much entropy in each byte.
    let weights = ratio * pick.form.bytes(&subject.site(layer, pick.weights), pick.density);
    weights + of("scales").map(|t| coded_bytes(t.bytes()) as f64).sum::<f64>()
}

/// Weights as they are stored, and how many they are. `listed`: zeros are not; `alone`: what they multiply are floats.
fn stored(weights: &Tensor, listed: bool, alone: bool) -> (usize, Vec<u8>) {
    let size = weights.dtype().bytes() as usize;
    let mut bytes = weights.bytes().to_vec();
    if listed {
        bytes = bytes.chunks_exact(size).filter(|w| w.iter().any(|byte| *byte != 0)).flatten().copied().collect();
    }
    let many = bytes.len() / size.max(1);
    if weights.dtype() == DType::I8 && alone {
        let values: Vec<u8> = bytes.iter().copied().collect::<BTreeSet<u8>>().into_iter().collect();
        if values.len() <= NIBBLE {
            let number = |byte: &u8| values.binary_search(byte).unwrap_or(0) as u8;
            bytes = bytes.chunks(2).map(|two| number(&two[0]) | two.get(1).map_or(0, number) << 4).collect();
        }
    }
    (many, bytes)
}
