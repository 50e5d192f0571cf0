//! What tests of this folder have in common.

use crate::target::{Level, Machine, TargetDesc};

/// A target with vectors of 16 lanes and caches of one size each.
pub fn target() -> TargetDesc {
    let level = |bytes| Level { bytes, read: 1.0, spilled: 1.0 };
    let levels = [level(32 << 10), level(1 << 20), level(16 << 20), level(128 << 20)];
    TargetDesc {
        triple: String::new(),
        cpu: String::new(),
        lanes: 16,
        f32_tiles: Vec::new(),
        table_tiles: Vec::new(),
        i8_tiles: Vec::new(),
        short_tiles: Vec::new(),
        word_tiles: Vec::new(),
        i8_unsigned_a: true,
        depthwise_columns: 0,
        depthwise_words: false,
        float_sums: false,
        byte_tables: false,
        byte_lookups: 0,
        prefetches: false,
        row_streams: 1,
        l1_bytes: 32 << 10,
        l2_bytes: 1 << 20,
        machine: Machine { levels, ..Machine::default() },
        max_threads: 1,
    }
}
