//! Times of the ways of a layer: run in turn by the JIT, medians of some runs each.
//!
//! Before each run as many bytes are read as the constants of the whole model have, so that weights are as far away as they are in an inference. The
//! operands are written just before, as they are there. Time is that of the layer's own steps: what feeds it is not counted.

use std::time::{Duration, Instant};

use onnxc_codegen::JitModel;
use onnxc_ir::plan::Plan;
use onnxc_ops::schedule::Choice;
use onnxc_passes::layer::FEED;
use onnxc_targets::Target;

use super::Times;
use crate::commands::codegen_fault;
use crate::fault::Done;
use crate::profile;

/// Runs of each way: at least, at most, and time of a layer after which the least is enough.
const RUNS: (usize, usize) = (5, 21);
const PATIENCE: Duration = Duration::from_millis(300);
/// After so many runs, ways that are slower by this factor are not run again.
const TRIAL: usize = 3;
const HOPELESS: f64 = 1.3;

/// What measures.
pub struct Bench<'t> {
    target: &'t Target,
    /// What is read between runs; nothing where the model's constants fit the second-level cache.
    around: Vec<u8>,
    /// What a layer read before may still be near.
    near: bool,
}

/// Models with more constants than so many second-level caches leave nothing of a layer there until it runs again.
const NEAR: u64 = 4;

/// A way, compiled.
struct Runner {
    jit: JitModel,
    inputs: Vec<Vec<u8>>,
    /// Steps of the layer itself.
    own: Vec<bool>,
    ns: Vec<u64>,
}

impl<'t> Bench<'t> {
    /// Measures code for `target`, among `around` bytes of other weights.
    pub fn new(target: &'t Target, around: u64) -> Bench<'t> {
        let size = if around > target.desc.l2_bytes { around } else { 0 };
        // Zeros would be one page of the operating system's, read again and again.
        Bench { target, around: vec![1; size as usize], near: around <= NEAR * target.desc.l2_bytes }
    }

    /// Nanoseconds of each way.
    pub fn times(&mut self, plans: &[(Choice, Plan)]) -> Done<Times> {
        let mut runners = plans.iter().map(|(_, plan)| self.runner(plan)).collect::<Done<Vec<Runner>>>()?;
        let begin = Instant::now();
        for run in 0..RUNS.1 {
            if run >= RUNS.0 && begin.elapsed() > PATIENCE {
                break;
            }
            let best = runners.iter().filter_map(|r| r.ns.iter().min()).min().copied().unwrap_or(0) as f64;
            for runner in &mut runners {
                let hopeless = run >= TRIAL && runner.ns.iter().all(|ns| *ns as f64 > HOPELESS * best);
                if !hopeless {
                    // The other ways have weights of their own, all of them more than the model.
                    if self.near {
                        runner.run(self.target.desc.max_threads)?;
                        runner.ns.pop();
                    }
                    self.spread();
                    runner.run(self.target.desc.max_threads)?;
                }
            }
        }
        Ok(plans.iter().zip(runners).map(|((choice, _), runner)| (choice.clone(), runner.median())).collect())
    }

    fn runner(&self, plan: &Plan) -> Done<Runner> {
        let jit = JitModel::new(plan, self.target).map_err(codegen_fault)?;
        let bytes = |io: &onnxc_ir::plan::Io| {
            let elements: u64 = io.ty.const_shape().unwrap_or_default().iter().product();
            let size = io.ty.dtype.bytes_for(elements).unwrap_or(0) as usize;
            // Floats a little above 1, small integers: subnormals and infinities would take other times.
            (0..size).map(|i| if io.ty.dtype.is_float() { [0, i as u8, 0x80, 0x3f][i % 4] } else { i as u8 & 1 }).collect()
        };
        let inputs = plan.inputs.iter().map(bytes).collect();
        let mut own = Vec::new();
        profile::visit(&plan.steps, &mut |_, _, origins, _| own.push(!origins.iter().any(|o| o.starts_with(FEED))));
        let mut runner = Runner { jit, inputs, own, ns: Vec::new() };
        // The first run touches the memory.
        runner.run(self.target.desc.max_threads)?;
        runner.ns.clear();
        Ok(runner)
    }

    /// Brings other memory near.
    fn spread(&self) {
        let sum = self.around.iter().step_by(64).fold(0u8, |sum, b| sum.wrapping_add(*b));
        std::hint::black_box(sum);
    }
}

impl Runner {
    fn run(&mut self, threads: u32) -> Done<()> {
        let inputs: Vec<&[u8]> = self.inputs.iter().map(Vec::as_slice).collect();
        let profile = self.jit.run_profiled(&inputs, &mut Vec::new(), threads).map_err(codegen_fault)?;
        self.ns.push(profile.ns.iter().zip(&self.own).filter(|(_, own)| **own).map(|(ns, _)| ns).sum());
        Ok(())
    }

    fn median(mut self) -> u64 {
        self.ns.sort_unstable();
        self.ns[self.ns.len() / 2]
    }
}
