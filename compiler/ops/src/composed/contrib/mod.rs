//! The operators of ONNX Runtime's domain com.microsoft, into which its optimiser fuses the graphs that it exports, taken apart again.
//!
//! Their meaning is that of ONNX Runtime's CPU kernels (docs/ContribOperators.md of that project).

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod distance;
pub(crate) mod heads;
pub(crate) mod layout;
pub(crate) mod nbits;
pub(crate) mod qlinear;
pub(crate) mod qmatmul;
pub(crate) mod transformer;

use onnxc_ir::ValueId;
use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};

use super::Build;

/// An operator of com.microsoft.
const fn import(name: &'static str, build: fn(&mut dyn ImportCx) -> OpResult<Vec<ValueId>>) -> Import {
    Import { domain: "com.microsoft", name, opsets: (1, NEWEST), build }
}

/// The extents of an operand that must have `N` of them.
fn extents<const N: usize>(b: &Build, x: ValueId, what: &str) -> OpResult<[u64; N]> {
    <[u64; N]>::try_from(b.shape(x)?).map_err(|_| OpError::new(format!("{what} is {}, {N} dimensions are needed", b.ty(x))))
}

/// Refuses an optional operand that is given.
fn absent(cx: &dyn ImportCx, i: usize, what: &str) -> OpResult<()> {
    match cx.opt_input(i) {
        None => Ok(()),
        Some(_) => Err(OpError::new(format!("{what} (input {i}) is not supported")).help("export the model without it")),
    }
}

/// Refuses an attribute that is not 0.
fn unset(cx: &dyn ImportCx, name: &str) -> OpResult<()> {
    match cx.attrs().int(name).unwrap_or(0) {
        0 => Ok(()),
        n => Err(OpError::new(format!("{name} = {n} is not supported")).help(format!("export the model with {name} = 0"))),
    }
}
