//! Winograd's algorithm for convolutions of 3 by 3: F(2x2, 3x3), also with strides of two, F(4x4, 3x3) and F(6x6, 3x3), and of 5 by 5: F(2x2, 5x5) and F(4x4, 5x5), as the
//! attribute `algorithm` asks for. Integers of 8 bits have F(2x2, 3x3), with both strides, and F(4x4, 3x3) with transforms of whole numbers (Meng and Brothers, "Efficient Winograd Convolution
//! via Integer Arithmetic", 2019). Results come out 4 and 576 times as large, modulo 2^32, where 9 has an inverse and the rest is a shift: so they are exact.
//!
//! The attribute is a permission that a pass gives: what has no code for it (weights that are computed, extents that come with the call, other types) is
//! computed directly. [`points`] has the transforms, [`blocks`] how many tiles are done at once, [`cost`] what that takes, `emit` the loops.

pub mod blocks;
pub mod cost;
mod emit;
mod kernels;
pub mod numbers;
pub mod points;

use onnxc_ir::kernel::k_group;
use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{Attrs, DType, TensorType};

use super::Geometry;
use numbers::Numbers;
use points::{FOUR, FOUR_OF_FIVE, Points, SIX, TWO, TWO_BY_TWO, TWO_OF_FIVE};

pub(crate) use emit::{Tiled, emit};

/// The attribute of convolutions that names the algorithm.
pub const ATTR: &str = "algorithm";

/// The value of the attribute that asks for none of them.
pub const DIRECT: &str = "direct";

/// The algorithms: their names in the attribute, and their points.
pub static ALGORITHMS: &[(&str, &Points)] = &[
    ("winograd2", &TWO),
    ("winograd4", &FOUR),
    ("winograd6", &SIX),
    ("winograd2_by_2", &TWO_BY_TWO),
    ("winograd2_of_5", &TWO_OF_FIVE),
    ("winograd4_of_5", &FOUR_OF_FIVE),
];

/// The points that the attributes of a convolution ask for.
pub fn points(attrs: &Attrs) -> Option<&'static Points> {
    let name = attrs.str(ATTR)?;
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, points)| *points)
}

/// By how much more than the operator's tolerance results may be off, as the algorithm has it.
pub fn rounding(attrs: &Attrs) -> f64 {
    if points(attrs).is_some_and(Points::is_rough) { 4.0 } else { 1.0 }
}

/// The algorithms that compute a convolution, a node `op`: none unless it is 3 by 3 or 5 by 5, without dilations and groups, of f32 or of bytes; with
/// strides of two there is one for 3 by 3.
pub fn fitting(op: &str, attrs: &Attrs, x: &TensorType, w: &TensorType) -> impl Iterator<Item = (&'static str, &'static Points)> {
    let numbers = Numbers::of(x.dtype, w.dtype).filter(|n| match n {
        Numbers::Floats => op == "conv",
        Numbers::Integers => INTEGER.contains(&op) && w.shape.get(1).and_then(|c| c.as_const()).is_some_and(fits_words),
    });
    let window = window(attrs, w).filter(|_| numbers.is_some());
    let of_window = ALGORITHMS.iter().copied().filter(move |(_, points)| window == Some((points.taps, points.stride)));
    of_window.filter(move |(_, points)| numbers == Some(Numbers::Floats) || points.whole().is_some())
}

/// Can so many channels of bytes be transformed to words? Two are multiplied beside each other.
pub(crate) fn fits_words(channels: u64) -> bool {
    channels.is_multiple_of(k_group(DType::I16))
}

/// Convolutions of integers.
const INTEGER: [&str; 2] = ["conv_integer", "qlinear_conv"];

/// Taps and stride of a kernel that has the same ones in both directions, and neither dilations nor groups.
fn window(attrs: &Attrs, w: &TensorType) -> Option<(usize, usize)> {
    let [height, width] = w.shape.get(2..)? else { return None };
    let g = Geometry::of(attrs, 2);
    let stride = *g.strides.first()?;
    let plain = g.group == 1 && g.strides.iter().all(|s| *s == stride) && g.dilations.iter().all(|s| *s == 1);
    let taps = height.as_const().filter(|n| plain && g.pads.iter().all(|p| *p >= 0) && width.as_const() == Some(*n))?;
    Some((usize::try_from(taps).ok()?, usize::try_from(stride).ok()?))
}

/// Inference: the attribute is one of the names, and for this geometry.
pub(crate) fn check(attrs: &Attrs, w: &TensorType) -> OpResult<()> {
    let Some(name) = attrs.str(ATTR) else { return Ok(()) };
    if name == DIRECT {
        return Ok(());
    }
    let Some(points) = points(attrs) else {
        let names: Vec<&str> = ALGORITHMS.iter().map(|a| a.0).chain([DIRECT]).collect();
        return Err(OpError::new(format!("algorithm {name:?} is unknown; there are {}", names.join(", "))));
    };
    let (r, s) = (points.taps, points.stride);
    let error = || {
        OpError::new(format!("algorithm {name:?} is for kernels of {r} by {r} with strides of {s}, without dilations and groups"))
    };
    if window(attrs, w) == Some((r, s)) { Ok(()) } else { Err(error()) }
}

/// Rows and columns by which the tiles reach over the end of a padded operand, for a result of this height and width.
pub fn overhang(points: &Points, height: u64, width: u64) -> [u64; 2] {
    let (m, stride) = (points.m as u64, points.stride as u64);
    [height, width].map(|n| (n.next_multiple_of(m) - n) * stride)
}
