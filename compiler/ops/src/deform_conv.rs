//! `deform_columns`: what the taps of a deformable convolution read, each at a place of its own (Dai et al., "Deformable convolutional networks",
//! 2017), with linear interpolation.
//!
//! Operands: x `[N, C, spatial...]`, offsets `[N, groups * taps * dims, out...]` (for each tap one number along each dimension), mask
//! `[N, groups * taps, out...]` (ones without it). Attributes: `kernel_shape`, `strides`, `pads`, `dilations`, `offset_group`.
//! Result `[N, C * taps, positions]`. Outside of x everything is zero.
//!
//! ONNX `DeformConv` is these columns times the weights, for each group of channels.

use onnxc_ir::lir::{Expr, LoopKind, Var};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::common::elements::{f64s, for_coords, from_f64s, offset, strides};
use crate::common::nest::{self, ExprExt, clamp, compute_type, float, origin, rows, select};
use crate::common::sample::{data, data_in, int_attrs, lists, sample};
use crate::common::window::{Window, kernel_shape, out_dims};
use crate::common::{broadcast, float as floats};
use crate::composed::Build;

/// The record.
pub(crate) static DEFORM_COLUMNS: OpDef = OpDef {
    name: "deform_columns",
    onnx: &[Import { domain: "", name: "DeformConv", opsets: (19, NEWEST), build: import }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::Nest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, w, offsets, bias, mask) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.opt_input(3), cx.opt_input(4));
    let groups = cx.attrs().int("group").unwrap_or(1);
    let weights = cx.ty(1)?;
    let kernel = kernel_shape(cx.attrs(), weights.shape.get(2..))?;
    let list = kernel.iter().map(|k| *k as i64).collect();
    let attrs = crate::common::import::attrs_without(cx, &["group"]).with("kernel_shape", Attr::Ints(list));
    let mut b = Build(cx);
    let columns = b.0.node("deform_columns", &[Some(x), Some(offsets), mask], attrs)?[0];
    let (shape, columns_shape, weights) = (b.shape(x)?, b.shape(columns)?, b.shape(w)?);
    let taps: u64 = kernel.iter().product();
    if weights.len() != shape.len() {
        return Err(OpError::new(format!("weights {} do not fit {}", b.ty(w), b.ty(x))));
    }
    let (m, groups) = (weights[0], u64::try_from(groups).unwrap_or(0));
    let fits = groups > 0 && m % groups == 0 && weights[1].checked_mul(groups) == Some(shape[1]);
    if !fits {
        return Err(OpError::new(format!("weights {} do not fit {} in {groups} groups", b.ty(w), b.ty(x))));
    }
    let (depth, positions) = (weights[1] * taps, columns_shape[2]);
    let left = b.reshape(w, &[groups, m / groups, depth])?;
    let right = b.reshape(columns, &[shape[0], groups, depth, positions])?;
    let mut y = b.op("matmul", &[left, right])?;
    if let Some(bias) = bias {
        if b.shape(bias)? != [m] {
            return Err(OpError::new(format!("the bias is {}, {m} channels are computed", b.ty(bias))));
        }
        let bias = b.reshape(bias, &[groups, m / groups, 1])?;
        y = b.op("add", &[y, bias])?;
    }
    let mut result = vec![shape[0], m];
    result.extend(&b.shape(offsets)?[2..]);
    Ok(vec![b.reshape(y, &result)?])
}

/// Groups of channels that share offsets.
fn offset_groups(attrs: &Attrs) -> OpResult<u64> {
    let groups = attrs.int("offset_group").unwrap_or(1);
    u64::try_from(groups).ok().filter(|g| (1..=1 << 31).contains(g)).ok_or_else(|| OpError::new(format!("offset_group {groups}")))
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, offsets) = (cx.input(0)?, cx.input(1)?);
    floats::check(x.dtype, "a deformable convolution")?;
    broadcast::same_dtype(cx, 0..3)?;
    let known = |t: &TensorType| {
        let error = || OpError::new(format!("the extents of {t} are not all known")).help("fix them with --dim or --shape");
        t.const_shape().ok_or_else(error)
    };
    let (shape, given) = (known(x)?, known(offsets)?);
    let (kernel, groups) = (kernel_shape(cx.attrs, None)?, offset_groups(cx.attrs)?);
    if shape.len() < 3 || shape[2..].contains(&0) || shape[1] % groups != 0 {
        return Err(OpError::new(format!("x is {x}: nothing can be read from it in {groups} groups of channels")));
    }
    let out = out_dims(cx.attrs, &kernel, &x.shape[2..])?;
    let product = |list: &[u64]| list.iter().try_fold(1u64, |n, e| n.checked_mul(*e)).filter(|n| *n < 1 << 40);
    let large = || OpError::new(format!("kernel_shape {kernel:?} over {x} is too large"));
    let taps = product(&kernel).ok_or_else(large)?;
    let positions = product(&given[2.min(given.len())..]).ok_or_else(large)?;
    let fits = |t: &TensorType, each: u64| {
        let mut wanted = vec![x.shape[0].clone(), Dim::Const(groups.saturating_mul(taps).saturating_mul(each))];
        wanted.extend_from_slice(&out);
        if t.shape == wanted {
            return Ok(());
        }
        Err(OpError::new(format!("an operand is {t}, its extents must be {}", broadcast::text(&wanted))))
    };
    fits(offsets, kernel.len() as u64)?;
    if let Some(mask) = cx.opt(2) {
        fits(mask, 1)?;
    }
    let rows = shape[1].checked_mul(taps).ok_or_else(large)?;
    Ok(vec![TensorType::fixed(x.dtype, &[shape[0], rows, positions])])
}

/// Window, and channels that share offsets.
fn form(attrs: &Attrs, x: &[u64]) -> OpResult<(Window, u64)> {
    let window = Window::new(attrs, &kernel_shape(attrs, None)?, &x[2..])?;
    Ok((window, x[1] / offset_groups(attrs)?))
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let (win, shared) = form(cx.attrs, x.shape())?;
    let (values, offsets, mask) = (f64s(x)?, f64s(cx.input(1))?, cx.opt(2).map(f64s).transpose()?);
    let (dims, taps) = (win.kernel.len(), win.kernel.iter().product::<u64>() as usize);
    let (steps, positions, groups) = (strides(x.shape()), shape[2] as usize, (x.shape()[1] / shared.max(1)) as usize);
    let mut out = Vec::new();
    for_coords(&[shape[0], x.shape()[1]], |nc| {
        let group = nc[0] * groups + nc[1] / shared as usize;
        let mut tap = group * taps;
        for_coords(&win.kernel, |k| {
            let mut position = 0;
            for_coords(&win.out, |o| {
                let place = |d: usize| {
                    let regular =
                        o[d] as f64 * win.strides[d] as f64 + k[d] as f64 * win.dilations[d] as f64 - win.begin[d] as f64;
                    regular + offsets[(tap * dims + d) * positions + position]
                };
                let places: Vec<f64> = (0..dims).map(place).collect();
                let value = interpolated(&values[offset(nc, &steps[..2])..], &x.shape()[2..], &steps[2..], &places);
                out.push(value * mask.as_ref().map_or(1.0, |m| m[tap * positions + position]));
                position += 1;
            });
            tap += 1;
        });
    });
    Ok(vec![from_f64s(x.dtype(), &shape, out)?])
}

/// The value between elements, zero outside.
fn interpolated(x: &[f64], shape: &[u64], steps: &[usize], at: &[f64]) -> f64 {
    let mut sum = 0.0;
    for_coords(&vec![2; at.len()], |corner| {
        let (mut weight, mut from) = (1.0, Some(0));
        for (d, c) in corner.iter().enumerate() {
            let (base, far) = (at[d].floor(), *c as f64);
            weight *= if *c == 1 { at[d] - base } else { 1.0 - (at[d] - base) };
            let inside = (0.0..shape[d] as f64).contains(&(base + far));
            from = from.filter(|_| inside).map(|from| from + (base + far) as usize * steps[d]);
        }
        sum += from.map_or(0.0, |from| x[from] * weight);
    });
    sum
}

/// One of the two elements along a dimension between which a place lies.
#[derive(Clone, Copy)]
struct Side {
    element: Var,
    weight: Var,
    inside: Var,
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let (win, shared) = form(cx.attrs, &x.view.shape)?;
    nest::require(y.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let t = compute_type(y.dtype);
    let (dims, taps) = (win.kernel.len(), win.kernel.iter().product::<u64>());
    let groups = x.view.shape[1] / shared;
    // Batch, group of offsets, place in the window, place in the result.
    let shape: Vec<u64> = [x.view.shape[0], groups].iter().chain(&win.kernel).chain(&win.out).copied().collect();
    let order: Vec<usize> = (0..shape.len()).filter(|d| shape[*d] != 1).collect();
    rows(cx, &shape, &order, y.view.shape.iter().product(), &mut origin(shape.len()), &mut |cx, at| {
        let (k, o) = (&at[2..2 + dims], &at[2 + dims..]);
        let tap = Expr::Var(cx.let_(flat(Expr::Int(0), k, &win.kernel)));
        let row = Expr::Var(cx.let_(at[1].clone().times(taps as i64).add(tap.clone())));
        let sides: Vec<[Side; 2]> = (0..dims)
            .map(|d| {
                let regular = o[d].clone().times(win.strides[d] as i64).add(k[d].clone().times(win.dilations[d] as i64));
                let regular = regular.add(Expr::Int(-(win.begin[d] as i64))).cast_from(DType::I64, t);
                let which = row.clone().times(dims as i64).add(Expr::Int(d as i64));
                let moved = nest::load(cx, &cx.input(1), &[&[at[0].clone(), which][..], o].concat());
                sides(cx, t, regular.add(moved), x.view.shape[d + 2])
            })
            .collect();
        let mask = cx.opt(2).map(|m| {
            let value = nest::load(cx, &m, &[&[at[0].clone(), row.clone()][..], o].concat());
            Expr::Var(cx.let_(value))
        });
        let corners = corners(cx, &sides, &x.view.strides[2..]);
        let position = Expr::Var(cx.let_(flat(Expr::Int(0), o, &win.out)));
        let first = Expr::Int(x.view.offset).add(at[0].clone().times(x.view.strides[0]));
        let first = Expr::Var(cx.let_(first));
        let (batch, group) = (at[0].clone(), at[1].clone());
        cx.for_(LoopKind::Vector, shared, |cx, c| {
            let channel = group.times(shared as i64).add(c);
            let mut sum = float(t, 0.0);
            for (from, weight, inside) in corners {
                let i = first.clone().add(Expr::Var(from)).add(channel.clone().times(x.view.strides[1]));
                let product = nest::at(x.buf, i).cast_from(x.dtype, t).mul(Expr::Var(weight));
                // A weight of zero would not hide infinities.
                sum = sum.add(select(Expr::Var(inside), product, float(t, 0.0)));
            }
            let value = mask.map_or(sum.clone(), |m| sum.mul(m));
            nest::store(cx, &y, &[batch, channel.times(taps as i64).add(tap), position], value);
        });
    });
    Ok(())
}

/// Row-major index behind `start`.
fn flat(start: Expr, at: &[Expr], shape: &[u64]) -> Expr {
    at.iter().zip(shape).fold(start, |i, (e, n)| i.times(*n as i64).add(e.clone()))
}

/// Both sides of `place` among `n` elements.
fn sides(cx: &mut LowerCx, t: DType, place: Expr, n: u64) -> [Side; 2] {
    let place = Expr::Var(cx.let_(place));
    let base = Expr::Var(cx.let_(Expr::un(UnOp::Floor, place.clone())));
    let fraction = Expr::Var(cx.let_(place.minus(base.clone())));
    [false, true].map(|far| {
        let at = if far { base.clone().add(float(t, 1.0)) } else { base.clone() };
        let at = Expr::Var(cx.let_(at));
        let (low, high) = (Expr::bin(BinOp::Ge, at.clone(), float(t, 0.0)), Expr::bin(BinOp::Lt, at.clone(), float(t, n as f64)));
        let inside = cx.let_(Expr::bin(BinOp::And, low, high));
        let weight = if far { fraction.clone() } else { float(t, 1.0).minus(fraction.clone()) };
        let weight = cx.let_(weight);
        // Whatever the offsets are, nothing outside of x is read.
        Side { element: clamp(cx, at.cast_from(t, DType::I64), n), weight, inside }
    })
}

/// Of each combination of sides: the index without batch and channel, the weight, and whether it lies in x.
fn corners(cx: &mut LowerCx, sides: &[[Side; 2]], steps: &[i64]) -> Vec<(Var, Var, Var)> {
    let index = |cx: &mut LowerCx, side: &Side, step: i64| cx.let_(Expr::Var(side.element).times(step));
    let Some((first, rest)) = sides.split_first() else { return Vec::new() };
    let mut all: Vec<(Var, Var, Var)> = first.iter().map(|s| (index(cx, s, steps[0]), s.weight, s.inside)).collect();
    for (pair, step) in rest.iter().zip(&steps[1..]) {
        let mut next = Vec::new();
        for ((from, weight, inside), side) in all.iter().flat_map(|a| pair.iter().map(move |s| (*a, s))) {
            let from = cx.let_(Expr::Var(from).add(Expr::Var(side.element).times(*step)));
            let weight = cx.let_(Expr::Var(weight).mul(Expr::Var(side.weight)));
            let inside = cx.let_(Expr::bin(BinOp::And, Expr::Var(inside), Expr::Var(side.inside)));
            next.push((from, weight, inside));
        }
        all = next;
    }
    all
}

fn samples() -> Vec<Sample> {
    let kernel = |k: &[i64], more: &[(&str, &[i64])]| {
        let all: Vec<(&str, &[i64])> = more.iter().copied().chain([("kernel_shape", k)]).collect();
        lists(&all)
    };
    let moved = |dtype, shape: &[u64]| data_in(dtype, shape, -2.5, 2.5);
    let plain =
        |x: &[u64], k: &[i64], offsets: &[u64]| sample(kernel(k, &[]), vec![data(DType::F32, x), moved(DType::F32, offsets)]);
    let padded = kernel(&[3, 2], &[("pads", &[1, 0, 2, 1]), ("strides", &[2, 1]), ("dilations", &[1, 2])]);
    let groups = Attrs(padded.0.into_iter().chain(int_attrs(&[("offset_group", 2)]).0).collect());
    let operands = |dtype| vec![data(dtype, &[2, 6, 7, 5]), moved(dtype, &[2, 24, 4, 4]), data(dtype, &[2, 12, 4, 4])];
    let mut all = vec![
        plain(&[1, 1, 3, 3], &[2, 2], &[1, 8, 2, 2]),
        plain(&[1, 19, 6, 5], &[3, 3], &[1, 18, 4, 3]),
        plain(&[1, 2, 9], &[3], &[1, 3, 7]),
        plain(&[1, 2, 3, 4, 3], &[2, 2, 2], &[1, 24, 2, 3, 2]),
        plain(&[0, 2, 3, 3], &[2, 2], &[0, 8, 2, 2]),
    ];
    all.extend([DType::F32, DType::F64, DType::F16].map(|t| sample(groups.clone(), operands(t))));
    all
}
