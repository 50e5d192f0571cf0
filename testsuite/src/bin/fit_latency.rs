//! Fits what a core takes for each kind of step (`onnxc_ir::target::Machine`) to measured layers: `fit_latency CPU FILE.json...`.
//!
//! The files are those of `testsuite/latency.py --json`: layers with their terms and milliseconds. The fit begins at the constants of CPU (`znver4`,
//! `sapphirerapids`, `x86-64-v3`) and goes down one constant at a time (coordinate descent), by logarithms, since all constants are positive and their sizes
//! differ. What counts is the error of a layer's time, with Huber's loss ("Robust estimation of a location parameter", 1964), each layer by its share in its
//! model; the error of the model's time; and a little of the distance from where the fit began, so that what no layer tells stays as it was. Printed are the
//! constants and what they reach.

use std::io::Write;
use std::process::ExitCode;

use onnxc_ir::target::Machine;
use onnxc_ir::workload::latency::Terms;
use serde_json::Value;

/// Relative errors above this one count in proportion, not by their square.
const FAR: f64 = 0.3;
/// What the error of a model's time counts beside those of its layers.
const WHOLE: f64 = 1.0;
/// What all layers count alike, beside their share in their model.
const ALIKE: f64 = 0.3;
/// What the distance of a constant from its beginning counts.
const STAY: f64 = 2e-4;
/// Models that are farthest off.
const SHOWN: usize = 16;
/// Factors that a constant is tried with, one list after the other.
const STEPS: [f64; 6] = [1.5, 1.2, 1.1, 1.05, 1.02, 1.01];

/// A constant: its name and where it is.
type Constant = (String, fn(&mut Machine, usize) -> &mut f64, usize);

/// A model that was measured.
struct Model {
    name: String,
    layers: Vec<Layer>,
}

/// A layer that was measured.
struct Layer {
    terms: Terms,
    calls: f64,
    ms: f64,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [cpu, files @ ..] = &args[..] else {
        eprintln!("usage: fit_latency CPU FILE.json...");
        return ExitCode::FAILURE;
    };
    let models: Result<Vec<Vec<Model>>, String> = files.iter().map(|f| read(f)).collect();
    match models.and_then(|models| fit(cpu, &models.into_iter().flatten().collect::<Vec<_>>())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fit_latency: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A line of the answer; nobody is left to read it where it cannot be written.
fn say(line: std::fmt::Arguments) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The models of a file.
fn read(file: &str) -> Result<Vec<Model>, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let all: Vec<Value> = serde_json::from_str(&text).map_err(|e| format!("{file}: {e}"))?;
    let layer = |l: &Value| -> Option<Layer> {
        let terms = serde_json::from_value(l["terms"].clone()).ok()?;
        Some(Layer { terms, calls: l["calls"].as_f64()?, ms: l["ms"].as_f64()? })
    };
    let model = |m: &Value| -> Option<Model> {
        let layers = m["layers"].as_array()?.iter().map(layer).collect::<Option<_>>()?;
        Some(Model { name: m["model"].as_str()?.to_string(), layers })
    };
    let all: Option<Vec<Model>> = all.iter().map(model).collect();
    all.ok_or_else(|| format!("{file}: layers without terms; testsuite/latency.py --json writes them"))
}

fn fit(cpu: &str, models: &[Model]) -> Result<(), String> {
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, 1).map_err(|e| e.to_string())?;
    let start = target.desc.machine;
    // What a core does not do has no constant.
    let constants: Vec<Constant> = constants().into_iter().filter(|(_, at, n)| *at(&mut start.clone(), *n) > 0.0).collect();
    let mut machine = start;
    say(format_args!("at first: {}", figures(&machine, models)));
    let mut least = loss(&machine, &start, &constants, models);
    for factor in STEPS {
        for _ in 0..30 {
            let before = least;
            for (_, at, which) in &constants {
                for factor in [factor, 1.0 / factor] {
                    let mut tried = machine;
                    *at(&mut tried, *which) *= factor;
                    let loss = loss(&tried, &start, &constants, models);
                    if loss < least {
                        (machine, least) = (tried, loss);
                        break;
                    }
                }
            }
            if before - least < 1e-7 {
                break;
            }
        }
    }
    for (name, at, which) in &constants {
        say(format_args!("{name:14} {:>10.3} -> {:.3}", at(&mut start.clone(), *which), at(&mut machine, *which)));
    }
    say(format_args!("fitted:   {}", figures(&machine, models)));
    Ok(())
}

/// All constants that times depend on.
fn constants() -> Vec<Constant> {
    macro_rules! each {
        ($($name:ident),*) => { vec![$((stringify!($name).to_string(), |m: &mut Machine, _| &mut m.$name, 0)),*] };
    }
    let mut all: Vec<Constant> = each!(
        fma,
        lone,
        dot,
        short_dot,
        word_dot,
        short_sum,
        splat,
        panel,
        inner,
        call,
        result,
        epilogue,
        vector_op,
        vector_move,
        scattered,
        plain,
        enter,
        step,
        cold_step,
        visible
    );
    all.push(("list.0".to_string(), |m, _| &mut m.list.0, 0));
    all.extend((0..3).map(|n| -> Constant { (format!("depthwise.{n}"), |m, n| &mut m.depthwise[n], n) }));
    all.extend((0..2).map(|n| -> Constant { (format!("decode.{n}"), |m, n| &mut m.decode[n], n) }));
    all.extend((1..4).map(|n| -> Constant { (format!("levels.{n}.read"), |m, n| &mut m.levels[n].read, n) }));
    all.extend((0..4).map(|n| -> Constant { (format!("levels.{n}.spilled"), |m, n| &mut m.levels[n].spilled, n) }));
    all
}

fn predicted(machine: &Machine, layer: &Layer) -> f64 {
    layer.terms.latency(machine).seconds * 1e3 * layer.calls
}

fn total(model: &Model, ms: impl Fn(&Layer) -> f64) -> f64 {
    model.layers.iter().map(ms).sum()
}

fn loss(machine: &Machine, start: &Machine, constants: &[Constant], models: &[Model]) -> f64 {
    let huber = |x: f64| if x.abs() < FAR { x * x } else { FAR * (2.0 * x.abs() - FAR) };
    let of = |model: &Model| {
        let all = total(model, |l| l.ms);
        let alike = ALIKE / model.layers.len().max(1) as f64;
        let each = |l: &Layer| (l.ms / all + alike) * huber((predicted(machine, l) / l.ms).ln());
        total(model, each) + WHOLE * huber(off(machine, model).ln())
    };
    let moved = |(_, at, which): &Constant| (*at(&mut machine.clone(), *which) / *at(&mut start.clone(), *which)).ln().powi(2);
    models.iter().map(of).sum::<f64>() / models.len().max(1) as f64 + STAY * constants.iter().map(moved).sum::<f64>()
}

/// Predicted over measured time of a model.
fn off(machine: &Machine, model: &Model) -> f64 {
    total(model, |l| predicted(machine, l)) / total(model, |l| l.ms)
}

/// What a description reaches.
fn figures(machine: &Machine, models: &[Model]) -> String {
    let pairs: Vec<(f64, f64)> = models.iter().flat_map(|m| m.layers.iter().map(|l| (predicted(machine, l), l.ms))).collect();
    let rho = onnxc::profile::spearman(&pairs).unwrap_or(0.0);
    let mut off: Vec<(f64, &str)> = models.iter().map(|m| (off(machine, m), &m.name[..])).collect();
    off.sort_by(|a, b| b.0.ln().abs().total_cmp(&a.0.ln().abs()));
    let within = off.iter().filter(|o| (o.0 - 1.0).abs() <= 0.12).count();
    let worst: Vec<String> = off.iter().take(SHOWN).map(|(off, name)| format!("{name} {off:.2}")).collect();
    format!(
        "rank correlation {rho:.4} of {} layers; {within} of {} models within 12 %; predicted over measured: {}",
        pairs.len(),
        off.len(),
        worst.join(", ")
    )
}
