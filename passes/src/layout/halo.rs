//! Zeros around images: a value that padded convolutions read lives in a buffer with a border, so that they need no padded copy of it.

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::View;
use onnxc_ir::{DType, ValueId};
use onnxc_ops::{row_chain, winograd};

use super::{Order, channels_last};

/// Elements before and behind each dimension of a value that belong to its buffer and are zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Halo(pub Vec<(u64, u64)>);

/// Rows of fewer pixels lose more by not merging with the next row than a padded copy costs, unless bytes are multiplied channel by channel: so little is
/// done with each then that the copy takes as long.
const NARROW: u64 = 10;

/// The border that each value should have: the largest padding of the convolutions that read it, and what their tiles reach over the end.
pub fn halos(graph: &Graph, orders: &[Order]) -> Vec<Option<Halo>> {
    let mut halos: Vec<Option<Halo>> = vec![None; graph.values.len()];
    for node in &graph.nodes {
        let reader = Reader::of(node);
        let (Some(Some(x)), Some(pads)) = (node.inputs.first(), reader.conv.attrs.ints("pads")) else { continue };
        if !reader.pads_with_zeros(graph) {
            continue;
        }
        let ty = graph.ty(*x);
        let spatial = ty.rank().saturating_sub(2);
        let wide = ty.shape.last().is_some_and(|w| w.range(&graph.bounds).1 >= NARROW) || reader.is_of_byte_channels(graph);
        let over = overhang(graph, node, spatial);
        let needs = pads.iter().any(|p| *p > 0) || over.iter().any(|n| *n > 0);
        let fits = pads.len() == 2 * spatial && pads.iter().all(|p| *p >= 0) && needs;
        if !wide || !fits || orders[x.0 as usize] != channels_last(ty.rank()) {
            continue;
        }
        let halo = halos[x.0 as usize].get_or_insert_with(|| Halo(vec![(0, 0); ty.rank()]));
        for (d, border) in halo.0[2..].iter_mut().enumerate() {
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

    /// True for convolutions that read zeros where they pad: floats, and bytes whose zero point is 0.
    fn pads_with_zeros(&self, graph: &Graph) -> bool {
        let dtype = self.operand(0).map(|x| graph.ty(x).dtype);
        let zero = |i: usize| self.operand(i).map(|z| graph.constant(z).and_then(|t| t.to_i64s()));
        match self.conv.op.name {
            "conv" => dtype == Some(DType::F32),
            "qlinear_conv" | "conv_integer" => zero(2).is_none_or(|z| z.is_some_and(|z| z == [0])),
            _ => false,
        }
    }
}

/// A part of a border: for each dimension the first coordinate and the one behind the last, counted from the value's first element.
pub type Side = Vec<(Edge, Edge)>;

/// A coordinate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// So far from the first element.
    Start(i64),
    /// So far behind the last element.
    End(i64),
}

impl Halo {
    /// The parts of the border, none twice, of a view of any extents.
    pub fn open_sides(&self) -> Vec<Side> {
        let whole = |(lo, hi): &(u64, u64)| (Edge::Start(-(*lo as i64)), Edge::End(*hi as i64));
        let inner = (Edge::Start(0), Edge::End(0));
        let mut sides = Vec::new();
        for (d, (lo, hi)) in self.0.iter().enumerate() {
            let before = (*lo > 0).then_some((Edge::Start(-(*lo as i64)), Edge::Start(0)));
            let behind = (*hi > 0).then_some((Edge::End(0), Edge::End(*hi as i64)));
            for side in before.into_iter().chain(behind) {
                let around = self.0.iter().enumerate().map(|(e, n)| match e.cmp(&d) {
                    std::cmp::Ordering::Less => inner,
                    std::cmp::Ordering::Equal => side,
                    std::cmp::Ordering::Greater => whole(n),
                });
                sides.push(around.collect());
            }
        }
        sides
    }

    /// True when there are at least as many zeros as `other` asks for.
    pub fn covers(&self, other: &Halo) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a.0 >= b.0 && a.1 >= b.1)
    }

    /// The value with its border.
    pub fn around(&self, view: &View) -> View {
        let mut whole = view.clone();
        for (d, (lo, hi)) in self.0.iter().enumerate() {
            whole.shape[d] += lo + hi;
            whole.offset -= *lo as i64 * view.strides[d];
        }
        whole
    }

    /// The parts of the border, none twice, of a view whose extents are numbers.
    pub fn sides(&self, view: &View) -> Vec<View> {
        let mut sides = Vec::new();
        let mut inner = self.around(view);
        for (d, (lo, hi)) in self.0.iter().enumerate() {
            let extent = view.shape[d];
            for (start, n) in [(0, *lo), (lo + extent, *hi)] {
                if n > 0 {
                    let mut side = inner.clone();
                    side.offset += start as i64 * side.strides[d];
                    side.shape[d] = n;
                    sides.push(side);
                }
            }
            inner.offset += *lo as i64 * inner.strides[d];
            inner.shape[d] = extent;
        }
        sides
    }
}
