//! Models with open dimensions, or with sizes that data decides on, through the C program `tests/open_dims/main.c`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{self, Program};
use crate::target::Target;
use crate::tensor::Tensor;
use crate::{data, run};

/// Compiles a model and builds `open_dims/main.c` around it.
///
/// # Panics
/// When that fails.
#[track_caller]
pub fn program(model: &Path, flags: &[&str], target: &Target, folder: &Path) -> PathBuf {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    harness::compile(model, target, "model", folder, &flags).expect_ok("onnxc compile");
    let main = data::repository().join("testsuite/tests/open_dims/main.c");
    let (header, archive) = (folder.join("model.h"), folder.join("model.a"));
    Program { main: &main, header: &header, archive: &archive, symbol: "model_model", flags: &[] }.build(target, folder)
}

/// Runs the program for values of the open dimensions.
pub fn call(program: &Path, target: &Target, folder: &Path, values: &[usize]) -> run::Output {
    let mut command = target.command(program);
    command.arg(folder).arg(folder).args(values.iter().map(ToString::to_string));
    run::run(&mut command, Duration::from_secs(600))
}

/// Outputs of the program for these inputs, in the sizes that the run reports.
///
/// # Panics
/// When the program fails.
#[track_caller]
pub fn answers(program: &Path, target: &Target, folder: &Path, values: &[usize], inputs: &[Tensor]) -> Vec<Tensor> {
    for (i, input) in inputs.iter().enumerate() {
        fs::write(folder.join(format!("input_{i}.bin")), &input.bytes).expect("the folder");
    }
    let said = call(program, target, folder, values).expect_ok("program");
    let output = |(j, line): (usize, &str)| {
        let numbers: Vec<usize> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
        let bytes = fs::read(folder.join(format!("output_{j}.bin"))).expect("the folder");
        Tensor { elem_type: numbers[0] as i32, dims: numbers[1..].to_vec(), bytes }
    };
    said.lines().enumerate().map(output).collect()
}
