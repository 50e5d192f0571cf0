//! Resize whose scales, sizes or region are computed: the weights of [`super::axis`] as a matrix for each dimension, made at run time.

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{DType, ValueId};

use super::axis::{Coordinates, Method, Mode, Rounding};
use crate::at_run_time::{integers, require, vector};
use crate::common::axes::axis as one_axis;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// One dimension: extents, and as f64 scalars the factor and the region.
struct Line {
    dimension: usize,
    input: u64,
    output: u64,
    scale: ValueId,
    region: Option<(ValueId, ValueId)>,
}

/// The resize of operand 0 to `to` by operands roi, scales, sizes.
pub(super) fn resize(
    b: &mut Build,
    [roi, scales, sizes]: [Option<ValueId>; 3],
    axes: Option<&[i64]>,
    method: &Method,
    policy: &str,
    to: &[u64],
) -> OpResult<Vec<ValueId>> {
    let mut x = b.0.input(0)?;
    let from = b.shape(x)?;
    let list: Vec<usize> = match axes {
        Some(given) => given.iter().map(|a| one_axis(*a, from.len())).collect::<OpResult<_>>()?,
        None => (0..from.len()).collect(),
    };
    let kept = |d: usize| list.contains(&d) || from[d] == to[d];
    if from.len() != to.len() || from.contains(&0) || to.contains(&0) || !(0..to.len()).all(kept) {
        return Err(OpError::new(format!("{} cannot be resized to the declared shape {to:?}", b.ty(x))));
    }
    let (factors, right) = factors(b, scales, sizes, &from, to, &list, policy)?;
    x = require(b, x, &[right])?;
    let region = match roi.filter(|_| method.coordinates == Coordinates::TfCropAndResize) {
        Some(roi) => Some(b.cast(roi, DType::F64)?),
        None => None,
    };
    let dtype = b.dtype(x);
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    if !method.copies() {
        x = b.cast(x, wide)?;
    }
    let mut outside = Vec::new();
    for (i, d) in list.iter().enumerate() {
        let scale = entry(b, factors, i)?;
        let region = match region {
            Some(r) => Some((entry(b, r, i)?, entry(b, r, i + list.len())?)),
            None => None,
        };
        let line = Line { dimension: *d, input: from[*d], output: to[*d], scale, region };
        let at = position(b, &line, method)?;
        if line.region.is_some() {
            outside.push((*d, beyond(b, at, from[*d])?));
        }
        x = if method.copies() { nearest(b, x, at, &line, method)? } else { interpolate(b, x, at, &line, method)? };
    }
    for (d, beyond) in outside {
        let mut column = vec![1; to.len() - d];
        column[0] = to[d];
        let beyond = b.reshape(beyond, &column)?;
        let value = b.scalar(b.dtype(x), f64::from(method.extrapolation))?;
        x = b.op("where", &[beyond, value, x])?;
    }
    Ok(vec![b.cast(x, dtype)?])
}

fn entry(b: &mut Build, values: ValueId, i: usize) -> OpResult<ValueId> {
    let one = b.slice(values, 0, (i as i64, i as i64 + 1, 1))?;
    b.reshape(one, &[])
}

fn number(b: &mut Build, v: f64) -> OpResult<ValueId> {
    b.scalar(DType::F64, v)
}

fn pair(b: &mut Build, op: &str, x: ValueId, v: f64) -> OpResult<ValueId> {
    let v = number(b, v)?;
    b.op(op, &[x, v])
}

/// The factors of the dimensions in `list` as an f64 vector, and the condition that they lead to the declared extents.
fn factors(
    b: &mut Build,
    scales: Option<ValueId>,
    sizes: Option<ValueId>,
    from: &[u64],
    to: &[u64],
    list: &[usize],
    policy: &str,
) -> OpResult<(ValueId, ValueId)> {
    let floats = |b: &mut Build, shape: &[u64]| {
        let ints = vector(b, list.iter().map(|d| shape[*d]));
        b.cast(ints, DType::F64)
    };
    let (inputs, wanted) = (floats(b, from)?, floats(b, to)?);
    let count = |b: &Build, id: ValueId| {
        let fits = b.shape(id)? == [list.len() as u64];
        if fits { Ok(()) } else { Err(OpError::new(format!("{} for {} resized dimensions", b.ty(id), list.len()))) }
    };
    if let Some(scales) = scales {
        count(b, scales)?;
        let scales = b.cast(scales, DType::F64)?;
        let extents = b.op("mul", &[inputs, scales])?;
        let extents = b.op("floor", &[extents])?;
        return Ok((scales, b.op("equal", &[extents, wanted])?));
    }
    let sizes = sizes.ok_or_else(|| OpError::new("neither scales nor sizes are given"))?;
    count(b, sizes)?;
    let (sizes, _) = integers(b, sizes)?;
    let sizes = b.cast(sizes, DType::F64)?;
    let factors = b.op("div", &[sizes, inputs])?;
    let choose = match policy {
        "not_larger" => "reduce_min",
        "not_smaller" => "reduce_max",
        _ => return Ok((factors, b.op("equal", &[sizes, wanted])?)),
    };
    let first = b.ints(&[0]);
    let common = b.with(choose, &[factors, first], int_attrs(&[("keepdims", 1)]))?;
    let extents = b.op("mul", &[common, inputs])?;
    let extents = b.op("round", &[extents])?;
    let all = vector(b, [list.len() as u64]);
    Ok((b.op("expand", &[common, all])?, b.op("equal", &[extents, wanted])?))
}

/// Positions of the outputs among the inputs: [`Method::position`] as nodes.
fn position(b: &mut Build, line: &Line, method: &Method) -> OpResult<ValueId> {
    let n = line.input as f64;
    let x = b.range(line.output)?;
    let x = b.cast(x, DType::F64)?;
    let exact = pair(b, "mul", line.scale, n)?;
    let shifted = pair(b, "add", x, 0.5)?;
    let shifted = b.op("div", &[shifted, line.scale])?;
    let half_pixel = pair(b, "sub", shifted, 0.5)?;
    let single = pair(b, "equal", exact, 1.0)?;
    // Steps of x that reach from the first input to the last.
    let spread = |b: &mut Build, length: ValueId| {
        let gaps = pair(b, "sub", exact, 1.0)?;
        let far = b.op("mul", &[x, length])?;
        b.op("div", &[far, gaps])
    };
    match (method.coordinates, line.region) {
        (Coordinates::HalfPixel, _) => Ok(half_pixel),
        (Coordinates::PytorchHalfPixel, _) => {
            let fixed = number(b, -0.5)?;
            b.op("where", &[single, fixed, half_pixel])
        }
        (Coordinates::HalfPixelSymmetric, _) => {
            let output = number(b, line.output as f64)?;
            let (one, adjustment) = (number(b, 1.0)?, b.op("div", &[output, exact])?);
            let rest = b.op("sub", &[one, adjustment])?;
            let offset = pair(b, "mul", rest, n / 2.0)?;
            b.op("add", &[offset, half_pixel])
        }
        (Coordinates::AlignCorners, _) => {
            let (zero, length) = (number(b, 0.0)?, number(b, n - 1.0)?);
            let spread = spread(b, length)?;
            b.op("where", &[single, zero, spread])
        }
        (Coordinates::Asymmetric, _) => b.op("div", &[x, line.scale]),
        (Coordinates::TfHalfPixelForNn, _) => Ok(shifted),
        (Coordinates::TfCropAndResize, Some((start, end))) if line.output > 1 => {
            let length = b.op("sub", &[end, start])?;
            let length = pair(b, "mul", length, n - 1.0)?;
            let (first, spread) = (pair(b, "mul", start, n - 1.0)?, spread(b, length)?);
            b.op("add", &[first, spread])
        }
        (Coordinates::TfCropAndResize, Some((start, end))) => {
            let middle = b.op("add", &[start, end])?;
            let middle = pair(b, "mul", middle, 0.5 * (n - 1.0))?;
            b.reshape(middle, &[1])
        }
        (Coordinates::TfCropAndResize, None) => Err(OpError::new("tf_crop_and_resize needs a region (roi)")),
    }
}

/// Whether positions lie outside of the input.
fn beyond(b: &mut Build, at: ValueId, n: u64) -> OpResult<ValueId> {
    let (below, above) = (pair(b, "less", at, 0.0)?, pair(b, "greater", at, n as f64 - 1.0)?);
    b.op("or", &[below, above])
}

fn nearest(b: &mut Build, x: ValueId, at: ValueId, line: &Line, method: &Method) -> OpResult<ValueId> {
    let (shift, round) = match method.rounding {
        Rounding::PreferFloor => (-0.5, "ceil"),
        Rounding::PreferCeil => (0.5, "floor"),
        Rounding::Floor => (0.0, "floor"),
        Rounding::Ceil => (0.0, "ceil"),
    };
    let at = pair(b, "add", at, shift)?;
    let at = b.op(round, &[at])?;
    let at = pair(b, "max", at, 0.0)?;
    let at = pair(b, "min", at, line.input as f64 - 1.0)?;
    let at = b.cast(at, DType::I64)?;
    b.with("gather", &[x, at], int_attrs(&[("axis", line.dimension as i64)]))
}

/// Most columns of a matrix of weights.
const MOST_COLUMNS: u64 = 1 << 20;

/// x times the matrix of weights along the dimension. Beyond its ends x goes on with its first and last elements, as far as a filter may reach.
fn interpolate(b: &mut Build, x: ValueId, at: ValueId, line: &Line, method: &Method) -> OpResult<ValueId> {
    let (n, reach) = (line.input as i64, if method.mode == Mode::Linear { 1 } else { 2 });
    // A filter that is stretched to 1/scale: the scale is at least output/input.
    let widest = if method.antialias { line.input.div_ceil(line.output).max(1) as i64 } else { 1 };
    let beyond = reach * widest + 1;
    if line.input.saturating_add(2 * beyond as u64) > MOST_COLUMNS {
        let reason =
            format!("dimension {} with {} elements is too long for factors that are computed", line.dimension, line.input);
        return Err(OpError::new(reason).help("make scales or sizes constants (--const)"));
    }
    let columns: Vec<i64> = (-beyond..n + beyond).collect();
    let sources = b.ints(&columns.iter().map(|i| (*i).clamp(0, n - 1)).collect::<Vec<_>>());
    let places = b.ints(&columns);
    let places = b.cast(places, DType::F64)?;
    let at = b.unsqueeze(at, &[1])?;
    let mut distance = b.op("sub", &[places, at])?;
    let one = number(b, 1.0)?;
    let stretch = if method.antialias { b.op("min", &[line.scale, one])? } else { one };
    distance = b.op("mul", &[distance, stretch])?;
    let mut weights = filter(b, distance, method)?;
    if method.exclude_outside {
        let inside: Vec<f64> = columns.iter().map(|i| f64::from((0..n).contains(i))).collect();
        let inside = b.0.constant(onnxc_ir::Tensor::from_vec(&[inside.len() as u64], inside));
        weights = b.op("mul", &[weights, inside])?;
    }
    if method.exclude_outside || method.antialias {
        let axes = b.ints(&[1]);
        let sum = b.with("reduce_sum", &[weights, axes], int_attrs(&[("keepdims", 1)]))?;
        let whole = pair(b, "less", stretch, 1.0)?;
        let whole = if method.exclude_outside { b.0.constant(onnxc_ir::Tensor::scalar(true)) } else { whole };
        let empty = pair(b, "equal", sum, 0.0)?;
        let sum = b.op("where", &[empty, one, sum])?;
        let sum = b.op("where", &[whole, sum, one])?;
        weights = b.op("div", &[weights, sum])?;
    }
    let weights = b.cast(weights, b.dtype(x))?;
    let weights = b.transpose(weights, &[1, 0])?;
    let rank = b.ty(x).rank();
    let mut last: Vec<usize> = (0..rank).filter(|d| *d != line.dimension).collect();
    last.push(line.dimension);
    let back: Vec<usize> = (0..rank).map(|d| last.iter().position(|l| *l == d).expect("internal: a permutation")).collect();
    let x = b.with("gather", &[x, sources], int_attrs(&[("axis", line.dimension as i64)]))?;
    let x = b.transpose(x, &last)?;
    let y = b.op("matmul", &[x, weights])?;
    b.transpose(y, &back)
}

/// [`Method::filter`] as nodes.
fn filter(b: &mut Build, x: ValueId, method: &Method) -> OpResult<ValueId> {
    let x = b.op("abs", &[x])?;
    if method.mode == Mode::Linear {
        let one = number(b, 1.0)?;
        let rest = b.op("sub", &[one, x])?;
        return pair(b, "max", rest, 0.0);
    }
    let a = method.cubic;
    let near = pair(b, "mul", x, a + 2.0)?;
    let near = pair(b, "sub", near, a + 3.0)?;
    let near = b.op("mul", &[near, x])?;
    let near = b.op("mul", &[near, x])?;
    let near = pair(b, "add", near, 1.0)?;
    let far = pair(b, "sub", x, 5.0)?;
    let far = b.op("mul", &[far, x])?;
    let far = pair(b, "add", far, 8.0)?;
    let far = b.op("mul", &[far, x])?;
    let far = pair(b, "mul", far, a)?;
    let far = pair(b, "sub", far, 4.0 * a)?;
    let (inner, outer) = (pair(b, "less_or_equal", x, 1.0)?, pair(b, "less", x, 2.0)?);
    let zero = number(b, 0.0)?;
    let far = b.op("where", &[outer, far, zero])?;
    b.op("where", &[inner, near, far])
}
