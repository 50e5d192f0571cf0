//! `pairwise_coupling`: probabilities of classes from those of each class against each other one, as support vector machines give them.
//!
//! Input: r `[rows, k, k]`, f32, where `r[i, j]` is the probability of class i if it is i or j; the diagonal is not read. Result: `[rows, k]`.
//! Method 2 of Wu, Lin, Weng, "Probability estimates for multi-class classification by pairwise coupling", 2004, with the iteration and the limits that
//! libsvm and ONNX Runtime have: at most 100 rounds, until `Qp` differs from `p'Qp` by less than `0.005 / k`.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{DType, Tensor, TensorType};

use crate::common::nest::{self, ExprExt, at, float, int, select};
use crate::common::sample::{data_in, plain};

/// The record.
pub(crate) static PAIRWISE_COUPLING: OpDef = OpDef {
    name: "pairwise_coupling",
    onnx: &[],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

/// Most rounds.
const ROUNDS: i64 = 100;

/// The difference at which the iteration ends.
fn limit(k: usize) -> f32 {
    0.005 / k as f32
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let r = cx.input(0)?;
    let square = r.rank() == 3 && r.shape[1] == r.shape[2] && r.shape[1].as_const().is_some_and(|k| (2..1 << 12).contains(&k));
    if r.dtype != DType::F32 || !square {
        return Err(OpError::new(format!("r is {r}: rows of square matrices of f32 are needed")));
    }
    Ok(vec![TensorType::new(DType::F32, r.shape[..2].to_vec())])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (r, k) = (cx.input(0), cx.input(0).shape()[1] as usize);
    let p: Vec<f32> = r.to_vec::<f32>().chunks(k * k).flat_map(|r| couple(r, k)).collect();
    Ok(vec![Tensor::from_vec(&cx.out_shape(0), p)])
}

/// The probabilities of one row.
fn couple(r: &[f32], k: usize) -> Vec<f32> {
    let mut q = vec![0f32; k * k];
    for i in 0..k {
        for j in (0..k).filter(|j| *j != i) {
            q[i * k + i] += r[j * k + i] * r[j * k + i];
            q[i * k + j] = -(r[j * k + i] * r[i * k + j]);
        }
    }
    let mut p = vec![1.0 / k as f32; k];
    for _ in 0..ROUNDS {
        let mut qp: Vec<f32> = (0..k).map(|i| (0..k).fold(0.0, |sum, j| sum + q[i * k + j] * p[j])).collect();
        let mut pqp = (0..k).fold(0f32, |sum, i| sum + p[i] * qp[i]);
        if qp.iter().fold(0f32, |most, v| most.max((v - pqp).abs())) < limit(k) {
            break;
        }
        for i in 0..k {
            let diff = (pqp - qp[i]) / q[i * k + i];
            let whole = 1.0 + diff;
            p[i] += diff;
            pqp = (pqp + diff * (diff * q[i * k + i] + 2.0 * qp[i])) / whole / whole;
            for j in 0..k {
                qp[j] = (qp[j] + diff * q[i * k + j]) / whole;
                p[j] /= whole;
            }
        }
    }
    p
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (r, p) = (cx.input(0), cx.output(0));
    nest::fixed(cx, 0, 1..3)?;
    let (rows, k) = (p.view.extent(0), p.view.shape[1]);
    if rows.bound == 0 {
        return Ok(());
    }
    let (q, qp) = (cx.scratch(DType::F32, k * k, true), cx.scratch(DType::F32, k, true));
    cx.for_rows(&vec![rows], &[1], |cx, row| {
        let row = Row { r, p, row: row[0].clone(), q, qp, k };
        row.matrix(cx);
        let share = float(DType::F32, f64::from(1.0 / k as f32));
        cx.for_(LoopKind::Serial, k, |cx, i| row.set_p(cx, i, share));
        let (round, going) = (cx.let_(Expr::Int(0)), cx.let_(int(DType::Bool, 1)));
        let body = cx.block(|cx| {
            let pqp = row.products(cx);
            let done = Expr::bin(BinOp::Lt, row.difference(cx, pqp), float(DType::F32, f64::from(limit(k as usize))));
            cx.set(round, Expr::Var(round).add(Expr::Int(1)));
            let more = Expr::bin(BinOp::Lt, Expr::Var(round), Expr::Int(ROUNDS));
            cx.if_(
                done,
                |cx| cx.set(going, int(DType::Bool, 0)),
                |cx| {
                    cx.for_(LoopKind::Serial, k, |cx, i| row.step(cx, &i, pqp));
                    cx.set(going, more);
                },
            );
        });
        cx.push(Stmt::While(Expr::Var(going), body));
    });
    Ok(())
}

/// What the code of one row works on.
struct Row {
    r: Arg,
    p: Arg,
    row: Expr,
    /// `[k, k]`.
    q: BufId,
    /// `[k]`.
    qp: BufId,
    k: u64,
}

impl Row {
    fn zero() -> Expr {
        float(DType::F32, 0.0)
    }

    fn place(&self, i: &Expr, j: &Expr) -> Expr {
        i.clone().times(self.k as i64).add(j.clone())
    }

    fn q(&self, i: &Expr, j: &Expr) -> Expr {
        at(self.q, self.place(i, j))
    }

    fn p(&self, cx: &LowerCx, i: &Expr) -> Expr {
        cx.load(&self.p, &[self.row.clone(), i.clone()])
    }

    fn set_p(&self, cx: &mut LowerCx, i: Expr, value: Expr) {
        cx.store(&self.p, &[self.row.clone(), i], value);
    }

    /// Q, row by row.
    fn matrix(&self, cx: &mut LowerCx) {
        cx.for_(LoopKind::Serial, self.k, |cx, i| {
            let squares = cx.let_(Row::zero());
            cx.for_(LoopKind::Serial, self.k, |cx, j| {
                let own = Expr::bin(BinOp::Eq, i.clone(), j.clone());
                let back = Expr::Var(cx.let_(cx.load(&self.r, &[self.row.clone(), j.clone(), i.clone()])));
                let forth = cx.load(&self.r, &[self.row.clone(), i.clone(), j.clone()]);
                let square = select(own, Row::zero(), back.clone().mul(back.clone()));
                cx.set(squares, Expr::bin(BinOp::Add, Expr::Var(squares), square));
                cx.push(Stmt::Store(self.q, self.place(&i, &j), Expr::un(UnOp::Neg, back.mul(forth))));
            });
            cx.push(Stmt::Store(self.q, self.place(&i, &i), Expr::Var(squares)));
        });
    }

    /// Sets `Qp` and answers `p'Qp`.
    fn products(&self, cx: &mut LowerCx) -> Var {
        let pqp = cx.let_(Row::zero());
        cx.for_(LoopKind::Serial, self.k, |cx, i| {
            let sum = cx.let_(Row::zero());
            cx.for_(LoopKind::Serial, self.k, |cx, j| {
                let term = self.q(&i, &j).mul(self.p(cx, &j));
                cx.set(sum, Expr::bin(BinOp::Add, Expr::Var(sum), term));
            });
            cx.push(Stmt::Store(self.qp, i.clone(), Expr::Var(sum)));
            let term = self.p(cx, &i).mul(Expr::Var(sum));
            cx.set(pqp, Expr::bin(BinOp::Add, Expr::Var(pqp), term));
        });
        pqp
    }

    /// How far `Qp` is from `p'Qp` at most.
    fn difference(&self, cx: &mut LowerCx, pqp: Var) -> Expr {
        let most = cx.let_(Row::zero());
        cx.for_(LoopKind::Serial, self.k, |cx, i| {
            let apart = Expr::un(UnOp::Abs, at(self.qp, i).minus(Expr::Var(pqp)));
            cx.set(most, Expr::bin(BinOp::Max, Expr::Var(most), apart));
        });
        Expr::Var(most)
    }

    /// Moves `p[i]` and keeps the sum of p, `Qp` and `p'Qp` in step.
    fn step(&self, cx: &mut LowerCx, i: &Expr, pqp: Var) {
        let div = |a: Expr, b: Var| Expr::bin(BinOp::Div, a, Expr::Var(b));
        let add = |a: Expr, b: Expr| Expr::bin(BinOp::Add, a, b);
        let own = cx.let_(self.q(i, i));
        let product = cx.let_(at(self.qp, i.clone()));
        let diff = cx.let_(div(Expr::Var(pqp).minus(Expr::Var(product)), own));
        let whole = cx.let_(add(float(DType::F32, 1.0), Expr::Var(diff)));
        let moved = add(self.p(cx, i), Expr::Var(diff));
        self.set_p(cx, i.clone(), moved);
        let inner = add(Expr::Var(diff).mul(Expr::Var(own)), float(DType::F32, 2.0).mul(Expr::Var(product)));
        let next = add(Expr::Var(pqp), Expr::Var(diff).mul(inner));
        cx.set(pqp, div(div(next, whole), whole));
        cx.for_(LoopKind::Serial, self.k, |cx, j| {
            let value = div(add(at(self.qp, j.clone()), Expr::Var(diff).mul(self.q(i, &j))), whole);
            cx.push(Stmt::Store(self.qp, j.clone(), value));
            let value = div(self.p(cx, &j), whole);
            self.set_p(cx, j, value);
        });
    }
}

fn samples() -> Vec<Sample> {
    let case = |rows: u64, k: u64| plain(vec![data_in(DType::F32, &[rows, k, k], 0.05, 0.95)]);
    vec![case(5, 2), case(3, 3), case(2, 7), case(0, 3)]
}
