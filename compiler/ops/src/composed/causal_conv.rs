//! ONNX `CausalConvWithState`: a convolution of each channel over its past, which comes in and goes out as state.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, ValueId};

use super::Build;

/// ONNX `CausalConvWithState`.
pub(crate) const CAUSAL_CONV: Import = Import { domain: "", name: "CausalConvWithState", opsets: (27, NEWEST), build };

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, w, bias, state) = (cx.input(0)?, cx.input(1)?, cx.opt_input(2), cx.opt_input(3));
    let activation = cx.attrs().str("activation").unwrap_or("none").to_string();
    let mut b = Build(cx);
    let (whole, weights) = (b.shape(x)?, b.shape(w)?);
    let ([_, channels, length], [_, 1, taps]) = (&whole[..], &weights[..]) else {
        return Err(OpError::new(format!("x is {} and w {}: [N, C, L] and [C, 1, k] are needed", b.ty(x), b.ty(w))));
    };
    let past = *taps as i64 - 1;
    let all = match state {
        Some(s) => b.concat(&[s, x], 2)?,
        None => {
            let (pads, zero) = (b.ints(&[0, 0, past, 0, 0, 0]), b.scalar(b.dtype(x), 0.0)?);
            b.op("pad", &[x, pads, zero])?
        }
    };
    let ints = |v: &[i64]| Attr::Ints(v.to_vec());
    let attrs = Attrs::default()
        .with("group", Attr::Int(*channels as i64))
        .with("strides", ints(&[1]))
        .with("dilations", ints(&[1]))
        .with("pads", ints(&[0, 0]));
    let mut y = b.0.node("conv", &[Some(all), Some(w), bias], attrs)?[0];
    match activation.as_str() {
        "none" => {}
        "silu" | "swish" => y = b.op("swish", &[y])?,
        other => return Err(OpError::new(format!("activation {other:?} is unknown")).help("none, silu or swish")),
    }
    let end = *length as i64 + past;
    Ok(vec![y, b.slice(all, 2, (end - past, end, 1))?])
}
