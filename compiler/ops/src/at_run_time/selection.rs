//! Compress and NonZero of data: the places are sorted out at run time.

use onnxc_ir::op::OpResult;
use onnxc_ir::{DType, ValueId};

use super::{Sized, cut, impossible};
use crate::common::axes::axis;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// The first `n` places where a vector of bools holds, zeros behind them, and how many there are in all.
pub(crate) fn places(b: &mut Build, flags: ValueId, n: u64) -> OpResult<(ValueId, ValueId)> {
    let length = b.shape(flags)?[0];
    let number = b.cast(flags, DType::I64)?;
    let found = b.sum(number, &[0])?;
    let (zero, one, behind) = (b.int(0), b.int(1), b.int(n as i64));
    let far = b.op("cumsum", &[number, zero])?;
    let far = b.op("sub", &[far, one])?;
    let room = b.op("less", &[far, behind])?;
    let taken = b.op("and", &[flags, room])?;
    // What has no place goes to one more element at the end.
    let to = b.op("where", &[taken, far, behind])?;
    let (none, all) = (b.filled(0, n + 1)?, b.range(length)?);
    let packed = b.with("scatter_elements", &[none, to, all], int_attrs(&[("axis", 0)]))?;
    Ok((b.slice(packed, 0, (0, n as i64, 1))?, found))
}

/// Compress.
pub(crate) fn compress(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
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
    if length.len() != 1 || length[0] > shape[along] {
        return Err(impossible(b, x, &shape));
    }
    let mut most = shape.clone();
    most[along] = length[0];
    let to = size.or(most)?;
    if (0..to.len()).any(|d| d != along && shape[d] != to[d]) || to[along] > length[0] {
        return Err(impossible(b, x, &to));
    }
    let (at, found) = places(b, condition, to[along])?;
    let y = b.with("gather", &[x, at], int_attrs(&[("axis", along as i64)]))?;
    cut(b, size, 0, vec![(y, along)], found)
}

/// NonZero: coordinates in row-major order.
pub(crate) fn non_zero(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let x = b.0.input(0)?;
    let shape = b.shape(x)?;
    let elements: u64 = shape.iter().product();
    let to = size.or(vec![shape.len() as u64, elements])?;
    if shape.is_empty() || to[0] != shape.len() as u64 || to[1] > elements {
        return Err(impossible(b, x, &to));
    }
    let flat = b.reshape(x, &[elements])?;
    let flags = b.cast(flat, DType::Bool)?;
    let (at, found) = places(b, flags, to[1])?;
    let mut rows = Vec::new();
    let mut step = elements;
    for extent in &shape {
        step /= extent.max(&1);
        let (step, extent) = (b.int(step.max(1) as i64), b.int((*extent).max(1) as i64));
        let row = b.op("div", &[at, step])?;
        let row = b.op("mod", &[row, extent])?;
        rows.push(b.unsqueeze(row, &[0])?);
    }
    let all = b.concat(&rows, 0)?;
    cut(b, size, 0, vec![(all, 1)], found)
}
