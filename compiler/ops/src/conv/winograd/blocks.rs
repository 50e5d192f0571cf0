//! How many tiles are transformed and multiplied at once.
//!
//! The transformed input and the products of a block are written and read again, so a block should stay in the second-level cache. But every block
//! reads all transformed weights: where those are larger than the caches, large blocks are better.

use onnxc_ir::target::TargetDesc;

use super::numbers::Numbers;
use super::points::Points;
use crate::schedule::Schedule;

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
    /// Taps of a kernel in each direction.
    pub taps: u64,
    /// What is multiplied.
    pub numbers: Numbers,
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

/// Largest transformed input and products of a block.
const MOST_SCRATCH: u64 = 16 << 20;
/// Part of the visible time of memory that weights take: they come in order, and kernels fetch them ahead. Chosen by the blocks that are best for layers
/// of VGG-16 on a Zen 4 core.
const AHEAD: f64 = 0.5;

impl Blocks {
    /// The division that moves the least, as far as a schedule leaves the choice.
    pub fn choose(target: &TargetDesc, points: &Points, shape: Shape, schedule: &Schedule) -> Blocks {
        let m = points.m as u64;
        let (rows, columns) = (shape.height.div_ceil(m), shape.width.div_ceil(m));
        let tiles = shape.images * rows * columns;
        let wanted = schedule.tile_among(shape.numbers.tiles(target));
        let product = |tiles| wanted.unwrap_or_else(|| product(target, tiles, shape));
        let (mr, _) = product(tiles);
        let whole = |n: u64| {
            let tiles_of_block = tiles.div_ceil(tiles.div_ceil(n));
            Blocks { rows, columns, tiles, tiles_of_block, product: product(tiles_of_block) }
        };
        if let Some(n) = schedule.block {
            return whole(n.min(tiles));
        }
        let most = if Blocks::are_own(target, points, shape) { tiles.div_ceil(target.max_threads.into()) } else { tiles };
        let sizes = (1..=16).map(|i| (i * u64::from(mr)).min(most));
        let fits = |b: &Blocks| b.tiles_of_block <= u64::from(mr) || b.scratch_bytes(points, shape) <= MOST_SCRATCH;
        // Weights come beside the multiplications, which are the same for all divisions.
        let cycles =
            |b: &Blocks| AHEAD * target.machine.visible * b.weights(target, points, shape) + b.scratch(target, points, shape);
        sizes
            .map(whole)
            .filter(fits)
            .min_by(|a, b| cycles(a).total_cmp(&cycles(b)))
            .expect("internal: blocks of one tile's height fit")
    }

    /// Does each thread have blocks of its own, few as they may be? Where weights are small, all of them read these, and none what another one has written.
    pub fn are_own(target: &TargetDesc, points: &Points, shape: Shape) -> bool {
        weight_bytes(points, shape) <= target.l2_bytes / 4
    }

    /// Number of blocks.
    pub fn count(&self) -> u64 {
        self.tiles.div_ceil(self.tiles_of_block)
    }

    fn scratch_bytes(&self, points: &Points, shape: Shape) -> u64 {
        let n = points.n() as u64;
        n * n * self.tiles_of_block * moved(shape)
    }

    /// Cycles for bringing the weights: from memory for the first block, from where they are left for the others.
    pub fn weights(&self, target: &TargetDesc, points: &Points, shape: Shape) -> f64 {
        let bytes = weight_bytes(points, shape);
        target.machine.moving(bytes as f64, u64::MAX) + target.machine.moving(((self.count() - 1) * bytes) as f64, bytes)
    }

    /// Cycles for writing and reading transformed input and products.
    pub fn scratch(&self, target: &TargetDesc, points: &Points, shape: Shape) -> f64 {
        let n = points.n() as u64;
        let bytes = 2 * n * n * self.tiles * moved(shape);
        target.machine.spilling(bytes as f64, self.scratch_bytes(points, shape))
    }
}

/// The tile of the products: one that divides the filters if there is one, for every point has its own weights and their padding.
fn product(target: &TargetDesc, tiles: u64, shape: Shape) -> (u32, u32) {
    let (numbers, filters) = (shape.numbers, shape.filters);
    let padded = |nr: u32| filters.next_multiple_of(u64::from(nr));
    let least = numbers.tiles(target).iter().map(|t| padded(t.1)).min().unwrap_or(filters);
    numbers.tile(target, tiles, filters, |t| padded(t.1) == least)
}

/// Bytes of transformed weights, without the padding of the last panel.
pub fn weight_bytes(points: &Points, shape: Shape) -> u64 {
    let n = points.kernels() as u64;
    shape.numbers.factor().bytes() * n * n * shape.filters * shape.channels
}

/// Bytes of transformed input and products of a point of a tile.
fn moved(shape: Shape) -> u64 {
    shape.channels * shape.numbers.factor().bytes() + shape.filters * shape.numbers.sum().bytes()
}
