//! Compress and NonZero of data: the places are sorted out at run time.

use onnxc_ir::op::OpResult;
use onnxc_ir::{DType, ValueId};

use super::{Sized, cut, impossible};
use crate::common::axes::axis;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// The first `n` places where a vector of bools holds, zeros behind them, and how many there are in all.
pub(crate) fn places(b: &mut Build, flags: ValueId, n: u64) -> OpResult<(ValueId, ValueId)> {
    let number = b.cast(flags, DType::I64)?;
    let found = b.sum(number, &[0])?;
    let (zero, one, behind) = (b.int(0), b.int(1), b.int(n as i64));
    let far = b.op("cumsum", &[number, zero])?;
    let far = b.op("sub", &[far, one])?;
    let room = b.op("less", &[far, behind])?;
    let taken = b.op("and", &[flags, room])?;
    // What has no place goes to one more element at the end.
    let to = b.op("where", &[taken, far, behind])?;
    let (none, all) = (b.filled(0, n + 1)?, b.along(flags, 0)?);
    let packed = b.with("scatter_elements", &[none, to, all], int_attrs(&[("axis", 0)]))?;
    Ok((b.slice(packed, 0, (0, n as i64, 1))?, found))
}

/// Compress.
pub(crate) fn compress(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let (mut x, condition) = (b.0.input(0)?, b.0.input(1)?);
    let along = match b.0.attrs().int("axis") {
        Some(a) => axis(a, b.ty(x).rank())?,
        None => {
            x = b.flat(x)?;
            0
        }
    };
    let (shape, length) = (b.most(x)?, b.most(condition)?);
    let (n, flags) = (b.ty(x).shape[along].clone(), b.ty(condition).shape);
    let fits = n.as_const().is_some_and(|n| length.first().is_some_and(|m| *m <= n)) || flags.first() == Some(&n);
    if length.len() != 1 || !fits {
        return Err(impossible(b, x, &shape));
    }
    let mut most = shape.clone();
    most[along] = length[0];
    let to = size.or(most)?;
    let other = |d: usize| d != along && matches!(size, Sized::Declared(_)) && b.ty(x).shape[d].as_const() != Some(to[d]);
    if (0..to.len()).any(|d| other(d) || d != along && shape[d] != to[d]) || to[along] > length[0] {
        return Err(impossible(b, x, &to));
    }
    let (at, found) = places(b, condition, to[along])?;
    // Behind the last place there is nothing to gather, and perhaps nothing at all.
    let at = cut(b, size, (0, along), vec![(at, 0)], found)?[0];
    Ok(vec![b.with("gather", &[x, at], int_attrs(&[("axis", along as i64)]))?])
}

/// NonZero: coordinates in row-major order.
pub(crate) fn non_zero(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let x = b.0.input(0)?;
    let shape = b.most(x)?;
    let elements: u64 = shape.iter().product();
    let to = size.or(vec![shape.len() as u64, elements])?;
    if shape.is_empty() || to[0] != shape.len() as u64 || to[1] > elements {
        return Err(impossible(b, x, &to));
    }
    let flat = b.flat(x)?;
    let flags = b.cast(flat, DType::Bool)?;
    let (at, found) = places(b, flags, to[1])?;
    let at = cut(b, size, (0, 1), vec![(at, 0)], found)?[0];
    // The last dimension changes fastest.
    let (mut rows, mut rest) = (Vec::new(), at);
    for d in (0..shape.len()).rev() {
        let extent = b.extent(x, d)?;
        let (row, next) = (b.op("mod", &[rest, extent])?, b.op("div", &[rest, extent])?);
        rows.push(b.unsqueeze(row, &[0])?);
        rest = next;
    }
    rows.reverse();
    Ok(vec![b.concat(&rows, 0)?])
}
