//! Random graphs through the whole compiler, against the reference interpreter:  random_graphs FIRST COUNT [CPU]
//!
//! Graphs are those of seeds FIRST, FIRST+1, ...; the first ones that differ are printed with their seeds, and the exit code is 1.

use onnxc_codegen::JitModel;
use onnxc_ir::{Tensor, interp, text};
use onnxc_passes::{Phase, plan};
use onnxc_targets::Target;
use onnxc_testsuite::compose::{Composed, compose};
use onnxc_testsuite::samples::guarded;
use rayon::prelude::*;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// `max|a-b| / max|b|` that is allowed, and below which an absolute difference does not count.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args.get(i).and_then(|a| a.parse::<u64>().ok());
    let (Some(first), Some(count)) = (number(0), number(1)) else {
        eprintln!("usage: random_graphs FIRST COUNT [CPU]");
        return ExitCode::from(2);
    };
    let cpu = args.get(2).map_or("native", String::as_str);
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, 1).expect("a CPU of x86-64");
    std::panic::set_hook(Box::new(|_| ()));
    let (compared, unstable) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures: Vec<String> = (first..first + count)
        .into_par_iter()
        .filter_map(|seed| {
            let composed = compose(seed)?;
            match guarded(|| check(&composed, seed, &target)) {
                Ok(true) => compared.fetch_add(1, Ordering::Relaxed),
                Ok(false) => unstable.fetch_add(1, Ordering::Relaxed),
                Err(e) => return Some(format!("seed {seed}: {e}\n{}", text::print(&composed.graph))),
            };
            None
        })
        .collect();
    let (compared, unstable) = (compared.into_inner(), unstable.into_inner());
    println!(
        "{compared} graphs agree, {unstable} compiled and ran but cannot be compared (rounding or NaN decides), {} differ",
        failures.len()
    );
    failures.iter().take(5).for_each(|f| println!("{f}"));
    if failures.len() > 5 {
        println!("and {}", failures[5..].iter().filter_map(|f| f.lines().next()).collect::<Vec<_>>().join("\n    "));
    }
    ExitCode::from(u8::from(!failures.is_empty()))
}

/// Whether the graph could be compared.
fn check(c: &Composed, seed: u64, target: &Target) -> Result<bool, String> {
    // What the interpreter refuses for its values (an index, a size) is no graph to compile.
    let Ok(want) = interp::run(&c.graph, &c.inputs) else { return Ok(false) };
    let mut graph = c.graph.clone();
    for phase in [Phase::Canonicalize, Phase::Fuse] {
        graph = onnxc_passes::run(phase, &graph, &target.desc).0;
        onnxc_ir::verify::verify(&graph).map_err(|e| format!("after {}: {}", phase.name(), e.join("; ")))?;
    }
    let plan = plan::plan(&plan::schedule(&graph), &target.desc).map_err(|e| format!("plan: {e:?}"))?;
    let model = JitModel::new(&plan, target).map_err(|e| e.to_string())?;
    let bytes: Vec<&[u8]> = c.inputs.iter().map(Tensor::bytes).collect();
    let mut outputs = Vec::new();
    model.run(&bytes, &mut outputs, 1).map_err(|e| e.to_string())?;
    let got: Vec<Tensor> = outputs.into_iter().zip(&want).map(|(bytes, like)| tensor(bytes, like)).collect::<Result<_, _>>()?;
    let differences: Vec<String> = got.iter().zip(&want).enumerate().filter_map(|(j, (g, w))| difference(j, g, w)).collect();
    if differences.is_empty() {
        return Ok(true);
    }
    // Operators that choose between a NaN and a number may choose either.
    if has_nan(c)? {
        return Ok(false);
    }
    // Rounding decides in some graphs: then inputs that differ in their last bits give other outputs, too.
    for round in 1..4 {
        let shaken = interp::run(&c.graph, &c.shaken(seed ^ (round << 40))).map_err(|e| e.to_string())?;
        if shaken.iter().zip(&want).enumerate().any(|(j, (s, w))| difference(j, s, w).is_some()) {
            return Ok(false);
        }
    }
    Err(differences.join("; "))
}

/// Whether some value inside is NaN.
fn has_nan(c: &Composed) -> Result<bool, String> {
    let mut graph = c.graph.clone();
    graph.outputs = graph.nodes.iter().flat_map(|n| n.outputs.iter().copied()).collect();
    let values = interp::run(&graph, &c.inputs).map_err(|e| e.to_string())?;
    Ok(values.iter().filter_map(Tensor::to_f64s).flatten().any(f64::is_nan))
}

fn tensor(bytes: Vec<u8>, like: &Tensor) -> Result<Tensor, String> {
    let bytes = onnxc_ir::tensor::Bytes::new(bytes);
    Tensor::from_bytes(like.dtype(), like.shape().to_vec(), bytes).ok_or_else(|| "an output has the wrong size".to_string())
}

/// How two f32 tensors differ, if they do.
fn difference(j: usize, got: &Tensor, want: &Tensor) -> Option<String> {
    let (a, b) = (got.to_f64s()?, want.to_f64s()?);
    let finite = |v: &[f64]| v.iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
    let allowed = ABSOLUTE + RELATIVE * finite(&b);
    let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= allowed;
    let i = a.iter().zip(&b).position(|(a, b)| !same(*a, *b))?;
    Some(format!("output {j}, element {i}: got {}, wanted {}", a[i], b[i]))
}
