//! From a plan to machine code: object files and code in this process, by the same generator.
//!
//! [`compile_object`] gives an ELF object that exports `NAME_run`; [`JitModel`] runs the same code here. What is deliberately absent: any
//! knowledge of ONNX and of operators, and calls of library functions in generated code.

mod affine;
pub mod artifact;
mod contents;
mod dispatch;
mod entropy;
mod entry;
mod error;
mod float;
mod forms;
mod generate;
mod integer;
mod jit;
mod layout;
mod leaves;
mod lower;
mod machine;
mod object;
mod pool;
mod print;
mod roofs;
mod scalar;
mod segment;
mod unwind;

pub use contents::{Contents, WeightBlob};
pub use entropy::{coded_bytes, coded_weight_bytes};
pub use error::{Error, Result};
pub use forms::{LoopForms, loop_forms};
pub use generate::{Source, StepInfo, Weights, step_table};
pub use jit::{JitModel, Profile, Unpacked};
pub use object::{ObjectOptions, ObjectOutput, asm_text, clif_text, compile_object};
pub use roofs::measure_roofs;
