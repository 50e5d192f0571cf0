//! Pools whose windows reach over the ends of dimensions that come with the call.
//!
//! Along such a dimension there are three runs of outputs: those whose windows begin before the input, those whose windows lie inside, and those whose
//! windows end behind it. Only the few of the first and the last test which of their taps are inside.

use onnxc_ir::DType;
use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, OpError, OpResult};
use onnxc_ir::scalar::BinOp;

use super::common::declared_pads;
use super::lower::{Kind, lowest, wins};
use crate::common::nest::{self, ExprExt, compute_type, float, select};
use crate::common::rows::{Rows, spread_reduced};
use crate::common::window::Window;

/// True when windows reach over the ends of an open dimension.
pub(super) fn is_bordered(cx: &LowerCx, win: &Window) -> bool {
    let (begin, end) = declared_pads(cx.attrs, win);
    let rounds_up = cx.attrs.int("ceil_mode").unwrap_or(0) != 0;
    let same = cx.attrs.str("auto_pad").is_some_and(|a| a.starts_with("SAME"));
    let x = cx.input(0).view;
    (0..begin.len()).any(|d| x.open(d + 2).is_some() && (begin[d] + end[d] > 0 || rounds_up || same))
}

/// Windows along one dimension.
struct Along {
    kernel: i64,
    stride: i64,
    dilation: i64,
    /// Elements and outputs.
    n: Expr,
    out: Expr,
    /// Padding in front, and where it ends behind, counted from the first element of the padding in front.
    begin: Expr,
    limit: Expr,
    /// The first output whose window does not begin before the input, and the first from there on whose window ends behind it.
    inside: (Expr, Expr),
}

fn max(a: Expr, b: Expr) -> Expr {
    Expr::bin(BinOp::Max, a, b)
}

fn min(a: Expr, b: Expr) -> Expr {
    Expr::bin(BinOp::Min, a, b)
}

/// `a / b` rounded up, at least 0.
fn ceil(a: Expr, b: i64) -> Expr {
    Expr::bin(BinOp::Div, max(a.add(Expr::Int(b - 1)), Expr::Int(0)), Expr::Int(b))
}

impl Along {
    fn of(cx: &mut LowerCx, win: &Window, d: usize) -> OpResult<Along> {
        let [kernel, stride, dilation] = [win.kernel[d], win.strides[d], win.dilations[d]].map(|n| n as i64);
        let reach = (kernel - 1) * dilation;
        let (x, y) = (cx.input(0).view.extent(d + 2), cx.output(0).view.extent(d + 2));
        if x.open.is_some() {
            check_rounding(cx, win, d)?;
        }
        let (n, out) = (cx.count(&x), cx.count(&y));
        let (begin, end) = declared_pads(cx.attrs, win);
        let (begin, end) = match cx.attrs.str("auto_pad") {
            Some(auto) if auto.starts_with("SAME") => {
                let total = out.clone().add(Expr::Int(-1)).times(stride).add(Expr::Int(reach + 1)).minus(n.clone());
                let total = Expr::Var(cx.let_(max(total, Expr::Int(0))));
                let small = Expr::Var(cx.let_(Expr::bin(BinOp::Div, total.clone(), Expr::Int(2))));
                let large = Expr::Var(cx.let_(total.minus(small.clone())));
                if auto == "SAME_UPPER" { (small, large) } else { (large, small) }
            }
            _ => (Expr::Int(begin[d] as i64), Expr::Int(end[d] as i64)),
        };
        let limit = cx.let_(begin.clone().add(n.clone()).add(end));
        let first = cx.let_(min(ceil(begin.clone(), stride), out.clone()));
        let behind = ceil(n.clone().add(begin.clone()).add(Expr::Int(-reach)), stride);
        let behind = cx.let_(max(min(behind, out.clone()), Expr::Var(first)));
        let inside = (Expr::Var(first), Expr::Var(behind));
        Ok(Along { kernel, stride, dilation, n, out, begin, limit: Expr::Var(limit), inside })
    }

    /// Taps of output `o` that are inside: the first, and the first behind them.
    fn taps(&self, cx: &mut LowerCx, o: &Expr) -> (Expr, Expr) {
        let start = Expr::Var(cx.let_(self.start(o)));
        let first = ceil(start.clone().times(-1), self.dilation);
        let first = Expr::Var(cx.let_(min(first, Expr::Int(self.kernel))));
        let behind = min(ceil(self.n.clone().minus(start), self.dilation), Expr::Int(self.kernel));
        (first.clone(), Expr::Var(cx.let_(max(behind, first))))
    }

    /// The element of tap 0 of output `o`.
    fn start(&self, o: &Expr) -> Expr {
        o.clone().times(self.stride).minus(self.begin.clone())
    }

    /// Taps of output `o` that are inside of the input or the declared padding.
    fn padded(&self, cx: &mut LowerCx, o: &Expr) -> Expr {
        let room = ceil(self.limit.clone().minus(o.clone().times(self.stride)), self.dilation);
        Expr::Var(cx.let_(min(room, Expr::Int(self.kernel))))
    }
}

/// With `ceil_mode` a last window that would begin in the padding behind is none. Types do not say so, where it depends on the size.
fn check_rounding(cx: &LowerCx, win: &Window, d: usize) -> OpResult<()> {
    let (_, end) = declared_pads(cx.attrs, win);
    let extent = (win.kernel[d] - 1) * win.dilations[d] + 1;
    if cx.attrs.int("ceil_mode").unwrap_or(0) == 0 || end[d] + win.strides[d] <= extent {
        return Ok(());
    }
    let error = OpError::new(
        "the number of windows of ceil_mode depends on the size, which comes with the call, in a way that has no code yet",
    );
    Err(error.help(nest::ONE_VALUE))
}

fn all_along(cx: &mut LowerCx, win: &Window) -> OpResult<Vec<Along>> {
    (0..win.kernel.len()).map(|d| Along::of(cx, win, d)).collect()
}

/// One output window while loops are opened: coordinates of the result, and for each dimension the taps that are inside.
struct At {
    place: Vec<Expr>,
    taps: Vec<Option<(Expr, Expr)>>,
}

/// The loops of the spatial dimensions `dims`, each in its three runs.
fn runs(cx: &mut LowerCx, all: &[Along], dims: &[usize], at: &mut At, body: &mut dyn FnMut(&mut LowerCx, &mut At)) {
    let Some((&d, rest)) = dims.split_first() else { return body(cx, at) };
    let along = &all[d];
    let (first, behind) = along.inside.clone();
    let whole = (Expr::Int(0), Expr::Int(along.kernel));
    for (lo, hi, inner) in
        [(Expr::Int(0), first.clone(), false), (first, behind.clone(), true), (behind, along.out.clone(), false)]
    {
        cx.for_range(LoopKind::Serial, lo, hi, 1, |cx, o| {
            at.taps[d] = Some(if inner { whole.clone() } else { along.taps(cx, &o) });
            at.place[d + 2] = o;
            runs(cx, all, rest, at, body);
        });
    }
}

/// A pool of any kind.
pub(super) fn pool(cx: &mut LowerCx, win: &Window, kind: Kind) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let wide = compute_type(x.dtype);
    let all = all_along(cx, win)?;
    let spatial: Vec<usize> = (0..all.len()).collect();
    let extents = y.view.extents();
    let mut at = At { place: nest::origin(extents.len()), taps: vec![None; all.len()] };
    let images = [extents[0].clone()];
    cx.for_rows(&images.to_vec(), &[1], |cx, image| {
        at.place[0] = image[0].clone();
        runs(cx, &all, &spatial, &mut at, &mut |cx, at| {
            let count = count(cx, &all, at, kind, wide);
            let taps: Vec<(Expr, Expr)> = at.taps.iter().flatten().cloned().collect();
            cx.for_in(LoopKind::Vector, &extents[1], |cx, channel| {
                at.place[1] = channel;
                let (op, start) = kind.fold(wide);
                let sum = cx.let_(start);
                each_tap(cx, &taps, &mut Vec::new(), &mut |cx, tap| {
                    let value = cx.load(&x, &source(&all, at, tap)).cast_from(x.dtype, wide);
                    let value = kind.element(cx, wide, value);
                    cx.set(sum, Expr::bin(op, Expr::Var(sum), value));
                });
                let result = kind.result(wide, Expr::Var(sum), count.clone());
                nest::store(cx, &y, &at.place, result);
            });
        });
    });
    Ok(())
}

/// What an average divides by.
fn count(cx: &mut LowerCx, all: &[Along], at: &At, kind: Kind, wide: DType) -> Expr {
    let mut count = Expr::Int(1);
    for (d, (along, taps)) in all.iter().zip(at.taps.iter().flatten()).enumerate() {
        let own = match kind {
            Kind::Average { include_pad: true } => along.padded(cx, &at.place[d + 2]),
            _ => taps.1.clone().minus(taps.0.clone()),
        };
        count = if count == Expr::Int(1) { own } else { count.mul(own) };
    }
    let count = max(count, Expr::Int(1));
    Expr::Var(cx.let_(count.cast_from(DType::I64, wide)))
}

/// Serial loops over the taps of a window.
fn each_tap(cx: &mut LowerCx, taps: &[(Expr, Expr)], tap: &mut Vec<Expr>, body: &mut dyn FnMut(&mut LowerCx, &[Expr])) {
    let Some((lo, hi)) = taps.get(tap.len()) else { return body(cx, tap) };
    cx.for_range(LoopKind::Serial, lo.clone(), hi.clone(), 1, |cx, k| {
        tap.push(k);
        each_tap(cx, taps, tap, body);
        tap.pop();
    });
}

/// The coordinate in x of a tap.
fn source(all: &[Along], at: &At, tap: &[Expr]) -> Vec<Expr> {
    let mut from = at.place[..2].to_vec();
    from.extend(all.iter().enumerate().map(|(d, a)| a.start(&at.place[d + 2]).add(tap[d].clone().times(a.dilation))));
    from
}

/// The largest element and its place: one window after the other.
pub(super) fn max_with_indices(cx: &mut LowerCx, win: &Window) -> OpResult<()> {
    let (x, y, places) = (cx.input(0), cx.output(0), cx.output(1));
    let wide = compute_type(x.dtype);
    let all = all_along(cx, win)?;
    let flat = flat_steps(cx, &x);
    let spatial: Vec<usize> = (0..all.len()).collect();
    let outer: Vec<Extent> = y.view.extents()[..2].to_vec();
    let mut at = At { place: nest::origin(x.view.shape.len()), taps: vec![None; all.len()] };
    cx.for_rows(&outer, &[2, 1], |cx, plane| {
        at.place[..2].clone_from_slice(plane);
        runs(cx, &all, &spatial, &mut at, &mut |cx, at| {
            let taps: Vec<(Expr, Expr)> = at.taps.iter().flatten().cloned().collect();
            let (best, place, fresh) = (cx.let_(lowest(wide)), cx.let_(Expr::Int(0)), cx.let_(Expr::Int(1)));
            each_tap(cx, &taps, &mut Vec::new(), &mut |cx, tap| {
                let from = source(&all, at, tap);
                let value = Expr::Var(cx.let_(cx.load(&x, &from).cast_from(x.dtype, wide)));
                let larger = Expr::Var(cx.let_(wins(wide, &value, best, fresh)));
                let here = from.iter().zip(&flat).map(|(i, step)| i.clone().mul(step.clone())).reduce(Expr::add);
                cx.set(best, select(larger.clone(), value, Expr::Var(best)));
                cx.set(place, select(larger, here.unwrap_or(Expr::Int(0)), Expr::Var(place)));
                cx.set(fresh, Expr::Int(0));
            });
            nest::store(cx, &y, &at.place, Expr::Var(best));
            cx.store(&places, &at.place, Expr::Var(place));
        });
    });
    Ok(())
}

/// Steps of the index in a dense tensor of the call's sizes along each dimension.
fn flat_steps(cx: &mut LowerCx, x: &Arg) -> Vec<Expr> {
    let rank = x.view.shape.len();
    let mut spatial: Vec<usize> = (2..rank).rev().collect();
    if cx.attrs.int("storage_order").unwrap_or(0) == 1 {
        spatial.reverse();
    }
    let (mut steps, mut step) = (vec![Expr::Int(1); rank], Extent::from(1));
    for d in spatial.into_iter().chain([1, 0]) {
        steps[d] = cx.count(&step);
        step = step.times(&x.view.extent(d));
    }
    steps
}

/// The p-norm of each channel.
pub(super) fn global_lp(cx: &mut LowerCx, p: i64) -> OpResult<()> {
    let (x, y, kind) = (cx.input(0), cx.output(0), Kind::Lp(p));
    nest::require(y.dtype)?;
    let (shape, wide) = (x.view.shape.clone(), compute_type(x.dtype));
    let axes: Vec<usize> = (2..shape.len()).collect();
    let rows = Rows::new(&x.view.extents(), &axes, vec![x, spread_reduced(&y, &shape, &axes)]);
    rows.emit(cx, &mut |row| {
        let x = row.arg(0);
        let (op, start) = kind.fold(wide);
        let sum = row.reduce(op, start, |cx, at| {
            let value = nest::load(cx, &x, at);
            kind.element(cx, wide, value)
        });
        row.store(1, kind.result(wide, sum, float(wide, 1.0)));
    });
    Ok(())
}
