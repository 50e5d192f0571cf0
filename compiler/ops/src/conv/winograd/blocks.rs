//! How many tiles are transformed and multiplied at once.
//!
//! The transformed input and the products of a block are written and read again, so a block should stay in the second-level cache. But every block
//! reads all transformed weights: where those are larger than the caches, large blocks are better.

use onnxc_ir::target::TargetDesc;

use super::points::Points;
use crate::common::tile;

/// Extents that the choice depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Images.
    pub images: u64,
    /// Rows of the result.
    pub height: u64,
    /// Columns of the result.
    pub width: u64,
    /// Channels of the operand.
    pub channels: u64,
    /// Channels of the result.
    pub filters: u64,
}

/// The division of a convolution into blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocks {
    /// Tiles of an image: rows and columns.
    pub rows: u64,
    /// Columns of tiles.
    pub columns: u64,
    /// Tiles in all.
    pub tiles: u64,
    /// Tiles of a block; the last one may have fewer.
    pub tiles_of_block: u64,
    /// Height and width of the tiles of the products.
    pub product: (u32, u32),
}

/// Bytes that a cycle brings from the second-level cache, from what is behind it, and from memory.
const L2_BYTES: f64 = 32.0;
const L3_BYTES: f64 = 16.0;
const MEMORY_BYTES: f64 = 8.0;
/// The same for what was written just before, in amounts that leave little of the caches to anything else.
const SPILLED_BYTES: f64 = 6.4;
/// What is behind the second-level cache holds about so many times as much.
const L3_TIMES: u64 = 24;
/// The part of moving weights that is not hidden behind multiplications, although they have the time.
const VISIBLE: f64 = 0.2;
/// Largest transformed input and products of a block.
const MOST_SCRATCH: u64 = 16 << 20;

/// Cycles per byte of weights that were read before, where so many are read again and again.
fn again(target: &TargetDesc, bytes: u64) -> f64 {
    match bytes {
        n if n <= target.l2_bytes => 1.0 / L2_BYTES,
        n if n <= L3_TIMES * target.l2_bytes => 1.0 / L3_BYTES,
        _ => 1.0 / MEMORY_BYTES,
    }
}

/// Cycles per byte that is written and soon read, where weights pass through the same caches.
fn soon(target: &TargetDesc, bytes: u64) -> f64 {
    match bytes {
        n if n <= target.l2_bytes / 2 => 1.0 / L2_BYTES,
        n if n <= target.l2_bytes * 2 => 1.0 / L3_BYTES,
        _ => 1.0 / SPILLED_BYTES,
    }
}

/// Cycles in which memory brings so many bytes of weights, as far as they are seen beside so many cycles of multiplications.
pub fn streaming(move_cycles: f64, product_cycles: f64) -> f64 {
    (move_cycles - product_cycles).max(0.0) + VISIBLE * move_cycles.min(product_cycles)
}

/// Cycles that memory needs for bytes that were not used before.
pub fn cold(bytes: u64) -> f64 {
    bytes as f64 / MEMORY_BYTES
}

impl Blocks {
    /// The division that moves the least.
    pub fn choose(target: &TargetDesc, points: &Points, shape: Shape) -> Blocks {
        let m = points.m as u64;
        let (rows, columns) = (shape.height.div_ceil(m), shape.width.div_ceil(m));
        let tiles = shape.images * rows * columns;
        let (mr, _) = product(target, tiles, shape.filters);
        let whole = |n: u64| {
            let tiles_of_block = tiles.div_ceil(tiles.div_ceil(n));
            Blocks { rows, columns, tiles, tiles_of_block, product: product(target, tiles_of_block, shape.filters) }
        };
        let sizes = (1..=16).map(|i| (i * u64::from(mr)).min(tiles));
        let fits = |b: &Blocks| b.tiles_of_block <= u64::from(mr) || b.scratch_bytes(points, shape) <= MOST_SCRATCH;
        let cycles = |b: &Blocks| VISIBLE * b.weights(target, points, shape) + b.scratch(target, points, shape);
        sizes
            .map(whole)
            .filter(fits)
            .min_by(|a, b| cycles(a).total_cmp(&cycles(b)))
            .expect("internal: blocks of one tile's height fit")
    }

    /// Number of blocks.
    pub fn count(&self) -> u64 {
        self.tiles.div_ceil(self.tiles_of_block)
    }

    fn scratch_bytes(&self, points: &Points, shape: Shape) -> u64 {
        let n = points.n() as u64;
        4 * n * n * self.tiles_of_block * (shape.channels + shape.filters)
    }

    /// Cycles for bringing the weights: from memory for the first block, from where they are left for the others.
    pub fn weights(&self, target: &TargetDesc, points: &Points, shape: Shape) -> f64 {
        let bytes = weight_bytes(points, shape.filters, shape.channels);
        cold(bytes) + (self.count() - 1) as f64 * bytes as f64 * again(target, bytes)
    }

    /// Cycles for writing and reading transformed input and products.
    pub fn scratch(&self, target: &TargetDesc, points: &Points, shape: Shape) -> f64 {
        let n = points.n() as u64;
        let bytes = 2 * 4 * n * n * self.tiles * (shape.channels + shape.filters);
        bytes as f64 * soon(target, self.scratch_bytes(points, shape))
    }
}

/// The tile of the products: one that divides the filters if there is one, for every point has its own weights and their padding.
fn product(target: &TargetDesc, tiles: u64, filters: u64) -> (u32, u32) {
    let padded = |nr: u32| filters.next_multiple_of(u64::from(nr));
    let least = target.f32_tiles.iter().map(|t| padded(t.1)).min().unwrap_or(filters);
    tile::choose_among(target, false, tiles, filters, |t| padded(t.1) == least)
}

/// Bytes of transformed weights, without the padding of the last panel.
pub fn weight_bytes(points: &Points, filters: u64, channels: u64) -> u64 {
    let n = points.n() as u64;
    4 * n * n * filters * channels
}
