//! The same code in this process: `run`, `verify`, `bench` and tests.

#![expect(unsafe_code, reason = "calls machine code that this crate has just generated")]

use std::ffi::c_void;
use std::sync::Mutex;

use cranelift_jit::{ArenaMemoryProvider, JITBuilder, JITModule};
use cranelift_module::FuncId;
use onnxc_ir::{Dim, DimBindings, TensorType};
use onnxc_runtime::abi::{ONNXC_DATA, ONNXC_OK, onnxc_call, onnxc_hooks, onnxc_unpack};
use onnxc_targets::Target;

use crate::contents::WeightBlob;
use crate::dispatch::counts;
use crate::entropy;
use crate::error::{Error, Result};
use crate::generate::{Machine, Options, RUN, Source, Weights, generate, step_table};
use crate::layout::Layout;
use crate::machine::FuncIx;
use crate::object::{Home, define};
use crate::pool::Pool;

/// Bytes aligned to a cache line and to any vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u8; 64]);

pub(crate) fn lines(bytes: u64) -> Vec<Line> {
    vec![Line([0; 64]); (bytes as usize).div_ceil(64)]
}

/// Writes into lines.
struct Fill<'l> {
    lines: &'l mut [Line],
    /// Bytes that are there.
    at: usize,
}

impl std::io::Write for Fill<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let Some(line) = self.lines.get_mut(self.at / 64) else { return Ok(0) };
        let room = &mut line.0[self.at % 64..];
        let n = room.len().min(bytes.len());
        room[..n].copy_from_slice(&bytes[..n]);
        self.at += n;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A compiled model in this process.
pub struct JitModel {
    /// Freed when the model is dropped; behind a lock only because it is not `Sync` by itself.
    module: Mutex<Option<JITModule>>,
    run: unsafe extern "C" fn(*const onnxc_call) -> i32,
    weights: Vec<Line>,
    /// Arenas that no call uses at the moment.
    arenas: Mutex<Vec<Vec<Line>>>,
    pool: Mutex<Option<std::sync::Arc<Pool>>>,
    arena_bytes: u64,
    /// Names of the open dimensions.
    dims: Vec<String>,
    calls: Vec<CallSizes>,
    /// Names of the sizes that data decides on.
    counts: Vec<String>,
    threads: u32,
    n_steps: usize,
    /// Microkernels and vector loops.
    pub kernels: Vec<String>,
    /// Stack that a run takes at most.
    pub stack_bytes: u64,
    /// What decoding the weights took, if they were coded.
    pub unpacked: Option<Unpacked>,
}

/// Coded weights that generated code has decoded.
#[derive(Clone, Copy, Debug)]
pub struct Unpacked {
    /// Bytes before.
    pub coded_bytes: u64,
    /// Bytes after.
    pub bytes: u64,
    /// Seconds in between.
    pub seconds: f64,
}

/// The most coded weights that are taken into this process: code reaches its data by distances of 32 bits.
const MOST_CODED: usize = 1 << 30;

impl std::fmt::Debug for JitModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JitModel").field("kernels", &self.kernels).finish_non_exhaustive()
    }
}

/// What a call with values of the open dimensions in certain ranges passes.
struct CallSizes {
    ranges: Vec<(u64, u64)>,
    input_bytes: Vec<Dim>,
    output_bytes: Vec<Dim>,
    outputs: Vec<TensorType>,
}

/// What each step took in one inference, by step number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Nanoseconds, the sum of all times that the step ran.
    pub ns: Vec<u64>,
    /// How often it ran: not at all in the branch that was not taken, once for each round of a loop.
    pub calls: Vec<u64>,
}

struct ProfileState {
    begun: std::time::Instant,
    profile: Profile,
}

struct HookState {
    pool: Option<std::sync::Arc<Pool>>,
    profile: Option<ProfileState>,
}

unsafe extern "C" fn profile_hook(ctx: *mut c_void, step: u32, phase: u32) {
    // SAFETY: `ctx` is the `HookState` of the running call, which calls this from one thread only.
    let state = unsafe { &mut *ctx.cast::<HookState>() };
    if let Some(p) = &mut state.profile {
        if phase == 0 {
            p.begun = std::time::Instant::now();
        } else if let (Some(ns), Some(calls)) = (p.profile.ns.get_mut(step as usize), p.profile.calls.get_mut(step as usize)) {
            *ns += p.begun.elapsed().as_nanos() as u64;
            *calls += 1;
        }
    }
}

unsafe extern "C" fn parallel_hook(
    ctx: *mut c_void,
    tasks: u32,
    task: unsafe extern "C" fn(*mut c_void, u32, u32),
    arg: *mut c_void,
) -> i32 {
    // SAFETY: as in `profile_hook`; tasks do not touch the state.
    let state = unsafe { &*ctx.cast::<HookState>() };
    let arg = arg as usize;
    if let Some(pool) = &state.pool {
        pool.run(tasks, &|i, worker| {
            // SAFETY: the generated code passes a task and its argument that stay valid until this function returns; tasks are independent.
            unsafe { task(arg as *mut c_void, i, worker) };
        });
        return 0;
    }
    1
}

/// Functions and coded weights in executable memory of this process.
fn loaded(machine: &Machine, coded: &[u8], target: &Target) -> Result<JITModule> {
    if coded.len() > MOST_CODED {
        let why = format!(
            "{} bytes of coded weights are more than can be run here ({MOST_CODED}): compile the model instead",
            coded.len()
        );
        return Err(Error::Run(why));
    }
    let mut builder = JITBuilder::with_isa(target.isa.clone(), cranelift_module::default_libcall_names());
    // One block of memory for everything keeps calls and data within the reach of their displacements.
    let size: usize = machine.functions.iter().map(|(_, _, c)| c.bytes.len() + c.align as usize).sum::<usize>();
    let memory = ArenaMemoryProvider::new_with_size(2 * size + coded.len() + (1 << 20)).map_err(|e| Error::Run(e.to_string()))?;
    builder.memory_provider(Box::new(memory));
    let mut module = JITModule::new(builder);
    define(&mut module, machine, "model", Home::Memory(coded))?;
    module.finalize_definitions().map_err(|e| Error::Object(e.to_string()))?;
    Ok(module)
}

/// Decodes weights by the function `unpack` of the module; `sizes` are those before and after.
fn decode(module: &JITModule, unpack: FuncIx, weights: &mut [Line], sizes: (u64, u64)) -> Result<Unpacked> {
    let unpack = module.get_finalized_function(FuncId::from_u32(unpack));
    // SAFETY: this function was generated with this signature.
    let unpack = unsafe { std::mem::transmute::<*const u8, onnxc_unpack>(unpack) };
    let begun = std::time::Instant::now();
    // SAFETY: it writes as many bytes as the plan has weights, for which there are lines, and reads the coded ones of the module.
    let status = unsafe { unpack(weights.as_mut_ptr().cast()) };
    let seconds = begun.elapsed().as_secs_f64();
    if status != ONNXC_OK {
        return Err(Error::Run(format!("decoding the weights answered with status {status}")));
    }
    Ok(Unpacked { coded_bytes: sizes.0, bytes: sizes.1, seconds })
}

impl JitModel {
    /// Compiles a plan, or the plans of a model with open dimensions, for this machine.
    ///
    /// # Errors
    /// As [`crate::compile_object`]; also when the target is not this machine's architecture.
    pub fn new<'p>(source: impl Into<Source<'p>>, target: &Target) -> Result<JitModel> {
        JitModel::with_weights(source, target, &Weights::File)
    }

    /// The same; coded weights are decoded by generated code, others are simply there.
    ///
    /// # Errors
    /// As [`JitModel::new`]; also for more than 1 GiB of coded weights.
    pub fn with_weights<'p>(source: impl Into<Source<'p>>, target: &Target, weights: &Weights) -> Result<JitModel> {
        let source = source.into();
        let host = target_lexicon::Triple::host();
        if target.isa.triple().architecture != host.architecture {
            return Err(Error::Run(format!("code for {} does not run on this machine", target.isa.triple())));
        }
        let is_coded = *weights == Weights::Coded;
        let home = if is_coded { Weights::Coded } else { Weights::File };
        let options = Options { name: "model".to_string(), weights: home, text: false, clif: false };
        let machine = generate(&source, target, &options)?;
        let threads = target.desc.max_threads.max(1);
        let arena_bytes = Layout::bound(&source, threads)?.arena_bytes;
        let sizes = source.plans.iter().map(|(ranges, plan)| {
            let Layout { input_bytes, output_bytes, .. } = Layout::of(plan, threads)?;
            let outputs = plan.outputs.iter().map(|io| io.ty.clone()).collect();
            Ok(CallSizes { ranges: ranges.to_vec(), input_bytes, output_bytes, outputs })
        });
        let blob = WeightBlob::of(source.first()?)?;
        let coded = if is_coded { entropy::encode(&blob.to_vec(), &blob.starts()) } else { Vec::new() };
        let module = loaded(&machine, &coded, target)?;
        let run = module.get_finalized_function(FuncId::from_u32(RUN));
        let mut weights = lines(blob.bytes());
        let unpacked = match machine.unpack {
            Some(unpack) => Some(decode(&module, unpack.function, &mut weights, (coded.len() as u64, blob.bytes()))?),
            None => {
                blob.write(&mut Fill { lines: &mut weights, at: 0 }).map_err(|e| Error::Object(e.to_string()))?;
                None
            }
        };
        Ok(JitModel {
            // SAFETY: this function is the entry, generated with this signature; the module lives as long as the pointer.
            run: unsafe { std::mem::transmute::<*const u8, unsafe extern "C" fn(*const onnxc_call) -> i32>(run) },
            module: Mutex::new(Some(module)),
            weights,
            arenas: Mutex::default(),
            pool: Mutex::default(),
            arena_bytes,
            dims: source.dims.iter().map(|d| d.name.clone()).collect(),
            calls: sizes.collect::<Result<_>>()?,
            counts: counts(&source).into_iter().map(|c| c.0).collect(),
            threads,
            n_steps: step_table(source).len(),
            kernels: machine.kernels,
            stack_bytes: machine.stack_bytes,
            unpacked,
        })
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> u64 {
        self.arena_bytes
    }

    /// Runs one inference. `outputs` get the right sizes; `threads` is limited by what the model was compiled for. Answers the values of all
    /// symbols: open dimensions, and sizes that data decided on.
    ///
    /// # Errors
    /// When the number or sizes of inputs are wrong, or the model answers with a status.
    pub fn run(&self, inputs: &[&[u8]], outputs: &mut Vec<Vec<u8>>, threads: u32) -> Result<DimBindings> {
        self.run_sized(&[], inputs, outputs, threads)
    }

    /// Runs one inference of a model with open dimensions, of which `dims` are the values.
    ///
    /// # Errors
    /// As [`JitModel::run`]; also when no plan is for these values.
    pub fn run_sized(&self, dims: &[u64], inputs: &[&[u8]], outputs: &mut Vec<Vec<u8>>, threads: u32) -> Result<DimBindings> {
        Ok(self.call(dims, inputs, outputs, threads, false)?.1)
    }

    /// The same, with the time that each step took.
    ///
    /// # Errors
    /// As [`JitModel::run`].
    pub fn run_profiled(&self, inputs: &[&[u8]], outputs: &mut Vec<Vec<u8>>, threads: u32) -> Result<Profile> {
        Ok(self.call(&[], inputs, outputs, threads, true)?.0)
    }

    /// What a call with these values of the open dimensions passes, and the values by name.
    fn sizes(&self, dims: &[u64]) -> Result<(&CallSizes, DimBindings)> {
        if dims.len() != self.dims.len() {
            return Err(Error::Run(format!("the model has {} open dimensions, not {}", self.dims.len(), dims.len())));
        }
        let within = |c: &&CallSizes| c.ranges.iter().zip(dims).all(|(range, n)| (range.0..=range.1).contains(n));
        let call = self.calls.iter().find(within).ok_or_else(|| Error::Run(format!("no plan is for the sizes {dims:?}")))?;
        Ok((call, self.dims.iter().cloned().zip(dims.iter().copied()).collect()))
    }

    fn call(
        &self,
        dims: &[u64],
        inputs: &[&[u8]],
        outputs: &mut Vec<Vec<u8>>,
        threads: u32,
        profile: bool,
    ) -> Result<(Profile, DimBindings)> {
        let (sizes, mut values) = self.sizes(dims)?;
        let (input_bytes, output_bytes) = (numbers(&sizes.input_bytes, &values)?, numbers(&sizes.output_bytes, &values)?);
        if inputs.len() != input_bytes.len() {
            return Err(Error::Run(format!("the model has {} inputs, not {}", input_bytes.len(), inputs.len())));
        }
        for (i, (input, bytes)) in inputs.iter().zip(&input_bytes).enumerate() {
            if input.len() as u64 != *bytes {
                return Err(Error::Run(format!("input {i} has {} bytes, the model wants {bytes}", input.len())));
            }
        }
        outputs.resize(output_bytes.len(), Vec::new());
        for (output, bytes) in outputs.iter_mut().zip(&output_bytes) {
            output.resize(*bytes as usize, 0);
        }
        let mut arena = lock(&self.arenas).pop().unwrap_or_else(|| lines(self.arena_bytes));
        let in_pointers: Vec<*const c_void> = inputs.iter().map(|i| i.as_ptr().cast()).collect();
        let out_pointers: Vec<*mut c_void> = outputs.iter_mut().map(|o| o.as_mut_ptr().cast()).collect();
        let threads = threads.clamp(1, self.threads);
        let empty = || Profile { ns: vec![0; self.n_steps], calls: vec![0; self.n_steps] };
        let mut state = HookState {
            pool: (threads > 1).then(|| self.pool(threads)),
            profile: profile.then(|| ProfileState { begun: std::time::Instant::now(), profile: empty() }),
        };
        let hooks = onnxc_hooks {
            ctx: (&raw mut state).cast(),
            parallel_for: if threads > 1 { Some(parallel_hook) } else { None },
            profile: if profile { Some(profile_hook) } else { None },
        };
        let mut counts = vec![0u64; self.counts.len()];
        let call = onnxc_call {
            inputs: in_pointers.as_ptr(),
            outputs: out_pointers.as_ptr(),
            arena: arena.as_mut_ptr().cast(),
            weights: self.weights.as_ptr().cast(),
            hooks: &raw const hooks,
            dims: dims.as_ptr(),
            counts: counts.as_mut_ptr(),
        };
        // SAFETY: all buffers have the sizes that the plan was compiled for (checked above) and live until the call returns.
        let status = unsafe { (self.run)(&raw const call) };
        lock(&self.arenas).push(arena);
        if status == ONNXC_DATA {
            return Err(Error::Run("the value of an input contradicts a size that was fixed when compiling (ONNXC_DATA)".into()));
        }
        if status != ONNXC_OK {
            return Err(Error::Run(format!("the compiled model answered with status {status}")));
        }
        values.extend(self.counts.iter().cloned().zip(counts));
        // Outputs whose size data decides on are cut to the size that they have.
        for (output, ty) in outputs.iter_mut().zip(&sizes.outputs) {
            let extents = ty.shape.iter().map(|d| d.bind(&values).as_const());
            let bytes = extents.product::<Option<u64>>().and_then(|n| ty.dtype.bytes_for(n));
            let bytes = bytes.ok_or_else(|| Error::Run(format!("the size of an output, {ty}, is not known")))?;
            output.truncate(bytes as usize);
        }
        Ok((state.profile.map(|p| p.profile).unwrap_or_default(), values))
    }

    fn pool(&self, threads: u32) -> std::sync::Arc<Pool> {
        let mut pool = lock(&self.pool);
        match &*pool {
            Some(p) if p.threads() == threads => p.clone(),
            _ => {
                let new = std::sync::Arc::new(Pool::new(threads));
                *pool = Some(new.clone());
                new
            }
        }
    }
}

impl Drop for JitModel {
    fn drop(&mut self) {
        if let Some(module) = lock(&self.module).take() {
            // SAFETY: `&mut self` proves that no call is running, and the entry pointer dies with the model.
            unsafe { module.free_memory() };
        }
    }
}

/// Sizes of a call.
fn numbers(sizes: &[Dim], values: &DimBindings) -> Result<Vec<u64>> {
    let number = |d: &Dim| d.bind(values).as_const().ok_or_else(|| Error::Run("a size is open: it needs values".into()));
    sizes.iter().map(number).collect()
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
