//! The small networks of `testsuite/zoo/make_bench_models.py`, dense and quantised, against ONNX Runtime, and what of the quantised ones stays in
//! floats. The large ones are the business of `testsuite/src/bin/networks.rs`.

use onnxc_testsuite::data::{self, Model};
use onnxc_testsuite::{target, zoo};

const SMALL: [&str; 5] = ["mnist_cnn", "dscnn_kws", "squeezenet11", "shufflenetv2", "mobilenetv3_small"];
const NATIVE: [&str; 3] = ["x86-64-v4", "x86-64-v3", "x86-64"];
const FOREIGN: [&str; 4] = ["aarch64", "riscv64-v128", "riscv64-v256", "riscv64"];

fn both(id: &str) -> [String; 2] {
    [id.to_string(), format!("{id}.int8")]
}

fn check(model: &Model, targets: &[&str]) {
    targets.iter().map(|t| target::by_name(t)).filter(|t| t.can_run()).for_each(|t| zoo::check(model, t));
}

#[test]
fn small_networks_agree_with_onnx_runtime() {
    for id in SMALL.iter().flat_map(|id| both(id)) {
        check(&data::network(&id), &NATIVE);
    }
}

#[test]
fn the_smallest_networks_agree_on_foreign_targets() {
    for id in SMALL[..2].iter().flat_map(|id| both(id)) {
        check(&data::network(&id), &FOREIGN);
    }
}

#[test]
fn small_quantised_networks_run_in_integers() {
    for id in SMALL {
        let (floats, rows) = zoo::in_floats(&data::network(&format!("{id}.int8")));
        let allowed = if id == "dscnn_kws" { vec!["softmax: softmax has no integer form"] } else { vec![] };
        assert_eq!(floats.iter().map(String::as_str).collect::<Vec<_>>(), allowed, "{id}");
        assert!(rows > 5, "{id}: {rows} nodes");
    }
}
