//! `onnxc check`: what it says of a model's operators and open dimensions, for people and for programs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use onnxc_testsuite::run::{self, Output};
use onnxc_testsuite::{bad_models, data};
use serde_json::{Value, json};

fn check(model: &Path, flags: &[&str]) -> Output {
    run::run(Command::new(run::onnxc()).arg("check").arg(model).args(flags), Duration::from_secs(60))
}

fn facts(model: &Path, flags: &[&str]) -> Value {
    let said = check(model, &[flags, &["--json"]].concat()).expect_ok("onnxc check");
    serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
}

fn written(folder: &Path, text: &str) -> std::path::PathBuf {
    let path = folder.join("model.nir");
    std::fs::write(&path, text).unwrap();
    path
}

/// One dimension that may be a range, one that may not, because of an operator.
const TWO: &str = r#"graph @two(%x: f32[N,5], %y: f32[M,4]) {
  %a = relu %x : f32[N,5] @"a"
  %b = sort_rows %y : i64[M] @"b"
  %z = neg %y : f32[M,4] @"z"
  %c = sort_rows %z : i64[M] @"c"
  return %a, %b, %c
}
"#;

#[test]
fn every_open_dimension_is_told_with_what_may_be_passed() {
    let folder = tempfile::tempdir().unwrap();
    let said = check(&written(folder.path(), TWO), &["--target", "aarch64-unknown-linux-gnu"]).expect_ok("onnxc check");
    for line in [
        "ok; compiles for aarch64-unknown-linux-gnu, armv8-a",
        "input     x: f32[N,5]",
        "dimension N (input x, axis 0): open; pass --dim N=VALUE",
        "one value, or a range, such as --dim N=1..4",
        "dimension M (input y, axis 0): open",
        "one value, or a list of values, --dim M=1,2,4; no range:\n            sort_rows: has no code yet",
        "(2 nodes)",
        "sizes     planned for M = 1, N = 1",
        "operators 4",
        "2 sort_rows",
    ] {
        assert!(said.contains(line), "{line:?} is missing in\n{said}");
    }
}

#[test]
fn what_is_given_is_open_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let model = written(folder.path(), TWO);
    let facts = facts(&model, &["--dim=M=1,2,4", "--dim=N=1..64"]);
    assert_eq!((&facts["compiles"], &facts["dimensions"]), (&json!(true), &json!([])));
    assert_eq!(facts["operators"], json!({ "neg": 1, "relu": 1, "sort_rows": 2 }));
    let refused = check(&model, &["--dim=M=1..4", "--dim=N=1", "--json"]);
    assert_eq!(refused.code, Some(1));
    let facts: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(facts["compiles"], json!(false));
    assert_eq!(facts["problems"].as_array().unwrap().len(), 2, "{facts}");
}

#[test]
fn problems_of_a_bad_model_are_told_to_programs_too() {
    let folder = tempfile::tempdir().unwrap();
    for case in bad_models::all().iter().take(20) {
        let done = check(&case.write(folder.path()).unwrap(), &["--json"]);
        let facts: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert!(done.code == Some(1) && facts["compiles"] == json!(false) && facts["problems"][0]["message"].is_string());
    }
}

#[test]
fn models_of_the_zoo_are_told_apart() {
    let rows = |id: &str| facts(&data::require(&format!("zoo/{id}.onnx")), &[])["dimensions"].as_array().unwrap().clone();
    let works = |row: &Value| row["range"]["works"].as_bool();
    for id in ["minilm_l3", "opennsfw", "ppocr4_rec", "basic_pitch"] {
        // The recogniser squeezes away what is left of a height of 48.
        let any = |r: &&Value| r["name"] != "d0_2";
        assert!(
            rows(id).iter().filter(any).all(|r| works(r) == Some(true) && r["range"]["multiples_of"] == 1),
            "{id}: {:?}",
            rows(id)
        );
    }
    let detector = rows("ppocr4_det");
    let multiples: Vec<_> = detector.iter().map(|r| r["range"]["multiples_of"].as_u64().unwrap()).collect();
    assert_eq!(multiples, [1, 32, 32], "{detector:?}");
    let unnamed = &rows("ppocr4_rec")[1];
    let flags: Vec<&str> = unnamed["pass"].as_str().unwrap().split(' ').collect();
    assert_eq!(flags[2..], ["--dim", "d0_2=VALUE"], "{unnamed}");
}
