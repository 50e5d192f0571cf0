//! Operators whose result is determined by its shape: what is computed at run time only has to agree.

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{Attrs, DType, ValueId};

use super::{axis_numbers, flags, impossible, integers, require, vector};
use crate::common::axes::axis;
use crate::composed::Build;

/// Reshape: each entry is the extent, -1, or 0 for the extent of the operand.
pub(crate) fn reshape(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let (x, shape) = (b.0.input(0)?, b.0.input(1)?);
    let from = b.shape(x)?;
    let (shape, n) = integers(b, shape)?;
    if n != to.len() as u64 || from.iter().product::<u64>() != to.iter().product::<u64>() {
        return Err(impossible(b, x, to));
    }
    let (wanted, minus, zero) = (vector(b, to.iter().copied()), b.int(-1), b.int(0));
    let (same, open) = (b.op("equal", &[shape, wanted])?, b.op("equal", &[shape, minus])?);
    let mut right = b.op("or", &[same, open])?;
    if b.0.attrs().int("allowzero").unwrap_or(0) == 0 {
        let kept = flags(b, to.iter().enumerate().map(|(i, n)| from.get(i) == Some(n)));
        let copied = b.op("equal", &[shape, zero])?;
        let copied = b.op("and", &[copied, kept])?;
        right = b.op("or", &[right, copied])?;
    }
    let (open, one) = (b.cast(open, DType::I64)?, b.int(1));
    let open = b.sum(open, &[0])?;
    let single = b.op("less_or_equal", &[open, one])?;
    let x = require(b, x, &[right, single])?;
    Ok(vec![b.reshape(x, to)?])
}

/// Expand: each entry is the extent, or 1 where the operand has the extent.
pub(crate) fn expand(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let (x, shape) = (b.0.input(0)?, b.0.input(1)?);
    let from = b.shape(x)?;
    let (shape, n) = integers(b, shape)?;
    let n = n as usize;
    // Extent of the operand behind dimension `d` of the result.
    let behind = |d: usize| (d + from.len()).checked_sub(to.len()).map(|i| from[i]);
    let fits =
        (0..to.len()).all(|d| behind(d).is_none_or(|e| e == to[d] || e == 1) && (d + n >= to.len() || behind(d) == Some(to[d])));
    if n > to.len() || from.len() > to.len() || !fits {
        return Err(impossible(b, x, to));
    }
    let tail = to.len() - n..to.len();
    let (wanted, one) = (vector(b, to[tail.clone()].iter().copied()), b.int(1));
    let kept = flags(b, tail.map(|d| behind(d) == Some(to[d])));
    let (same, ones) = (b.op("equal", &[shape, wanted])?, b.op("equal", &[shape, one])?);
    let ones = b.op("and", &[ones, kept])?;
    let right = b.op("or", &[same, ones])?;
    let x = require(b, x, &[right])?;
    let all = vector(b, to.iter().copied());
    Ok(vec![b.op("expand", &[x, all])?])
}

/// Unsqueeze: every axis is a dimension of extent 1 of the result.
pub(crate) fn unsqueeze(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    units(b, to, to)
}

/// Squeeze: every axis is a dimension of extent 1 of the operand.
pub(crate) fn squeeze(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let x = b.0.input(0)?;
    let from = b.shape(x)?;
    units(b, to, &from)
}

/// The operand in its declared shape; the axes must be dimensions of extent 1 of the larger shape of the two.
fn units(b: &mut Build, to: &[u64], larger: &[u64]) -> OpResult<Vec<ValueId>> {
    let (x, axes) = (b.0.input(0)?, b.0.input(1)?);
    let from = b.shape(x)?;
    let (axes, n) = integers(b, axes)?;
    let smaller = if larger.len() == from.len() { to.len() } else { from.len() };
    let without = |s: &[u64]| s.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
    if smaller as u64 + n != larger.len() as u64 || without(&from) != without(to) {
        return Err(impossible(b, x, to));
    }
    let (axes, valid) = axis_numbers(b, axes, larger.len())?;
    let extents = vector(b, larger.iter().copied());
    let (hit, one) = (b.op("gather", &[extents, axes])?, b.int(1));
    let unit = b.op("equal", &[hit, one])?;
    let x = require(b, x, &[valid, unit])?;
    Ok(vec![b.reshape(x, to)?])
}

/// ConstantOfShape.
pub(crate) fn constant_of_shape(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let shape = b.0.input(0)?;
    let (shape, n) = integers(b, shape)?;
    if n != to.len() as u64 {
        return Err(impossible(b, shape, to));
    }
    let wanted = vector(b, to.iter().copied());
    let same = b.op("equal", &[shape, wanted])?;
    let attrs = b.0.attrs().clone();
    let y = b.with("constant_of_shape", &[wanted], attrs)?;
    Ok(vec![require(b, y, &[same])?])
}

/// Tile: repetitions times extents are the declared extents.
pub(crate) fn tile(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let (x, repeats) = (b.0.input(0)?, b.0.input(1)?);
    let from = b.shape(x)?;
    let (repeats, n) = integers(b, repeats)?;
    let divides = |(f, t): (&u64, &u64)| if *f == 0 { *t == 0 } else { t % f == 0 };
    if n != to.len() as u64 || from.len() != to.len() || !from.iter().zip(to).all(divides) {
        return Err(impossible(b, x, to));
    }
    let (extents, wanted) = (vector(b, from.iter().copied()), vector(b, to.iter().copied()));
    let product = b.op("mul", &[repeats, extents])?;
    let same = b.op("equal", &[product, wanted])?;
    let x = require(b, x, &[same])?;
    let repeats = vector(b, from.iter().zip(to).map(|(f, t)| t / f.max(&1)));
    Ok(vec![b.op("tile", &[x, repeats])?])
}

/// TopK: k is the extent along the axis.
pub(crate) fn top_k(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let (x, k) = (b.0.input(0)?, b.0.input(1)?);
    let attrs = b.0.attrs().clone();
    let along = axis(attrs.int("axis").unwrap_or(-1), to.len())?;
    let (k, _) = integers(b, k)?;
    let wanted = vector(b, [to[along]]);
    let same = b.op("equal", &[k, wanted])?;
    let x = require(b, x, &[same])?;
    b.0.node("top_k", &[Some(x), Some(wanted)], attrs)
}

/// OneHot: the depth is the extent along the axis.
pub(crate) fn one_hot(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let (indices, depth, values) = (b.0.input(0)?, b.0.input(1)?, b.0.input(2)?);
    let attrs = b.0.attrs().clone();
    let along = axis(attrs.int("axis").unwrap_or(-1), to.len())?;
    let (depth, wanted) = (b.cast(depth, DType::I64)?, b.int(to[along] as i64));
    let same = b.op("equal", &[depth, wanted])?;
    let indices = require(b, indices, &[same])?;
    Ok(vec![b.with("one_hot", &[indices, wanted, values], attrs)?])
}

/// Split: the sizes are the declared extents.
pub(crate) fn split(b: &mut Build, first: &[u64]) -> OpResult<Vec<ValueId>> {
    let (x, sizes) = (b.0.input(0)?, b.0.input(1)?);
    let attrs = b.0.attrs().clone();
    let along = axis(attrs.int("axis").unwrap_or(0), first.len())?;
    let extent = |i: usize| b.0.declared(i).and_then(|shape| shape.get(along).copied());
    let extents: Option<Vec<u64>> = (0..b.0.n_outputs()).map(extent).collect();
    let extents = extents.ok_or_else(|| OpError::new("the sizes are not known, and not all results have a declared shape"))?;
    let (sizes, n) = integers(b, sizes)?;
    if n != extents.len() as u64 {
        return Err(impossible(b, x, first));
    }
    let wanted = vector(b, extents);
    let same = b.op("equal", &[sizes, wanted])?;
    let x = require(b, x, &[same])?;
    b.0.node("split", &[Some(x), Some(wanted)], attrs)
}

/// Range, required that there are as many numbers as declared.
pub(crate) fn range(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let [n] = to[..] else { return Err(impossible(b, b.0.input(0)?, to)) };
    let numbers = numbers(b, n)?;
    let wanted = b.scalar(b.dtype(numbers.count), n as f64)?;
    let same = b.op("equal", &[numbers.count, wanted])?;
    Ok(vec![require(b, numbers.values, &[numbers.moves, same])?])
}

/// What Range counts.
pub(super) struct Numbers {
    /// The first of them: `start + i * delta`.
    pub values: ValueId,
    /// Whether the step is not 0.
    pub moves: ValueId,
    /// How many there are, in their own type.
    pub count: ValueId,
}

/// The first `n` numbers of Range.
pub(super) fn numbers(b: &mut Build, n: u64) -> OpResult<Numbers> {
    let (start, limit, delta) = (b.0.input(0)?, b.0.input(1)?, b.0.input(2)?);
    let dtype = b.dtype(start);
    let [start, limit, delta] = [start, limit, delta].map(|v| b.reshape(v, &[]));
    let (start, limit, delta) = (start?, limit?, delta?);
    let zero = b.scalar(dtype, 0.0)?;
    let (steps, moves) = (b.range(n)?, b.op("equal", &[delta, zero])?);
    let moves = b.op("not", &[moves])?;
    let span = b.op("sub", &[limit, start])?;
    let count = if dtype.is_float() {
        let count = b.op("div", &[span, delta])?;
        let count = b.op("ceil", &[count])?;
        b.op("max", &[count, zero])?
    } else {
        // Rounded up: one more step unless the last one lands on the limit. Division of integers truncates.
        let one = b.scalar(dtype, 1.0)?;
        let safe = b.op("where", &[moves, delta, one])?;
        let whole = b.op("div", &[span, safe])?;
        let landed = b.op("mul", &[whole, safe])?;
        let landed = b.op("equal", &[landed, span])?;
        let (up, down) = (b.op("greater", &[span, zero])?, b.op("greater", &[safe, zero])?);
        let ahead = b.op("equal", &[up, down])?;
        let more = b.op("where", &[landed, zero, one])?;
        let count = b.op("add", &[whole, more])?;
        b.op("where", &[ahead, count, zero])?
    };
    let steps = b.cast(steps, dtype)?;
    let far = b.op("mul", &[steps, delta])?;
    let values = b.with("add", &[start, far], Attrs::default())?;
    Ok(Numbers { values, moves, count })
}
