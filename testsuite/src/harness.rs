//! Linking a compiled model with a C main program, for any target.

use crate::run::{self, Output};
use crate::target::Target;
use crate::tensor::Tensor;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What to compile: one C file that finds the model through `MODEL_HEADER` and `MODEL`.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    /// The C file with `main`.
    pub main: &'a Path,
    /// Header that `onnxc compile` wrote.
    pub header: &'a Path,
    /// Archive or object of the model.
    pub archive: &'a Path,
    /// The model's descriptor symbol, `NAME_model`.
    pub symbol: &'a str,
    /// Further compiler and linker flags, such as `-pie`.
    pub flags: &'a [&'a str],
}

impl Program<'_> {
    /// The compiler's command line; `out` is the program to write.
    pub fn command(&self, target: &Target, out: &Path) -> Command {
        let mut cc = Command::new(target.cc);
        cc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]);
        cc.arg(format!("-DMODEL_HEADER=\"{}\"", self.header.display())).arg(format!("-DMODEL={}", self.symbol));
        cc.args(self.flags).arg(self.main).arg(self.archive).arg("-o").arg(out);
        cc
    }

    /// Compiles and links into `folder`; returns the program's path.
    ///
    /// # Panics
    /// When the compiler or the linker complains.
    #[track_caller]
    pub fn build(&self, target: &Target, folder: &Path) -> PathBuf {
        let out = folder.join(format!("{}-{}", self.main.file_stem().expect("a file").to_string_lossy(), target.name));
        run::run(&mut self.command(target, &out), Duration::from_secs(120)).expect_ok("C compiler");
        out
    }
}

/// Compiles `model` with `onnxc` into `folder/NAME.a` (header and report beside it); returns what `onnxc` said.
pub fn compile(model: &Path, target: &Target, name: &str, folder: &Path, flags: &[String]) -> Output {
    let mut c = Command::new(run::onnxc());
    c.arg("compile").arg(model).arg("-o").arg(folder.join(format!("{name}.a")));
    c.args(["--target", target.triple, "--cpu", target.cpu, "--name", name]).args(flags);
    run::run(&mut c, Duration::from_secs(600))
}

/// Compiles a model and builds `tests/open_dims/main.c` around it, for [`call`] and [`answers`].
///
/// # Panics
/// When that fails.
#[track_caller]
pub fn program(model: &Path, flags: &[&str], target: &Target, folder: &Path) -> PathBuf {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    compile(model, target, "model", folder, &flags).expect_ok("onnxc compile");
    let main = crate::data::repository().join("testsuite/tests/open_dims/main.c");
    let (header, archive) = (folder.join("model.h"), folder.join("model.a"));
    Program { main: &main, header: &header, archive: &archive, symbol: "model_model", flags: &[] }.build(target, folder)
}

/// Runs a program made from `adapters/bench_main.c` once on `inputs/input_<i>.npy`, one thread; reads back its outputs.
///
/// # Panics
/// When the program fails or leaves an output out.
#[track_caller]
pub fn infer(program: &Path, target: &Target, inputs: &Path, outputs: &Path) -> Vec<Tensor> {
    std::fs::create_dir_all(outputs).expect("output folder");
    let mut command = target.command(program);
    command.arg(inputs).arg("1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut ask = child.stdin.take().expect("piped");
    // A program that has died already breaks the pipe; what it said is reported below.
    let _ = writeln!(ask, "out {}", outputs.display());
    drop(ask);
    let done = child.wait_with_output().expect("wait");
    let (said, complained) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && said.ends_with("ok\n"), "{command:?}: {}\n{said}{complained}", done.status);
    crate::data::numbered(outputs, "output")
}

/// Runs a program made from `adapters/raw_main.c` or `tests/open_dims/main.c`, with these values of open dimensions.
pub fn call(program: &Path, target: &Target, folder: &Path, values: &[usize]) -> Output {
    let mut command = target.command(program);
    command.arg(folder).arg(folder).args(values.iter().map(ToString::to_string));
    run::run(&mut command, Duration::from_secs(600))
}

/// Outputs of such a program for these inputs.
///
/// # Panics
/// When the program fails.
#[track_caller]
pub fn answers(program: &Path, target: &Target, folder: &Path, values: &[usize], inputs: &[Tensor]) -> Vec<Tensor> {
    for (i, input) in inputs.iter().enumerate() {
        std::fs::write(folder.join(format!("input_{i}.bin")), &input.bytes).expect("an input's file");
    }
    let said = call(program, target, folder, values).expect_ok("program");
    let output = |(j, line): (usize, &str)| {
        let numbers: Vec<usize> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
        let bytes = std::fs::read(folder.join(format!("output_{j}.bin"))).expect("an output's file");
        Tensor { elem_type: numbers[0] as i32, dims: numbers[1..].to_vec(), bytes }
    };
    said.lines().enumerate().map(output).collect()
}
