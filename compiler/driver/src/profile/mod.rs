//! Layers of a plan: what each of them does, with what, how long it takes, and how long it had to take.
//!
//! A layer is a step of the plan. What it does is counted (`onnxc_ir::workload`); times and roofs are measured. `inspect --layers` shows the first half,
//! `bench --profile` all of it.

pub mod roofline;
pub mod table;

use std::collections::HashMap;

use onnxc_codegen::{LoopForms, Profile};
use onnxc_ir::lir::Func;
use onnxc_ir::plan::{Place, Plan, Step};
use onnxc_ir::target::TargetDesc;
use onnxc_ir::workload::energy::Energy;
use onnxc_ir::workload::latency::{Latency, Terms};
use onnxc_ir::workload::roof::{Bound, Roofs};
use onnxc_ir::workload::{Ops, Traffic, Work, energy};
use onnxc_ir::{Attr, Graph};
use onnxc_ops::schedule::Choice;
use onnxc_targets::Target;
use serde_json::{Value, json};

/// Layers that reach less of their roof are worth a look.
pub const GOOD_SHARE: f64 = 0.6;

/// A step of a plan, and what one call of it does.
pub struct Layer {
    /// The operator's mnemonic.
    pub op: String,
    /// ONNX nodes that it does the work of.
    pub origins: Vec<String>,
    /// What was counted.
    pub work: Work,
    /// Bytes that it moves.
    pub traffic: Traffic,
    /// The kernel, or kind of loops, that does most of it.
    pub kernel: String,
    /// What the time of a call is predicted from.
    pub terms: Terms,
    /// What one call takes by the model of the target.
    pub predicted: Latency,
    /// What one call takes of energy, as an estimate.
    pub energy: Energy,
    /// The choice that was made for it, where there was one.
    pub choice: String,
}

/// The layers of a plan in the order of profiles. `graph` is what was planned.
pub fn layers(plan: &Plan, graph: &Graph, target: &Target) -> Vec<Layer> {
    let (sizes, touched, choices, mut out) = (Work::sizes(plan), plan.touched_bytes(), choices(graph), Vec::new());
    // A plan without tasks is one for a single thread.
    let desc = if plan.has_tasks() { target.desc.clone() } else { TargetDesc { max_threads: 1, ..target.desc.clone() } };
    visit(&plan.steps, &mut |func, places, origins, op| {
        let work = Work::of(func, &sizes);
        let traffic = work.traffic(func, places);
        let forms = if work.loops.is_empty() { LoopForms::default() } else { onnxc_codegen::loop_forms(func, target) };
        let kernel = kernel(&work, forms);
        let terms = Terms::of(&desc, &work, &traffic, touched, forms.vector == 0);
        let predicted = terms.latency(&target.desc.machine);
        let energy = energy::estimate(&desc, &work, &traffic, touched, forms.vector == 0);
        let choice = choices.get(&(op, origins)).cloned().unwrap_or_default();
        out.push(Layer {
            op: op.to_string(),
            origins: origins.to_vec(),
            work,
            traffic,
            kernel,
            terms,
            predicted,
            energy,
            choice,
        });
    });
    out
}

/// The choices of nodes, by operator and origins.
fn choices(graph: &Graph) -> HashMap<(&str, &[String]), String> {
    let mut out = HashMap::new();
    for node in &graph.nodes {
        for attr in node.attrs.0.values() {
            if let Attr::Graph(body) = attr {
                out.extend(choices(body));
            }
        }
        let choice = Choice::of(&node.attrs);
        if choice != Choice::default() {
            out.insert((node.op.name, &node.origins[..]), choice.to_string());
        }
    }
    out
}

/// Calls `f` on the functions of a plan, in the order of profiles.
pub(crate) fn visit(steps: &[Step], f: &mut impl FnMut(&Func, &[Place], &[String], &str)) {
    for step in steps {
        if let Step::Call { func, places, origins, op } = step {
            f(func, places, origins, op);
        }
        step.inner().for_each(|list| visit(list, f));
    }
}

/// As [`Work::kernel`]; whether loops became vector code only the target can say.
fn kernel(work: &Work, forms: LoopForms) -> String {
    let name = work.kernel();
    if !work.kernels.is_empty() || work.stores == 0 {
        return name.to_string();
    }
    let how = match (forms.vector, forms.plain) {
        (0, 0) => return name.to_string(),
        (0, _) => "plain",
        (_, 0) => "vector",
        _ => "vector, plain",
    };
    if name == "copy" { format!("copy ({how})") } else { format!("loops ({how})") }
}

impl Layer {
    /// The ONNX nodes in one line.
    pub fn nodes(&self) -> String {
        self.origins.join(", ")
    }

    /// What of it needs no machine, for `times` calls.
    fn facts(&self, times: f64) -> Value {
        let n = |x: u64| (x as f64 * times).round();
        let Work { ops, kernels, exact, .. } = &self.work;
        let kernels: serde_json::Map<String, Value> = kernels.iter().map(|(name, c)| (name.clone(), c.calls.into())).collect();
        let Traffic { weights, read, written } = self.traffic;
        json!({ "op": self.op, "origins": self.origins, "kernel": self.kernel, "kernels": kernels, "exact": exact,
            "flops": n(ops.flops()), "product_flops": n(ops.products), "int8_ops": n(ops.dots), "int_ops": n(ops.ints),
            "weight_bytes": n(weights), "read_bytes": n(read), "written_bytes": n(written),
            "intensity": intensity(&self.work.ops, &self.traffic), "choice": self.choice,
            "predicted_ms": self.predicted.seconds * 1e3 * times, "energy_uj": self.energy.joules() * 1e6 * times })
    }
}

/// Operations for each byte that is moved; 0 when none is.
pub fn intensity(ops: &Ops, traffic: &Traffic) -> f64 {
    match traffic.bytes() {
        0 => 0.0,
        bytes => ops.all() as f64 / bytes as f64,
    }
}

/// Rows of `inspect --layers --json`.
pub fn facts(layers: &[Layer]) -> Vec<Value> {
    layers.iter().map(|l| l.facts(1.0)).collect()
}

/// A layer with its times.
pub struct Timed {
    /// The layer.
    pub layer: Layer,
    /// Calls in one inference, median.
    pub calls: f64,
    /// Milliseconds of all these calls, median.
    pub ms: f64,
    /// Least time of all these calls.
    pub bound: Bound,
}

impl Timed {
    /// Operations in a second, in billions.
    pub fn gops(&self) -> f64 {
        if self.ms > 0.0 { self.layer.work.ops.all() as f64 * self.calls / self.ms * 1e-6 } else { 0.0 }
    }

    /// Milliseconds of all calls by the model of the target.
    pub fn predicted_ms(&self) -> f64 {
        self.layer.predicted.seconds * 1e3 * self.calls
    }

    /// Part of the roof that it reaches.
    pub fn share(&self) -> f64 {
        if self.ms > 0.0 { self.bound.seconds() * 1e3 / self.ms } else { 0.0 }
    }

    /// Milliseconds above the least time.
    pub fn lost(&self) -> f64 {
        (self.ms - self.bound.seconds() * 1e3).max(0.0)
    }

    /// What the roof is made of.
    pub fn limit(&self) -> &'static str {
        if self.bound.compute >= self.bound.memory { "compute" } else { "memory" }
    }

    fn json(&self) -> Value {
        let mut row = self.layer.facts(self.calls);
        let more = json!({ "ms": self.ms, "calls": self.calls, "gops": self.gops(), "roof_ms": self.bound.seconds() * 1e3,
            "roof_share": self.share(), "lost_ms": self.lost(), "limit": self.limit(), "terms": self.layer.terms });
        if let (Value::Object(row), Value::Object(more)) = (&mut row, more) {
            row.extend(more);
        }
        row
    }
}

/// Spearman's rank correlation ("The proof and measurement of association between two things", 1904): Pearson's of the ranks, equal values sharing the mean
/// of theirs. None for fewer than three pairs, and where one side has only equal values.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let ranks = |side: &dyn Fn(&(f64, f64)) -> f64| -> Vec<f64> {
        let below = |x: f64| pairs.iter().filter(|p| side(p) < x).count();
        let same = |x: f64| pairs.iter().filter(|p| side(p) == x).count();
        // From the mean on, so that sums of products are those of deviations.
        let middle = (pairs.len() as f64 - 1.0) / 2.0;
        pairs.iter().map(side).map(|x| below(x) as f64 + (same(x) as f64 - 1.0) / 2.0 - middle).collect()
    };
    let (a, b) = (ranks(&|p| p.0), ranks(&|p| p.1));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    (pairs.len() > 2 && spread > 0.0).then(|| product(&a, &b) / spread)
}

/// Everything that `bench --profile` reports.
pub struct Report {
    /// Layers in the order of the plan.
    pub layers: Vec<Timed>,
    /// The machine's.
    pub roofs: Roofs,
    /// Bytes that an inference touches.
    pub touched: u64,
    /// Runs that the medians are of.
    pub runs: usize,
}

impl Report {
    /// Joins what is known of layers with times of some runs.
    pub fn new(layers: Vec<Layer>, runs: &[Profile], roofs: Roofs, touched: u64) -> Report {
        let median = |get: &dyn Fn(&Profile) -> u64| {
            let mut all: Vec<u64> = runs.iter().map(get).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or(0) as f64
        };
        let timed = layers.into_iter().enumerate().map(|(i, layer)| {
            let calls = median(&|r| r.calls.get(i).copied().unwrap_or(0));
            let ms = median(&|r| r.ns.get(i).copied().unwrap_or(0)) * 1e-6;
            let one = roofs.bound(&layer.work.ops, &layer.traffic, touched);
            let bound = Bound { compute: one.compute * calls, memory: one.memory * calls };
            Timed { layer, calls, ms, bound }
        });
        Report { layers: timed.collect(), roofs, touched, runs: runs.len() }
    }

    /// Sum of the times of the layers in milliseconds.
    pub fn sum_ms(&self) -> f64 {
        self.layers.iter().map(|l| l.ms).sum()
    }

    /// Sum of what the model of the target predicts, in milliseconds.
    pub fn predicted_ms(&self) -> f64 {
        self.layers.iter().map(Timed::predicted_ms).sum()
    }

    /// Rank correlation of predicted with measured times; none for fewer than three layers.
    pub fn correlation(&self) -> Option<f64> {
        spearman(&self.ran().map(|l| (l.predicted_ms(), l.ms)).collect::<Vec<_>>())
    }

    /// Layers that ran.
    pub fn ran(&self) -> impl Iterator<Item = &Timed> {
        self.layers.iter().filter(|l| l.calls > 0.0)
    }

    /// Layers below [`GOOD_SHARE`] of their roof, those that lose most first.
    pub fn weak(&self) -> Vec<&Timed> {
        let mut weak: Vec<&Timed> = self.ran().filter(|l| l.share() < GOOD_SHARE).collect();
        weak.sort_by(|a, b| b.lost().total_cmp(&a.lost()));
        weak
    }

    /// Fields for the object that `bench --json` prints.
    pub fn json(&self) -> Vec<(&'static str, Value)> {
        let curve = |list: &[(u64, f64)]| -> Vec<Value> {
            list.iter().map(|(bytes, rate)| json!({ "bytes": bytes, "gb_per_s": rate * 1e-9 })).collect()
        };
        let r = &self.roofs;
        let roofs = json!({ "threads": r.threads, "f32_gflops": r.flops * 1e-9, "int8_gops": r.int8_ops * 1e-9,
            "read": curve(&r.read), "copy": curve(&r.copy) });
        let rows: Vec<Value> = self.layers.iter().map(Timed::json).collect();
        vec![
            ("roofs", roofs),
            ("touched_bytes", self.touched.into()),
            ("profiled_runs", self.runs.into()),
            ("layers_ms", self.sum_ms().into()),
            ("predicted_layers_ms", self.predicted_ms().into()),
            ("rank_correlation", self.correlation().into()),
            ("layers", rows.into()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_correlate() {
        let close = |pairs: &[(f64, f64)], rho: f64| {
            let got = spearman(pairs).expect("a correlation");
            assert!((got - rho).abs() < 1e-12, "{got}, not {rho}");
        };
        close(&[(1.0, 10.0), (2.0, 11.0), (3.0, 1000.0)], 1.0);
        close(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], -1.0);
        // 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15)
        close(&[(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (4.0, 4.0)], 0.8);
        // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
        close(&[(1.0, 1.0), (2.0, 2.0), (2.0, 3.0), (4.0, 4.0)], 4.5 / (4.5f64 * 5.0).sqrt());
        assert_eq!((spearman(&[(1.0, 1.0), (2.0, 2.0)]), spearman(&[(1.0, 1.0); 3])), (None, None));
    }
}
