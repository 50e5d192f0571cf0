//! The roofline: how fast work can be on a machine whose limits were measured.
//!
//! Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for multicore architectures", 2009. Bandwidth is a curve over the
//! size of what is used again and again, so that sizes of caches need not be known.

use super::{Ops, Traffic};

/// What a machine gives at best, for a number of threads.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Roofs {
    /// Threads that it was measured with.
    pub threads: u32,
    /// Float operations in a second, by fused multiply-adds of f32.
    pub flops: f64,
    /// Operations in a second of dot products of 8-bit integers.
    pub int8_ops: f64,
    /// (bytes, bytes in a second) of reading so many bytes again and again, ascending.
    pub read: Vec<(u64, f64)>,
    /// The same of copying from one half to the other; what is read and what is written both count.
    pub copy: Vec<(u64, f64)>,
}

/// Least seconds that work takes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Bound {
    /// For its operations.
    pub compute: f64,
    /// For its bytes.
    pub memory: f64,
}

impl Bound {
    /// The larger one.
    pub fn seconds(&self) -> f64 {
        self.compute.max(self.memory)
    }
}

impl Roofs {
    /// Least time of a step that does `ops` and moves `moved`. Weights come from where `around` bytes stay, which is what a whole inference touches;
    /// what steps hand to each other stays nearer.
    pub fn bound(&self, ops: &Ops, moved: &Traffic, around: u64) -> Bound {
        let ratio = |n: u64, per_second: f64| if n == 0 { 0.0 } else { n as f64 / per_second.max(1.0) };
        let plain = ops.flops().saturating_add(ops.ints);
        let paired = 2 * moved.read.min(moved.written);
        let alone = moved.read.abs_diff(moved.written);
        let near = moved.bytes();
        let memory = ratio(moved.weights, curve(&self.read, around.max(near)))
            + ratio(paired, curve(&self.copy, near))
            + ratio(alone, curve(if moved.read > moved.written { &self.read } else { &self.copy }, near));
        Bound { compute: ratio(plain, self.flops) + ratio(ops.dots, self.int8_ops), memory }
    }

    /// Bytes in a second of reading `bytes` again and again.
    pub fn read_bandwidth(&self, bytes: u64) -> f64 {
        curve(&self.read, bytes)
    }
}

/// The value of a curve, between its points by their logarithms.
pub(super) fn curve(points: &[(u64, f64)], bytes: u64) -> f64 {
    let Some(above) = points.iter().position(|p| p.0 >= bytes) else { return points.last().map_or(0.0, |p| p.1) };
    let (n1, rate1) = points[above];
    if above == 0 {
        return rate1;
    }
    let (n0, rate0) = points[above - 1];
    let part = ((bytes as f64).ln() - (n0 as f64).ln()) / ((n1 as f64).ln() - (n0 as f64).ln());
    (rate0.ln() + part * (rate1.ln() - rate0.ln())).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_limit_decides() {
        let points = vec![(1 << 10, 100e9), (1 << 20, 10e9)];
        let roofs = Roofs { threads: 1, flops: 100e9, int8_ops: 400e9, read: points.clone(), copy: points };
        let ops = Ops { products: 1_000_000, dots: 4_000_000, ..Ops::default() };
        let moved = Traffic { weights: 1 << 20, ..Traffic::default() };
        let b = roofs.bound(&ops, &moved, 1 << 24);
        assert!((b.compute - 20e-6).abs() < 1e-12);
        assert!((b.memory - (1 << 20) as f64 / 10e9).abs() < 1e-12);
        assert_eq!(b.seconds(), b.memory);
        assert_eq!(roofs.read_bandwidth(1), 100e9);
        let middle = roofs.read_bandwidth(1 << 15);
        assert!((middle - 1e9 * 1000f64.sqrt()).abs() < 1.0, "{middle}");
        assert_eq!(roofs.bound(&Ops::default(), &Traffic::default(), 0).seconds(), 0.0);
    }
}
