//! Compression: which layers there are ([`weighted`]), how their operands become integers ([`pairs`]) with channels of like ranges ([`equalise`]), and the
//! numerics of compression without retraining: which weights of a layer to keep, and what the others must become to make up for it.
//!
//! Matrices and moments in, matrices out: no graph, no search, no clock, and the same bits for the same input whatever the number of threads.
//! A layer is a [`Matrix`], what calibration saw of its input are [`Moments`], and every method minimises the squared error of the layer's output
//! on those inputs:
//!
//! - [`prune`]: masks that a panel of outputs shares ([`Shape`]) and the repair of what survives.
//! - [`channels`]: layers that read fewer channels.
//! - [`order`]: outputs that need the same positions next to each other; [`reorder`]: a graph that has them so.
//! - [`round`]: weights as 8 or 4 bit integers; [`range`]: what range activations get.
//! - [`low_rank()`]: a product of two thin matrices; [`narrow()`]: a convolution as two, by channels or by columns of the kernel; [`split`]: the two nodes
//!   that this makes.
//! - [`codebook()`]: weights that share a few values.
//! - [`recurrent`]: recurrent layers taken apart into such layers.
//!
//! Convolutions with groups are one layer for each of their groups.

mod assign;
pub mod channels;
mod codebook;
pub mod equalise;
mod linalg;
mod low_rank;
pub mod moments;
mod narrow;
mod order;
pub mod pairs;
mod prune;
mod range;
pub mod recurrent;
mod removal;
pub mod reorder;
mod round;
mod shape;
pub mod split;
#[cfg(test)]
mod testing;
pub mod weighted;

pub use codebook::codebook;
pub use low_rank::{Factors, low_rank};
pub use moments::{Moments, error, noise};
pub use narrow::{Blocks, Kernel, Narrowed, narrow};
pub use order::order;
pub use prune::{Balance, Damping, Mask, Pruned, Repair, keep, prune, together};
pub use range::{ActivationRange, Histogram, range};
pub use round::{Grid, Rounded, Rounding, Sums, WeightRange, nearest, nearest_in_table, round, round_each, round_to_table};
pub use shape::Shape;

/// Weights of a layer as a matrix: `n` outputs (filters) of `k` inputs each, `[n][k]`. k = tap * channels + channel (channels innermost), channels
/// those of one group of the convolution.
#[derive(Clone, PartialEq, Debug)]
pub struct Matrix {
    /// Outputs.
    pub n: usize,
    /// Inputs of an output.
    pub k: usize,
    /// `[n][k]`.
    pub values: Vec<f32>,
}

/// Outputs that share positions on a target: a panel of its tiles of two vectors.
pub fn group(target: &onnxc_ir::target::TargetDesc) -> usize {
    (2 * target.lanes as usize).max(4)
}

/// Are halves of such panels worth a try on a target? A tile of one vector loads an element of A for each multiplication: of vectors of 16 lanes these take somewhat
/// longer. Narrower vectors have panels that are no wider than such a half, and tiles of one vector that are much slower.
pub fn half_panels(target: &onnxc_ir::target::TargetDesc) -> bool {
    target.lanes >= 16
}
