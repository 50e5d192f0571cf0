//! Operators whose channels are the last dimension: `NhwcConv`, `NhwcFusedConv`, `NhwcMaxPool`, `QLinearConv`.

use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};
use onnxc_ir::{Attrs, ValueId};

use super::activation::activate;
use super::import;
use crate::common::import::attrs_without;
use crate::composed::Build;
use crate::conv::explicit_pads;

/// `[n, channels, ...]` of `[n, ..., channels]`.
pub(super) fn channels_first(b: &mut Build, x: ValueId) -> OpResult<ValueId> {
    let rank = b.ty(x).rank();
    let perm: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    b.transpose(x, &perm)
}

/// `[n, ..., channels]` of `[n, channels, ...]`.
pub(super) fn channels_last(b: &mut Build, x: ValueId) -> OpResult<ValueId> {
    let rank = b.ty(x).rank();
    let perm: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
    b.transpose(x, &perm)
}

fn check_rank(cx: &dyn ImportCx, i: usize) -> OpResult<()> {
    let ty = cx.ty(i)?;
    if ty.rank() < 3 {
        return Err(OpError::new(format!("input {i} is {ty}: it has no spatial dimensions")));
    }
    Ok(())
}

pub(crate) const NHWC_CONV: Import = import("NhwcConv", convolution);
pub(crate) const NHWC_FUSED_CONV: Import = import("NhwcFusedConv", convolution);

/// A convolution, an optional residual and an activation; the weights have their channels last too.
fn convolution(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, w, bias, residual) = (cx.input(0)?, cx.input(1)?, cx.opt_input(2), cx.opt_input(3));
    check_rank(cx, 0)?;
    check_rank(cx, 1)?;
    let params: Vec<Option<f32>> = cx.attrs().floats("activation_params").unwrap_or_default().iter().copied().map(Some).collect();
    let activation = cx.attrs().str("activation").unwrap_or_default().to_string();
    let attrs = attrs_without(cx, &["activation", "activation_params"]);
    let mut b = Build(cx);
    let (x, w) = (channels_first(&mut b, x)?, channels_first(&mut b, w)?);
    let attrs = explicit_pads(&attrs, &b.ty(x), &b.ty(w))?;
    let y = b.0.node("conv", &[Some(x), Some(w), bias], attrs)?[0];
    let mut y = channels_last(&mut b, y)?;
    if let Some(residual) = residual {
        y = b.op("add", &[y, residual])?;
    }
    Ok(vec![activate(cx, y, &activation, &params)?])
}

pub(crate) const NHWC_MAX_POOL: Import = import("NhwcMaxPool", |cx| {
    let (x, attrs) = (cx.input(0)?, cx.attrs().clone());
    check_rank(cx, 0)?;
    let mut b = Build(cx);
    let x = channels_first(&mut b, x)?;
    let y = b.with("max_pool", &[x], attrs)?;
    Ok(vec![channels_last(&mut b, y)?])
});

/// `QLinearConv` with its attribute `channels_last`, which leaves the weights as ONNX has them.
pub(crate) const QLINEAR_CONV: Import = import("QLinearConv", |cx| {
    let last = cx.attrs().int("channels_last").unwrap_or(0) != 0;
    let attrs: Attrs = attrs_without(cx, &["channels_last"]);
    let mut inputs = cx.inputs().to_vec();
    if !last {
        return cx.node("qlinear_conv", &inputs, attrs);
    }
    check_rank(cx, 0)?;
    let x = cx.input(0)?;
    inputs[0] = Some(channels_first(&mut Build(cx), x)?);
    let y = cx.node("qlinear_conv", &inputs, attrs)?[0];
    Ok(vec![channels_last(&mut Build(cx), y)?])
});
