//! What the search asks of the compiler: code for this machine, prices on the target.

use std::sync::Mutex;
use std::time::Instant;

use onnxc_codegen::{JitModel, Weights, coded_weight_bytes};
use onnxc_ir::Graph;
use onnxc_ir::dim::Dim;
use onnxc_search::work::Store;
use onnxc_search::{Backend, Cost, Error, Result, Step, Taken};
use onnxc_targets::Target;

use crate::cli::Freedom;
use crate::fault::{Done, Fault};
use crate::progress::Progress;
use crate::{pipeline, profile};

/// Runs of a measurement.
const RUNS: usize = 15;

/// This machine and the target.
pub struct Host<'a> {
    here: Target,
    target: &'a Target,
    freedom: Freedom,
    progress: Progress,
    verbose: bool,
    counted: Mutex<Counted>,
    /// What is being counted, in front of what is being done for it.
    within: Mutex<String>,
    store: Box<dyn Store>,
}

impl<'a> Host<'a> {
    /// For a target and what may be done for speed.
    pub fn new(target: &'a Target, freedom: &Freedom, store: Box<dyn Store>) -> Done<Host<'a>> {
        let cpu = if cfg!(target_arch = "x86_64") { "native" } else { "" };
        let triple = target_lexicon::Triple::host().to_string();
        let here = onnxc_targets::describe(&triple, cpu, 1).map_err(|e| Fault::Usage(e.to_string()))?;
        let freedom = Freedom { recipe: Vec::new(), found: None, ..freedom.clone() };
        let verbose = std::env::var_os("ONNXC_LOG").is_some();
        Ok(Host {
            here,
            target,
            freedom,
            progress: Progress::start("calibration"),
            verbose,
            counted: Mutex::default(),
            within: Mutex::default(),
            store,
        })
    }
}

/// What is being counted, since when, from what number on.
#[derive(Default)]
struct Counted(Option<(String, Instant, usize)>);

impl Counted {
    /// Seconds that the rest takes if it takes as long as what was done so far; none before anything was.
    fn left(&mut self, what: &str, done: usize, of: usize, now: Instant) -> Option<f64> {
        let (_, start, first) = match &self.0 {
            Some(known) if known.0 == what && known.2 <= done => known,
            _ => self.0.insert((what.to_string(), now, done)),
        };
        let (steps, seconds) = (done - first, now.duration_since(*start).as_secs_f64());
        (steps > 0).then(|| seconds / steps as f64 * of.saturating_sub(done) as f64)
    }
}

/// `40 s`, `3 min`
fn duration(seconds: f64) -> String {
    if seconds < 90.0 { format!("{} s", seconds.ceil()) } else { format!("{} min", (seconds / 60.0).ceil()) }
}

impl Host<'_> {
    fn show(&self, what: &str) {
        self.progress.say(what);
        if self.verbose {
            eprintln!("onnxc: {what}");
        }
    }

    /// Prints what was found on stderr, beside the line that says what is being done.
    pub fn tell(&self, text: &str) {
        self.progress.suspend(|| eprint!("{text}"));
    }
}

fn failed(e: Fault) -> Error {
    match e {
        Fault::Model(list) => Error::Input(list.iter().map(|d| d.message.clone()).collect::<Vec<_>>().join("; ")),
        Fault::Usage(why) | Fault::Internal(why) => Error::Internal(why),
        Fault::Stop => Error::Internal("stopped".to_string()),
    }
}

/// A graph that has no code although all of its operators have: what the reproducer saves.
fn ours<E>(graph: &Graph, why: impl Fn(E) -> Error) -> impl Fn(E) -> Error {
    move |e| {
        crate::reproducer::entering("compress", Some(graph));
        why(e)
    }
}

impl Backend for Host<'_> {
    fn runner(&self, graph: &Graph) -> Result<JitModel> {
        let (_, plan) = pipeline::plan_of(graph, &self.here, &self.freedom).map_err(ours(graph, failed))?;
        JitModel::new(&plan, &self.here).map_err(ours(graph, |e| Error::Internal(format!("{e}"))))
    }

    fn cost(&self, graph: &Graph) -> Result<Cost> {
        let (graph, plan) = pipeline::plan_of(graph, self.target, &self.freedom).map_err(ours(graph, failed))?;
        let layers = profile::layers(&plan, &graph, self.target);
        let most = |d: &Dim| d.range(&plan.bounds).1;
        let threads = u64::from(self.target.desc.max_threads.max(1));
        let is_coded = self.freedom.weights == Weights::Coded;
        let coded = |plan| coded_weight_bytes(plan).map_err(ours(&graph, |e| Error::Internal(format!("{e}"))));
        let stored = if is_coded { coded(&plan)? } else { plan.weights_bytes };
        let taken = Taken {
            seconds: layers.iter().map(|l| l.predicted.seconds).sum(),
            joules: layers.iter().map(|l| l.energy.joules()).sum(),
            weight_bytes: stored,
            arena_bytes: most(&plan.arena_shared) + threads * most(&plan.scratch_per_worker),
            macs: layers.iter().map(|l| (l.work.ops.products + l.work.ops.dots) / 2).sum(),
        };
        let step = |(l, live_bytes): (profile::Layer, u64)| Step {
            origins: l.origins,
            seconds: l.predicted.seconds,
            joules: l.energy.joules(),
            live_bytes,
        };
        Ok(Cost { steps: layers.into_iter().zip(super::live::bytes(&plan)).map(step).collect(), taken })
    }

    fn measure(&self, graph: &Graph, input: &[&[u8]]) -> Result<Option<f64>> {
        let same =
            self.here.isa.triple() == self.target.isa.triple() && self.here.required_features == self.target.required_features;
        if !same {
            return Ok(None);
        }
        let (jit, mut outputs, mut times) = (self.runner(graph)?, Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let start = Instant::now();
            jit.run(input, &mut outputs, 1).map_err(|e| Error::Internal(e.to_string()))?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Ok(Some(times[RUNS / 2]))
    }

    fn name(&self) -> String {
        let Freedom { math, max_size, weights, .. } = &self.freedom;
        let coded = if *weights == Weights::Coded { " coded" } else { "" };
        let desc = &self.target.desc;
        // Prices are what these constants make of plans.
        let how = format!("{:?} {math:?} {max_size:?}{coded} {:?}", self.target.required_features, desc.machine);
        format!("{} {} {} {how}", desc.triple, desc.cpu, desc.max_threads)
    }

    fn target(&self) -> String {
        format!("{} {}", self.target.desc.triple, self.target.desc.cpu)
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn say(&self, what: &str) {
        let within = self.within.lock().map(|w| w.clone()).unwrap_or_default();
        self.show(&if within.is_empty() { what.to_string() } else { format!("{within}: {what}") });
    }

    fn count(&self, what: &str, done: usize, of: usize) {
        let left = self.counted.lock().map(|mut c| c.left(what, done, of, Instant::now())).ok().flatten();
        let said = format!("{what}, {done} of {of}{}", left.map(|s| format!(", about {} left", duration(s))).unwrap_or_default());
        self.show(&said);
        if let Ok(mut within) = self.within.lock() {
            *within = if done < of { said } else { String::new() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_left_takes_as_long_as_what_was_done() {
        let (mut counted, start) = (Counted::default(), Instant::now());
        let mut left = |what: &str, done: usize, seconds: u64| counted.left(what, done, 10, start + Duration::from_secs(seconds));
        assert_eq!((left("layers", 0, 0), left("layers", 2, 6), left("layers", 5, 15)), (None, Some(24.0), Some(15.0)));
        // Something else begins anew, and so does the same another time.
        assert_eq!((left("models", 4, 20), left("models", 5, 22), left("models", 1, 30)), (None, Some(10.0), None));
        assert_eq!((duration(12.1), duration(200.0)), ("13 s".to_string(), "4 min".to_string()));
    }
}
