//! Slice and Pad: where an element comes from is computed at run time, dimension by dimension.

use onnxc_ir::ValueId;
use onnxc_ir::op::{OpError, OpResult};

use super::{Sized, axis_counts, axis_numbers, cut, impossible, integers, require, vector};
use crate::common::axes::axis;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// One value for every dimension: those given for some axes, else the default.
struct Spread {
    axes: Option<ValueId>,
    conditions: Vec<ValueId>,
    rank: usize,
}

impl Spread {
    /// For operand `axes` (absent: all dimensions in order) with `n` entries.
    fn new(b: &mut Build, axes: Option<ValueId>, n: u64, rank: usize) -> OpResult<Spread> {
        let Some(axes) = axes else {
            let error = OpError::new(format!("{n} entries for {rank} dimensions, and no axes"));
            return if n == rank as u64 { Ok(Spread { axes: None, conditions: Vec::new(), rank }) } else { Err(error) };
        };
        let (axes, m) = integers(b, axes)?;
        if m != n {
            return Err(OpError::new(format!("{m} axes, but {n} entries")));
        }
        if n > rank as u64 {
            return Err(OpError::new(format!("{n} entries for {rank} dimensions")));
        }
        let (counts, valid) = axis_counts(b, axes, rank)?;
        let one = b.int(1);
        let once = b.op("less_or_equal", &[counts, one])?;
        let (axes, _) = axis_numbers(b, axes, rank)?;
        Ok(Spread { axes: Some(axes), conditions: vec![valid, once], rank })
    }

    fn of(&self, b: &mut Build, values: ValueId, default: impl Fn(usize) -> i64) -> OpResult<ValueId> {
        let Some(axes) = self.axes else { return Ok(values) };
        let all = b.ints(&(0..self.rank).map(default).collect::<Vec<_>>());
        b.with("scatter_elements", &[all, axes, values], int_attrs(&[("axis", 0)]))
    }
}

pub(super) fn entry(b: &mut Build, values: ValueId, i: usize) -> OpResult<ValueId> {
    b.slice(values, 0, (i as i64, i as i64 + 1, 1))
}

pub(super) fn clamp(b: &mut Build, x: ValueId, low: ValueId, high: ValueId) -> OpResult<ValueId> {
    let x = b.op("max", &[x, low])?;
    b.op("min", &[x, high])
}

/// Slice with bounds that are computed.
pub(crate) fn slice(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let (x, starts, ends) = (b.0.input(0)?, b.0.input(1)?, b.0.input(2)?);
    let (axes, steps) = (b.0.opt_input(3), b.0.opt_input(4));
    let from = b.shape(x)?;
    let to = size.or(from.clone())?;
    let sliced = sliced(b, axes, from.len())?;
    let ((starts, n), (ends, m)) = (integers(b, starts)?, integers(b, ends)?);
    let steps = steps.map(|s| integers(b, s)).transpose()?;
    if m != n || steps.is_some_and(|(_, k)| k != n) {
        return Err(OpError::new("starts, ends and steps differ in length"));
    }
    let spread = Spread::new(b, axes, n, from.len())?;
    let ones = b.ints(&vec![1; n as usize]);
    let (starts, ends) = (spread.of(b, starts, |_| 0)?, spread.of(b, ends, |d| from[d] as i64)?);
    let steps = spread.of(b, steps.map_or(ones, |s| s.0), |_| 1)?;
    let (first, steps, count, moves) = bounds(b, &from, (starts, ends, steps))?;
    let mut conditions = [spread.conditions, vec![moves]].concat();
    let declared = matches!(size, Sized::Declared(_));
    if declared {
        let wanted = vector(b, to.iter().copied());
        conditions.push(b.op("equal", &[count, wanted])?);
    }
    let mut y = require(b, x, &conditions)?;
    for (d, extent) in to.iter().enumerate().filter(|(d, _)| sliced[*d] && from[*d] > 0) {
        let (first, step, places) = (entry(b, first, d)?, entry(b, steps, d)?, b.range(*extent)?);
        let far = b.op("mul", &[places, step])?;
        let (mut places, zero, last) = (b.op("add", &[first, far])?, b.int(0), b.int(from[d] as i64 - 1));
        if !declared {
            // Behind the last element that is wanted.
            places = clamp(b, places, zero, last)?;
        }
        y = b.with("gather", &[y, places], int_attrs(&[("axis", d as i64)]))?;
        if !declared {
            let count = entry(b, count, d)?;
            y = cut(b, size, (0, d), vec![(y, d)], count)?[0];
        }
    }
    Ok(vec![y])
}

/// Which dimensions a slice may make shorter: those that it names, or all when the names are only known at run time.
fn sliced(b: &Build, axes: Option<ValueId>, rank: usize) -> OpResult<Vec<bool>> {
    let named = match axes {
        None => return Ok(vec![true; rank]),
        Some(axes) => b.0.graph().constant(axes).and_then(onnxc_ir::Tensor::to_i64s),
    };
    let Some(named) = named else { return Ok(vec![true; rank]) };
    let mut sliced = vec![false; rank];
    for a in named {
        sliced[axis(a, rank)?] = true;
    }
    Ok(sliced)
}

/// First elements, steps (0 made 1), counts, and the condition that no step is 0: as ONNX and NumPy clamp them.
fn bounds(
    b: &mut Build,
    from: &[u64],
    (starts, ends, steps): (ValueId, ValueId, ValueId),
) -> OpResult<(ValueId, ValueId, ValueId, ValueId)> {
    let (zero, one, minus) = (b.int(0), b.int(1), b.int(-1));
    let still = b.op("equal", &[steps, zero])?;
    let steps = b.op("where", &[still, one, steps])?;
    let moves = b.op("not", &[still])?;
    let forward = b.op("greater", &[steps, zero])?;
    let extents = vector(b, from.iter().copied());
    let last = b.op("sub", &[extents, one])?;
    let high = b.op("where", &[forward, extents, last])?;
    let low_end = b.op("where", &[forward, zero, minus])?;
    let mut within = |v: ValueId, low: ValueId| -> OpResult<ValueId> {
        let negative = b.op("less", &[v, zero])?;
        let wrapped = b.op("add", &[v, extents])?;
        let v = b.op("where", &[negative, wrapped, v])?;
        clamp(b, v, low, high)
    };
    let (first, end) = (within(starts, zero)?, within(ends, low_end)?);
    let span = b.op("sub", &[end, first])?;
    let sign = b.op("where", &[forward, one, minus])?;
    let up = b.op("add", &[span, steps])?;
    let up = b.op("sub", &[up, sign])?;
    let count = b.op("div", &[up, steps])?;
    Ok((first, steps, b.op("max", &[count, zero])?, moves))
}

/// Pad with widths that are computed.
pub(crate) fn pad(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let (x, pads) = (b.0.input(0)?, b.0.input(1)?);
    let (value, axes) = (b.0.opt_input(2), b.0.opt_input(3));
    let mode = b.0.attrs().str("mode").unwrap_or("constant").to_string();
    let from = b.shape(x)?;
    let (pads, n) = integers(b, pads)?;
    if from.len() != to.len() || n % 2 != 0 || (mode != "constant" && from.contains(&0)) {
        return Err(impossible(b, x, to));
    }
    let half = n as i64 / 2;
    let spread = Spread::new(b, axes, n / 2, from.len())?;
    let (begins, ends) = (b.slice(pads, 0, (0, half, 1))?, b.slice(pads, 0, (half, n as i64, 1))?);
    let (begins, ends) = (spread.of(b, begins, |_| 0)?, spread.of(b, ends, |_| 0)?);
    let (extents, wanted) = (vector(b, from.iter().copied()), vector(b, to.iter().copied()));
    let total = b.op("add", &[begins, ends])?;
    let total = b.op("add", &[total, extents])?;
    let same = b.op("equal", &[total, wanted])?;
    let mut y = require(b, x, &[spread.conditions, vec![same]].concat())?;
    let value = match value {
        Some(v) => b.reshape(v, &[])?,
        None => b.scalar(b.dtype(x), 0.0)?,
    };
    for d in 0..to.len() {
        let (begin, places) = (entry(b, begins, d)?, b.range(to[d])?);
        let places = b.op("sub", &[places, begin])?;
        let (source, inside) = sources(b, places, from[d] as i64, &mode)?;
        if from[d] > 0 {
            y = b.with("gather", &[y, source], int_attrs(&[("axis", d as i64)]))?;
        }
        if let Some(inside) = inside {
            let mut column = vec![1; to.len() - d];
            column[0] = to[d];
            let inside = b.reshape(inside, &column)?;
            let so_far: Vec<i64> = (0..to.len()).map(|i| if i <= d { to[i] } else { from[i] } as i64).collect();
            let whole = b.ints(&so_far);
            if from[d] == 0 {
                y = b.op("expand", &[value, whole])?;
            }
            y = b.op("where", &[inside, y, value])?;
        }
    }
    Ok(vec![y])
}

/// Which element of a dimension of `n` each place shows, and, with a constant border, whether it shows one.
fn sources(b: &mut Build, places: ValueId, n: i64, mode: &str) -> OpResult<(ValueId, Option<ValueId>)> {
    let (zero, extent, last) = (b.int(0), b.int(n), b.int((n - 1).max(0)));
    match mode {
        "constant" => {
            let (above, below) = (b.op("greater_or_equal", &[places, zero])?, b.op("less", &[places, extent])?);
            Ok((clamp(b, places, zero, last)?, Some(b.op("and", &[above, below])?)))
        }
        "edge" => Ok((clamp(b, places, zero, last)?, None)),
        "wrap" => Ok((b.op("mod", &[places, extent])?, None)),
        "reflect" => {
            let period = b.int((2 * (n - 1)).max(1));
            let there = b.op("mod", &[places, period])?;
            let back = b.op("sub", &[period, there])?;
            let nearest = b.op("min", &[there, back])?;
            Ok((clamp(b, nearest, zero, last)?, None))
        }
        other => Err(OpError::new(format!("mode {other:?} is unknown")).help("constant, edge, reflect or wrap")),
    }
}
