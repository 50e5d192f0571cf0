//! Preparations of features: `Scaler`, `Normalizer`, `Imputer`, `FeatureVectorizer`, `OneHotEncoder`.

use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};
use onnxc_ir::{Attr, DType, Tensor, TensorType, ValueId};

use super::{features, floats, import, rows, table};
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// `Scaler`: `(x - offset) * scale`, one of each for all features or for every one.
pub(crate) const SCALER: Import = import("Scaler", |cx| {
    let (offset, scale) = (floats(cx, "offset"), floats(cx, "scale"));
    let (x, ty) = (cx.input(0)?, numbers(cx, 0)?);
    let mut b = Build(cx);
    let mut y = b.cast(x, DType::F32)?;
    for (op, values) in [("sub", offset), ("mul", scale)] {
        if values.is_empty() {
            continue;
        }
        fits(&ty, values.len(), op)?;
        let values = table(&mut b, &[values.len() as u64], &values)?;
        y = b.op(op, &[y, values])?;
    }
    Ok(vec![y])
});

/// Operand `i`, which must be of numbers and have a dimension.
fn numbers(cx: &dyn ImportCx, i: usize) -> OpResult<TensorType> {
    let ty = cx.ty(i)?;
    if !matches!(ty.dtype, DType::F32 | DType::F64 | DType::I32 | DType::I64) || ty.rank() == 0 {
        return Err(OpError::new(format!("input {i} is {ty}: features of f32, f64, i32 or i64 are needed")));
    }
    Ok(ty)
}

/// Refuses a list that has neither one element nor one for every feature.
fn fits(ty: &TensorType, n: usize, what: &str) -> OpResult<()> {
    if n == 1 || ty.shape.last().and_then(|d| d.as_const()) == Some(n as u64) {
        return Ok(());
    }
    Err(OpError::new(format!("{n} numbers ({what}) for features of type {ty}")).help("one, or one for every feature"))
}

/// `Normalizer`: rows divided by their largest element, or by their norm of degree one or two; rows without any stay as they are.
pub(crate) const NORMALIZER: Import = import("Normalizer", |cx| {
    let norm = cx.attrs().str("norm").unwrap_or("MAX").to_string();
    let rank = cx.ty(0)?.rank();
    let x = rows(cx)?;
    let mut b = Build(cx);
    let reduction = match norm.as_str() {
        "MAX" => "reduce_max",
        "L1" => "reduce_l1",
        "L2" => "reduce_l2",
        other => return Err(OpError::new(format!("norm {other:?} is unknown")).help("MAX, L1 or L2")),
    };
    if features(&b, x)? == 0 {
        return Ok(vec![x]);
    }
    let axes = b.ints(&[1]);
    let size = b.with(reduction, &[x, axes], int_attrs(&[("keepdims", 1)]))?;
    let (zero, one) = (b.scalar(DType::F32, 0.0)?, b.scalar(DType::F32, 1.0)?);
    let none = b.op("equal", &[size, zero])?;
    let by = b.op("where", &[none, one, size])?;
    let y = b.op("div", &[x, by])?;
    Ok(vec![if rank == 1 { b.squeeze(y, &[0])? } else { y }])
});

/// `Imputer`: other values in the place of one.
pub(crate) const IMPUTER: Import = import("Imputer", |cx| {
    let (x, ty) = (cx.input(0)?, numbers(cx, 0)?);
    if ty.dtype.is_int() {
        return imputed_ints(cx, x, &ty);
    }
    let (values, old) = (floats(cx, "imputed_value_floats"), f64::from(cx.attrs().float("replaced_value_float").unwrap_or(0.0)));
    fits(&ty, values.len(), "imputed_value_floats")?;
    let mut b = Build(cx);
    let values =
        b.0.constant(crate::common::elements::from_f64s(ty.dtype, &[values.len() as u64], values.iter().map(|v| f64::from(*v)))?);
    let is = if old.is_nan() {
        b.op("is_nan", &[x])?
    } else {
        let old = b.scalar(ty.dtype, old)?;
        b.op("equal", &[x, old])?
    };
    Ok(vec![b.op("where", &[is, values, x])?])
});

fn imputed_ints(cx: &mut dyn ImportCx, x: ValueId, ty: &TensorType) -> OpResult<Vec<ValueId>> {
    let values = cx.attrs().ints("imputed_value_int64s").unwrap_or_default().to_vec();
    let old = cx.attrs().int("replaced_value_int64").unwrap_or(0);
    fits(ty, values.len(), "imputed_value_int64s")?;
    let mut b = Build(cx);
    let (values, old) = (b.ints(&values), b.0.constant(Tensor::scalar(old)));
    let (values, old) = (b.cast(values, ty.dtype)?, b.cast(old, ty.dtype)?);
    let is = b.op("equal", &[x, old])?;
    Ok(vec![b.op("where", &[is, values, x])?])
}

/// `FeatureVectorizer`: the operands beside each other, each cut or filled up with zeros to its number of features.
pub(crate) const FEATURE_VECTORIZER: Import = import("FeatureVectorizer", |cx| {
    let wanted = cx.attrs().ints("inputdimensions").map(<[i64]>::to_vec);
    let mut parts = Vec::new();
    for i in 0..cx.inputs().len() {
        let (x, ty) = (cx.input(i)?, numbers(cx, i)?);
        let mut b = Build(cx);
        let mut x = b.cast(x, DType::F32)?;
        if ty.rank() == 1 {
            x = b.unsqueeze(x, &[1])?;
        }
        let width = features(&b, x)? as i64;
        let want = wanted.as_ref().map_or(Some(width), |w| w.get(i).copied()).filter(|w| (0..1 << 31).contains(w));
        let want =
            want.ok_or_else(|| OpError::new(format!("inputdimensions {wanted:?} has no number of features for input {i}")))?;
        if b.ty(x).rank() != 2 {
            return Err(OpError::new(format!("input {i} is {ty}: rows of features are needed")));
        }
        if want < width {
            x = b.slice(x, 1, (0, want, 1))?;
        } else if want > width {
            let (pads, zero) = (b.ints(&[0, 0, 0, want - width]), b.scalar(DType::F32, 0.0)?);
            x = b.op("pad", &[x, pads, zero])?;
        }
        parts.push(x);
    }
    Ok(vec![Build(cx).concat(&parts, 1)?])
});

/// `OneHotEncoder`: a 1 at the place of the category, nothing for unknown ones.
pub(crate) const ONE_HOT_ENCODER: Import = import("OneHotEncoder", |cx| {
    if matches!(cx.attrs().get("cats_strings"), Some(Attr::Strs(s)) if !s.is_empty()) {
        return Err(
            OpError::new("categories that are strings are not supported").help("encode the strings as integers before the model")
        );
    }
    let categories = cx.attrs().ints("cats_int64s").unwrap_or_default().to_vec();
    let (x, _) = (cx.input(0)?, numbers(cx, 0)?);
    let mut b = Build(cx);
    let x = b.cast(x, DType::I64)?;
    let x = b.unsqueeze(x, &[-1])?;
    let categories = b.ints(&categories);
    let is = b.op("equal", &[x, categories])?;
    Ok(vec![b.cast(is, DType::F32)?])
});
