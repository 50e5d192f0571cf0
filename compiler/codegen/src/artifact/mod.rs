//! What lies around the code: the descriptor in the object, the archive, the C header, the Rust binding.

mod archive;
mod descriptor;
mod header;
mod names;
mod points;
mod rust;

pub use archive::archive;
pub use header::header;
pub use points::{Listed, listed};
pub use rust::{binding, crate_files};

pub(crate) use descriptor::define as define_descriptor;
pub(crate) use points::define as define_points;

use std::collections::BTreeMap;

use onnxc_ir::plan::{Io, OpenDim, Point};

/// Facts that the header and the bindings state.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Prefix of all symbols; a C identifier.
    pub name: String,
    /// Name and version of the compiler.
    pub producer: String,
    /// Target triple.
    pub target: String,
    /// CPU features that the code needs, separated by a space.
    pub cpu_features: String,
    /// SHA-256 of the ONNX file.
    pub model_sha256: [u8; 32],
    /// Inputs, with their largest extents.
    pub inputs: Vec<Io>,
    /// Outputs, with their largest extents.
    pub outputs: Vec<Io>,
    /// Dimensions whose values come with each call.
    pub dims: Vec<OpenDim>,
    /// Sizes that data decides on, with their bounds.
    pub counts: Vec<(String, u64)>,
    /// What is to be said of inputs and outputs besides their types, by name.
    pub notes: BTreeMap<String, String>,
    /// Operator and ONNX nodes of every step, as profiles number them.
    pub steps: Vec<crate::StepInfo>,
    /// Most workers of a `parallel_for`.
    pub max_threads: u32,
    /// Size of the arena.
    pub arena_bytes: u64,
    /// The part of the arena that all workers share.
    pub arena_shared: u64,
    /// The part of the arena that each worker has for itself.
    pub scratch_per_thread: u64,
    /// Alignment of the arena.
    pub arena_align: u64,
    /// Deepest stack.
    pub stack_bytes: u64,
    /// Size of the weights.
    pub weights_bytes: u64,
    /// Where the weights are.
    pub weights: crate::Weights,
    /// SHA-256 of what the caller passes as weights, zeros if that is nothing.
    pub weights_sha256: [u8; 32],
    /// What there is to know of coded weights.
    pub coded: Option<Coded>,
    /// Points of a bundle, each with its own facts. The sizes of the bundle are the largest.
    pub points: Vec<(Point, Facts)>,
}

/// Coded weights and their decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coded {
    /// Bytes in the object.
    pub bytes: u64,
    /// Deepest stack of `NAME_unpack`.
    pub unpack_stack_bytes: u64,
}

impl Facts {
    /// What the weights take in the object or in the file beside it.
    pub fn stored_weights_bytes(&self) -> u64 {
        self.coded.map_or(self.weights_bytes, |coded| coded.bytes)
    }

    /// True when the caller has to pass weights.
    pub fn weights_are_passed(&self) -> bool {
        self.weights.are_passed() && self.weights_bytes > 0
    }
}

/// Extents of an input or output.
pub(crate) fn extents(io: &Io) -> Vec<u64> {
    io.ty.const_shape().expect("internal: a compiled model has known extents")
}

/// Size of an input or output in its buffer.
pub(crate) fn bytes(io: &Io) -> u64 {
    io.ty.dtype.bytes_for(extents(io).iter().product()).expect("internal: the layout of the plan has this size")
}
