//! The `onnxc` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnxc::main()
}
