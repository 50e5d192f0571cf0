//! The ONNX backend tests, against the list of those that are expected to fail.

use onnxc_testsuite::{data, run};
use std::process::Command;
use std::time::Duration;

#[test]
fn backend_tests_pass_as_listed() {
    data::require("onnx-tests");
    let onnxc = run::onnxc();
    let mut command = Command::new(data::repository().join("testsuite/conformance/run.sh"));
    command.env("ONNXC", onnxc).env("ONNXC_ADAPTER", env!("CARGO_BIN_EXE_onnxc-adapter"));
    print!("{}", run::run(&mut command, Duration::from_secs(1500)).expect_ok("testsuite/conformance/run.sh"));
}
