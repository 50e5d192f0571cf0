//! A few hundred random graphs through the whole compiler, against the reference interpreter, on every kind of target. The program runs as
//! many as one likes.

use onnxc_testsuite::run;
use std::process::Command;
use std::time::Duration;

/// Runs `random_graphs` and wants most graphs to be comparable.
#[track_caller]
fn agree(count: u64, place: &[&str]) {
    agree_of(count, 4, place);
}

/// The same where this many fifths are most of them.
#[track_caller]
fn agree_of(count: u64, fifths: u64, place: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_random_graphs"));
    command.args(["1", &count.to_string()]).args(place);
    let said = run::run(&mut command, Duration::from_secs(900)).expect_ok(&place.join(" "));
    let compared: u64 = said.split(' ').next().and_then(|n| n.parse().ok()).expect("the number of graphs");
    assert!(compared > count * fifths / 5, "{said}");
}

#[test]
fn random_graphs_agree_with_the_interpreter() {
    for cpu in ["x86-64", "x86-64-v3", "native"] {
        agree(250, &[cpu]);
    }
}

/// With an open extent, at several sizes.
#[test]
fn random_graphs_of_open_extents_agree() {
    for cpu in ["x86-64", "x86-64-v3", "native"] {
        agree_of(250, 3, &["--open", cpu]);
    }
}

#[test]
fn random_graphs_agree_on_aarch64() {
    agree(100, &["--target", "aarch64"]);
}

#[test]
fn random_graphs_agree_on_riscv64() {
    agree(100, &["--target", "riscv64-v128"]);
    agree(100, &["--target", "riscv64"]);
}
