//! `tree_sums`: for every row of x, the leaves that it reaches in some decision trees, their weights summed for each target.
//!
//! Inputs: x `[rows, features]`, f32 or f64; then constants: `nodes` i32 `[n, 5]`, `splits` `[n]` of x's type, `roots` i32 `[trees]`, `targets` i32 `[w]`,
//! `weights` `[w]` of x's type. A node is: feature, test (see [`TESTS`]), node where the test holds, node where not, 1 if NaN counts as holding; a leaf has
//! the test [`LEAF`] and instead of nodes the range of its entries in `targets` and `weights`. Children come behind their parents, so every walk ends.
//! Attributes: `n_targets`; `aggregate`, `SUM`, `MIN` or `MAX` of the weights of all trees. Targets without a weight are 0.

use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use crate::common::elements::{f64s, from_f64s};
use crate::common::forest::{self, Aggregate, COLUMNS, Forest, Sums, Walk};
use crate::common::sample;
use crate::composed::classic::trees;

/// The record.
pub(crate) static TREE_SUMS: OpDef = OpDef {
    name: "tree_sums",
    onnx: &[trees::REGRESSOR, trees::CLASSIFIER],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

/// ONNX's names of tests, in the order of their numbers: the feature `<=` the split, and so on.
pub(crate) const TESTS: &[&str] = &["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];
/// The test of a leaf.
pub(crate) const LEAF: i64 = 6;
fn aggregate(attrs: &Attrs) -> OpResult<Aggregate> {
    match attrs.str("aggregate").unwrap_or("SUM") {
        "SUM" => Ok(Aggregate::Sum),
        "MIN" => Ok(Aggregate::Min),
        "MAX" => Ok(Aggregate::Max),
        other => Err(OpError::new(format!("aggregate function {other:?} is unknown")).help("SUM, AVERAGE, MIN or MAX")),
    }
}

fn sums(attrs: &Attrs) -> OpResult<Sums> {
    let aggregate = aggregate(attrs)?;
    let start = match aggregate {
        Aggregate::Sum | Aggregate::Average => 0.0,
        Aggregate::Min => f64::INFINITY,
        Aggregate::Max => f64::NEG_INFINITY,
    };
    Ok(Sums { aggregate, start, settle: start != 0.0 })
}

fn n_targets(attrs: &Attrs) -> OpResult<u64> {
    let n = attrs.int("n_targets").unwrap_or(1);
    u64::try_from(n)
        .ok()
        .filter(|n| (1..1 << 24).contains(n))
        .ok_or_else(|| OpError::new(format!("n_targets is {n}, which is no count")))
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    if !matches!(x.dtype, DType::F32 | DType::F64) || x.rank() != 2 {
        return Err(OpError::new(format!("x is {x}: rows of f32 or f64 are needed")));
    }
    let features = x.shape[1].as_const().ok_or_else(|| {
        OpError::new(format!("x is {x}: the number of features must be known")).help("fix it with --dim or --shape")
    })?;
    let targets = n_targets(cx.attrs)?;
    Trees::of(|i| cx.constant(i), x.dtype)?.check(features, targets, aggregate(cx.attrs)?)?;
    Ok(vec![TensorType::new(x.dtype, vec![x.shape[0].clone(), Dim::Const(targets)])])
}

/// The constants.
struct Trees {
    nodes: Vec<i64>,
    splits: Vec<f64>,
    roots: Vec<i64>,
    targets: Vec<i64>,
    weights: Vec<f64>,
}

impl Trees {
    fn of<'a>(constant: impl Fn(usize) -> Option<&'a Tensor>, dtype: DType) -> OpResult<Trees> {
        let get = |i: usize, what: &str, dtype: DType| {
            let t = constant(i).ok_or_else(|| OpError::new(format!("{what} must be known when compiling")))?;
            let right = t.dtype() == dtype;
            if right { Ok(t) } else { Err(OpError::new(format!("{what} are of type {}, not {dtype}", t.dtype()))) }
        };
        let ints = |i: usize, what: &str| Ok(get(i, what, DType::I32)?.to_i64s().unwrap_or_default());
        let floats = |i: usize, what: &str| f64s(get(i, what, dtype)?);
        Ok(Trees {
            nodes: ints(1, "nodes")?,
            splits: floats(2, "splits")?,
            roots: ints(3, "roots")?,
            targets: ints(4, "targets")?,
            weights: floats(5, "weights")?,
        })
    }

    /// All indices are inside, so that no walk can leave the tables or go on for ever.
    fn check(&self, features: u64, targets: u64, aggregate: Aggregate) -> OpResult<()> {
        let n = self.splits.len() as i64;
        let entries = self.targets.len() as i64;
        if self.nodes.len() != self.splits.len() * COLUMNS || self.targets.len() != self.weights.len() {
            return Err(OpError::new("the tables of the trees differ in length"));
        }
        let good = |(i, node): (usize, &[i64])| match node {
            [_, LEAF, from, to, _] => 0 <= *from && from <= to && *to <= entries,
            [feature, test, yes, no, _] => {
                let behind = |c: &i64| *c > i as i64 && *c < n;
                (0..features as i64).contains(feature) && (0..LEAF).contains(test) && behind(yes) && behind(no)
            }
            _ => false,
        };
        if let Some(i) = self.nodes.chunks(COLUMNS).enumerate().position(|node| !good(node)) {
            let node = &self.nodes[i * COLUMNS..(i + 1) * COLUMNS];
            let reason =
                format!("node {i} of the trees refers to feature {}, or to nodes or weights, that do not exist", node[0]);
            return Err(OpError::new(reason).help(format!("x has {features} features")));
        }
        if !self.roots.iter().all(|r| (0..n).contains(r)) || !self.targets.iter().all(|t| (0..targets as i64).contains(t)) {
            return Err(OpError::new(format!("a root or a target does not exist: there are {n} nodes and {targets} targets")));
        }
        if aggregate != Aggregate::Sum && self.weights.iter().any(|w| !w.is_finite()) {
            return Err(OpError::new("weights that are not finite are not supported for MIN and MAX"));
        }
        Ok(())
    }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let Trees { nodes, splits, roots, targets, weights } = &Trees::of(|i| cx.opt(i), x.dtype())?;
    let forest = Forest { nodes, sets: &forest::MODES, splits, roots, targets, weights, sums: sums(cx.attrs)? };
    Ok(vec![forest.eval(x, &cx.out_shape(0))?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let tables = [1, 2, 3, 4, 5].map(|i| cx.input(i));
    let known = tables[0].constant.as_ref().and_then(Tensor::to_i64s);
    let sums = sums(cx.attrs)?;
    let walk = Walk::new(cx, tables, known.as_deref(), &forest::MODES, sums);
    forest::lower(cx, &walk)
}

fn samples() -> Vec<Sample> {
    let ints = |shape: &[u64], v: Vec<i32>| Some(SampleInput::Const(Tensor::from_vec(shape, v)));
    let case = |dtype: DType, rows: u64, tests: [i32; 2], targets: i64, aggregate: &str| {
        let floats = |v: &[f64]| {
            Some(SampleInput::Const(from_f64s(dtype, &[v.len() as u64], v.iter().copied()).expect("internal: a float type")))
        };
        let leaf = LEAF as i32;
        // Two trees: one of three leaves, one that is a leaf.
        let nodes = vec![
            0, tests[0], 1, 4, 1, 2, tests[1], 2, 3, 0, 0, leaf, 0, 1, 0, 0, leaf, 1, 3, 0, 0, leaf, 3, 3, 0, 0, leaf, 3, 4, 0,
        ];
        let last = (targets - 1) as i32;
        let tables = vec![
            sample::data(dtype, &[rows, 3]),
            ints(&[6, 5], nodes),
            floats(&[0.5, -0.25, 0.0, 0.0, 0.0, 0.0]),
            ints(&[2], vec![0, 5]),
            ints(&[4], vec![0, last, 0, last]),
            floats(&[0.3, -1.5, 0.7, 0.1]),
        ];
        let attrs = Attrs::default().with("n_targets", Attr::Int(targets)).with("aggregate", Attr::Str(aggregate.into()));
        sample::sample(attrs, tables)
    };
    vec![
        case(DType::F32, 19, [0, 0], 1, "SUM"),
        case(DType::F32, 7, [1, 1], 3, "SUM"),
        case(DType::F32, 7, [2, 3], 2, "MIN"),
        case(DType::F64, 7, [4, 5], 3, "MAX"),
        case(DType::F64, 1, [5, 0], 1, "SUM"),
        case(DType::F32, 0, [0, 0], 1, "SUM"),
    ]
}
