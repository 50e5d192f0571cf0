//! The intermediate representations of onnxc: tensors, graph, operator record, scalar programs, loop nests.
//!
//! This crate knows no operator by name, no target by name, no file and no clock.

pub mod blob;
pub mod byte_table;
pub mod dim;
pub mod dtype;
mod elementwise;
pub mod float_sums;
pub mod graph;
pub mod interp;
pub mod kernel;
pub mod lir;
mod lir_text;
pub mod list;
pub mod lower;
pub mod math;
pub mod op;
pub mod packed;
pub mod parse;
pub mod plan;
pub mod rare_arm;
pub mod scalar;
pub mod scalar_eval;
pub mod small_float;
pub mod target;
pub mod tensor;
pub mod text;
pub mod verify;
pub mod workload;

pub use dim::{Dim, DimBindings};
pub use dtype::DType;
pub use graph::{Attr, Attrs, Graph, Node, TensorType, Value, ValueId};
pub use tensor::Tensor;
