//! Work on rows: reductions, normalisations and everything else that passes several times over the same part of a tensor.
//!
//! The dimensions of a tensor are kept ones and those of the row. [`Rows`] sorts them by stride and merges neighbours; then it has two forms of
//! loops, both with unit-stride vector loops inside: *along* the row where the densest dimension belongs to it (each pass is a vector loop with
//! reductions), and *across* rows where it is kept (one vector loop over neighbouring rows, the passes are serial loops in it).

use onnxc_ir::DType;
use onnxc_ir::lir::{Expr, LoopKind, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, Extents, View};
use onnxc_ir::scalar::BinOp;

use super::nest::{self, ExprExt, PARALLEL_ELEMENTS, over};
use super::tile::broadcast_strides;

/// Neighbouring rows that one task takes when only the vector loop is there to be split.
const CHUNK: u64 = 256;

/// A tensor seen as rows: extents, which dimensions are the row's, and operands and results as views of that shape.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// Extents after sorting and merging; the densest dimension of the first view is last.
    pub shape: Vec<Extent>,
    /// True for dimensions of the row.
    pub row: Vec<bool>,
    /// The views, in the order given.
    pub args: Vec<Arg>,
}

/// `arg` broadcast to `shape`.
pub(crate) fn spread(arg: &Arg, shape: &[u64]) -> Arg {
    let view = View { shape: shape.to_vec(), open: Vec::new(), strides: broadcast_strides(arg, shape), offset: arg.view.offset };
    Arg { view, ..arg.clone() }
}

/// The result of a reduction of `shape` over `axes` (which it keeps with extent 1, or drops) as a view of `shape` that does not move along `axes`.
pub(crate) fn spread_reduced(arg: &Arg, shape: &[u64], axes: &[usize]) -> Arg {
    if arg.view.shape.len() == shape.len() {
        let mut out = spread(arg, shape);
        axes.iter().for_each(|a| out.view.strides[*a] = 0);
        return out;
    }
    let mut kept = arg.view.strides.iter();
    let strides = (0..shape.len()).map(|d| if axes.contains(&d) { 0 } else { *kept.next().unwrap_or(&0) }).collect();
    Arg { view: View { shape: shape.to_vec(), open: Vec::new(), strides, offset: arg.view.offset }, ..arg.clone() }
}

/// Elements of rows whose positions are a table, which vector loops can read.
const MOST_POSITIONS: u64 = 1 << 20;

/// Row-major positions inside the row as a view of `shape` that does not move along kept dimensions: a constant i32 table, or for long rows i64 indices
/// themselves, behind no buffer. Read them by [`position`]. Where extents are open they ascend in row-major order, with gaps.
pub(crate) fn positions(cx: &mut LowerCx, shape: &[u64], axes: &[usize]) -> Arg {
    let n: u64 = axes.iter().map(|a| shape[*a]).fold(1, u64::saturating_mul);
    let (dtype, buf) = if n <= MOST_POSITIONS {
        (DType::I32, cx.const_buf(DType::I32, (0..n as i32).flat_map(i32::to_le_bytes).collect()))
    } else {
        (DType::I64, cx.output(0).buf)
    };
    let mut strides = vec![0i64; shape.len()];
    let mut step = 1;
    for a in axes.iter().rev() {
        strides[*a] = step;
        step *= shape[*a] as i64;
    }
    Arg { buf, dtype, view: View { shape: shape.to_vec(), open: Vec::new(), strides, offset: 0 }, constant: None }
}

/// The position at a coordinate, of the type of `positions`.
pub(crate) fn position(cx: &LowerCx, positions: &Arg, at: &[Expr]) -> Expr {
    if positions.dtype == DType::I64 { positions.index(at) } else { cx.load(positions, at) }
}

impl Rows {
    /// Rows over `axes` of `shape`, whose extents are those of the loops. Every view has that shape already; the first one decides the order of the
    /// loops.
    pub(crate) fn new<S: Extents + ?Sized>(shape: &S, axes: &[usize], args: Vec<Arg>) -> Rows {
        let shape = shape.extents();
        let stride = |arg: &Arg, d: usize| arg.view.strides[d];
        let mut order: Vec<usize> = (0..shape.len()).filter(|d| !shape[*d].is_one()).collect();
        order.sort_by_key(|d| (std::cmp::Reverse(stride(&args[0], *d).unsigned_abs()), *d));
        // Runs of dimensions that every view walks as one.
        let mut runs: Vec<(Extent, bool, Vec<i64>)> = Vec::new();
        for d in order {
            let strides: Vec<i64> = args.iter().map(|a| stride(a, d)).collect();
            let row = axes.contains(&d);
            match runs.last_mut() {
                Some((n, r, outer))
                    if *r == row
                        && shape[d].open.is_none()
                        && outer.iter().zip(&strides).all(|(o, s)| *o == s * shape[d].bound as i64) =>
                {
                    *n = n.times(&shape[d]);
                    *outer = strides;
                }
                _ => runs.push((shape[d].clone(), row, strides)),
            }
        }
        let extents: Vec<Extent> = runs.iter().map(|r| r.0.clone()).collect();
        let bounds: Vec<u64> = extents.iter().map(|n| n.bound).collect();
        let args = args.into_iter().enumerate().map(|(i, arg)| {
            let strides = runs.iter().map(|r| r.2[i]).collect();
            let view = View { shape: bounds.clone(), open: Vec::new(), strides, offset: arg.view.offset };
            Arg { view, constant: None, ..arg }
        });
        Rows { args: args.collect(), row: runs.iter().map(|r| r.1).collect(), shape: extents }
    }

    /// Elements of a row.
    pub(crate) fn row_len(&self) -> Extent {
        self.dims(true).iter().fold(Extent::from(1), |n, d| n.times(&self.shape[*d]))
    }

    /// One divided by the number of elements of a row, of a float type.
    pub(crate) fn share(&self, cx: &mut LowerCx, t: DType) -> Expr {
        let n = self.row_len();
        match cx.count(&n) {
            Expr::Int(n) => nest::float(t, 1.0 / n as f64),
            n => {
                let share = Expr::bin(BinOp::Div, nest::float(DType::F64, 1.0), n.cast_from(DType::I64, DType::F64));
                Expr::Var(cx.let_(share.cast_from(DType::F64, t)))
            }
        }
    }

    fn dims(&self, row: bool) -> Vec<usize> {
        (0..self.shape.len()).filter(|d| self.row[*d] == row).collect()
    }

    /// The dimension of neighbouring rows, if the loops go across rows.
    fn across(&self) -> Option<usize> {
        let last = self.shape.len().checked_sub(1);
        last.filter(|d| !self.row[*d] && self.args[0].view.strides[*d].unsigned_abs() <= 1)
    }

    /// True when the vector loop is over neighbouring rows.
    pub(crate) fn is_across(&self) -> bool {
        self.across().is_some()
    }

    /// Emits the loops over rows; `body` emits the passes over one row.
    pub(crate) fn emit(&self, cx: &mut LowerCx, body: &mut dyn FnMut(&mut Row)) {
        let mut kept = self.dims(false);
        if kept.iter().any(|d| self.shape[*d].bound == 0) {
            return;
        }
        let mut at = nest::origin(self.shape.len());
        let elements = self.shape.iter().map(|n| n.bound).fold(1, u64::saturating_mul);
        let Some(j) = self.across() else {
            return nest::rows(cx, &self.shape, &kept, elements, &mut at, &mut |cx, at| {
                body(&mut Row { rows: self, at: at.clone(), along: true, cx });
            });
        };
        kept.retain(|d| *d != j);
        let n = self.shape[j].clone();
        let mut row = |cx: &mut LowerCx, at: &[Expr], i: Expr| {
            let mut at = at.to_vec();
            at[j] = i;
            body(&mut Row { rows: self, at, along: false, cx });
        };
        let many = elements >= PARALLEL_ELEMENTS && n.bound >= 2 * CHUNK && n.open.is_none();
        if kept.is_empty() && many && cx.target.max_threads > 1 {
            let n = n.bound;
            let (end, chunk) = (Expr::Int(n as i64), Expr::Int(CHUNK as i64));
            return cx.for_range(LoopKind::Parallel, Expr::Int(0), end.clone(), CHUNK as i64, |cx, lo| {
                let hi = Expr::bin(BinOp::Min, lo.clone().add(chunk), end);
                cx.for_range(LoopKind::Vector, lo, hi, 1, |cx, i| row(cx, &at, i));
            });
        }
        nest::rows(cx, &self.shape, &kept, elements, &mut at, &mut |cx, at| {
            cx.for_in(LoopKind::Vector, &n, |cx, i| row(cx, at, i));
        });
    }
}

/// One row inside the loops.
pub(crate) struct Row<'c, 'a> {
    /// The statements go here.
    pub cx: &'c mut LowerCx<'a>,
    rows: &'c Rows,
    at: Vec<Expr>,
    along: bool,
}

impl Row<'_, '_> {
    /// View `i` of the [`Rows`].
    pub(crate) fn arg(&self, i: usize) -> Arg {
        self.rows.args[i].clone()
    }

    /// A pass over the elements of the row.
    pub(crate) fn each(&mut self, mut f: impl FnMut(&mut LowerCx, &[Expr])) {
        let dims = self.rows.dims(true);
        let last = if self.along { LoopKind::Vector } else { LoopKind::Serial };
        over(self.cx, &self.rows.shape, &dims, (LoopKind::Serial, last), &mut self.at.clone(), &mut |cx, at| f(cx, at));
    }

    /// A new variable for a reduction.
    pub(crate) fn start(&mut self, init: Expr) -> Var {
        self.cx.let_(init)
    }

    /// `init op f(e0) op f(e1) op ...` over the elements of the row.
    pub(crate) fn reduce(&mut self, op: BinOp, init: Expr, mut f: impl FnMut(&mut LowerCx, &[Expr]) -> Expr) -> Expr {
        let acc = self.start(init);
        self.each(|cx, at| {
            let e = f(cx, at);
            accumulate(cx, acc, op, e);
        });
        Expr::Var(acc)
    }

    /// A value as a variable.
    pub(crate) fn let_(&mut self, e: Expr) -> Expr {
        Expr::Var(self.cx.let_(e))
    }

    /// View `i`, which does not move along the row, as type `t`.
    pub(crate) fn load_as(&self, i: usize, t: DType) -> Expr {
        let arg = &self.rows.args[i];
        self.cx.load(arg, &self.at).cast_from(arg.dtype, t)
    }

    /// Stores a value, converted, into view `i`, which does not move along the row.
    pub(crate) fn store(&mut self, i: usize, value: Expr) {
        let arg = &self.rows.args[i];
        let from = self.cx.func.dtype(&value);
        let value = value.cast_from(from, arg.dtype);
        self.cx.store(arg, &self.at, value);
    }
}

/// `acc = acc op e`, in the form that vector loops know as a reduction.
pub(crate) fn accumulate(cx: &mut LowerCx, acc: Var, op: BinOp, e: Expr) {
    let e = match (op, e) {
        (BinOp::Add, Expr::Bin(BinOp::Mul, a, b)) if cx.func.dtype(&a).is_float() => Expr::Fma(a, b, Box::new(Expr::Var(acc))),
        (op, e) => Expr::bin(op, Expr::Var(acc), e),
    };
    cx.set(acc, e);
}

/// Offsets of the first elements of all rows over `axes` of a row-major `shape`, and offsets of a row's elements from its first, both row-major.
pub(crate) fn offsets(shape: &[u64], axes: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let steps = super::elements::strides(shape);
    let list = |row: bool| {
        let dims: Vec<usize> = (0..shape.len()).filter(|d| axes.contains(d) == row).collect();
        let extents: Vec<u64> = dims.iter().map(|d| shape[*d]).collect();
        let mut out = Vec::new();
        super::elements::for_coords(&extents, |at| out.push(at.iter().zip(&dims).map(|(i, d)| i * steps[*d]).sum()));
        out
    };
    (list(false), list(true))
}
