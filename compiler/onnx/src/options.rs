//! What the caller of import can set.

use std::collections::{BTreeMap, BTreeSet};

use onnxc_ir::dim::DimBounds;
use onnxc_ir::{Dim, DimBindings, Tensor};

/// Options of an import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Values of named dimensions (`--dim`).
    pub dims: DimBindings,
    /// Smallest and largest values of dimensions that stay open.
    pub ranges: DimBounds,
    /// Extents of inputs by name (`--shape`): numbers, or symbols that the caller names; the tensors of a sequence are `NAME_0`, `NAME_1`, ...
    pub shapes: BTreeMap<String, Vec<Dim>>,
    /// The largest extents of tensors whose size data decides on (`--bound`), by name.
    pub bounds: BTreeMap<String, Vec<u64>>,
    /// Inputs that become constants (`--const`).
    pub consts: BTreeMap<String, Tensor>,
    /// Lengths of inputs that are sequences (`--length`).
    pub lengths: BTreeMap<String, u64>,
    /// Optional inputs that are not given (`--absent`).
    pub absent: BTreeSet<String>,
    /// Import nothing but the inputs: for what must be known of their types before the rest can be imported.
    pub inputs_only: bool,
    /// Limits.
    pub limits: Limits,
}

/// Limits that protect the compiler from hostile or broken models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes, those of bodies and expanded functions included.
    pub nodes: usize,
    /// Dimensions of a tensor.
    pub rank: usize,
    /// Bytes of one tensor.
    pub tensor_bytes: u64,
    /// Nesting of messages, bodies and functions.
    pub depth: usize,
    /// Bytes of all results of constant folding.
    pub fold_bytes: u64,
    /// Elements that one folded node may read and write: bounds the work of a fold.
    pub fold_elements: u64,
    /// Elements of one sequence, and iterations of a loop over sequences.
    pub sequence: usize,
    /// Elements of all sequences that the model's nodes make.
    pub sequence_total: usize,
    /// Bytes, as the file has them, of bodies that are built once for each element or iteration.
    pub unroll_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            nodes: 1_000_000,
            rank: 32,
            tensor_bytes: 1 << 36,
            depth: 90,
            fold_bytes: 1 << 28,
            fold_elements: 1 << 22,
            sequence: 4096,
            sequence_total: 1 << 24,
            unroll_bytes: 1 << 24,
        }
    }
}
