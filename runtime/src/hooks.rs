//! What a caller lends to an inference: threads and a profiler, as safe Rust, and the C functions that hand them to the model.

use core::ffi::c_void;
use core::marker::PhantomData;

use crate::abi;

/// Work of an inference that can be shared out. Each index below the count must be run once.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    function: abi::onnxc_task,
    arg: *mut c_void,
    lifetime: PhantomData<&'a ()>,
}

// SAFETY: the model guarantees that different indices can run at the same time on any threads.
#[expect(unsafe_code, reason = "crosses threads by contract of the ABI")]
unsafe impl Send for Task<'_> {}
// SAFETY: as above; a `Task` itself is never written.
#[expect(unsafe_code, reason = "crosses threads by contract of the ABI")]
unsafe impl Sync for Task<'_> {}

impl<'a> Task<'a> {
    /// A Rust function as a task.
    #[cfg(feature = "std")]
    pub(crate) fn of<F: Fn(u32, u32) + Sync>(f: &'a F) -> Task<'a> {
        #[expect(unsafe_code, reason = "called as a task")]
        unsafe extern "C" fn call<F: Fn(u32, u32)>(arg: *mut c_void, i: u32, worker: u32) {
            // SAFETY: `arg` is the reference below, which lives as long as the task.
            let f = unsafe { &*arg.cast::<F>() };
            f(i, worker);
        }
        Task { function: call::<F>, arg: core::ptr::from_ref(f).cast_mut().cast(), lifetime: PhantomData }
    }

    /// Runs index `i` as `worker`.
    ///
    /// # Safety
    /// `i` is below the count of tasks and run once; `worker` is below the limit, and no other thread runs as the same worker now.
    #[expect(unsafe_code, reason = "calls the model")]
    pub unsafe fn run(&self, i: u32, worker: u32) {
        // SAFETY: the caller keeps to the contract above, which is that of `parallel_for`; the argument lives as long as the task.
        unsafe { (self.function)(self.arg, i, worker) }
    }
}

/// Something that runs tasks on several threads, such as `ThreadPool` (feature `std`).
///
/// # Safety
/// `parallel_for` runs every index below `tasks` exactly once before it returns true, with worker numbers below `max_workers`, and never two
/// tasks at the same time under one number. Effects of the tasks are visible to the caller when it returns.
#[expect(unsafe_code, reason = "memory safety depends on worker numbers")]
pub unsafe trait Parallel: Sync {
    /// Runs all tasks; false when it could not.
    fn parallel_for(&self, tasks: u32, max_workers: u32, task: Task) -> bool;
}

/// Begin or end of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The step is about to run.
    Begin,
    /// The step has run.
    End,
}

/// Hooks of one inference. The default has none: everything runs on the calling thread.
#[derive(Clone, Copy, Default)]
pub struct Hooks<'a> {
    /// Threads.
    pub parallel: Option<&'a dyn Parallel>,
    /// Called at the begin and end of each step with its number.
    pub profile: Option<&'a dyn Fn(u32, Phase)>,
}

/// What `ctx` points to during an inference.
pub(crate) struct Context<'a> {
    hooks: Hooks<'a>,
    max_workers: u32,
}

impl<'a> Context<'a> {
    pub(crate) fn new(hooks: Hooks<'a>, max_workers: u32) -> Context<'a> {
        Context { hooks, max_workers }
    }

    /// The hooks for C; they may be used while `self` lives and stays where it is.
    pub(crate) fn raw(&self) -> abi::onnxc_hooks {
        abi::onnxc_hooks {
            ctx: core::ptr::from_ref(self).cast_mut().cast(),
            parallel_for: self.hooks.parallel.map(|_| parallel_for as abi::onnxc_parallel_for),
            profile: self.hooks.profile.map(|_| profile as abi::onnxc_profile),
        }
    }
}

#[expect(unsafe_code, reason = "called by the model")]
unsafe extern "C" fn parallel_for(ctx: *mut c_void, tasks: u32, task: abi::onnxc_task, arg: *mut c_void) -> i32 {
    // SAFETY: `ctx` is the context that `raw` made; `Model::run` keeps it alive during the inference.
    let context = unsafe { &*ctx.cast::<Context>() };
    let task = Task { function: task, arg, lifetime: PhantomData };
    match context.hooks.parallel {
        Some(parallel) if parallel.parallel_for(tasks, context.max_workers, task) => 0,
        _ => 1,
    }
}

#[expect(unsafe_code, reason = "called by the model")]
unsafe extern "C" fn profile(ctx: *mut c_void, step: u32, phase: u32) {
    // SAFETY: `ctx` is the context that `raw` made; `Model::run` keeps it alive during the inference.
    let context = unsafe { &*ctx.cast::<Context>() };
    if let Some(profile) = context.hooks.profile {
        profile(step, if phase == 0 { Phase::Begin } else { Phase::End });
    }
}
