//! A machine for the passes that ask what things cost.

use onnxc_ir::target::{Level, Machine, TargetDesc};

const fn level(bytes: u64, rate: f64) -> Level {
    Level { bytes, read: rate, spilled: rate }
}

/// One that is like a core with vectors of 512 bits.
pub fn machine() -> TargetDesc {
    TargetDesc {
        triple: "any".into(),
        cpu: "any".into(),
        lanes: 16,
        f32_tiles: vec![(14, 32), (28, 16)],
        table_tiles: vec![(14, 32), (28, 16)],
        i8_tiles: vec![(14, 32)],
        i8_unsigned_a: true,
        l1_bytes: 1 << 15,
        prefetches: true,
        row_streams: 1,
        l2_bytes: 1 << 20,
        machine: Machine {
            ghz: 4.0,
            fma: 1.0,
            splat: 0.2,
            panel: 0.1,
            tile: (0.5, 1.0),
            call: 10.0,
            result: 0.5,
            transform: (60.0, 5.0),
            levels: [level(1 << 15, 64.0), level(1 << 20, 30.0), level(1 << 24, 8.0), level(1 << 27, 6.0)],
            visible: 0.3,
            ..Machine::default()
        },
        max_threads: 1,
        ..TargetDesc::default()
    }
}
