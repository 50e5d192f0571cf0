//! What the search asks of the compiler: code for this machine, prices on the target.

use std::time::Instant;

use onnxc_codegen::JitModel;
use onnxc_ir::Graph;
use onnxc_ir::dim::Dim;
use onnxc_search::work::Store;
use onnxc_search::{Backend, Cost, Error, Result};
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
    store: Box<dyn Store>,
}

impl<'a> Host<'a> {
    /// For a target and what may be done for speed.
    pub fn new(target: &'a Target, freedom: &Freedom, store: Box<dyn Store>) -> Done<Host<'a>> {
        let cpu = if cfg!(target_arch = "x86_64") { "native" } else { "" };
        let triple = target_lexicon::Triple::host().to_string();
        let here = onnxc_targets::describe(&triple, cpu, 1).map_err(|e| Fault::Usage(e.to_string()))?;
        let freedom = Freedom { recipe: None, found: None, ..freedom.clone() };
        let verbose = std::env::var_os("ONNXC_LOG").is_some();
        Ok(Host { here, target, freedom, progress: Progress::start("calibration"), verbose, store })
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
        Ok(Cost {
            macs: layers.iter().map(|l| (l.work.ops.products + l.work.ops.dots) / 2).sum(),
            steps: layers.into_iter().map(|l| (l.origins, l.predicted.seconds)).collect(),
            weight_bytes: plan.weights_bytes,
            arena_bytes: most(&plan.arena_shared),
        })
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
        let Freedom { math, max_size, .. } = &self.freedom;
        format!(
            "{} {} {:?} {} {math:?} {max_size:?}",
            self.target.desc.triple, self.target.desc.cpu, self.target.required_features, self.target.desc.max_threads
        )
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn say(&self, what: &str) {
        self.progress.say(what);
        if self.verbose {
            eprintln!("onnxc: {what}");
        }
    }
}
