//! `max_pool`: the largest element of each window, and where it lies.
//!
//! Padding never wins. The second result holds flat indices into x (row-major, or with the last two dimensions swapped if `storage_order` is 1).

use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::scalar_eval::{Scalar, bin};
use onnxc_ir::{Attr, DType, Tensor, TensorType};

use super::{common as pool, lower as pool_lower};
use crate::common::elements::{from_scalars, scalars};
use crate::common::sample;

pub(crate) static MAX_POOL: OpDef = OpDef {
    name: "max_pool",
    onnx: &[
        Import { domain: "", name: "MaxPool", opsets: (1, NEWEST), build: |cx| cx.forward("max_pool") },
        crate::composed::contrib::layout::NHWC_MAX_POOL,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(pool_lower::max),
    tolerance: Tolerance::EXACT,
    samples,
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let ty = pool::infer(cx)?;
    if !ty.dtype.is_float() && !ty.dtype.is_int() {
        return Err(OpError::new(format!("pooling of {} is not supported", ty.dtype)));
    }
    let indices = TensorType::new(DType::I64, ty.shape.clone());
    Ok([ty, indices].into_iter().take(cx.n_outputs.clamp(1, 2)).collect())
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let shape = cx.out_shape(0);
    let win = pool::window(cx.attrs, x.shape())?;
    let values = scalars(x)?;
    let swapped = cx.attrs.int("storage_order").unwrap_or(0) == 1;
    let (mut best, mut places) = (Vec::new(), Vec::new());
    pool::windows(x.shape(), &win, |_, inside| {
        let first = inside.first().map(|i| (*i, values[*i]));
        let (at, value) = inside.iter().skip(1).fold(first.unwrap_or((0, lowest(x.dtype()))), |(at, value), i| {
            let larger = bin(BinOp::Gt, values[*i], value, x.dtype()).truth() || values[*i].float().is_nan();
            if larger && !value.float().is_nan() { (*i, values[*i]) } else { (at, value) }
        });
        best.push(value);
        places.push(Scalar::Int(if swapped { swap_last(x.shape(), at) } else { at as i128 }));
    });
    let y = from_scalars(x.dtype(), &shape, best)?;
    let indices = from_scalars(DType::I64, &shape, places)?;
    Ok([y, indices].into_iter().take(cx.outputs.len()).collect())
}

/// The value of a window without elements.
pub(crate) fn lowest(dtype: DType) -> Scalar {
    dtype.int_range().map_or(Scalar::Float(f64::NEG_INFINITY), |(low, _)| Scalar::Int(low))
}

/// Flat index with the spatial dimensions in reverse order (column-major).
fn swap_last(shape: &[u64], at: usize) -> i128 {
    let mut left = at as u64;
    let mut coords = vec![0u64; shape.len()];
    for d in (0..shape.len()).rev() {
        coords[d] = left % shape[d];
        left /= shape[d];
    }
    let spatial: u64 = (2..shape.len()).rev().fold(0, |i, d| i * shape[d] + coords[d]);
    let plane: u64 = shape[2..].iter().product();
    i128::from((coords[0] * shape[1] + coords[1]) * plane + spatial)
}

fn samples() -> Vec<Sample> {
    let mut all: Vec<Sample> = Vec::new();
    for (attrs, x) in pool::sample_cases() {
        all.push(sample::sample(attrs.clone(), vec![sample::f32s(&x)]));
        all.push(Sample { n_outputs: 2, ..sample::sample(attrs, vec![sample::f32s(&x)]) });
    }
    let (attrs, x) = pool::sample_cases().swap_remove(1);
    for dtype in [DType::U8, DType::I8, DType::F64, DType::F16] {
        all.push(sample::sample(attrs.clone(), vec![sample::data(dtype, &x)]));
    }
    let attrs = attrs.with("storage_order", Attr::Int(1));
    all.push(Sample { n_outputs: 2, ..sample::sample(attrs, vec![sample::f32s(&x)]) });
    all
}
