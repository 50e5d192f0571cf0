//! Random graphs through the whole compiler, against the reference interpreter:
//!
//! ```text
//! random_graphs FIRST COUNT [CPU]              on this x86-64
//! random_graphs FIRST COUNT --target TARGET    on a target of testsuite/src/target.rs: aarch64, riscv64-v128, riscv64, ...
//! random_graphs FIRST COUNT --open [CPU]       on this x86-64, with an open extent, at several sizes
//! ```
//!
//! Graphs are those of seeds FIRST, FIRST+1, ...; the first ones that differ are printed with their seeds, and the exit code is 1.

use onnxc_codegen::JitModel;
use onnxc_ir::graph::Graph;
use onnxc_ir::plan::Plan;
use onnxc_ir::{Tensor, interp, text};
use onnxc_passes::{Phase, plan};
use onnxc_targets::Target;
use onnxc_testsuite::batch::{self, MOST_TENSORS, Model};
use onnxc_testsuite::compose::{Composed, Open, compose, compose_open};
use onnxc_testsuite::rounding::{Verdict, judge};
use onnxc_testsuite::samples::guarded;
use onnxc_testsuite::target;
use rayon::prelude::*;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Graphs that are linked into one program.
const BATCH: usize = 250;
/// For one run of a batch under the emulator, which takes seconds.
const RUN_LIMIT: Duration = Duration::from_secs(300);
const USAGE: &str = "usage: random_graphs FIRST COUNT [CPU | --target TARGET | --open [CPU]]";

/// A graph with what the interpreter says.
struct Prepared {
    seed: u64,
    composed: Composed,
    want: Vec<Tensor>,
}

/// What became of a seed: a verdict, or why there is none.
type Outcome = Result<Verdict, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (first, count, rest) = match args[..] {
        [first, count, ref rest @ ..] => (first.parse::<u64>(), count.parse::<u64>(), rest),
        _ => return usage(),
    };
    let (Ok(first), Ok(count)) = (first, count) else { return usage() };
    let seeds = first..first + count;
    std::panic::set_hook(Box::new(|_| ()));
    match rest {
        ["--target", name] => match target::ALL.iter().find(|t| t.name == *name) {
            Some(on) => {
                report(seeds.clone().step_by(BATCH).flat_map(|at| batch(at..seeds.end.min(at + BATCH as u64), on)).collect())
            }
            None => usage(),
        },
        ["--open"] | ["--open", _] => {
            let target = this_machine(rest.get(1));
            let outcome = |o: OpenPrepared| (guarded(|| open_here(&o, &target)), o.first);
            report(seeds.into_par_iter().filter_map(prepare_open).map(outcome).collect())
        }
        [] | [_] => {
            let target = this_machine(rest.first());
            let outcome = |p: Prepared| (guarded(|| here(&p, &target)), p);
            report(seeds.into_par_iter().filter_map(prepare).map(outcome).collect())
        }
        _ => usage(),
    }
}

fn this_machine(cpu: Option<&&str>) -> Target {
    onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu.unwrap_or(&"native"), 1).expect("a CPU of x86-64")
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Says how many graphs agree, and shows those that do not.
fn report(outcomes: Vec<(Outcome, Prepared)>) -> ExitCode {
    let count = |verdict: Verdict| outcomes.iter().filter(|(o, _)| *o == Ok(verdict.clone())).count();
    let complaint = |(outcome, p): &(Outcome, Prepared)| {
        let (Ok(Verdict::Different(e)) | Err(e)) = outcome else { return None };
        Some(format!("seed {}: {e}\n{}", p.seed, text::print(&p.composed.graph)))
    };
    let failures: Vec<String> = outcomes.iter().filter_map(complaint).collect();
    println!(
        "{} graphs agree, {} compiled and ran but cannot be compared (rounding or range decides), {} are refused, {} differ",
        count(Verdict::Same),
        count(Verdict::Unstable),
        count(Verdict::Refused),
        failures.len()
    );
    failures.iter().take(5).for_each(|f| println!("{f}"));
    if failures.len() > 5 {
        println!("and {}", failures[5..].iter().filter_map(|f| f.lines().next()).collect::<Vec<_>>().join("\n    "));
    }
    ExitCode::from(u8::from(!failures.is_empty()))
}

/// The graph of a seed, if there is one and the interpreter takes its values: an index or a size may be refused.
fn prepare(seed: u64) -> Option<Prepared> {
    let composed = compose(seed)?;
    let want = interp::run(&composed.graph, &composed.inputs).ok()?;
    Some(Prepared { seed, composed, want })
}

/// A graph with an open extent: what the interpreter says of each call. `first` is the first call.
struct OpenPrepared {
    first: Prepared,
    others: Vec<(u64, Prepared)>,
    size: u64,
}

fn prepare_open(seed: u64) -> Option<OpenPrepared> {
    let Open { graph, calls } = compose_open(seed)?;
    let call = |(size, inputs): (u64, Vec<Tensor>)| {
        // Operators may refuse values, some by a panic where extents do not fit.
        let want = guarded(|| interp::run(&graph, &inputs).map_err(|e| e.to_string())).ok()?;
        Some((size, Prepared { seed, composed: Composed { graph: graph.clone(), inputs }, want }))
    };
    let mut calls = calls.into_iter().map(call).collect::<Option<Vec<_>>>()?.into_iter();
    let (size, first) = calls.next()?;
    Some(OpenPrepared { first, others: calls.collect(), size })
}

/// Compiled for a range of sizes, and called with several.
fn open_here(o: &OpenPrepared, target: &Target) -> Outcome {
    let graph = after_passes(&o.first.composed, target)?;
    let plan = match plan::plan(&graph, &target.desc) {
        Ok(plan) => plan,
        Err(errors) if errors.iter().all(|e| e.help.is_some()) => return Ok(Verdict::Refused),
        Err(errors) => return Err(format!("plan: {errors:?}")),
    };
    let (names, ranges) = graph.bounds.iter().map(|(name, range)| (name.clone(), *range)).unzip();
    let mut all = plan::Merge::new(names);
    all.add(ranges, plan);
    let Ok(variants) = all.finish() else { return Ok(Verdict::Refused) };
    let model = JitModel::new(&variants, target).map_err(|e| e.to_string())?;
    let mut verdict = Verdict::Same;
    for (size, p) in std::iter::once((o.size, &o.first)).chain(o.others.iter().map(|(size, p)| (*size, p))) {
        let bytes: Vec<&[u8]> = p.composed.inputs.iter().map(Tensor::bytes).collect();
        let mut outputs = Vec::new();
        model.run_sized(&[size], &bytes, &mut outputs, 1).map_err(|e| e.to_string())?;
        match judge(&p.composed, &outputs, &p.want, p.seed)? {
            Verdict::Same => {}
            Verdict::Different(e) => return Ok(Verdict::Different(format!("N = {size}: {e}"))),
            other => verdict = other,
        }
    }
    Ok(verdict)
}

/// Through all passes.
fn after_passes(c: &Composed, target: &Target) -> Result<Graph, String> {
    let mut graph = c.graph.clone();
    for phase in [Phase::Canonicalize, Phase::Fuse] {
        graph = onnxc_passes::run(phase, &graph, &target.desc).0;
        onnxc_ir::verify::verify(&graph).map_err(|e| format!("after {}: {}", phase.name(), e.join("; ")))?;
    }
    Ok(plan::schedule(&graph))
}

fn planned(c: &Composed, target: &Target) -> Result<Plan, String> {
    plan::plan(&after_passes(c, target)?, &target.desc).map_err(|e| format!("plan: {e:?}"))
}

/// Compiled for this process.
fn here(p: &Prepared, target: &Target) -> Outcome {
    let model = JitModel::new(&planned(&p.composed, target)?, target).map_err(|e| e.to_string())?;
    let bytes: Vec<&[u8]> = p.composed.inputs.iter().map(Tensor::bytes).collect();
    let mut outputs = Vec::new();
    model.run(&bytes, &mut outputs, 1).map_err(|e| e.to_string())?;
    judge(&p.composed, &outputs, &p.want, p.seed)
}

/// Compiled as objects, linked into one program, run on the target.
fn batch(seeds: Range<u64>, on: &target::Target) -> Vec<(Outcome, Prepared)> {
    let target = onnxc_targets::describe(on.triple, on.cpu, 1).expect("a known target");
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let fits = |p: &Prepared| p.composed.inputs.len().max(p.want.len()) <= MOST_TENSORS;
    let prepared: Vec<Prepared> = seeds.into_par_iter().filter_map(prepare).filter(fits).collect();
    let object = |(n, p): (usize, &Prepared)| guarded(|| object(n, p, &target, folder.path()));
    let compiled: Vec<Result<(), String>> = prepared.par_iter().enumerate().map(object).collect();
    let models: Vec<Model> =
        prepared.iter().enumerate().filter(|(n, _)| compiled[*n].is_ok()).map(|(n, p)| model(n, p)).collect();
    let program = batch::link(&models, on, folder.path());
    let records = batch::execute(on, &program, &models, folder.path(), RUN_LIMIT);
    let mut outcomes: Vec<Outcome> = compiled.into_iter().map(|r| r.map(|()| Verdict::Same)).collect();
    let ran: Vec<(usize, Outcome)> = models
        .par_iter()
        .zip(&records)
        .map(|(m, record)| {
            let p = &prepared[m.number];
            (m.number, batch::outputs(record).and_then(|outputs| judge(&p.composed, outputs, &p.want, p.seed)))
        })
        .collect();
    ran.into_iter().for_each(|(n, outcome)| outcomes[n] = outcome);
    outcomes.into_iter().zip(prepared).collect()
}

fn model(number: usize, p: &Prepared) -> Model<'_> {
    Model { number, dims: &[], inputs: &p.composed.inputs, outputs: p.want.len() }
}

fn object(number: usize, p: &Prepared, target: &Target, folder: &Path) -> Result<(), String> {
    batch::write_object(&planned(&p.composed, target)?, target, number, folder)
}
