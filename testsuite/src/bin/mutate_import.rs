//! Imports mutated models, one after the other, until the first that crashes, hangs, or gives a graph that is not well-formed.
//!
//! ```text
//! mutate_import SEED COUNT                    imports; prints the number of each model before its import
//! mutate_import SEED COUNT --seeds FOLDER     mutates the small models below FOLDER, not those of the test suite
//! mutate_import SEED COUNT --write FILE       writes the last model to FILE instead (to look at a failure)
//! mutate_import SEED COUNT --seeds-to FOLDER  writes the models of the test suite there (seeds for the fuzz target)
//! ```
//!
//! `testsuite/tests/mutated_models.rs` runs it with limits of memory and time; alone it is a slow fuzzer without coverage.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use onnxc_ir::op::OpSet;
use onnxc_ir::{text, verify};
use onnxc_onnx::{Options, import_bytes};
use onnxc_testsuite::mutate::{Rng, mutate};
use onnxc_testsuite::{bad_models, counted};

/// No model of a few hundred bytes may keep the importer busy for longer.
const MOST: Duration = Duration::from_secs(10);

/// Models larger than this are no seeds: they would be slow, and most mutations would hit their weights.
const MOST_BYTES: usize = 4096;

/// The small `.onnx` files below `folder`, in the order of their paths.
fn models(folder: &Path, out: &mut Vec<Vec<u8>>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|e| e.expect("entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            models(&path, out);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            out.extend(std::fs::read(&path).ok().filter(|m| m.len() < MOST_BYTES));
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| {
        args.get(i).and_then(|a| a.parse::<u64>().ok()).expect("usage: mutate_import SEED COUNT [--seeds FOLDER] [--write FILE]")
    };
    let (seed, count) = (number(0), number(1));
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let write = option("--write");
    let mut seeds = Vec::new();
    match option("--seeds") {
        Some(folder) => models(Path::new(folder), &mut seeds),
        None => {
            seeds.extend([bad_models::good_model(), bad_models::with_subgraph()]);
            seeds.extend(counted::cases().into_iter().map(|c| c.model));
            seeds.extend(bad_models::all().into_iter().map(|c| c.model).filter(|m| m.len() < MOST_BYTES));
        }
    }
    assert!(seeds.len() > 1, "no models to mutate");
    if let Some(folder) = option("--seeds-to") {
        let write = |(i, m): (usize, &Vec<u8>)| std::fs::write(Path::new(folder).join(format!("{i}.onnx")), m);
        seeds.iter().enumerate().try_for_each(write).expect("write the seeds");
        return;
    }
    let (mut out, mut accepted) = (std::io::stdout().lock(), 0);
    for i in 0..count {
        let mut rng = Rng(seed ^ i.wrapping_mul(0x2545_f491_4f6c_dd1d));
        // Good models more often than the bad ones: what passes the first checks gets further.
        let first = rng.below(2 * seeds.len());
        let other = rng.below(seeds.len());
        let model = mutate(seeds.get(first).unwrap_or(&seeds[first % 2]), &seeds[other], &mut rng);
        if let (Some(path), true) = (write, i + 1 == count) {
            std::fs::write(path, model).expect("write the model");
            return;
        }
        if write.is_none() {
            writeln!(out, "{i}").expect("stdout");
            accepted += u64::from(check(model));
        }
    }
    writeln!(out, "{accepted} of {count} accepted").expect("stdout");
}

/// Options with which sequences among the inputs have two elements.
fn options(model: &[u8]) -> Options {
    let mut options = Options::default();
    let ports = onnxc_onnx::inputs_of(model, &options.limits).unwrap_or_default();
    options.lengths = ports.into_iter().filter(|p| p.sequence).map(|p| (p.name, 2)).collect();
    options
}

/// Imports; what is accepted must be well-formed and survive its text form. Says whether it was accepted.
fn check(model: Vec<u8>) -> bool {
    let start = Instant::now();
    let options = options(&model);
    let imported = import_bytes(model, &options);
    let took = start.elapsed();
    assert!(took < MOST, "the import took {took:?}");
    match imported {
        Err(report) => {
            assert!(!report.problems.is_empty() && report.problems.iter().all(|p| !p.reason.is_empty()));
            false
        }
        Ok(imported) => {
            verify::verify(&imported.graph).unwrap_or_else(|all| panic!("{}", all.join("; ")));
            let (printed, blobs) = (text::print(&imported.graph), text::blobs(&imported.graph));
            let blob = |hash| blobs.iter().find(|b| b.0 == hash).map(|b| b.1.clone());
            let parsed = onnxc_ir::parse::parse(&printed, OpSet(onnxc_ops::ALL), &blob);
            let again = text::print(&parsed.unwrap_or_else(|e| panic!("{e}\n{printed}")));
            assert_eq!(printed, again);
            true
        }
    }
}
