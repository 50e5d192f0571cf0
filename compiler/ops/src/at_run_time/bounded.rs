//! Operators whose operands say at run time how large the result is: computed in the size of its bound, cut to what the operands say.
//!
//! The bound is stated by the user (`--bound`) where nothing else limits the size.

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{DType, ValueId};

use super::windows::{clamp, entry};
use super::{Sized, cut, impossible, integers, require, shapes, vector};
use crate::common::axes::axis;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// A result whose dimension `d` has `counts[d]` elements, where there is an entry.
fn cut_all(b: &mut Build, size: &Sized, mut y: ValueId, counts: &[Option<ValueId>]) -> OpResult<Vec<ValueId>> {
    for (d, count) in counts.iter().enumerate() {
        if let Some(count) = count {
            y = cut(b, size, (0, d), vec![(y, d)], *count)?[0];
        }
    }
    Ok(vec![y])
}

/// All entries of a vector of `n` integers.
fn entries(b: &mut Build, values: ValueId, n: u64) -> OpResult<Vec<ValueId>> {
    (0..n as usize).map(|d| entry(b, values, d)).collect()
}

/// The bound of a result of `rank` dimensions.
fn bound(b: &Build, size: &Sized, rank: u64) -> OpResult<Vec<u64>> {
    let to = size.stated()?;
    if to.len() as u64 == rank { Ok(to) } else { Err(impossible(b, b.0.input(0)?, &to)) }
}

/// Range.
pub(crate) fn range(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let n = bound(b, size, 1)?[0];
    let numbers = shapes::numbers(b, n)?;
    let count = b.cast(numbers.count, DType::I64)?;
    let y = require(b, numbers.values, &[numbers.moves])?;
    cut(b, size, (0, 0), vec![(y, 0)], count)
}

/// ConstantOfShape.
pub(crate) fn constant_of_shape(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let shape = b.0.input(0)?;
    let (shape, n) = integers(b, shape)?;
    let to = bound(b, size, n)?;
    let (attrs, to) = (b.0.attrs().clone(), vector(b, to));
    let y = b.with("constant_of_shape", &[to], attrs)?;
    let counts: Vec<Option<ValueId>> = entries(b, shape, n)?.into_iter().map(Some).collect();
    cut_all(b, size, y, &counts)
}

/// Tile: element `i` of a dimension is element `i mod extent` of the operand's.
pub(crate) fn tile(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let (mut y, repeats) = (b.0.input(0)?, b.0.input(1)?);
    let from = b.shape(y)?;
    let (repeats, n) = integers(b, repeats)?;
    let to = bound(b, size, from.len() as u64)?;
    if n != from.len() as u64 || from.contains(&0) {
        return Err(impossible(b, y, &to));
    }
    let extents = vector(b, from.iter().copied());
    let counts = b.op("mul", &[repeats, extents])?;
    for d in 0..to.len() {
        let (places, extent) = (b.range(to[d])?, b.int(from[d] as i64));
        let places = b.op("mod", &[places, extent])?;
        y = b.with("gather", &[y, places], int_attrs(&[("axis", d as i64)]))?;
    }
    let counts: Vec<Option<ValueId>> = entries(b, counts, n)?.into_iter().map(Some).collect();
    cut_all(b, size, y, &counts)
}

/// Expand: where the operand has one element the shape decides, elsewhere it must agree with the operand.
pub(crate) fn expand(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let (x, shape) = (b.0.input(0)?, b.0.input(1)?);
    let from = b.shape(x)?;
    let (shape, n) = integers(b, shape)?;
    let rank = n.max(from.len() as u64) as usize;
    let mut to = bound(b, size, rank as u64)?;
    let all = entries(b, shape, n)?;
    let (mut counts, mut conditions, one) = (vec![None; rank], Vec::new(), b.int(1));
    for d in 0..rank {
        let own = (d + from.len()).checked_sub(rank).map_or(1, |i| from[i]);
        let asked = (d + n as usize).checked_sub(rank).map(|i| all[i]);
        match asked {
            Some(asked) if own == 1 => counts[d] = Some(asked),
            Some(asked) => {
                let extent = b.int(own as i64);
                let (same, unit) = (b.op("equal", &[asked, extent])?, b.op("equal", &[asked, one])?);
                conditions.push(b.op("or", &[same, unit])?);
                to[d] = own;
            }
            None => to[d] = own,
        }
    }
    let (x, to) = (require(b, x, &conditions)?, vector(b, to));
    let y = b.op("expand", &[x, to])?;
    cut_all(b, size, y, &counts)
}

/// Reshape: element `i` in row-major order of the result is element `i` of the operand; which coordinates that is, the shape says.
pub(crate) fn reshape(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let (x, shape) = (b.0.input(0)?, b.0.input(1)?);
    let from = b.shape(x)?;
    let elements: u64 = from.iter().product();
    let (shape, n) = integers(b, shape)?;
    let to = bound(b, size, n)?;
    if n == 0 || elements == 0 {
        return Err(impossible(b, x, &to));
    }
    let (extents, valid) = actual_extents(b, shape, &from, n as usize)?;
    let flat = b.reshape(x, &[elements])?;
    let flat = require(b, flat, &[valid])?;
    let (zero, last) = (b.int(0), b.int(elements as i64 - 1));
    let (mut places, mut step) = (zero, b.int(1));
    for d in (0..n as usize).rev() {
        let mut column = vec![1; n as usize - d];
        column[0] = to[d];
        let along = b.range(to[d])?;
        let along = b.reshape(along, &column)?;
        let far = b.op("mul", &[along, step])?;
        places = b.op("add", &[places, far])?;
        let extent = b.reshape(extents[d], &[])?;
        step = b.op("mul", &[step, extent])?;
    }
    // Places beyond the extents are cut away; they only must not lead outside.
    let places = clamp(b, places, zero, last)?;
    let y = b.op("gather", &[flat, places])?;
    let counts: Vec<Option<ValueId>> = extents.into_iter().map(Some).collect();
    cut_all(b, size, y, &counts)
}

/// The extents that a shape operand means for the elements of a tensor, and whether they are as many.
fn actual_extents(b: &mut Build, shape: ValueId, from: &[u64], n: usize) -> OpResult<(Vec<ValueId>, ValueId)> {
    let elements: u64 = from.iter().product();
    let (zero, one, minus, all) = (b.int(0), b.int(1), b.int(-1), b.int(elements as i64));
    let mut asked = entries(b, shape, n as u64)?;
    if b.0.attrs().int("allowzero").unwrap_or(0) == 0 {
        for (entry, own) in asked.iter_mut().zip(from) {
            let (copied, own) = (b.op("equal", &[*entry, zero])?, b.int(*own as i64));
            *entry = b.op("where", &[copied, own, *entry])?;
        }
    }
    let mut known = one;
    let mut open = Vec::new();
    for entry in &asked {
        let unknown = b.op("equal", &[*entry, minus])?;
        let factor = b.op("where", &[unknown, one, *entry])?;
        known = b.op("mul", &[known, factor])?;
        open.push(unknown);
    }
    let positive = b.op("greater", &[known, zero])?;
    let divisor = b.op("max", &[known, one])?;
    let rest = b.op("div", &[all, divisor])?;
    let (mut extents, mut product) = (Vec::new(), one);
    for (entry, unknown) in asked.into_iter().zip(open) {
        let extent = b.op("where", &[unknown, rest, entry])?;
        product = b.op("mul", &[product, extent])?;
        extents.push(extent);
    }
    let same = b.op("equal", &[product, all])?;
    Ok((extents, b.op("and", &[positive, same])?))
}

/// TopK: all elements in order, as many of them as k says.
pub(crate) fn top_k(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let (x, k) = (b.0.input(0)?, b.0.input(1)?);
    let (from, attrs) = (b.shape(x)?, b.0.attrs().clone());
    let along = axis(attrs.int("axis").unwrap_or(-1), from.len())?;
    let most = size.or(from.clone())?[along].min(from[along]);
    let (k, n) = integers(b, k)?;
    if n != 1 {
        return Err(OpError::new("k must be one number"));
    }
    let most = vector(b, [most]);
    let best = b.0.node("top_k", &[Some(x), Some(most)], attrs)?;
    cut(b, size, (0, along), best.into_iter().map(|y| (y, along)).collect(), k)
}
