//! All networks of `testsuite/zoo/make_bench_models.py`, dense and quantised, against ONNX Runtime: `networks [ID...]`.
//! `networks --bits [ID...]`: the two quantised networks that run in integers throughout answer with the same bits on every target (hours under emulators;
//! the smaller one is a test too).
//!
//! `testsuite/setup.sh --bench` makes them. Of the quantised ones it tells what stays in floats. Exit code 1 when a network fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use onnxc_testsuite::data::{self, Model};
use onnxc_testsuite::{bits, target, zoo};

const NETWORKS: [&str; 11] = [
    "mnist_cnn",
    "dscnn_kws",
    "squeezenet11",
    "shufflenetv2",
    "mobilenetv3_small",
    "mobilenetv2",
    "efficientnet_b0",
    "resnet50",
    "vgg16",
    "vit_tiny",
    "bert6",
];
/// Networks without floats between the first quantisation and the last dequantisation.
const IN_INTEGERS: [&str; 2] = ["mobilenetv2.int8", "resnet50.int8"];
const EVERYWHERE: [&str; 5] = ["x86-64-v4", "x86-64-v3", "x86-64", "aarch64", "riscv64-v128"];
const TARGETS: [&str; 3] = ["x86-64-v4", "x86-64-v3", "x86-64"];

fn main() -> ExitCode {
    let mut named: Vec<String> = std::env::args().skip(1).collect();
    if named.first().is_some_and(|n| n == "--bits") {
        named.remove(0);
        return same_bits(&named);
    }
    let all = NETWORKS.iter().flat_map(|id| [id.to_string(), format!("{id}.int8")]);
    let failed: Vec<String> = all.filter(|id| named.is_empty() || named.contains(id)).filter(|id| !passes(id)).collect();
    println!("{} failed {}", failed.len(), failed.join(" "));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether networks answer with the same bits everywhere.
fn same_bits(named: &[String]) -> ExitCode {
    for id in IN_INTEGERS.iter().filter(|id| named.is_empty() || named.iter().any(|n| n == **id)) {
        let answers = bits::same_everywhere(&data::network(id), &EVERYWHERE);
        println!("{id}: the same {} bytes on {}", answers.iter().map(|t| t.bytes.len()).sum::<usize>(), EVERYWHERE.join(", "));
    }
    ExitCode::SUCCESS
}

fn passes(id: &str) -> bool {
    // What failed has been told by the panic.
    catch_unwind(AssertUnwindSafe(|| check(&data::network(id)))).is_ok()
}

fn check(model: &Model) {
    TARGETS.iter().map(|t| target::by_name(t)).filter(|t| t.can_run()).for_each(|t| zoo::check(model, t));
    if model.id.ends_with(".int8") {
        let (floats, rows) = zoo::in_floats(model);
        println!("{}: {rows} nodes, in floats:", model.id);
        floats.iter().for_each(|why| println!("    {why}"));
    }
}
