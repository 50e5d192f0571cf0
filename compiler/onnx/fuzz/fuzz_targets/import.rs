//! Any bytes go into the importer; what it accepts must be well-formed and survive its text form.
//!
//! Mutations are those of the bounded test (`testsuite/src/mutate.rs`) and libFuzzer's own, half and half. See `README.md` beside this folder.

#![no_main]

#[path = "../../../../testsuite/src/mutate.rs"]
mod mutate;
#[path = "../../../../testsuite/src/wire.rs"]
mod wire;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use onnxc_ir::op::OpSet;
use onnxc_ir::{parse, text, verify};
use onnxc_onnx::{Options, import_bytes};

/// Options with which sequences among the inputs have two elements.
fn options(model: &[u8]) -> Options {
    let mut options = Options::default();
    let ports = onnxc_onnx::inputs_of(model, &options.limits).unwrap_or_default();
    options.lengths = ports.into_iter().filter(|p| p.sequence).map(|p| (p.name, 2)).collect();
    options
}

fuzz_target!(|data: &[u8]| {
    let Ok(imported) = import_bytes(data.to_vec(), &options(data)) else { return };
    verify::verify(&imported.graph).expect("an imported graph is well-formed");
    let (printed, blobs) = (text::print(&imported.graph), text::blobs(&imported.graph));
    let blob = |hash| blobs.iter().find(|b| b.0 == hash).map(|b| b.1.clone());
    let parsed = parse::parse(&printed, OpSet(onnxc_ops::ALL), &blob).expect("printed text parses");
    assert_eq!(printed, text::print(&parsed));
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 2 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let changed = mutate::mutate(&data[..size], &data[..size], &mut mutate::Rng(u64::from(seed)));
    let kept = changed.len().min(max_size);
    data[..kept].copy_from_slice(&changed[..kept]);
    kept
});
