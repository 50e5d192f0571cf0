//! Helpers shared by the integration tests: where the data is, how tensors are read and compared, how commands and
//! foreign targets are run.  The tests themselves are in `testsuite/tests/`.
//!
//! The helpers know files and processes only, never the compiler's own types: a mistake in the compiler's tensor code
//! cannot hide itself by being used on both sides of a comparison. Only `interpret`, `small` (importer and interpreter),
//! `samples`, `compose`, `rounding` (operators and interpreter) and `batch` (code generation) call it.

pub mod artefact;
pub mod bad_models;
pub mod batch;
pub mod bits;
pub mod compare;
pub mod compose;
pub mod counted;
pub mod data;
pub mod decoder;
pub mod harness;
pub mod interpret;
pub mod mutate;
pub mod npy;
pub mod numbers;
pub mod open_samples;
pub mod pb;
pub mod ports;
pub mod rounding;
pub mod run;
pub mod samples;
pub mod small;
pub mod target;
pub mod tensor;
pub mod wire;
pub mod zoo;
