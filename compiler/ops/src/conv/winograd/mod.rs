//! Winograd's algorithm for convolutions of 3 by 3: F(2x2, 3x3), F(4x4, 3x3) and F(6x6, 3x3), as the attribute `algorithm` asks for.
//!
//! The attribute is a permission that a pass gives: what has no code for it (weights that are computed, extents that come with the call, other types) is
//! computed directly. [`points`] has the transforms, [`blocks`] how many tiles are done at once, [`cost`] what that takes, `emit` the loops.

pub mod blocks;
pub mod cost;
mod emit;
mod kernels;
pub mod points;

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{Attrs, DType, TensorType};

use super::Geometry;
use points::{FOUR, Points, SIX, TAPS, TWO};

pub(super) use emit::emit;

/// The attribute of `conv` that names the algorithm.
pub const ATTR: &str = "algorithm";

/// The value of the attribute that asks for none of them.
pub const DIRECT: &str = "direct";

/// The algorithms: their names in the attribute, and their points.
pub static ALGORITHMS: &[(&str, &Points)] = &[("winograd2", &TWO), ("winograd4", &FOUR), ("winograd6", &SIX)];

/// The points that the attributes of a convolution ask for.
pub fn points(attrs: &Attrs) -> Option<&'static Points> {
    let name = attrs.str(ATTR)?;
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, points)| *points)
}

/// By how much more than the operator's tolerance results may be off, as the algorithm has it: tiles of F(6x6, 3x3) lose a digit more than sums in another order.
pub fn rounding(attrs: &Attrs) -> f64 {
    if points(attrs).is_some_and(|points| points.m > 4) { 4.0 } else { 1.0 }
}

/// Is this a convolution that Winograd's algorithm computes: all of f32, 3 by 3 without strides, dilations and groups?
pub fn fits(attrs: &Attrs, x: &TensorType, w: &TensorType) -> bool {
    x.dtype == DType::F32 && w.dtype == DType::F32 && has_geometry(attrs, w)
}

fn has_geometry(attrs: &Attrs, w: &TensorType) -> bool {
    let Some(kernel) = w.shape.get(2..) else { return false };
    let g = Geometry::of(attrs, kernel.len());
    let three = kernel.iter().all(|k| k.as_const() == Some(TAPS as u64));
    let plain = g.group == 1 && g.strides.iter().chain(&g.dilations).all(|s| *s == 1);
    kernel.len() == 2 && three && plain && g.pads.iter().all(|p| *p >= 0)
}

/// Inference: the attribute is one of the names, and for this geometry.
pub(super) fn check(attrs: &Attrs, w: &TensorType) -> OpResult<()> {
    let Some(name) = attrs.str(ATTR) else { return Ok(()) };
    if name == DIRECT {
        return Ok(());
    }
    if points(attrs).is_none() {
        let names: Vec<&str> = ALGORITHMS.iter().map(|a| a.0).chain([DIRECT]).collect();
        return Err(OpError::new(format!("algorithm {name:?} is unknown; there are {}", names.join(", "))));
    }
    let error = || OpError::new(format!("algorithm {name:?} is for kernels of 3 by 3 without strides, dilations and groups"));
    if has_geometry(attrs, w) { Ok(()) } else { Err(error()) }
}

/// Rows and columns by which the tiles reach over the end of a padded operand, for a result of this height and width.
pub fn overhang(points: &Points, height: u64, width: u64) -> [u64; 2] {
    let m = points.m as u64;
    [height, width].map(|n| n.next_multiple_of(m) - n)
}
