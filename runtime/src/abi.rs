//! The C ABI of compiled models: what the caller hands to `NAME_run`, what it answers. The one definition of these structs; generated headers
//! and the code generator follow it.

#![allow(non_camel_case_types)]

use core::ffi::c_void;
use core::mem::{offset_of, size_of};

/// Runs `task(arg, i, worker)` for every `i < tasks`, with `worker` below the model's thread count and no worker number in use twice at the
/// same time; returns 0 when all have run.
pub type onnxc_parallel_for = unsafe extern "C" fn(
    ctx: *mut c_void,
    tasks: u32,
    task: unsafe extern "C" fn(arg: *mut c_void, i: u32, worker: u32),
    arg: *mut c_void,
) -> i32;

/// Called at the begin (phase 0) and end (phase 1) of each step.
pub type onnxc_profile = unsafe extern "C" fn(ctx: *mut c_void, step: u32, phase: u32);

/// What the caller may lend to an inference; every member may be null.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct onnxc_hooks {
    /// First argument of the functions.
    pub ctx: *mut c_void,
    /// Threads.
    pub parallel_for: Option<onnxc_parallel_for>,
    /// Profiling.
    pub profile: Option<onnxc_profile>,
}

/// Everything that one inference needs; owned by the caller.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct onnxc_call {
    /// One pointer per model input.
    pub inputs: *const *const c_void,
    /// One pointer per model output.
    pub outputs: *const *mut c_void,
    /// Working memory, of the size and alignment that the descriptor states. Contents need not survive between calls.
    pub arena: *mut c_void,
    /// The weight file's contents, 64-byte aligned; null unless the model was compiled with weights in a file.
    pub weights: *const c_void,
    /// Hooks, or null.
    pub hooks: *const onnxc_hooks,
}

/// The inference has run.
pub const ONNXC_OK: i32 = 0;
/// A pointer that the model needs is null.
pub const ONNXC_NULL: i32 = 1;
/// The arena (or the weights) is not aligned as stated.
pub const ONNXC_MISALIGNED: i32 = 2;
/// The CPU, or the operating system, lacks a feature that the code was compiled for.
pub const ONNXC_CPU: i32 = 3;
/// An output or the arena overlaps another buffer.
pub const ONNXC_OVERLAP: i32 = 4;
/// The model needs its weight file and `weights` is null.
pub const ONNXC_NO_WEIGHTS: i32 = 5;
/// `parallel_for` answered with an error; outputs are undefined.
pub const ONNXC_PARALLEL: i32 = 6;

const _: () = {
    assert!(size_of::<onnxc_call>() == 5 * size_of::<usize>());
    assert!(size_of::<onnxc_hooks>() == 3 * size_of::<usize>());
    assert!(offset_of!(onnxc_call, hooks) == 4 * size_of::<usize>());
};
