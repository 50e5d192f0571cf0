//! Operands with one value per channel.

use std::ops::Range;

use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, OpError, OpResult, View};
use onnxc_ir::{Dim, TensorType};

use super::float_type;
use crate::common::nest;

/// Refuses an operand that is not a vector of `channels` floats.
pub(crate) fn check(what: &str, ty: &TensorType, channels: &Dim) -> OpResult<()> {
    float_type(ty)?;
    let fits = match &ty.shape[..] {
        [n] => n == channels || n.as_const().is_none() || channels.as_const().is_none(),
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        Err(OpError::new(format!("the {what} is {ty}, expected one value for each of {channels} channels")))
    }
}

/// A vector as a view of `shape` that moves along dimension `dim` only.
pub(crate) fn view(arg: &Arg, shape: &[u64], dim: usize) -> Arg {
    let mut strides = vec![0i64; shape.len()];
    if let Some(s) = strides.get_mut(dim) {
        *s = arg.view.strides[0];
    }
    Arg { view: View { shape: shape.to_vec(), open: Vec::new(), strides, offset: arg.view.offset }, ..arg.clone() }
}

/// Refuses vectors whose length is not known to be the number of channels.
pub(crate) fn same(cx: &LowerCx, operands: Range<usize>, channels: &Extent) -> OpResult<()> {
    for i in operands {
        if let Some(arg) = cx.opt(i) {
            nest::same_extent(i, &arg.view.dims()[0], &channels.dim())?;
        }
    }
    Ok(())
}
