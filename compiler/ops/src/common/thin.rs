//! Products with few columns: a tile would compute whole vectors of columns to use one or two of them.
//!
//! Vectors run along what A is dense in instead: along its rows when neighbouring rows are neighbours in memory, else along the innermost part of k,
//! as dot products with sums across the vector at their end. B has panels of one column: `[column][k]`.

use onnxc_ir::DType;
use onnxc_ir::lir::{Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::target::TargetDesc;

use super::tile::{Operand, Point, Product, outer_loops};

/// What the vectors of a thin product run along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Along {
    /// Rows of A.
    Rows,
    /// The innermost loop of k.
    K,
}

/// Dot products computed at the same time; each has its accumulator.
const DOTS: u64 = 8;
/// What the sum across a vector costs, in multiplications.
pub const ACROSS: u64 = 16;

/// How a product without enough columns for a tile is better computed, if it is.
pub fn along(target: &TargetDesc, rows: u64, cols: u64, a_row: i64, nest: &[(u64, i64)]) -> Option<Along> {
    let lanes = u64::from(target.lanes);
    let k: u64 = nest.iter().map(|(n, _)| n).product();
    let (last, step) = *nest.last()?;
    if lanes == 1 || 2 * cols > lanes || k == 0 {
        return None;
    }
    // Multiplications of whole vectors per row, in units of 1/lanes.
    let tile = k * cols.div_ceil(lanes) * lanes;
    if a_row == 1 && rows >= 2 * lanes {
        return Some(Along::Rows).filter(|_| 2 * cols * k < tile);
    }
    let dot = cols * (k / last * last.div_ceil(lanes) + ACROSS) * lanes;
    (step == 1 && last >= lanes && 3 * dot < 2 * tile).then_some(Along::K)
}

/// Emits the loops.
pub(super) fn emit(cx: &mut LowerCx, p: &Product, along: Along) {
    let only_rows = p.outer.iter().all(|o| o.n.is_one());
    outer_loops(cx, p, 0, &Point::start(p), true, &mut |cx, at| match along {
        Along::Rows => {
            let chunk = p.rows.bound.div_ceil(16).next_multiple_of(256).min(p.rows.bound);
            let kind = if only_rows && cx.at_top_level() && p.rows.bound > chunk { LoopKind::Parallel } else { LoopKind::Serial };
            cx.for_(kind, p.rows.bound.div_ceil(chunk), |cx, n| {
                let lo = cx.let_(n.times(chunk as i64));
                let hi = Expr::bin(BinOp::Min, Expr::Var(lo).add(Expr::Int(chunk as i64)), Expr::Int(p.rows.bound as i64));
                let hi = cx.let_(hi);
                cx.for_range(LoopKind::Vector, Expr::Var(lo), Expr::Var(hi), 1, |cx, row| along_rows(cx, p, at, &row));
            });
        }
        Along::K => {
            let block = (DOTS / p.cols.bound).clamp(1, p.rows.bound);
            let kind = if only_rows && cx.at_top_level() { LoopKind::Parallel } else { LoopKind::Serial };
            let full = p.rows.bound / block;
            cx.for_(kind, full, |cx, n| dots(cx, p, &at.rows(&n.times(block as i64), p), block));
            if !p.rows.bound.is_multiple_of(block) {
                dots(cx, p, &at.rows(&Expr::Int((full * block) as i64), p), p.rows.bound % block);
            }
        }
    });
}

/// Nodes of an epilogue that a tile applies without much loss to rows that fill its vectors badly.
const SHORT_EPILOGUE: usize = 3;
/// Rows that go through the tiles before their epilogue when nothing is around the product.
const CHUNK: u64 = 512;

/// True when a tile would apply a long epilogue to vectors that are mostly empty, and the rows of C lie one after the other: the epilogue is better
/// a pass of its own.
pub(super) fn late_epilogue(cx: &LowerCx, p: &Product) -> bool {
    let flat = |o: &Operand| p.cols.bound == 1 || (o.per_column && o.row == p.cols.bound as i64) || (!o.per_column && o.row == 0);
    // An operand in the memory of the result would be gone.
    let own = !cx.in_place.contains(&true);
    // Sums of bytes are i32 before their epilogue: they have no place in a C of floats.
    own && 2 * p.cols.bound <= u64::from(cx.target.lanes)
        && (p.a.1, p.c.1) == (DType::F32, DType::F32)
        && p.c_row == p.cols.bound as i64
        && p.epilogue.nodes.len() > SHORT_EPILOGUE
        && p.operands.iter().all(flat)
}

/// The product without its epilogue through `tiles` (which gets a point and a number of rows), then the epilogue over all elements, chunk by chunk.
pub(super) fn emit_late(cx: &mut LowerCx, p: &Product, tiles: &mut dyn FnMut(&mut LowerCx, &Product, &Point)) {
    let mut identity = ScalarProgram::default();
    identity.arg(0, p.a.1);
    let only_rows = p.outer.iter().all(|o| o.n.is_one());
    let chunk = if only_rows { CHUNK.min(p.rows.bound) } else { p.rows.bound };
    let mut part = |cx: &mut LowerCx, at: &Point, rows: u64| {
        let raw = Product { rows: rows.into(), epilogue: identity.clone(), operands: Vec::new(), ..p.clone() };
        tiles(cx, &raw, at);
        cx.for_(LoopKind::Vector, rows * p.cols.bound, |cx, i| {
            let index = at.c.clone().add(i.clone());
            let mut args = vec![Expr::Load(p.c.0, Box::new(index.clone()))];
            for (o, e) in p.operands.iter().zip(&at.operands) {
                let step = if p.cols.bound == 1 { o.row } else { i64::from(o.per_column) };
                args.push(Expr::Load(o.buf, Box::new(e.clone().add(i.clone().times(step)))));
            }
            let value = cx.program(&p.epilogue, &args);
            cx.push(Stmt::Store(p.c.0, index, value));
        });
    };
    outer_loops(cx, p, 0, &Point::start(p), true, &mut |cx, at| {
        let full = p.rows.bound / chunk;
        let kind = if only_rows && cx.at_top_level() { LoopKind::Parallel } else { LoopKind::Serial };
        cx.for_(kind, full, |cx, n| part(cx, &at.rows(&n.times(chunk as i64), p), chunk));
        if !p.rows.bound.is_multiple_of(chunk) {
            part(cx, &at.rows(&Expr::Int((full * chunk) as i64), p), p.rows.bound % chunk);
        }
    });
}

/// An element of B as f32.
fn weight(p: &Product, index: Expr) -> Expr {
    let element = Expr::Load(p.b.0, Box::new(index));
    if p.b.1 == DType::F32 { element } else { Expr::Cast(DType::F32, Box::new(element)) }
}

fn k_of(p: &Product) -> i64 {
    p.nest.iter().map(|(n, _)| *n as i64).product()
}

/// All columns of one row; the loop around it is a vector loop.
fn along_rows(cx: &mut LowerCx, p: &Product, at: &Point, row: &Expr) {
    let at = at.rows(row, p);
    let sums: Vec<Var> = (0..p.cols.bound).map(|_| cx.let_(Expr::f32(0.0))).collect();
    k_loops(cx, &p.nest, &at.a, &Expr::Int(0), &mut |cx, a, k| {
        let a = cx.let_(Expr::Load(p.a.0, Box::new(a.clone())));
        for (col, sum) in sums.iter().enumerate() {
            let b = weight(p, at.b.clone().add(k.clone()).add(Expr::Int(col as i64 * k_of(p))));
            cx.set(*sum, Expr::Fma(Box::new(Expr::Var(a)), Box::new(b), Box::new(Expr::Var(*sum))));
        }
    });
    for (col, sum) in sums.into_iter().enumerate() {
        finish(cx, p, &at, col as i64, Expr::Var(sum));
    }
}

/// `rows` rows of all columns, one accumulator for each.
fn dots(cx: &mut LowerCx, p: &Product, at: &Point, rows: u64) {
    let sums: Vec<Vec<Var>> = (0..rows).map(|_| (0..p.cols.bound).map(|_| cx.let_(Expr::f32(0.0))).collect()).collect();
    let (&(last, step), outer) = p.nest.split_last().expect("internal: a product has a k loop");
    cx.for_(LoopKind::Vector, last, |cx, j| {
        let (a, k) = (at.a.clone().add(j.clone().times(step)), j);
        let mut inner: Vec<(u64, i64)> = outer.to_vec();
        inner.push((1, 0));
        k_loops_scaled(cx, &inner, last as i64, &a, &k, &mut |cx, a, k| {
            for (r, sums) in sums.iter().enumerate() {
                let a = Expr::Load(p.a.0, Box::new(a.clone().add(Expr::Int(r as i64 * p.a_row))));
                for (col, sum) in sums.iter().enumerate() {
                    let b = weight(p, at.b.clone().add(k.clone()).add(Expr::Int(col as i64 * k_of(p))));
                    cx.set(*sum, Expr::Fma(Box::new(a.clone()), Box::new(b), Box::new(Expr::Var(*sum))));
                }
            }
        });
    });
    for (r, sums) in sums.into_iter().enumerate() {
        let at = at.rows(&Expr::Int(r as i64), p);
        for (col, sum) in sums.into_iter().enumerate() {
            finish(cx, p, &at, col as i64, Expr::Var(sum));
        }
    }
}

type Body<'f> = &'f mut dyn FnMut(&mut LowerCx, &Expr, &Expr);

/// Loops over k: `body` gets the index in A and the number of the step.
fn k_loops(cx: &mut LowerCx, nest: &[(u64, i64)], a: &Expr, k: &Expr, body: Body) {
    k_loops_scaled(cx, nest, 1, a, k, body);
}

/// The same when one step of the innermost loop is `scale` steps of k.
fn k_loops_scaled(cx: &mut LowerCx, nest: &[(u64, i64)], scale: i64, a: &Expr, k: &Expr, body: Body) {
    let Some((&(n, step), rest)) = nest.split_first() else { return body(cx, a, k) };
    let inside: i64 = rest.iter().map(|(n, _)| *n as i64).product::<i64>() * scale;
    cx.for_(LoopKind::Serial, n, |cx, i| {
        let (a, k) = (a.clone().add(i.clone().times(step)), k.clone().add(i.times(inside)));
        k_loops_scaled(cx, rest, scale, &a, &k, body);
    });
}

/// Bias, epilogue, and the store of one element.
fn finish(cx: &mut LowerCx, p: &Product, at: &Point, col: i64, sum: Expr) {
    let column = Expr::Int(col);
    let mut value = sum;
    if let Some((bias, _)) = p.bias {
        value = Expr::bin(BinOp::Add, value, Expr::Load(bias, Box::new(at.bias.clone().add(column.clone()))));
    }
    let mut args = vec![value];
    for (o, e) in p.operands.iter().zip(&at.operands) {
        let index = if o.per_column { e.clone().add(column.clone()) } else { e.clone() };
        args.push(Expr::Load(o.buf, Box::new(index)));
    }
    let value = cx.program(&p.epilogue, &args);
    let value = if cx.func.dtype(&value) == p.c.1 { value } else { Expr::Cast(p.c.1, Box::new(value)) };
    cx.push(Stmt::Store(p.c.0, at.c.clone().add(column), value));
}
