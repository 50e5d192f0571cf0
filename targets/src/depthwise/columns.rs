//! Depthwise convolution of bytes by dot products: the rows of a column of taps are the terms of one product.
//!
//! The bytes of a column are brought together once for all outputs that read it. As many columns as the kernel is wide are in registers; a new one takes
//! the place of the one that is not needed any more, so that code for one output after the other, as many as there are columns, is a round of a loop.

use onnxc_ir::DType;
use onnxc_ir::kernel::{DepthwiseKernel, PAIRED, rows_of_operand};

use super::strip::Strip;
use super::{Held, Place, Ptrs, Row, Together};
use crate::emitter::{Dot, Emitter, Lanes, Mem, Opd, Order, Ty, V, alloc_many};
use crate::error::Error;

/// Emits the kernel. `careful`: weights stay in memory.
pub(super) fn emit(e: &mut dyn Emitter, k: &DepthwiseKernel, careful: bool) -> Result<(), Error> {
    let prepared = crate::epilogue::prepare(&k.epilogue, &k.operands, k.y_dtype, e);
    let together = Together::new(&prepared.program, &k.operands, e.has_lesser());
    let row = Row { k, prepared: &prepared, together: &together, careful, ty: Ty::I32, acc: DType::I32 };
    let window = Window::of(k, e)?;
    let at_once = e.columns();
    let (full, rest) = (k.channels / at_once, k.channels % at_once);
    if k.paired && prepared.together() == 1 {
        return Err(Error::Internal("columns in the order of pairs, but results that no pack brings back".to_string()));
    }
    let ptrs = row.pointers(e)?;
    if full > 0 {
        let block = if full > 1 { Some(e.repeat(u64::from(full))?) } else { None };
        window.group(e, &row, &ptrs, at_once)?;
        if full > 1 || rest > 0 {
            row.next_group(e, &ptrs, i64::from(at_once))?;
            // Each operand has 32 bits a channel, where `next_group` counts on one of them.
            e.advance(ptrs.w, window.bytes(at_once) - 4 * i64::from(at_once))?;
        }
        if let Some(block) = block {
            e.end(block)?;
        }
    }
    if rest > 0 { window.group(e, &row, &ptrs, rest) } else { Ok(()) }
}

/// The window over x, in columns.
pub(super) struct Window {
    pub columns: usize,
    pub rows: Vec<i64>,
    /// Bytes between columns, columns between outputs.
    pub step: i64,
    pub stride: usize,
    /// Channels for which weights are packed together.
    group: u32,
    /// Weights for as many neighbouring rows of outputs.
    copies: usize,
    /// Rows that an operand of a product has.
    pub together: usize,
    /// What is multiplied.
    pub dot: Dot,
}

/// Columns, of so many rows, that stay in registers.
const MOST: (usize, usize) = (3, 4);

impl Window {
    fn of(k: &DepthwiseKernel, e: &dyn Emitter) -> Result<Window, Error> {
        let group = e.columns();
        let columns = k.columns as usize;
        let step = if columns > 1 { k.taps[1] - k.taps[0] } else { k.x_step };
        let rows: Vec<i64> = k.taps.iter().step_by(columns).copied().collect();
        let grid = || rows.iter().flat_map(|r| (0..columns as i64).map(move |c| r + c * step));
        let stride = if step > 0 { k.x_step / step } else { 0 };
        let one_more = !k.below || rows.len() < 4 && k.outputs > 0;
        let fits = one_more && group > 0 && step > 0 && stride > 0 && stride <= columns as i64 && k.x_step % step == 0;
        let bytes = k.x_dtype == DType::U8 && k.channels.is_multiple_of(4);
        // Where bytes would be two operands, words are what is multiplied.
        let words = k.words == (e.dot_parts(Dot::Unsigned) > 1) && (!k.words || !k.below);
        let paired = !k.paired || group == PAIRED && k.y_dtype.bytes() == 1 && k.y_dtype.is_int();
        if !fits || !words || !paired || !bytes || !grid().eq(k.taps.iter().copied()) {
            return Err(Error::Internal("a depthwise kernel whose taps are no columns".to_string()));
        }
        let (copies, dot) = (1 + usize::from(k.below), if k.words { Dot::Words } else { Dot::Unsigned });
        Ok(Window { columns, rows, step, stride: stride as usize, group, copies, together: rows_of_operand(k.words), dot })
    }

    /// Bytes of the weights of a group.
    fn bytes(&self, channels: u32) -> i64 {
        (self.copies * self.columns * self.groups()) as i64 * i64::from(channels) * 4
    }

    /// Operands that the rows of a column make.
    pub fn groups(&self) -> usize {
        self.rows.len().div_ceil(self.together)
    }

    /// All outputs of some channels.
    fn group(&self, e: &mut dyn Emitter, row: &Row, start: &Ptrs, channels: u32) -> Result<(), Error> {
        let lanes = e.lanes();
        let quarters = channels.div_ceil(lanes) as usize;
        let part = |q: usize| {
            let left = channels - q as u32 * lanes;
            if left >= lanes { Lanes::All } else { Lanes::First(left) }
        };
        let parts: Vec<Lanes> = (0..quarters).map(part).collect();
        let order = if row.k.paired && channels == e.columns() { Order::Paired } else { Order::Natural };
        if self.columns > MOST.0 || self.rows.len() > MOST.1 {
            return Strip { window: self, row, parts: &parts, channels, order }.emit(e, start);
        }
        let operand = self.groups();
        let x = alloc_many(e, Ty::I32, self.columns * quarters * operand)?;
        let count = row.k.rows.count;
        let pairs = if self.copies > 1 && self.rows.get(1) == Some(&row.k.rows.x) { count / 2 } else { 0 };
        let w = if row.careful { Vec::new() } else { self.weights(e, start, (0, x.len()), quarters)? };
        let mut outputs =
            Outputs { window: self, row, x, w, parts: &parts, operand, channels, order, rows: 1, held: Resident::default() };
        if !row.careful {
            outputs.hold(e, start, pairs > 0)?;
        }
        if pairs > 0 {
            outputs.rows = 2;
            outputs.along(e, start, pairs)?;
        }
        if count > 2 * pairs {
            row.move_by(e, start, 0, 2 * i64::from(pairs))?;
            outputs.rows = 1;
            outputs.along(e, start, count - 2 * pairs)?;
            row.move_by(e, start, 0, -2 * i64::from(pairs))?;
        }
        outputs.free(e);
        Ok(())
    }

    /// Weights of outputs of a row in as many registers.
    fn weights(&self, e: &mut dyn Emitter, p: &Ptrs, (row, registers): (usize, usize), quarters: usize) -> Result<Vec<V>, Error> {
        let (lanes, groups) = (e.lanes(), self.groups());
        let w = alloc_many(e, Ty::I32, registers)?;
        for (n, v) in w.iter().enumerate() {
            let (of, group) = (n / groups, n % groups);
            e.dot_load_b(&[*v], self.weight(p, (row, of / quarters, group), of % quarters, lanes), self.dot)?;
        }
        Ok(w)
    }

    /// Where the weights of an output's row, a column, a group of its rows and a vector of channels are.
    pub fn weight(&self, p: &Ptrs, (row, column, group): (usize, usize, usize), quarter: usize, lanes: u32) -> Mem {
        let operand = ((row * self.columns + column) * self.groups() + group) as i64;
        Mem { base: p.w, disp: 4 * (operand * i64::from(self.group) + quarter as i64 * i64::from(lanes)) }
    }
}

/// Outputs of some channels.
struct Outputs<'a> {
    window: &'a Window,
    row: &'a Row<'a>,
    /// Columns of x, each in as many registers as there are parts of the channels; column c is in place c modulo their number.
    x: Vec<V>,
    /// Weights of the first row likewise; none when they stay in memory.
    w: Vec<V>,
    parts: &'a [Lanes],
    /// Operands of the rows of a column.
    operand: usize,
    channels: u32,
    order: Order,
    /// Rows of outputs that are computed from the same columns.
    rows: usize,
    held: Resident,
}

/// What there is room for in registers beside the columns and their weights.
#[derive(Default)]
struct Resident {
    operands: Held,
    bias: Vec<V>,
    /// Weights of the second row.
    below: Vec<V>,
}

/// Registers that rows of a column are brought together in.
const ROWS: usize = 6;

impl Outputs<'_> {
    /// Puts in registers what there is room for, what saves most loads first.
    fn hold(&mut self, e: &mut dyn Emitter, p: &Ptrs, pairs: bool) -> Result<(), Error> {
        let (k, quarters, lanes) = (self.row.k, self.parts.len(), i64::from(e.lanes()));
        let operands = k.operands.iter().zip(&k.rows.operands).enumerate().filter(|(_, (o, row))| o.row == 0 && **row == 0);
        let wanted: Vec<(usize, usize)> = operands.map(|(n, (o, _))| (n, if o.per_column { quarters } else { 1 })).collect();
        // Sums that wait to be stored together with others, and what is computed meanwhile.
        let together = self.row.prepared.together().max(quarters);
        let waiting = together - quarters;
        let others =
            (waiting + ROWS.saturating_sub(quarters)).max(together.saturating_add(self.row.together.beside(wanted.len())));
        if self.order == Order::Natural {
            e.hold_order(others)?;
        }
        self.held.operands.load_operands(e, &wanted, others, &mut |e, n, q| {
            let place = Place { sum: V(0), output: (0, 0), channel: q as i64 * lanes, lanes: self.parts[q] };
            self.row.operand(e, p, n, &place)
        })?;
        if p.bias.is_some() && e.available().saturating_sub(others) >= quarters {
            self.held.bias = alloc_many(e, Ty::I32, quarters)?;
            self.begin(e, p, &self.held.bias)?;
        }
        if pairs && e.available().saturating_sub(others) >= self.w.len() {
            self.held.below = self.window.weights(e, p, (1, self.w.len()), quarters)?;
        }
        Ok(())
    }

    /// Gives all registers back.
    fn free(self, e: &mut dyn Emitter) {
        self.held.operands.free(e);
        e.drop_order();
        [self.x, self.w, self.held.bias, self.held.below].into_iter().flatten().for_each(|v| e.free(v));
    }

    /// Goes along as many rows, or pairs of rows.
    fn along(&self, e: &mut dyn Emitter, start: &Ptrs, times: u32) -> Result<(), Error> {
        let (w, row) = (self.window, self.row);
        // The columns that the first output shares with none before it are loaded by it.
        let shared = w.columns - w.stride;
        let widths = [w.columns, 1];
        row.along(e, start, (times, self.rows as i64), &widths, &mut |e, p| self.load(e, p, 0..shared), &mut |e, p, i, _| {
            let mut sums: Vec<Place> = Vec::new();
            for o in 0..widths[i] {
                let fresh = if i == 0 { o * w.stride + shared } else { 0 };
                self.load(e, p, fresh..o * w.stride + w.columns)?;
                for below in 0..self.rows {
                    sums.extend(self.output(e, p, (below, o))?);
                    // As many as are stored together: few channels leave room for several outputs.
                    if sums.len() + self.parts.len() > row.prepared.together() {
                        row.finish(e, p, &self.held.operands, self.order, &std::mem::take(&mut sums))?;
                    }
                }
            }
            row.finish(e, p, &self.held.operands, self.order, &sums)
        })
    }

    fn place(&self, column: usize) -> &[V] {
        let n = self.parts.len() * self.operand;
        &self.x[column % self.window.columns * n..][..n]
    }

    /// Loads columns, counted from the pointer: the rows that all outputs read.
    fn load(&self, e: &mut dyn Emitter, p: &Ptrs, columns: std::ops::Range<usize>) -> Result<(), Error> {
        let last = self.window.rows.last().map(|r| r + self.row.k.rows.x);
        let rows: Vec<i64> = self.window.rows.iter().copied().chain(last.filter(|_| self.rows > 1)).collect();
        for c in columns {
            let rows = rows.iter().map(|r| Mem { base: p.x, disp: r + c as i64 * self.window.step });
            e.load_columns(self.place(c), &rows.collect::<Vec<_>>(), self.channels, self.order)?;
        }
        Ok(())
    }

    /// Sums before the first product.
    fn begin(&self, e: &mut dyn Emitter, p: &Ptrs, sums: &[V]) -> Result<(), Error> {
        let lanes = i64::from(e.lanes());
        for (q, v) in sums.iter().enumerate() {
            match (p.bias, self.held.bias.get(q)) {
                (Some(_), Some(bias)) if bias != v => e.copy(Ty::I32, *v, Opd::Reg(*bias))?,
                (Some(base), _) => e.load(*v, DType::I32, Mem { base, disp: 4 * q as i64 * lanes }, self.parts[q])?,
                (None, _) => e.copy(Ty::I32, *v, Opd::Const(0))?,
            }
        }
        Ok(())
    }

    /// The sums of an output.
    fn output(&self, e: &mut dyn Emitter, p: &Ptrs, (below, o): (usize, usize)) -> Result<Vec<Place>, Error> {
        let (quarters, lanes) = (self.parts.len(), e.lanes());
        let acc = alloc_many(e, Ty::I32, quarters)?;
        self.begin(e, p, &acc)?;
        let weights = if below == 0 { &self.w } else { &self.held.below };
        for c in 0..self.window.columns {
            let x = self.place(o * self.window.stride + c);
            for (q, v) in acc.iter().enumerate() {
                for (g, x) in x[q * self.operand..][..self.operand].iter().enumerate() {
                    match weights.get((c * quarters + q) * self.operand + g) {
                        Some(w) => e.dot(*v, &[*x], &[*w], self.window.dot)?,
                        None => e.dot_memory(*v, &[*x], self.window.weight(p, (below, c, g), q, lanes), self.window.dot)?,
                    }
                }
            }
        }
        let output = (below as i64, o as i64);
        let place = |(q, sum): (usize, V)| Place { sum, output, channel: q as i64 * i64::from(lanes), lanes: self.parts[q] };
        Ok(acc.into_iter().enumerate().map(place).collect())
    }
}
