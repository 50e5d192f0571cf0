//! What convolutions share: types, extents, and reference evaluation for floats and integers.

use onnxc_ir::op::{InferCx, OpError, OpResult};
use onnxc_ir::{Attrs, Dim};

use super::elements::{for_coords, offset, strides};
use super::window::{Window, kernel_shape, out_dims};

/// Number of groups.
pub(crate) fn groups(attrs: &Attrs) -> OpResult<u64> {
    let group = attrs.int("group").unwrap_or(1);
    u64::try_from(group).ok().filter(|g| *g > 0).ok_or_else(|| OpError::new(format!("group {group} must be positive")))
}

/// Extents of `conv(x, w)`, for operands number `x` and `w` and an optional bias.
pub(crate) fn infer_shape(cx: &InferCx, x: usize, w: usize, bias: usize) -> OpResult<Vec<Dim>> {
    let (xs, ws) = (&cx.input(x)?.shape, &cx.input(w)?.shape);
    if xs.len() < 3 || ws.len() != xs.len() {
        return Err(OpError::new(format!(
            "operands of rank {} and {}: both need the same rank of at least 3",
            xs.len(),
            ws.len()
        )));
    }
    let group = groups(cx.attrs)?;
    if let (Some(c), Some(per_group)) = (xs[1].as_const(), ws[1].as_const())
        && per_group.checked_mul(group) != Some(c)
    {
        return Err(OpError::new(format!("{c} input channels, but the weights have {group} groups of {per_group}")));
    }
    if ws[0].as_const().is_some_and(|oc| oc % group != 0) {
        return Err(OpError::new(format!("{} output channels do not divide into {group} groups", ws[0])));
    }
    if let Some(b) = cx.opt(bias)
        && (b.rank() != 1 || b.shape[0].as_const().zip(ws[0].as_const()).is_some_and(|(b, oc)| b != oc))
    {
        return Err(OpError::new(format!("the bias has type {b}, expected {} elements", ws[0])));
    }
    let kernel = kernel_shape(cx.attrs, Some(&ws[2..]))?;
    let mut shape = vec![xs[0].clone(), ws[0].clone()];
    shape.extend(out_dims(cx.attrs, &kernel, &xs[2..])?);
    Ok(shape)
}

/// The window of a convolution over operands of known extents.
pub(crate) fn window(attrs: &Attrs, x: &[u64], w: &[u64]) -> OpResult<Window> {
    Window::new(attrs, &w[2..], &x[2..])
}

/// Calls `mac(y, x, w)` with the flat indices of every product of a convolution.
pub(crate) fn products(x: &[u64], w: &[u64], y: &[u64], win: &Window, group: u64, mut mac: impl FnMut(usize, usize, usize)) {
    let (sx, sw) = (strides(x), strides(w));
    let (in_group, out_group) = (w[1] as usize, (w[0] / group) as usize);
    let mut at = 0;
    for_coords(y, |o| {
        let first = o[1] / out_group * in_group;
        for_coords(&win.kernel, |k| {
            let Some(source) = win.sources(&o[2..], k) else { return };
            let x_at = o[0] * sx[0] + offset(&source, &sx[2..]);
            let w_at = o[1] * sw[0] + offset(k, &sw[2..]);
            for c in 0..in_group {
                mac(at, x_at + (first + c) * sx[1], w_at + c * sw[1]);
            }
        });
        at += 1;
    });
}
