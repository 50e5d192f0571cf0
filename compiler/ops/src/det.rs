//! `det`: determinants of the matrices in the last two dimensions, by elimination with the largest pivot of each column.
//!
//! Rules of ONNX Det-22. Compiled code eliminates in f64 whatever the type.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{DType, Tensor, TensorType};

use crate::common::elements::{f64s, from_f64s};
use crate::common::float;
use crate::common::nest::{self, ExprExt, select};
use crate::common::sample::{data, f32s, plain};

/// The record.
pub(crate) static DET: OpDef = OpDef {
    name: "det",
    onnx: &[Import { domain: "", name: "Det", opsets: (11, NEWEST), build: |cx| cx.forward("det") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float::check(x.dtype, "a determinant")?;
    let [batch @ .., rows, columns] = &x.shape[..] else {
        return Err(OpError::new(format!("x is {x}, which holds no matrix")));
    };
    let unequal = matches!((rows.as_const(), columns.as_const()), (Some(m), Some(n)) if m != n);
    if unequal || rows.as_const().is_some_and(|m| m > 1 << 15) {
        return Err(OpError::new(format!("x is {x}: determinants are of square matrices of at most {} rows", 1 << 15)));
    }
    Ok(vec![TensorType::new(x.dtype, batch.to_vec())])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let (m, values) = (x.shape()[shape.len()] as usize, f64s(x)?);
    let count = shape.iter().product::<u64>() as usize;
    let dets = (0..count).map(|i| determinant(values[i * m * m..][..m * m].to_vec(), m));
    Ok(vec![from_f64s(x.dtype(), &shape, dets)?])
}

fn determinant(mut a: Vec<f64>, m: usize) -> f64 {
    let mut det = 1.0;
    for k in 0..m {
        let mut best = k;
        for i in k + 1..m {
            if a[i * m + k].abs() > a[best * m + k].abs() {
                best = i;
            }
        }
        if best != k {
            (0..m).for_each(|j| a.swap(k * m + j, best * m + j));
            det = -det;
        }
        let pivot = a[k * m + k];
        det *= pivot;
        for i in k + 1..m {
            let factor = if pivot == 0.0 { 0.0 } else { a[i * m + k] / pivot };
            for j in k + 1..m {
                a[i * m + j] -= factor * a[k * m + j];
            }
        }
    }
    det
}

const T: DType = DType::F64;

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::require(x.dtype)?;
    let rank = y.view.shape.len();
    nest::fixed(cx, 0, rank..rank + 2)?;
    let m = x.view.shape[rank];
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let a = cx.scratch(T, m * m, true);
    let order = y.view.strides.clone();
    cx.for_rows(&y.view, &order, |cx, at| {
        let all = [m, m];
        cx.for_each(&all, &[m as i64, 1], |cx, ij| {
            let value = cx.load(&x, &[at, ij].concat()).cast_from(x.dtype, T);
            cx.push(Stmt::Store(a, ij[0].clone().times(m as i64).add(ij[1].clone()), value));
        });
        let det = cx.let_(nest::float(T, 1.0));
        cx.for_range(LoopKind::Serial, Expr::Int(0), Expr::Int(m as i64), 1, |cx, k| {
            let k = Expr::Var(cx.let_(k));
            swap(cx, a, m, &k, det);
            eliminate(cx, a, m, &k, det);
        });
        cx.store(&y, at, Expr::Var(det).cast_from(T, y.dtype));
    });
    Ok(())
}

fn element(a: BufId, m: u64, i: &Expr, j: &Expr) -> Expr {
    nest::at(a, i.clone().times(m as i64).add(j.clone()))
}

/// Brings the row with the largest element of column `k` to row `k`.
fn swap(cx: &mut LowerCx, a: BufId, m: u64, k: &Expr, det: Var) {
    let abs = |i: &Expr| Expr::un(UnOp::Abs, element(a, m, i, k));
    let (best, largest) = (cx.let_(k.clone()), cx.let_(abs(k)));
    let end = Expr::Int(m as i64);
    cx.for_range(LoopKind::Serial, k.clone().add(Expr::Int(1)), end.clone(), 1, |cx, i| {
        let here = Expr::Var(cx.let_(abs(&i)));
        let larger = Expr::Var(cx.let_(Expr::bin(BinOp::Gt, here.clone(), Expr::Var(largest))));
        cx.set(best, select(larger.clone(), i, Expr::Var(best)));
        cx.set(largest, select(larger, here, Expr::Var(largest)));
    });
    let best = Expr::Var(best);
    let moved = |cx: &mut LowerCx| {
        cx.set(det, Expr::un(UnOp::Neg, Expr::Var(det)));
        cx.for_range(LoopKind::Vector, k.clone(), end, 1, |cx, j| {
            let (upper, lower) = (cx.let_(element(a, m, k, &j)), cx.let_(element(a, m, &best, &j)));
            cx.push(Stmt::Store(a, k.clone().times(m as i64).add(j.clone()), Expr::Var(lower)));
            cx.push(Stmt::Store(a, best.clone().times(m as i64).add(j), Expr::Var(upper)));
        });
    };
    cx.if_(Expr::bin(BinOp::Ne, best.clone(), k.clone()), moved, |_| ());
}

/// Subtracts multiples of row `k` from those below, which makes column `k` zero there.
fn eliminate(cx: &mut LowerCx, a: BufId, m: u64, k: &Expr, det: Var) {
    let pivot = Expr::Var(cx.let_(element(a, m, k, k)));
    cx.set(det, Expr::Var(det).mul(pivot.clone()));
    let (behind, end) = (Expr::Var(cx.let_(k.clone().add(Expr::Int(1)))), Expr::Int(m as i64));
    cx.for_range(LoopKind::Serial, behind.clone(), end.clone(), 1, |cx, i| {
        let zero = nest::float(T, 0.0);
        let none = Expr::bin(BinOp::Eq, pivot.clone(), zero.clone());
        let factor = select(none, zero, Expr::bin(BinOp::Div, element(a, m, &i, k), pivot.clone()));
        let factor = Expr::Var(cx.let_(factor));
        cx.for_range(LoopKind::Vector, behind, end, 1, |cx, j| {
            let value = element(a, m, &i, &j).minus(factor.mul(element(a, m, k, &j)));
            cx.push(Stmt::Store(a, i.times(m as i64).add(j), value));
        });
    });
}

fn samples() -> Vec<Sample> {
    let mut all: Vec<Sample> =
        [&[1, 1][..], &[2, 2], &[3, 2, 2], &[2, 3, 5, 5], &[19, 19], &[0, 4, 4], &[3, 0, 0]].map(|s| plain(vec![f32s(s)])).into();
    all.extend([DType::F64, DType::F16, DType::BF16].map(|t| plain(vec![data(t, &[5, 3, 3])])));
    all
}
