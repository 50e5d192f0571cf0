//! What energy work takes: an estimate from counted operations, instructions and bytes.
//!
//! The constants are those of Horowitz, "Computing's Energy Problem (and what we can do about it)", ISSCC 2014, figures 1.1.9 and 1.1.10, for silicon of
//! 45 nm at 0.9 V. Today's machines take several times less for all of it, so that figures compare models with each other and are no forecast of a power
//! meter. Idle cores, voltage regulators and what does not depend on the work are left out.

use super::latency::Steps;
use super::{Traffic, Work};
use crate::target::TargetDesc;

/// Picojoules by operation, instruction and byte.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Table {
    /// A multiplication and an addition of f32: 3.7 and 0.9.
    pub f32_product: f64,
    /// A multiplication of 8-bit integers and the addition of its 32-bit result: 0.2 and 0.1.
    pub int8_product: f64,
    /// Another float operation: between an addition, 0.9, and a multiplication, 3.7.
    pub float: f64,
    /// Another integer operation: an addition of 32 bits.
    pub int: f64,
    /// An instruction is fetched, decoded and scheduled, whatever it computes.
    pub instruction: f64,
    /// 64 bits come from a cache of 32 KB. Larger memories take more by the root of their size, as in the source: 20 at 32 KB, 100 at 1 MB.
    pub cache: f64,
    /// 64 bits come from DRAM: the middle of 1300 and 2600.
    pub dram: f64,
}

/// The constants.
pub const TABLE: Table =
    Table { f32_product: 4.6, int8_product: 0.3, float: 2.3, int: 0.1, instruction: 70.0, cache: 20.0, dram: 1950.0 };

/// Where they are from, for reports.
pub const SOURCE: &str = "Horowitz, \"Computing's Energy Problem\", ISSCC 2014 (45 nm)";

/// The cache that [`Table::cache`] is for.
const CACHE_BYTES: f64 = 32768.0;
/// Bytes that one access of the source brings.
const ACCESS_BYTES: f64 = 8.0;

/// Joules of an inference or of a part of it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Energy {
    /// Of arithmetic.
    pub operations: f64,
    /// Of instructions.
    pub instructions: f64,
    /// Of bytes, by the level that they come from: first, second and last cache, memory.
    pub levels: [f64; 4],
}

impl Energy {
    /// All of it.
    pub fn joules(&self) -> f64 {
        self.operations + self.instructions + self.levels.iter().sum::<f64>()
    }

    fn bring(&mut self, target: &TargetDesc, bytes: f64, held: u64) {
        let levels = &target.machine.levels;
        let level = levels[..3].iter().position(|l| held <= l.bytes).unwrap_or(3);
        self.levels[level] += bytes / ACCESS_BYTES * TABLE.access(if level < 3 { Some(levels[level].bytes) } else { None });
    }
}

impl Table {
    /// Joules of 64 bits from a cache of so many bytes, or from memory.
    fn access(&self, cache: Option<u64>) -> f64 {
        1e-12 * cache.map_or(self.dram, |bytes| self.cache * (bytes as f64 / CACHE_BYTES).sqrt()).min(self.dram)
    }
}

/// The energy of a layer that does `work` and moves `moved`, in an inference that touches `around` bytes; the arguments are those of
/// [`super::latency::predict`].
pub fn estimate(target: &TargetDesc, work: &Work, moved: &Traffic, around: u64, plain: bool) -> Energy {
    let steps = Steps::of(work, target, plain);
    let (ops, pico) = (&work.ops, 1e-12);
    let products = ops.products as f64 / 2.0 * TABLE.f32_product + ops.dots as f64 / 2.0 * TABLE.int8_product;
    let others = ops.floats as f64 * TABLE.float + ops.ints as f64 * TABLE.int;
    let mut energy = Energy {
        operations: pico * (products + others),
        instructions: pico * instructions(&steps) * TABLE.instruction,
        levels: [0.0; 4],
    };
    // Every vector and element that an instruction loads or stores passes the first cache.
    energy.bring(target, loaded(&steps, target.lanes), 0);
    energy.bring(target, moved.weights as f64, around);
    let near = moved.read.saturating_add(moved.written);
    energy.bring(target, near as f64, near);
    for (bytes, between) in steps.again.iter().filter(|a| a.1 > target.l1_bytes) {
        energy.bring(target, *bytes as f64, *between);
    }
    energy
}

/// Instructions that steps are made of, at least.
fn instructions(s: &Steps) -> f64 {
    let depthwise: f64 = s.depthwise.iter().sum();
    let tiles = s.fma
        + s.dot
        + s.short_dot
        + s.word_dot
        + s.splat
        + s.panel
        + s.listed.0
        + 2.0 * s.decoded.iter().sum::<f64>()
        + s.results
        + s.epilogue;
    tiles + 2.0 * depthwise + s.vector_ops + s.vector_moves + s.scattered + s.plain + s.calls + s.loops
}

/// Bytes that instructions load and store.
fn loaded(s: &Steps, lanes: u32) -> f64 {
    let vector = 4.0 * f64::from(lanes.max(1));
    // A vector of bytes is a quarter of one.
    let vectors = s.panel - 0.75 * s.decoded[0] + s.results + s.vector_moves + s.depthwise.iter().sum::<f64>();
    vectors * vector + 4.0 * (s.splat + s.listed.0 + s.scattered + s.plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::testing::target;
    use crate::workload::{Form, KernelWork, Ops};

    /// A product of 14 x 32 outputs over 64 inputs.
    fn product(form: Form, ops: Ops) -> Work {
        let part = KernelWork {
            form,
            calls: 1,
            rows: 14,
            columns: 32,
            written: 32,
            steps: 64,
            inner: 64,
            list: false,
            coded: None,
            epilogue: (0, 0),
            again: Vec::new(),
        };
        Work { ops, parts: vec![part], ..Work::default() }
    }

    #[test]
    fn operations_and_bytes_have_the_prices_of_the_source() {
        let macs = 14 * 32 * 64;
        let work = product(Form::Products, Ops { products: 2 * macs, ..Ops::default() });
        let moved = Traffic { weights: 8000, read: 800, written: 800 };
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b, "{a}, not {b}");
        // What the inference touches fits the last cache: its price is that of 32 KB times the root of 512.
        let e = estimate(&target(), &work, &moved, 10 << 20, false);
        close(e.operations, macs as f64 * 4.6e-12);
        close(e.levels[2], 1000.0 * 20e-12 * 512f64.sqrt());
        assert_eq!((e.levels[1], e.levels[3]), (0.0, 0.0));
        // 14 splats and two vectors of B a step, two vectors of results a row; operands beside them.
        let loaded = 64.0 * (14.0 * 4.0 + 2.0 * 64.0) + 28.0 * 64.0;
        close(e.levels[0], (loaded + 1600.0) / 8.0 * 20e-12);
        close(e.joules(), e.operations + e.instructions + e.levels[0] + e.levels[2]);
        close(estimate(&target(), &work, &moved, 1 << 30, false).levels[3], 1000.0 * 1950e-12);
    }

    #[test]
    fn integers_take_less() {
        let macs = 14 * 32 * 64;
        let floats = product(Form::Products, Ops { products: 2 * macs, ..Ops::default() });
        let mut bytes = product(Form::Dots, Ops { dots: 2 * macs, ..Ops::default() });
        // Four channels a step.
        bytes.parts[0].steps = 16;
        let of = |w: &Work| estimate(&target(), w, &Traffic::default(), 0, false);
        let (floats, bytes) = (of(&floats), of(&bytes));
        assert!(bytes.operations * 15.0 < floats.operations && bytes.instructions * 3.0 < floats.instructions);
        assert!(bytes.joules() * 3.0 < floats.joules(), "{floats:?} {bytes:?}");
    }
}
