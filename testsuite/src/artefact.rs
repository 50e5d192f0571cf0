//! Small models compiled to artefacts and linked with the C programs of `tests/link/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::data;
use crate::run::{self, run};

/// Target flags of the oldest x86-64.
pub const X86: [&str; 4] = ["--target", "x86_64-unknown-linux-gnu", "--cpu", "x86-64"];
/// Strict C99.
pub const C99: [&str; 6] = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"];
/// GNU C11 with threads.
pub const C11: [&str; 7] = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-D_GNU_SOURCE"];

/// Compiles a text in `folder`: `NAME.a` and what lies beside it.
///
/// # Panics
/// When that fails.
#[track_caller]
pub fn onnxc(folder: &Path, name: &str, text: &str, flags: &[&str]) {
    let model = folder.join(format!("{name}.nir"));
    fs::write(&model, text).expect("the model's file");
    let mut onnxc = Command::new(run::onnxc());
    onnxc.args(["compile", &format!("{name}.nir"), "-o", &format!("{name}.a")]).args(flags).current_dir(folder);
    run(&mut onnxc, Duration::from_secs(300)).expect_ok("onnxc compile");
}

/// A source of `tests/link`.
pub fn source(file: &str) -> PathBuf {
    data::repository().join("testsuite/tests/link").join(file)
}

/// `cc FLAGS file ARGUMENTS -o program`, in `folder`, whose headers are found.
///
/// # Panics
/// When the compiler or the linker complains.
#[track_caller]
pub fn build(cc: &str, flags: &[&str], file: &str, arguments: &[&str], folder: &Path) -> PathBuf {
    let program = folder.join("program");
    let mut command = Command::new(cc);
    command.args(flags).arg("-I").arg(folder).arg("-I").arg(source("")).arg(source(file)).args(arguments);
    run(command.arg("-o").arg(&program).current_dir(folder), Duration::from_secs(120)).expect_ok(cc);
    program
}

/// What a tool of binutils says about `file`.
///
/// # Panics
/// When the tool fails.
#[track_caller]
pub fn inspect(tool: &str, flags: &[&str], file: &Path) -> String {
    run(Command::new(tool).args(flags).arg(file), Duration::from_secs(60)).expect_ok(tool)
}
