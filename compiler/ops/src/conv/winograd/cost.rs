//! What a convolution costs directly and through transforms, in cycles of one core, roughly: enough to choose before anything is lowered.
//!
//! The steps are those of `onnxc_ir::workload::latency`, counted from extents, and their cycles are those of the target.

use onnxc_ir::target::{Factors, TargetDesc};

use super::blocks::{Blocks, Shape};
use super::points::Points;
use crate::common::{thin, tile};
use crate::schedule::Schedule;

/// `rows` by `k` times `k` by `columns`.
fn product(target: &TargetDesc, (mr, nr): (u32, u32), rows: u64, columns: u64, k: u64) -> f64 {
    let blocks = rows.div_ceil(u64::from(mr)) as f64;
    let panels = columns.div_ceil(u64::from(nr)) as f64;
    let vectors = f64::from(nr / target.lanes.max(1));
    let m = &target.machine;
    panels * (m.tile(rows as f64, vectors, k as f64, false) + blocks * m.call + rows as f64 * vectors * m.result)
}

/// The convolution as one product for each row of the result.
pub fn direct(target: &TargetDesc, s: Shape) -> f64 {
    let k = s.taps * s.taps * s.channels;
    if thin::along(target, s.width, s.filters, s.channels as i64, &[(s.taps, 1), (s.taps * s.channels, 1)]).is_some() {
        // Loops over vectors of k, with loads of both operands and a sum across each result.
        let steps = (s.images * s.height * s.width * s.filters) as f64
            * ((k as f64 / f64::from(target.lanes)).ceil() + thin::ACROSS as f64);
        return steps * (target.machine.vector_op + 2.0 * target.machine.vector_move);
    }
    let shape = tile::choose(target, Factors::Floats, s.width, s.filters);
    let weights = 4 * k * s.filters;
    let products = (s.images * s.height) as f64 * product(target, shape, s.width, s.filters, k);
    products + target.machine.seen(target.machine.moving(weights as f64, u64::MAX), products)
}

/// The convolution in tiles.
pub fn tiled(target: &TargetDesc, points: &Points, s: Shape) -> f64 {
    let blocks = Blocks::choose(target, points, s, &Schedule::default());
    let (n, m) = (points.n() as f64, points.m as f64);
    let lanes = u64::from(target.lanes.max(1));
    let products = blocks.count() as f64 * n * n * product(target, blocks.product, blocks.tiles_of_block, s.filters, s.channels);
    let vectors = |channels: u64, n: f64| channels.div_ceil(lanes) as f64 * n * target.machine.transform.1;
    // Each direction reads and writes what it transforms.
    let tile =
        vectors(s.channels, 4.0 * n * n) + vectors(s.filters, n * n + 2.0 * n * m + m * m) + 2.0 * target.machine.transform.0;
    let moving = target.machine.seen(blocks.weights(target, points, s), products) + blocks.scratch(target, points, s);
    products + blocks.tiles as f64 * tile + moving
}
