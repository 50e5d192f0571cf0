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
const MEMORY_BYTES: f64 = 6.0;
/// What is behind the second-level cache holds about so many times as much.
const L3_TIMES: u64 = 16;
/// Largest transformed input and products of a block.
const MOST_SCRATCH: u64 = 16 << 20;

/// Cycles per byte that is read from where so many bytes are kept.
pub fn cycles_per_byte(target: &TargetDesc, kept: u64) -> f64 {
    match kept {
        n if n <= target.l2_bytes => 1.0 / L2_BYTES,
        n if n <= L3_TIMES * target.l2_bytes => 1.0 / L3_BYTES,
        _ => 1.0 / MEMORY_BYTES,
    }
}

impl Blocks {
    /// The division that moves the least.
    pub fn choose(target: &TargetDesc, points: &Points, shape: Shape) -> Blocks {
        let m = points.m as u64;
        let (rows, columns) = (shape.height.div_ceil(m), shape.width.div_ceil(m));
        let tiles = shape.images * rows * columns;
        let (mr, _) = tile::choose(target, false, tiles, shape.filters);
        let whole = |n: u64| {
            let blocks = tiles.div_ceil(n);
            let tiles_of_block = tiles.div_ceil(blocks);
            let product = tile::choose(target, false, tiles_of_block, shape.filters);
            Blocks { rows, columns, tiles, tiles_of_block, product }
        };
        let sizes = (1..=16).map(|i| (i * u64::from(mr)).min(tiles));
        let fits = |b: &Blocks| b.tiles_of_block <= u64::from(mr) || b.scratch_bytes(points, shape) <= MOST_SCRATCH;
        let all = sizes.map(whole).filter(fits);
        all.min_by(|a, b| a.moving(target, points, shape).total_cmp(&b.moving(target, points, shape)))
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

    /// Cycles for moving weights, transformed input and products between caches.
    pub fn moving(&self, target: &TargetDesc, points: &Points, shape: Shape) -> f64 {
        let n = points.n() as u64;
        let weights = weight_bytes(points, shape.filters, shape.channels);
        let scratch = self.scratch_bytes(points, shape);
        // Weights that fit are there from the block before; the first block finds none.
        let again = (self.count() - 1) as f64 * cycles_per_byte(target, weights);
        let first = cycles_per_byte(target, u64::MAX);
        let written_and_read = 2 * 4 * n * n * self.tiles * (shape.channels + shape.filters);
        weights as f64 * (again + first) + written_and_read as f64 * cycles_per_byte(target, scratch)
    }
}

/// Bytes of transformed weights, without the padding of the last panel.
pub fn weight_bytes(points: &Points, filters: u64, channels: u64) -> u64 {
    let n = points.n() as u64;
    4 * n * n * filters * channels
}
