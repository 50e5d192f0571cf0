//! All networks of `testsuite/zoo/make_bench_models.py`, dense and quantised, against ONNX Runtime: `networks [ID...]`.
//!
//! `testsuite/setup.sh --bench` makes them. Of the quantised ones it tells what stays in floats. Exit code 1 when a network fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use onnxc_testsuite::data::{self, Model};
use onnxc_testsuite::{target, zoo};

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
const TARGETS: [&str; 3] = ["x86-64-v4", "x86-64-v3", "x86-64"];

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let all = NETWORKS.iter().flat_map(|id| [id.to_string(), format!("{id}.int8")]);
    let failed: Vec<String> = all.filter(|id| named.is_empty() || named.contains(id)).filter(|id| !passes(id)).collect();
    println!("{} failed {}", failed.len(), failed.join(" "));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
