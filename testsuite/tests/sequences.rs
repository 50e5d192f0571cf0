//! Sequences and optionals: with what decides about them known when compiling, every backend test passes, interpreted and compiled; inputs and
//! outputs become numbered tensors, and options that mean nothing are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use onnxc_ir::{DType, Graph, Tensor, ValueId};
use onnxc_onnx::{Imported, Options, Report, import};
use onnxc_testsuite::interpret::{Engine, backend_test_with, backend_tests};
use onnxc_testsuite::{data, run, tensor};

/// Parts of the names of the tests.
const TESTS: &[&str] = &[
    "node/test_identity_opt",
    "node/test_identity_sequence",
    "node/test_if_opt",
    "node/test_if_seq",
    "node/test_loop13_seq",
    "node/test_loop16_seq_none",
    "node/test_optional_",
    "node/test_sequence_",
    "node/test_split_to_sequence",
    "simple/test_sequence_model",
];

/// Scalars, and vectors of integers: conditions, trip counts, positions, sizes of parts.
fn constant(t: &tensor::Tensor) -> bool {
    let decides = DType::from_onnx(t.elem_type).is_some_and(|t| t.is_int() || t == DType::Bool);
    decides && t.dims.len() < 2
}

#[test]
fn what_is_known_when_compiling_agrees_with_onnx() {
    let folders: Vec<_> = TESTS.iter().flat_map(|name| backend_tests(&["node", "simple"], name)).collect();
    assert!(folders.len() > 40, "tests are missing: {folders:?}");
    let engines = [Engine::Interpreter, Engine::Compiled("native")];
    let outcomes = folders.iter().flat_map(|f| engines.map(|e| (e, backend_test_with(f, e, constant))));
    let failed: Vec<String> = outcomes.filter_map(|(engine, o)| Some(format!("{} ({engine:?}): {}", o.test, o.error?))).collect();
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

fn model(test: &str) -> std::path::PathBuf {
    data::require("onnx-tests/node").join(test).join("model.onnx")
}

fn imported(test: &str, options: &Options) -> Result<Imported, Report> {
    import(&model(test), options)
}

fn names(graph: &Graph, ids: &[ValueId]) -> Vec<String> {
    ids.iter().map(|id| format!("{}: {}", graph.value(*id).name, graph.ty(*id))).collect()
}

fn lengths(all: &[(&str, u64)]) -> Options {
    Options { lengths: all.iter().map(|(n, l)| (n.to_string(), *l)).collect(), ..Options::default() }
}

#[test]
fn elements_are_inputs_and_outputs_of_their_own() {
    let mut options = lengths(&[("x0", 2), ("x1", 2)]);
    let shape = |name: &str, n: u64| (name.to_string(), vec![onnxc_ir::Dim::Const(n)]);
    options.shapes = BTreeMap::from([shape("x0_0", 3), shape("x0_1", 4), shape("x1_0", 3)]);
    options.consts = BTreeMap::from([("x1_1".into(), Tensor::from_vec(&[4], vec![1f32; 4]))]);
    let imported = imported("test_sequence_map_add_2_sequences", &options).unwrap_or_else(|e| panic!("{e}"));
    let graph = &imported.graph;
    assert_eq!(names(graph, &graph.inputs), ["x0_0: f32[3]", "x0_1: f32[4]", "x1_0: f32[3]"]);
    assert_eq!(names(graph, &graph.outputs), ["y0_0: f32[3]", "y0_1: f32[4]"]);
    let places: Vec<_> = imported.inputs.iter().map(|p| (p.name.as_str(), p.sequence, p.tensors.clone())).collect();
    assert_eq!(places, [("x0", true, vec![Some(0), Some(1)]), ("x1", true, vec![Some(2), None])]);
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let absent = |name: &str| Options { absent: BTreeSet::from([name.to_string()]), ..Options::default() };
    let cases: [(&str, Options, &str); 5] = [
        ("test_sequence_map_identity_1_sequence", lengths(&[("x", 2), ("z", 1)]), "no sequence among the inputs called \"z\""),
        ("test_sequence_map_identity_1_sequence", lengths(&[("x", 1 << 40)]), "too long"),
        ("test_relu", lengths(&[("x", 2)]), "no sequence among the inputs called \"x\""),
        ("test_relu", absent("x"), "no optional among the inputs called \"x\""),
        ("test_optional_get_element_optional_tensor", absent("optional_input"), "the optional is empty"),
    ];
    for (test, options, says) in cases {
        let report = imported(test, &options).expect_err(test).to_string();
        assert!(report.contains(says), "{test}: {report}");
    }
}

#[test]
fn header_and_report_say_what_a_sequence_became() {
    let place = tempfile::tempdir().expect("temporary folder");
    let archive = place.path().join("map.a");
    let flags = ["--length=x=2", "--shape=x_0=3", "--shape=x_1=4"];
    let mut command = Command::new(run::onnxc());
    command.arg("compile").arg(model("test_sequence_map_identity_1_sequence")).args(flags).arg("-o").arg(&archive);
    run::run(&mut command, Duration::from_secs(60)).expect_ok("compile");
    let read = |p: &Path| std::fs::read_to_string(p).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
    let (header, binding) = (read(&archive.with_extension("h")), read(&archive.with_extension("rs")));
    for said in ["\"x_1\" f32[4], element 1 of 2 of the sequence \"x\"", "\"y_0\" f32[3], element 0 of 2 of the sequence \"y\""] {
        assert!(header.contains(said) && binding.contains(said), "{said}:\n{header}");
    }
    let report: serde_json::Value = serde_json::from_str(&read(&archive.with_extension("json"))).expect("a report");
    assert_eq!(report["outputs"][1]["sequence"], "y");
}
