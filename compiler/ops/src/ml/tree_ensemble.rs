//! `tree_ensemble`: the sum (or average, minimum, maximum) of what the leaves of decision trees say.
//!
//! Operand: features `[N, F]`. Attributes: `nodes`, four integers for each inner node: its feature, a set of comparisons, and where to go when one of them holds
//! and when none does (leaf i is -1-i); `splits`, what features are compared with; `leaves`, where the entries of each leaf begin in `targets` and `weights`,
//! and their number; `roots`; `n_targets`; `aggregate` (sum, average, min, max). Result `[N, n_targets]`. Meaning of ONNX TreeEnsemble-5; targets
//! without any entry are 0 in sums, and the type's outermost value in extremes.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use super::tree_import;
use crate::common::elements::{f64s, from_f64s};
use crate::common::float;
use crate::common::nest::{self, ExprExt, compute_type, select};
use crate::common::sample::{data, sample};

/// The record.
pub(crate) static TREE_ENSEMBLE: OpDef = OpDef {
    name: "tree_ensemble",
    onnx: &[tree_import::ENSEMBLE],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::Nest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

/// Comparisons of a feature with a split, as bits of a set.
pub(super) const LESS: i64 = 1;
pub(super) const EQUAL: i64 = 2;
pub(super) const GREATER: i64 = 4;
pub(super) const UNORDERED: i64 = 8;

#[derive(Clone, Copy, PartialEq)]
enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

struct Forest<'a> {
    /// `[feature, comparisons, yes, no]`
    nodes: &'a [i64],
    splits: Vec<f64>,
    leaves: &'a [i64],
    targets: &'a [i64],
    weights: Vec<f64>,
    roots: &'a [i64],
    n_targets: u64,
    aggregate: Aggregate,
}

impl Forest<'_> {
    fn of(attrs: &Attrs) -> OpResult<Forest<'_>> {
        let ints = |name: &str| attrs.ints(name).ok_or_else(|| OpError::new(format!("attribute {name} is missing")));
        let numbers = |name: &str| match attrs.tensor(name) {
            Some(t) => f64s(t),
            None => Err(OpError::new(format!("attribute {name} is missing"))),
        };
        let n_targets = attrs.int("n_targets").and_then(|n| u64::try_from(n).ok()).filter(|n| (1..=1 << 31).contains(n));
        let aggregate = match attrs.str("aggregate").unwrap_or("sum") {
            "sum" => Aggregate::Sum,
            "average" => Aggregate::Average,
            "min" => Aggregate::Min,
            "max" => Aggregate::Max,
            other => return Err(OpError::new(format!("aggregate {other:?} is unknown"))),
        };
        Ok(Forest {
            nodes: ints("nodes")?,
            splits: numbers("splits")?,
            leaves: ints("leaves")?,
            targets: ints("targets")?,
            weights: numbers("weights")?,
            roots: ints("roots")?,
            n_targets: n_targets.ok_or_else(|| OpError::new("the number of targets is missing or not positive"))?,
            aggregate,
        })
    }

    /// Refuses trees that lead nowhere or in circles.
    fn check(&self, features: Option<u64>) -> OpResult<()> {
        let (count, leaves) = (self.splits.len(), self.leaves.len() as i64 - 1);
        let leads = |to: i64| (-leaves..count as i64).contains(&to);
        let entries = self.targets.len() as i64;
        let whole = self.nodes.len() == 4 * count
            && self.weights.len() == self.targets.len()
            && self.leaves.first() == Some(&0)
            && self.leaves.last() == Some(&entries)
            && self.leaves.is_sorted()
            && self.targets.iter().all(|t| (0..self.n_targets as i64).contains(t))
            && self.roots.iter().all(|r| leads(*r))
            && self.nodes.chunks(4).all(|n| leads(n[2]) && leads(n[3]));
        if !whole {
            return Err(OpError::new("the trees name nodes, leaves or targets that do not exist"));
        }
        if let Some(n) = self.nodes.chunks(4).find(|n| n[0] < 0 || features.is_some_and(|f| n[0] as u64 >= f)) {
            return Err(OpError::new(format!("a tree asks for feature {}, x does not have it", n[0])));
        }
        if self.circular() { Err(OpError::new("a tree leads in a circle")) } else { Ok(()) }
    }

    /// Whether some node leads back to itself: whether nodes remain when those that nothing leads to are taken away one by one.
    fn circular(&self) -> bool {
        let count = self.splits.len();
        let mut into = vec![0usize; count];
        let next = |n: usize| self.nodes[4 * n + 2..4 * n + 4].iter().filter_map(|to| usize::try_from(*to).ok());
        (0..count).flat_map(next).for_each(|to| into[to] += 1);
        let mut free: Vec<usize> = (0..count).filter(|n| into[*n] == 0).collect();
        let mut taken = 0;
        while let Some(n) = free.pop() {
            taken += 1;
            for to in next(n) {
                into[to] -= 1;
                if into[to] == 0 {
                    free.push(to);
                }
            }
        }
        taken < count
    }

    fn start(&self, dtype: DType) -> f64 {
        let largest = match dtype {
            DType::F64 => f64::MAX,
            DType::F16 => 65504.0,
            DType::BF16 => f64::from(f32::from_bits(0x7f7f_0000)),
            _ => f64::from(f32::MAX),
        };
        match self.aggregate {
            Aggregate::Sum | Aggregate::Average => 0.0,
            Aggregate::Min => largest,
            Aggregate::Max => -largest,
        }
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float::check(x.dtype, "an ensemble of trees")?;
    let [n, features] = &x.shape[..] else {
        return Err(OpError::new(format!("x is {x}, it must be [N, features]")));
    };
    let forest = Forest::of(cx.attrs)?;
    forest.check(features.as_const())?;
    if features.as_const().is_none() {
        return Err(OpError::new(format!("the number of features of {x} is not known")).help("fix it with --dim or --shape"));
    }
    Ok(vec![TensorType::new(x.dtype, vec![n.clone(), Dim::Const(forest.n_targets)])])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, forest, shape) = (cx.input(0), Forest::of(cx.attrs)?, cx.out_shape(0));
    let (values, features) = (f64s(x)?, x.shape()[1] as usize);
    let rounded: Vec<f64> = f64s(&from_f64s(x.dtype(), &[forest.splits.len() as u64], forest.splits.iter().copied())?)?;
    let mut out = vec![forest.start(x.dtype()); (shape[0] * shape[1]) as usize];
    for (row, out) in (0..shape[0] as usize).zip(out.chunks_mut(shape[1] as usize)) {
        for root in forest.roots {
            let mut at = *root;
            while at >= 0 {
                let node = &forest.nodes[4 * at as usize..][..4];
                let (value, split) = (values[row * features + node[0] as usize], rounded[at as usize]);
                let relation = match value.partial_cmp(&split) {
                    Some(std::cmp::Ordering::Less) => LESS,
                    Some(std::cmp::Ordering::Equal) => EQUAL,
                    Some(std::cmp::Ordering::Greater) => GREATER,
                    None => UNORDERED,
                };
                at = if node[1] & relation != 0 { node[2] } else { node[3] };
            }
            let leaf = (-1 - at) as usize;
            for entry in forest.leaves[leaf] as usize..forest.leaves[leaf + 1] as usize {
                let (sum, weight) = (&mut out[forest.targets[entry] as usize], forest.weights[entry]);
                *sum = match forest.aggregate {
                    Aggregate::Sum | Aggregate::Average => *sum + weight,
                    Aggregate::Min => sum.min(weight),
                    Aggregate::Max => sum.max(weight),
                };
            }
        }
        if forest.aggregate == Aggregate::Average {
            out.iter_mut().for_each(|v| *v /= forest.roots.len().max(1) as f64);
        }
    }
    Ok(vec![from_f64s(x.dtype(), &shape, out)?])
}

/// Tables of a forest in the code.
struct Tables {
    nodes: BufId,
    splits: BufId,
    leaves: BufId,
    targets: BufId,
    weights: BufId,
    roots: BufId,
}

impl Tables {
    fn new(cx: &mut LowerCx, forest: &Forest, dtype: DType, t: DType) -> OpResult<Tables> {
        // Splits are of x's type, where they may round; weights are what they are.
        let vector = |t: DType, v: &[f64]| from_f64s(t, &[v.len() as u64], v.iter().copied());
        let splits = vector(t, &f64s(&vector(dtype, &forest.splits)?)?)?;
        let weights = vector(t, &forest.weights)?;
        Ok(Tables {
            nodes: nest::table(cx, forest.nodes),
            splits: cx.const_buf(t, splits.bytes().to_vec()),
            leaves: nest::table(cx, forest.leaves),
            targets: nest::table(cx, forest.targets),
            weights: cx.const_buf(t, weights.bytes().to_vec()),
            roots: nest::table(cx, forest.roots),
        })
    }
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y, forest) = (cx.input(0), cx.output(0), Forest::of(cx.attrs)?);
    nest::require(x.dtype)?;
    let (rows, width, t) = (y.view.shape[0], y.view.shape[1], compute_type(x.dtype));
    if rows == 0 {
        return Ok(());
    }
    let tables = Tables::new(cx, &forest, x.dtype, t)?;
    let sums = cx.scratch(t, width, true);
    let op = match forest.aggregate {
        Aggregate::Sum | Aggregate::Average => BinOp::Add,
        Aggregate::Min => BinOp::Min,
        Aggregate::Max => BinOp::Max,
    };
    let scale = if forest.aggregate == Aggregate::Average { forest.roots.len().max(1) as f64 } else { 1.0 };
    cx.for_(LoopKind::Parallel, rows, |cx, row| {
        let start = nest::float(t, forest.start(x.dtype));
        cx.for_(LoopKind::Vector, width, |cx, j| cx.push(Stmt::Store(sums, j, start)));
        cx.for_range(LoopKind::Serial, Expr::Int(0), Expr::Int(forest.roots.len() as i64), 1, |cx, tree| {
            let at = cx.let_(nest::at(tables.roots, tree));
            let body = cx.block(|cx| {
                let node = Expr::Var(cx.let_(Expr::Var(at).times(4)));
                let field = |i: i64| nest::at(tables.nodes, node.clone().add(Expr::Int(i)));
                let feature = Expr::Var(cx.let_(field(0)));
                let value = Expr::Var(cx.let_(nest::load(cx, &x, &[row.clone(), feature])));
                let split = Expr::Var(cx.let_(nest::at(tables.splits, Expr::Var(at))));
                let holds = |op, set| (Expr::bin(op, value.clone(), split.clone()), Expr::Int(set));
                let cases = [holds(BinOp::Lt, LESS), holds(BinOp::Eq, EQUAL), holds(BinOp::Gt, GREATER)];
                let relation = cases.into_iter().fold(Expr::Int(UNORDERED), |other, (c, set)| select(c, set, other));
                let met = Expr::bin(BinOp::Ne, Expr::bin(BinOp::And, field(1), relation), Expr::Int(0));
                let next = select(met, field(2), field(3));
                cx.set(at, next);
            });
            cx.push(Stmt::While(Expr::bin(BinOp::Ge, Expr::Var(at), Expr::Int(0)), body));
            let leaf = Expr::Var(cx.let_(Expr::Int(-1).minus(Expr::Var(at))));
            let first = Expr::Var(cx.let_(nest::at(tables.leaves, leaf.clone())));
            let end = Expr::Var(cx.let_(nest::at(tables.leaves, leaf.add(Expr::Int(1)))));
            cx.for_range(LoopKind::Serial, first, end, 1, |cx, entry| {
                let target = Expr::Var(cx.let_(nest::at(tables.targets, entry.clone())));
                let sum = Expr::bin(op, nest::at(sums, target.clone()), nest::at(tables.weights, entry));
                cx.push(Stmt::Store(sums, target, sum));
            });
        });
        cx.for_(LoopKind::Vector, width, |cx, j| {
            let value = Expr::bin(BinOp::Div, nest::at(sums, j.clone()), nest::float(t, scale));
            nest::store(cx, &y, &[row, j], value);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let nodes = vec![0, LESS | EQUAL, 1, 2, 2, LESS, -1, -2, 1, EQUAL | UNORDERED, -3, 3, 1, GREATER, -1, -4];
    let attrs = |aggregate: &str| {
        let splits = Tensor::from_vec(&[4], vec![0.5f32, 0.0, 1.25, -1.0]);
        let weights = Tensor::from_vec(&[5], vec![1.0f32, -2.0, 0.25, 3.5, 5.0]);
        Attrs::default()
            .with("nodes", Attr::Ints(nodes.clone()))
            .with("splits", Attr::Tensor(splits))
            .with("leaves", Attr::Ints(vec![0, 1, 2, 4, 5]))
            .with("targets", Attr::Ints(vec![0, 1, 0, 2, 1]))
            .with("weights", Attr::Tensor(weights))
            .with("roots", Attr::Ints(vec![0, 2, -4]))
            .with("n_targets", Attr::Int(3))
            .with("aggregate", Attr::Str(aggregate.to_string()))
    };
    let mut all: Vec<Sample> =
        ["sum", "average", "min", "max"].map(|a| sample(attrs(a), vec![data(DType::F32, &[19, 3])])).into();
    all.extend([DType::F64, DType::F16].map(|t| sample(attrs("sum"), vec![data(t, &[5, 4])])));
    all.push(sample(attrs("sum"), vec![data(DType::F32, &[0, 3])]));
    all
}
