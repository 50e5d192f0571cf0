//! Loops over mathematical functions become vector code on every instruction set that has vectors: registers suffice, also for the rare arms
//! of the functions of angles.

use onnxc_ir::DType;
use onnxc_ir::lir::{BufKind, Expr, Func, LoopKind, Stmt};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_targets::{describe, vectorize};

const FUNCTIONS: &[UnOp] = &[
    UnOp::Exp,
    UnOp::Log,
    UnOp::Sin,
    UnOp::Cos,
    UnOp::Tan,
    UnOp::Asin,
    UnOp::Acos,
    UnOp::Atan,
    UnOp::Sinh,
    UnOp::Cosh,
    UnOp::Tanh,
    UnOp::Asinh,
    UnOp::Acosh,
    UnOp::Atanh,
    UnOp::Erf,
    UnOp::Sigmoid,
];

const MACHINES: &[(&str, &str)] = &[
    ("x86_64-unknown-linux-gnu", "x86-64"),
    ("x86_64-unknown-linux-gnu", "x86-64-v3"),
    ("x86_64-unknown-linux-gnu", "x86-64-v4"),
    ("aarch64-unknown-linux-gnu", "armv8-a"),
    ("riscv64gc-unknown-linux-gnu", "rv64gcv"),
];

/// `y = op(op(x) * z)`, element by element.
fn twice(op: UnOp) -> (Func, Stmt) {
    let mut f = Func::default();
    let [x, z] = [0, 1].map(|n| f.buf(DType::F32, BufKind::Input(n)));
    let y = f.buf(DType::F32, BufKind::Output(0));
    let i = f.var(DType::I64);
    let load = |b| Expr::Load(b, Box::new(Expr::Var(i)));
    let inner = Expr::bin(BinOp::Mul, Expr::un(op, load(x)), load(z));
    let body = vec![Stmt::Store(y, Expr::Var(i), Expr::un(op, inner))];
    let stmt = Stmt::For { var: i, lo: Expr::Int(0), hi: Expr::Int(100), step: 1, kind: LoopKind::Vector, body };
    (f, stmt)
}

#[test]
fn functions_run_in_vectors() {
    for (triple, cpu) in MACHINES {
        let target = describe(triple, cpu, 1).expect("a target");
        for op in FUNCTIONS {
            let (f, stmt) = twice(*op);
            assert!(vectorize(&f, &stmt, &target).is_some(), "{op:?} on {cpu}");
        }
    }
}
