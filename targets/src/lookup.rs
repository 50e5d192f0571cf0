//! Bytes that are read from a table of 256.

use onnxc_ir::kernel::{LOOKUP_BYTES, LookupKernel};

use crate::emitter::{Emitter, Mem};
use crate::error::Error;

/// Emits the kernel.
pub(crate) fn emit(e: &mut dyn Emitter, k: &LookupKernel) -> Result<(), Error> {
    let each = LOOKUP_BYTES as i64;
    if k.bytes == 0 || !u64::from(k.bytes).is_multiple_of(LOOKUP_BYTES) {
        return Err(Error::Internal(format!("a lookup of {} bytes", k.bytes)));
    }
    let (x, table, y) = (e.arg(0)?, e.arg(1)?, e.arg(2)?);
    let table = e.load_byte_table(table, k.signed)?;
    let (vectors, at_once) = (i64::from(k.bytes) / each, table.at_once as i64);
    let some = |e: &mut dyn Emitter, n: i64| {
        let places = (0..n).map(|i| (Mem { base: y, disp: i * each }, Mem { base: x, disp: i * each }));
        e.look_up_bytes(&places.collect::<Vec<_>>(), &table)
    };
    if vectors >= at_once {
        let rounds = e.repeat((vectors / at_once) as u64)?;
        some(e, at_once)?;
        e.advance(x, at_once * each)?;
        e.advance(y, at_once * each)?;
        e.end(rounds)?;
    }
    if vectors % at_once > 0 { some(e, vectors % at_once) } else { Ok(()) }
}
