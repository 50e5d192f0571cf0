//! Every operator's samples on AArch64 and RISC-V: compiled code under the emulator against the reference interpreter.
//!
//! All samples of a target are linked into one program with `samples_foreign/main.c`, which runs once. `SAMPLE=conv` in the
//! environment runs only operators whose name contains it.

use onnxc_codegen::{ObjectOptions, compile_object};
use onnxc_ir::Tensor;
use onnxc_testsuite::samples::{Case, cases, guarded};
use onnxc_testsuite::target::{self, Target};
use onnxc_testsuite::{data, run};
use rayon::prelude::*;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// For one run of all samples under the emulator, which takes seconds.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// What a model left in the file of outputs: its status and, when that is 0, the bytes of its outputs.
type Record = (i32, Vec<Vec<u8>>);

#[test]
fn aarch64() {
    samples_agree(&["aarch64"]);
}

/// The same program at two vector lengths: code must not depend on the length.
#[test]
fn riscv64_with_vectors() {
    samples_agree(&["riscv64-v128", "riscv64-v256"]);
}

#[test]
fn riscv64_without_vectors() {
    samples_agree(&["riscv64"]);
}

/// Compiles for the first of `names` and runs the program on each of them.
#[track_caller]
fn samples_agree(names: &[&str]) {
    static CASES: OnceLock<(Vec<Case>, Vec<String>)> = OnceLock::new();
    let only = std::env::var("SAMPLE").unwrap_or_default();
    let (cases, refused) = CASES.get_or_init(|| cases(&only));
    assert!(!cases.is_empty(), "no sample has this name: {only}");
    let mut failures = refused.clone();
    let start = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let compiled = compile(cases, target::by_name(names[0]), folder.path(), &mut failures);
    let program = link(&compiled, target::by_name(names[0]), folder.path());
    eprintln!("{}: {} samples compiled and linked in {:?}", names[0], compiled.len(), start.elapsed());
    for name in names {
        let start = Instant::now();
        let records = execute(target::by_name(name), &program, &compiled, folder.path());
        for ((_, case), record) in compiled.iter().zip(&records) {
            if let Err(e) = judge(case, record) {
                failures.push(case.complaint(name, &e));
            }
        }
        eprintln!("{name}: {} samples ran in {:?}", records.len(), start.elapsed());
    }
    assert!(failures.is_empty(), "{} failures in {} samples:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Writes `sN.o` of each sample into `folder`; returns the samples that have one, with their N.
fn compile<'a>(cases: &'a [Case], on: &Target, folder: &Path, failures: &mut Vec<String>) -> Vec<(usize, &'a Case)> {
    let target = onnxc_targets::describe(on.triple, on.cpu, 1).expect("a known target");
    let object = |number: usize, case: &Case| {
        let plan = onnxc_passes::plan::plan(&case.graph, &target.desc).map_err(|e| format!("{e:?}"))?;
        let options = ObjectOptions { name: format!("s{number}"), ..ObjectOptions::default() };
        let object = compile_object(&plan, &target, &options).map_err(|e| e.to_string())?;
        fs::write(folder.join(format!("s{number}.o")), object.bytes).map_err(|e| e.to_string())
    };
    let results: Vec<_> = cases.par_iter().enumerate().map(|(number, case)| guarded(|| object(number, case))).collect();
    let mut compiled = Vec::new();
    for (number, (case, result)) in cases.iter().zip(results).enumerate() {
        match result {
            Ok(()) => compiled.push((number, case)),
            Err(e) => failures.push(case.complaint(on.name, &e)),
        }
    }
    compiled
}

/// Links the objects with the table `models` and `main.c`; writes `inputs`; returns the program.
fn link(compiled: &[(usize, &Case)], on: &Target, folder: &Path) -> PathBuf {
    let mut table = onnxc_runtime::HEADER.to_owned();
    let (mut pointers, mut objects, mut inputs) = (String::new(), String::new(), Vec::new());
    for (number, case) in compiled {
        writeln!(table, "extern const onnxc_model s{number}_model;").unwrap();
        writeln!(pointers, "    &s{number}_model,").unwrap();
        writeln!(objects, "s{number}.o").unwrap();
        inputs.extend(case.inputs.iter().flat_map(Tensor::bytes));
    }
    writeln!(table, "static const onnxc_model *const models[] = {{\n{pointers}}};").unwrap();
    fs::write(folder.join("models.h"), table).unwrap();
    fs::write(folder.join("objects"), objects).unwrap();
    fs::write(folder.join("inputs"), inputs).unwrap();
    let mut cc = Command::new(on.cc);
    cc.current_dir(folder).args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-I."]);
    cc.arg(data::repository().join("testsuite/tests/samples_foreign/main.c")).args(["@objects", "-o", "program"]);
    run::run(&mut cc, Duration::from_secs(300)).expect_ok("C compiler");
    folder.join("program")
}

/// What the models of `compiled` answered. A model that ends the program gets status -1 and no outputs; the
/// program is then started again behind it.
fn execute(on: &Target, program: &Path, compiled: &[(usize, &Case)], folder: &Path) -> Vec<Record> {
    let (count, mut records) = (compiled.len(), Vec::new());
    while records.len() < count {
        let outputs = folder.join("outputs");
        let mut command = on.command(program);
        command.arg(folder.join("inputs")).arg(&outputs).arg(records.len().to_string());
        let said = run::run(&mut command, RUN_LIMIT);
        let before = records.len();
        let bytes = fs::read(&outputs).unwrap_or_default();
        let mut rest = bytes.as_slice();
        while let Some((_, case)) = compiled.get(records.len())
            && let Some(record) = read_record(&mut rest, case.want.len())
        {
            records.push(record);
        }
        // The driver itself ends with a code below 4; a model that faults ends the program by a signal.
        assert!(
            matches!(said.code, None | Some(0 | 4..)) && (records.len() > before || said.code != Some(0)),
            "{}: {said:?}",
            on.name
        );
        if records.len() < count {
            records.push((-1, Vec::new()));
        }
    }
    records
}

/// Takes a record with `outputs` outputs off the front of `rest`; none when it is not complete.
fn read_record(rest: &mut &[u8], outputs: usize) -> Option<Record> {
    let (status, mut tail) = rest.split_first_chunk()?;
    let status = i32::from_le_bytes(*status);
    let mut all = Vec::new();
    for _ in 0..if status == 0 { outputs } else { 0 } {
        let (size, after) = tail.split_first_chunk()?;
        let (bytes, after) = after.split_at_checked(u64::from_le_bytes(*size) as usize)?;
        all.push(bytes.to_vec());
        tail = after;
    }
    *rest = tail;
    Some((status, all))
}

/// Compares what a model left with what the interpreter says.
fn judge(case: &Case, (status, outputs): &Record) -> Result<(), String> {
    match status {
        0 => case.check(outputs),
        -1 => Err("the program crashed or did not end".into()),
        100 => Err("wrote beyond the end of an output or the arena".into()),
        code => Err(format!("status {code}")),
    }
}
