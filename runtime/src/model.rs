//! A compiled model, known by its descriptor: enumerate its tensors, check buffers, run it.

use core::ffi::{CStr, c_char};
use core::fmt;
use core::mem::MaybeUninit;
use core::slice;

use crate::abi;
use crate::bound::Bound;
use crate::buffer::{Input, Output};
use crate::hooks::Hooks;

/// A compiled model.
#[derive(Clone, Copy)]
pub struct Model {
    pub(crate) raw: &'static abi::onnxc_model,
    pub(crate) run: abi::onnxc_run,
    pub(crate) sizes: abi::onnxc_sizes_fn,
}

// SAFETY: a descriptor is constant, and the ABI makes `run` re-entrant.
#[expect(unsafe_code, reason = "constant data")]
unsafe impl Send for Model {}

/// Why a descriptor cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DescriptorError {
    /// It does not begin with the magic number.
    Magic,
    /// It is of another version of the ABI, this one.
    Version(u32),
    /// Its structs are smaller than this version's.
    Size,
    /// It lacks a function.
    Run,
}

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            DescriptorError::Magic => f.write_str("not a descriptor of a compiled model"),
            DescriptorError::Version(v) => write!(f, "the model has ABI version {v}, this runtime {}", abi::ONNXC_ABI_VERSION),
            DescriptorError::Size => f.write_str("the structs of the descriptor are too small"),
            DescriptorError::Run => f.write_str("the descriptor lacks a function"),
        }
    }
}

impl core::error::Error for DescriptorError {}

/// Why an inference did not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Another number of inputs than the model has.
    InputCount {
        /// What the model has.
        expected: u32,
        /// What was given.
        given: usize,
    },
    /// Another number of outputs than the model has.
    OutputCount {
        /// What the model has.
        expected: u32,
        /// What was given.
        given: usize,
    },
    /// An input of the wrong size.
    InputSize {
        /// Which one.
        index: u32,
        /// Bytes that the model reads.
        expected: u64,
        /// Bytes given.
        given: usize,
    },
    /// An output of the wrong size.
    OutputSize {
        /// Which one.
        index: u32,
        /// Bytes that the model writes.
        expected: u64,
        /// Bytes given.
        given: usize,
    },
    /// An input of the wrong element type, as ONNX numbers them.
    InputType {
        /// Which one.
        index: u32,
        /// What the model reads.
        expected: u32,
        /// What was given.
        given: u32,
    },
    /// An output of the wrong element type, as ONNX numbers them.
    OutputType {
        /// Which one.
        index: u32,
        /// What the model writes.
        expected: u32,
        /// What was given.
        given: u32,
    },
    /// A buffer is not aligned for its element type.
    BufferAlignment,
    /// The arena is too small.
    ArenaSize {
        /// Bytes that the model needs.
        expected: u64,
        /// Bytes given.
        given: usize,
    },
    /// The arena is not aligned.
    ArenaAlignment(u64),
    /// The weights were given for a model that has them in the object, or are of the wrong size or not aligned to 64 bytes.
    Weights {
        /// Bytes that the model needs.
        expected: u64,
        /// Bytes given.
        given: usize,
    },
    /// The model needs its weight file, or its coded weights unpacked.
    NoWeights,
    /// The CPU, or the operating system, lacks a feature that the code was compiled for.
    Cpu,
    /// Buffers overlap.
    Overlap,
    /// The tasks could not be run.
    Parallel,
    /// The value of an input contradicts a size that was fixed when compiling; from [`Model::unpack`]: the coded weights are damaged.
    Data,
    /// The model was not compiled for these values of its open dimensions, or has another number of them.
    Dims,
    /// A status that this version does not know.
    Other(i32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Error::InputCount { expected, given } => write!(f, "{given} inputs for a model of {expected}"),
            Error::OutputCount { expected, given } => write!(f, "{given} outputs for a model of {expected}"),
            Error::InputSize { index, expected, given } => write!(f, "input {index} has {given} bytes, needs {expected}"),
            Error::OutputSize { index, expected, given } => write!(f, "output {index} has {given} bytes, needs {expected}"),
            Error::InputType { index, expected, given } => write!(f, "input {index} has element type {given}, needs {expected}"),
            Error::OutputType { index, expected, given } => {
                write!(f, "output {index} has element type {given}, needs {expected}")
            }
            Error::BufferAlignment => f.write_str("a buffer is not aligned for its element type"),
            Error::ArenaSize { expected, given } => write!(f, "the arena has {given} bytes, needs {expected}"),
            Error::ArenaAlignment(align) => write!(f, "the arena must be aligned to {align} bytes"),
            Error::Weights { expected, given } => write!(f, "{given} bytes of weights, needs {expected} bytes aligned to 64"),
            Error::NoWeights => f.write_str("the model needs its weight file or unpacked weights"),
            Error::Cpu => f.write_str("the CPU lacks a feature of the model"),
            Error::Overlap => f.write_str("buffers overlap"),
            Error::Parallel => f.write_str("the tasks could not be run"),
            Error::Data => f.write_str("an input contradicts a fixed size, or coded weights are damaged"),
            Error::Dims => f.write_str("the model was not compiled for these values of its open dimensions"),
            // No status is negative; unsigned numbers are written by code that is there already.
            Error::Other(status) => write!(f, "status {}", status.cast_unsigned()),
        }
    }
}

impl core::error::Error for Error {}

/// An input or output of a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tensor {
    /// Name in the ONNX graph.
    pub name: &'static str,
    /// Element type, as ONNX numbers them.
    pub dtype: u32,
    /// Extents, outermost first.
    pub dims: &'static [u64],
    /// Size of the buffer.
    pub bytes: u64,
    /// For an output: the input whose buffer it may share.
    pub alias: Option<u32>,
}

/// An open dimension of a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dim {
    /// Name.
    pub name: &'static str,
    /// The values that the model was compiled for, ascending; a single one is a range too.
    pub ranges: &'static [abi::onnxc_range],
    /// An input and its axis whose extent is `factor` times the value.
    pub from: (u32, u32),
    /// Extent of that axis for a value of 1.
    pub factor: u32,
}

/// A size that the data of a call decide on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// Name: the output and the axis that it is first seen at.
    pub name: &'static str,
    /// Its largest value.
    pub bound: u64,
}

/// A step of a model, as profiles number them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// ONNX nodes that the step does the work of, separated by a space.
    pub name: &'static str,
    /// Mnemonic of the operator.
    pub op: &'static str,
}

impl Model {
    /// A model by its descriptor, the symbol `NAME_model` of the compiled object.
    ///
    /// # Safety
    /// `raw` is the descriptor of a compiled model, unchanged.
    ///
    /// # Errors
    /// When the descriptor is of another version of the ABI.
    #[expect(unsafe_code, reason = "trusts the pointers of the descriptor")]
    pub unsafe fn new(raw: &'static abi::onnxc_model) -> Result<Model, DescriptorError> {
        if raw.magic != abi::ONNXC_MAGIC {
            return Err(DescriptorError::Magic);
        }
        if raw.abi_version != abi::ONNXC_ABI_VERSION {
            return Err(DescriptorError::Version(raw.abi_version));
        }
        if (raw.model_bytes as usize) < size_of::<abi::onnxc_model>()
            || (raw.tensor_bytes as usize) < size_of::<abi::onnxc_tensor>()
            || (raw.dim_bytes as usize) < size_of::<abi::onnxc_dim>()
        {
            return Err(DescriptorError::Size);
        }
        let run = raw.run.ok_or(DescriptorError::Run)?;
        let sizes = raw.sizes.ok_or(DescriptorError::Run)?;
        Ok(Model { raw, run, sizes })
    }

    /// The descriptor.
    pub fn descriptor(&self) -> &'static abi::onnxc_model {
        self.raw
    }

    /// Prefix of the model's symbols.
    pub fn name(&self) -> &'static str {
        text(self.raw.name)
    }

    /// CPU features that the code needs.
    pub fn cpu_features(&self) -> impl Iterator<Item = &'static str> + use<> {
        text(self.raw.cpu_features).split_ascii_whitespace()
    }

    /// Size of the arena.
    pub fn arena_bytes(&self) -> u64 {
        self.raw.arena_bytes
    }

    /// Alignment of the arena.
    pub fn arena_align(&self) -> u64 {
        self.raw.arena_align
    }

    /// The inputs, in graph order.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = Tensor> + use<> {
        tensors(self.raw.inputs, self.raw.n_inputs, self.raw.tensor_bytes)
    }

    /// The outputs, in graph order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = Tensor> + use<> {
        tensors(self.raw.outputs, self.raw.n_outputs, self.raw.tensor_bytes)
    }

    /// The steps, as [`Hooks::profile`] numbers them.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = Step> + use<> {
        let steps = raw_slice(self.raw.steps, self.raw.n_steps);
        steps.iter().map(|s| Step { name: text(s.name), op: text(s.op) })
    }

    /// The open dimensions, in the order in which [`Model::at`] takes their values.
    pub fn dims(&self) -> impl ExactSizeIterator<Item = Dim> + use<> {
        let (first, stride) = (self.raw.dims, self.raw.dim_bytes);
        (0..self.raw.n_dims).map(move |i| dim(first, i, stride))
    }

    /// The sizes that data decides on, in the order in which calls report them.
    pub fn counts(&self) -> impl ExactSizeIterator<Item = Count> + use<> {
        let (first, stride) = (self.raw.counts, self.raw.count_bytes);
        (0..self.raw.n_counts).map(move |i| count(first, i, stride))
    }

    /// Size of the weights that each call brings, which are in a file or were unpacked; 0 when the object has them.
    pub fn passed_weights_bytes(&self) -> u64 {
        let are_passed = matches!(self.raw.weights_mode, abi::ONNXC_WEIGHTS_FILE | abi::ONNXC_WEIGHTS_CODED);
        if are_passed { self.raw.weights_bytes } else { 0 }
    }

    /// Decodes the coded weights into memory of [`Model::passed_weights_bytes`] that is aligned to 64 bytes. The answer is what [`Model::run`] takes, for as many
    /// runs and threads as there are.
    ///
    /// # Errors
    /// [`Error::Weights`] for other memory, or when the weights are not coded; [`Error::Cpu`]; [`Error::Data`].
    #[expect(unsafe_code, reason = "calls the decoder, and gives out what it has written")]
    pub fn unpack<'m>(&self, memory: &'m mut [MaybeUninit<u8>]) -> Result<&'m [u8], Error> {
        let Some(unpack) = self.raw.unpack else { return Err(Error::Weights { expected: 0, given: memory.len() }) };
        check_weights(self.raw.weights_bytes, memory.as_ptr().cast(), memory.len())?;
        // SAFETY: the memory has the size and alignment that the function of the descriptor wants.
        status(unsafe { unpack(memory.as_mut_ptr().cast()) })?;
        // SAFETY: the function has written all bytes.
        Ok(unsafe { slice::from_raw_parts(memory.as_ptr().cast(), memory.len()) })
    }

    /// The model with values for its open dimensions; none for a model without.
    ///
    /// # Errors
    /// [`Error::Dims`] for values that the model was not compiled for.
    pub fn at<'d>(&self, dims: &'d [u64]) -> Result<Bound<'d>, Error> {
        Bound::new(*self, dims)
    }

    /// Runs one inference of a model without open dimensions: [`Bound::run`].
    ///
    /// # Errors
    /// As [`Bound::run`].
    pub fn run<const I: usize, const O: usize>(
        &self,
        inputs: [Input; I],
        outputs: [Output; O],
        arena: &mut [MaybeUninit<u8>],
        weights: Option<&[u8]>,
        hooks: Hooks,
    ) -> Result<(), Error> {
        self.at(&[])?.run(inputs, outputs, arena, weights, hooks)
    }

    /// As [`Model::run`], for numbers of inputs and outputs that are not known at compile time: [`Bound::run_slices`].
    ///
    /// # Errors
    /// As [`Bound::run`].
    #[cfg(feature = "std")]
    pub fn run_slices(
        &self,
        inputs: &[Input],
        outputs: &mut [Output],
        arena: &mut [MaybeUninit<u8>],
        weights: Option<&[u8]>,
        hooks: Hooks,
    ) -> Result<(), Error> {
        self.at(&[])?.run_slices(inputs, outputs, arena, weights, hooks, &mut [])
    }
}

/// Have weights this size, and are they aligned?
pub(crate) fn check_weights(expected: u64, given: *const u8, bytes: usize) -> Result<(), Error> {
    let good = bytes as u64 == expected && (bytes == 0 || given.addr().is_multiple_of(64));
    if good { Ok(()) } else { Err(Error::Weights { expected, given: bytes }) }
}

/// What a status of the ABI says.
pub(crate) fn status(status: i32) -> Result<(), Error> {
    match status {
        abi::ONNXC_OK => Ok(()),
        abi::ONNXC_CPU => Err(Error::Cpu),
        abi::ONNXC_OVERLAP => Err(Error::Overlap),
        abi::ONNXC_NO_WEIGHTS => Err(Error::NoWeights),
        abi::ONNXC_PARALLEL => Err(Error::Parallel),
        abi::ONNXC_DATA => Err(Error::Data),
        abi::ONNXC_DIMS => Err(Error::Dims),
        other => Err(Error::Other(other)),
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Model").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A string of the descriptor; empty when it is null or not UTF-8.
#[expect(unsafe_code, reason = "reads the descriptor")]
fn text(pointer: *const c_char) -> &'static str {
    if pointer.is_null() {
        return "";
    }
    // SAFETY: `Model::new` was promised a descriptor of a compiled model: its strings are constant and end with a zero.
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap_or("")
}

#[expect(unsafe_code, reason = "reads the descriptor")]
fn raw_slice<T>(pointer: *const T, count: u32) -> &'static [T] {
    if pointer.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: `Model::new` was promised a descriptor of a compiled model: its arrays are constant and as long as it says.
    unsafe { slice::from_raw_parts(pointer, count as usize) }
}

/// Dimensions stand `stride` bytes apart, as tensors do.
#[expect(unsafe_code, reason = "reads the descriptor")]
fn dim(first: *const abi::onnxc_dim, i: u32, stride: u32) -> Dim {
    // SAFETY: `i` is below the count that the descriptor states, and the distance is the one it states.
    let d = unsafe { &*first.byte_add(i as usize * stride as usize) };
    Dim { name: text(d.name), ranges: raw_slice(d.ranges, d.n_ranges), from: (d.input, d.axis), factor: d.factor }
}

/// Counts stand `stride` bytes apart, as tensors do.
#[expect(unsafe_code, reason = "reads the descriptor")]
fn count(first: *const abi::onnxc_count, i: u32, stride: u32) -> Count {
    // SAFETY: `i` is below the count that the descriptor states, and the distance is the one it states.
    let c = unsafe { &*first.byte_add(i as usize * stride as usize) };
    Count { name: text(c.name), bound: c.bound }
}

/// Tensors stand `stride` bytes apart, which is more than our struct in descriptors of later compilers.
#[expect(unsafe_code, reason = "reads the descriptor")]
fn tensors(first: *const abi::onnxc_tensor, count: u32, stride: u32) -> impl ExactSizeIterator<Item = Tensor> {
    (0..count).map(move |i| {
        // SAFETY: `i` is below the count that the descriptor states, and the distance is the one it states.
        let t = unsafe { &*first.byte_add(i as usize * stride as usize) };
        Tensor {
            name: text(t.name),
            dtype: t.dtype,
            dims: raw_slice(t.dims, t.rank),
            bytes: t.bytes,
            alias: u32::try_from(t.alias).ok(),
        }
    })
}
