//! The runtime beside compiled models: the ABI structs, a safe wrapper that allocates nothing, and with feature `std` a thread pool, the
//! mapped weight file and memory for coded weights.
//!
//! A compiled model needs none of this: its entry is one C function. [`Model`] checks buffers and gives typed errors to Rust callers that
//! learn about a model from its descriptor; the generated `out.rs` does the same for one known model.
//!
//! What is deliberately absent: memory allocation, global state, and any knowledge of operators.

#![cfg_attr(not(feature = "std"), no_std)]

pub mod abi;
mod bound;
mod buffer;
mod hooks;
mod model;
#[cfg(feature = "std")]
mod pool;
pub mod sha256;
#[cfg(feature = "std")]
mod weights;

pub use bound::Bound;
pub use buffer::{Aligned, Element, Input, Output};
pub use hooks::{Hooks, Parallel, Phase, Task};
pub use model::{DescriptorError, Dim, Error, Model, Step, Tensor};
#[cfg(feature = "std")]
pub use pool::ThreadPool;
#[cfg(feature = "std")]
pub use weights::{UnpackedWeights, WeightFile, WeightFileError};

/// The C header of the ABI. Generated headers contain it.
pub const HEADER: &str = include_str!("../include/onnxc.h");

/// The source text of [`abi`]. Generated Rust bindings contain it.
pub const ABI_SOURCE: &str = include_str!("abi.rs");
