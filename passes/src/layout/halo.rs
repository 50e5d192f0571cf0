//! Borders around images: a value that padded convolutions read lives in a buffer with zeros around it, or zero points, so that they need no padded copy.

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::lower::Halo;
use onnxc_ir::{DType, ValueId};
use onnxc_ops::{row_chain, winograd};

use super::{Order, channels_last};

/// Rows of fewer pixels lose more by not merging with the next row than a padded copy costs, unless bytes are multiplied channel by channel: so little is
/// done with each then that the copy takes as long.
const NARROW: u64 = 10;

/// The border that each value should have: the largest padding of the convolutions that read it, and what their tiles reach over the end.
pub fn halos(graph: &Graph, orders: &[Order]) -> Vec<Option<Halo>> {
    let mut halos: Vec<Option<Halo>> = vec![None; graph.values.len()];
    for node in &graph.nodes {
        let reader = Reader::of(node);
        let (Some(Some(x)), Some(pads)) = (node.inputs.first(), reader.conv.attrs.ints("pads")) else { continue };
        let Some(fill) = reader.fill(graph) else { continue };
        let ty = graph.ty(*x);
        let spatial = ty.rank().saturating_sub(2);
        let wide = ty.shape.last().is_some_and(|w| w.range(&graph.bounds).1 >= NARROW) || reader.is_of_byte_channels(graph);
        let over = overhang(graph, node, spatial);
        let needs = pads.iter().any(|p| *p > 0) || over.iter().any(|n| *n > 0);
        let fits = pads.len() == 2 * spatial && pads.iter().all(|p| *p >= 0) && needs;
        if !wide || !fits || orders[x.0 as usize] != channels_last(ty.rank()) {
            continue;
        }
        let halo = halos[x.0 as usize].get_or_insert_with(|| Halo { around: vec![(0, 0); ty.rank()], fill });
        if halo.fill != fill {
            continue;
        }
        for (d, border) in halo.around[2..].iter_mut().enumerate() {
            *border = (border.0.max(pads[d] as u64), border.1.max(pads[d + spatial] as u64 + over[d]));
        }
    }
    halos
}

/// What a convolution in tiles reads beyond its pads.
fn overhang(graph: &Graph, node: &Node, spatial: usize) -> Vec<u64> {
    let shape = graph.ty(node.outputs[0]).const_shape();
    match (winograd::points(&node.attrs), shape.as_deref()) {
        (Some(points), Some([_, _, height, width])) => winograd::overhang(points, *height, *width).to_vec(),
        _ => vec![0; spatial],
    }
}

/// What reads the first operand of a node: the node itself, or the first link of a chain.
struct Reader<'g> {
    node: &'g Node,
    conv: &'g Node,
    /// The body that it is in.
    body: Option<&'g Graph>,
}

impl Reader<'_> {
    fn of(node: &Node) -> Reader<'_> {
        let body = node.attrs.graph(row_chain::BODY).filter(|_| *node.op == row_chain::ROW_CHAIN);
        Reader { node, conv: body.and_then(|b| b.nodes.first()).unwrap_or(node), body }
    }

    /// An operand as a value of the graph.
    fn operand(&self, i: usize) -> Option<ValueId> {
        let id = self.conv.inputs.get(i).copied().flatten()?;
        let Some(body) = self.body else { return Some(id) };
        body.inputs.iter().position(|input| *input == id).and_then(|n| self.node.inputs[n])
    }

    /// True for convolutions of bytes with one filter per channel.
    fn is_of_byte_channels(&self, graph: &Graph) -> bool {
        let Some(x) = self.operand(0).map(|x| graph.ty(x)) else { return false };
        let channels = x.shape.get(1).and_then(|n| n.as_const());
        x.dtype == DType::U8 && channels.is_some_and(|n| n > 1 && self.conv.attrs.int("group") == Some(n as i64))
    }

    /// The bytes of the elements that a convolution reads where it pads, if they are known: zeros, and zero points of bytes.
    fn fill(&self, graph: &Graph) -> Option<u8> {
        match self.conv.op.name {
            "conv" => (graph.ty(self.operand(0)?).dtype == DType::F32).then_some(0),
            "qlinear_conv" | "conv_integer" => match self.operand(2) {
                Some(zero) => graph.constant(zero)?.to_i64s()?.first().map(|z| *z as u8),
                None => Some(0),
            },
            _ => None,
        }
    }
}
