//! ai.onnx.ml `TreeEnsembleRegressor` and `TreeEnsembleClassifier`: their lists become tables, sums become scores and labels.

use std::collections::BTreeMap;

use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, DType, Tensor, ValueId};

use super::import;
use super::scores::{Labels, Transform, binary, classify};
use crate::common::elements::{f64s, from_f64s};
use crate::common::forest::COLUMNS;
use crate::composed::Build;
use crate::tree_sums::{LEAF, TESTS};

pub(crate) const REGRESSOR: Import = import("TreeEnsembleRegressor", regressor);
pub(crate) const CLASSIFIER: Import = import("TreeEnsembleClassifier", classifier);

/// Leaf weights by (tree, node): targets and values.
type Weights = BTreeMap<(i64, i64), Vec<(i64, f64)>>;

fn ints<'a>(attrs: &'a Attrs, name: &str) -> &'a [i64] {
    attrs.ints(name).unwrap_or_default()
}

/// A list of floats, or of doubles in a tensor; and whether it was one.
fn floats(attrs: &Attrs, name: &str) -> OpResult<(Vec<f64>, bool)> {
    match attrs.tensor(&format!("{name}_as_tensor")) {
        Some(t) if !t.is_empty() => Ok((f64s(t)?, t.dtype() == DType::F64)),
        _ => Ok((attrs.floats(name).unwrap_or_default().iter().map(|v| f64::from(*v)).collect(), false)),
    }
}

/// Refuses lists that must be of one length.
fn same_length(lists: &[(&str, usize)]) -> OpResult<usize> {
    let n = lists[0].1;
    match lists.iter().find(|l| l.1 != n) {
        Some(l) => Err(OpError::new(format!("{} has {} elements, {} has {n}", l.0, l.1, lists[0].0))),
        None => Ok(n),
    }
}

/// The lists of weights that start with `prefix` (`class` or `target`).
fn weights(attrs: &Attrs, prefix: &str) -> OpResult<(Weights, bool)> {
    let name = |rest: &str| format!("{prefix}_{rest}");
    let (trees, nodes, ids) = (ints(attrs, &name("treeids")), ints(attrs, &name("nodeids")), ints(attrs, &name("ids")));
    let (values, double) = floats(attrs, &name("weights"))?;
    same_length(&[
        ("the list of trees", trees.len()),
        ("of nodes", nodes.len()),
        ("of ids", ids.len()),
        ("of weights", values.len()),
    ])?;
    let mut all = Weights::new();
    for (i, value) in values.into_iter().enumerate() {
        all.entry((trees[i], nodes[i])).or_default().push((ids[i], value));
    }
    Ok((all, double))
}

/// The lists of nodes.
struct Nodes<'a> {
    trees: &'a [i64],
    ids: &'a [i64],
    features: &'a [i64],
    tests: Vec<i64>,
    splits: Vec<f64>,
    yes: &'a [i64],
    no: &'a [i64],
    missing: &'a [i64],
    /// Splits are doubles.
    double: bool,
}

impl<'a> Nodes<'a> {
    fn of(attrs: &'a Attrs) -> OpResult<Nodes<'a>> {
        let list = |name: &str| ints(attrs, &format!("nodes_{name}"));
        let modes = match attrs.get("nodes_modes") {
            Some(Attr::Strs(modes)) => modes.as_slice(),
            _ => &[],
        };
        let test = |mode: &String| match TESTS.iter().position(|t| t == mode) {
            Some(test) => Ok(test as i64),
            None if mode == "LEAF" => Ok(LEAF),
            None => Err(OpError::new(format!("nodes_modes: {mode:?} is unknown"))),
        };
        let (splits, double) = floats(attrs, "nodes_values")?;
        let nodes = Nodes {
            trees: list("treeids"),
            ids: list("nodeids"),
            features: list("featureids"),
            tests: modes.iter().map(test).collect::<OpResult<_>>()?,
            splits,
            yes: list("truenodeids"),
            no: list("falsenodeids"),
            missing: list("missing_value_tracks_true"),
            double,
        };
        same_length(&[
            ("nodes_treeids", nodes.trees.len()),
            ("nodes_nodeids", nodes.ids.len()),
            ("nodes_featureids", nodes.features.len()),
            ("nodes_modes", nodes.tests.len()),
            ("nodes_values", nodes.splits.len()),
            ("nodes_truenodeids", nodes.yes.len()),
            ("nodes_falsenodeids", nodes.no.len()),
        ])?;
        if !nodes.missing.is_empty() {
            same_length(&[("nodes_missing_value_tracks_true", nodes.missing.len()), ("nodes_treeids", nodes.trees.len())])?;
        }
        Ok(nodes)
    }
}

/// The operands of `tree_sums` behind x.
#[derive(Default)]
struct Tables {
    nodes: Vec<i64>,
    splits: Vec<f64>,
    roots: Vec<i64>,
    targets: Vec<i64>,
    weights: Vec<f64>,
}

impl Tables {
    /// Parents before children, each tree from its root, which is its first node.
    fn of(nodes: &Nodes, weights: &Weights) -> OpResult<Tables> {
        let mut places = BTreeMap::new();
        let mut roots = Vec::new();
        for (i, key) in nodes.trees.iter().zip(nodes.ids).enumerate() {
            if places.range((*key.0, i64::MIN)..=(*key.0, i64::MAX)).next().is_none() {
                roots.push(i);
            }
            if places.insert((*key.0, *key.1), i).is_some() {
                return Err(OpError::new(format!("node {} of tree {} is there twice", key.1, key.0)));
            }
        }
        let mut out = Tables::default();
        let mut seen = vec![false; nodes.ids.len()];
        for root in roots {
            out.roots.push(out.splits.len() as i64);
            out.tree(nodes, weights, &places, &mut seen, root)?;
        }
        Ok(out)
    }

    fn tree(
        &mut self,
        nodes: &Nodes,
        weights: &Weights,
        places: &BTreeMap<(i64, i64), usize>,
        seen: &mut [bool],
        root: usize,
    ) -> OpResult<()> {
        // What is left to visit: a node, and where its parent names it.
        let mut left = vec![(root, None)];
        while let Some((i, parent)) = left.pop() {
            let at = self.splits.len();
            if std::mem::replace(&mut seen[i], true) {
                return Err(OpError::new(format!("node {} of tree {} has two parents", nodes.ids[i], nodes.trees[i])));
            }
            if let Some(place) = parent {
                let place: usize = place;
                self.nodes[place] = at as i64;
            }
            self.splits.push(nodes.splits[i]);
            let missing = i64::from(nodes.missing.get(i).is_some_and(|m| *m != 0));
            if nodes.tests[i] == LEAF {
                let from = self.targets.len() as i64;
                for (target, weight) in weights.get(&(nodes.trees[i], nodes.ids[i])).into_iter().flatten() {
                    self.targets.push(*target);
                    self.weights.push(*weight);
                }
                self.nodes.extend([0, LEAF, from, self.targets.len() as i64, 0]);
                continue;
            }
            self.nodes.extend([nodes.features[i], nodes.tests[i], 0, 0, missing]);
            for (column, id) in [(3, nodes.no[i]), (2, nodes.yes[i])] {
                let child = places.get(&(nodes.trees[i], id)).ok_or_else(|| {
                    OpError::new(format!("tree {} has no node {id}, to which node {} refers", nodes.trees[i], nodes.ids[i]))
                })?;
                left.push((*child, Some(at * COLUMNS + column)));
            }
        }
        Ok(())
    }

    fn constants(&self, cx: &mut dyn ImportCx, dtype: DType) -> OpResult<[ValueId; 5]> {
        let n = self.splits.len() as u64;
        let ints = |cx: &mut dyn ImportCx, shape: &[u64], v: &[i64]| {
            let narrow = v.iter().map(|i| i32::try_from(*i)).collect::<Result<Vec<i32>, _>>();
            let narrow = narrow.map_err(|_| OpError::new("a number of a feature, node or target is beyond 32 bits"))?;
            Ok::<_, OpError>(cx.constant(Tensor::from_vec(shape, narrow)))
        };
        let floats = |cx: &mut dyn ImportCx, v: &[f64]| {
            Ok::<_, OpError>(cx.constant(from_f64s(dtype, &[v.len() as u64], v.iter().copied())?))
        };
        Ok([
            ints(cx, &[n, COLUMNS as u64], &self.nodes)?,
            floats(cx, &self.splits)?,
            ints(cx, &[self.roots.len() as u64], &self.roots)?,
            ints(cx, &[self.targets.len() as u64], &self.targets)?,
            floats(cx, &self.weights)?,
        ])
    }
}

/// The sums for every target, in the type in which they are computed.
fn sums(cx: &mut dyn ImportCx, weights: &Weights, double: bool, n_targets: i64, aggregate: &str) -> OpResult<ValueId> {
    let attrs = cx.attrs().clone();
    let nodes = Nodes::of(&attrs)?;
    let tables = Tables::of(&nodes, weights)?;
    let (x, given) = (cx.input(0)?, cx.ty(0)?);
    let wide = given.dtype == DType::F64 || double || nodes.double;
    let dtype = if wide { DType::F64 } else { DType::F32 };
    let mut b = Build(cx);
    let mut x = b.cast(x, dtype)?;
    if given.rank() == 1 {
        x = b.unsqueeze(x, &[0])?;
    }
    let constants = tables.constants(b.0, dtype)?;
    let inputs: Vec<Option<ValueId>> = [x].into_iter().chain(constants).map(Some).collect();
    let average = aggregate == "AVERAGE";
    let how = if average { "SUM" } else { aggregate };
    let attrs = Attrs::default().with("n_targets", Attr::Int(n_targets)).with("aggregate", Attr::Str(how.into()));
    let y = b.0.node("tree_sums", &inputs, attrs)?[0];
    if !average {
        return Ok(y);
    }
    let count = b.scalar(dtype, tables.roots.len().max(1) as f64)?;
    b.op("div", &[y, count])
}

/// Adds what every row starts from.
fn based(cx: &mut dyn ImportCx, y: ValueId, base: &[f64]) -> OpResult<ValueId> {
    if base.is_empty() {
        return Ok(y);
    }
    let mut b = Build(cx);
    let base = b.0.constant(from_f64s(b.dtype(y), &[base.len() as u64], base.iter().copied())?);
    b.op("add", &[y, base])
}

fn base_values(attrs: &Attrs, allowed: &[i64]) -> OpResult<Vec<f64>> {
    let (base, _) = floats(attrs, "base_values")?;
    if !base.is_empty() && !allowed.contains(&(base.len() as i64)) {
        return Err(
            OpError::new(format!("{} base_values are not supported here", base.len())).help(format!("there may be {allowed:?}"))
        );
    }
    Ok(base)
}

fn regressor(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let attrs = cx.attrs().clone();
    let n = attrs.int("n_targets").unwrap_or(1);
    let (weights, double) = weights(&attrs, "target")?;
    let base = base_values(&attrs, &[n])?;
    let transform = Transform::of(cx)?;
    let y = sums(cx, &weights, double, n, attrs.str("aggregate_function").unwrap_or("SUM"))?;
    let y = based(cx, y, &base)?;
    let mut b = Build(cx);
    let y = b.cast(y, DType::F32)?;
    Ok(vec![transform.of_targets(&mut b, y)?])
}

/// Two classes whose leaves all count for the first are one score: its sign, or for weights without a sign its distance from a half, decides.
fn classifier(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let attrs = cx.attrs().clone();
    let labels = Labels::of(cx, "classlabels_int64s")?.several()?;
    let (weights, double) = weights(&attrs, "class")?;
    let transform = Transform::of(cx)?;
    let n = labels.count() as i64;
    let each = || weights.values().flatten();
    let positive = each().all(|(_, w)| *w >= 0.0);
    let single = n == 2 && each().all(|(id, _)| *id == 0);
    let second = n == 2 && !single && each().all(|(id, _)| *id == 1);
    if single {
        let base = base_values(&attrs, &[1])?;
        let y = sums(cx, &weights, double, 1, "SUM")?;
        let y = based(cx, y, &base)?;
        let mut b = Build(cx);
        let y = b.cast(y, DType::F32)?;
        return binary(&mut b, y, &labels, transform, if positive { 0.5 } else { 0.0 });
    }
    let base = base_values(&attrs, [n].get(usize::from(second)..).unwrap_or_default())?;
    let y = sums(cx, &weights, double, n, "SUM")?;
    let y = based(cx, y, &base)?;
    let mut b = Build(cx);
    let y = b.cast(y, DType::F32)?;
    if !second {
        return classify(&mut b, y, &labels, transform);
    }
    let score = b.slice(y, 1, (1, 2, 1))?;
    let label = labels.by_sign(&mut b, score, if positive { 0.5 } else { 0.0 })?;
    Ok(vec![label, transform.of_scores(&mut b, y)?])
}
