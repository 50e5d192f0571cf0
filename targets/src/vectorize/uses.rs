//! Which variables and buffers a block of statements reads and writes.

use std::collections::BTreeSet;

use onnxc_ir::lir::{BufId, Expr, Stmt, Var};

/// Variables assigned and buffers stored anywhere in a block.
pub(super) fn collect(body: &[Stmt], vars: &mut BTreeSet<Var>, bufs: &mut BTreeSet<BufId>) {
    for s in body {
        match s {
            Stmt::For { var, body, .. } => {
                vars.insert(*var);
                collect(body, vars, bufs);
            }
            Stmt::Set(v, _) => {
                vars.insert(*v);
            }
            Stmt::Store(b, ..) => {
                bufs.insert(*b);
            }
            Stmt::If(_, a, b) => {
                collect(a, vars, bufs);
                collect(b, vars, bufs);
            }
            Stmt::While(_, b) => collect(b, vars, bufs),
            Stmt::Call(..) => {}
        }
    }
}

/// True when `e` reads `v`.
pub(super) fn mentions(e: &Expr, v: Var) -> bool {
    let mut vars = BTreeSet::new();
    expr_uses(e, &mut vars);
    vars.contains(&v)
}

pub(super) fn expr_uses(e: &Expr, vars: &mut BTreeSet<Var>) {
    match e {
        Expr::Int(_) | Expr::Const(..) => {}
        Expr::Var(v) => {
            vars.insert(*v);
        }
        Expr::Load(_, a) | Expr::Un(_, a) | Expr::Cast(_, a) => expr_uses(a, vars),
        Expr::Bin(_, a, b) => {
            expr_uses(a, vars);
            expr_uses(b, vars);
        }
        Expr::Fma(a, b, c) | Expr::Select(a, b, c) => [a, b, c].into_iter().for_each(|e| expr_uses(e, vars)),
    }
}

/// Variables read anywhere in a block.
pub(super) fn uses(body: &[Stmt], vars: &mut BTreeSet<Var>) {
    for s in body {
        match s {
            Stmt::For { lo, hi, body, .. } => {
                expr_uses(lo, vars);
                expr_uses(hi, vars);
                uses(body, vars);
            }
            Stmt::Set(_, e) => expr_uses(e, vars),
            Stmt::Store(_, i, e) => {
                expr_uses(i, vars);
                expr_uses(e, vars);
            }
            Stmt::If(c, a, b) => {
                expr_uses(c, vars);
                uses(a, vars);
                uses(b, vars);
            }
            Stmt::While(c, b) => {
                expr_uses(c, vars);
                uses(b, vars);
            }
            Stmt::Call(_, ptrs, ints) => {
                ptrs.iter().for_each(|p| expr_uses(&p.1, vars));
                ints.iter().for_each(|e| expr_uses(e, vars));
            }
        }
    }
}
