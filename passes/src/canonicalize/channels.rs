//! Channels that nobody reads are not computed.
//!
//! What   `gather(op(x, ...), channels)` = `op'(gather(x, channels), ...)`, where the result of op has these channels from the same channels of its operands:
//!        elementwise operators, pools, reductions over other dimensions, depthwise convolutions, reshapes and transpositions that keep the channels'
//!        dimension, quantisation; and for convolutions and products with weights `op(x, gather(w, channels))`, where the choice ends.
//! When   canonicalize phase. A choice is a `gather` along one dimension with constant, ascending indices: what compression leaves of whole channels
//!        (form `channels`), and what models themselves do.
//! Why    a layer that reads a part of its channels makes those before it smaller: their filters, depthwise kernels, activations, and weights.
//! Class  exact: every element that is left is computed as before.
//! Misses results that others read too, grouped convolutions that are not depthwise, concatenations, normalisations over channels.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::op::{Lower, OpDef};
use onnxc_ir::{Attr, Attrs, Graph, Tensor, TensorType, ValueId};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    vec![Rule { name: "raise-channels", class: RuleClass::Exact, roots: Roots::Named(&["gather"]), apply: raise }]
}

/// What becomes of an operand when some channels of the result are chosen.
#[derive(Clone, PartialEq, Debug)]
enum Part {
    /// It stays.
    Whole,
    /// The same channels of it, along this dimension.
    Chosen(usize),
    /// These integers take its place.
    Ints(Vec<i64>),
}

/// An operator with its operands, in whichever form of the graph.
struct Site<'a> {
    op: &'a OpDef,
    attrs: &'a Attrs,
    inputs: Vec<Option<&'a TensorType>>,
    /// Operands that are constant.
    constants: Vec<Option<&'a Tensor>>,
    output: &'a TensorType,
}

impl Site<'_> {
    fn rank(&self, i: usize) -> Option<usize> {
        Some(self.inputs.get(i).copied().flatten()?.rank())
    }

    fn extent(&self, i: usize, axis: usize) -> Option<u64> {
        self.inputs.get(i).copied().flatten()?.shape.get(axis)?.as_const()
    }

    /// `first` for the first operand, nothing else changes.
    fn first(&self, first: Part) -> Vec<Part> {
        let others = (1..self.inputs.len()).map(|_| Part::Whole);
        std::iter::once(first).chain(others).collect()
    }

    /// What becomes of the operands, and the attributes of the operator, when `count` channels of dimension `axis` of the result are chosen; `None` where the
    /// choice cannot be made before the operator.
    fn chosen(&self, axis: usize, count: u64) -> Option<(Vec<Part>, Attrs)> {
        let same = |parts: Vec<Part>| Some((parts, self.attrs.clone()));
        match self.op.name {
            _ if matches!(self.op.lower, Lower::Elementwise(_)) => same(self.broadcast(axis)?),
            "conv" if axis == 1 && self.inputs.len() <= 3 && self.attrs.get("epilogue").is_none() => self.conv(count),
            "max_pool" | "average_pool" | "lp_pool" if axis < 2 => same(self.first(Part::Chosen(axis))),
            "reduce_mean" | "reduce_sum" | "reduce_max" | "reduce_min" => same(self.first(Part::Chosen(self.reduced(axis)?))),
            "transpose" => {
                let from = *self.attrs.ints("perm")?.get(axis)?;
                same(self.first(Part::Chosen(usize::try_from(from).ok()?)))
            }
            "reshape" => {
                let mut shape: Vec<i64> = self.output.const_shape()?.iter().map(|n| *n as i64).collect();
                shape[axis] = count as i64;
                let attrs = Attrs::default().with("allowzero", Attr::Int(1));
                Some((vec![Part::Chosen(self.unreshaped(axis)?), Part::Ints(shape)], attrs))
            }
            "flatten" | "squeeze" | "unsqueeze" => same(self.first(Part::Chosen(self.unreshaped(axis)?))),
            "quantize_linear" | "dequantize_linear" => self.quantized(axis).and_then(same),
            "matmul" if self.rank(1) == Some(2) && axis + 1 == self.output.rank() => same(vec![Part::Whole, Part::Chosen(1)]),
            "gemm" if axis == 1 => {
                let of_weights = if self.attrs.int("transB").unwrap_or(0) != 0 { 0 } else { 1 };
                let parts = [Part::Whole, Part::Chosen(of_weights), self.spread(2, axis)?];
                same(parts.into_iter().take(self.inputs.len()).collect())
            }
            _ => None,
        }
    }

    /// An operand that broadcasts to the result; `None` where it is not known whether it does along this dimension.
    fn spread(&self, i: usize, axis: usize) -> Option<Part> {
        let own = self.rank(i).and_then(|rank| (axis + rank).checked_sub(self.output.rank()));
        let Some(own) = own else { return Some(Part::Whole) };
        match (self.extent(i, own)?, self.output.shape[axis].as_const()?) {
            (own_extent, all) if own_extent == all => Some(Part::Chosen(own)),
            (1, _) => Some(Part::Whole),
            _ => None,
        }
    }

    fn broadcast(&self, axis: usize) -> Option<Vec<Part>> {
        (0..self.inputs.len()).map(|i| self.spread(i, axis)).collect()
    }

    fn conv(&self, count: u64) -> Option<(Vec<Part>, Attrs)> {
        let groups = self.attrs.int("group").unwrap_or(1);
        let (x, attrs) = match groups {
            1 => (Part::Whole, self.attrs.clone()),
            // Depthwise: each channel has its own filter.
            n if n as u64 == self.extent(0, 1)? && n as u64 == self.extent(1, 0)? => {
                (Part::Chosen(1), self.attrs.clone().with("group", Attr::Int(count as i64)))
            }
            _ => return None,
        };
        Some(([x, Part::Chosen(0), Part::Chosen(0)].into_iter().take(self.inputs.len()).collect(), attrs))
    }

    /// Which dimension of what is reduced is this one of the result.
    fn reduced(&self, axis: usize) -> Option<usize> {
        let rank = self.rank(0)?;
        let axes = match self.inputs.get(1).copied().flatten() {
            Some(_) => self.constants[1]?.to_i64s()?,
            None => return None,
        };
        let gone = |d: usize| axes.iter().any(|a| *a == d as i64 || *a + rank as i64 == d as i64);
        if axes.is_empty() || (0..rank).all(gone) {
            return None;
        }
        let kept = |d: &usize| self.attrs.int("keepdims").unwrap_or(1) != 0 || !gone(*d);
        (0..rank).filter(kept).nth(axis).filter(|d| !gone(*d))
    }

    /// Which dimension of what is reshaped is this one of the result: elements of a channel stay together, in their order.
    fn unreshaped(&self, axis: usize) -> Option<usize> {
        let (from, to) = (self.inputs[0]?.const_shape()?, self.output.const_shape()?);
        let before = |shape: &[u64], axis: usize| shape[..axis].iter().product::<u64>();
        (0..from.len()).find(|d| from[*d] == to[axis] && before(&from, *d) == before(&to, axis))
    }

    /// Scales and zero points are one, or one for each channel of a dimension.
    fn quantized(&self, axis: usize) -> Option<Vec<Part>> {
        let along = self.attrs.int("axis").unwrap_or(1);
        let own = if along < 0 { along + self.output.rank() as i64 } else { along };
        let param = |i: usize| match self.rank(i) {
            Some(1) if self.extent(i, 0) != Some(1) => (own == axis as i64).then_some(Part::Chosen(0)).or(Some(Part::Whole)),
            None | Some(0 | 1) => Some(Part::Whole),
            Some(_) => None,
        };
        std::iter::once(Some(Part::Chosen(axis))).chain((1..self.inputs.len()).map(param)).collect()
    }
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
    let ty = |id: &Option<ValueId>| id.map(|id| graph.ty(id));
    let constant = |id: &Option<ValueId>| id.and_then(|id| graph.constant(id));
    let (inputs, constants) = (node.inputs.iter().map(ty).collect(), node.inputs.iter().map(constant).collect());
    let site = Site { op: node.op, attrs: &node.attrs, inputs, constants, output: graph.ty(value) };
    let Some((parts, _)) = site.chosen(axis, 1) else { return false };
    found.push(number);
    let mut chosen = node.inputs.iter().zip(parts).filter_map(|(id, part)| match (id, part) {
        (Some(id), Part::Chosen(axis)) => Some((*id, axis)),
        _ => None,
    });
    chosen.all(|next| walk(graph, users, next, found))
}
