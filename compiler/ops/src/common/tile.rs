//! Loops around the matmul tile: what convolution, matrix products and recurrent cells have in common.
//!
//! A [`Product`] is `C[rows, n] = epilogue(A[rows, k] * B[k, n] + bias)`, repeated over outer dimensions. A is read in place through strides, B is packed
//! in panels of `nr` columns: `[panel][k][nr]`. Loop order (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008, simplified: K
//! is not blocked because panels of real layers fit the second-level cache): row blocks outside when B fits half of the second-level cache, panels
//! outside otherwise, so that the larger of both streams once.

use onnxc_ir::kernel::{EpilogueOperand, Kernel, Less, NUMBERS, TileKernel, Values, k_group};
use onnxc_ir::lir::{BufId, BufKind, Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::Extent;
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::target::{Factors, TargetDesc};
use onnxc_ir::{DType, Dim, Tensor};

use super::ahead::Ahead;
use super::blocks::{balanced, blocks_of_part, parts_of_rows, row_blocks};
use super::coded::Table;
use super::list::{List, Steps};
use super::nest::{ExprExt, split};
use super::{open, thin};
use crate::schedule::{Order, Schedule};

/// A dimension around the product: its extent and what one step moves, in elements.
#[derive(Clone, Debug)]
pub struct Outer {
    /// Extent.
    pub n: Extent,
    /// In A.
    pub a: i64,
    /// In packed B.
    pub b: i64,
    /// In C.
    pub c: i64,
    /// In the bias.
    pub bias: i64,
    /// In each epilogue operand.
    pub operands: Vec<i64>,
}

/// An epilogue operand of a product.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Buffer.
    pub buf: BufId,
    /// Element type.
    pub dtype: DType,
    /// Element at row 0, column 0.
    pub start: i64,
    /// Elements between rows.
    pub row: i64,
    /// True: neighbouring columns are neighbours in memory; false: one element per row.
    pub per_column: bool,
    /// What is known of its elements.
    pub values: Values,
}

/// The elements of an operand of f32, if they are known.
pub fn constants(cx: &LowerCx, operand: &Arg) -> Option<Vec<f32>> {
    if operand.dtype != DType::F32 {
        return None;
    }
    if let Some(tensor) = &operand.constant {
        return Some(tensor.to_vec());
    }
    match &cx.func.bufs[operand.buf.0 as usize].kind {
        BufKind::Const(blob) => {
            Some(blob.ready()?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        _ => None,
    }
}

/// What is known of the elements of an operand.
pub fn values(cx: &LowerCx, operand: &Arg) -> Values {
    let largest = |m: f32, x: &f32| if m.is_nan() || x.is_nan() { f32::NAN } else { m.max(x.abs()) };
    match constants(cx, operand).map(|all| all.iter().fold(0.0, largest)) {
        Some(largest) if largest.is_finite() => Values::power(f64::from(largest)).map_or(Values::Finite, Values::Small),
        _ => Values::Any,
    }
}

/// The whole computation. Strides and starts in elements.
#[derive(Clone)]
pub struct Product {
    /// Dimensions around, outermost first.
    pub outer: Vec<Outer>,
    /// Rows.
    pub rows: Extent,
    /// Columns.
    pub cols: Extent,
    /// A: buffer, type, start, row stride, nest of k (count, stride) outermost first.
    pub a: (BufId, DType, i64),
    /// Elements between rows of A.
    pub a_row: i64,
    /// The k loop.
    pub nest: Vec<(u64, i64)>,
    /// The extent of the k loop where it is open; it has one level then.
    pub open_k: Option<Dim>,
    /// Packed B: buffer, type that the tile has of it, start.
    pub b: (BufId, DType, i64),
    /// Steps whose products add up within 16 bits, as in [`TileKernel`].
    pub short: u32,
    /// The 16 elements that B, if it is u4, has the numbers of.
    pub table: Option<BufId>,
    /// The steps of k that B has, if these are not all; the start of B and its steps in outer dimensions are panels then,
    /// unless the list is repeated.
    pub list: Option<List>,
    /// C: buffer, type, start; columns are neighbours.
    pub c: (BufId, DType, i64),
    /// Elements between rows of C.
    pub c_row: i64,
    /// Bias: buffer and start, one value per column.
    pub bias: Option<(BufId, i64)>,
    /// Epilogue over the accumulator and `operands`.
    pub epilogue: ScalarProgram,
    /// Its operands.
    pub operands: Vec<Operand>,
    /// Panel width, from [`choose`].
    pub nr: u32,
    /// Largest tile height.
    pub mr: u32,
}

/// The tile for a product of this size: the cheapest per step of k, counting multiplications, broadcasts of A and vectors of B as the target says
/// ([`onnxc_ir::target::Machine::tile`] and `byte_tile`). The last panel multiplies only the vectors that it has columns in, but a narrow one is not faster than one of
/// half the width; a single row waits for B, whose panels come whole. Of equals, the one with the least padding.
pub fn choose(target: &TargetDesc, factors: Factors, rows: u64, cols: u64) -> (u32, u32) {
    choose_among(target, factors, rows, cols, |_| true)
}

/// [`choose`] among some of the tiles.
pub fn choose_among(
    target: &TargetDesc,
    factors: Factors,
    rows: u64,
    cols: u64,
    allowed: impl Fn(&(u32, u32)) -> bool,
) -> (u32, u32) {
    choose_by(target, factors, (rows, cols), 0.0, allowed)
}

/// Cycles that a vector of coded B counts in the choice of a tile, for each that it takes to decode: the slots are those of products.
const DECODED: f64 = 3.0;

/// [`choose_among`] where a vector of B takes so much more.
fn choose_by(
    target: &TargetDesc,
    factors: Factors,
    (rows, cols): (u64, u64),
    decode: f64,
    allowed: impl Fn(&(u32, u32)) -> bool,
) -> (u32, u32) {
    let cost = |&(mr, nr): &(u32, u32)| {
        let panels = cols.div_ceil(u64::from(nr));
        let blocks = rows.div_ceil(u64::from(mr));
        let height = rows.div_ceil(blocks);
        let (row, column) = if factors == Factors::Floats { target.machine.tile } else { target.machine.byte_tile };
        let column = column + decode;
        let step = |vectors: u64| (height * vectors) as f64 + row * height as f64 + column * vectors as f64;
        let (full, others) = (u64::from(nr / target.lanes), panels.saturating_sub(1));
        let used = (cols - others * u64::from(nr)).div_ceil(u64::from(target.lanes));
        let last = if rows == 1 { full } else { used.max(full.div_ceil(2)) };
        let steps = blocks as f64 * (others as f64 * step(full) + step(last));
        (steps, panels.saturating_mul(u64::from(nr)))
    };
    let cheaper = |a: &&(u32, u32), b: &&(u32, u32)| {
        let ((a, pad_a), (b, pad_b)) = (cost(a), cost(b));
        a.total_cmp(&b).then(pad_a.cmp(&pad_b))
    };
    target.tiles(factors).iter().filter(|t| allowed(t)).min_by(cheaper).copied().expect("internal: a target has tiles")
}

/// The tile that the node's schedule asks for, else that of [`choose`].
pub fn scheduled(cx: &LowerCx, factors: Factors, rows: u64, cols: u64) -> (u32, u32) {
    wanted(cx, factors).unwrap_or_else(|| choose(cx.target, factors, rows, cols))
}

/// [`scheduled`] for an f32 product whose A has rows `a_row` elements apart and this nest of k. Panels of one column mean that no tile is worth it and
/// [`emit`] makes loops.
pub fn scheduled_for(cx: &LowerCx, rows: u64, cols: u64, a_row: i64, nest: &[(u64, i64)]) -> (u32, u32) {
    wanted(cx, Factors::Floats)
        .or_else(|| no_tile(cx, (rows, cols), a_row, nest))
        .unwrap_or_else(|| choose(cx.target, Factors::Floats, rows, cols))
}

fn no_tile(cx: &LowerCx, (rows, cols): (u64, u64), a_row: i64, nest: &[(u64, i64)]) -> Option<(u32, u32)> {
    let listed = Schedule::of(cx.attrs).sparse;
    thin::along(cx.target, rows, cols, a_row, nest).filter(|_| !listed).map(|_| (1, 1))
}

/// The tile for an f32 product with weights that may be coded, and the table of these if they are to be numbers: [`scheduled_for`] where the number of rows
/// is known, else [`scheduled`].
pub(crate) fn scheduled_coded(
    cx: &LowerCx,
    weights: Option<&Tensor>,
    (rows, cols): (&Extent, u64),
    a_row: i64,
    nest: &[(u64, i64)],
) -> ((u32, u32), Option<Table>) {
    let thin = if rows.open.is_none() { no_tile(cx, (rows.bound, cols), a_row, nest) } else { None };
    let table = Table::of(weights, nest).filter(|_| thin.is_none());
    let roomy = |tile: &(u32, u32)| table.is_none() || cx.target.table_tiles.contains(tile);
    let [bytes, numbers] = cx.target.machine.decode;
    let decode = match (&table, weights.map(Tensor::dtype)) {
        (Some(_), _) => DECODED * numbers,
        (None, Some(DType::I8)) => DECODED * bytes,
        _ => 0.0,
    };
    let tile = wanted(cx, Factors::Floats).filter(roomy).or(thin);
    (tile.unwrap_or_else(|| choose_by(cx.target, Factors::Floats, (rows.bound, cols), decode, roomy)), table)
}

fn wanted(cx: &LowerCx, factors: Factors) -> Option<(u32, u32)> {
    Schedule::of(cx.attrs).tile_among(cx.target.tiles(factors))
}

impl Product {
    /// Bytes of B in so many steps of k (rows of B), those that fill up words of numbers aside.
    pub(super) fn b_bytes(&self, steps: u64) -> u64 {
        steps * u64::from(self.nr) * self.b.1.bits() / 8
    }

    /// Bytes of an element of the buffer of B.
    pub(super) fn b_element(&self) -> u64 {
        if self.b.1 == DType::U4 { 4 } else { self.b.1.bytes() }
    }
}

/// Elements of the buffer of a B of this type in a panel that has all steps of a nest. A product without steps has none.
pub(crate) fn panel_elements(b: DType, nest: &[(u64, i64)], nr: u32) -> u64 {
    let Some(((run, _), outer)) = nest.split_last() else { return 0 };
    let rows = if b == DType::U4 { run.div_ceil(NUMBERS) } else { *run };
    outer.iter().map(|(n, _)| n).product::<u64>() * rows * u64::from(nr)
}

/// Packs `k` by `n` f32 values into panels: `[panel][k][nr]`, zero padded.
pub fn pack_f32(k: usize, n: usize, nr: usize, get: impl Fn(usize, usize) -> f32) -> Vec<u8> {
    let mut out = Vec::with_capacity(n.div_ceil(nr) * k * nr * 4);
    for panel in 0..n.div_ceil(nr) {
        for row in 0..k {
            for col in panel * nr..(panel + 1) * nr {
                out.extend(if col < n { get(row, col) } else { 0.0 }.to_le_bytes());
            }
        }
    }
    out
}

/// `k` by `n` bytes in panels of `nr` columns, a group of rows beside each other: `[panel][k/group][nr][group]`, zero padded.
pub fn pack_bytes((k, group): (usize, usize), n: usize, nr: usize, get: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(k * n.next_multiple_of(nr));
    for panel in 0..n.div_ceil(nr) {
        for first in (0..k).step_by(group) {
            for column in panel * nr..(panel + 1) * nr {
                out.extend((first..first + group).map(|row| if row < k && column < n { get(row, column) } else { 0 }));
            }
        }
    }
    out
}

/// A dimension of the result: its extent and its steps in A, in C and in every operand.
pub type Dimension = (Extent, i64, i64, Vec<i64>);

/// Joins dimensions whose steps fit everywhere and drops those of one element, so that the last one, the rows of tiles, is long: a 1x1 convolution has one
/// dimension.
pub fn merge(dims: &mut Vec<Dimension>) {
    let mut i = dims.len() - 1;
    while i > 0 {
        let (inner, outer) = (dims[i].clone(), &mut dims[i - 1]);
        let n = inner.0.bound as i64;
        // Behind an open extent that is smaller than its bound the next row is somewhere else.
        let fits = inner.0.open.is_none()
            && outer.1 == inner.1 * n
            && outer.2 == inner.2 * n
            && outer.3.iter().zip(&inner.3).all(|(o, s)| *o == s * n);
        if inner.0.is_one() {
            dims.remove(i);
        } else if fits || outer.0.is_one() {
            *outer = (outer.0.times(&inner.0), inner.1, inner.2, inner.3);
            dims.remove(i);
        }
        i -= 1;
    }
}

/// Emits the loops.
pub fn emit(cx: &mut LowerCx, p: &Product) {
    if p.rows.bound == 0 || p.cols.bound == 0 || p.outer.iter().any(|o| o.n.bound == 0) {
        return;
    }
    if p.rows.open.is_some() || p.cols.open.is_some() || p.open_k.is_some() {
        return open::emit(cx, p);
    }
    if p.a.1 == DType::F32
        && p.nr == 1
        && let Some(along) = thin::along(cx.target, p.rows.bound, p.cols.bound, p.a_row, &p.nest)
    {
        return thin::emit(cx, p, along);
    }
    let k: u64 = p.nest.iter().map(|(n, _)| n).product();
    let panels = p.cols.bound.div_ceil(u64::from(p.nr));
    let steps = p.list.as_ref().map_or(k * panels, |list| list.steps_of(panels) * k_group(p.a.1));
    let b_bytes = p.b_bytes(steps);
    if thin::late_epilogue(cx, p) {
        return thin::emit_late(cx, p, &mut |cx, p, at| {
            let height = balanced(p);
            row_blocks(cx, p, height, at, &mut |cx, at, mr| {
                cx.for_(LoopKind::Serial, panels, |cx, panel| panel_call(cx, p, mr, at, &panel, panels));
            });
        });
    }
    let height = balanced(p);
    let panels_outside = b_bytes > cx.target.l2_bytes / 2 && panels > 1 || is_one_block(p);
    let chosen = if panels_outside { Order::Panels(1) } else { Order::Rows };
    match Schedule::of(cx.attrs).order.unwrap_or(chosen) {
        Order::Panels(group) if group < panels || is_one_block(p) => {
            // A single block of rows leaves nothing else to divide among threads.
            let group = if is_one_block(p) { 1 } else { group };
            let loops = p.outer.iter().map(|o| o.n.bound).collect();
            let ahead = if group == 1 { Ahead::new(cx.target, p, loops) } else { Ahead::default() };
            let start = Point { ahead, ..Point::start(p) };
            let groups = panels.div_ceil(group);
            let parts = parts_of_rows(cx, p, groups, height);
            if parts > 1 {
                return cx.for_(LoopKind::Parallel, groups * parts, |cx, task| {
                    // Threads have whole groups, and share one where they meet: the part that is smaller goes to the one in front, which has no group of
                    // fewer columns.
                    let (first, part) = split(cx, task, parts);
                    let part = Expr::Int(parts as i64 - 1).minus(part);
                    blocks_of_part(cx, p, height, &start, (&part, parts), &mut |cx, at, mr| {
                        panels_of_group(cx, &first, group, panels, &mut |cx, panel| panel_call(cx, p, mr, at, panel, panels));
                    });
                });
            }
            cx.for_(LoopKind::Parallel, groups, |cx, first| {
                outer_loops(cx, p, 0, &start, false, &mut |cx, at| {
                    row_blocks(cx, p, height, at, &mut |cx, at, mr| {
                        panels_of_group(cx, &first, group, panels, &mut |cx, panel| panel_call(cx, p, mr, at, panel, panels));
                    });
                });
            });
        }
        _ => outer_loops(cx, p, 0, &Point::start(p), true, &mut |cx, at| {
            row_blocks(cx, p, height, at, &mut |cx, at, mr| {
                cx.for_(LoopKind::Serial, panels, |cx, panel| panel_call(cx, p, mr, at, &panel, panels));
            });
        }),
    }
}

/// The panels of group `n` of `panels`.
fn panels_of_group(cx: &mut LowerCx, n: &Expr, group: u64, panels: u64, body: &mut dyn FnMut(&mut LowerCx, &Expr)) {
    if group == 1 {
        return body(cx, n);
    }
    let lo = Expr::Var(cx.let_(n.clone().times(group as i64)));
    let end = lo.clone().add(Expr::Int(group as i64));
    let hi = if panels.is_multiple_of(group) { end } else { Expr::bin(BinOp::Min, end, Expr::Int(panels as i64)) };
    cx.for_range(LoopKind::Serial, lo, hi, 1, |cx, panel| body(cx, &panel));
}

/// Emits the products of all steps of the outer dimensions, each with its panels outside: columns stream once, the rows stay near.
pub fn emit_panels_outside(cx: &mut LowerCx, p: &Product, kind: LoopKind) {
    let panels = p.cols.bound.div_ceil(u64::from(p.nr));
    let start = Point { ahead: Ahead::new(cx.target, p, vec![1; p.outer.len()]), ..Point::start(p) };
    cx.for_(kind, p.outer.iter().map(|o| o.n.bound).product(), |cx, i| {
        let (mut at, mut rest) = (start.clone(), i);
        for (d, outer) in p.outer.iter().enumerate().rev() {
            let (outside, i) = if d == 0 { (Expr::Int(0), rest) } else { split(cx, rest, outer.n.bound) };
            at = at.step(&i, outer);
            rest = outside;
        }
        cx.for_(LoopKind::Serial, panels, |cx, panel| {
            row_blocks(cx, p, balanced(p), &at, &mut |cx, at, mr| panel_call(cx, p, mr, at, &panel, panels));
        });
    });
}

/// Emits one product of numbers for extents, inside of other loops: `a`, `b`, `c` and `operands` are the indices of their first elements.
pub fn emit_at(cx: &mut LowerCx, p: &Product, (a, b, c): (Expr, Expr, Expr), operands: Vec<Expr>) {
    let at = Point { a, b, c, operands, ..Point::start(p) };
    let panels = p.cols.bound.div_ceil(u64::from(p.nr));
    row_blocks(cx, p, balanced(p), &at, &mut |cx, at, mr| {
        cx.for_(LoopKind::Serial, panels, |cx, panel| panel_call(cx, p, mr, at, &panel, panels));
    });
}

fn is_one_block(p: &Product) -> bool {
    p.rows.bound <= u64::from(p.mr) && p.outer.iter().all(|o| o.n.is_one())
}

/// Where the loops are: element indices of A, B, C, bias and the operands.
#[derive(Clone)]
pub(super) struct Point {
    pub a: Expr,
    pub b: Expr,
    pub c: Expr,
    pub bias: Expr,
    pub operands: Vec<Expr>,
    pub ahead: Ahead,
}

impl Point {
    pub fn start(p: &Product) -> Point {
        Point {
            a: Expr::Int(p.a.2),
            b: Expr::Int(p.b.2),
            c: Expr::Int(p.c.2),
            bias: Expr::Int(p.bias.map_or(0, |b| b.1)),
            operands: p.operands.iter().map(|o| Expr::Int(o.start)).collect(),
            ahead: Ahead::default(),
        }
    }

    fn step(&self, i: &Expr, o: &Outer) -> Point {
        let go = |e: &Expr, stride: i64| e.clone().add(i.clone().times(stride));
        Point {
            a: go(&self.a, o.a),
            b: go(&self.b, o.b),
            c: go(&self.c, o.c),
            bias: go(&self.bias, o.bias),
            operands: self.operands.iter().zip(&o.operands).map(|(e, s)| go(e, *s)).collect(),
            ahead: self.ahead.clone(),
        }
    }

    pub fn rows(&self, row: &Expr, p: &Product) -> Point {
        let step = Outer {
            n: Extent::from(0),
            a: p.a_row,
            b: 0,
            c: p.c_row,
            bias: 0,
            operands: p.operands.iter().map(|o| o.row).collect(),
        };
        self.step(row, &step)
    }
}

type Body<'f> = &'f mut dyn FnMut(&mut LowerCx, &Point);

pub(super) fn outer_loops(cx: &mut LowerCx, p: &Product, d: usize, at: &Point, parallel: bool, body: Body) {
    // Extents of 1 take no loop; the first real one is split over threads.
    let Some(o) = p.outer.get(d) else { return body(cx, at) };
    let kind = if parallel && !o.n.is_one() { LoopKind::Parallel } else { LoopKind::Serial };
    cx.for_in(kind, &o.n, |cx, i| {
        let mut next = at.step(&i, o);
        if let Some(elements) = at.ahead.rounds.get(d) {
            next.ahead = at.ahead.later(&i, *elements);
        }
        outer_loops(cx, p, d + 1, &next, parallel && o.n.is_one(), body);
    });
}

/// The tile of one panel; the last panel writes fewer columns.
fn panel_call(cx: &mut LowerCx, p: &Product, mr: u32, at: &Point, panel: &Expr, panels: u64) {
    let last_cols = (p.cols.bound - (panels - 1) * u64::from(p.nr)) as u32;
    let call = |cx: &mut LowerCx, cols: u32| {
        let column = panel.clone().times(i64::from(p.nr));
        let whole = panel_elements(p.b.1, &p.nest, p.nr) as i64;
        let steps = p.list.as_ref().map(|list| list.of_panel(&at.b, panel));
        let b = steps.as_ref().map_or_else(|| at.b.clone().add(panel.clone().times(whole)), |s| s.b.clone());
        let next = steps.as_ref().map_or_else(|| b.clone().add(Expr::Int(whole)), |s| s.next.clone());
        let beside = |o: &Operand, e: &Expr| if o.per_column { e.clone().add(column.clone()) } else { e.clone() };
        let here = Point {
            a: at.a.clone(),
            b,
            c: at.c.clone().add(column.clone()),
            bias: at.bias.clone().add(column.clone()),
            operands: p.operands.iter().zip(&at.operands).map(|(o, e)| beside(o, e)).collect(),
            ahead: at.ahead.clone(),
        };
        tile_call(cx, p, (mr, cols), &here, More { next: Some((p.b.0, next)), steps, less: None });
    };
    if last_cols == p.nr || panels == 1 {
        return call(cx, last_cols);
    }
    let is_last = Expr::bin(BinOp::Eq, panel.clone(), Expr::Int(panels as i64 - 1));
    if let Expr::Int(_) = panel {
        return call(cx, p.nr);
    }
    cx.if_(is_last, |cx| call(cx, last_cols), |cx| call(cx, p.nr));
}

/// What a tile has beside its product.
#[derive(Clone, Default)]
pub(super) struct More {
    /// Where lines that are fetched ahead are counted from.
    pub next: Option<(BufId, Expr)>,
    /// The steps of a list.
    pub steps: Option<Steps>,
    /// What is taken from B, and where the difference is kept.
    pub less: Option<(Less, (BufId, Expr))>,
}

/// The tile at a point, `mr` rows by `cols` columns.
pub(super) fn tile_call(cx: &mut LowerCx, p: &Product, (mr, cols): (u32, u32), at: &Point, more: More) {
    let mut ptrs = vec![(p.a.0, at.a.clone()), (p.b.0, at.b.clone()), (p.c.0, at.c.clone())];
    ptrs.extend(p.bias.map(|(bias, _)| (bias, at.bias.clone())));
    ptrs.extend(p.operands.iter().zip(&at.operands).map(|(o, e)| (o.buf, e.clone())));
    if let (Some(at), Some((buf, next))) = (&at.ahead.at, more.next) {
        ptrs.push((buf, next.add(at.clone())));
    }
    ptrs.extend(p.table.map(|table| (table, Expr::Int(0))));
    ptrs.extend(more.steps.iter().map(|s| s.offsets.clone()));
    let less = more.less.map(|(less, kept)| {
        ptrs.push(kept);
        less
    });
    let streams = if mr == 1 { cx.target.row_streams } else { 1 };
    let kernel = TileKernel { streams, ahead: at.ahead.lines, less, ..tile(p, mr, cols) };
    cx.push(Stmt::Call(Kernel::Tile(kernel), ptrs, more.steps.into_iter().map(|s| s.count).collect()));
}

/// A nest of k over elements of a type, as its kernel has it: in steps and bytes.
pub(super) fn byte_nest(nest: &[(u64, i64)], dtype: DType) -> Vec<(u32, i64)> {
    let group = k_group(dtype) as i64;
    let mut nest: Vec<(u32, i64)> = nest.iter().map(|(n, s)| (*n as u32, s * dtype.bytes() as i64)).collect();
    if let Some((n, step)) = nest.last_mut() {
        *n = n.div_ceil(group as u32);
        *step *= group;
    }
    nest
}

pub(super) fn tile(p: &Product, mr: u32, cols: u32) -> TileKernel {
    let a_bytes = p.a.1.bytes() as i64;
    TileKernel {
        a_dtype: p.a.1,
        b_dtype: p.b.1,
        short: p.short,
        mr,
        nr: p.nr,
        cols,
        a_row: p.a_row * a_bytes,
        nest: byte_nest(&p.nest, p.a.1),
        open_k: p.open_k.is_some(),
        list: p.list.is_some(),
        c_row: p.c_row * p.c.1.bytes() as i64,
        c_dtype: p.c.1,
        accumulate: false,
        bias: p.bias.is_some(),
        epilogue: p.epilogue.clone(),
        operands: p
            .operands
            .iter()
            .map(|o| {
                let row = o.row * o.dtype.bytes() as i64;
                EpilogueOperand { dtype: o.dtype, row, per_column: o.per_column, values: o.values }
            })
            .collect(),
        streams: 1,
        ahead: 0,
        less: None,
    }
}

/// The epilogue of a kernel operator: its program (identity without one) and the operands after the operator's own `own` inputs.
pub fn epilogue(cx: &LowerCx, own: usize, dtype: DType) -> (ScalarProgram, Vec<Arg>) {
    let program = super::epilogue::program(cx.attrs, dtype);
    (program, cx.inputs.iter().skip(own).flatten().cloned().collect())
}

/// Strides of an operand broadcast to `shape`, in elements. Open extents are never 1 while those of `shape` are not.
pub fn broadcast_strides(arg: &Arg, shape: &[u64]) -> Vec<i64> {
    let lead = shape.len() - arg.view.shape.len();
    (0..shape.len()).map(|d| if d < lead || arg.view.shape[d - lead] == 1 { 0 } else { arg.view.strides[d - lead] }).collect()
}
