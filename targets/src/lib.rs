//! Targets: what each machine can do, its tiles, and the emitters of microkernels and vector loops.
//!
//! [`describe`] turns a triple and a CPU name into a [`Target`]. [`compile_kernel`] makes the code of one microkernel,

mod assembled;
mod clif;
mod cpu;
mod depthwise;
mod emitter;
mod error;
mod features;
mod program;
mod tile;

pub use cpu::{Isa, Target, describe, targets};
pub use error::Error;
pub use kernels::{KernelCode, compile_kernel};

mod kernels;
