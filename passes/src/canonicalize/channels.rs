//! Channels that nobody reads are not computed.
//!
//! What   `gather(op(x, ...), channels)` = `op'(gather(x, channels), ...)`, where the result of op has these channels from the same channels of its operands:
//!        elementwise operators, pools, reductions over other dimensions, depthwise convolutions, reshapes and transpositions that keep the channels'
//!        dimension, quantisation; and for convolutions and products with weights `op(x, gather(w, channels))`, where the choice ends.
//! When   canonicalize phase. A choice is a `gather` along one dimension with constant, ascending indices: what compression leaves of whole channels
//!        (form `channels`), and what models themselves do.
//! Why    a layer that reads a part of its channels makes those before it smaller: their filters, depthwise kernels, activations, and weights.
//! Class  exact: every element that is left is computed as before.
//! Misses results that others read too (where all of them choose the same channels: [`crate::streams`]), grouped convolutions that are not depthwise, concatenations, normalisations over channels.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs, Graph, Tensor, ValueId};

use crate::channels::{Part, Site};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    vec![Rule { name: "raise-channels", class: RuleClass::Exact, roots: Roots::Named(&["gather"]), apply: raise }]
}

/// The dimension and the indices of a choice of channels.
fn choice(cx: &RuleCx, m: &Match) -> Option<(usize, Tensor)> {
    let x = m.input(0)?;
    let axis = m.attrs.int("axis").unwrap_or(0);
    let axis = usize::try_from(if axis < 0 { axis + cx.ty(x).rank() as i64 } else { axis }).ok()?;
    let all = cx.ty(x).shape.get(axis)?.as_const()?;
    let indices = cx.constant(m.input(1)?).filter(|t| t.shape().len() == 1 && !t.is_empty())?;
    let list = indices.to_i64s()?;
    let ascending = list[0] >= 0 && list.windows(2).all(|p| p[0] < p[1]) && list.last().is_some_and(|n| (*n as u64) < all);
    ascending.then(|| (axis, indices.clone()))
}

fn raise(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (axis, indices) = choice(cx, m)?;
    let x = m.input(0)?;
    if cx.ty(x).shape[axis].as_const() == Some(indices.len() as u64) {
        return Some(x);
    }
    if !cx.single_use(x) || cx.constant(x).is_some() {
        return None;
    }
    let mut raised = None;
    for below in cx.operators(x).into_iter().filter(|b| b.results == 1) {
        let Some((parts, attrs)) = chosen(cx, &below, axis, indices.len() as u64) else { continue };
        let operands: Option<Vec<Option<Id>>> =
            below.inputs.iter().zip(parts).map(|(input, part)| operand(cx, *input, part, &indices)).collect();
        let Some(operands) = operands else { continue };
        cx.absorb(x);
        let Some(one) = cx.node(below.op.name, &operands, attrs) else { continue };
        raised.iter().for_each(|other| cx.unite(*other, one));
        raised = Some(one);
    }
    raised
}

fn chosen(cx: &RuleCx, m: &Match, axis: usize, count: u64) -> Option<(Vec<Part>, Attrs)> {
    let ty = |id: &Option<Id>| id.map(|id| cx.ty(id));
    let constant = |id: &Option<Id>| id.and_then(|id| cx.constant(id));
    let (inputs, constants) = (m.inputs.iter().map(ty).collect(), m.inputs.iter().map(constant).collect());
    Site { op: m.op, attrs: &m.attrs, inputs, constants, output: cx.ty(m.id) }.chosen(axis, count)
}

/// An operand with what became of it; outer `None` where that cannot be.
fn operand(cx: &mut RuleCx, input: Option<Id>, part: Part, indices: &Tensor) -> Option<Option<Id>> {
    let Some(id) = input else { return Some(None) };
    let axis = match part {
        Part::Whole => return Some(Some(id)),
        Part::Ints(list) => return Some(Some(cx.add_constant(Tensor::from_vec(&[list.len() as u64], list)))),
        Part::Chosen(axis) => axis,
    };
    let attrs = Attrs::default().with("axis", Attr::Int(axis as i64));
    // Weights in integers stay integers.
    let coded = cx.find(id, "dequantize_linear").into_iter().next();
    match cx.constant(id).filter(|_| coded.is_none()).cloned() {
        Some(t) => cx.fold("gather", &[t, indices.clone()], &attrs).map(|t| Some(cx.add_constant(t))),
        None => {
            let indices = cx.add_constant(indices.clone());
            cx.node_of("gather", &[id, indices], attrs).map(Some)
        }
    }
}

/// The nodes that would do less if a value had fewer channels along a dimension: those that it comes from up to the layers that compute the channels. `None`
/// where a part of what they do is needed anyway.
pub fn reach(graph: &Graph, value: ValueId, axis: usize) -> Option<Vec<usize>> {
    let (users, mut found) = (graph.uses(), Vec::new());
    walk(graph, &users, (value, axis), &mut found).then(|| {
        found.sort_unstable();
        found.dedup();
        found
    })
}

fn walk(graph: &Graph, users: &[Vec<(usize, usize)>], (value, axis): (ValueId, usize), found: &mut Vec<usize>) -> bool {
    if graph.constant(value).is_some() {
        return true;
    }
    let mut readers: Vec<usize> = users[value.0 as usize].iter().map(|u| u.0).collect();
    readers.dedup();
    let producer = graph.nodes.iter().position(|n| n.outputs.first() == Some(&value) && n.outputs.len() == 1);
    let (Some(number), 1, false) = (producer, readers.len(), graph.outputs.contains(&value)) else { return false };
    let node = &graph.nodes[number];
    let site = Site::of(graph, node);
    let Some((parts, _)) = site.chosen(axis, 1) else { return false };
    found.push(number);
    let mut chosen = node.inputs.iter().zip(parts).filter_map(|(id, part)| match (id, part) {
        (Some(id), Part::Chosen(axis)) => Some((*id, axis)),
        _ => None,
    });
    chosen.all(|next| walk(graph, users, next, found))
}
