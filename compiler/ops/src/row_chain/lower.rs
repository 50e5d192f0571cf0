//! Lowering of `row_chain`: bands of rows of the result, each in steps that keep what the next one needs again.

use onnxc_ir::lir::{BufId, BufKind, Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, Halo, LowerCx, Part};
use onnxc_ir::op::{Lower, OpError, OpResult, View};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attr, Attrs, DType, Tensor};

use super::{Chain, pixel, room, row_bytes};
use crate::common::nest::int;

pub(super) fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let attrs = cx.attrs;
    let chain = Chain::of(attrs)?;
    let images = cx.output(0).view.shape[0];
    let row_bytes: Vec<u64> = (0..chain.rows.last()).map(|j| held_row_bytes(&chain, j)).collect();
    let height = chain.rows.heights[chain.rows.last()];
    let room = room(cx.target.l2_bytes, chain.weight_bytes());
    let threads = i64::from(cx.target.max_threads.max(1));
    let step = chain.rows.choose(&row_bytes, room, threads).unwrap_or(height);
    let steps = chain.rows.steps(step);
    let (of_band, bands) = chain.rows.bands(step, threads);
    let per_worker = bands * images as i64 > 1 && cx.target.max_threads > 1;
    let strips = (1..chain.rows.last()).map(|j| Strip::new(cx, &chain, j, step, per_worker)).collect();
    let work = Work { chain, strips, step, steps, of_band, bands, per_worker };
    work.emit(cx, images)
}

/// Bytes of a row of value `j` as it is held.
fn held_row_bytes(chain: &Chain, j: usize) -> u64 {
    let ty = chain.body.ty(chain.value(j));
    let shape = ty.const_shape().expect("internal: a chain has known extents");
    row_bytes(ty.dtype, &shape, chain.links[j].columns)
}

/// Bytes of a word.
const WORD: i64 = 4;

/// The rows of a value between links.
struct Strip {
    buf: BufId,
    dtype: DType,
    /// The memory as units that are copied and cleared: words where rows and padding of bytes are whole ones, else elements. The buffer of units, their type,
    /// and elements in one.
    units: (BufId, DType, i64),
    /// Channels, columns.
    extents: (u64, u64),
    /// Columns of padding.
    columns: (u64, u64),
    /// Elements between pixels and between rows.
    pixel: i64,
    row: i64,
    /// Rows.
    held: i64,
    /// What padding is.
    padding: Expr,
}

impl Strip {
    fn new(cx: &mut LowerCx, chain: &Chain, j: usize, step: i64, per_worker: bool) -> Strip {
        let ty = chain.body.ty(chain.value(j));
        let shape = ty.const_shape().expect("internal: a chain has known extents");
        let columns = chain.links[j].columns;
        let pixel = pixel(ty.dtype, shape[1]) as i64;
        let row = pixel * (shape[3] + columns.0 + columns.1) as i64;
        let held = chain.rows.held(j, step);
        let buf = cx.scratch(ty.dtype, (held * row) as u64, per_worker);
        let sides = [row, columns.0 as i64 * pixel, columns.1 as i64 * pixel];
        let whole = ty.dtype.bits() == 8 && sides.iter().all(|n| n % WORD == 0);
        let units = if whole { (cx.func.buf(DType::I32, BufKind::Same(buf)), DType::I32, WORD) } else { (buf, ty.dtype, 1) };
        let zero = chain.links[j].zero.and_then(|id| chain.body.inputs.iter().position(|input| *input == id));
        let padding = match zero.map(|n| cx.input(n)) {
            None => Expr::Const(ty.dtype, 0),
            Some(zero) => match zero.constant.as_ref().and_then(Tensor::to_i64s) {
                Some(z) => int(ty.dtype, z[0]),
                None => Expr::Var(cx.let_(cx.load(&zero, &vec![Expr::Int(0); zero.view.shape.len()]))),
            },
        };
        Strip { buf, dtype: ty.dtype, units, extents: (shape[1], shape[3]), columns, pixel, row, held, padding }
    }

    /// Some rows, from the one that is number `first` in the strip.
    fn part(&self, first: i64, rows: i64) -> Arg {
        let (channels, columns) = self.extents;
        let view = View {
            shape: vec![1, channels, rows as u64, columns],
            open: Vec::new(),
            strides: vec![self.held * self.row, 1, self.row, self.pixel],
            offset: first * self.row + self.columns.0 as i64 * self.pixel,
        };
        Arg { buf: self.buf, dtype: self.dtype, view, constant: None }
    }

    /// Makes some rows padding.
    fn clear_rows(&self, cx: &mut LowerCx, first: i64, rows: i64) {
        if rows > 0 {
            cx.for_(LoopKind::Vector, (rows * self.row) as u64, |cx, i| {
                cx.push(Stmt::Store(self.buf, Expr::Int(first * self.row).add(i), self.padding.clone()));
            });
        }
    }

    /// Zeros in the columns of padding: what convolutions expect around their operand.
    fn clear_columns(&self, cx: &mut LowerCx) {
        let (buf, dtype, unit) = self.units;
        let [before, behind] = [self.columns.0, self.columns.1].map(|n| n as i64 * self.pixel / unit);
        let row = self.row / unit;
        for (first, n) in [(0, before), (row - behind, behind)].into_iter().filter(|side| side.1 > 0) {
            cx.for_(LoopKind::Serial, self.held as u64, |cx, y| {
                let start = y.times(row).add(Expr::Int(first));
                cx.for_(LoopKind::Vector, n as u64, |cx, i| cx.push(Stmt::Store(buf, start.add(i), Expr::Const(dtype, 0))));
            });
        }
    }

    /// Brings the last rows forward, by so many.
    fn keep(&self, cx: &mut LowerCx, rows: i64, by: i64) {
        let (buf, _, unit) = self.units;
        let row = self.row / unit;
        cx.for_(LoopKind::Serial, rows as u64, |cx, y| {
            let from = y.times(row).add(Expr::Int((self.held - rows) * row));
            let from = Expr::Var(cx.let_(from));
            cx.for_(LoopKind::Vector, row as u64, |cx, i| {
                let value = Expr::Load(buf, Box::new(from.clone().add(i.clone())));
                cx.push(Stmt::Store(buf, from.clone().add(Expr::Int(-by * row)).add(i), value));
            });
        });
    }
}

/// Which step it is.
#[derive(Clone)]
enum At {
    /// This one: rows that are not there are padding.
    Known(i64),
    /// One of those between the first and the last.
    Between(Expr),
}

struct Work<'g> {
    chain: Chain<'g>,
    strips: Vec<Strip>,
    /// Rows of the result that a step brings.
    step: i64,
    steps: i64,
    of_band: i64,
    bands: i64,
    per_worker: bool,
}

impl Work<'_> {
    fn emit(&self, cx: &mut LowerCx, images: u64) -> OpResult<()> {
        let mut result = Ok(());
        let kind = if self.per_worker { LoopKind::Parallel } else { LoopKind::Serial };
        cx.for_(kind, images * self.bands as u64, |cx, n| result = self.band(cx, &n));
        result
    }

    /// Band `n` of all images.
    fn band(&self, cx: &mut LowerCx, n: &Expr) -> OpResult<()> {
        self.strips.iter().for_each(|s| s.clear_columns(cx));
        let bands = Expr::Int(self.bands);
        let image = if self.bands == 1 { n.clone() } else { Expr::bin(BinOp::Div, n.clone(), bands.clone()) };
        if self.bands == 1 {
            return self.steps_of(cx, &image, &At::Known(0), self.steps);
        }
        let image = Expr::Var(cx.let_(image));
        let band = Expr::bin(BinOp::Sub, n.clone(), image.clone().times(self.bands));
        let band = Expr::Var(cx.let_(band));
        let last = (self.bands - 1) * self.of_band;
        let is = |i: i64| Expr::bin(BinOp::Eq, band.clone(), Expr::Int(i));
        let mut results = [Ok(()), Ok(()), Ok(())];
        let [first, end, between] = &mut results;
        cx.if_(
            is(0),
            |cx| *first = self.steps_of(cx, &image, &At::Known(0), self.of_band),
            |cx| {
                let mut of_last = |cx: &mut LowerCx| *end = self.steps_of(cx, &image, &At::Known(last), self.steps - last);
                if self.bands == 2 {
                    return of_last(cx);
                }
                cx.if_(is(self.bands - 1), of_last, |cx| {
                    let start = Expr::Var(cx.let_(band.clone().times(self.of_band)));
                    *between = self.steps_of(cx, &image, &At::Between(start), self.of_band);
                });
            },
        );
        results.into_iter().collect()
    }

    /// So many steps, beginning anew with the first of them.
    fn steps_of(&self, cx: &mut LowerCx, image: &Expr, first: &At, n: i64) -> OpResult<()> {
        self.one(cx, image, first, true)?;
        let ends = matches!(first, At::Known(t) if t + n == self.steps) && n > 1;
        let alike = n - 1 - i64::from(ends);
        let mut result = Ok(());
        if alike > 0 {
            cx.for_(LoopKind::Serial, alike as u64, |cx, i| {
                let start = match first {
                    At::Known(t) => Expr::Int(*t),
                    At::Between(t) => t.clone(),
                };
                let at = Expr::Var(cx.let_(start.add(Expr::Int(1)).add(i)));
                result = self.one(cx, image, &At::Between(at), false);
            });
        }
        result?;
        if ends { self.one(cx, image, &At::Known(self.steps - 1), false) } else { Ok(()) }
    }

    /// One step; `anew`: nothing was kept.
    fn one(&self, cx: &mut LowerCx, image: &Expr, at: &At, anew: bool) -> OpResult<()> {
        let rows = &self.chain.rows;
        // Steps that are not known are counted from their own first row.
        let first = if let At::Known(t) = at { t * self.step } else { 0 };
        let height = rows.heights[rows.last()];
        let behind = first + self.step;
        let behind = if matches!(at, At::Known(_)) { behind.min(height) } else { behind };
        if !anew {
            for (j, strip) in (1..).zip(&self.strips).filter(|(j, _)| rows.kept(*j) > 0) {
                strip.keep(cx, rows.kept(j), rows.fresh(j, self.step));
            }
        }
        for i in 0..rows.last() {
            let j = i + 1;
            let range = (if anew { rows.start(j, first) } else { rows.end(j, first) }, rows.end(j, behind));
            // The number in the strip of row 0.
            let zero = |j: usize| self.strips[j - 1].held - rows.end(j, first + self.step);
            let mut real = range;
            if let At::Known(_) = at {
                real = (range.0.max(0), range.1.min(rows.heights[j]));
                if j < rows.last() {
                    let strip = &self.strips[j - 1];
                    strip.clear_rows(cx, range.0 + zero(j), real.0.min(real.1) - range.0);
                    strip.clear_rows(cx, real.1.max(real.0) + zero(j), range.1 - real.1.max(real.0));
                }
            }
            if real.0 < real.1 {
                self.link(cx, i, real, (image, at), &zero)?;
            }
        }
        Ok(())
    }

    /// Rows `from..to` of the result of link `i`.
    fn link(
        &self,
        cx: &mut LowerCx,
        i: usize,
        (from, to): (i64, i64),
        (image, at): (&Expr, &At),
        zero: &dyn Fn(usize) -> i64,
    ) -> OpResult<()> {
        let (chain, rows) = (&self.chain, &self.chain.rows);
        let (node, link, w) = (&chain.body.nodes[i], &chain.links[i], rows.windows[i]);
        let needed = (from * w.step - w.before, (to - 1) * w.step - w.before + w.span);
        let mut moved = Vec::new();
        // Where an argument of the chain is, in this image and step, of which every row of the result takes so many.
        let mut place = |arg: &Arg, images: i64, rows_of_step: i64, stride: i64| {
            let mut by = image.clone().times(if images > 1 { arg.view.strides[0] } else { 0 });
            if let At::Between(t) = at {
                by = by.add(t.clone().times(rows_of_step * stride));
            }
            if by != Expr::Int(0) && !moved.iter().any(|(buf, _)| *buf == arg.buf) {
                moved.push((arg.buf, by));
            }
        };
        let (x, pads) = if i == 0 {
            let x = cx.input(0);
            let known = matches!(at, At::Known(_));
            let inside = if known { (needed.0.max(0), needed.1.min(rows.heights[0])) } else { needed };
            place(&x, x.view.shape[0] as i64, rows.fresh(0, self.step), x.view.strides[2]);
            (some_rows(&x, 2, inside), (inside.0 - needed.0, needed.1 - inside.1))
        } else {
            (self.strips[i - 1].part(needed.0 + zero(i), needed.1 - needed.0), (0, 0))
        };
        let y = if i + 1 == rows.last() {
            let y = cx.output(0);
            place(&y, y.view.shape[0] as i64, self.step, y.view.strides[2]);
            some_rows(&y, 2, (from, to))
        } else {
            self.strips[i].part(from + zero(i + 1), to - from)
        };
        let mut inputs = vec![Some(x)];
        for id in &node.inputs[1..] {
            inputs.push(id.map(|id| {
                let n = chain.body.inputs.iter().position(|input| *input == id);
                let n = n.expect("internal: operands of links are inputs of the body");
                let arg = cx.input(n);
                let shape = &arg.view.shape;
                let rank = shape.len();
                // Operands of the epilogue that differ from row to row, or from image to image.
                let images = if rank == 4 { shape[0] } else { 1 };
                let per_row = rank >= 2 && shape[rank - 2] > 1;
                if id == link.weights || images == 1 && !per_row {
                    return arg;
                }
                let stride = if per_row { arg.view.strides[rank - 2] } else { 0 };
                place(&arg, images as i64, rows.fresh(i + 1, self.step), stride);
                if per_row { some_rows(&arg, rank - 2, (from, to)) } else { one_image(arg) }
            }));
        }
        let around = Halo { around: vec![(0, 0), (0, 0), (0, 0), link.columns], fill: 0 };
        let mut halos = vec![Halo::default(); inputs.len()];
        halos[0] = if i == 0 { cx.halos[0].clone() } else { around };
        let attrs = with_pads(&node.attrs, link.columns, pads);
        let part = Part { attrs: &attrs, inputs, halos, outputs: vec![y] };
        match node.op.lower {
            Lower::Nest(lower) | Lower::OpenNest(lower) => cx.nested(part, &moved, self.per_worker, lower),
            _ => Err(OpError::new(format!("{} has no loops of its own", node.op.name))),
        }
    }
}

/// Rows `from..to` of the first image, rows being dimension `d`.
fn some_rows(arg: &Arg, d: usize, (from, to): (i64, i64)) -> Arg {
    let mut part = one_image(arg.clone());
    part.view.offset += from * part.view.strides[d];
    part.view.shape[d] = (to - from) as u64;
    part
}

fn one_image(mut arg: Arg) -> Arg {
    if arg.view.shape.len() == 4 {
        arg.view.shape[0] = 1;
    }
    arg.constant = None;
    arg
}

/// The attributes of a link that finds so many columns and rows of padding.
fn with_pads(attrs: &Attrs, columns: (u64, u64), rows: (i64, i64)) -> Attrs {
    let pads = vec![rows.0, columns.0 as i64, rows.1, columns.1 as i64];
    attrs.clone().with("pads", Attr::Ints(pads))
}
