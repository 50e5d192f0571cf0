//! Decision trees as tables, their meaning and their code: what the operators that hold trees share.
//!
//! A row of `nodes` is: feature, test, node where the test holds, node where not, 1 if a feature that is NaN counts as holding. A test is an index
//! into `sets`, the sets of relations between feature and split that hold. A leaf has the test behind the last one and instead of nodes the
//! range of its entries in `targets` and `weights`.

mod lower;

pub(crate) use lower::{Walk, lower};

use std::cmp::Ordering;

use onnxc_ir::op::OpResult;
use onnxc_ir::{DType, Tensor};

use super::elements::{f64s, from_f64s};
use super::nest::compute_type;

/// Columns of `nodes`.
pub(crate) const COLUMNS: usize = 5;

/// Relations of a feature to a split, as bits of a set.
pub(crate) const LESS: i64 = 1;
pub(crate) const EQUAL: i64 = 2;
pub(crate) const GREATER: i64 = 4;
pub(crate) const UNORDERED: i64 = 8;

/// The sets of ONNX's tests in their order: `<=`, `<`, `>=`, `>`, `==`, `!=`.
pub(crate) const MODES: [i64; 6] = [LESS | EQUAL, LESS, GREATER | EQUAL, GREATER, EQUAL, LESS | GREATER | UNORDERED];

/// How the weights of trees come together.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

/// What happens with the weights of the leaves that a row reaches.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub aggregate: Aggregate,
    /// The value of a target before any weight.
    pub start: f64,
    /// Whether targets that still have it become 0.
    pub settle: bool,
}

/// Trees and their weights.
pub(crate) struct Forest<'a> {
    pub nodes: &'a [i64],
    pub sets: &'a [i64],
    pub splits: &'a [f64],
    pub roots: &'a [i64],
    pub targets: &'a [i64],
    pub weights: &'a [f64],
    pub sums: Sums,
}

impl Forest<'_> {
    /// The entries of the leaf that a row reaches from `root`.
    fn reach(&self, root: i64, row: &[f64]) -> std::ops::Range<usize> {
        let mut at = root as usize;
        loop {
            let node = &self.nodes[at * COLUMNS..(at + 1) * COLUMNS];
            let Some(set) = self.sets.get(node[1] as usize) else { return node[2] as usize..node[3] as usize };
            let x = row[node[0] as usize];
            let relation = match x.partial_cmp(&self.splits[at]) {
                Some(Ordering::Less) => LESS,
                Some(Ordering::Equal) => EQUAL,
                Some(Ordering::Greater) => GREATER,
                None => UNORDERED,
            };
            let holds = set & relation != 0 || node[4] != 0 && x.is_nan();
            at = if holds { node[2] } else { node[3] } as usize;
        }
    }

    /// For every row of x what the trees say, for `shape[1]` targets.
    pub(crate) fn eval(&self, x: &Tensor, shape: &[u64]) -> OpResult<Tensor> {
        let (values, features, targets) = (f64s(x)?, x.shape()[1] as usize, shape[1] as usize);
        // Rounded at every step, as compiled code does.
        let single = compute_type(x.dtype()) == DType::F32;
        let rounded = |v: f64| if single { f64::from(v as f32) } else { v };
        let Sums { aggregate, start, settle } = self.sums;
        let mut y = vec![start; shape[0] as usize * targets];
        for row in 0..shape[0] as usize {
            for root in self.roots {
                for entry in self.reach(*root, &values[row * features..(row + 1) * features]) {
                    let (sum, w) = (&mut y[row * targets + self.targets[entry] as usize], rounded(self.weights[entry]));
                    *sum = match aggregate {
                        Aggregate::Sum | Aggregate::Average => rounded(*sum + w),
                        Aggregate::Min => sum.min(w),
                        Aggregate::Max => sum.max(w),
                    };
                }
            }
        }
        let count = if aggregate == Aggregate::Average { self.roots.len().max(1) as f64 } else { 1.0 };
        let last = y.into_iter().map(|v| if settle && v == start { 0.0 } else { v / count });
        from_f64s(x.dtype(), shape, last)
    }
}
