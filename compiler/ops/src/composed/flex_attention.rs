//! ONNX `FlexAttention`: attention whose scores and weights a model changes by graphs of its own.
//!
//! Steps and types are those of the document (FlexAttention-1 of ai.onnx.preview): both operands of the first product are scaled, and everything behind
//! it has the type of `softmax_precision`.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{DType, ValueId};

use super::Build;
use super::attention::grouped;
use crate::common::float;
use crate::common::sample::int_attrs;

/// ONNX `FlexAttention`.
pub(crate) const FLEX_ATTENTION: Import = Import { domain: "ai.onnx.preview", name: "FlexAttention", opsets: (1, NEWEST), build };

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let attrs = cx.attrs().clone();
    let mut b = Build(cx);
    let dtype = b.dtype(q);
    float::check(dtype, "attention")?;
    let width = width(&b, q, k, v)?;
    let scale = attrs.float("scale").map_or_else(|| 1.0 / (width as f64).sqrt(), f64::from);
    let precise = match attrs.int("softmax_precision") {
        Some(code) => i32::try_from(code).ok().and_then(DType::from_onnx).filter(|t| t.is_float()),
        None if dtype == DType::F64 => Some(DType::F64),
        None => Some(DType::F32),
    };
    let precise = precise.ok_or_else(|| OpError::new("softmax_precision is no float type"))?;
    float::check(precise, "softmax")?;
    let half = b.scalar(dtype, scale.sqrt())?;
    let transposed = b.transpose(k, &[0, 1, 3, 2])?;
    let (q, k) = (b.op("mul", &[q, half])?, b.op("mul", &[transposed, half])?);
    let scores = grouped(&mut b, q, k)?;
    let scores = b.cast(scores, precise)?;
    let scores = modified(&mut b, "score_mod", scores)?;
    let weights = b.with("softmax", &[scores], int_attrs(&[("axis", -1)]))?;
    let weights = modified(&mut b, "prob_mod", weights)?;
    let wide = b.cast(v, precise)?;
    let y = grouped(&mut b, weights, wide)?;
    Ok(vec![b.cast(y, dtype)?])
}

/// Elements of a key, when the operands fit together.
fn width(b: &Build, q: ValueId, k: ValueId, v: ValueId) -> OpResult<u64> {
    let (qs, ks, vs) = (b.shape(q)?, b.shape(k)?, b.shape(v)?);
    let ranks = [&qs, &ks, &vs].iter().all(|s| s.len() == 4);
    if !ranks || qs[0] != ks[0] || ks[..3] != vs[..3] || qs[3] != ks[3] || ks[1] == 0 || qs[1] % ks[1] != 0 {
        let types = format!("{}, keys {} and values {}", b.ty(q), b.ty(k), b.ty(v));
        return Err(OpError::new(format!("queries {types} do not fit together")).help("[batch, heads, positions, elements]"));
    }
    Ok(qs[3])
}

/// What the graph called `name` makes of `x`.
fn modified(b: &mut Build, name: &str, x: ValueId) -> OpResult<ValueId> {
    if !b.0.has_body(name) {
        return Ok(x);
    }
    let results = b.0.body(name, &[x])?;
    match results[..] {
        [y] if b.ty(y) == b.ty(x) => Ok(y),
        [y] => Err(OpError::new(format!("{name} makes {} of {}, the type must stay", b.ty(y), b.ty(x)))),
        _ => Err(OpError::new(format!("{name} has {} outputs, it must have one", results.len()))),
    }
}
