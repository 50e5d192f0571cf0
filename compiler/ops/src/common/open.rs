//! Loops around the matmul tile for extents that come with the call.
//!
//! Kernels have their height and width built in. Rows are taken in blocks of the height that suits the largest extent, and what remains in blocks of powers
//! of two; columns in whole panels, and the columns of the last, incomplete panel through scratch memory. The k loop of a kernel runs as often as it
//! is told.

use onnxc_ir::DType;
use onnxc_ir::kernel::Kernel;
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::Extent;
use onnxc_ir::scalar::{BinOp, ScalarProgram};

use super::list::Steps;
use super::nest::ExprExt;
use super::tile::{Point, Product, outer_loops, panel_elements, tile};

/// Heights of blocks for the rows that remain.
const REMAINDERS: [u64; 6] = [32, 16, 8, 4, 2, 1];

/// Emits the loops.
pub(super) fn emit(cx: &mut LowerCx, p: &Product) {
    outer_loops(cx, p, 0, &Point::start(p), cx.at_top_level(), &mut |cx, at| {
        row_blocks(cx, p, at, &mut |cx, at, height| panels(cx, p, at, height));
    });
}

/// An extent divided by a number: quotient and remainder, as variables where it is open.
fn divided(cx: &mut LowerCx, n: &Extent, by: u64) -> (Expr, Expr) {
    if n.open.is_none() {
        return (Expr::Int((n.bound / by) as i64), Expr::Int((n.bound % by) as i64));
    }
    let n = cx.count(n);
    let quotient = Expr::Var(cx.let_(Expr::bin(BinOp::Div, n.clone(), Expr::Int(by as i64))));
    let rest = Expr::Var(cx.let_(n.minus(quotient.clone().times(by as i64))));
    (quotient, rest)
}

fn row_blocks(cx: &mut LowerCx, p: &Product, at: &Point, call: &mut dyn FnMut(&mut LowerCx, &Point, u32)) {
    let height = p.rows.bound.div_ceil(p.rows.bound.div_ceil(u64::from(p.mr)));
    let (full, rest) = divided(cx, &p.rows, height);
    let kind = if cx.at_top_level() { LoopKind::Parallel } else { LoopKind::Serial };
    cx.for_range(kind, Expr::Int(0), full.clone(), 1, |cx, block| {
        let at = at.rows(&block.times(height as i64), p);
        call(cx, &at, height as u32);
    });
    let row = cx.let_(full.times(height as i64));
    for h in REMAINDERS.into_iter().filter(|h| *h < height) {
        let bit = Expr::bin(BinOp::And, rest.clone(), Expr::Int(h as i64));
        // Of a remainder of 9 to 13 the bits 8, 4, 2, 1 are taken in this order.
        cx.if_(
            Expr::bin(BinOp::Ne, bit, Expr::Int(0)),
            |cx| {
                let at = at.rows(&Expr::Var(row), p);
                call(cx, &at, h as u32);
                cx.set(row, Expr::Var(row).add(Expr::Int(h as i64)));
            },
            |_| {},
        );
    }
}

fn panels(cx: &mut LowerCx, p: &Product, at: &Point, height: u32) {
    let width = u64::from(p.nr);
    let steps = |panel: &Expr| p.list.as_ref().map(|list| list.of_panel(&at.b, panel));
    let whole = panel_elements(p.b.1, &p.nest, p.nr) as i64;
    let dense = |panel: &Expr| at.b.clone().add(panel.clone().times(whole));
    let b = |panel: &Expr| steps(panel).map_or_else(|| dense(panel), |s| s.b);
    let column = |panel: &Expr| panel.clone().times(width as i64);
    let (full, rest) = divided(cx, &p.cols, width);
    cx.for_range(LoopKind::Serial, Expr::Int(0), full.clone(), 1, |cx, panel| {
        let column = column(&panel);
        let mut ptrs = vec![(p.a.0, at.a.clone()), (p.b.0, b(&panel)), (p.c.0, at.c.clone().add(column.clone()))];
        ptrs.extend(p.bias.map(|(bias, _)| (bias, at.bias.clone().add(column.clone()))));
        for (o, e) in p.operands.iter().zip(&at.operands) {
            ptrs.push((o.buf, if o.per_column { e.clone().add(column.clone()) } else { e.clone() }));
        }
        let (list, k) = depth(cx, p, steps(&panel));
        ptrs.extend(list);
        cx.push(Stmt::Call(Kernel::Tile(tile(p, height, p.nr)), ptrs, k));
    });
    if p.cols.open.is_none() && p.cols.bound.is_multiple_of(width) {
        return;
    }
    if p.cols.open.is_none() {
        return last_panel(cx, p, at, height, (b(&full), column(&full), rest), steps(&full));
    }
    let some = Expr::bin(BinOp::Gt, rest.clone(), Expr::Int(0));
    cx.if_(some, |cx| last_panel(cx, p, at, height, (b(&full), column(&full), rest.clone()), None), |_| {});
}

/// The last pointers and the integer of the kernel: the table of B, the list of its steps, and how many steps there are.
fn depth(cx: &mut LowerCx, p: &Product, steps: Option<Steps>) -> (Vec<(BufId, Expr)>, Vec<Expr>) {
    let mut last: Vec<(BufId, Expr)> = p.table.map(|table| (table, Expr::Int(0))).into_iter().collect();
    match steps {
        Some(s) => {
            last.push(s.offsets);
            (last, vec![s.count])
        }
        None => (last, p.open_k.as_ref().map(|k| cx.size(k)).into_iter().collect()),
    }
}

/// The first columns of an incomplete panel: all of it without epilogue into scratch, the epilogue on the way to C.
fn last_panel(
    cx: &mut LowerCx,
    p: &Product,
    at: &Point,
    height: u32,
    (b, column, columns): (Expr, Expr, Expr),
    steps: Option<Steps>,
) {
    let width = i64::from(p.nr);
    let sum = if p.a.1.is_int() { DType::I32 } else { DType::F32 };
    let raw = cx.scratch(sum, u64::from(height) * u64::from(p.nr), true);
    let mut identity = ScalarProgram::default();
    identity.arg(0, sum);
    let plain = Product { c: (raw, sum, 0), c_row: width, epilogue: identity, operands: Vec::new(), ..p.clone() };
    let mut ptrs = vec![(p.a.0, at.a.clone()), (p.b.0, b), (raw, Expr::Int(0))];
    ptrs.extend(p.bias.map(|(bias, _)| (bias, at.bias.clone().add(column.clone()))));
    let (list, k) = depth(cx, p, steps);
    ptrs.extend(list);
    cx.push(Stmt::Call(Kernel::Tile(tile(&plain, height, p.nr)), ptrs, k));
    cx.for_(LoopKind::Serial, u64::from(height), |cx, row| {
        let at = at.rows(&row, p);
        cx.for_range(LoopKind::Vector, Expr::Int(0), columns, 1, |cx, j| {
            let mut args = vec![Expr::Load(raw, Box::new(row.times(width).add(j.clone())))];
            let place = column.clone().add(j);
            for (o, e) in p.operands.iter().zip(&at.operands) {
                let index = if o.per_column { e.clone().add(place.clone()) } else { e.clone() };
                args.push(Expr::Load(o.buf, Box::new(index)));
            }
            let value = cx.program(&p.epilogue, &args);
            let value = if cx.func.dtype(&value) == p.c.1 { value } else { Expr::Cast(p.c.1, Box::new(value)) };
            cx.push(Stmt::Store(p.c.0, at.c.clone().add(place), value));
        });
    });
}
