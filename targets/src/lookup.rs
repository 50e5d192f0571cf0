//! Bytes that are read from a table of 256.

use onnxc_ir::kernel::{LOOKUP_BYTES, LookupKernel};

use crate::emitter::{Emitter, Mem};
use crate::error::Error;

/// Vectors of a round: as many hide what the shuffles of one wait for.
const AT_ONCE: i64 = 4;

/// Emits the kernel.
pub(crate) fn emit(e: &mut dyn Emitter, k: &LookupKernel) -> Result<(), Error> {
    let each = LOOKUP_BYTES as i64;
    if k.bytes == 0 || !u64::from(k.bytes).is_multiple_of(LOOKUP_BYTES) {
        return Err(Error::Internal(format!("a lookup of {} bytes", k.bytes)));
    }
    let (x, table, y) = (e.arg(0)?, e.arg(1)?, e.arg(2)?);
    let table = e.load_byte_table(table, k.signed)?;
    let vectors = i64::from(k.bytes) / each;
    let some = |e: &mut dyn Emitter, n: i64| {
        (0..n).map(|i| i * each).try_for_each(|at| e.look_up_bytes(Mem { base: y, disp: at }, Mem { base: x, disp: at }, &table))
    };
    if vectors >= AT_ONCE {
        let rounds = e.repeat((vectors / AT_ONCE) as u64)?;
        some(e, AT_ONCE)?;
        e.advance(x, AT_ONCE * each)?;
        e.advance(y, AT_ONCE * each)?;
        e.end(rounds)?;
    }
    some(e, vectors % AT_ONCE)
}
