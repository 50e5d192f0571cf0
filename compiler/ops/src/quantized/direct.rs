//! The formulas one element after the other, for operands that are not known when compiling.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, OpResult, View};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::{DType, Dim};

use super::lower::{element, stacks};
use super::matmul_integer::parameter_strides;
use super::requantization;
use crate::common::nest::{self, ExprExt, int};
use crate::common::tile::{self, broadcast_strides};
use crate::common::window::Window;

/// A convolution.
pub(super) struct Conv {
    pub x: Arg,
    pub x_zero: Option<Arg>,
    pub w: Arg,
    pub w_zero: Option<Arg>,
    pub bias: Option<Arg>,
    pub win: Window,
    pub group: u64,
    pub y: Arg,
    pub program: ScalarProgram,
    pub operands: Vec<Arg>,
}

fn first(cx: &LowerCx, arg: &Arg) -> Expr {
    cx.load(arg, &vec![Expr::Int(0); arg.view.shape.len()]).cast_from(arg.dtype, DType::I32)
}

/// The program's result at a coordinate of y, stored.
fn finish(cx: &mut LowerCx, y: &Arg, program: &ScalarProgram, operands: &[Arg], sum: Expr, at: &[Expr]) {
    let mut args = vec![sum];
    for o in operands {
        let steps = broadcast_strides(o, &y.view.shape);
        let index = at.iter().zip(&steps).fold(Expr::Int(o.view.offset), |e, (i, s)| e.add(i.clone().times(*s)));
        args.push(nest::at(o.buf, index));
    }
    let value = cx.program(program, &args);
    cx.store(y, at, value);
}

pub(super) fn conv(cx: &mut LowerCx, c: &Conv) -> OpResult<()> {
    let shape = &c.y.view.shape;
    let filters = (shape[1] / c.group) as i64;
    let counts: Vec<Expr> = (0..c.win.kernel.len()).map(|d| cx.count(&c.x.view.extent(d + 2))).collect();
    let channels = c.w.view.shape[1];
    let mut taps = vec![channels];
    taps.extend(&c.win.kernel);
    cx.for_rows(&c.y.view, &View::contiguous(shape).strides, |cx, at| {
        let zx = c.x_zero.as_ref().map(|z| Expr::Var(cx.let_(first(cx, z))));
        let zw = c.w_zero.as_ref().map(|z| {
            let per_filter = z.view.shape.iter().product::<u64>() > 1;
            let value = if per_filter { cx.load(z, &at[1..2]).cast_from(z.dtype, DType::I32) } else { first(cx, z) };
            Expr::Var(cx.let_(value))
        });
        let start = c.bias.as_ref().map_or_else(|| int(DType::I32, 0), |b| cx.load(b, &at[1..2]));
        let sum = cx.let_(start);
        let group = Expr::bin(BinOp::Div, at[1].clone(), Expr::Int(filters));
        let channel = cx.let_(group.times(channels as i64));
        cx.for_serial(&taps, |cx, tap| {
            let mut from = vec![at[0].clone(), Expr::Var(channel).add(tap[0].clone())];
            let mut inside: Option<Expr> = None;
            for d in 0..c.win.kernel.len() {
                let i = at[d + 2].clone().times(c.win.strides[d] as i64);
                let i = i.add(tap[d + 1].clone().times(c.win.dilations[d] as i64)).add(Expr::Int(-(c.win.begin[d] as i64)));
                let i = Expr::Var(cx.let_(i));
                let low = Expr::bin(BinOp::Ge, i.clone(), Expr::Int(0));
                let high = Expr::bin(BinOp::Lt, i.clone(), counts[d].clone());
                let both = Expr::bin(BinOp::And, low, high);
                inside = Some(match inside {
                    Some(e) => Expr::bin(BinOp::And, e, both),
                    None => both,
                });
                from.push(i);
            }
            let mut at_w = vec![at[1].clone()];
            at_w.extend_from_slice(tap);
            cx.if_(
                inside.expect("internal: spatial dimensions"),
                |cx| {
                    let centre = |e: Expr, zero: &Option<Expr>| zero.as_ref().map_or(e.clone(), |z| e.minus(z.clone()));
                    let x = centre(cx.load(&c.x, &from).cast_from(c.x.dtype, DType::I32), &zx);
                    let w = centre(cx.load(&c.w, &at_w).cast_from(c.w.dtype, DType::I32), &zw);
                    cx.set(sum, Expr::bin(BinOp::Add, Expr::Var(sum), x.mul(w)));
                },
                |_| {},
            );
        });
        finish(cx, &c.y, &c.program, &c.operands, Expr::Var(sum), at);
    });
    Ok(())
}

/// A product of stacks of matrices.
pub(super) struct Matmul {
    pub a: Arg,
    pub a_zero: Option<Arg>,
    pub b: Arg,
    pub b_zero: Option<Arg>,
    pub y: Arg,
    pub program: ScalarProgram,
    pub operands: Vec<Arg>,
}

/// Index of an operand or parameter with `strides` over a stack, at outer coordinates, row and column.
fn at_stack(offset: i64, strides: &[i64], outer: &[Expr], row: &Expr, col: &Expr) -> Expr {
    let n = strides.len();
    let start = outer.iter().zip(strides).fold(Expr::Int(offset), |e, (i, s)| e.add(i.clone().times(*s)));
    start.add(row.clone().times(strides[n - 2])).add(col.clone().times(strides[n - 1]))
}

/// Strides of an operand over a stack of `rank` dimensions, 0 where it is broadcast or has no such dimension.
fn stack_strides(arg: &Arg, rank: usize, left: bool) -> Vec<i64> {
    let mut strides: Vec<i64> = arg.view.strides.iter().zip(&arg.view.shape).map(|(s, n)| if *n == 1 { 0 } else { *s }).collect();
    if strides.len() == 1 {
        strides.insert(usize::from(!left), 0);
    }
    while strides.len() < rank {
        strides.insert(0, 0);
    }
    strides
}

/// Strides of a row-major scale or zero point over its operand's stack.
fn parameter(arg: &Arg, stack: &[u64], left: bool) -> OpResult<Vec<i64>> {
    Ok(parameter_strides(&arg.view.shape, stack, left)?.into_iter().map(|s| s as i64).collect())
}

/// Extents of a stack of results, of which `bounds` are the largest.
fn extents(m: &Matmul, bounds: &[u64]) -> Vec<Extent> {
    // What the result does not show of the stack are rows and columns of one.
    let mut shown = m.y.view.extents();
    if m.a.view.shape.len() == 1 {
        shown.insert(bounds.len() - 2, 1.into());
    }
    if m.b.view.shape.len() == 1 {
        shown.push(1.into());
    }
    shown
}

/// Refuses products of matrices `a.0` and `b.0` that are not known to fit together at all sizes, and open parameters `a.1` and `b.1` of several elements.
pub(super) fn check(cx: &LowerCx, a: (usize, usize), b: (usize, usize)) -> OpResult<()> {
    let (left, right) = (cx.input(a.0).view, cx.input(b.0).view);
    for i in [a.1, b.1] {
        nest::fixed(cx, i, 0..cx.opt(i).map_or(0, |p| p.view.shape.len()))?;
    }
    let (n, m) = (left.shape.len(), right.shape.len());
    nest::same_extent(b.0, &right.dims()[m.saturating_sub(2)], &left.dims()[n - 1])?;
    let stacks = |dims: Vec<Dim>| dims[..dims.len().saturating_sub(2)].iter().rev().cloned().collect::<Vec<Dim>>();
    for (n, m) in stacks(right.dims()).iter().zip(&stacks(left.dims())).filter(|(n, m)| !n.is_one() && !m.is_one()) {
        nest::same_extent(b.0, n, m)?;
    }
    Ok(())
}

/// The loops over a stack: `body` gets outer coordinates, row, column, the coordinate of y, and the centred sum.
fn sums(cx: &mut LowerCx, m: &Matmul, body: impl Fn(&mut LowerCx, &[Expr], &Expr, &Expr, &[Expr], Expr)) -> OpResult<()> {
    let (sa, sb, sy) = stacks(&m.a, &m.b);
    let rank = sy.len();
    let (ta, tb) = (stack_strides(&m.a, rank, true), stack_strides(&m.b, rank, false));
    let za = m.a_zero.as_ref().map(|z| parameter(z, &sa, true).map(|s| (z.clone(), s))).transpose()?;
    let zb = m.b_zero.as_ref().map(|z| parameter(z, &sb, false).map(|s| (z.clone(), s))).transpose()?;
    let k = [m.a.view.extent(m.a.view.shape.len() - 1)].to_vec();
    cx.for_rows(&extents(m, &sy), &View::contiguous(&sy).strides, |cx, at| {
        let (outer, row, col) = (&at[..rank - 2], &at[rank - 2], &at[rank - 1]);
        let sum = cx.let_(int(DType::I32, 0));
        cx.for_serial(&k, |cx, l| {
            let value = |arg: &Arg, strides: &[i64], r: &Expr, c: &Expr| {
                element(arg, at_stack(arg.view.offset, strides, outer, r, c), DType::I32)
            };
            let mut x = value(&m.a, &ta, row, &l[0]);
            if let Some((z, s)) = &za {
                x = x.minus(value(z, s, row, &l[0]));
            }
            let mut w = value(&m.b, &tb, &l[0], col);
            if let Some((z, s)) = &zb {
                w = w.minus(value(z, s, &l[0], col));
            }
            cx.set(sum, Expr::bin(BinOp::Add, Expr::Var(sum), x.mul(w)));
        });
        // The result does not show the dimensions that vectors lack.
        let mut shown = at.to_vec();
        if m.b.view.shape.len() == 1 {
            shown.remove(rank - 1);
        }
        if m.a.view.shape.len() == 1 {
            shown.remove(rank - 2);
        }
        body(cx, outer, row, col, &shown, Expr::Var(sum));
    });
    Ok(())
}

pub(super) fn matmul(cx: &mut LowerCx, m: &Matmul) -> OpResult<()> {
    sums(cx, m, |cx, _, _, _, at, sum| finish(cx, &m.y, &m.program, &m.operands, sum, at))
}

/// `qlinear_matmul` with scales of any form.
pub(super) fn qlinear_matmul(cx: &mut LowerCx) -> OpResult<()> {
    let y = cx.output(0);
    let m = Matmul {
        a: cx.input(0),
        a_zero: cx.opt(2),
        b: cx.input(3),
        b_zero: cx.opt(5),
        y: y.clone(),
        program: ScalarProgram::default(),
        operands: Vec::new(),
    };
    check(cx, (0, 2), (3, 5))?;
    nest::fixed(cx, 1, 0..cx.input(1).view.shape.len())?;
    nest::fixed(cx, 4, 0..cx.input(4).view.shape.len())?;
    let (sa, sb, _) = stacks(&m.a, &m.b);
    let (scale_a, scale_b, scale_y, zero_y) = (cx.input(1), cx.input(4), cx.input(6), cx.input(7));
    let (pa, pb) = (parameter(&scale_a, &sa, true)?, parameter(&scale_b, &sb, false)?);
    let raw = zero_y.dtype;
    let program = requantization(raw, None);
    let (epilogue, operands) = tile::epilogue(cx, super::qlinear_matmul::OWN, raw);
    let zero = Expr::Int(0);
    sums(cx, &m, |cx, outer, row, col, at, sum| {
        let a = element(&scale_a, at_stack(scale_a.view.offset, &pa, outer, row, &zero), DType::F32);
        let b = element(&scale_b, at_stack(scale_b.view.offset, &pb, outer, &zero, col), DType::F32);
        let s = cx.load(&scale_y, &vec![Expr::Int(0); scale_y.view.shape.len()]).cast_from(scale_y.dtype, DType::F32);
        let factor = Expr::bin(BinOp::Div, a.mul(b), s);
        let z = first(cx, &zero_y);
        let value = cx.program(&program, &[sum, factor, z]);
        finish(cx, &y, &epilogue, &operands, value, at);
    })
}
