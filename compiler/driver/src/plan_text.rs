//! Plans as text: every step with the places of its buffers and its function.

use std::fmt::Write;

use onnxc_ir::plan::{Place, Plan, Step};

/// The whole plan.
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    for (kind, list) in [("input", &plan.inputs), ("output", &plan.outputs)] {
        for (i, io) in list.iter().enumerate() {
            let _ = writeln!(out, "{kind} {i} {:?}: {}", io.name, io.ty);
        }
    }
    let _ = writeln!(out, "arena {} + {} per worker, weights {}", plan.arena_shared, plan.scratch_per_worker, plan.weights_bytes);
    for (i, count) in plan.counts.iter().enumerate() {
        let _ = writeln!(out, "count {i} {:?}: at most {}", count.name, count.bound);
    }
    steps(&mut out, &plan.steps, 0);
    out
}

fn steps(out: &mut String, list: &[Step], depth: usize) {
    let pad = "  ".repeat(depth);
    for step in list {
        match step {
            Step::Call { func, places, origins, .. } => {
                let places: Vec<String> = places.iter().map(|p| place(*p)).collect();
                let _ = writeln!(out, "{pad}; {}: buffers at {}", origins.join(", "), places.join(", "));
                func.to_string().lines().for_each(|line| out.push_str(&format!("{pad}{line}\n")));
            }
            Step::If { cond, then, otherwise } => {
                let _ = writeln!(out, "{pad}if {} {{", place(*cond));
                steps(out, then, depth + 1);
                let _ = writeln!(out, "{pad}}} else {{");
                steps(out, otherwise, depth + 1);
                let _ = writeln!(out, "{pad}}}");
            }
            Step::Require { cond } => {
                let _ = writeln!(out, "{pad}require {}", place(*cond));
            }
            Step::Count { value, count } => {
                let _ = writeln!(out, "{pad}count {count} {}", place(*value));
            }
            Step::Resize { sizes } | Step::Fits { sizes } => {
                let what = if matches!(step, Step::Fits { .. }) { "fits" } else { "resize" };
                let sizes: Vec<String> = sizes.iter().map(|(count, to)| format!("{count} = {to}")).collect();
                let _ = writeln!(out, "{pad}{what} {}", sizes.join(", "));
            }
            Step::Loop { iteration, trips, cond, body } => {
                let part = |what: &str, at: &Option<Place>| at.map_or(String::new(), |at| format!(" {what} {}", place(at)));
                let _ = writeln!(out, "{pad}loop {}{}{} {{", place(*iteration), part("trips", trips), part("while", cond));
                steps(out, body, depth + 1);
                let _ = writeln!(out, "{pad}}}");
            }
        }
    }
}

fn place(at: Place) -> String {
    match at {
        Place::Arena(n) => format!("arena+{n}"),
        Place::Room { slot, byte } => format!("arena+size {slot}+{byte}"),
        Place::WorkerScratch(n) => format!("worker+{n}"),
        Place::Weights(n) => format!("weights+{n}"),
        Place::Input(i) => format!("input {i}"),
        Place::Output(j) => format!("output {j}"),
    }
}
