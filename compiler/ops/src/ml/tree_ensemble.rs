//! `tree_ensemble`: the sum (or average, minimum, maximum) of what the leaves of decision trees say.
//!
//! Operand: features `[N, F]`. Attributes: `nodes`, four integers for each inner node: its feature, a set of comparisons, and where to go when one of them holds
//! and when none does (leaf i is -1-i); `splits`, what features are compared with; `leaves`, where the entries of each leaf begin in `targets` and `weights`,
//! and their number; `roots`; `n_targets`; `aggregate` (sum, average, min, max). Result `[N, n_targets]`. Meaning of ONNX TreeEnsemble-5; targets
//! without any entry are 0 in sums, and the type's outermost value in extremes.

use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, Tolerance, View};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use super::tree_import;
use crate::common::elements::{f64s, from_f64s};
use crate::common::float;
use crate::common::forest::{self, Aggregate, COLUMNS, EQUAL, Forest, GREATER, LESS, Sums, UNORDERED, Walk};
use crate::common::nest::{self, compute_type};
use crate::common::sample::{data, sample};

/// The record.
pub(crate) static TREE_ENSEMBLE: OpDef = OpDef {
    name: "tree_ensemble",
    onnx: &[tree_import::ENSEMBLE],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

struct Trees<'a> {
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

impl Trees<'_> {
    fn of(attrs: &Attrs) -> OpResult<Trees<'_>> {
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
        Ok(Trees {
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

    fn sums(&self, dtype: DType) -> Sums {
        let largest = match dtype {
            DType::F64 => f64::MAX,
            DType::F16 => 65504.0,
            DType::BF16 => f64::from(f32::from_bits(0x7f7f_0000)),
            _ => f64::from(f32::MAX),
        };
        let start = match self.aggregate {
            Aggregate::Sum | Aggregate::Average => 0.0,
            Aggregate::Min => largest,
            Aggregate::Max => -largest,
        };
        Sums { aggregate: self.aggregate, start, settle: false }
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float::check(x.dtype, "an ensemble of trees")?;
    let [n, features] = &x.shape[..] else {
        return Err(OpError::new(format!("x is {x}, it must be [N, features]")));
    };
    let forest = Trees::of(cx.attrs)?;
    forest.check(features.as_const())?;
    if features.as_const().is_none() {
        return Err(OpError::new(format!("the number of features of {x} is not known")).help("fix it with --dim or --shape"));
    }
    Ok(vec![TensorType::new(x.dtype, vec![n.clone(), Dim::Const(forest.n_targets)])])
}

/// The trees as tables with leaves behind the nodes; a test is its set. Splits are of x's type, where they may round.
struct Tables {
    nodes: Vec<i64>,
    splits: Vec<f64>,
    roots: Vec<i64>,
}

/// Every set of relations; a node's set is its index here.
const SETS: [i64; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Tables {
    fn of(trees: &Trees, dtype: DType) -> OpResult<Tables> {
        let (count, leaf) = (trees.splits.len() as i64, SETS.len() as i64);
        let place = |to: i64| if to < 0 { count - 1 - to } else { to };
        let node = |n: &[i64]| [n[0], n[1] & (leaf - 1), place(n[2]), place(n[3]), 0];
        let mut nodes: Vec<i64> = trees.nodes.chunks(4).flat_map(node).collect();
        nodes.extend(trees.leaves.windows(2).flat_map(|range| [0, leaf, range[0], range[1], 0]));
        let mut splits = f64s(&from_f64s(dtype, &[count as u64], trees.splits.iter().copied())?)?;
        splits.resize(nodes.len() / COLUMNS, 0.0);
        Ok(Tables { nodes, splits, roots: trees.roots.iter().map(|r| place(*r)).collect() })
    }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, trees) = (cx.input(0), Trees::of(cx.attrs)?);
    let Tables { nodes, splits, roots } = &Tables::of(&trees, x.dtype())?;
    let sums = trees.sums(x.dtype());
    let forest = Forest { nodes, sets: &SETS, splits, roots, targets: trees.targets, weights: &trees.weights, sums };
    Ok(vec![forest.eval(x, &cx.out_shape(0))?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, trees) = (cx.input(0), Trees::of(cx.attrs)?);
    nest::require(x.dtype)?;
    let Tables { nodes, splits, roots } = Tables::of(&trees, x.dtype)?;
    let tables = [
        ints(cx, &[splits.len() as u64, COLUMNS as u64], &nodes)?,
        floats(cx, x.dtype, &splits)?,
        ints(cx, &[roots.len() as u64], &roots)?,
        ints(cx, &[trees.targets.len() as u64], trees.targets)?,
        floats(cx, x.dtype, &trees.weights)?,
    ];
    let walk = Walk::new(cx, tables, Some(&nodes), &SETS, trees.sums(x.dtype));
    forest::lower(cx, &walk)
}

/// A constant table in the code, as an operand would be one.
fn table(cx: &mut LowerCx, t: &Tensor) -> Arg {
    let buf = cx.const_buf(t.dtype(), t.bytes().to_vec());
    Arg { buf, dtype: t.dtype(), view: View::contiguous(t.shape()), constant: None }
}

fn ints(cx: &mut LowerCx, shape: &[u64], values: &[i64]) -> OpResult<Arg> {
    let narrow: Result<Vec<i32>, _> = values.iter().map(|v| i32::try_from(*v)).collect();
    let narrow = narrow.map_err(|_| OpError::new("a number of a feature, node or target is beyond 32 bits"))?;
    Ok(table(cx, &Tensor::from_vec(shape, narrow)))
}

fn floats(cx: &mut LowerCx, dtype: DType, values: &[f64]) -> OpResult<Arg> {
    let t = from_f64s(compute_type(dtype), &[values.len() as u64], values.iter().copied())?;
    Ok(table(cx, &t))
}

fn samples() -> Vec<Sample> {
    let usual = [LESS | EQUAL, LESS, EQUAL | UNORDERED, GREATER];
    let attrs_with = |aggregate: &str, sets: [i64; 4]| {
        let nodes = vec![0, sets[0], 1, 2, 2, sets[1], -1, -2, 1, sets[2], -3, 3, 1, sets[3], -1, -4];
        let splits = Tensor::from_vec(&[4], vec![0.5f32, 0.0, 1.25, -1.0]);
        let weights = Tensor::from_vec(&[5], vec![1.0f32, -2.0, 0.25, 3.5, 5.0]);
        Attrs::default()
            .with("nodes", Attr::Ints(nodes))
            .with("splits", Attr::Tensor(splits))
            .with("leaves", Attr::Ints(vec![0, 1, 2, 4, 5]))
            .with("targets", Attr::Ints(vec![0, 1, 0, 2, 1]))
            .with("weights", Attr::Tensor(weights))
            .with("roots", Attr::Ints(vec![0, 2, -4]))
            .with("n_targets", Attr::Int(3))
            .with("aggregate", Attr::Str(aggregate.to_string()))
    };
    let attrs = |aggregate: &str| attrs_with(aggregate, usual);
    let mut all: Vec<Sample> =
        ["sum", "average", "min", "max"].map(|a| sample(attrs(a), vec![data(DType::F32, &[19, 3])])).into();
    all.extend([DType::F64, DType::F16].map(|t| sample(attrs("sum"), vec![data(t, &[5, 4])])));
    all.push(sample(attrs("sum"), vec![data(DType::F32, &[0, 3])]));
    // All sets of relations, those that no test of ONNX has among them.
    let sets = [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15], [11; 4]];
    all.extend(sets.map(|s| sample(attrs_with("sum", s), vec![data(DType::F32, &[9, 3])])));
    all
}
