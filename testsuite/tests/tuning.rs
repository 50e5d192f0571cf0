//! `--tune`: choices come from the file of measurements alone, change no result, and are made for this machine only.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use onnxc_testsuite::data::{self, Model};
use onnxc_testsuite::run::{self, Output};
use onnxc_testsuite::zoo;

fn onnxc(command: &str, model: &Path, flags: &[String]) -> Output {
    let mut c = Command::new(run::onnxc());
    run::run(c.arg(command).arg(model).args(flags), Duration::from_secs(600))
}

fn tuned(model: &Model, cache: &Path) -> Vec<String> {
    let mut flags = model.shape_args();
    flags.extend(["--tune".to_string(), format!("--tune-cache={}", cache.display())]);
    if cfg!(target_arch = "x86_64") {
        flags.push("--cpu=native".to_string());
    }
    flags
}

#[track_caller]
fn compile(model: &Model, cache: &Path, to: &Path) -> Output {
    let flags = [tuned(model, cache), vec!["-o".into(), to.display().to_string(), "--emit=lib,ir,report".into()]].concat();
    let output = onnxc("compile", &model.path, &flags);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    output
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_same_measurements_give_the_same_bytes() {
    let (model, folder) = (data::zoo_model("ppocr2_cls"), tempfile::tempdir().expect("a folder"));
    let (cache, at) = (folder.path().join("kept/tune.jsonl"), |name: &str| folder.path().join(name));
    let first = compile(&model, &cache, &at("m.a"));
    assert_eq!(first.stderr, "");
    let (archive, measured) = (read(&at("m.a")), read(&cache));
    assert!(measured.len() > 1000, "{}", String::from_utf8_lossy(&measured));
    compile(&model, &cache, &at("m.a"));
    assert_eq!(read(&cache), measured, "nothing is measured twice");
    assert!(read(&at("m.a")) == archive, "the archive differs");

    // What a file says is done, and can be seen: here that the last way of every layer is a thousand times faster.
    let mut forced = 0;
    let lines = measured.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|line| {
        let mut line: serde_json::Value = serde_json::from_slice(line).expect("a line of JSON");
        let ns = line["ns"].as_object_mut().expect("times");
        let (choice, time) = ns.iter_mut().next_back().expect("a way");
        forced += usize::from(choice.contains('x'));
        *time = 1.into();
        format!("{line}\n")
    });
    let lines: String = lines.collect();
    fs::write(&cache, lines).expect("writes");
    compile(&model, &cache, &at("forced.a"));
    let text = String::from_utf8(read(&at("forced.nir"))).expect("text");
    assert!(forced > 3 && text.matches("schedule = ").count() >= forced, "{forced} in\n{text}");
    assert!(read(&at("forced.a")) != archive, "the choices are not obeyed");
    let layers = onnxc("inspect", &model.path, &[tuned(&model, &cache), vec!["--layers".into(), "--json".into()]].concat());
    let layers: serde_json::Value = serde_json::from_str(&layers.expect_ok("inspect")).expect("JSON");
    let seen =
        layers["layers"].as_array().expect("layers").iter().filter(|l| l["choice"].as_str().is_some_and(|c| c.contains('x')));
    assert!(seen.count() >= forced);
}

#[test]
fn a_file_that_makes_no_sense_is_a_warning() {
    let (model, folder) = (data::zoo_model("ppocr2_cls"), tempfile::tempdir().expect("a folder"));
    let cache = folder.path().join("tune.jsonl");
    fs::write(&cache, [b"{\"layer\": \"conv\"\n".as_slice(), &[0xff, 0, 0xfe, b'\n']].concat()).expect("writes");
    let said = compile(&model, &cache, &folder.path().join("m.a")).stderr;
    assert!(said.contains("warning") && said.contains("damaged") && said.contains("tune.jsonl"), "{said}");
    assert_eq!(compile(&model, &cache, &folder.path().join("m.a")).stderr, "", "the file is whole again");
}

#[test]
fn other_machines_are_refused_with_a_remedy() {
    let model = data::zoo_model("ppocr2_cls");
    let refused = |flags: &[&str], remedy: &str| {
        let flags: Vec<String> = flags.iter().map(|f| f.to_string()).collect();
        let out = onnxc("compile", &model.path, &[model.shape_args(), vec!["--tune".into()], flags.clone()].concat());
        assert_eq!(out.code, Some(2), "{flags:?}: {}", out.stderr);
        assert!(out.stderr.contains(remedy), "{flags:?}: {}", out.stderr);
    };
    let foreign = if cfg!(target_arch = "x86_64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
    refused(&["--target", foreign], "leave --tune out");
    if cfg!(target_arch = "x86_64") {
        refused(&["--cpu", "x86-64,-avx"], "--cpu native");
    }
    let out = onnxc("compile", &model.path, &["--tune-cache=x".to_string()]);
    assert_eq!(out.code, Some(2), "{}", out.stderr);
}

#[test]
fn results_are_those_of_the_interpreter() {
    let folder = tempfile::tempdir().expect("a folder");
    for model in [data::zoo_model("ppocr2_cls"), data::zoo_model("ddddocr_rec_int8")] {
        let expected = folder.path().join(&model.id);
        let path = |p: &Path| p.display().to_string();
        let flags = ["--interpret".into(), format!("--inputs={}", path(&model.data)), format!("--outputs={}", path(&expected))];
        onnxc("run", &model.path, &[model.shape_args(), flags.to_vec()].concat()).expect_ok("the interpreter");
        for input in fs::read_dir(&model.data).expect("data").map(|f| f.expect("a file").path()) {
            if input.file_name().is_some_and(|n| n.to_string_lossy().starts_with("input_")) {
                fs::copy(&input, expected.join(input.file_name().expect("a name"))).expect("copies");
            }
        }
        let cache = folder.path().join("tune.jsonl");
        // What is allowed without --tune.
        let flags = vec![format!("--data={}", path(&expected)), format!("--tolerance={}", zoo::tolerance(&model.id))];
        let flags = [tuned(&model, &cache), flags].concat();
        onnxc("verify", &model.path, &flags).expect_ok(&model.id);
    }
}
