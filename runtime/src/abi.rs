//! The C ABI of compiled models: what the caller hands to `NAME_run`, what it answers, and the descriptor `NAME_model` that describes a model
//! to programs that do not know it. The one definition of these structs in Rust: the code generator follows its offsets, generated bindings
//! contain this file, and `include/onnxc.h` says the same in C (a test compares them). The ABI is for 64-bit targets.

#![allow(non_camel_case_types)]

use core::ffi::{c_char, c_void};
use core::mem::{align_of, offset_of, size_of};

/// First member of a descriptor: "ONXC" in memory order.
pub const ONNXC_MAGIC: u32 = 0x4358_4e4f;
/// Version of these structs. Members are only ever added at the end; `model_bytes` and `tensor_bytes` tell how many there are.
pub const ONNXC_ABI_VERSION: u32 = 1;

/// A task of `parallel_for`.
pub type onnxc_task = unsafe extern "C" fn(arg: *mut c_void, i: u32, worker: u32);

/// Runs `task(arg, i, worker)` for every `i < tasks`, with `worker` below the model's thread count and no worker number in use twice at the
/// same time; returns 0 when all have run.
pub type onnxc_parallel_for = unsafe extern "C" fn(ctx: *mut c_void, tasks: u32, task: onnxc_task, arg: *mut c_void) -> i32;

/// Called at the begin (phase 0) and end (phase 1) of each step, by the thread that called the model.
pub type onnxc_profile = unsafe extern "C" fn(ctx: *mut c_void, step: u32, phase: u32);

/// One inference: checks what it is given and answers a status, `ONNXC_OK` or another `ONNXC_` code.
pub type onnxc_run = unsafe extern "C" fn(call: *const onnxc_call) -> i32;

/// Decodes weights into `weights_bytes` of memory that is aligned to 64 bytes, and answers a status.
pub type onnxc_unpack = unsafe extern "C" fn(weights: *mut c_void) -> i32;

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
    /// One pointer per model input, aligned for the element type.
    pub inputs: *const *const c_void,
    /// One pointer per model output, aligned for the element type.
    pub outputs: *const *mut c_void,
    /// Working memory, of the size and alignment that the descriptor states. Contents need not survive between calls.
    pub arena: *mut c_void,
    /// The weight file's contents, 64-byte aligned; null unless the model was compiled with weights in a file.
    pub weights: *const c_void,
    /// Hooks, or null.
    pub hooks: *const onnxc_hooks,
    /// The values of the model's open dimensions, `n_dims` of them in the descriptor's order. Not read when there are none.
    pub dims: *const u64,
    /// Where the sizes go that data decides on, `n_counts` of them in the descriptor's order. Not read when there are none.
    pub counts: *mut u64,
}

/// Values from one to another.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct onnxc_range {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// An open dimension of a model: its value comes with each call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct onnxc_dim {
    /// Name in the ONNX graph, or the one that the compiler was given.
    pub name: *const c_char,
    /// The `n_ranges` ranges of values that the model was compiled for, ascending; a single value is a range too.
    pub ranges: *const onnxc_range,
    /// Number of ranges.
    pub n_ranges: u32,
    /// An input with an axis whose extent is `factor` times the value.
    pub input: u32,
    /// That axis.
    pub axis: u32,
    /// Extent of the axis for a value of 1.
    pub factor: u32,
}

/// A size that the data of a call decide on: extents of outputs. Every call reports it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct onnxc_count {
    /// Name: the output and the axis that it is first seen at.
    pub name: *const c_char,
    /// Its largest value, which buffers must have room for.
    pub bound: u64,
}

/// What a call with certain values of the open dimensions needs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct onnxc_sizes {
    /// Size of the arena, at most that of the descriptor.
    pub arena_bytes: u64,
    /// Null, or where the extents of all inputs go, one input behind the other.
    pub input_dims: *mut u64,
    /// Null, or where the extents of all outputs go, one output behind the other.
    pub output_dims: *mut u64,
    /// Null, or where the size of each input goes.
    pub input_bytes: *mut u64,
    /// Null, or where the size of each output goes: of its buffer, whatever the counts.
    pub output_bytes: *mut u64,
    /// Read, not written: null, or the counts that a call has reported. With null, `output_dims` are those of the largest counts.
    pub counts: *const u64,
}

/// Fills in `sizes` for these values of the open dimensions (null when there are none); answers `ONNXC_OK` or another `ONNXC_` code.
pub type onnxc_sizes_fn = unsafe extern "C" fn(dims: *const u64, sizes: *mut onnxc_sizes) -> i32;

/// An input or output of a model: dense, row-major, in the host's byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct onnxc_tensor {
    /// Name in the ONNX graph, UTF-8.
    pub name: *const c_char,
    /// `rank` extents, outermost first; null when the rank is 0. In a model with open dimensions, the largest extents.
    pub dims: *const u64,
    /// Size of a buffer of these extents.
    pub bytes: u64,
    /// Element type, the number that ONNX gives it (`TensorProto.DataType`). A bool is one byte, 0 or 1.
    pub dtype: u32,
    /// Number of dimensions.
    pub rank: u32,
    /// For an output: index of the input whose buffer it may share, or -1. For an input: -1.
    pub alias: i32,
    /// Zero.
    pub reserved: u32,
}

/// A step of the model, as profiles number them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct onnxc_step {
    /// The ONNX nodes that the step does the work of, separated by a space.
    pub name: *const c_char,
    /// Mnemonic of the operator.
    pub op: *const c_char,
}

/// A compiled model. Lives in read-only data of the model's object as `NAME_model`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct onnxc_model {
    /// `ONNXC_MAGIC`.
    pub magic: u32,
    /// `ONNXC_ABI_VERSION`.
    pub abi_version: u32,
    /// Size of this struct.
    pub model_bytes: u32,
    /// Size of `onnxc_tensor`, the distance between two inputs.
    pub tensor_bytes: u32,
    /// Prefix of the model's symbols.
    pub name: *const c_char,
    /// Name and version of the compiler.
    pub producer: *const c_char,
    /// Target triple.
    pub target: *const c_char,
    /// CPU features that the code needs, separated by a space.
    pub cpu_features: *const c_char,
    /// The inference.
    pub run: Option<onnxc_run>,
    /// `n_inputs` inputs.
    pub inputs: *const onnxc_tensor,
    /// `n_outputs` outputs.
    pub outputs: *const onnxc_tensor,
    /// `n_steps` steps.
    pub steps: *const onnxc_step,
    /// Number of inputs.
    pub n_inputs: u32,
    /// Number of outputs.
    pub n_outputs: u32,
    /// Number of steps.
    pub n_steps: u32,
    /// Most workers that a `parallel_for` may use; 1 for code that never calls it.
    pub max_threads: u32,
    /// Size of the arena: `arena_shared + max_threads * scratch_per_thread`. Enough for all values of open dimensions.
    pub arena_bytes: u64,
    /// The part of the arena that all workers share.
    pub arena_shared: u64,
    /// The part of the arena that each worker has for itself.
    pub scratch_per_thread: u64,
    /// Alignment of the arena, a power of two.
    pub arena_align: u64,
    /// Deepest stack of `run` and of a task, hooks not counted.
    pub stack_bytes: u64,
    /// Size of the weights.
    pub weights_bytes: u64,
    /// Where the weights are, an `ONNXC_WEIGHTS_` code.
    pub weights_mode: u32,
    /// Zero.
    pub reserved: u32,
    /// SHA-256 of the ONNX file.
    pub model_sha256: [u8; 32],
    /// SHA-256 of the weights when the caller passes them, otherwise zeros.
    pub weights_sha256: [u8; 32],
    /// What a call needs.
    pub sizes: Option<onnxc_sizes_fn>,
    /// `n_dims` open dimensions.
    pub dims: *const onnxc_dim,
    /// Number of open dimensions; 0 in a model whose shapes were all fixed when compiling.
    pub n_dims: u32,
    /// Size of `onnxc_dim`, the distance between two of them.
    pub dim_bytes: u32,
    /// `n_counts` sizes that data decides on.
    pub counts: *const onnxc_count,
    /// Number of them.
    pub n_counts: u32,
    /// Size of `onnxc_count`, the distance between two of them.
    pub count_bytes: u32,
    /// Decodes the weights of `ONNXC_WEIGHTS_CODED`; otherwise null.
    pub unpack: Option<onnxc_unpack>,
    /// What the object has of coded weights, otherwise 0.
    pub coded_bytes: u64,
    /// Deepest stack of `unpack`, otherwise 0.
    pub unpack_stack_bytes: u64,
}

/// A point of a bundle: one of several forms of a model that are compiled together, with shared weights. `NAME_points` is a table of them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct onnxc_point {
    /// Name of its recipe, or `dense`.
    pub name: *const c_char,
    /// The point as a model like others: its own `run`, `sizes`, `steps`, `arena_bytes` and `stack_bytes`.
    pub model: *const onnxc_model,
    /// Predicted time of an inference on the target, in seconds.
    pub predicted_seconds: f64,
    /// What is lost of the metric that its recipe states, 0 to 1; 0 for the dense model, negative where it is not known.
    pub drop: f64,
    /// Size of the arena, as in its model.
    pub arena_bytes: u64,
    /// Size of the weights that it reads. `weights_bytes` of its model is that of all points.
    pub weights_bytes: u64,
}

// SAFETY: points are constant data that nobody writes.
#[expect(unsafe_code, reason = "constant data")]
unsafe impl Sync for onnxc_point {}

// SAFETY: descriptors are constant data that nobody writes.
#[expect(unsafe_code, reason = "constant data")]
unsafe impl Sync for onnxc_model {}

/// The weights are in the object's read-only data.
pub const ONNXC_WEIGHTS_EMBED: u32 = 0;
/// The caller passes the contents of the weight file.
pub const ONNXC_WEIGHTS_FILE: u32 = 1;
/// The weights are in a section of their own, which a linker script may place.
pub const ONNXC_WEIGHTS_SECTION: u32 = 2;
/// The weights are in the object's read-only data, coded; the caller passes what `unpack` makes of them.
pub const ONNXC_WEIGHTS_CODED: u32 = 3;

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
/// The model needs its weight file, or its coded weights unpacked, and `weights` is null.
pub const ONNXC_NO_WEIGHTS: i32 = 5;
/// `parallel_for` answered with an error; outputs are undefined.
pub const ONNXC_PARALLEL: i32 = 6;
/// The value of an input contradicts what the model was compiled for (a size that depends on data); outputs are undefined. From `unpack`: the coded
/// weights are damaged.
pub const ONNXC_DATA: i32 = 7;
/// The model was not compiled for these values of its open dimensions.
pub const ONNXC_DIMS: i32 = 8;
/// A bundle has no point of this number.
pub const ONNXC_POINT: i32 = 9;

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<onnxc_call>() == 56 && offset_of!(onnxc_call, counts) == 48);
    assert!(size_of::<onnxc_hooks>() == 24 && offset_of!(onnxc_hooks, profile) == 16);
    assert!(size_of::<onnxc_tensor>() == 40 && offset_of!(onnxc_tensor, alias) == 32);
    assert!(size_of::<onnxc_step>() == 16 && offset_of!(onnxc_step, op) == 8);
    assert!(size_of::<onnxc_dim>() == 32 && offset_of!(onnxc_dim, input) == 20);
    assert!(size_of::<onnxc_sizes>() == 48 && offset_of!(onnxc_sizes, output_dims) == 16);
    assert!(size_of::<onnxc_count>() == 16 && offset_of!(onnxc_count, bound) == 8);
    assert!(size_of::<onnxc_point>() == 48 && offset_of!(onnxc_point, predicted_seconds) == 16);
    assert!(size_of::<onnxc_model>() == 280 && align_of::<onnxc_model>() == 8);
    assert!(offset_of!(onnxc_model, name) == 16 && offset_of!(onnxc_model, run) == 48);
    assert!(offset_of!(onnxc_model, n_inputs) == 80 && offset_of!(onnxc_model, arena_bytes) == 96);
    assert!(offset_of!(onnxc_model, weights_mode) == 144 && offset_of!(onnxc_model, model_sha256) == 152);
    assert!(offset_of!(onnxc_model, weights_sha256) == 184 && offset_of!(onnxc_model, sizes) == 216);
    assert!(offset_of!(onnxc_model, unpack) == 256 && offset_of!(onnxc_model, unpack_stack_bytes) == 272);
};
