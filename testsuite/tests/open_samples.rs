//! Every operator's samples with open extents: code for a range of sizes against the reference interpreter at several of them, here and on foreign
//! targets.
//!
//! `SAMPLE=conv` in the environment runs only operators whose name contains it.

use onnxc_codegen::JitModel;
use onnxc_ir::Tensor;
use onnxc_ir::op::{Lower, OpDef, OpSet};
use onnxc_ir::parse::parse;
use onnxc_ir::plan::Variants;
use onnxc_ir::text;
use onnxc_passes::Phase;
use onnxc_passes::plan::{Merge, plan};
use onnxc_testsuite::batch::{self, Model};
use onnxc_testsuite::open_samples::{OpenCase, cases};
use onnxc_testsuite::samples::guarded;
use onnxc_testsuite::target;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Operators with code for open extents of which no sample has any, and why.
const WITHOUT_CASE: &[(&str, &str)] = &[
    ("constant_of_shape", "its operand is a shape; `sizes_become_values` has it"),
    ("range", "its operands are numbers; `sizes_become_values` has it"),
    ("sizes", "it has no operands; `sizes_become_values` has it"),
];

/// What operators with code for open extents refuse nevertheless: the beginning of what they say, and why.
const REFUSED: &[(&str, &str)] = &[
    ("cannot be for ", "the operator itself does not work at some size of the range"),
    ("input ", "an extent that is not known to be the one of another operand, or to be small enough"),
    ("dimension ", "an extent that the layout of weights or groups depends on"),
    ("channels and filters that come with the call", "the layout of weights depends on them"),
    ("the number of channels comes with the call", "places of blocks depend on it"),
    ("transposed convolutions with computed weights", "one element after the other, over sizes that are known"),
];

/// For one run of all cases under the emulator.
const RUN_LIMIT: Duration = Duration::from_secs(300);

fn all_cases() -> &'static [OpenCase] {
    static CASES: OnceLock<Vec<OpenCase>> = OnceLock::new();
    CASES.get_or_init(|| cases(&only()))
}

fn only() -> String {
    std::env::var("SAMPLE").unwrap_or_default()
}

fn has_open_code(op: &OpDef) -> bool {
    matches!(op.lower, Lower::Elementwise(_) | Lower::View(_) | Lower::ViewOrNest(..) | Lower::OpenNest(_))
}

/// What became of a case.
enum Planned {
    Done(Box<Variants>),
    /// The planner says that there is no code for these extents, and what to do about it.
    Refused(String),
    Fails(String),
}

fn planned(case: &OpenCase, target: &onnxc_targets::Target) -> Planned {
    match guarded(|| Ok(case.plan(&target.desc))) {
        Ok(Ok(plan)) => case.variants(plan).map_or_else(Planned::Fails, |v| Planned::Done(Box::new(v))),
        Ok(Err(errors)) => match errors.iter().find(|e| e.help.is_none()) {
            Some(e) => Planned::Fails(format!("an error without help: {e}")),
            None => Planned::Refused(errors[0].reason.clone()),
        },
        Err(e) => Planned::Fails(e),
    }
}

fn run_here(case: &OpenCase, variants: &Variants, target: &onnxc_targets::Target) -> Result<(), String> {
    let model = JitModel::new(variants, target).map_err(|e| e.to_string())?;
    for call in &case.calls {
        let bytes: Vec<&[u8]> = call.inputs.iter().map(Tensor::bytes).collect();
        let mut outputs = Vec::new();
        model.run_sized(&case.dims(call), &bytes, &mut outputs, target.desc.max_threads).map_err(|e| e.to_string())?;
        case.check(call, &outputs)?;
    }
    Ok(())
}

#[test]
fn samples_with_open_extents_agree_with_the_interpreter() {
    let cases = all_cases();
    let (mut agree, mut refused, mut failures) = (BTreeMap::<&str, usize>::new(), Vec::new(), Vec::new());
    for (cpu, threads) in [("x86-64-v3", 1), ("x86-64", 2)] {
        let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, threads).unwrap();
        let outcome = |case: &OpenCase| match planned(case, &target) {
            Planned::Done(variants) => {
                guarded(|| run_here(case, &variants, &target)).map_or_else(Planned::Fails, |()| Planned::Done(variants))
            }
            other => other,
        };
        let outcomes: Vec<Planned> = cases.par_iter().map(outcome).collect();
        for (case, outcome) in cases.iter().zip(outcomes) {
            match outcome {
                Planned::Done(_) => *agree.entry(case.op.name).or_default() += 1,
                Planned::Refused(why) => refused.push((case.op, why)),
                Planned::Fails(e) => failures.push(case.complaint(cpu, &e)),
            }
        }
    }
    let (ran, operators) = (agree.values().sum::<usize>(), agree.len());
    eprintln!("{ran} cases of {operators} operators agree, {} are refused, {} fail", refused.len(), failures.len());
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), 2 * cases.len(), failures.join("\n"));
    if only().is_empty() {
        everything_is_accounted_for(&agree, &refused);
    }
}

/// Nothing is left out silently: every operator with code for open extents has cases that ran, and refusals are those of the list.
fn everything_is_accounted_for(agree: &BTreeMap<&str, usize>, refused: &[(&'static OpDef, String)]) {
    let without: BTreeSet<&str> =
        onnxc_ops::ALL.iter().filter(|op| has_open_code(op) && !agree.contains_key(op.name)).map(|op| op.name).collect();
    assert_eq!(without, WITHOUT_CASE.iter().map(|(op, _)| *op).collect(), "operators without a case, or with one by now");
    let of_list = |why: &str| REFUSED.iter().position(|(start, _)| why.starts_with(start));
    let unknown: BTreeSet<String> = refused
        .iter()
        .filter(|(op, why)| has_open_code(op) && of_list(why).is_none())
        .map(|(op, why)| format!("{}: {why}", op.name))
        .collect();
    assert!(unknown.is_empty(), "refusals that the list does not have: {unknown:#?}");
    let used: BTreeSet<usize> = refused.iter().filter(|(op, _)| has_open_code(op)).filter_map(|(_, why)| of_list(why)).collect();
    assert!(
        (0..REFUSED.len()).all(|i| used.contains(&i)),
        "nothing is refused any more as {:?}",
        (0..REFUSED.len()).filter(|i| !used.contains(i)).map(|i| REFUSED[i].0).collect::<Vec<_>>()
    );
}

/// Sizes of an input as values: in a tensor, as the end of a range, and as a shape.
const SIZES: &str = "graph @g(%x: f32[N,3]) where N in 1 to 6 {
  %s = shape %x : i64[2]
  %first = const i64[1] [0]
  %end = const i64[1] [1]
  %n = slice %s, %first, %end : i64[1]
  %limit = squeeze %n, %first : i64[]
  %zero = const i64[] [0]
  %one = const i64[] [1]
  %r = range %zero, %limit, %one : i64[N]
  %zeros = constant_of_shape %s : f32[N,3]
  return %s, %r, %zeros
}
";

#[test]
fn sizes_become_values() {
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", "x86-64-v3", 1).unwrap();
    let plain = parse(SIZES, OpSet(onnxc_ops::ALL), &|_| None).unwrap();
    let canonical = onnxc_passes::run(Phase::Canonicalize, &plain, &target.desc).0;
    assert!(canonical.nodes.iter().any(|n| n.op.name == "sizes"), "{}", text::print(&canonical));
    for graph in [plain, canonical] {
        let mut all = Merge::new(vec!["N".into()]);
        all.add(vec![(1, 6)], plan(&graph, &target.desc).unwrap());
        let model = JitModel::new(&all.finish().unwrap(), &target).unwrap();
        for n in [1, 4, 6] {
            let mut outputs = Vec::new();
            model.run_sized(&[n], &[&vec![0; 12 * n as usize]], &mut outputs, 1).unwrap();
            let bytes = |values: Vec<i64>| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
            assert_eq!(outputs, [bytes(vec![n as i64, 3]), bytes((0..n as i64).collect()), vec![0; 12 * n as usize]]);
        }
    }
}

/// Every `step`th case on a target, where writing behind the end of anything is noticed too.
#[track_caller]
fn agree_on(name: &str, step: usize) {
    let on = target::by_name(name);
    let target = onnxc_targets::describe(on.triple, on.cpu, 1).expect("a known target");
    let (folder, start) = (tempfile::tempdir().unwrap(), Instant::now());
    let cases: Vec<&OpenCase> = all_cases().iter().step_by(step).collect();
    let object = |(number, case): (usize, &&OpenCase)| match planned(case, &target) {
        Planned::Done(variants) => guarded(|| batch::write_object(&*variants, &target, number, folder.path())).map(|()| true),
        Planned::Refused(_) => Ok(false),
        Planned::Fails(e) => Err(e),
    };
    let compiled: Vec<Result<bool, String>> = cases.par_iter().enumerate().map(object).collect();
    let (mut failures, mut calls) = (Vec::new(), Vec::new());
    for (number, (case, result)) in cases.iter().zip(compiled).enumerate() {
        match result {
            Ok(true) => calls.extend(case.calls.iter().map(|call| (number, *case, call, case.dims(call)))),
            Ok(false) => {}
            Err(e) => failures.push(case.complaint(name, &e)),
        }
    }
    let models: Vec<Model> = calls
        .iter()
        .map(|(number, _, call, dims)| Model { number: *number, dims, inputs: &call.inputs, outputs: call.want.len() })
        .collect();
    let program = batch::link(&models, on, folder.path());
    let records = batch::execute(on, &program, &models, folder.path(), RUN_LIMIT);
    for ((_, case, call, _), record) in calls.iter().zip(&records) {
        if let Err(e) = batch::outputs(record).and_then(|outputs| case.check(call, outputs)) {
            failures.push(case.complaint(name, &e));
        }
    }
    eprintln!("{name}: {} calls of {} cases in {:?}", calls.len(), cases.len(), start.elapsed());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn x86_64_writes_nowhere_else() {
    agree_on("x86-64-v3", 1);
}

#[test]
fn aarch64() {
    agree_on("aarch64", 3);
}

#[test]
fn riscv64_with_vectors() {
    agree_on("riscv64-v128", 3);
}

#[test]
fn riscv64_without_vectors() {
    agree_on("riscv64", 3);
}
