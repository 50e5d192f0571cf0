//! What a convolution costs directly and through transforms, in cycles of one core, roughly: enough to choose.

use onnxc_ir::target::TargetDesc;

use super::blocks::{Blocks, Shape, cold, streaming};
use super::points::{Points, TAPS};
use crate::common::tile;

/// Vectors that a core multiplies and adds in a cycle, in tiles that are large enough.
const PRODUCTS: f64 = 1.0;
/// Cycles to begin and end a tile of a product, and for each row of it.
const TILE: f64 = 30.0;
const ROW: f64 = 3.0;
/// Cycles to begin the transform of a tile.
const TRANSFORM: f64 = 60.0;
/// Cycles for a vector that a transform loads or stores.
const VECTOR: f64 = 5.0;

/// `rows` by `k` times `k` by `columns`.
fn product(target: &TargetDesc, (mr, nr): (u32, u32), rows: u64, columns: u64, k: u64) -> f64 {
    let blocks = rows.div_ceil(u64::from(mr)) as f64;
    let panels = columns.div_ceil(u64::from(nr)) as f64;
    let vectors = f64::from(nr / target.lanes.max(1));
    let multiplied = rows as f64 * vectors * k as f64 / PRODUCTS;
    panels * (multiplied + blocks * TILE + rows as f64 * ROW)
}

/// The convolution as one product for each row of the result.
pub fn direct(target: &TargetDesc, s: Shape) -> f64 {
    let k = (TAPS * TAPS) as u64 * s.channels;
    let shape = tile::choose(target, false, s.width, s.filters);
    let weights = 4 * k * s.filters;
    let products = (s.images * s.height) as f64 * product(target, shape, s.width, s.filters, k);
    products + streaming(cold(weights), products)
}

/// The convolution in tiles.
pub fn tiled(target: &TargetDesc, points: &Points, s: Shape) -> f64 {
    let blocks = Blocks::choose(target, points, s);
    let (n, m) = (points.n() as f64, points.m as f64);
    let lanes = u64::from(target.lanes.max(1));
    let products = blocks.count() as f64 * n * n * product(target, blocks.product, blocks.tiles_of_block, s.filters, s.channels);
    let vectors = |channels: u64, n: f64| channels.div_ceil(lanes) as f64 * n * VECTOR;
    // Each direction reads and writes what it transforms.
    let tile = vectors(s.channels, 4.0 * n * n) + vectors(s.filters, n * n + 2.0 * n * m + m * m) + 2.0 * TRANSFORM;
    let moving = streaming(blocks.weights(target, points, s), products) + blocks.scratch(target, points, s);
    products + blocks.tiles as f64 * tile + moving
}
