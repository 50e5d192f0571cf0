//! `compile --emit=bundle`: several points of a model, the dense one and what recipes make of it, in one object with one copy of what they share.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onnxc_codegen::artifact::{self, Facts};
use onnxc_ir::plan::Point;
use onnxc_passes::plan::Merge;
use onnxc_targets::Target;
use serde_json::{Value, json};

use super::compile::Built;
use crate::cli::{Compile, Emit, Freedom};
use crate::compress::{self, Loaded};
use crate::fault::{Diagnostic, Done, Fault};
use crate::pipeline::{self, print_all};
use crate::{profile, sizes};

/// The recipe that stands for the model as it is.
const DENSE: &str = "dense";

/// What the report says of points beside what code generation knows of them.
pub(super) struct Points {
    /// Bytes of weights that each point would have by itself.
    alone: Vec<u64>,
    /// Each one's recipe and Winograd's convolutions.
    made: Vec<(Option<Value>, Value)>,
}

impl Points {
    /// Bytes that are stored once instead of several times, by what is stored.
    pub fn saved(&self, stored: u64) -> u64 {
        self.alone.iter().sum::<u64>().saturating_sub(stored)
    }

    /// For people.
    pub fn told(&self, stored: u64) -> String {
        let (n, saved) = (self.alone.len(), self.saved(stored));
        format!("bundle of {n} points: {stored} bytes of weights, {saved} fewer than in {n} archives\n")
    }

    /// A row for each point.
    pub fn json(&self, facts: &Facts, live_bytes: &[u64]) -> Value {
        let rows = facts.points.iter().zip(&self.made).zip(live_bytes);
        rows.map(|(((point, of), (recipe, winograd)), live)| {
            json!({ "name": point.name, "predicted_ms": 1e3 * point.seconds, "drop": point.drop, "arena_bytes": of.arena_bytes,
                "arena_shared": of.arena_shared, "scratch_per_thread": of.scratch_per_thread, "stack_bytes": of.stack_bytes,
                "weights_bytes": point.weights_bytes, "live_bytes": live, "winograd": winograd, "compression": recipe })
        })
        .collect()
    }
}

/// Refuses what a bundle cannot have.
pub(super) fn check(args: &Compile, emit: &[Emit]) -> Done<()> {
    let usage = |why: &str| Err(Fault::Usage(format!("--emit=bundle: {why}")));
    if args.freedom.recipe.is_empty() || args.budget.wants_search() {
        return usage("name its points by --recipe, several times: recipes, folders of recipes, or dense");
    }
    if emit.contains(&Emit::Ir) {
        return usage("ir shows one graph; compile one point by itself");
    }
    if !sizes::choices(&args.model)?.0.is_empty() {
        return usage("the points of a bundle are for one size: give each --dim one value");
    }
    Ok(())
}

/// The points that the command line names, each with its recipe.
fn named(paths: &[PathBuf]) -> Done<Vec<(String, Option<Arc<Loaded>>)>> {
    let mut points: Vec<(String, Option<Arc<Loaded>>)> = Vec::new();
    for path in paths {
        if path.as_os_str() == DENSE {
            points.push((DENSE.to_string(), None));
            continue;
        }
        for file in recipes(path)? {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            points.push((name, Some(Arc::new(Loaded::read(&file)?))));
        }
    }
    for (i, (name, _)) in points.iter().enumerate() {
        if points[..i].iter().any(|p| p.0 == *name) {
            return Err(Fault::Usage(format!("--emit=bundle: two points are called {name}; rename one of the recipes")));
        }
    }
    if points.len() < 2 {
        return Err(Fault::Usage("--emit=bundle: one point is no bundle; add another --recipe, or --recipe dense".to_string()));
    }
    Ok(points)
}

/// A recipe, or all of a folder by their names.
fn recipes(path: &Path) -> Done<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| Fault::file(path, e))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "recipe")).collect();
    files.sort();
    if files.is_empty() { Err(Fault::file(path, "there is no .recipe file in this folder")) } else { Ok(files) }
}

/// Runs the pipeline for each point; all plans get one weight blob.
pub(super) fn build(args: &Compile, target: &Target) -> Done<Built> {
    let mut built: Option<Built> = None;
    let mut merge = Merge::new(Vec::new());
    let (mut points, mut told) = (Vec::new(), Points { alone: Vec::new(), made: Vec::new() });
    for (name, found) in named(&args.freedom.recipe)? {
        let drop = found.as_ref().map_or(Some(0.0), |l| l.recipe.report.as_ref().map(|r| r.drop));
        let freedom = Freedom { recipe: Vec::new(), found, ..args.freedom.clone() };
        let (mut one, plan) = Built::new(pipeline::compile(&args.model, target, &freedom, &args.debugging)?);
        let seconds = profile::layers(&plan, &one.graph, target).iter().map(|l| l.predicted.seconds).sum();
        let winograd = super::algorithms::json(&onnxc_passes::winograd::chosen(&one.graph));
        told.made.push((compress::report(&freedom)?, winograd));
        told.alone.push(plan.weights_bytes);
        points.push(Point { name, seconds, drop, weights_bytes: plan.weights_bytes });
        merge.add(Vec::new(), plan);
        match &mut built {
            None => built = Some(one),
            Some(all) => {
                all.times.0.append(&mut one.times.0);
                all.live_bytes.append(&mut one.live_bytes);
            }
        }
    }
    let mut built = built.ok_or_else(|| Fault::Internal("a bundle without points".to_string()))?;
    built.plans = merge.finish().map_err(|_| Fault::Internal("a bundle with open dimensions".to_string()))?;
    built.plans.points = points;
    built.points = Some(told);
    Ok(built)
}

/// Is this an archive or an object, by its first bytes?
pub(super) fn is_binary(path: &Path) -> bool {
    let mut first = [0; 8];
    let read = std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut first));
    read.is_ok() && (&first == b"!<arch>\n" || first.starts_with(b"\x7fELF"))
}

/// `onnxc inspect` of an archive or object.
pub(super) fn inspect(path: &Path, as_json: bool) -> Done<()> {
    let bytes = std::fs::read(path).map_err(|e| Fault::file(path, e))?;
    let Some((name, points)) = artifact::listed(&bytes).map_err(|e| Fault::file(path, e))? else {
        let why = format!("{} is no bundle: it has no table of points", path.display());
        return Err(Fault::Model(vec![
            Diagnostic::new("inspect::bundle", why).help("inspect the model that it was compiled from"),
        ]));
    };
    if as_json {
        let row = |p: &artifact::Listed| json!({ "name": p.name, "predicted_ms": 1e3 * p.seconds, "drop": p.drop, "arena_bytes": p.arena_bytes, "weights_bytes": p.weights_bytes });
        let rows: Vec<Value> = points.iter().map(row).collect();
        return print_all(&format!("{:#}\n", json!({ "bundle": name, "points": rows })));
    }
    let width = points.iter().map(|p| p.name.chars().count()).max().unwrap_or(0).max(5);
    let mut out =
        format!("bundle {name}\n  nr {:<width$} {:>8} {:>14} {:>12} {:>12}\n", "point", "drop", "predicted", "weights", "arena");
    for (i, p) in points.iter().enumerate() {
        let drop = p.drop.map_or("?".to_string(), |d| format!("{:.2} %", 100.0 * d));
        let (ms, weights, arena) = (1e3 * p.seconds, p.weights_bytes, p.arena_bytes);
        let _ = writeln!(out, "  {i:>2} {:<width$} {drop:>8} {ms:>11.4} ms {weights:>12} {arena:>12}", p.name);
    }
    print_all(&out)
}
