//! ONNX `TreeEnsemble` as [`tree_ensemble`](super::tree_ensemble) and what follows it.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, Tensor, ValueId};

use super::DOMAIN;
use crate::common::elements::f64s;
use crate::common::forest::{EQUAL, MODES, UNORDERED};
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// ONNX `TreeEnsemble`.
pub(super) const ENSEMBLE: Import = Import { domain: DOMAIN, name: "TreeEnsemble", opsets: (5, NEWEST), build: ensemble };

/// A forest while it is put together.
#[derive(Default)]
struct Parts {
    nodes: Vec<i64>,
    splits: Vec<f64>,
    leaves: Vec<i64>,
    targets: Vec<i64>,
    weights: Vec<f64>,
    roots: Vec<i64>,
}

impl Parts {
    fn attrs(self, n_targets: i64, aggregate: &str) -> Attrs {
        let vector = |v: Vec<f64>| Attr::Tensor(Tensor::from_vec(&[v.len() as u64], v));
        Attrs::default()
            .with("nodes", Attr::Ints(self.nodes))
            .with("splits", vector(self.splits))
            .with("leaves", Attr::Ints(self.leaves))
            .with("targets", Attr::Ints(self.targets))
            .with("weights", vector(self.weights))
            .with("roots", Attr::Ints(self.roots))
            .with("n_targets", Attr::Int(n_targets))
            .with("aggregate", Attr::Str(aggregate.to_string()))
    }
}

fn missing(name: &str) -> OpError {
    OpError::new(format!("attribute {name} is missing"))
}

fn list<'a>(attrs: &'a Attrs, name: &str, n: usize) -> OpResult<&'a [i64]> {
    let v = attrs.ints(name).ok_or_else(|| missing(name))?;
    if v.len() == n { Ok(v) } else { Err(OpError::new(format!("{name} has {} entries, {n} are needed", v.len()))) }
}

/// The list of a tensor of numbers.
fn numbers(attrs: &Attrs, name: &str) -> OpResult<Option<Vec<f64>>> {
    attrs.tensor(name).map(f64s).transpose()
}

/// Mode of a node that asks whether its feature is one of several values.
const MEMBER: i64 = 6;

/// Nodes behind those of the model: one for each further value of a set.
#[derive(Default)]
struct Chains {
    nodes: Vec<i64>,
    splits: Vec<f64>,
    /// Number of the first one.
    before: i64,
}

impl Chains {
    /// Adds the test of a feature against `values`, and answers which node begins it.
    fn add(&mut self, feature: i64, values: &[f64], yes: i64, no: i64) -> i64 {
        let first = self.before + self.splits.len() as i64;
        for (i, value) in (1..).zip(values) {
            let next = if i == values.len() as i64 { no } else { first + i };
            self.nodes.extend([feature, EQUAL, yes, next]);
            self.splits.push(*value);
        }
        if values.is_empty() { no } else { first }
    }
}

/// Lists of members, each closed by a NaN.
fn memberships(attrs: &Attrs) -> OpResult<Vec<Vec<f64>>> {
    let all = numbers(attrs, "membership_values")?.unwrap_or_default();
    Ok(all.split(|v| v.is_nan()).map(<[f64]>::to_vec).collect())
}

fn ensemble(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let attrs = cx.attrs().clone();
    let splits = numbers(&attrs, "nodes_splits")?.ok_or_else(|| missing("nodes_splits"))?;
    let modes = attrs.tensor("nodes_modes").and_then(Tensor::to_i64s).ok_or_else(|| missing("nodes_modes"))?;
    let n = splits.len();
    if modes.len() != n {
        return Err(OpError::new(format!("nodes_modes has {} entries, {n} are needed", modes.len())));
    }
    let get = |name: &str| list(&attrs, name, n);
    let features = get("nodes_featureids")?;
    let branches = [(get("nodes_trueleafs")?, get("nodes_truenodeids")?), (get("nodes_falseleafs")?, get("nodes_falsenodeids")?)];
    let track = if attrs.ints("nodes_missing_value_tracks_true").is_some_and(|v| !v.is_empty()) {
        get("nodes_missing_value_tracks_true")?.to_vec()
    } else {
        vec![0; n]
    };
    let mut parts = Parts { splits, ..Parts::default() };
    parts.weights = numbers(&attrs, "leaf_weights")?.ok_or_else(|| missing("leaf_weights"))?;
    parts.targets = list(&attrs, "leaf_targetids", parts.weights.len())?.to_vec();
    parts.leaves = (0..=parts.weights.len() as i64).collect();
    parts.roots = attrs.ints("tree_roots").ok_or_else(|| missing("tree_roots"))?.to_vec();
    let mut members = memberships(&attrs)?.into_iter();
    let mut chains = Chains { before: n as i64, ..Chains::default() };
    for i in 0..n {
        let [yes, no] = branches.map(|(leaf, to)| if leaf[i] != 0 { (-1i64).saturating_sub(to[i]) } else { to[i] });
        let unordered = if track[i] != 0 { UNORDERED } else { 0 };
        let (set, no) = match usize::try_from(modes[i]).ok().and_then(|m| MODES.get(m)) {
            Some(set) => (*set, no),
            None if modes[i] == MEMBER => {
                let values = members.next().ok_or_else(|| OpError::new("membership_values is too short"))?;
                parts.splits[i] = values.first().copied().unwrap_or(0.0);
                let set = if values.is_empty() { 0 } else { EQUAL };
                (set, chains.add(features[i], values.get(1..).unwrap_or(&[]), yes, no))
            }
            None => return Err(OpError::new(format!("mode {} of a node is unknown", modes[i]))),
        };
        parts.nodes.extend([features[i], set | unordered, yes, no]);
    }
    parts.nodes.extend(chains.nodes);
    parts.splits.extend(chains.splits);
    let aggregate = match attrs.int("aggregate_function").unwrap_or(1) {
        0 => "average",
        1 => "sum",
        2 => "min",
        3 => "max",
        other => return Err(OpError::new(format!("aggregate_function {other} is unknown")).help("0 to 3")),
    };
    let post = match attrs.int("post_transform").unwrap_or(0) {
        0 => "NONE",
        1 => "SOFTMAX",
        2 => "LOGISTIC",
        3 => "SOFTMAX_ZERO",
        4 => "PROBIT",
        other => return Err(OpError::new(format!("post_transform {other} is unknown")).help("0 to 2")),
    };
    let n_targets = attrs.int("n_targets").ok_or_else(|| missing("n_targets"))?;
    let x = cx.input(0)?;
    let mut b = Build(cx);
    let y = b.with("tree_ensemble", &[x], parts.attrs(n_targets, aggregate))?;
    Ok(vec![transformed(&mut b, y, post)?])
}

/// What is done with the sums of all trees.
fn transformed(b: &mut Build, y: ValueId, post: &str) -> OpResult<ValueId> {
    match post {
        "NONE" => Ok(y),
        "SOFTMAX" => b.with("softmax", &[y], int_attrs(&[("axis", -1)])),
        "LOGISTIC" => b.op("sigmoid", &[y]),
        other => Err(OpError::new(format!("post_transform {other} is not supported")).help("NONE, SOFTMAX or LOGISTIC")),
    }
}
