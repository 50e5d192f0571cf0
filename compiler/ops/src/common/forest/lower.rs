//! Code of trees: rows in parallel, trees in order, one walk after the other.

use onnxc_ir::DType;
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::OpResult;
use onnxc_ir::scalar::{BinOp, UnOp};

use super::{Aggregate, COLUMNS, EQUAL, GREATER, LESS, Sums, UNORDERED};
use crate::common::nest::{self, ExprExt, compute_type, float, int, select};

/// Tables in memory and what is known of them. Splits and weights are of x's compute type, the others i32.
pub(crate) struct Walk {
    x: Arg,
    nodes: Arg,
    splits: Arg,
    roots: Arg,
    targets: Arg,
    weights: Arg,
    y: Arg,
    /// Where sums are that are of another type than y.
    apart: Option<BufId>,
    sums: Sums,
    /// Tests that occur, with their sets.
    tests: Vec<(i64, i64)>,
    leaf: i64,
    /// True when some node takes NaN for holding.
    missing: bool,
}

impl Walk {
    /// Trees in the tables nodes, splits, roots, targets, weights. `known` are the nodes where they are known.
    pub(crate) fn new(cx: &mut LowerCx, tables: [Arg; 5], known: Option<&[i64]>, sets: &[i64], sums: Sums) -> Walk {
        let [nodes, splits, roots, targets, weights] = tables;
        let (x, y, leaf) = (cx.input(0), cx.output(0), sets.len() as i64);
        let mut tests: Vec<i64> = match known {
            Some(nodes) => nodes.chunks(COLUMNS).map(|n| n[1]).filter(|t| *t != leaf).collect(),
            None => (0..leaf).collect(),
        };
        tests.sort_unstable();
        tests.dedup();
        let tests = tests.into_iter().map(|t| (t, sets[t as usize])).collect();
        let missing = known.is_none_or(|nodes| nodes.chunks(COLUMNS).any(|n| n[4] != 0));
        let t = compute_type(y.dtype);
        let apart = (t != y.dtype).then(|| cx.scratch(t, y.view.shape[1], true));
        Walk { x, nodes, splits, roots, targets, weights, y, apart, sums, tests, leaf, missing }
    }

    fn number(&self, x: f64) -> Expr {
        float(compute_type(self.y.dtype), x)
    }

    fn sum(&self, cx: &LowerCx, row: &Expr, target: Expr) -> Expr {
        match self.apart {
            Some(buf) => nest::at(buf, target),
            None => cx.load(&self.y, &[row.clone(), target]),
        }
    }

    fn set_sum(&self, cx: &mut LowerCx, row: &Expr, target: Expr, value: Expr) {
        match self.apart {
            Some(buf) => cx.push(Stmt::Store(buf, target, value)),
            None => cx.store(&self.y, &[row.clone(), target], value),
        }
    }

    /// What becomes of the sums at the end.
    fn finish(&self, cx: &mut LowerCx, row: &Expr, target: Expr, trees: u64) {
        let mut value = Expr::Var(cx.let_(self.sum(cx, row, target.clone())));
        if self.sums.settle {
            let untouched = Expr::bin(BinOp::Eq, value.clone(), self.number(self.sums.start));
            value = select(untouched, self.number(0.0), value);
        }
        if self.sums.aggregate == Aggregate::Average {
            value = Expr::bin(BinOp::Div, value, self.number(trees.max(1) as f64));
        }
        nest::store(cx, &self.y, &[row.clone(), target], value);
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
            let inner = Expr::bin(BinOp::Ne, self.column(cx, node, 1), int(DType::I32, self.leaf));
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
        let x = Expr::Var(cx.let_(nest::load(cx, &self.x, &[row.clone(), Expr::Var(feature)])));
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
        let ((_, last), others) = self.tests.split_last().expect("internal: some test occurs");
        let last = holds(*last, x, split);
        if others.is_empty() {
            return last;
        }
        let kind = Expr::Var(cx.let_(self.column(cx, node, 1)));
        let is = |test: i64| Expr::bin(BinOp::Eq, kind.clone(), int(DType::I32, test));
        others.iter().fold(last, |rest, (test, set)| select(is(*test), holds(*set, x, split), rest))
    }

    /// One weight of a leaf.
    fn entry(&self, cx: &mut LowerCx, row: &Expr, entry: &Expr) {
        let target = cx.load(&self.targets, std::slice::from_ref(entry)).cast_from(DType::I32, DType::I64);
        let target = Expr::Var(cx.let_(target));
        let weight = cx.load(&self.weights, std::slice::from_ref(entry));
        let op = match self.sums.aggregate {
            Aggregate::Sum | Aggregate::Average => BinOp::Add,
            Aggregate::Min => BinOp::Min,
            Aggregate::Max => BinOp::Max,
        };
        let sum = Expr::bin(op, self.sum(cx, row, target.clone()), weight);
        self.set_sum(cx, row, target, sum);
    }
}

/// Whether the relation of x to the split is in the set.
fn holds(set: i64, x: &Expr, split: &Expr) -> Expr {
    let is = |op| Expr::bin(op, x.clone(), split.clone());
    let any = |a, b| Expr::bin(BinOp::Or, is(a), is(b));
    const EITHER: i64 = LESS | GREATER;
    match set {
        LESS => is(BinOp::Lt),
        EQUAL => is(BinOp::Eq),
        GREATER => is(BinOp::Gt),
        EITHER => any(BinOp::Lt, BinOp::Gt),
        _ if set == LESS | EQUAL => is(BinOp::Le),
        _ if set == GREATER | EQUAL => is(BinOp::Ge),
        _ if set == EITHER | EQUAL => any(BinOp::Le, BinOp::Ge),
        _ if set == EITHER | UNORDERED => is(BinOp::Ne),
        // The others are true without an order.
        _ if set & UNORDERED != 0 => Expr::un(UnOp::Not, holds((EITHER | EQUAL | UNORDERED) ^ set, x, split)),
        _ => int(DType::Bool, 0),
    }
}

/// Emits the walks of all rows through all trees.
pub(crate) fn lower(cx: &mut LowerCx, walk: &Walk) -> OpResult<()> {
    let (rows, targets, trees) = (walk.y.view.extent(0), walk.y.view.shape[1], walk.roots.view.shape[0]);
    if rows.bound == 0 {
        return Ok(());
    }
    for (i, arg) in cx.inputs.iter().enumerate() {
        let rank = arg.as_ref().map_or(0, |a| a.view.shape.len());
        nest::fixed(cx, i, usize::from(i == 0)..rank)?;
    }
    let plain = walk.apart.is_none() && !walk.sums.settle && walk.sums.aggregate != Aggregate::Average;
    cx.for_rows(&vec![rows], &[1], |cx, at| {
        let row = at[0].clone();
        let start = walk.number(walk.sums.start);
        cx.for_(LoopKind::Vector, targets, |cx, k| walk.set_sum(cx, &row, k, start));
        cx.for_(LoopKind::Serial, trees, |cx, tree| walk.tree(cx, &row, tree));
        if !plain {
            cx.for_(LoopKind::Vector, targets, |cx, k| walk.finish(cx, &row, k, trees));
        }
    });
    Ok(())
}
