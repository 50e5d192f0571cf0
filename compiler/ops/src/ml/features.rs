//! ONNX `Binarizer` and `ArrayFeatureExtractor`, as other operators.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{DType, ValueId};

use super::DOMAIN;
use crate::common::elements::from_scalars;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// ONNX `Binarizer`.
pub(crate) const BINARIZER: Import = Import { domain: DOMAIN, name: "Binarizer", opsets: (1, NEWEST), build: binarize };

/// ONNX `ArrayFeatureExtractor`.
pub(crate) const ARRAY_FEATURE_EXTRACTOR: Import =
    Import { domain: DOMAIN, name: "ArrayFeatureExtractor", opsets: (1, NEWEST), build: extract };

/// 1 above the threshold, else 0.
fn binarize(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, dtype) = (cx.input(0)?, cx.ty(0)?.dtype);
    let threshold = f64::from(cx.attrs().float("threshold").unwrap_or(0.0));
    if !(dtype.is_float() || dtype.is_int() && dtype != DType::Bool) {
        return Err(OpError::new(format!("elements of type {dtype} cannot be compared with a threshold")));
    }
    // An integer is above a threshold when it is above the next integer below it.
    let threshold = if dtype.is_float() { threshold } else { threshold.floor() };
    let mut b = Build(cx);
    let threshold = b.0.constant(from_scalars(dtype, &[], [Scalar::Float(threshold)])?);
    let above = b.op("greater", &[x, threshold])?;
    Ok(vec![b.cast(above, dtype)?])
}

/// Elements of the last dimension, by their indices; a vector counts as one row.
fn extract(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (mut x, indices) = (cx.input(0)?, cx.input(1)?);
    let mut b = Build(cx);
    let count = b.shape(indices)?.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    let count = count.ok_or_else(|| OpError::new(format!("the indices are {}", b.ty(indices))))?;
    let indices = b.reshape(indices, &[count])?;
    match b.ty(x).rank() {
        0 => return Err(OpError::new("x has no dimension to extract from")),
        1 => x = b.unsqueeze(x, &[0])?,
        _ => {}
    }
    Ok(vec![b.with("gather", &[x, indices], int_attrs(&[("axis", -1)]))?])
}
