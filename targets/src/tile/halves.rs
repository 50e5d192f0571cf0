//! Tiles whose products take no longer than their epilogues.

use super::{Epilogue, Place, Tile};
use crate::emitter::{Emitter, Mem, P};
use crate::epilogue::Prepared;
use crate::error::Error;
use crate::program::{Val, load_operand};

/// Steps of k that are few.
const SHORT_K: i64 = 12;
/// Sums that hide the latency of a product.
const LEAST: i64 = 10;
/// Registers that an epilogue needs beside its accumulators and operands, at least.
const OTHERS: usize = 3;

impl Tile<'_> {
    /// Rows that are computed at the same time. A core sees only so many instructions at once: where an epilogue has about as many as there are products, the
    /// products of a tile's second half can go beside the epilogue of the first one, but not those of the next tile beside that of a whole one.
    pub(super) fn rows_at_once(&self, prepared: &Prepared) -> i64 {
        let rows = i64::from(self.k.mr);
        let steps: i64 = self.k.nest.iter().map(|l| i64::from(l.0)).product();
        let unknown = self.k.open_k || self.k.list;
        let short = prepared.together() > 1 && !unknown && self.k.ahead == 0 && steps <= SHORT_K;
        if short && rows * self.used >= 2 * LEAST { (rows + 1) / 2 } else { rows }
    }

    /// Keeps in registers what the epilogues of some vectors have in common, once there is room: accumulators of rows that are stored leave theirs.
    pub(super) fn hold(&self, e: &mut dyn Emitter, epilogue: &mut Epilogue, ops: &[P], left: &[Place]) -> Result<(), Error> {
        if left.first().map(|p| p.1) == left.last().map(|p| p.1) {
            return Ok(());
        }
        let operands = self.k.operands.iter().enumerate().filter(|(_, o)| o.row == 0);
        let wanted: Vec<(usize, usize)> = operands.map(|(n, o)| (n, if o.per_column { self.used as usize } else { 1 })).collect();
        let others = epilogue.together.beside(wanted.len()).max(OTHERS);
        epilogue.held.load_operands(e, &wanted, others, &mut |e, n, j| self.operand(e, ops, n, (0, j as i64)))?;
        e.hold_order(others)
    }

    /// Operand `n` of the epilogue of a vector: row and number in the row.
    pub(super) fn operand(&self, e: &mut dyn Emitter, ops: &[P], n: usize, (i, j): (i64, i64)) -> Result<Val, Error> {
        let operand = &self.k.operands[n];
        let column = if operand.per_column { j * self.lanes * operand.dtype.bytes() as i64 } else { 0 };
        let at = Mem { base: ops[n], disp: i * operand.row + column };
        load_operand(e, operand.dtype, at, operand.per_column, self.lanes_of(j))
    }
}
