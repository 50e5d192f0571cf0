//! Code of `resize`: tables of positions and weights for each dimension, made when compiling where that is possible; channels run in vectors.

use onnxc_ir::DType;
use onnxc_ir::lir::{BufId, Expr, LoopKind};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, OpError, OpResult, View};
use onnxc_ir::scalar::BinOp;

use super::axis::{Axis, Method, Taps};
use super::{axes_of, open, sizes_of};
use crate::common::nest::{self, ExprExt, compute_type};

/// Combinations of taps up to which all dimensions are done in one pass.
const ONE_PASS: usize = 16;

/// Taps of one dimension as tables of `count` entries per position; none where positions are copied as they are.
pub(super) struct Table {
    pub count: usize,
    pub positions: BufId,
    pub weights: BufId,
    /// Extent of the operand where it is open: positions beyond it mean its last element.
    pub open: Option<Extent>,
    /// 1 where the result is the extrapolation value, if there is such a position.
    pub outside: Option<BufId>,
}

pub(super) fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::require(y.dtype)?;
    let constant = |i: usize| cx.opt(i).and_then(|a| a.constant);
    let method = Method::of(cx.attrs)?;
    let rank = x.view.shape.len();
    let sizes = sizes_of(constant(3).as_ref());
    let axes = axes_of(cx.attrs, &x.view.shape, constant(1).as_ref(), constant(2).as_ref(), sizes)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    if x.view.shape.contains(&0) {
        return Err(OpError::new("an empty tensor cannot be enlarged"));
    }
    let is_open = !(x.view.is_fixed() && y.view.is_fixed());
    if is_open && constant(2).is_none() {
        let error = OpError::new("positions depend on sizes that come with the call: there is code only for constant scales");
        return Err(error.help(nest::ONE_VALUE));
    }
    let taps: Vec<Vec<Taps>> = axes.iter().map(|a| method.taps(a)).collect();
    // Tables of dimensions that are open, if their positions are not those of the largest extents.
    let by_scale = method.is_of_any_extent();
    let (from, to) = (x.view.extents(), y.view.extents());
    let computed = |d: usize| {
        let same = from[d] == to[d] && unchanged(&taps[d], &axes[d]);
        !by_scale && !same && (from[d].open.is_some() || to[d].open.is_some())
    };
    let table = |cx: &mut LowerCx, d: usize| {
        if !computed(d) {
            return table(cx, &taps[d], &axes[d], from[d].clone());
        }
        Some(open::table(cx, &method, &axes[d], (&from[d], &to[d])))
    };
    let widest = |t: &Vec<Taps>| t.iter().map(|t| t.list.len()).max().unwrap_or(1);
    let combinations: usize = (0..rank).map(|d| if computed(d) { open::count(&method) } else { widest(&taps[d]) }).product();
    if combinations <= ONE_PASS {
        let tables = (0..rank).map(|d| table(cx, d)).collect();
        pass(cx, &x, &y, tables, &method);
        return Ok(());
    }
    // One dimension after the other through scratch.
    let changed: Vec<usize> = (0..rank).filter(|d| computed(*d) || !unchanged(&taps[*d], &axes[*d])).collect();
    let mut from = x;
    for (n, d) in changed.iter().enumerate() {
        let to = if n + 1 == changed.len() {
            y.clone()
        } else {
            let mut extents = from.view.extents();
            extents[*d] = y.view.extent(*d);
            let shape = nest::bounds(&extents);
            let dtype = compute_type(if from.dtype.is_float() { from.dtype } else { DType::F32 });
            let buf = cx.scratch(dtype, shape.iter().product(), false);
            Arg { buf, dtype, view: nest::view(&extents, ordered(&shape, &y.view.strides).strides, 0), constant: None }
        };
        let tables = (0..rank).map(|e| if e == *d { table(cx, e) } else { None }).collect();
        pass(cx, &from, &to, tables, &method);
        from = to;
    }
    Ok(())
}

/// A dense view with its dimensions in the order of `strides`.
fn ordered(shape: &[u64], strides: &[i64]) -> View {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|d| (strides[*d].unsigned_abs(), std::cmp::Reverse(*d)));
    let mut view = View::contiguous(shape);
    let mut step = 1;
    for d in order {
        view.strides[d] = step;
        step *= shape[d] as i64;
    }
    view
}

fn unchanged(taps: &[Taps], axis: &Axis) -> bool {
    axis.input == axis.output && taps.iter().enumerate().all(|(i, t)| !t.outside && t.list == [(i, 1.0)])
}

fn table(cx: &mut LowerCx, taps: &[Taps], axis: &Axis, extent: Extent) -> Option<Table> {
    if unchanged(taps, axis) {
        return None;
    }
    let count = taps.iter().map(|t| t.list.len()).max().unwrap_or(1);
    let padded = || taps.iter().flat_map(|t| (0..count).map(|i| t.list.get(i).copied().unwrap_or((t.list[0].0, 0.0))));
    let positions: Vec<i64> = padded().map(|(i, _)| i as i64).collect();
    let weights: Vec<f32> = padded().map(|(_, w)| w as f32).collect();
    let outside: Vec<i64> = taps.iter().map(|t| i64::from(t.outside)).collect();
    Some(Table {
        count,
        open: extent.open.is_some().then_some(extent),
        positions: nest::table(cx, &positions),
        weights: nest::f32_table(cx, &weights),
        outside: outside.contains(&1).then(|| nest::table(cx, &outside)),
    })
}

/// One pass: every output from the combinations of the tables' taps.
fn pass(cx: &mut LowerCx, x: &Arg, y: &Arg, tables: Vec<Option<Table>>, method: &Method) {
    let shape = y.view.extents();
    let dims = nest::dense_last(0..shape.len(), &y.view);
    let elements: u64 = y.view.shape.iter().product();
    let inner = dims.last().copied();
    let outer = dims.split_last().map_or(&[][..], |(_, outer)| outer);
    nest::rows(cx, &shape, outer, elements, &mut nest::origin(shape.len()), &mut |cx, at| {
        // What the outer dimensions say is computed once per row.
        let mut row = vec![(Expr::Int(x.view.offset), None)];
        let mut outside = None;
        for d in (0..shape.len()).filter(|d| Some(*d) != inner) {
            row = taps(cx, x, &tables, method, d, &at[d], row, true);
            outside = either(outside, &tables, d, &at[d]);
        }
        let n = inner.map_or(Extent::from(1), |d| shape[d].clone());
        let kind = if inner.is_some() { LoopKind::Vector } else { LoopKind::Serial };
        let at = at.clone();
        cx.for_in(kind, &n, |cx, i| {
            let mut at = at;
            let (mut all, mut outside) = (row, outside);
            if let Some(d) = inner {
                at[d] = i;
                all = taps(cx, x, &tables, method, d, &at[d], all, false);
                outside = either(outside, &tables, d, &at[d]);
            }
            let wide = wide_type(x.dtype, method);
            let load = |e: Expr| nest::at(x.buf, e).cast_from(x.dtype, wide);
            let mut terms = all.into_iter().map(|(e, w)| match w {
                Some(w) => load(e).mul(w),
                None => load(e),
            });
            let first = terms.next().expect("internal: a tap");
            let mut sum = terms.fold(first, |s, t| Expr::bin(BinOp::Add, s, t));
            if let Some(outside) = outside {
                let is = Expr::bin(BinOp::Ne, outside, Expr::Int(0));
                sum = nest::select(is, nest::number(wide, f64::from(method.extrapolation)), sum);
            }
            cx.store(y, &at, sum.cast_from(wide, y.dtype));
        });
    });
}

/// Copies keep the element's type, sums are computed in floats.
fn wide_type(dtype: DType, method: &Method) -> DType {
    match dtype {
        t if method.copies() => t,
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

type Terms = Vec<(Expr, Option<Expr>)>;

/// All terms so far (index and weight) times the taps of dimension `d` at position `i`. Rows keep what they load in variables.
#[expect(clippy::too_many_arguments, reason = "a step of `pass`, which has all of it")]
fn taps(
    cx: &mut LowerCx,
    x: &Arg,
    tables: &[Option<Table>],
    method: &Method,
    d: usize,
    i: &Expr,
    terms: Terms,
    keep: bool,
) -> Terms {
    let stride = x.view.strides[d];
    let Some(table) = &tables[d] else {
        return terms.into_iter().map(|(e, w)| (e.add(i.clone().times(stride)), w)).collect();
    };
    let wide = wide_type(x.dtype, method);
    let mut out = Vec::new();
    for tap in 0..table.count {
        let entry = i.clone().times(table.count as i64).add(Expr::Int(tap as i64));
        let mut position = nest::at(table.positions, entry.clone());
        if let Some(extent) = &table.open {
            let last = cx.count(extent).minus(Expr::Int(1));
            position = Expr::bin(BinOp::Min, position, last);
        }
        let mut step = position.times(stride);
        if keep {
            step = Expr::Var(cx.let_(step));
        }
        let weight = (!method.copies()).then(|| {
            let weight = nest::at(table.weights, entry).cast_from(DType::F32, wide);
            if keep { Expr::Var(cx.let_(weight)) } else { weight }
        });
        for (e, w) in &terms {
            let product = match (w, &weight) {
                (Some(w), Some(v)) if keep => Some(Expr::Var(cx.let_(w.clone().mul(v.clone())))),
                (Some(w), Some(v)) => Some(w.clone().mul(v.clone())),
                (None, v) => v.clone(),
                (w, None) => w.clone(),
            };
            out.push((e.clone().add(step.clone()), product));
        }
    }
    out
}

fn either(so_far: Option<Expr>, tables: &[Option<Table>], d: usize, i: &Expr) -> Option<Expr> {
    let Some(flag) = tables[d].as_ref().and_then(|t| t.outside) else { return so_far };
    let here = nest::at(flag, i.clone());
    Some(match so_far {
        Some(e) => Expr::bin(BinOp::Max, e, here),
        None => here,
    })
}
