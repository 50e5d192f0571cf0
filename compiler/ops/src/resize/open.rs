//! Tables of positions and weights that code computes at the beginning of a call, for dimensions whose extents come with it.

use onnxc_ir::DType::{self, F64};
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::Extent;
use onnxc_ir::scalar::{BinOp, UnOp};

use super::axis::{Axis, Coordinates, Method, Mode, Rounding};
use super::lower::Table;
use crate::common::nest::{ExprExt, float, select};

fn c(x: f64) -> Expr {
    float(F64, x)
}

fn add(a: Expr, b: Expr) -> Expr {
    Expr::bin(BinOp::Add, a, b)
}

fn div(a: Expr, b: Expr) -> Expr {
    Expr::bin(BinOp::Div, a, b)
}

fn keep(cx: &mut LowerCx, e: Expr) -> Expr {
    Expr::Var(cx.let_(e))
}

/// Elements that an output reads along a dimension.
pub(super) fn count(method: &Method) -> usize {
    match method.mode {
        Mode::Nearest => 1,
        Mode::Linear => 2,
        Mode::Cubic => 4,
    }
}

/// What positions along a dimension are computed from: numbers of type f64.
struct Side<'a> {
    method: &'a Method,
    axis: &'a Axis,
    /// Elements of the input and of the result.
    n: Expr,
    out: Expr,
    scale: Expr,
    /// `n * scale`, of which the extent of the result is the whole part.
    exact: Expr,
    last: Expr,
}

/// The table of a dimension that has `input` elements and gets `output`, by the factor of `axis`.
pub(super) fn table(cx: &mut LowerCx, method: &Method, axis: &Axis, (input, output): (&Extent, &Extent)) -> Table {
    let number = |cx: &mut LowerCx, n: &Extent| {
        let n = cx.count(n).cast_from(DType::I64, F64);
        keep(cx, n)
    };
    let (n, out) = (number(cx, input), number(cx, output));
    let scale = c(axis.scale);
    let exact = keep(cx, n.clone().mul(scale.clone()));
    let last = keep(cx, n.clone().minus(c(1.0)));
    let side = Side { method, axis, n, out, scale, exact, last };
    let taps = count(method);
    let entries = output.bound * taps as u64;
    let (positions, weights) = (cx.scratch(DType::I64, entries, false), cx.scratch(DType::F32, entries, false));
    let outside = (method.coordinates == Coordinates::TfCropAndResize).then(|| cx.scratch(DType::I64, output.bound, false));
    cx.for_in(LoopKind::Serial, output, |cx, o| {
        let at = side.position(cx, &o);
        if let Some(outside) = outside {
            let within = Expr::bin(
                BinOp::And,
                Expr::bin(BinOp::Ge, at.clone(), c(0.0)),
                Expr::bin(BinOp::Le, at.clone(), side.last.clone()),
            );
            cx.push(Stmt::Store(outside, o.clone(), select(within, Expr::Int(0), Expr::Int(1))));
        }
        let first = o.times(taps as i64);
        let list = side.taps(cx, &at);
        for (tap, (position, weight)) in (0..).zip(list) {
            side.store(cx, (positions, weights), first.clone().add(Expr::Int(tap)), position, weight);
        }
    });
    Table { count: taps, positions, weights, open: None, outside }
}

impl Side<'_> {
    /// [`Method::position`] as code.
    fn position(&self, cx: &mut LowerCx, o: &Expr) -> Expr {
        let x = keep(cx, o.clone().cast_from(DType::I64, F64));
        let middle = div(add(x.clone(), c(0.5)), self.scale.clone());
        let half_pixel = middle.clone().minus(c(0.5));
        let one = Expr::bin(BinOp::Eq, self.exact.clone(), c(1.0));
        let (last, region) = (self.last.clone(), self.axis.region);
        let at = match self.method.coordinates {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::PytorchHalfPixel => select(one, c(-0.5), half_pixel),
            Coordinates::HalfPixelSymmetric => {
                let adjustment = div(self.out.clone(), self.exact.clone());
                add(div(self.n.clone(), c(2.0)).mul(c(1.0).minus(adjustment)), half_pixel)
            }
            Coordinates::AlignCorners => select(one, c(0.0), div(x.mul(last), self.exact.clone().minus(c(1.0)))),
            Coordinates::Asymmetric => div(x, self.scale.clone()),
            Coordinates::TfHalfPixelForNn => middle,
            Coordinates::TfCropAndResize => {
                let step = div(x.mul(c(region.1 - region.0)).mul(last.clone()), self.exact.clone().minus(c(1.0)));
                let several = Expr::bin(BinOp::Gt, self.out.clone(), c(1.0));
                let single = c(0.5 * (region.0 + region.1)).mul(last.clone());
                select(several, add(c(region.0).mul(last), step), single)
            }
        };
        keep(cx, at)
    }

    /// Positions, which may lie outside, and weights of the elements around a place.
    fn taps(&self, cx: &mut LowerCx, at: &Expr) -> Vec<(Expr, Option<Expr>)> {
        if self.method.mode == Mode::Nearest {
            let near = match self.method.rounding {
                Rounding::PreferFloor => Expr::un(UnOp::Ceil, at.clone().minus(c(0.5))),
                Rounding::PreferCeil => Expr::un(UnOp::Floor, add(at.clone(), c(0.5))),
                Rounding::Floor => Expr::un(UnOp::Floor, at.clone()),
                Rounding::Ceil => Expr::un(UnOp::Ceil, at.clone()),
            };
            return vec![(near, None)];
        }
        let base = keep(cx, Expr::un(UnOp::Floor, at.clone()));
        let support = count(self.method) as i64 / 2;
        let mut list: Vec<(Expr, Expr)> = Vec::new();
        for step in 1 - support..=support {
            let position = keep(cx, add(base.clone(), c(step as f64)));
            let mut weight = self.filter(cx, position.clone().minus(at.clone()));
            if self.method.exclude_outside {
                let low = Expr::bin(BinOp::Ge, position.clone(), c(0.0));
                let high = Expr::bin(BinOp::Le, position.clone(), self.last.clone());
                weight = keep(cx, select(Expr::bin(BinOp::And, low, high), weight, c(0.0)));
            }
            list.push((position, weight));
        }
        if self.method.exclude_outside {
            let sum = list.iter().map(|(_, w)| w.clone()).reduce(add).unwrap_or_else(|| c(1.0));
            let sum = keep(cx, sum);
            let none = Expr::bin(BinOp::Eq, sum.clone(), c(0.0));
            let sum = keep(cx, select(none, c(1.0), sum));
            list.iter_mut().for_each(|(_, w)| *w = div(w.clone(), sum.clone()));
        }
        list.into_iter().map(|(position, weight)| (position, Some(weight))).collect()
    }

    /// [`Method::filter`] as code.
    fn filter(&self, cx: &mut LowerCx, x: Expr) -> Expr {
        let x = keep(cx, Expr::un(UnOp::Abs, x));
        if self.method.mode != Mode::Cubic {
            return keep(cx, Expr::bin(BinOp::Max, c(1.0).minus(x), c(0.0)));
        }
        let a = self.method.cubic;
        let near = add(c(a + 2.0).mul(x.clone()).minus(c(a + 3.0)).mul(x.clone()).mul(x.clone()), c(1.0));
        let far = add(x.clone().minus(c(5.0)).mul(x.clone()), c(8.0)).mul(x.clone()).mul(c(a)).minus(c(4.0 * a));
        let far = select(Expr::bin(BinOp::Lt, x.clone(), c(2.0)), far, c(0.0));
        keep(cx, select(Expr::bin(BinOp::Le, x, c(1.0)), near, far))
    }

    /// Writes one entry, its position kept inside.
    fn store(&self, cx: &mut LowerCx, (positions, weights): (BufId, BufId), entry: Expr, position: Expr, weight: Option<Expr>) {
        let kept = Expr::bin(BinOp::Min, Expr::bin(BinOp::Max, position, c(0.0)), self.last.clone());
        cx.push(Stmt::Store(positions, entry.clone(), kept.cast_from(F64, DType::I64)));
        if let Some(weight) = weight {
            cx.push(Stmt::Store(weights, entry, weight.cast_from(F64, DType::F32)));
        }
    }
}
