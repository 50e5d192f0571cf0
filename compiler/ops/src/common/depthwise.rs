//! Loops around the depthwise kernel, which convolutions of floats and of bytes have in common.
//!
//! A call computes a block of rows, one group of channels after the other: neighbouring rows share most of what their windows read, and of one group that
//! stays in the first-level cache, where it would not of all channels. The rows of a block stay in the second-level cache, so that the groups behind the first
//! one find them there.

use onnxc_ir::kernel::{DepthwiseKernel, Kernel, OutputRows};
use onnxc_ir::lir::{BufId, Expr, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, View};
use onnxc_ir::scalar::BinOp;

use super::tile::Dimension;

/// All outputs of a convolution with one filter for each channel. Steps of dimensions are those of `x`, `y` and `operands` in elements.
pub(crate) struct Depthwise<'a> {
    /// The kernel of one row; its steps from row to row are set here.
    pub kernel: DepthwiseKernel,
    /// The dimensions around the row.
    pub outer: &'a [Dimension],
    /// Outputs of a row.
    pub n: Extent,
    pub x: &'a Arg,
    /// The weights and the first of them.
    pub w: (BufId, i64),
    pub y: &'a Arg,
    /// The bias and its first element.
    pub bias: Option<(BufId, i64)>,
    pub operands: &'a [Arg],
}

/// Blocks of rows that each thread gets, so that one that is late leaves less to wait for.
const BLOCKS: u64 = 2;
/// Bytes of a line of the caches.
const LINE: u64 = 64;

impl Depthwise<'_> {
    /// Emits the loops.
    pub fn emit(mut self, cx: &mut LowerCx) {
        let mut shape: Vec<Extent> = self.outer.iter().map(|d| d.0.clone()).collect();
        let rows = self.rows_of_block(cx, &shape);
        let (mut full, mut rest) = (0, 0);
        if let (Some(last), Some((n, x, y, operands))) = (shape.last_mut(), self.outer.last()) {
            (full, rest) = (n.bound / rows, n.bound % rows);
            if rows > 1 {
                *last = n.bound.div_ceil(rows).into();
            }
            let bytes = |buf: &Arg, step: i64| step * buf.dtype.bytes() as i64;
            self.kernel.rows = OutputRows {
                count: rows as u32,
                x: bytes(self.x, *x),
                y: bytes(self.y, *y),
                operands: self.operands.iter().zip(operands).map(|(o, step)| bytes(o, *step)).collect(),
            };
        }
        let bounds: Vec<u64> = shape.iter().map(|n| n.bound).collect();
        cx.for_rows(&shape, &View::contiguous(&bounds).strides, |cx, at| {
            if rows == 1 || rest == 0 {
                return self.call(cx, at, rows, rows);
            }
            let block = at[at.len() - 1].clone();
            let is_full = Expr::bin(BinOp::Lt, block, Expr::Int(full as i64));
            cx.if_(is_full, |cx| self.call(cx, at, rows, rows), |cx| self.call(cx, at, rows, rest));
        });
    }

    /// Rows of the last dimension around that a call takes: as many as have room, in blocks of equal size.
    fn rows_of_block(&self, cx: &LowerCx, shape: &[Extent]) -> u64 {
        let Some(((rows, x, y, _), around)) = self.outer.split_last() else { return 1 };
        if self.kernel.outputs == 0 || rows.open.is_some() || rows.bound <= 1 {
            return 1;
        }
        let row = x.unsigned_abs() * self.x.dtype.bytes() + y.unsigned_abs() * self.y.dtype.bytes();
        let mut most = cx.target.l2_bytes / 2 / row.max(1);
        let k = &self.kernel;
        let group = u64::from(if k.columns > 0 { cx.target.depthwise_columns } else { cx.target.lanes }) * k.x_dtype.bytes();
        if group < LINE {
            // The next group finds the rest of the lines near only if there are few.
            let pixel = u64::from(k.channels) * k.x_dtype.bytes();
            most = most.min(cx.target.l1_bytes / 2 / (row * LINE / pixel.max(LINE)).max(1));
        }
        most = most.clamp(1, rows.bound);
        // Nothing else is divided among threads.
        if cx.target.max_threads > 1 && cx.at_top_level() && shape[..around.len()].iter().all(Extent::is_one) {
            most = most.min(rows.bound.div_ceil(BLOCKS * u64::from(cx.target.max_threads)));
        }
        rows.bound.div_ceil(rows.bound.div_ceil(most))
    }

    /// A call for `count` rows; blocks are `rows` rows apart.
    fn call(&self, cx: &mut LowerCx, at: &[Expr], rows: u64, count: u64) {
        let last = at.len().wrapping_sub(1);
        let sum = |start: i64, step: &dyn Fn(&Dimension) -> i64| {
            let by = |d: usize| step(&self.outer[d]) * if d == last { rows as i64 } else { 1 };
            at.iter().enumerate().fold(Expr::Int(start), |e, (d, i)| e.add(i.clone().times(by(d))))
        };
        let mut ptrs = vec![(self.x.buf, sum(self.x.view.offset, &|d| d.1)), (self.w.0, Expr::Int(self.w.1))];
        ptrs.push((self.y.buf, sum(self.y.view.offset, &|d| d.2)));
        ptrs.extend(self.bias.map(|(b, at)| (b, Expr::Int(at))));
        ptrs.extend(self.operands.iter().enumerate().map(|(n, o)| (o.buf, sum(o.view.offset, &|d| d.3[n]))));
        let ints = if self.kernel.outputs == 0 { vec![cx.count(&self.n)] } else { Vec::new() };
        let mut kernel = self.kernel.clone();
        kernel.rows.count = count as u32;
        cx.push(Stmt::Call(Kernel::Depthwise(kernel), ptrs, ints));
    }
}
