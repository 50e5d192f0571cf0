//! Compression for people: what a search tells when it is done, and what a recipe tells of it later.

use std::fmt::Write;

use onnxc_ir::workload::energy;
use onnxc_search::explain::{Report, Row};
use onnxc_search::{Recipe, Taken};

/// A line of figures; `drop` is a share.
fn line(out: &mut String, name: &str, drop: Option<f64>, taken: &Taken) {
    let drop = drop.map_or(String::new(), |d| format!("{:.2} %", 100.0 * d));
    let _ = writeln!(
        out,
        "  {name:<42} {drop:>8} {:>11.4} ms {:>12} {:>12} {:>10.1} uJ",
        taken.seconds * 1e3,
        taken.weight_bytes,
        taken.arena_bytes,
        taken.joules * 1e6
    );
}

/// The whole model before and after, and what it would have been without a choice.
pub fn summary(report: &Report) -> String {
    let mut out = format!("compression for {}: {}\n", report.target, report.metric);
    let _ = writeln!(out, "  {:<42} {:>8} {:>14} {:>12} {:>12} {:>13}", "", "drop", "predicted", "weights", "arena", "energy");
    line(&mut out, "dense", None, &report.dense);
    line(&mut out, "compressed", Some(report.drop), &report.compressed);
    for baseline in &report.baselines {
        match &baseline.model {
            Some(model) => line(&mut out, &format!("{} at {}", baseline.name, model.density), Some(model.drop), &model.taken),
            None => {
                let _ = writeln!(out, "  {:<42} every density loses more", baseline.name);
            }
        }
    }
    let score = &report.score;
    let counted = match score.accuracy {
        Some(a) => format!("{:.2} % -> {:.2} %", 100.0 * a.dense, 100.0 * a.compressed),
        None => format!("{:.2} %", 100.0 * score.agreement),
    };
    let on = if report.generated { "generated samples" } else { "samples, none seen before" };
    let _ = writeln!(
        out,
        "  {counted} on {} {on}, expected loss {:.2} %, 90 % bound {:.2} %; least {} within {:.1} % of the best choice",
        report.samples,
        100.0 * score.expected,
        100.0 * score.bound,
        report.objective,
        100.0 * report.optimality_gap
    );
    out
}

/// A recipe: its report, or what its layers say by themselves.
pub fn recipe(recipe: &Recipe) -> String {
    let Some(report) = &recipe.report else {
        let mut out = "compression\n".to_string();
        for l in &recipe.layers {
            let _ = writeln!(
                out,
                "  {:<16} {:>5} of positions, error {:<9} {}",
                format!("{:?}", l.weights),
                l.density,
                l.error,
                l.name
            );
        }
        return out;
    };
    let mut out = summary(report);
    let _ = writeln!(out, "  energy: {}", energy::SOURCE);
    let heads = ["layer became", "error", "divergence", "MACs", "bytes", "us", "uJ", "next best: us, bytes"];
    let widths = [22, 9, 11, 24, 20, 18, 18, 40];
    let cells: Vec<String> = heads.iter().zip(widths).map(|(head, width)| format!("{head:<width$}")).collect();
    let _ = writeln!(out, "\n  {} node", cells.join(" "));
    report.layers.iter().for_each(|row| layer(&mut out, row, &widths));
    out
}

fn layer(out: &mut String, row: &Row, widths: &[usize; 8]) {
    let next = row.runner_up.as_ref().map_or(String::new(), |r| format!("{}: {}, {}", r.kind, r.us, r.bytes));
    let cells = [
        row.chosen.clone(),
        row.error.to_string(),
        row.divergence.to_string(),
        format!("{} -> {}", row.macs.0, row.macs.1),
        format!("{} -> {}", row.bytes.0, row.bytes.1),
        format!("{} -> {}", row.us.0, row.us.1),
        format!("{} -> {}", row.uj.0, row.uj.1),
        next,
    ];
    let cells: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    let _ = writeln!(out, "  {} {}", cells.join(" "), row.name);
}
