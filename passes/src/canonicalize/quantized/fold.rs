//! What is computed from constants is constant, and a quantisation undoes a dequantisation.
//!
//! What   `op(w)` of constants = its value; `quantize(dequantize(x))` with equal parameters = `x`.
//! When   canonicalize phase. Import folds all constants but dequantised ones: the product rules want to see those as integers. Whoever needs floats, and
//!        what is computed from them, takes the folded form.
//! Class  exact: `(x - z) * s / s` is within two roundings of the integer `x - z`, which is below 2^17.
//! Misses different parameters: fusion makes a map from integers to integers of it. Results larger than import would fold.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};

use onnxc_ir::op::Lower;
use onnxc_ir::{DType, Graph, Node, Tensor};

use super::params::{dequantized, quantizes, values};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Exact, roots, apply };
    vec![
        rule("fold-constants", Roots::Where(|op| !matches!(op.lower, Lower::None)), fold_most),
        rule(LATE, Roots::Named(&["dequantize_linear"]), fold_weights),
        rule("quantize-of-dequantize", Roots::Named(&["quantize_linear"]), round_trip),
    ]
}

/// The rule that waits until all others are done: what it makes is four times as large as the integers, and mostly nobody needs it then.
pub const LATE: &str = "fold-dequantized";
/// Dequantised constants with more elements are weights.
const WEIGHTS: usize = 64;

/// Are there weights in a graph for [`LATE`]?
pub fn has_weights(graph: &Graph) -> bool {
    let of_weights = |n: &Node| {
        let values = n.inputs.first().copied().flatten().and_then(|id| graph.constant(id));
        n.op.name == "dequantize_linear" && values.is_some_and(|t| t.len() > WEIGHTS)
    };
    graph.nodes.iter().any(of_weights)
}

fn are_weights(cx: &RuleCx, m: &Match) -> bool {
    let values = m.input(0).and_then(|x| cx.constant(x));
    m.op.name == "dequantize_linear" && values.is_some_and(|t| t.len() > WEIGHTS)
}

fn fold_most(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if are_weights(cx, m) { None } else { fold(cx, m) }
}

fn fold_weights(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if are_weights(cx, m) { fold(cx, m) } else { None }
}

/// Elements that a node may read and write, as for import; more for operators whose work is no more than that.
const MOST_ELEMENTS: usize = 1 << 22;
const LINEAR: &[&str] = &["dequantize_linear", "cast", "transpose", "reshape"];
const MOST_LINEAR_ELEMENTS: usize = 1 << 25;

fn fold(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if cx.constant(m.id).is_some() || m.results != 1 || m.inputs.is_empty() {
        return None;
    }
    let present: Vec<Id> = m.inputs.iter().copied().collect::<Option<_>>().or_else(|| leading(m))?;
    let operands: Vec<Tensor> = present.iter().map(|id| cx.constant(*id).cloned()).collect::<Option<_>>()?;
    let written = cx.ty(m.id).const_shape()?.iter().try_fold(1usize, |n, d| n.checked_mul(*d as usize))?;
    let most = if LINEAR.contains(&m.op.name) { MOST_LINEAR_ELEMENTS } else { MOST_ELEMENTS };
    if operands.iter().map(Tensor::len).sum::<usize>() + written > most {
        return None;
    }
    let value = match weights(m, &operands) {
        Some(value) => value,
        None => cx.fold(m.op.name, &operands, &m.attrs)?,
    };
    Some(cx.add_constant(value))
}

/// Dequantised 8-bit weights with a scale for all, or for each index of the first axis: millions of elements, for which the reference evaluation of any
/// type takes seconds.
fn weights(m: &Match, operands: &[Tensor]) -> Option<Tensor> {
    let (x, scales) = (operands.first()?, operands.get(1).filter(|s| s.dtype() == DType::F32 && s.shape().len() <= 1)?);
    let by_default = m.op.name == "dequantize_linear" && m.attrs.int("block_size").unwrap_or(0) == 0;
    let along = m.attrs.int("axis").unwrap_or(1) == 0 && x.shape().first() == Some(&(scales.len() as u64));
    if !by_default || m.attrs.get("output_dtype").is_some() || x.is_empty() || !(scales.len() == 1 || along) {
        return None;
    }
    let zeros = operands.get(2).map_or_else(|| Some(vec![0; scales.len()]), values).filter(|z| z.len() == scales.len())?;
    let scales = scales.to_vec::<f32>();
    let filter = x.len() / scales.len();
    let params = scales.iter().zip(&zeros);
    let filters = values(x)?;
    let real =
        filters.chunks(filter).zip(params).flat_map(|(f, (s, z))| f.iter().map(move |w| (f32::from(*w) - f32::from(*z)) * s));
    Some(Tensor::from_vec(x.shape(), real.collect()))
}

/// The operands, when only trailing ones are absent.
fn leading(m: &Match) -> Option<Vec<Id>> {
    let first = m.inputs.iter().position(Option::is_none)?;
    m.inputs[first..].iter().all(Option::is_none).then(|| m.inputs[..first].iter().copied().flatten().collect())
}

fn round_trip(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let inner = dequantized(cx, m.input(0)?)?;
    (quantizes(cx, m)? == inner.params).then_some(inner.x)
}
