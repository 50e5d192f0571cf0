//! Do the extents that types state hold at all sizes? Inference over symbols cannot see that a window does not fit, that blocks do not divide, or that there
//! is no element to choose, at some value of a dimension only. So all types are inferred again, with numbers, for values from all over the ranges.

use std::collections::{BTreeMap, BTreeSet};

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::interp::{as_dims, with_sizes};
use onnxc_ir::op::InferCx;
use onnxc_ir::{Attr, Dim, DimBindings, Tensor, TensorType, ValueId};

use super::PlanError;

/// Values at each end of a range that are looked at one after the other, and so many from between.
const ENDS: u64 = 12;
const BETWEEN: u64 = 12;

/// Nodes whose types are not what they are stated to be, each with the first sizes where they are not.
pub(super) fn check(graph: &Graph) -> Vec<PlanError> {
    let (mut errors, mut told) = (Vec::new(), BTreeSet::new());
    if graph.bounds.is_empty() {
        return errors;
    }
    for n in 0..2 * ENDS + BETWEEN {
        let sizes: DimBindings = graph.bounds.iter().map(|(name, range)| (name.clone(), sample(*range, n))).collect();
        for (node, reason) in at(graph, &sizes) {
            if told.insert(node) {
                errors.push(error(&graph.nodes[node], &sizes, &reason));
            }
        }
    }
    errors
}

/// The n-th of the values that are looked at.
fn sample((low, high): (u64, u64), n: u64) -> u64 {
    let span = high - low;
    let step = match n {
        n if n < ENDS => n,
        n if n < 2 * ENDS => span.saturating_sub(n - ENDS),
        // Odd and even ones, far from each other.
        n => (n - 2 * ENDS + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (span + 1),
    };
    low + step.min(span)
}

/// The nodes whose types are others than stated when symbols have these values, or that inference refuses then, or in whose bodies there is one.
fn at(graph: &Graph, sizes: &DimBindings) -> Vec<(usize, String)> {
    let bound = |ty: &TensorType| TensorType::new(ty.dtype, ty.shape.iter().map(|d| d.bind(sizes)).collect());
    let mut wrong = Vec::new();
    let mut known: BTreeMap<ValueId, Vec<Dim>> = BTreeMap::new();
    for (n, node) in graph.nodes.iter().enumerate() {
        let node = with_sizes(node, sizes);
        let node = node.as_ref().unwrap_or(&graph.nodes[n]);
        let types: Vec<Option<TensorType>> = node.inputs.iter().map(|i| i.map(|id| bound(graph.ty(id)))).collect();
        let constants: Vec<Option<Tensor>> = node.inputs.iter().map(|i| i.and_then(|id| graph.constant(id).cloned())).collect();
        let value = |id: &ValueId| graph.constant(*id).and_then(as_dims).or_else(|| known.get(id).cloned());
        let dims: Vec<Option<Vec<Dim>>> = node.inputs.iter().map(|i| i.as_ref().and_then(value)).collect();
        let cx =
            InferCx { attrs: &node.attrs, inputs: &types, constants: &constants, dims: &dims, n_outputs: node.outputs.len() };
        if let Some(values) = node.op.infer_dims.and_then(|f| f(&cx)) {
            known.insert(node.outputs[0], values.iter().map(|d| d.bind(sizes)).collect());
        }
        for attr in node.attrs.0.values() {
            if let Attr::Graph(body) = attr {
                let inside = |(m, reason): (usize, String)| (n, format!("{} in its body: {reason}", body.nodes[m].op.name));
                wrong.extend(at(body, sizes).into_iter().map(inside));
            }
        }
        if node.op.name == "reshape" && of_data(graph, node) {
            // Looked at when the model runs.
            continue;
        }
        match (node.op.infer)(&cx) {
            Err(e) => wrong.push((n, e.reason)),
            Ok(types) => {
                let stated = node.outputs.iter().map(|id| bound(graph.ty(*id)));
                let other = types.iter().map(bound).zip(stated).find(|(is, stated)| differ(is, stated));
                wrong.extend(other.map(|(is, stated)| (n, format!("its result is {is} then, not {stated}"))));
            }
        }
    }
    wrong
}

/// Has data a say in the sizes of a node's results?
fn of_data(graph: &Graph, node: &Node) -> bool {
    let (mut own, mut given) = (Vec::new(), Vec::new());
    node.outputs.iter().flat_map(|id| &graph.ty(*id).shape).for_each(|d| d.symbols(&mut own));
    graph.inputs.iter().flat_map(|id| &graph.ty(*id).shape).for_each(|d| d.symbols(&mut given));
    own.iter().any(|s| !given.contains(s))
}

fn differ(a: &TensorType, b: &TensorType) -> bool {
    let differ = |(m, n): (&Dim, &Dim)| m.as_const().zip(n.as_const()).is_some_and(|(m, n)| m != n);
    a.rank() != b.rank() || a.shape.iter().zip(&b.shape).any(differ)
}

fn error(node: &Node, sizes: &DimBindings, reason: &str) -> PlanError {
    let values: Vec<String> = sizes.iter().map(|(name, n)| format!("{name} = {n}")).collect();
    PlanError {
        origins: node.origins.clone(),
        op: node.op.name.to_string(),
        reason: format!("cannot be for {}: {reason}", values.join(", ")),
        help: Some("leave such sizes out: begin the range later, or name multiples, --shape INPUT=1,3,32*H,32*W".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_in_the_range_and_reach_both_ends() {
        for range in [(1, 1), (1, 2), (3, 64), (0, u64::MAX - 1), (32, 1280)] {
            let all: Vec<u64> = (0..2 * ENDS + BETWEEN).map(|n| sample(range, n)).collect();
            assert!(all.iter().all(|n| (range.0..=range.1).contains(n)), "{range:?} {all:?}");
            assert!(all.contains(&range.0) && all.contains(&range.1));
            assert!(range.1 - range.0 < 4 || all.iter().any(|n| n % 2 == 0) && all.iter().any(|n| n % 2 == 1));
        }
    }
}
