//! Linear forms of indices: how an index moves from lane to lane and from round to round.

use onnxc_ir::lir::Expr;
use onnxc_ir::scalar::{BinOp, UnOp};

use super::analysis::{Analysis, Env};

/// An i64 as `lane*i + sum of inner[d]*r_d + constant + rest`: i is the iteration, r_d the round of inner loop d.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Linear {
    pub lane: i64,
    pub inner: Vec<i64>,
    pub constant: i64,
    pub rest: Expr,
}

impl Linear {
    pub fn constant(constant: i64) -> Linear {
        Linear { lane: 0, inner: vec![], constant, rest: Expr::Int(0) }
    }

    pub fn is_constant(&self) -> bool {
        self.lane == 0 && self.inner.iter().all(|c| *c == 0) && self.rest == Expr::Int(0)
    }

    /// The same in every lane and every round.
    pub fn is_invariant(&self) -> bool {
        self.lane == 0 && self.inner.iter().all(|c| *c == 0)
    }

    pub fn add(self, other: Linear) -> Linear {
        let n = self.inner.len().max(other.inner.len());
        let at = |v: &[i64], i: usize| v.get(i).copied().unwrap_or(0);
        Linear {
            lane: self.lane + other.lane,
            inner: (0..n).map(|i| at(&self.inner, i) + at(&other.inner, i)).collect(),
            constant: self.constant + other.constant,
            rest: self.rest.add(other.rest),
        }
    }

    pub fn times(self, k: i64) -> Linear {
        Linear {
            lane: self.lane * k,
            inner: self.inner.iter().map(|c| c * k).collect(),
            constant: self.constant * k,
            rest: self.rest.times(k),
        }
    }

    pub fn expr(self) -> Expr {
        self.rest.add(Expr::Int(self.constant))
    }
}

/// Division that rounds up, for positive divisors.
pub(super) trait DivCeil {
    fn div_ceil_by(self, d: i64) -> i64;
}

impl DivCeil for i64 {
    fn div_ceil_by(self, d: i64) -> i64 {
        (self + d - 1).div_euclid(d)
    }
}

impl Analysis<'_> {
    /// True when the expression has the same value in every iteration and can be computed before the loop.
    pub(super) fn is_invariant(&self, e: &Expr, loads: bool) -> bool {
        match e {
            Expr::Int(_) | Expr::Const(..) => true,
            Expr::Var(v) => *v != self.loop_var && !self.assigned.contains(v),
            // A load in an inner loop that runs zero times must not happen.
            Expr::Load(b, i) => loads && !self.stored.contains(b) && self.is_invariant(i, loads),
            Expr::Un(_, a) | Expr::Cast(_, a) => self.is_invariant(a, loads),
            Expr::Bin(_, a, b) => self.is_invariant(a, loads) && self.is_invariant(b, loads),
            Expr::Fma(a, b, c) | Expr::Select(a, b, c) => [a, b, c].into_iter().all(|e| self.is_invariant(e, loads)),
        }
    }

    /// The linear form of an index.
    pub(super) fn index(&self, e: &Expr, env: &Env) -> Option<Linear> {
        if let Expr::Int(k) = e {
            return Some(Linear::constant(*k));
        }
        if self.is_invariant(e, true) {
            return Some(Linear { rest: e.clone(), ..Linear::constant(0) });
        }
        match e {
            Expr::Var(v) if *v == self.loop_var => Some(Linear { lane: self.step, rest: self.lo.clone(), ..Linear::constant(0) }),
            Expr::Var(v) => env.indices.get(v).cloned(),
            Expr::Bin(BinOp::Add, a, b) => Some(self.index(a, env)?.add(self.index(b, env)?)),
            Expr::Bin(BinOp::Sub, a, b) => Some(self.index(a, env)?.add(self.index(b, env)?.times(-1))),
            Expr::Bin(BinOp::Mul, a, b) => {
                let (a, b) = (self.index(a, env)?, self.index(b, env)?);
                if a.is_constant() {
                    Some(b.times(a.constant))
                } else if b.is_constant() {
                    Some(a.times(b.constant))
                } else {
                    None
                }
            }
            // Constants of unrolled loops inside other arithmetic.
            Expr::Bin(op, a, b) => {
                let (a, b) = (self.index(a, env)?, self.index(b, env)?);
                if !(a.is_invariant() && b.is_invariant()) {
                    return None;
                }
                match (op, a.is_constant() && b.is_constant()) {
                    (BinOp::Min, true) => Some(Linear::constant(a.constant.min(b.constant))),
                    (BinOp::Max, true) => Some(Linear::constant(a.constant.max(b.constant))),
                    (BinOp::Min | BinOp::Max | BinOp::Div | BinOp::Mod | BinOp::Rem, _) => {
                        Some(Linear { rest: Expr::bin(*op, a.expr(), b.expr()), ..Linear::constant(0) })
                    }
                    _ => None,
                }
            }
            Expr::Un(UnOp::Neg, a) => Some(self.index(a, env)?.times(-1)),
            _ => None,
        }
    }
}
