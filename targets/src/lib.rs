//! Targets: what each machine can do, its tiles, and the emitters of microkernels and vector loops.
//!
//! [`describe`] turns a triple and a CPU name into a [`Target`]. [`compile_kernel`] makes the code of one microkernel,
//! [`vectorize`] that of one vector loop. A kernel is written once against the `Emitter` trait; each instruction set implements it.

mod assembled;
mod clif;
mod cpu;
mod depthwise;
mod divisions;
mod emitter;
mod epilogue;
mod error;
mod features;
mod fetch;
mod kernels;
mod limits;
mod lookup;
mod machine;
mod probe;
mod program;
mod tile;
mod vectorize;

pub use assembled::{Assembled, Pool};
pub use cpu::{Isa, Target, describe, targets};
pub use error::Error;
pub use kernels::{KernelCode, compile_kernel};
pub use probe::{PROBE_WORDS, Probe, ProbeCode, compile_probe};
pub use vectorize::{Slot, SlotValue, VectorLoop, vectorize};
