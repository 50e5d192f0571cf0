//! Parts of constants, and nodes for parts of their channels.

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::OpSet;
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{Attr, Attrs, Dim, Tensor, ValueId};

use super::movement::{CHANNELS, channels};
use crate::channels::{Part, Site};

/// The elements of a constant at some indices of a dimension; `None` where elements are parts of bytes.
pub(super) fn at(tensor: &Tensor, axis: usize, indices: &[u32]) -> Option<Tensor> {
    if tensor.dtype().bits() < 8 || tensor.strings().is_some() {
        return None;
    }
    let (all, mut shape) = (tensor.shape()[axis] as usize, tensor.shape().to_vec());
    let inside = tensor.shape()[axis + 1..].iter().product::<u64>() as usize * tensor.dtype().bytes() as usize;
    shape[axis] = indices.len() as u64;
    let chosen = |outer: &[u8]| -> Vec<u8> {
        indices.iter().flat_map(|i| &outer[*i as usize * inside..(*i as usize + 1) * inside]).copied().collect()
    };
    let bytes: Vec<u8> = tensor.bytes().chunks_exact((all * inside).max(1)).flat_map(chosen).collect();
    Tensor::from_bytes(tensor.dtype(), shape, Bytes::new(bytes))
}

/// The operand of a node whose channels are each computed from the same channel of it, and constants.
pub(super) fn along(graph: &Graph, node: &Node) -> Option<ValueId> {
    let [y] = node.outputs[..] else { return None };
    let count = channels(graph, y)?;
    let (parts, _) = Site::of(graph, node).chosen(CHANNELS, u64::from(count))?;
    let computed: Vec<(ValueId, &Part)> = node
        .inputs
        .iter()
        .zip(&parts)
        .filter_map(|(id, part)| Some(((*id)?, part)))
        .filter(|p| graph.constant(p.0).is_none())
        .collect();
    let [(x, Part::Chosen(CHANNELS))] = computed[..] else { return None };
    let constants = node.inputs.iter().flatten().filter_map(|id| graph.constant(*id)).all(|t| t.dtype().bits() >= 8);
    let same = parts.iter().all(|part| !matches!(part, Part::Ints(_)));
    (constants && same && channels(graph, x) == Some(count) && graph.ty(x).rank() == graph.ty(y).rank()).then_some(x)
}

/// The node with some channels of its result, which becomes a new value: its constant operands become parts, the operand that has the same channels
/// becomes `x`. `None` where channels are not apart in it, or other operands are no constants.
pub(super) fn chosen(graph: &mut Graph, node: &Node, x: Option<ValueId>, channels: &[u32]) -> Option<Node> {
    let (parts, attrs) = Site::of(graph, node).chosen(CHANNELS, channels.len() as u64)?;
    let y = node.outputs[0];
    let (mut inputs, name) = (Vec::new(), graph.value(y).name.clone());
    for (input, part) in node.inputs.iter().zip(parts) {
        let Some(id) = *input else {
            inputs.push(None);
            continue;
        };
        let constant = graph.constant(id).cloned();
        inputs.push(Some(match (part, constant) {
            (Part::Whole, _) => id,
            (Part::Chosen(axis), Some(t)) => {
                let what = graph.value(id).name.clone();
                graph.add_const(&what, at(&t, axis, channels)?)
            }
            (Part::Chosen(CHANNELS), None) => x?,
            _ => return None,
        }));
    }
    let mut ty = graph.ty(y).clone();
    ty.shape[CHANNELS] = Dim::Const(channels.len() as u64);
    let to = graph.add_value(&name, ty, None);
    Some(Node { op: node.op, inputs, outputs: vec![to], attrs, origins: node.origins.clone() })
}

/// A slice of some channels.
pub(super) fn slice(graph: &mut Graph, ops: OpSet, x: ValueId, channels: std::ops::Range<u32>, origins: &[String]) -> Node {
    let mut list = |n: u32| Some(graph.add_const("", Tensor::from_vec(&[1], vec![i64::from(n)])));
    let (start, end, axis) = (list(channels.start), list(channels.end), list(CHANNELS as u32));
    let mut ty = graph.ty(x).clone();
    ty.shape[CHANNELS] = Dim::Const(u64::from(channels.end - channels.start));
    let name = graph.value(x).name.clone();
    let to = graph.add_value(&name, ty, None);
    let op = ops.get("slice").expect("internal: channel_order: there are slices");
    Node { op, inputs: vec![Some(x), start, end, axis], outputs: vec![to], attrs: Attrs::default(), origins: origins.to_vec() }
}

/// Values of the same extents but for their channels, one behind the other.
pub(super) fn concat(graph: &mut Graph, ops: OpSet, parts: Vec<ValueId>, origins: Vec<String>) -> Node {
    let mut ty = graph.ty(parts[0]).clone();
    let count = parts.iter().filter_map(|id| graph.ty(*id).shape[CHANNELS].as_const()).sum();
    ty.shape[CHANNELS] = Dim::Const(count);
    let name = graph.value(parts[0]).name.clone();
    let to = graph.add_value(&name, ty, None);
    let op = ops.get("concat").expect("internal: channel_order: there are concatenations");
    let attrs = Attrs::default().with("axis", Attr::Int(CHANNELS as i64));
    Node { op, inputs: parts.into_iter().map(Some).collect(), outputs: vec![to], attrs, origins }
}
