//! Operators that move elements without computing with them, by indices or in patterns that no strides express.

mod cumsum;
mod depth_space;
mod gather;
mod gather_nd;
mod one_hot;
mod prefix;
mod reverse_sequence;
mod scatter;
mod selection;
mod tile;
mod trilu;

pub(crate) use cumsum::{CUMPROD, CUMSUM};
pub(crate) use depth_space::{DEPTH_TO_SPACE, SPACE_TO_DEPTH};
pub(crate) use gather::{GATHER, GATHER_ELEMENTS};
pub(crate) use gather_nd::GATHER_ND;
pub(crate) use one_hot::ONE_HOT;
pub(crate) use prefix::PREFIX;
pub(crate) use reverse_sequence::REVERSE_SEQUENCE;
pub(crate) use scatter::{SCATTER_ELEMENTS, SCATTER_ND};
pub(crate) use selection::NON_ZERO;
pub(crate) use tile::TILE;
pub(crate) use trilu::TRILU;

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{Dim, Tensor, TensorType};

/// Index `i` into `n` elements, from the end when negative.
fn position(i: i64, n: u64) -> OpResult<usize> {
    let at = if i < 0 { i.checked_add(n as i64) } else { Some(i) };
    at.filter(|p| (0..n as i64).contains(p))
        .map(|p| p as usize)
        .ok_or_else(|| OpError::new(format!("index {i} is outside of a dimension of {n} elements")))
}

/// The indices of a tensor.
fn index_values(t: &Tensor) -> OpResult<Vec<i64>> {
    t.to_i64s().ok_or_else(|| OpError::new(format!("indices must be integers, not {}", t.dtype())))
}

/// Refuses indices that are no integers.
fn require_index(ty: &TensorType) -> OpResult<()> {
    if ty.dtype.is_int() && ty.dtype.bits() >= 8 {
        Ok(())
    } else {
        Err(OpError::new(format!("indices must be integers, they are {ty}")))
    }
}

/// Refuses constant indices that lie outside of a dimension.
fn check_known(index: Option<&Tensor>, dim: &Dim) -> OpResult<()> {
    match (index, dim.as_const()) {
        (Some(t), Some(n)) => index_values(t)?.into_iter().try_for_each(|i| position(i, n).map(|_| ())),
        _ => Ok(()),
    }
}

/// Refuses constant coordinates (the last dimension of `index`) that lie outside of `dims`.
fn check_coordinates(index: Option<&Tensor>, dims: &[Dim]) -> OpResult<()> {
    let Some(index) = index else { return Ok(()) };
    for (i, dim) in index_values(index)?.into_iter().zip(dims.iter().cycle()) {
        dim.as_const().map_or(Ok(0), |n| position(i, n))?;
    }
    Ok(())
}

/// Refuses to take elements out of a tensor that has none.
fn require_room(from: &TensorType, to: &TensorType) -> OpResult<()> {
    let empty = |ty: &TensorType| ty.shape.contains(&Dim::Const(0));
    let known = to.shape.iter().all(|d| d.as_const().is_some());
    if empty(from) && known && !empty(to) {
        return Err(OpError::new(format!("elements of {from} are wanted, which has none")));
    }
    Ok(())
}
