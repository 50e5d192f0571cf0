//! `--weights coded`: programs decode what they run with, on every target, and the command line says what it is.

use onnxc_testsuite::artefact::{C11, build, inspect, onnxc};
use onnxc_testsuite::data::repository;
use onnxc_testsuite::npy;
use onnxc_testsuite::run::{self, Output, run};
use onnxc_testsuite::small::{self, PAIR, TINY};
use onnxc_testsuite::target::{self, Target};
use onnxc_testsuite::tensor::Tensor;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A model with coded weights beside the same one with its weights in the object, for a target; what the program says that runs both.
fn compared(target: &Target, text: &str, folder: &Path) -> String {
    let machine = ["--target", target.triple, "--cpu", target.cpu];
    onnxc(folder, "plain", text, &machine);
    onnxc(folder, "coded", text, &[&machine[..], &["--weights=coded"]].concat());
    let program = build(target.cc, &C11, "coded.c", &["coded.a", "plain.a"], folder);
    let said = run(&mut target.command(&program), Duration::from_secs(120)).expect_ok(target.name);
    small::check(&said, "coded", text);
    small::check(&said, "plain", text);
    said
}

/// The numbers of the line that begins with `what`.
#[track_caller]
fn numbers(said: &str, what: &str) -> Vec<u64> {
    let line = said.lines().find_map(|l| l.strip_prefix(what)).unwrap_or_else(|| panic!("no {what} in {said}"));
    line.split_whitespace().map(|n| n.parse().expect("a number")).collect()
}

#[test]
fn decoded_weights_are_those_of_the_object() {
    for target in target::ALL.iter().filter(|t| t.can_run()) {
        for (name, text) in [("tiny", TINY), ("pair", PAIR), ("wide", &small::wide())] {
            let folder = tempfile::tempdir().unwrap();
            let said = compared(target, text, folder.path());
            let [coded, weights] = numbers(&said, "sizes ")[..] else { panic!("{said}") };
            let [used, stated] = numbers(&said, "stack ")[..] else { panic!("{said}") };
            assert!(used <= stated && stated <= used + 4096, "{} {name}: stack {used} of {stated}", target.name);
            // ONNXC_NO_WEIGHTS; ONNXC_NULL and ONNXC_MISALIGNED of the decoder. The model pair has no weights, and nothing to look at.
            let expected = if weights == 0 { [0, 0, 0] } else { [5, 1, 2] };
            let got = ["without", "nowhere", "misaligned"].map(|what| numbers(&said, &format!("status {what} "))[0]);
            assert_eq!(got, expected, "{} {name}", target.name);
            // The weights of the model wide are 29 different numbers.
            assert!(coded == 0 && weights == 0 || name != "wide" || coded < weights / 3, "{}: {coded} of {weights}", target.name);
        }
    }
}

#[test]
fn the_decoder_is_one_symbol_more() {
    for target in ["x86-64-v4", "aarch64", "riscv64-v128"].map(target::by_name) {
        let folder = tempfile::tempdir().unwrap();
        let machine = ["--target", target.triple, "--cpu", target.cpu];
        onnxc(folder.path(), "net", &small::wide(), &[&machine[..], &["--weights=coded"]].concat());
        let prefix = target.cc.strip_suffix("gcc").expect("a cross compiler's name");
        let symbols = inspect(&format!("{prefix}nm"), &[], &folder.path().join("net.a"));
        let kinds = symbols.lines().filter_map(|l| l.rsplit_once(' '));
        let exported: Vec<&str> = kinds.filter(|(k, _)| k.ends_with(|c: char| c.is_ascii_uppercase())).map(|(_, n)| n).collect();
        assert_eq!(exported, ["net_model", "net_run", "net_sizes", "net_unpack"], "{}: {symbols}", target.name);
        assert!(!symbols.contains(" U ") && !symbols.contains(" w "), "{}: {symbols}", target.name);
    }
}

/// `onnxc` with the digits' network.
fn digits(command: &str, folder: &Path, flags: &[&str]) -> Output {
    let model = repository().join("testsuite/accuracy/mnist.onnx").display().to_string();
    let mut onnxc = Command::new(run::onnxc());
    onnxc.args([command, &model, "--shape=input=1,1,28,28"]).args(flags).current_dir(folder);
    run(&mut onnxc, Duration::from_secs(300))
}

fn json(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(file)).expect(file)).expect("JSON")
}

#[test]
fn the_report_states_both_sizes_and_the_archive_is_smaller() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Without Winograd's convolutions, whose weights a limit would make smaller.
    let compile = |flags: &[&str]| digits("compile", folder, &[&["--math=strict"], flags].concat());
    compile(&["-o", "plain.a"]).expect_ok("embed");
    compile(&["-o", "coded.a", "--weights=coded"]).expect_ok("coded");
    let (plain, coded) = (json(folder, "plain.json"), json(folder, "coded.json"));
    let number = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("no number: {v}"));
    let (weights, stored) = (number(&coded["weights_bytes"]), number(&coded["coded_weights_bytes"]));
    assert!(number(&plain["weights_bytes"]) == weights && plain["coded_weights_bytes"].is_null() && stored < weights * 19 / 20);
    let size = |file: &str| fs::metadata(folder.join(file)).expect(file).len();
    let saved = size("plain.a") - size("coded.a");
    // What the decoder takes.
    assert!(saved < weights - stored && saved + 4096 > weights - stored, "{saved} bytes saved of {}", weights - stored);
    // The size that is limited is the one that is stored.
    let between = format!("--max-size={}", (stored + weights) / 2);
    compile(&["-o", "limited.a", "--weights=coded", &between]).expect_ok("coded within a limit");
    let refused = compile(&["-o", "refused.a", &between]);
    assert!(refused.code == Some(1) && refused.stderr.contains("--weights coded"), "{}", refused.stderr);
    assert!(!folder.join("refused.a").exists());
    // The same bytes whatever the number of threads, and from another folder.
    compile(&["-o", "again/coded.a", "--weights=coded", "-j1"]).expect_ok("coded again");
    for file in ["coded.a", "coded.h", "coded.rs", "coded.json"] {
        assert!(fs::read(folder.join(file)).unwrap() == fs::read(folder.join("again").join(file)).unwrap(), "{file} differs");
    }
    let layers = digits("inspect", folder, &["--layers", "--math=strict", "--weights=coded"]).expect_ok("inspect --layers");
    assert!(layers.contains(&format!("weights {weights} bytes, {stored} bytes coded")), "{layers}");
}

#[test]
fn commands_that_run_decode_as_programs_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let values: Vec<f32> = (0..784).map(|i| ((i * 7 % 13) as f32 - 6.0) / 8.0).collect();
    npy::write(&folder.join("input_0.npy"), &Tensor::f32(&[1, 1, 28, 28], &values)).unwrap();
    for (to, weights) in [("plain", "embed"), ("coded", "coded")] {
        digits("run", folder, &["--inputs", ".", "--outputs", to, "--weights", weights]).expect_ok(to);
    }
    let answer = |of: &str| fs::read(folder.join(of).join("output_0.npy")).expect(of);
    assert!(answer("plain") == answer("coded"));
    let text = digits("bench", folder, &["--seconds", "0.05", "--weights=coded"]).expect_ok("bench");
    assert!(text.contains("weights unpacked in ") && text.contains(" MB/s"), "{text}");
    let told: Value =
        serde_json::from_str(&digits("bench", folder, &["--seconds", "0.05", "--weights=coded", "--json"]).expect_ok("bench"))
            .expect("JSON");
    assert!(
        told["unpack_ms"].as_f64() > Some(0.0) && told["coded_weights_bytes"].as_u64() < told["weights_bytes"].as_u64(),
        "{told}"
    );
    let unknown = digits("bench", folder, &["--weights=packed"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("embed, file, section:NAME or coded"), "{}", unknown.stderr);
}
