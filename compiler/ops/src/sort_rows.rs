//! `sort_rows`: the order in which the rows of a matrix come when they are sorted, equal rows in the order in which they stand.
//!
//! Operand `[n, m]`; result i64 `[n]`, the numbers of the rows from the smallest to the largest, compared element by element. NaN is larger than
//! everything and equal to itself. No operator of ONNX: `Unique` is made of it.
//!
//! Lowering: a merge sort from the bottom up over numbers of rows (Knuth, The Art of Computer Programming 3, 5.2.4, algorithm S), O(n log n) comparisons.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attrs, DType, Tensor, TensorType};

use crate::arg_extreme::compare_type;
use crate::common::elements::scalars;
use crate::common::nest::{self, ExprExt, int, select};
use crate::common::sample::{data, data_in, sample};

/// `sort_rows`
pub(crate) static SORT_ROWS: OpDef = OpDef {
    name: "sort_rows",
    onnx: &[crate::composed::unique::UNIQUE],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::Nest(lower),
    tolerance: Tolerance::EXACT,
    samples: || {
        let of = |t, shape: &[u64]| sample(Attrs::default(), vec![data_in(t, shape, 0.0, 3.0)]);
        let mut all = vec![
            of(DType::F32, &[1, 1]),
            of(DType::I32, &[17, 1]),
            of(DType::U8, &[33, 2]),
            of(DType::I64, &[16, 4]),
            of(DType::Bool, &[9, 5]),
            of(DType::F32, &[0, 3]),
            of(DType::F32, &[4, 0]),
            sample(Attrs::default(), vec![data(DType::F32, &[40, 1])]),
        ];
        all.extend([DType::F64, DType::F16, DType::BF16, DType::I8, DType::U16, DType::U64].map(|t| of(t, &[12, 2])));
        all
    },
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let float = matches!(x.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    if !(float || x.dtype == DType::Bool || x.dtype.is_int() && x.dtype.bits() >= 8) {
        return Err(OpError::new(format!("elements of type {} have no order here", x.dtype)));
    }
    match &x.shape[..] {
        [n, _] => Ok(vec![TensorType::new(DType::I64, vec![n.clone()])]),
        _ => Err(OpError::new(format!("{x} is no matrix"))),
    }
}

fn less(a: Scalar, b: Scalar) -> bool {
    match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => a < b,
        (a, b) => a.float() < b.float() || b.float().is_nan() && !a.float().is_nan(),
    }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let [n, m] = [x.shape()[0], x.shape()[1]].map(|d| d as usize);
    let values = scalars(x)?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| {
        let differ = (0..m).map(|k| (values[a * m + k], values[b * m + k])).find(|(a, b)| less(*a, *b) || less(*b, *a));
        differ.map_or(std::cmp::Ordering::Equal, |(a, b)| less(b, a).cmp(&less(a, b)))
    });
    Ok(vec![Tensor::from_vec(&cx.out_shape(0), order.into_iter().map(|i| i as i64).collect::<Vec<_>>())])
}

/// [`less`] as code.
fn goes_before(t: DType, a: &Expr, b: &Expr) -> Expr {
    let smaller = Expr::bin(BinOp::Lt, a.clone(), b.clone());
    if !t.is_float() {
        return smaller;
    }
    let number = Expr::bin(BinOp::Eq, a.clone(), a.clone());
    Expr::bin(BinOp::Or, smaller, Expr::bin(BinOp::And, Expr::un(UnOp::IsNan, b.clone()), number))
}

/// Whether row `a` comes before row `b`, as an i64 that is negative then, 0 for equal rows.
fn compare(cx: &mut LowerCx, x: &Arg, a: &Expr, b: &Expr) -> Var {
    let (m, t) = (x.view.shape[1], compare_type(x.dtype));
    let (order, k) = (cx.let_(Expr::Int(0)), cx.let_(Expr::Int(0)));
    let equal = Expr::bin(BinOp::Eq, Expr::Var(order), Expr::Int(0));
    let more = Expr::bin(BinOp::And, equal, Expr::bin(BinOp::Lt, Expr::Var(k), Expr::Int(m as i64)));
    let body = cx.block(|cx| {
        let mut element = |row: &Expr| {
            let value = cx.load(x, &[row.clone(), Expr::Var(k)]).cast_from(x.dtype, t);
            Expr::Var(cx.let_(value))
        };
        let (p, q) = (element(a), element(b));
        let behind = select(goes_before(t, &q, &p), Expr::Int(1), Expr::Int(0));
        cx.set(order, select(goes_before(t, &p, &q), Expr::Int(-1), behind));
        cx.set(k, Expr::Var(k).add(Expr::Int(1)));
    });
    cx.push(Stmt::While(more, body));
    order
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    if x.dtype != DType::Bool {
        nest::require(x.dtype)?;
    }
    let n = x.view.shape[0];
    if n == 0 {
        return Ok(());
    }
    let (from, to) = (cx.scratch(DType::I64, n, false), cx.scratch(DType::I64, n, false));
    cx.for_(LoopKind::Serial, n, |cx, i| cx.push(Stmt::Store(from, i.clone(), i)));
    let width = cx.let_(Expr::Int(1));
    let end = Expr::Int(n as i64);
    let pass = cx.block(|cx| {
        let start = cx.let_(Expr::Int(0));
        let merge = cx.block(|cx| {
            let bound = |cx: &mut LowerCx, runs: i64| {
                let place = Expr::Var(start).add(Expr::Var(width).times(runs));
                Expr::Var(cx.let_(Expr::bin(BinOp::Min, place, end.clone())))
            };
            let (middle, last) = (bound(cx, 1), bound(cx, 2));
            merge(cx, &x, (from, to), (Expr::Var(start), middle, last.clone()));
            cx.set(start, last);
        });
        cx.push(Stmt::While(Expr::bin(BinOp::Lt, Expr::Var(start), end.clone()), merge));
        cx.for_(LoopKind::Serial, n, |cx, i| cx.push(Stmt::Store(from, i.clone(), nest::at(to, i))));
        cx.set(width, Expr::Var(width).times(2));
    });
    cx.push(Stmt::While(Expr::bin(BinOp::Lt, Expr::Var(width), end), pass));
    cx.for_(LoopKind::Serial, n, |cx, i| {
        let row = nest::at(from, i.clone());
        cx.store(&y, &[i], row);
    });
    Ok(())
}

/// Merges two sorted runs, `start..middle` and `middle..last`, of `from` in `to`.
fn merge(cx: &mut LowerCx, x: &Arg, (from, to): (BufId, BufId), (start, middle, last): (Expr, Expr, Expr)) {
    let (left, right, at) = (cx.let_(start.clone()), cx.let_(middle.clone()), cx.let_(start));
    let step = cx.block(|cx| {
        let has = |var: Var, end: &Expr| Expr::bin(BinOp::Lt, Expr::Var(var), end.clone());
        // Past the end of a run its last row is looked at, and not taken.
        let row = |cx: &mut LowerCx, var: Var, end: &Expr| {
            let place = Expr::bin(BinOp::Min, Expr::Var(var), end.clone().minus(Expr::Int(1)));
            Expr::Var(cx.let_(nest::at(from, place)))
        };
        let (a, b) = (row(cx, left, &middle), row(cx, right, &last));
        let order = compare(cx, x, &b, &a);
        let later = Expr::bin(BinOp::Ge, Expr::Var(order), Expr::Int(0));
        let none = Expr::bin(BinOp::Ge, Expr::Var(right), last.clone());
        let first = Expr::bin(BinOp::And, has(left, &middle), Expr::bin(BinOp::Or, none, later));
        let first = cx.let_(select(first, int(DType::I64, 1), int(DType::I64, 0)));
        let takes = Expr::bin(BinOp::Ne, Expr::Var(first), Expr::Int(0));
        cx.push(Stmt::Store(to, Expr::Var(at), select(takes, a, b)));
        cx.set(left, Expr::Var(left).add(Expr::Var(first)));
        cx.set(right, Expr::Var(right).add(Expr::Int(1).minus(Expr::Var(first))));
        cx.set(at, Expr::Var(at).add(Expr::Int(1)));
    });
    cx.push(Stmt::While(Expr::bin(BinOp::Lt, Expr::Var(at), last), step));
}
