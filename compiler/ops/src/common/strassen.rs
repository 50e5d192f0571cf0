//! Products by Strassen's algorithm: seven products of halves instead of eight.
//!
//! A, B and C are cut in four. In the form of Winograd (Strassen, "Gaussian Elimination is not Optimal", 1969; Higham, "Accuracy and Stability of Numerical
//! Algorithms", 2002, section 23.1) there are
//!
//! ```text
//! S1 = A21 + A22   S2 = S1 - A11    S3 = A11 - A21   S4 = A12 - S2
//! T1 = B12 - B11   T2 = B22 - T1    T3 = B22 - B12   T4 = B21 - T2
//! U2 = A11 B11 + S2 T2              U3 = U2 + S3 T3
//! C11 = A11 B11 + A12 B21           C12 = U2 + S1 T1 + S4 B22
//! C21 = U3 + A22 T4                 C22 = U3 + S1 T1
//! ```
//!
//! One level only: it saves an eighth of the multiplications, and errors are bounded by four and a half times the bound of plain sums (same book, theorem 23.3, for one
//! level), relative to the largest elements of A and B. All sums but those of A are made for one panel of columns at a time, where they stay in the
//! caches (Huang et al., "Strassen's Algorithm Reloaded", 2016): B is kept as it is, in quarters, and streams once.

use onnxc_ir::blob::{Blob, Packing};
use onnxc_ir::kernel::{Less, Values};
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::Extent;
use onnxc_ir::scalar::{BinOp, ScalarProgram, UnOp};
use onnxc_ir::target::{Factors, TargetDesc};
use onnxc_ir::{DType, Tensor};

use super::ahead::Ahead;
use super::blocks::{balanced, one_block, parts_of_rows};
use super::epilogue;
use super::list::Packed;
use super::nest::{self, ExprExt, split};
use super::panels::Panels;
use super::tile::{self, More, Operand, Point, Product, tile_call};
use crate::schedule::Schedule;

/// Is the product of `rows` by this nest of k and `cols` columns to be computed so, and can it?
pub(crate) fn fits(cx: &LowerCx, weights: Option<&Tensor>, rows: &Extent, nest: &[(u64, i64)], cols: u64) -> bool {
    let even = |n: u64| n > 0 && n.is_multiple_of(2);
    let known = rows.open.is_none() && rows.bound > 1 && weights.is_some_and(|w| w.dtype() == DType::F32);
    Schedule::of(cx.attrs).strassen && cx.at_top_level() && known && even(cols) && matches!(nest, [(k, 1)] if even(*k))
}

/// Is a tile narrow enough? Beside a panel of B there are two sums and a difference in the first-level cache.
pub(crate) fn is_narrow(tile: (u32, u32), target: &TargetDesc) -> bool {
    tile.1 <= 2 * target.lanes
}

/// The tile of the products of halves.
pub(crate) fn tile(cx: &LowerCx, rows: u64, cols: u64) -> (u32, u32) {
    let narrow = |tile: &(u32, u32)| is_narrow(*tile, cx.target);
    let tiles = &cx.target.f32_tiles;
    let wanted = Schedule::of(cx.attrs).tile_among(tiles);
    let allowed = |tile: &(u32, u32)| narrow(tile) || !tiles.iter().any(narrow);
    wanted.unwrap_or_else(|| tile::choose_among(cx.target, Factors::Floats, rows.div_ceil(2), cols / 2, allowed))
}

/// The quarters of B in the order in which they are read for the first time, a panel of each after the other: `[panel][quarter][k][nr]`.
#[derive(Debug)]
struct Quarters(Panels);

impl Packing for Quarters {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn parts(&self) -> usize {
        self.0.parts()
    }

    fn part(&self, from: &Tensor, part: usize) -> Vec<u8> {
        let quarters = self.0.starts.len();
        self.0.part(from, part % quarters * self.0.panels() + part / quarters)
    }
}

/// The places of the quarters of B.
const B11: usize = 0;
const B21: usize = 1;
const B12: usize = 2;
const B22: usize = 3;

/// The quarters of a matrix in `tensor` that begins at `start`, from counts and strides of its rows and columns.
pub(crate) fn packed(cx: &mut LowerCx, tensor: &Tensor, start: i64, rows: (u64, i64), cols: (u64, i64), nr: u32) -> Packed {
    let (k, n) = (rows.0 / 2, cols.0 / 2);
    let (below, beside) = (k as i64 * rows.1, n as i64 * cols.1);
    let starts = [0, below, beside, below + beside].map(|at| start + at).to_vec();
    let rows = vec![(k, rows.1)];
    let how = Panels { dtype: DType::F32, group: 1, starts, rows, padded: k, cols: (n, cols.1), nr, flip: 0 };
    let buf = cx.blob_buf(DType::F32, Blob::packed(tensor.clone(), Quarters(how)));
    Packed { buf, dtype: DType::F32, list: None, table: None }
}

/// A left factor: a quarter of A (its half of rows and of columns), or one of S1 to S4.
#[derive(Clone, Copy)]
enum Left {
    Quarter(usize, usize),
    Sum(usize),
}

/// A right factor: a panel of a quarter of B, one of two differences of such panels, or nothing to multiply by.
#[derive(Clone, Copy)]
enum Right {
    Quarter(usize),
    Difference(usize),
    Nothing,
}

/// Where a product goes: one of two sums of a panel, or a quarter of C.
#[derive(Clone, Copy)]
enum To {
    Sum(usize),
    Result(usize, usize),
}

/// A product, the sums that are added to it, and where the result goes.
struct Step {
    left: Left,
    right: Right,
    /// What the right factor is made of, if it is a difference: a quarter of B less another one, or less what the factor has been.
    of: Option<(usize, Option<usize>)>,
    plus: &'static [usize],
    to: To,
    /// The quarter of B that is fetched meanwhile, and whether it is that of the next panel.
    fetch: Option<(usize, bool)>,
}

const PLAIN: Step = Step { left: Left::Quarter(0, 0), right: Right::Nothing, of: None, plus: &[], to: To::Sum(0), fetch: None };

/// In this order two sums are enough: the first is A11 B11, then U2, then U3; the second is S1 T1. And two differences: T1, T2 and T4 after each
/// other, and T3. The first block of rows makes them as it multiplies, and keeps them for the others.
const STEPS: [Step; 8] = [
    Step { right: Right::Quarter(B11), fetch: Some((B21, false)), ..PLAIN },
    Step {
        left: Left::Quarter(0, 1),
        right: Right::Quarter(B21),
        plus: &[0],
        to: To::Result(0, 0),
        fetch: Some((B12, false)),
        ..PLAIN
    },
    Step {
        left: Left::Sum(0),
        right: Right::Difference(0),
        of: Some((B12, Some(B11))),
        to: To::Sum(1),
        fetch: Some((B22, false)),
        ..PLAIN
    },
    Step { left: Left::Sum(1), right: Right::Difference(0), of: Some((B22, None)), plus: &[0], ..PLAIN },
    Step { left: Left::Sum(3), right: Right::Quarter(B22), plus: &[0, 1], to: To::Result(0, 1), ..PLAIN },
    Step { left: Left::Sum(2), right: Right::Difference(1), of: Some((B22, Some(B12))), plus: &[0], ..PLAIN },
    Step {
        left: Left::Quarter(1, 1),
        right: Right::Difference(0),
        of: Some((B21, None)),
        plus: &[0],
        to: To::Result(1, 0),
        fetch: Some((B11, true)),
    },
    Step { plus: &[0, 1], to: To::Result(1, 1), ..PLAIN },
];

/// Blocks of rows whose two sums stay in the first-level cache.
const BLOCKS: u64 = 8;

struct Strassen<'p> {
    p: &'p Product,
    /// Rows of both halves: the second has one less where their number is odd, and S1 and S2 a row of nothing from there.
    rows: [u64; 2],
    k: u64,
    cols: u64,
    /// Panels of half of the columns.
    panels: u64,
    /// Rows of a block.
    height: u64,
    /// S1 to S4, elements between their rows, and between them.
    left: (BufId, i64, i64),
    /// The two differences of panels of B, one behind the other.
    right: BufId,
    /// The two sums of a panel.
    sums: [BufId; 2],
    /// Blocks of rows whose sums these are.
    chunk: u64,
}

/// Emits the product, whose B is [`packed`].
pub(crate) fn emit(cx: &mut LowerCx, p: &Product) {
    let (rows, k, cols) = (p.rows.bound.div_ceil(2), p.nest[0].0 / 2, p.cols.bound / 2);
    let panels = cols.div_ceil(u64::from(p.nr));
    let half = Product { rows: rows.into(), ..p.clone() };
    let height = height(&half, p.mr);
    let blocks = rows.div_ceil(height);
    let parts = parts_of_rows(cx, &half, panels, height);
    let chunk = blocks.div_ceil(blocks.div_ceil(BLOCKS).max(parts));
    let row = apart(k, 256, 16);
    let plane = apart(rows * row, 1024, 144);
    let left = (cx.scratch(DType::F32, 4 * plane, false), row as i64, plane as i64);
    let right = cx.scratch(DType::F32, 2 * k * u64::from(p.nr), true);
    let sums = [0; 2].map(|_| cx.scratch(DType::F32, chunk * height * u64::from(p.nr), true));
    let s = Strassen { p, rows: [rows, p.rows.bound - rows], k, cols, panels, height, left, right, sums, chunk };
    s.sums_of_rows(cx);
    s.all_panels(cx, parts);
}

/// Rows of a block: those of a tile that is nearly as high as it may be and leaves no other behind, since each height has six kernels; else about the same for all.
fn height(half: &Product, mr: u32) -> u64 {
    let (rows, most) = (half.rows.bound, u64::from(mr));
    let whole = (most.div_ceil(4) * 3..=most).rev().find(|height| rows.is_multiple_of(*height));
    whole.unwrap_or_else(|| balanced(half))
}

/// So many elements and some more, where what is as far apart as that would meet in a set of the first-level cache.
fn apart(n: u64, period: u64, more: u64) -> u64 {
    let n = n.next_multiple_of(16);
    if n.is_multiple_of(period) { n + more } else { n }
}

impl Strassen<'_> {
    /// S1 to S4.
    fn sums_of_rows(&self, cx: &mut LowerCx) {
        let [rows, below] = self.rows;
        cx.for_(LoopKind::Parallel, rows, |cx, row| {
            if rows == below {
                return self.sums_of_row(cx, &row, true);
            }
            let last = Expr::bin(BinOp::Eq, row.clone(), Expr::Int(rows as i64 - 1));
            cx.if_(last, |cx| self.sums_of_row(cx, &row, false), |cx| self.sums_of_row(cx, &row, true));
        });
    }

    fn sums_of_row(&self, cx: &mut LowerCx, row: &Expr, below: bool) {
        let (p, (buf, width, plane)) = (self.p, self.left);
        let from = Expr::Var(cx.let_(row.clone().times(p.a_row).add(Expr::Int(p.a.2))));
        let to = Expr::Var(cx.let_(row.clone().times(width)));
        let down = self.rows[0] as i64 * p.a_row;
        cx.for_(LoopKind::Vector, self.k, |cx, c| {
            let load =
                |cx: &mut LowerCx, by: i64| Expr::Var(cx.let_(nest::at(p.a.0, c.clone().add(from.clone()).add(Expr::Int(by)))));
            let (a11, a12) = (load(cx, 0), load(cx, self.k as i64));
            let (s1, s2, s3) = if below {
                let (a21, a22) = (load(cx, down), load(cx, down + self.k as i64));
                let s1 = Expr::Var(cx.let_(Expr::bin(BinOp::Add, a21.clone(), a22)));
                (s1.clone(), s1.minus(a11.clone()), a11.minus(a21))
            } else {
                (Expr::f32(0.0), Expr::Un(UnOp::Neg, Box::new(a11.clone())), a11)
            };
            let s2 = Expr::Var(cx.let_(s2));
            let s4 = a12.minus(s2.clone());
            for (n, sum) in [s1, s2, s3, s4].into_iter().enumerate() {
                let at = c.clone().add(to.clone()).add(Expr::Int(n as i64 * plane));
                cx.push(Stmt::Store(buf, at, sum));
            }
        });
    }

    /// All panels, or parts of the rows of each, are tasks.
    fn all_panels(&self, cx: &mut LowerCx, parts: u64) {
        let blocks = self.rows[0].div_ceil(self.height);
        let chunks = blocks.div_ceil(self.chunk);
        let chunk = |cx: &mut LowerCx, n: &Expr| {
            let lo = Expr::Var(cx.let_(n.clone().times(self.chunk as i64)));
            let hi = Expr::bin(BinOp::Min, lo.clone().add(Expr::Int(self.chunk as i64)), Expr::Int(blocks as i64));
            (lo, Expr::Var(cx.let_(hi)))
        };
        if parts == 1 {
            return cx.for_(LoopKind::Parallel, self.panels, |cx, panel| {
                cx.for_(LoopKind::Serial, chunks, |cx, n| {
                    let blocks = chunk(cx, &n);
                    self.panel(cx, &panel, &blocks);
                });
            });
        }
        cx.for_(LoopKind::Parallel, self.panels * chunks, |cx, task| {
            // Threads have whole panels, and share one where they meet.
            let (panel, n) = split(cx, task, chunks);
            let blocks = chunk(cx, &n);
            self.panel(cx, &panel, &blocks);
        });
    }

    /// Elements of a panel.
    fn whole(&self) -> i64 {
        self.k as i64 * i64::from(self.p.nr)
    }

    /// Where a right factor is.
    fn factor(&self, right: Right, panel: &Expr) -> (BufId, Expr) {
        match right {
            Right::Quarter(q) => {
                let start = Expr::Int(self.p.b.2 + q as i64 * self.whole());
                (self.p.b.0, panel.clone().times(4 * self.whole()).add(start))
            }
            Right::Difference(n) => (self.right, Expr::Int(n as i64 * self.whole())),
            Right::Nothing => (self.right, Expr::Int(0)),
        }
    }

    /// All products of a panel and of blocks of rows from one to another.
    fn panel(&self, cx: &mut LowerCx, panel: &Expr, blocks: &(Expr, Expr)) {
        let nr = u64::from(self.p.nr);
        let last = self.cols - (self.panels - 1) * nr;
        let products = |cx: &mut LowerCx, cols: u64| {
            STEPS.iter().for_each(|step| self.product(cx, step, panel, cols as u32, blocks));
        };
        if last == nr || self.panels == 1 {
            return products(cx, last);
        }
        let is_last = Expr::bin(BinOp::Eq, panel.clone(), Expr::Int(self.panels as i64 - 1));
        cx.if_(is_last, |cx| products(cx, last), |cx| products(cx, nr));
    }

    fn product(&self, cx: &mut LowerCx, step: &Step, panel: &Expr, cols: u32, (lo, hi): &(Expr, Expr)) {
        let p = self.half(step);
        let ahead = step.fetch.map_or_else(Ahead::default, |_| Ahead::new(cx.target, &p, Vec::new()));
        let at = Point { ahead, ..self.start(step, &p, panel, lo) };
        let next = step.fetch.map(|(quarter, next)| {
            let (buf, at) = self.factor(Right::Quarter(quarter), panel);
            (buf, if next { at.add(Expr::Int(4 * self.whole())) } else { at })
        });
        let (rows, blocks) = (p.rows.bound, self.rows[0].div_ceil(self.height));
        let fewer = rows.div_ceil(self.height) < blocks;
        let hi = if fewer { Expr::bin(BinOp::Min, hi.clone(), Expr::Int(blocks as i64 - 1)) } else { hi.clone() };
        let heights = (self.height, rows % self.height);
        let some = |cx: &mut LowerCx, (lo, hi): (Expr, Expr), p: &Product, at: &Point, more: &More| {
            cx.for_range(LoopKind::Serial, lo, hi, 1, |cx, n| {
                one_block(cx, p, heights, at, &n, &mut |cx, at, mr| tile_call(cx, p, (mr, cols), at, more.clone()));
            });
        };
        let more = More { next, ..More::default() };
        let Some((quarter, less)) = step.of else { return some(cx, (lo.clone(), hi), &p, &at, &more) };
        // The first block makes the difference.
        let apart = |other: usize| (other as i64 - quarter as i64) * self.whole() * 4;
        let less = less.map_or(Less::Kept, |other| Less::Apart(apart(other)));
        let (b, from) = self.factor(Right::Quarter(quarter), panel);
        let first = Product { b: (b, DType::F32, 0), ..p.clone() };
        let making = More { less: Some((less, (p.b.0, at.b.clone()))), ..more.clone() };
        let second = lo.clone().add(Expr::Int(1));
        let end = Expr::bin(BinOp::Min, second.clone(), hi.clone());
        some(cx, (lo.clone(), end), &first, &Point { b: from, ..at.clone() }, &making);
        some(cx, (second, hi), &p, &at, &more);
    }

    /// The product of a step.
    fn half(&self, step: &Step) -> Product {
        let (all, nr) = (self.p, i64::from(self.p.nr));
        let (a, a_row) = match step.left {
            Left::Quarter(row, col) => {
                let start = all.a.2 + (row as u64 * self.rows[0]) as i64 * all.a_row + (col as u64 * self.k) as i64;
                ((all.a.0, DType::F32, start), all.a_row)
            }
            Left::Sum(n) => ((self.left.0, DType::F32, n as i64 * self.left.2), self.left.1),
        };
        let sum =
            |n: usize| Operand { buf: self.sums[n], dtype: DType::F32, start: 0, row: nr, per_column: true, values: Values::Any };
        let mut operands: Vec<Operand> = step.plus.iter().map(|n| sum(*n)).collect();
        let (rows, c, c_row, bias, program) = match step.to {
            To::Sum(n) => (self.rows[0], (self.sums[n], DType::F32, 0), nr, None, identity()),
            To::Result(row, col) => {
                let (down, beside) = ((row as u64 * self.rows[0]) as i64, (col as u64 * self.cols) as i64);
                let moved =
                    |o: &Operand| Operand { start: o.start + down * o.row + if o.per_column { beside } else { 0 }, ..o.clone() };
                operands.extend(all.operands.iter().map(moved));
                let c = (all.c.0, all.c.1, all.c.2 + down * all.c_row + beside);
                (self.rows[row], c, all.c_row, all.bias.map(|(b, at)| (b, at + beside)), all.epilogue.clone())
            }
        };
        let (k, b) = match step.right {
            Right::Quarter(_) => (self.k, all.b.0),
            Right::Difference(_) => (self.k, self.right),
            Right::Nothing => (0, self.right),
        };
        Product {
            outer: Vec::new(),
            rows: rows.into(),
            cols: self.cols.into(),
            a,
            a_row,
            nest: vec![(k, 1)],
            b: (b, DType::F32, 0),
            c,
            c_row,
            bias,
            epilogue: behind_sum(&program, step.plus.len() as u8),
            operands,
            mr: self.height as u32,
            ..all.clone()
        }
    }

    /// Where the product of a step begins in a panel, for blocks from `lo` on, whose sums are at the beginning of theirs.
    fn start(&self, step: &Step, p: &Product, panel: &Expr, lo: &Expr) -> Point {
        let nr = i64::from(p.nr);
        let column = panel.clone().times(nr);
        let back = lo.clone().times(-(self.height as i64) * nr);
        let mut at = Point::start(p);
        at.b = self.factor(step.right, panel).1;
        at.c = at.c.add(if let To::Sum(_) = step.to { back.clone() } else { column.clone() });
        at.bias = at.bias.add(column.clone());
        for (n, (o, e)) in p.operands.iter().zip(&mut at.operands).enumerate() {
            let by = if n < step.plus.len() { back.clone() } else { column.clone() };
            if o.per_column {
                *e = e.clone().add(by);
            }
        }
        at
    }
}

fn identity() -> ScalarProgram {
    let mut identity = ScalarProgram::default();
    identity.arg(0, DType::F32);
    identity
}

/// The program behind the sum of the first so many arguments and one more.
fn behind_sum(program: &ScalarProgram, more: u8) -> ScalarProgram {
    epilogue::behind(program, more, |out| {
        let first = out.arg(0, DType::F32);
        (1..=more).fold(first, |sum, n| {
            let next = out.arg(n, DType::F32);
            out.bin(BinOp::Add, sum, next)
        })
    })
}
