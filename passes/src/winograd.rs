//! Which algorithm computes a convolution of 3 by 3 or 5 by 5: directly, or by Winograd's F(2x2, 3x3), F(4x4, 3x3), F(6x6, 3x3), F(2x2, 5x5) or F(4x4, 5x5).
//!
//! What   `conv(x, w, b)` gets the attribute `algorithm`, which permits its lowering to compute it through transforms.
//! When   after fusion: shapes, epilogues and users are settled, and the layout can give tiles at the edge the zeros that they read.
//! Why    2.25, 4 and 5.06 times fewer multiplications, 2.78 and 6.25 of 5 by 5.
//! Class  reassociates with a bound: with the points of `onnxc_ops::winograd` an output differs from the exact one by about 1, 2 and 10 (16, 36 and 64 points)
//!        times what direct summation differs by, so that whole models stay far below 1e-3 of their largest output. `--math=strict` forbids it.
//! Paper  Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
//! Misses strides, dilations, groups, other kernels, weights that are computed, extents that come with the call, types other than f32.
//!
//! Transformed weights are larger: 16/9, 36/9 and 64/9 times, 36/25 and 64/25; [`crate::choose`] keeps the model within its limit.

use onnxc_egraph::RuleClass;
use onnxc_ir::graph::Node;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Attr, Graph};
use onnxc_ops::schedule::Choice;
use onnxc_ops::winograd::blocks::Shape;
use onnxc_ops::winograd::points::Points;
use onnxc_ops::winograd::{self, cost};

use crate::choose::Way;

/// What the choice does to numbers.
pub const CLASS: RuleClass = RuleClass::Bounded;

/// The factor by which constants may grow if nobody says otherwise.
pub const GROWTH: f64 = 1.5;

/// Tiles of eight points in each direction round more than the others, and their weights take longer to come from memory beside other layers: they have to
/// gain so much. And their code is long: a layer has to gain so many cycles by it, or so large a part of its time.
const LEAST_GAIN: f64 = 0.02;
const LEAST_CYCLES: f64 = 1e6;
const LEAST_PART: f64 = 0.3;
/// Cycles of a small convolution: its ways are lowered, which takes little.
const SMALL: f64 = 1e5;
/// Vectors of sums that the largest tile of a target has in registers, from which on the transforms of such tiles have room too.
const ROOMY: u32 = 24;

/// A convolution that is computed in tiles.
#[derive(Clone, PartialEq, Debug)]
pub struct Chosen {
    /// The ONNX nodes that it does the work of.
    pub origins: Vec<String>,
    /// The value of the attribute.
    pub algorithm: String,
    /// Bytes of its weights as they are, and as they are kept.
    pub bytes: (u64, u64),
}

/// The convolutions of a graph and its bodies that have an algorithm.
pub fn chosen(graph: &Graph) -> Vec<Chosen> {
    let mut all = Vec::new();
    for node in &graph.nodes {
        let bodies = node.attrs.0.values().filter_map(|a| if let Attr::Graph(body) = a { Some(body) } else { None });
        bodies.for_each(|body| all.extend(chosen(body)));
        let (Some(points), Some(shape)) = (winograd::points(&node.attrs), shape(graph, node)) else { continue };
        let algorithm = node.attrs.str(winograd::ATTR).unwrap_or_default().to_string();
        let bytes = (kernel_bytes(shape, shape.taps), kernel_bytes(shape, points.n() as u64));
        all.push(Chosen { origins: node.origins.clone(), algorithm, bytes });
    }
    all
}

/// Bytes of kernels of so many numbers in each direction.
fn kernel_bytes(shape: Shape, n: u64) -> u64 {
    4 * n * n * shape.channels * shape.filters
}

/// Is this a convolution so small that what an estimate leaves out decides: halves of vectors, calls, ends of loops?
pub fn is_small(graph: &Graph, node: &Node, target: &TargetDesc) -> bool {
    shape(graph, node).is_some_and(|shape| cost::direct(target, shape) < SMALL)
}

/// The ways of a convolution, if Winograd's algorithm computes it at all, by what they are thought to cost: `predicted` knows the cycles of lowered code.
pub fn ways(graph: &Graph, node: &Node, target: &TargetDesc, predicted: &dyn Fn(&Choice) -> Option<f64>) -> Vec<Way> {
    let Some(shape) = shape(graph, node) else { return Vec::new() };
    let way = |choice: Choice, rough: f64, more: &dyn Fn(f64) -> f64| {
        let bytes = bytes(graph, node, &choice).unwrap_or(0);
        Way { bytes, time: more(predicted(&choice).unwrap_or(rough)), choice }
    };
    let tiled = |(name, points): (&'static str, &Points)| {
        let more =
            |time: f64| if points.is_rough() { time * (1.0 + LEAST_GAIN) + LEAST_CYCLES.min(LEAST_PART * time) } else { time };
        way(Choice::algorithm(name), cost::tiled(target, points, shape), &more)
    };
    let direct = way(Choice::default(), cost::direct(target, shape), &|time| time);
    let known = winograd::of_taps(shape.taps as usize).filter(|(_, points)| has_room(target, points));
    std::iter::once(direct).chain(known.map(tiled)).collect()
}

/// Has the target registers for the transforms of such tiles?
pub(crate) fn has_room(target: &TargetDesc, points: &Points) -> bool {
    !points.is_rough() || target.accumulators() >= ROOMY
}

/// Bytes of the weights of a convolution that Winograd's algorithm can compute, as a choice keeps them.
pub fn bytes(graph: &Graph, node: &Node, choice: &Choice) -> Option<u64> {
    let named = |name| winograd::ALGORITHMS.iter().find(|a| a.0 == name);
    let shape = shape(graph, node)?;
    Some(kernel_bytes(shape, choice.algorithm.and_then(named).map_or(shape.taps, |(_, points)| points.n() as u64)))
}

/// The extents of a convolution that fits.
fn shape(graph: &Graph, node: &Node) -> Option<Shape> {
    let operand = |i: usize| node.inputs.get(i).copied().flatten();
    let (x, w) = (operand(0)?, operand(1)?);
    if node.op.name != "conv"
        || graph.constant(w).is_none()
        || winograd::fitting(&node.attrs, graph.ty(x), graph.ty(w)).next().is_none()
    {
        return None;
    }
    let (y, w) = (graph.ty(node.outputs[0]).const_shape()?, graph.ty(w).const_shape()?);
    let [images, filters, height, width] = y[..] else { return None };
    (!y.contains(&0) && w[1] > 0).then_some(Shape { images, height, width, channels: w[1], filters, taps: w[2] })
}
