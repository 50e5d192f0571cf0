//! Every operator's samples on AArch64 and RISC-V: compiled code under the emulator against the reference interpreter.
//!
//! All samples of a target are linked into one program with `samples_foreign/main.c`, which runs once. `SAMPLE=conv` in the
//! environment runs only operators whose name contains it.

use onnxc_testsuite::batch::{self, Model};
use onnxc_testsuite::samples::{Case, cases, guarded};
use onnxc_testsuite::target::{self, Target};
use rayon::prelude::*;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// For one run of all samples under the emulator, which takes seconds.
const RUN_LIMIT: Duration = Duration::from_secs(120);

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
    let models: Vec<Model> = compiled.iter().map(|(number, case)| model(*number, case)).collect();
    let program = batch::link(&models, target::by_name(names[0]), folder.path());
    eprintln!("{}: {} samples compiled and linked in {:?}", names[0], compiled.len(), start.elapsed());
    for name in names {
        let start = Instant::now();
        let records = batch::execute(target::by_name(name), &program, &models, folder.path(), RUN_LIMIT);
        for ((_, case), record) in compiled.iter().zip(&records) {
            if let Err(e) = batch::outputs(record).and_then(|outputs| case.check(outputs)) {
                failures.push(case.complaint(name, &e));
            }
        }
        eprintln!("{name}: {} samples ran in {:?}", records.len(), start.elapsed());
    }
    assert!(failures.is_empty(), "{} failures in {} samples:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

fn model(number: usize, case: &Case) -> Model<'_> {
    Model { number, dims: &[], inputs: &case.inputs, outputs: case.want.len() }
}

/// Writes `sN.o` of each sample into `folder`; returns the samples that have one, with their N.
fn compile<'a>(cases: &'a [Case], on: &Target, folder: &Path, failures: &mut Vec<String>) -> Vec<(usize, &'a Case)> {
    let target = onnxc_targets::describe(on.triple, on.cpu, 1).expect("a known target");
    let object = |number: usize, case: &Case| {
        let plan = onnxc_passes::plan::plan(&case.graph, &target.desc).map_err(|e| format!("{e:?}"))?;
        batch::write_object(&plan, &target, number, folder)
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
