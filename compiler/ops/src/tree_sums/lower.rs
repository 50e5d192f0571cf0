//! Code of `tree_sums`: rows in parallel, trees in order, one walk after the other.

use onnxc_ir::DType;
use onnxc_ir::lir::{Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::OpResult;
use onnxc_ir::scalar::{BinOp, UnOp};

use super::{Aggregate, COLUMNS, LEAF, TESTS};
use crate::common::nest::{ExprExt, float, int, select};

pub(super) fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let walk = Walk::new(cx)?;
    let (rows, targets, trees) = (walk.y.view.shape[0], walk.y.view.shape[1], walk.roots.view.shape[0]);
    if rows == 0 {
        return Ok(());
    }
    cx.for_rows(&[rows], &[1], |cx, at| {
        let row = at[0].clone();
        walk.fill(cx, &row, targets);
        cx.for_(LoopKind::Serial, trees, |cx, tree| walk.tree(cx, &row, tree));
        if walk.aggregate != Aggregate::Sum {
            walk.settle(cx, &row, targets);
        }
    });
    Ok(())
}

/// Operands and what is known of them.
struct Walk {
    x: Arg,
    nodes: Arg,
    splits: Arg,
    roots: Arg,
    targets: Arg,
    weights: Arg,
    y: Arg,
    aggregate: Aggregate,
    /// Tests that occur.
    tests: Vec<i64>,
    /// True when some node takes NaN for holding.
    missing: bool,
}

impl Walk {
    fn new(cx: &LowerCx) -> OpResult<Walk> {
        let table = cx.input(1).constant.and_then(|t| t.to_i64s());
        let mut tests: Vec<i64> = match &table {
            Some(nodes) => nodes.chunks(COLUMNS).map(|n| n[1]).filter(|t| *t != LEAF).collect(),
            None => (0..LEAF).collect(),
        };
        tests.sort_unstable();
        tests.dedup();
        let missing = table.is_none_or(|nodes| nodes.chunks(COLUMNS).any(|n| n[4] != 0));
        Ok(Walk {
            x: cx.input(0),
            nodes: cx.input(1),
            splits: cx.input(2),
            roots: cx.input(3),
            targets: cx.input(4),
            weights: cx.input(5),
            y: cx.output(0),
            aggregate: Aggregate::of(cx.attrs)?,
            tests,
            missing,
        })
    }

    fn number(&self, x: f64) -> Expr {
        float(self.x.dtype, x)
    }

    fn fill(&self, cx: &mut LowerCx, row: &Expr, targets: u64) {
        let start = self.number(self.aggregate.start());
        cx.for_(LoopKind::Vector, targets, |cx, k| cx.store(&self.y, &[row.clone(), k], start));
    }

    /// Targets that no weight reached.
    fn settle(&self, cx: &mut LowerCx, row: &Expr, targets: u64) {
        cx.for_(LoopKind::Serial, targets, |cx, k| {
            let at = [row.clone(), k];
            let value = Expr::Var(cx.let_(cx.load(&self.y, &at)));
            let untouched = Expr::bin(BinOp::Eq, value.clone(), self.number(self.aggregate.start()));
            cx.store(&self.y, &at, select(untouched, self.number(0.0), value));
        });
    }

    /// An element of the table of nodes.
    fn column(&self, cx: &LowerCx, node: Var, column: i64) -> Expr {
        cx.load(&self.nodes, &[Expr::Var(node), Expr::Int(column)])
    }

    fn tree(&self, cx: &mut LowerCx, row: &Expr, tree: Expr) {
        let root = cx.load(&self.roots, &[tree]).cast_from(DType::I32, DType::I64);
        let node = cx.let_(root);
        // Without any test all trees are leaves.
        if !self.tests.is_empty() {
            let inner = Expr::bin(BinOp::Ne, self.column(cx, node, 1), int(DType::I32, LEAF));
            let step = cx.block(|cx| self.step(cx, row, node));
            cx.push(Stmt::While(inner, step));
        }
        let (from, to) = (self.column(cx, node, 2), self.column(cx, node, 3));
        let (from, to) = (cx.let_(from.cast_from(DType::I32, DType::I64)), cx.let_(to.cast_from(DType::I32, DType::I64)));
        cx.for_range(LoopKind::Serial, Expr::Var(from), Expr::Var(to), 1, |cx, entry| self.entry(cx, row, &entry));
    }

    /// One node down.
    fn step(&self, cx: &mut LowerCx, row: &Expr, node: Var) {
        let feature = cx.let_(self.column(cx, node, 0).cast_from(DType::I32, DType::I64));
        let x = Expr::Var(cx.let_(cx.load(&self.x, &[row.clone(), Expr::Var(feature)])));
        let split = Expr::Var(cx.let_(cx.load(&self.splits, &[Expr::Var(node)])));
        let mut holds = self.test(cx, node, &x, &split);
        if self.missing {
            let allowed = Expr::bin(BinOp::Ne, self.column(cx, node, 4), int(DType::I32, 0));
            let missing = Expr::bin(BinOp::And, allowed, Expr::un(UnOp::IsNan, x));
            holds = Expr::bin(BinOp::Or, holds, missing);
        }
        let next = select(holds, self.column(cx, node, 2), self.column(cx, node, 3));
        cx.set(node, next.cast_from(DType::I32, DType::I64));
    }

    /// Whether the node's test holds: nearly all models have one kind of test.
    fn test(&self, cx: &mut LowerCx, node: Var, x: &Expr, split: &Expr) -> Expr {
        let compare = |test: i64| {
            let ops = [BinOp::Le, BinOp::Lt, BinOp::Ge, BinOp::Gt, BinOp::Eq, BinOp::Ne];
            Expr::bin(ops[test as usize % TESTS.len()], x.clone(), split.clone())
        };
        let (last, others) = self.tests.split_last().expect("internal: some test occurs");
        if others.is_empty() {
            return compare(*last);
        }
        let kind = Expr::Var(cx.let_(self.column(cx, node, 1)));
        let is = |test: i64| Expr::bin(BinOp::Eq, kind.clone(), int(DType::I32, test));
        others.iter().fold(compare(*last), |rest, test| select(is(*test), compare(*test), rest))
    }

    /// One weight of a leaf.
    fn entry(&self, cx: &mut LowerCx, row: &Expr, entry: &Expr) {
        let target = cx.load(&self.targets, std::slice::from_ref(entry)).cast_from(DType::I32, DType::I64);
        let at = [row.clone(), Expr::Var(cx.let_(target))];
        let (sum, weight) = (cx.load(&self.y, &at), cx.load(&self.weights, std::slice::from_ref(entry)));
        let op = match self.aggregate {
            Aggregate::Sum => BinOp::Add,
            Aggregate::Min => BinOp::Min,
            Aggregate::Max => BinOp::Max,
        };
        cx.store(&self.y, &at, Expr::bin(op, sum, weight));
    }
}
