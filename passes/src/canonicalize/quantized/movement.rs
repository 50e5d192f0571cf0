//! Dequantisation sinks below data movement and maxima, quantisation rises above data movement.
//!
//! What   `op(dequantize(x))` = `dequantize(op(x))` for operators that move elements, fill with zeros, or choose the largest or smallest;
//!        `quantize(op(x))` = `op(quantize(x))` for those that move elements; a part of a split becomes a slice.
//! When   canonicalize phase.
//! Why    the operator moves a quarter of the bytes, and the pair meets its other half.
//! Class  exact: one scale and zero point for all elements, and dequantisation is monotonic.
//! Misses parameters per axis (transposes keep them); parts of a split that are used as floats.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};

use onnxc_ir::{Attr, Tensor};

use super::params::{dequantized, integer, quantizes};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Exact, roots: Roots::Named(roots), apply };
    vec![
        rule("dequantize-below-movement", SINKS_BELOW, sink),
        rule("dequantize-below-transpose", &["transpose"], sink_along_axis),
        rule("dequantize-below-pad", &["pad"], sink_below_pad),
        rule("quantize-above-movement", &["quantize_linear"], rise),
        rule("quantize-above-split", &["quantize_linear"], rise_above_split),
    ]
}

/// Operators that move elements of operand 0 and look at none.
const MOVES: &[&str] = &[
    "reshape",
    "squeeze",
    "unsqueeze",
    "flatten",
    "transpose",
    "slice",
    "expand",
    "identity",
    "depth_to_space",
    "space_to_depth",
    "tile",
    "gather",
];

/// These, and those that choose the largest or smallest.
const SINKS_BELOW: &[&str] = &[
    "reshape",
    "squeeze",
    "unsqueeze",
    "flatten",
    "transpose",
    "slice",
    "expand",
    "identity",
    "depth_to_space",
    "space_to_depth",
    "tile",
    "gather",
    "max_pool",
    "reduce_max",
    "reduce_min",
];

fn sink(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    sink_with(cx, m, m.inputs.clone())
}

/// The matched operator on the integers and `inputs[1..]`, dequantised.
fn sink_with(cx: &mut RuleCx, m: &Match, mut inputs: Vec<Option<Id>>) -> Option<Id> {
    let inner = dequantized(cx, m.input(0)?).filter(|_| m.results == 1)?;
    inputs[0] = Some(inner.x);
    let moved = cx.node(m.op.name, &inputs, m.attrs.clone())?;
    cx.node("dequantize_linear", &[Some(moved), Some(inner.scale), inner.zero], Default::default())
}

/// A transposed tensor with parameters along an axis has them along the axis' new place: weights that are stored the other way round.
fn sink_along_axis(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let inner = cx.find(m.input(0)?, "dequantize_linear").into_iter().next()?;
    let scale = inner.input(1).filter(|s| cx.ty(*s).rank() == 1)?;
    let perm = m.attrs.ints("perm")?;
    let axis = inner.attrs.int("axis").unwrap_or(1).rem_euclid(perm.len().max(1) as i64);
    if inner.attrs.int("block_size").unwrap_or(0) != 0 {
        return None;
    }
    let place = perm.iter().position(|d| *d == axis)?;
    let moved = cx.node("transpose", &[inner.input(0)], m.attrs.clone())?;
    let attrs = inner.attrs.clone().with("axis", Attr::Int(place as i64));
    cx.node("dequantize_linear", &[Some(moved), Some(scale), inner.input(2)], attrs)
}

/// Padding with real zeros is padding with zero points.
fn sink_below_pad(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let mut inputs = m.inputs.clone();
    if m.attrs.str("mode").unwrap_or("constant") == "constant" {
        if m.input(2).is_some_and(|v| cx.scalar(v) != Some(0.0)) {
            return None;
        }
        let params = dequantized(cx, m.input(0)?)?.params;
        let zero = cx.add_constant(integer(params.zero, params.dtype)?);
        inputs.resize(inputs.len().max(3), None);
        inputs[2] = Some(zero);
    }
    sink_with(cx, m, inputs)
}

fn rise(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    quantizes(cx, m)?;
    let x = m.input(0)?;
    let op = MOVES.iter().find_map(|op| cx.find(x, op).into_iter().find(|n| n.results == 1))?;
    if !cx.single_use(x) {
        return None;
    }
    let mut inputs = op.inputs.clone();
    inputs[0] = cx.node("quantize_linear", &[op.input(0), m.input(1), m.input(2)], m.attrs.clone());
    inputs[0]?;
    cx.absorb(x);
    cx.node(op.op.name, &inputs, op.attrs)
}

/// Parts are quantised one by one and may have parameters of their own, which a split of integers could not give them.
fn rise_above_split(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    quantizes(cx, m)?;
    let x = m.input(0).filter(|x| cx.single_use(*x))?;
    let (part, split) = cx.results_of(x, "split").into_iter().next()?;
    let types = cx.types(split.id);
    let axis = split.attrs.int("axis").unwrap_or(0).rem_euclid(types.first()?.rank().max(1) as i64);
    let lengths: Option<Vec<u64>> = types.iter().map(|ty| ty.shape.get(axis as usize)?.as_const()).collect();
    let (lengths, sum) = (lengths?, |lengths: &[u64]| lengths.iter().sum::<u64>() as i64);
    let (start, end) = (sum(&lengths[..part]), sum(&lengths[..=part]));
    let whole = cx.node("quantize_linear", &[split.input(0), m.input(1), m.input(2)], m.attrs.clone())?;
    let bounds = [start, end, axis, 1].map(|n| cx.add_constant(Tensor::from_vec(&[1], vec![n])));
    cx.absorb(split.id);
    cx.node_of("slice", &[&[whole], &bounds[..]].concat(), Default::default())
}
