//! Elementwise work as loop nests over strided operands.
//!
//! Dimensions are ordered by the result's strides and merged where all operands allow it, so that a dense chain is one loop; the innermost loop is
//! a vector loop; large nests are split over threads.

use crate::lir::{Expr, LoopKind, Stmt};
use crate::lower::{Arg, LowerCx};
use crate::op::Extent;
use crate::scalar::{BinOp, ScalarProgram};

/// Elements from which a nest is worth more than one thread.
const PARALLEL_ELEMENTS: u64 = 32 * 1024;
/// Elements of one task of a nest that is a single loop.
const CHUNK: u64 = 8 * 1024;

impl LowerCx<'_> {
    /// `out = program(args)` for every element; operands broadcast to the shape of the result.
    pub fn map(&mut self, program: &ScalarProgram, out: &Arg, args: &[Arg]) {
        let space = Space::new(out, args);
        if space.extents.iter().all(|n| n.bound > 0) {
            space.emit(self, program, out, args);
        }
    }

    /// Copies a value of one type, shape for shape, from one view to another; the source may be broadcast.
    pub fn copy(&mut self, from: &Arg, to: &Arg) {
        let mut program = ScalarProgram::default();
        program.arg(0, from.dtype);
        self.map(&program, to, std::slice::from_ref(from));
    }
}

/// The iteration space: extents, and per operand (result first) one stride for each extent.
struct Space {
    extents: Vec<Extent>,
    strides: Vec<Vec<i64>>,
}

impl Space {
    fn new(out: &Arg, args: &[Arg]) -> Space {
        let rank = out.view.shape.len();
        let broadcast = |arg: &Arg| -> Vec<i64> {
            let lead = rank - arg.view.shape.len();
            let stride = |d: usize| if d < lead || arg.view.extent(d - lead).is_one() { 0 } else { arg.view.strides[d - lead] };
            (0..rank).map(stride).collect()
        };
        let all: Vec<Vec<i64>> = std::iter::once(out).chain(args).map(broadcast).collect();
        let mut order: Vec<usize> = (0..rank).filter(|d| !out.view.extent(*d).is_one()).collect();
        order.sort_by_key(|d| (std::cmp::Reverse(all[0][*d].unsigned_abs()), *d));
        let mut space = Space { extents: Vec::new(), strides: vec![Vec::new(); all.len()] };
        for d in order {
            let n = out.view.extent(d);
            // Where an open extent is smaller than its bound, what follows it is not its neighbour.
            let merges = !space.extents.is_empty()
                && n.open.is_none()
                && space.strides.iter().zip(&all).all(|(s, a)| s.last().is_some_and(|last| *last == a[d] * n.bound as i64));
            if merges {
                let outer = space.extents.last_mut().expect("internal: a dimension to merge into");
                *outer = outer.times(&n);
                space.strides.iter_mut().zip(&all).for_each(|(s, a)| *s.last_mut().expect("internal: a stride") = a[d]);
            } else {
                space.extents.push(n);
                space.strides.iter_mut().zip(&all).for_each(|(s, a)| s.push(a[d]));
            }
        }
        space.bring_near();
        space
    }

    /// Moves a dimension along which an operand is dense, and which is not the innermost one, next to it: blocks of the two are transposed.
    fn bring_near(&mut self) {
        let Some(last) = self.extents.len().checked_sub(1) else { return };
        let lies_across = |s: &&Vec<i64>| !matches!(s[last], 0 | 1);
        let dense = |s: &Vec<i64>| (0..last).find(|d| s[*d] == 1);
        let Some(d) = self.strides[1..].iter().filter(lies_across).find_map(dense) else { return };
        self.extents[d..last].rotate_left(1);
        self.strides.iter_mut().for_each(|s| s[d..last].rotate_left(1));
    }

    fn emit(&self, cx: &mut LowerCx, program: &ScalarProgram, out: &Arg, args: &[Arg]) {
        let total = self.extents.iter().map(|n| n.bound).fold(1, u64::saturating_mul);
        let parallel = total >= PARALLEL_ELEMENTS && cx.at_top_level();
        let starts: Vec<Expr> = std::iter::once(out).chain(args).map(|a| Expr::Int(a.view.offset)).collect();
        if parallel && self.extents.len() == 1 && self.extents[0].open.is_none() {
            return self.chunks(cx, program, out, args, &starts);
        }
        self.level(cx, 0, parallel, &starts, &mut |cx, at| body(cx, program, out, args, at));
    }

    fn level(&self, cx: &mut LowerCx, d: usize, parallel: bool, at: &[Expr], f: &mut dyn FnMut(&mut LowerCx, &[Expr])) {
        if d == self.extents.len() {
            return f(cx, at);
        }
        let kind = if d + 1 == self.extents.len() {
            LoopKind::Vector
        } else if parallel && d == 0 {
            LoopKind::Parallel
        } else {
            LoopKind::Serial
        };
        cx.for_in(kind, &self.extents[d], |cx, i| {
            let next = self.advance(at, d, &i);
            self.level(cx, d + 1, parallel, &next, f);
        });
    }

    fn advance(&self, at: &[Expr], d: usize, i: &Expr) -> Vec<Expr> {
        at.iter().zip(&self.strides).map(|(e, s)| e.clone().add(i.clone().times(s[d]))).collect()
    }

    /// One long loop, in chunks that tasks share.
    fn chunks(&self, cx: &mut LowerCx, program: &ScalarProgram, out: &Arg, args: &[Arg], starts: &[Expr]) {
        let n = self.extents[0].bound;
        cx.for_(LoopKind::Parallel, n.div_ceil(CHUNK), |cx, chunk| {
            let lo = cx.let_(chunk.times(CHUNK as i64));
            let hi = cx.let_(Expr::bin(BinOp::Min, Expr::Var(lo).add(Expr::Int(CHUNK as i64)), Expr::Int(n as i64)));
            cx.for_range(LoopKind::Vector, Expr::Var(lo), Expr::Var(hi), 1, |cx, i| {
                let at = self.advance(starts, 0, &i);
                body(cx, program, out, args, &at);
            });
        });
    }
}

fn body(cx: &mut LowerCx, program: &ScalarProgram, out: &Arg, args: &[Arg], at: &[Expr]) {
    let loads: Vec<Expr> = args.iter().zip(&at[1..]).map(|(arg, index)| Expr::Load(arg.buf, Box::new(index.clone()))).collect();
    let value = cx.program(program, &loads);
    cx.push(Stmt::Store(out.buf, at[0].clone(), value));
}
