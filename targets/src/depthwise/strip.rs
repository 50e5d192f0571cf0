//! Depthwise convolution of bytes by dot products for windows that do not fit in registers: some neighbouring outputs at a time.
//!
//! The sums of these outputs stay in registers while the columns of x go by, each once; a column of more than four rows is several operands.

use onnxc_ir::DType;

use super::columns::Window;
use super::{Held, Place, Ptrs, Row};
use crate::emitter::{Dot, Emitter, Lanes, Mem, Opd, Order, Ty, V, alloc_many};
use crate::error::Error;

/// Registers that columns of bytes need to be brought together, and dot products for their weights.
const COLUMN: usize = 6;
/// The same beside the operands of words.
const BESIDE: usize = 2;
/// Outputs at the same time, at most.
const MOST: usize = 6;

/// Outputs of some channels.
pub(super) struct Strip<'a> {
    pub window: &'a Window,
    pub row: &'a Row<'a>,
    /// The lanes of each vector of channels.
    pub parts: &'a [Lanes],
    pub channels: u32,
    pub order: Order,
}

impl Strip<'_> {
    /// All outputs of these channels.
    pub fn emit(&self, e: &mut dyn Emitter, start: &Ptrs) -> Result<(), Error> {
        let widths = self.widths(e.available());
        let rows = (self.row.k.rows.count, 1);
        self.row.along(e, start, rows, &widths, &mut |_, _| Ok(()), &mut |e, p, i, _| self.outputs(e, p, widths[i]))
    }

    /// How many outputs go together, as long as there are so many, then fewer: parts of equal size where their number is known.
    fn widths(&self, registers: usize) -> Vec<usize> {
        let column = if self.window.dot == Dot::Words { self.window.groups() + BESIDE } else { COLUMN };
        let most = if self.row.careful { 1 } else { (registers.saturating_sub(column) / self.parts.len()).clamp(1, MOST) };
        let n = self.row.k.outputs as usize;
        if n == 0 {
            return std::iter::successors(Some(most), |n| Some(n / 2).filter(|n| *n > 0)).collect();
        }
        let width = n.div_ceil(n.div_ceil(most));
        [width, n % width].into_iter().filter(|w| *w > 0).collect()
    }

    fn outputs(&self, e: &mut dyn Emitter, p: &Ptrs, width: usize) -> Result<(), Error> {
        let (quarters, lanes) = (self.parts.len(), i64::from(e.lanes()));
        let acc = alloc_many(e, Ty::I32, width * quarters)?;
        for (n, v) in acc.iter().enumerate() {
            let q = n % quarters;
            match (p.bias, n >= quarters) {
                (None, _) => e.copy(Ty::I32, *v, Opd::Const(0))?,
                (_, true) => e.copy(Ty::I32, *v, Opd::Reg(acc[q]))?,
                (Some(base), _) => e.load(*v, DType::I32, Mem { base, disp: 4 * q as i64 * lanes }, self.parts[q])?,
            }
        }
        // Those of words are there at once.
        let operand = if self.window.dot == Dot::Words { self.window.groups() } else { 1 };
        let x = alloc_many(e, Ty::I32, quarters * operand)?;
        for column in 0..(width - 1) * self.window.stride + self.window.columns {
            self.column(e, p, column, &x, &acc)?;
        }
        x.into_iter().for_each(|v| e.free(v));
        let place = |(n, sum): (usize, V)| {
            let q = n % quarters;
            Place { sum, output: (0, (n / quarters) as i64), channel: q as i64 * lanes, lanes: self.parts[q] }
        };
        let places: Vec<Place> = acc.into_iter().enumerate().map(place).collect();
        // Vectors of one output are side by side in memory.
        places.chunks(quarters).try_for_each(|some| self.row.finish(e, p, &Held::default(), self.order, some))
    }

    /// What a column of x adds to all outputs whose window it is in.
    fn column(&self, e: &mut dyn Emitter, p: &Ptrs, column: usize, x: &[V], acc: &[V]) -> Result<(), Error> {
        let (w, quarters) = (self.window, self.parts.len());
        let operand = x.len() / quarters;
        for (group, rows) in w.rows.chunks(w.together * operand).enumerate() {
            let at = |r: &i64| Mem { base: p.x, disp: r + column as i64 * w.step };
            e.load_columns(x, &rows.iter().map(at).collect::<Vec<_>>(), self.channels, self.order)?;
            for (o, sums) in acc.chunks(quarters).enumerate() {
                let Some(tap) = column.checked_sub(o * w.stride).filter(|tap| *tap < w.columns) else { continue };
                for (q, sum) in sums.iter().enumerate() {
                    for (g, x) in x[q * operand..][..operand].iter().enumerate() {
                        e.dot_memory(*sum, &[*x], w.weight(p, (0, tap, group + g), q, e.lanes()), w.dot)?;
                    }
                }
            }
        }
        Ok(())
    }
}
