//! Lines that are brought near before they are needed.

use onnxc_ir::kernel::FetchKernel;

use crate::emitter::{Emitter, Mem};
use crate::error::Error;

/// Emits the kernel.
pub(crate) fn emit(e: &mut dyn Emitter, k: &FetchKernel) -> Result<(), Error> {
    let [(rounds, step), (lines, apart)] = k.nest;
    let p = e.arg(0)?;
    let rounds = e.repeat(u64::from(rounds))?;
    // Into the second level: between fetch and use lies more than the first one has room for.
    (0..i64::from(lines)).try_for_each(|n| e.prefetch(Mem { base: p, disp: n * apart }, true))?;
    e.advance(p, step)?;
    e.end(rounds)
}
