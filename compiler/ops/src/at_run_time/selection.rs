//! Compress and NonZero of data: the places are sorted out at run time, required that there are as many as declared.

use onnxc_ir::op::OpResult;
use onnxc_ir::{DType, ValueId};

use super::{impossible, require};
use crate::common::axes::axis;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// The first `n` places where a vector of bools holds, and the condition that there are exactly so many.
fn places(b: &mut Build, flags: ValueId, n: u64) -> OpResult<(ValueId, ValueId)> {
    let length = b.shape(flags)?[0];
    let (all, behind) = (b.range(length)?, b.int(length as i64));
    let keys = b.op("where", &[flags, all, behind])?;
    let number = b.cast(flags, DType::I64)?;
    let (found, wanted) = (b.sum(number, &[0])?, b.int(n as i64));
    let same = b.op("equal", &[found, wanted])?;
    let k = b.ints(&[n as i64]);
    let sorted = b.0.node("top_k", &[Some(keys), Some(k)], int_attrs(&[("axis", 0), ("largest", 0), ("sorted", 1)]))?;
    Ok((sorted[0], same))
}

/// Compress.
pub(crate) fn compress(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let (mut x, condition) = (b.0.input(0)?, b.0.input(1)?);
    let along = match b.0.attrs().int("axis") {
        Some(a) => axis(a, b.ty(x).rank())?,
        None => {
            let n = b.shape(x)?.iter().product();
            x = b.reshape(x, &[n])?;
            0
        }
    };
    let (shape, length) = (b.shape(x)?, b.shape(condition)?);
    let fits = shape.len() == to.len() && (0..to.len()).all(|d| d == along || shape[d] == to[d]);
    if !fits || length.len() != 1 || length[0] > shape[along] || to[along] > length[0] {
        return Err(impossible(b, x, to));
    }
    let (at, same) = places(b, condition, to[along])?;
    let x = require(b, x, &[same])?;
    Ok(vec![b.with("gather", &[x, at], int_attrs(&[("axis", along as i64)]))?])
}

/// NonZero: coordinates in row-major order.
pub(crate) fn non_zero(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let x = b.0.input(0)?;
    let shape = b.shape(x)?;
    let elements: u64 = shape.iter().product();
    let [rank, n] = to[..] else { return Err(impossible(b, x, to)) };
    if rank != shape.len() as u64 || rank == 0 || n > elements {
        return Err(impossible(b, x, to));
    }
    let flat = b.reshape(x, &[elements])?;
    let flags = b.cast(flat, DType::Bool)?;
    let (at, same) = places(b, flags, n)?;
    let at = require(b, at, &[same])?;
    let mut rows = Vec::new();
    let mut step = elements;
    for extent in &shape {
        step /= extent.max(&1);
        let (step, extent) = (b.int(step.max(1) as i64), b.int((*extent).max(1) as i64));
        let row = b.op("div", &[at, step])?;
        let row = b.op("mod", &[row, extent])?;
        rows.push(b.unsqueeze(row, &[0])?);
    }
    Ok(vec![b.concat(&rows, 0)?])
}
