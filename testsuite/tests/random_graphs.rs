//! A few hundred random graphs through the whole compiler, against the reference interpreter. The program runs as many as one likes.

use onnxc_testsuite::run;
use std::process::Command;
use std::time::Duration;

#[test]
fn random_graphs_agree_with_the_interpreter() {
    for cpu in ["x86-64", "x86-64-v3", "native"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_random_graphs"));
        let said = run::run(command.args(["1", "250", cpu]), Duration::from_secs(600)).expect_ok(cpu);
        let compared: u64 = said.split(' ').next().and_then(|n| n.parse().ok()).expect("the number of graphs");
        assert!(compared > 200, "{said}");
    }
}
