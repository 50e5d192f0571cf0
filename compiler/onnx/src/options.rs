//! What the caller of import can set.

use std::collections::BTreeMap;

use onnxc_ir::{Dim, DimBindings, Tensor};

/// Options of an import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Values of named dimensions (`--dim`).
    pub dims: DimBindings,
    /// Extents of inputs by name (`--shape`): numbers, or symbols that the caller names.
    pub shapes: BTreeMap<String, Vec<Dim>>,
    /// Inputs that become constants (`--const`).
    pub consts: BTreeMap<String, Tensor>,
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
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { nodes: 1_000_000, rank: 32, tensor_bytes: 1 << 36, depth: 90, fold_bytes: 1 << 28, fold_elements: 1 << 22 }
    }
}
