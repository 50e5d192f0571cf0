//! Which algorithm computes a convolution of 3 by 3: directly, or by Winograd's F(2x2, 3x3), F(4x4, 3x3) or F(6x6, 3x3).
//!
//! What   `conv(x, w, b)` gets the attribute `algorithm`, which permits its lowering to compute it through transforms.
//! When   after fusion: shapes, epilogues and users are settled, and the layout can give tiles at the edge the zeros that they read.
//! Why    2.25, 4 and 5.06 times fewer multiplications.
//! Class  reassociates with a bound: with the points of `onnxc_ops::winograd` an output differs from the exact one by about 1 (F(2)), 2 (F(4)) and 10 (F(6))
//!        times what direct summation differs by, so that whole models stay far below 1e-3 of their largest output. `--math=strict` forbids it.
//! Paper  Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
//! Misses strides, dilations, groups, other kernels, weights that are computed, extents that come with the call, types other than f32.
//!
//! Transformed weights are larger: 16/9, 36/9 and 64/9 times; [`crate::choose`] keeps the model within its limit.

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

/// Tiles of more outputs in each direction round more than the others, and their weights take longer to come from memory beside other layers: they have to
/// gain so much. And their code is long: a layer has to gain so many cycles by it.
const ROUGH: usize = 4;
const LEAST_GAIN: f64 = 0.02;
const LEAST_CYCLES: f64 = 1e6;
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
        let bytes = (kernel_bytes(shape, 9), kernel_bytes(shape, (points.n() * points.n()) as u64));
        all.push(Chosen { origins: node.origins.clone(), algorithm, bytes });
    }
    all
}

/// Bytes of kernels of so many numbers.
fn kernel_bytes(shape: Shape, taps: u64) -> u64 {
    4 * taps * shape.channels * shape.filters
}

/// The ways of a convolution, if Winograd's algorithm computes it at all, by what they are thought to cost.
pub fn ways(graph: &Graph, node: &Node, target: &TargetDesc) -> Vec<Way> {
    let Some(shape) = shape(graph, node) else { return Vec::new() };
    let way = |choice: Choice, time: f64| Way { bytes: bytes(graph, node, &choice).unwrap_or(0), choice, time };
    let tiled = |(name, points): &(&'static str, &Points)| {
        let time = cost::tiled(target, points, shape);
        way(Choice::algorithm(name), if points.m > ROUGH { time * (1.0 + LEAST_GAIN) + LEAST_CYCLES } else { time })
    };
    let direct = way(Choice::default(), cost::direct(target, shape));
    let known = winograd::ALGORITHMS.iter().filter(|(_, points)| points.m <= ROUGH || target.accumulators() >= ROOMY);
    std::iter::once(direct).chain(known.map(tiled)).collect()
}

/// Bytes of the weights of a convolution that Winograd's algorithm can compute, as a choice keeps them.
pub fn bytes(graph: &Graph, node: &Node, choice: &Choice) -> Option<u64> {
    let named = |name| winograd::ALGORITHMS.iter().find(|a| a.0 == name);
    let taps = choice.algorithm.and_then(named).map_or(9, |(_, points)| (points.n() * points.n()) as u64);
    Some(kernel_bytes(shape(graph, node)?, taps))
}

/// The extents of a convolution that fits.
fn shape(graph: &Graph, node: &Node) -> Option<Shape> {
    let operand = |i: usize| node.inputs.get(i).copied().flatten();
    let (x, w) = (operand(0)?, operand(1)?);
    if node.op.name != "conv" || graph.constant(w).is_none() || !winograd::fits(&node.attrs, graph.ty(x), graph.ty(w)) {
        return None;
    }
    let (y, w) = (graph.ty(node.outputs[0]).const_shape()?, graph.ty(w).const_shape()?);
    let [images, filters, height, width] = y[..] else { return None };
    (!y.contains(&0)).then_some(Shape { images, height, width, channels: w[1], filters })
}
