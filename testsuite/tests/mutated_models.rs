//! Models spoiled at random are refused or imported, but never crash, hang or eat the memory. The seed is fixed, so a failure
//! is reproducible; the fuzz target `compiler/onnx/fuzz` searches further with coverage.

use onnxc_testsuite::data;
use std::process::Command;

/// Address space of the importing process, in KiB: a model of a few hundred bytes needs little.
const MEMORY_KIB: u32 = 1 << 20;
/// Seconds of processor time.
const SECONDS: u32 = 120;

/// Imports `count` mutated models; returns how many were accepted.
fn import_mutated(count: &str, more: &[&str]) -> u32 {
    let seed = "20260101";
    let program = env!("CARGO_BIN_EXE_mutate_import");
    let limited = format!("ulimit -v {MEMORY_KIB} && ulimit -t {SECONDS} && exec \"$0\" \"$@\"");
    let run = Command::new("sh").args(["-c", &limited, program, seed, count]).args(more).output().expect("sh");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let last = out.lines().last().unwrap_or_default();
    let reproduce = last.parse::<u64>().map_or(0, |n| n + 1);
    assert!(
        run.status.success(),
        "{}\n{err}\nthe model: mutate_import {seed} {reproduce} {} --write FILE",
        run.status,
        more.join(" ")
    );
    last.split(' ').next().and_then(|n| n.parse().ok()).expect("the number of accepted models")
}

// Were nearly all of them refused, little behind the first checks would have been tried; hence the numbers.

#[test]
fn mutations_of_models_of_the_test_suite() {
    let accepted = import_mutated("30000", &[]);
    assert!(accepted > 1500, "{accepted}");
}

#[test]
fn mutations_of_models_of_every_operator() {
    let seeds = data::require("onnx-tests/node");
    let accepted = import_mutated("30000", &["--seeds", seeds.to_str().expect("UTF-8")]);
    assert!(accepted > 1500, "{accepted}");
}
