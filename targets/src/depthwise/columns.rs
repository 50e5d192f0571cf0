//! Depthwise convolution of bytes by dot products: the rows of a column of taps are the terms of one product.
//!
//! The bytes of a column are brought together once for all outputs that read it. As many columns as the kernel is wide are in registers; a new one takes
//! the place of the one that is not needed any more, so that code for one output after the other, as many as there are columns, is a round of a loop.

use onnxc_ir::DType;
use onnxc_ir::kernel::{DepthwiseKernel, PAIRED};

use super::strip::Strip;
use super::{Held, Place, Ptrs, Row, Together};
use crate::emitter::{Dot, Emitter, Lanes, Mem, Opd, Order, Ty, V, alloc_many};
use crate::error::Error;

/// Emits the kernel. `careful`: weights stay in memory.
pub(super) fn emit(e: &mut dyn Emitter, k: &DepthwiseKernel, careful: bool) -> Result<(), Error> {
    let prepared = crate::epilogue::prepare(&k.epilogue, &k.operands, k.y_dtype, e);
    let together = Together::new(&prepared.program, &k.operands, e.has_lesser());
    let row = Row { k, prepared: &prepared, together: &together, careful, ty: Ty::I32, acc: DType::I32 };
    let window = Window::of(k, e.columns())?;
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
            // Weights are one byte for each of four rows and each column, where `next_group` counts on 32 bits a channel.
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
}

/// Columns, each of one operand, that stay in registers.
const MOST_COLUMNS: usize = 3;

impl Window {
    fn of(k: &DepthwiseKernel, group: u32) -> Result<Window, Error> {
        let columns = k.columns as usize;
        let step = if columns > 1 { k.taps[1] - k.taps[0] } else { k.x_step };
        let rows: Vec<i64> = k.taps.iter().step_by(columns).copied().collect();
        let grid = || rows.iter().flat_map(|r| (0..columns as i64).map(move |c| r + c * step));
        let stride = if step > 0 { k.x_step / step } else { 0 };
        let one_more = !k.below || rows.len() < 4 && k.outputs > 0;
        let fits = one_more && group > 0 && step > 0 && stride > 0 && stride <= columns as i64 && k.x_step % step == 0;
        let bytes = k.x_dtype == DType::U8 && k.channels.is_multiple_of(4);
        let paired = !k.paired || group == PAIRED && k.y_dtype.bytes() == 1 && k.y_dtype.is_int();
        if !fits || !paired || !bytes || !grid().eq(k.taps.iter().copied()) {
            return Err(Error::Internal("a depthwise kernel whose taps are no columns".to_string()));
        }
        Ok(Window { columns, rows, step, stride: stride as usize, group, copies: 1 + usize::from(k.below) })
    }

    /// Bytes of the weights of a group.
    fn bytes(&self, channels: u32) -> i64 {
        (self.copies * self.columns * self.groups()) as i64 * i64::from(channels) * 4
    }

    /// Operands that the rows of a column make.
    fn groups(&self) -> usize {
        self.rows.len().div_ceil(4)
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
        if self.columns > MOST_COLUMNS || self.groups() > 1 {
            return Strip { window: self, row, parts: &parts, channels, order }.emit(e, start);
        }
        let operand = e.dot_parts(Dot::Unsigned);
        let x = alloc_many(e, Ty::I32, self.columns * quarters * operand)?;
        let w = if row.careful { Vec::new() } else { alloc_many(e, Ty::I32, x.len())? };
        for (n, v) in w.chunks(operand).enumerate() {
            e.dot_load_b(v, self.weight(start, (0, n / quarters, 0), n % quarters, lanes), Dot::Unsigned)?;
        }
        let outputs = |rows| Outputs { window: self, row, x: &x, w: &w, parts: &parts, operand, channels, order, rows };
        let count = row.k.rows.count;
        let pairs = if self.copies > 1 && self.rows.get(1) == Some(&row.k.rows.x) { count / 2 } else { 0 };
        if pairs > 0 {
            outputs(2).along(e, start, pairs)?;
        }
        if count > 2 * pairs {
            row.move_by(e, start, 0, 2 * i64::from(pairs))?;
            outputs(1).along(e, start, count - 2 * pairs)?;
            row.move_by(e, start, 0, -2 * i64::from(pairs))?;
        }
        x.into_iter().chain(w).for_each(|v| e.free(v));
        Ok(())
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
    x: &'a [V],
    /// Weights of the first row likewise; none when they stay in memory.
    w: &'a [V],
    parts: &'a [Lanes],
    /// Registers that one operand of a dot product takes.
    operand: usize,
    channels: u32,
    order: Order,
    /// Rows of outputs that are computed from the same columns.
    rows: usize,
}

impl Outputs<'_> {
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
                    // As many as are stored together: few channels leave room for several outputs.
                    if sums.len() + self.parts.len() > row.prepared.together() {
                        row.finish(e, p, &Held::default(), self.order, &std::mem::take(&mut sums))?;
                    }
                    sums.extend(self.output(e, p, (below, o))?);
                }
            }
            row.finish(e, p, &Held::default(), self.order, &sums)
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

    /// The sums of an output.
    fn output(&self, e: &mut dyn Emitter, p: &Ptrs, (below, o): (usize, usize)) -> Result<Vec<Place>, Error> {
        let (quarters, lanes) = (self.parts.len(), e.lanes());
        let acc = alloc_many(e, Ty::I32, quarters)?;
        for (q, v) in acc.iter().enumerate() {
            match p.bias {
                Some(base) => e.load(*v, DType::I32, Mem { base, disp: 4 * q as i64 * i64::from(lanes) }, self.parts[q])?,
                None => e.copy(Ty::I32, *v, Opd::Const(0))?,
            }
        }
        for c in 0..self.window.columns {
            let x = self.place(o * self.window.stride + c);
            for (q, v) in acc.iter().enumerate() {
                let x = &x[q * self.operand..][..self.operand];
                match self.w.chunks(self.operand).nth(c * quarters + q).filter(|_| below == 0) {
                    Some(w) => e.dot(*v, x, w, Dot::Unsigned)?,
                    None => e.dot_memory(*v, x, self.window.weight(p, (below, c, 0), q, lanes), Dot::Unsigned)?,
                }
            }
        }
        let output = (below as i64, o as i64);
        let place = |(q, sum): (usize, V)| Place { sum, output, channel: q as i64 * i64::from(lanes), lanes: self.parts[q] };
        Ok(acc.into_iter().enumerate().map(place).collect())
    }
}
