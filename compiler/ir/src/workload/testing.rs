//! What tests of this folder have in common.

use crate::target::{Level, Machine, TargetDesc};

/// A target with vectors of 16 lanes and caches of one size each.
pub fn target() -> TargetDesc {
    let level = |bytes| Level { bytes, read: 1.0, spilled: 1.0 };
    let levels = [level(32 << 10), level(1 << 20), level(16 << 20), level(128 << 20)];
    TargetDesc {
        lanes: 16,
        i8_unsigned_a: true,
        row_streams: 1,
        l1_bytes: 32 << 10,
        l2_bytes: 1 << 20,
        machine: Machine { levels, ..Machine::default() },
        max_threads: 1,
        ..TargetDesc::default()
    }
}
