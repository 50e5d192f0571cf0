//! Layout: the order of dimensions in memory of every value.
//!
//! A value keeps the shape that ONNX gives it; its layout is only the strides of the buffer in which it lives. Image operators write channels
//! last, elementwise operators follow their operands, and so do quantisations, lookups and what cuts or joins; everything else is row-major.

pub mod halo;

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::{Lower, View};

/// Dimensions from outermost to innermost in memory.
pub type Order = Vec<usize>;

/// Operators over batch, channels and space whose kernels write neighbouring channels to neighbouring addresses.
const CHANNELS_LAST: &[&str] = &[
    "conv",
    "conv_transpose",
    "conv_integer",
    "qlinear_conv",
    "row_chain",
    "max_pool",
    "average_pool",
    "lp_pool",
    "global_lp_pool",
    "resize",
    "instance_normalization",
    "group_normalization",
    "lrn",
];

/// Operators whose elements stay where they are in their first operand, beside elementwise ones.
const IN_PLACE: &[&str] = &[
    "slice",
    "split",
    "expand",
    "identity",
    "concat",
    "pad",
    "lookup",
    "quantize_linear",
    "dequantize_linear",
    "dynamic_quantize_linear",
];

/// Outermost first, as ONNX writes shapes.
pub fn row_major(rank: usize) -> Order {
    (0..rank).collect()
}

/// Batch, space, channels.
pub fn channels_last(rank: usize) -> Order {
    if rank < 3 {
        return row_major(rank);
    }
    let mut order = vec![0];
    order.extend(2..rank);
    order.push(1);
    order
}

/// The layout of every value of a graph whose extents are all known.
pub fn choose(graph: &Graph) -> Vec<Order> {
    let mut orders: Vec<Order> = graph.values.iter().map(|v| row_major(v.ty.rank())).collect();
    for node in &graph.nodes {
        let order = node_order(graph, node, &orders);
        for id in &node.outputs {
            if graph.ty(*id).rank() == order.len() {
                orders[id.0 as usize].clone_from(&order);
            }
        }
    }
    orders
}

fn node_order(graph: &Graph, node: &Node, orders: &[Order]) -> Order {
    let rank = graph.ty(node.outputs[0]).rank();
    let shape = &graph.ty(node.outputs[0]).shape;
    if CHANNELS_LAST.contains(&node.op.name) {
        return channels_last(rank);
    }
    match node.op.lower {
        Lower::Elementwise(_) => {
            // All operands of the result's own shape vote; the first of the most frequent orders wins.
            let votes =
                node.inputs.iter().flatten().filter(|id| graph.constant(**id).is_none() && graph.ty(**id).shape == *shape);
            let votes: Vec<&Order> = votes.map(|id| &orders[id.0 as usize]).collect();
            let count = |o: &Order| votes.iter().filter(|v| **v == o).count();
            let best = votes.iter().rev().max_by_key(|o| count(o));
            best.map_or_else(|| row_major(rank), |o| (*o).clone())
        }
        Lower::View(_) if node.op.name == "transpose" => {
            let perm = node.attrs.ints("perm").unwrap_or_default();
            let inner = node.inputs[0].map(|id| &orders[id.0 as usize]);
            let position = |d: &usize| perm.iter().position(|p| *p as usize == *d);
            inner
                .and_then(|o| o.iter().map(position).collect::<Option<Order>>())
                .filter(|o| o.len() == rank)
                .unwrap_or_else(|| row_major(rank))
        }
        Lower::View(_) | Lower::ViewOrNest(..) | Lower::Nest(_) | Lower::OpenNest(_) if IN_PLACE.contains(&node.op.name) => {
            let first = node.inputs.iter().flatten().find(|id| graph.constant(**id).is_none() && graph.ty(**id).rank() == rank);
            first.map_or_else(|| row_major(rank), |id| orders[id.0 as usize].clone())
        }
        _ => row_major(rank),
    }
}

/// Bytes after which first-level caches map addresses to the same sets again, or a large part of it.
const CACHE_PERIOD: u64 = 2048;
/// What is put between pixels to leave that period.
const CACHE_GAP: u64 = 64;

/// A view of `shape` with its dimensions in memory in this order, without gaps unless neighbouring pixels of a channels-last value would fall into the
/// same cache sets: a tile reads one element of many pixels at each step.
pub fn view(shape: &[u64], order: &Order, element_bytes: u64) -> View {
    let mut strides = vec![0i64; shape.len()];
    let mut step = 1i64;
    let image = shape.len() >= 3 && *order == channels_last(shape.len());
    for (n, d) in order.iter().rev().enumerate() {
        strides[*d] = step;
        step *= shape[*d].max(1) as i64;
        let bytes = step as u64 * element_bytes;
        let pixels = shape.iter().enumerate().filter(|(e, _)| e != d).any(|(_, extent)| *extent > 1);
        if n == 0 && image && pixels && bytes > 0 && bytes.is_multiple_of(CACHE_PERIOD) {
            step += (CACHE_GAP / element_bytes) as i64;
        }
    }
    View { shape: shape.to_vec(), open: Vec::new(), strides, offset: 0 }
}

/// Elements from the first to behind the last of a view with positive strides.
pub fn span(view: &View) -> u64 {
    if view.shape.contains(&0) {
        return 0;
    }
    view.shape.iter().zip(&view.strides).map(|(n, s)| (n - 1) * s.unsigned_abs()).sum::<u64>() + 1
}

#[cfg(test)]
mod tests {
    use onnxc_ir::op::OpSet;
    use onnxc_ir::{DType, Tensor, parse};

    use super::*;

    /// Else they would transpose images, and what reads them would transpose back.
    #[test]
    fn bytes_of_images_stay_where_they_are() {
        let text = "graph @f(%x: f32[1,16,6,6]) {
  %s = const f32[] [0.1]
  %t = const u8[256] blob(0000000000000001)
  %p = max_pool %x {kernel_shape = ints[2, 2], strides = ints[2, 2]} : f32[1,16,3,3]
  %q = quantize_linear %p, %s, _ : u8[1,16,3,3]
  %l = lookup %q, %t : u8[1,16,3,3]
  %y = dequantize_linear %l, %s, _ : f32[1,16,3,3]
  %r, %a, %b = dynamic_quantize_linear %y : u8[1,16,3,3], f32[], u8[]
  return %r
}";
        let table = |_| Tensor::zeros(DType::U8, &[256]);
        let graph = parse::parse(text, OpSet(onnxc_ops::ALL), &table).unwrap_or_else(|e| panic!("{e}"));
        for node in &graph.nodes {
            let order = &choose(&graph)[node.outputs[0].0 as usize];
            assert_eq!(*order, channels_last(4), "{}", node.op.name);
        }
    }
}
