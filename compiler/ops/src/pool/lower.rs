//! Code of pools: windows as loops over their taps, channels in vectors.
//!
//! Outputs at the border of an image see fewer taps. Their extents are known, so the output is cut into pieces inside which every window sees the same
//! taps; each piece gets its own loops and no test remains.

use onnxc_ir::DType;
use onnxc_ir::lir::{Expr, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{OpResult, View};
use onnxc_ir::scalar::{BinOp, UnOp};

use super::common::{declared_pads, global_window, window};
use super::open;
use crate::common::nest::{self, ExprExt, compute_type, float, number, select};
use crate::common::window::Window;

/// What a pool does with the elements of a window.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Kind {
    Max,
    Average { include_pad: bool },
    Lp(i64),
}

impl Kind {
    /// What an element of a window counts as.
    pub(super) fn element(self, cx: &mut LowerCx, wide: DType, value: Expr) -> Expr {
        match self {
            Kind::Lp(1) => Expr::un(UnOp::Abs, value),
            Kind::Lp(2) => {
                let v = Expr::Var(cx.let_(value));
                v.clone().mul(v)
            }
            Kind::Lp(p) => Expr::bin(BinOp::Pow, Expr::un(UnOp::Abs, value), float(wide, p as f64)),
            _ => value,
        }
    }

    /// How elements are folded, and from what on.
    pub(super) fn fold(self, wide: DType) -> (BinOp, Expr) {
        if self == Kind::Max { (BinOp::Max, lowest(wide)) } else { (BinOp::Add, number(wide, 0.0)) }
    }

    /// The result of a window from what its elements fold to; an average divides by `count`.
    pub(super) fn result(self, wide: DType, sum: Expr, count: Expr) -> Expr {
        match self {
            Kind::Max | Kind::Lp(1) => sum,
            Kind::Average { .. } => Expr::bin(BinOp::Div, sum, count),
            Kind::Lp(2) => nest::sqrt(sum),
            Kind::Lp(p) => Expr::bin(BinOp::Pow, sum, float(wide, 1.0 / p as f64)),
        }
    }
}

/// A run of outputs along one dimension whose windows see the same taps.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Piece {
    /// First output and number of outputs.
    first: u64,
    count: u64,
    /// Taps inside of the input.
    taps: (u64, u64),
    /// Taps inside of the input or the declared padding.
    padded: u64,
}

/// Lowering of `max_pool`.
pub(crate) fn max(cx: &mut LowerCx) -> OpResult<()> {
    let win = window(cx.attrs, &cx.input(0).view.shape)?;
    if cx.outputs.len() > 1 { max_with_indices(cx, &win) } else { pool(cx, &win, Kind::Max) }
}

/// Lowering of `average_pool`.
pub(crate) fn average(cx: &mut LowerCx) -> OpResult<()> {
    let win = window(cx.attrs, &cx.input(0).view.shape)?;
    pool(cx, &win, Kind::Average { include_pad: cx.attrs.int("count_include_pad").unwrap_or(0) != 0 })
}

/// Lowering of `lp_pool`.
pub(crate) fn lp(cx: &mut LowerCx) -> OpResult<()> {
    let win = window(cx.attrs, &cx.input(0).view.shape)?;
    pool(cx, &win, Kind::Lp(cx.attrs.int("p").unwrap_or(2)))
}

/// Lowering of `global_lp_pool`.
pub(crate) fn global_lp(cx: &mut LowerCx) -> OpResult<()> {
    let x = cx.input(0);
    if (2..x.view.shape.len()).any(|d| x.view.open(d).is_some()) {
        return open::global_lp(cx, cx.attrs.int("p").unwrap_or(2));
    }
    let win = global_window(&x.view.shape);
    pool(cx, &win, Kind::Lp(cx.attrs.int("p").unwrap_or(2)))
}

/// The pieces of dimension `d`; of an open one whose windows are all inside there is one.
fn pieces(win: &Window, d: usize, declared: u64, open: bool) -> Vec<Piece> {
    if open {
        let k = win.kernel[d];
        return vec![Piece { first: 0, count: win.out[d], taps: (0, k), padded: k }];
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for o in 0..win.out[d] {
        let inside = |k: &u64| win.source(d, o as usize, *k as usize).is_some();
        let first = (0..win.kernel[d]).find(inside).unwrap_or(0);
        let end = (0..win.kernel[d]).rev().find(inside).map_or(first, |k| k + 1);
        let at = |k: u64| o * win.strides[d] + k * win.dilations[d];
        let padded = (0..win.kernel[d]).filter(|k| at(*k) < declared).count() as u64;
        match pieces.last_mut().filter(|p| (p.taps, p.padded) == ((first, end), padded)) {
            Some(same) => same.count += 1,
            None => pieces.push(Piece { first: o, count: 1, taps: (first, end), padded }),
        }
    }
    pieces
}

/// One piece for every combination of the dimensions' pieces of a pool of `x`, with what `f` does there.
fn for_pieces(cx: &mut LowerCx, x: &Arg, win: &Window, f: &mut dyn FnMut(&mut LowerCx, &[Piece])) {
    let (begin, end) = declared_pads(cx.attrs, win);
    let open: Vec<bool> = (0..win.kernel.len()).map(|d| x.view.open(d + 2).is_some()).collect();
    let along: Vec<Vec<Piece>> =
        (0..win.kernel.len()).map(|d| pieces(win, d, begin[d] + win.input[d] + end[d], open[d])).collect();
    let mut combined: Vec<Vec<Piece>> = vec![Vec::new()];
    for list in &along {
        combined = combined.iter().flat_map(|c| list.iter().map(|p| [&c[..], &[*p]].concat())).collect();
    }
    combined.iter().for_each(|c| f(cx, c));
}

/// The part of the result that a piece covers, and x so that tap (0, ..) of its first output is at the origin and outputs step by the strides.
fn parts(x: &Arg, y: &Arg, win: &Window, piece: &[Piece]) -> (Arg, Arg) {
    let (mut from, mut to) = (x.clone(), y.clone());
    for (d, p) in piece.iter().enumerate() {
        let (sx, sy) = (x.view.strides[d + 2], y.view.strides[d + 2]);
        let start = (p.first * win.strides[d] + p.taps.0 * win.dilations[d]) as i64 - win.begin[d] as i64;
        from.view.offset += start * sx;
        from.view.strides[d + 2] = sx * win.strides[d] as i64;
        to.view.offset += p.first as i64 * sy;
        (from.view.shape[d + 2], to.view.shape[d + 2]) = (p.count, p.count);
    }
    (from, to)
}

fn pool(cx: &mut LowerCx, win: &Window, kind: Kind) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::require(y.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    if open::is_bordered(cx, win) {
        return open::pool(cx, win, kind);
    }
    if kind == Kind::Max && x.view.is_fixed() && in_two_passes(win) {
        max_in_two_passes(cx, (&x, &y), win);
    } else {
        pass(cx, (&x, &y), win, kind);
    }
    Ok(())
}

/// Taps along the last dimension and along the others.
fn taps(win: &Window) -> (u64, u64) {
    let (last, others) = win.kernel.split_last().map_or((1, &[][..]), |(k, others)| (*k, others));
    (last, others.iter().product())
}

/// Is the largest element of a window better found from those of its rows, which neighbouring windows share? That takes memory for the rows.
fn in_two_passes(win: &Window) -> bool {
    let (last, others) = taps(win);
    let all_but_last = |extents: &[u64]| extents.iter().rev().skip(1).product::<u64>().max(1);
    // A row of the input takes `last` taps for every output of a row.
    let rows = (last * all_but_last(&win.input)).div_ceil(all_but_last(&win.out));
    others > 1 && last > 1 && last * others > 2 * (rows + others)
}

/// The largest elements along the last dimension first, then along the others of these.
fn max_in_two_passes(cx: &mut LowerCx, (x, y): (&Arg, &Arg), win: &Window) {
    let last = win.kernel.len() - 1;
    let only = |d: usize, win: &mut Window| {
        (win.kernel[d], win.strides[d], win.dilations[d], win.begin[d], win.end[d]) = (1, 1, 1, 0, 0);
    };
    let (mut along, mut others) = (win.clone(), win.clone());
    (0..last).for_each(|d| only(d, &mut along));
    along.out[..last].copy_from_slice(&win.input[..last]);
    only(last, &mut others);
    others.input[last] = win.out[last];
    let mut shape = x.view.shape.clone();
    shape[last + 2] = win.out[last];
    let rows = like(cx, y, &shape);
    pass(cx, (x, &rows), &along, Kind::Max);
    pass(cx, (&rows, y), &others, Kind::Max);
}

/// Memory for a tensor of another shape with its dimensions in the order of `y`.
fn like(cx: &mut LowerCx, y: &Arg, shape: &[u64]) -> Arg {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|d| (y.view.strides[*d].unsigned_abs(), shape.len() - d));
    let mut view = View::contiguous(shape);
    let mut step = 1;
    for d in order {
        view.strides[d] = step;
        step *= shape[d] as i64;
    }
    Arg { buf: cx.scratch(y.dtype, step as u64, false), dtype: y.dtype, view, constant: None }
}

/// A pool of `x` to `y`.
fn pass(cx: &mut LowerCx, (x, y): (&Arg, &Arg), win: &Window, kind: Kind) {
    let wide = compute_type(x.dtype);
    for_pieces(cx, x, win, &mut |cx, piece| {
        let (from, to) = parts(x, y, win, piece);
        let steps: Vec<i64> = (0..piece.len()).map(|d| x.view.strides[d + 2] * win.dilations[d] as i64).collect();
        let taps: Vec<u64> = piece.iter().map(|p| p.taps.1 - p.taps.0).collect();
        let padded: u64 = piece.iter().map(|p| p.padded).product();
        let inside: u64 = taps.iter().product();
        cx.for_each(&to.view.clone(), &to.view.strides.clone(), |cx, at| {
            let element = |cx: &mut LowerCx, tap: &[Expr]| {
                let index = tap.iter().zip(&steps).fold(from.index(at), |e, (k, s)| e.add(k.clone().times(*s)));
                let value = nest::at(from.buf, index).cast_from(x.dtype, wide);
                kind.element(cx, wide, value)
            };
            let (op, start) = kind.fold(wide);
            let sum = Expr::Var(reduce(cx, &taps, op, start, element));
            let count = if kind == (Kind::Average { include_pad: true }) { padded } else { inside };
            let result = kind.result(wide, sum, number(wide, count.max(1) as f64));
            nest::store(cx, &to, at, result);
        });
    });
}

/// Taps up to which a window is written out.
const UNROLL: u64 = 32;

/// Folds the elements of all taps; few of them one behind the other, many in loops.
fn reduce(cx: &mut LowerCx, taps: &[u64], op: BinOp, start: Expr, element: impl Fn(&mut LowerCx, &[Expr]) -> Expr) -> Var {
    let total: u64 = taps.iter().product();
    if total == 0 || total > UNROLL {
        let acc = cx.let_(start);
        if total > 0 {
            cx.for_serial(taps, |cx, tap| {
                let value = element(cx, tap);
                cx.set(acc, Expr::bin(op, Expr::Var(acc), value));
            });
        }
        return acc;
    }
    let mut sum: Option<Expr> = None;
    for n in 0..total {
        let mut left = n;
        let mut tap = vec![Expr::Int(0); taps.len()];
        for d in (0..taps.len()).rev() {
            tap[d] = Expr::Int((left % taps[d]) as i64);
            left /= taps[d];
        }
        let value = element(cx, &tap);
        sum = Some(match sum {
            Some(s) => Expr::Var(cx.let_(Expr::bin(op, s, value))),
            None => value,
        });
    }
    cx.let_(sum.expect("internal: a tap"))
}

pub(super) fn lowest(dtype: DType) -> Expr {
    match dtype.int_range() {
        Some((low, _)) => nest::int(dtype, low as i64),
        None => float(dtype, f64::NEG_INFINITY),
    }
}

/// Does a value take the place of the best so far? The first one does while `fresh` is not 0.
pub(super) fn wins(wide: DType, value: &Expr, best: Var, fresh: Var) -> Expr {
    let larger = Expr::bin(BinOp::Gt, value.clone(), Expr::Var(best));
    let larger = Expr::bin(BinOp::Or, larger, Expr::bin(BinOp::Ne, Expr::Var(fresh), Expr::Int(0)));
    if !wide.is_float() {
        return larger;
    }
    // A NaN wins and stays.
    let stays = Expr::un(UnOp::Not, Expr::un(UnOp::IsNan, Expr::Var(best)));
    Expr::bin(BinOp::And, Expr::bin(BinOp::Or, larger, Expr::un(UnOp::IsNan, value.clone())), stays)
}

/// The largest element and its place: one window after the other.
fn max_with_indices(cx: &mut LowerCx, win: &Window) -> OpResult<()> {
    let (x, y, places) = (cx.input(0), cx.output(0), cx.output(1));
    nest::require(y.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    if !x.view.is_fixed() {
        return open::max_with_indices(cx, win);
    }
    let wide = compute_type(x.dtype);
    let swapped = cx.attrs.int("storage_order").unwrap_or(0) == 1;
    // Steps of the flat index along each dimension.
    let mut flat = onnxc_ir::op::View::contiguous(&x.view.shape).strides;
    if swapped {
        let mut step = 1;
        for (place, n) in flat.iter_mut().zip(&x.view.shape).skip(2) {
            *place = step;
            step *= *n as i64;
        }
    }
    for_pieces(cx, &x, win, &mut |cx, piece| {
        let (from, to) = parts(&x, &y, win, piece);
        let (_, to_place) = parts(&x, &places, win, piece);
        let steps: Vec<i64> = (0..piece.len()).map(|d| x.view.strides[d + 2] * win.dilations[d] as i64).collect();
        let taps: Vec<u64> = piece.iter().map(|p| p.taps.1 - p.taps.0).collect();
        cx.for_rows(&to.view.shape.clone(), &to.view.strides.clone(), |cx, at| {
            // The flat index of the first tap.
            let mut first = at[0].clone().times(flat[0]).add(at[1].clone().times(flat[1]));
            for (d, p) in piece.iter().enumerate() {
                let start = (p.first * win.strides[d] + p.taps.0 * win.dilations[d]) as i64 - win.begin[d] as i64;
                let along = at[d + 2].clone().times(win.strides[d] as i64).add(Expr::Int(start));
                first = first.add(along.times(flat[d + 2]));
            }
            let first = cx.let_(first);
            let (best, place) = (cx.let_(lowest(wide)), cx.let_(Expr::Var(first)));
            let fresh = cx.let_(Expr::Int(1));
            cx.for_serial(&taps, |cx, tap| {
                let index = tap.iter().zip(&steps).fold(from.index(at), |e, (k, s)| e.add(k.clone().times(*s)));
                let value = Expr::Var(cx.let_(nest::at(from.buf, index).cast_from(x.dtype, wide)));
                let larger = wins(wide, &value, best, fresh);
                let larger = Expr::Var(cx.let_(larger));
                let here = tap
                    .iter()
                    .enumerate()
                    .fold(Expr::Var(first), |e, (d, k)| e.add(k.clone().times(flat[d + 2] * win.dilations[d] as i64)));
                cx.set(best, select(larger.clone(), value, Expr::Var(best)));
                cx.set(place, select(larger, here, Expr::Var(place)));
                cx.set(fresh, Expr::Int(0));
            });
            nest::store(cx, &to, at, Expr::Var(best));
            cx.store(&to_place, at, Expr::Var(place));
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::{Attr, Attrs};

    #[test]
    fn borders_are_pieces_of_their_own() {
        let list = |v: &[i64]| Attr::Ints(v.to_vec());
        let attrs = Attrs::default().with("kernel_shape", list(&[3])).with("strides", list(&[2])).with("pads", list(&[1, 1]));
        let win = window(&attrs, &[1, 1, 8]).unwrap();
        let found: Vec<_> = pieces(&win, 0, 10, false).iter().map(|p| (p.first, p.count, p.taps)).collect();
        assert_eq!(found, [(0, 1, (1, 3)), (1, 3, (0, 3))]);
    }
}
