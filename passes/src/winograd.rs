//! Which algorithm computes a convolution of 3 by 3 or 5 by 5: directly, or by Winograd's F(2x2, 3x3), F(4x4, 3x3), F(6x6, 3x3), F(2x2, 5x5) or F(4x4, 5x5);
//! with strides of two by F(2x2, 3x3).
//!
//! What   `conv(x, w, b)` gets the attribute `algorithm`, which permits its lowering to compute it through transforms.
//! When   after fusion: shapes, epilogues and users are settled, and the layout can give tiles at the edge the zeros that they read.
//! Why    2.25, 4 and 5.06 times fewer multiplications, 2.78 and 6.25 of 5 by 5, 1.44 with strides of two.
//! Class  reassociates with a bound: with the points of `onnxc_ops::winograd` an output differs from the exact one by about 1, 2 and 10 (16, 36 and 64 points)
//!        times what direct summation differs by, so that whole models stay far below 1e-3 of their largest output. `--math=strict` forbids it. Integers of 8 bits
//!        are exact (F(2x2, 3x3), F(4x4, 3x3), and with strides of two), and not forbidden.
//! Paper  Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
//! Misses other strides, dilations, groups, other kernels, weights that are computed, extents that come with the call, types other than f32 and 8 bits, zero points of
//!        weights other than 0 (128 of u8), an odd number of channels of integers.
//!
//! Transformed weights are larger: 16/9, 36/9 and 64/9 times, 36/25 and 64/25, with strides of two 16/9, those of integers, which become words, by a factor of two more; [`crate::choose`] keeps the model within its limit.

use onnxc_egraph::RuleClass;
use onnxc_ir::graph::Node;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Attr, DType, Graph, ValueId};
use onnxc_ops::schedule::{self, Choice};
use onnxc_ops::winograd::blocks::{Shape, weight_bytes};
use onnxc_ops::winograd::numbers::Numbers;
use onnxc_ops::winograd::points::Points;
use onnxc_ops::winograd::{self, cost};

use crate::Math;
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
/// What is to be gained where costs are less well known: of integers, whose words are moved more than multiplied, and with strides of two, whose direct products take less
/// time than is thought.
const LITTLE_KNOWN_GAIN: f64 = 0.1;
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
        let bytes = (kernel_bytes(shape, None), kernel_bytes(shape, Some(points)));
        all.push(Chosen { origins: node.origins.clone(), algorithm, bytes });
    }
    all
}

/// Bytes of kernels as they are, and at the points of an algorithm.
fn kernel_bytes(shape: Shape, points: Option<&Points>) -> u64 {
    let plain = shape.numbers.weight_bytes() * shape.taps * shape.taps * shape.channels * shape.filters;
    points.map_or(plain, |points| weight_bytes(points, shape))
}

/// Does the algorithm compute elements of this type exactly?
pub(crate) fn is_exact(x: DType) -> bool {
    x.is_int()
}

/// May `math` have a node computed so?
pub fn permits(graph: &Graph, node: &Node, math: Math) -> bool {
    let exact = node.inputs.first().copied().flatten().is_some_and(|x| is_exact(graph.ty(x).dtype));
    exact || math.allows(CLASS)
}

/// Is this a convolution so small that what an estimate leaves out decides (halves of vectors, calls, ends of loops), or one of integers, for which there is none?
pub fn is_small(graph: &Graph, node: &Node, target: &TargetDesc) -> bool {
    shape(graph, node).is_some_and(|shape| shape.numbers == Numbers::Integers || cost::direct(target, shape) < SMALL)
}

/// The ways of a convolution, if Winograd's algorithm computes it at all, by what they are thought to cost: `predicted` knows the cycles of lowered code.
pub fn ways(graph: &Graph, node: &Node, target: &TargetDesc, predicted: &dyn Fn(&Choice) -> Option<f64>) -> Vec<Way> {
    let Some(shape) = shape(graph, node) else { return Vec::new() };
    if shape.numbers == Numbers::Integers {
        return integer_ways(graph, node, predicted);
    }
    let way = |choice: Choice, rough: f64, more: &dyn Fn(f64) -> f64| {
        let bytes = bytes(graph, node, &choice).unwrap_or(0);
        Way { bytes, time: more(predicted(&choice).unwrap_or(rough)), choice }
    };
    let tiled = |(name, points): (&'static str, &Points)| {
        let more = |time: f64| match points {
            p if p.is_rough() => time * (1.0 + LEAST_GAIN) + LEAST_CYCLES.min(LEAST_PART * time),
            p if p.stride > 1 => time * (1.0 + LITTLE_KNOWN_GAIN),
            _ => time,
        };
        way(Choice::algorithm(name), cost::tiled(target, points, shape), &more)
    };
    let direct = way(Choice::default(), cost::direct(target, shape), &|time| time);
    let known = fitting(graph, node).filter(|(_, points)| has_room(target, points));
    std::iter::once(direct).chain(known.map(tiled)).collect()
}

/// The ways of a convolution of integers.
fn integer_ways(graph: &Graph, node: &Node, predicted: &dyn Fn(&Choice) -> Option<f64>) -> Vec<Way> {
    let way = |choice: Choice, more: f64| {
        let (time, bytes) = (predicted(&choice)? * more, bytes(graph, node, &choice)?);
        Some(Way { choice, time, bytes })
    };
    let tiled = fitting(graph, node).filter_map(|a| way(Choice::algorithm(a.0), 1.0 + LITTLE_KNOWN_GAIN));
    way(Choice::default(), 1.0).into_iter().chain(tiled).collect()
}

/// Has the target registers for the transforms of such tiles?
pub(crate) fn has_room(target: &TargetDesc, points: &Points) -> bool {
    !points.is_rough() || target.accumulators() >= ROOMY
}

/// Bytes of the weights of a convolution that Winograd's algorithm can compute, as a choice keeps them.
pub fn bytes(graph: &Graph, node: &Node, choice: &Choice) -> Option<u64> {
    let named = |name| winograd::ALGORITHMS.iter().find(|a| a.0 == name);
    let shape = shape(graph, node)?;
    Some(kernel_bytes(shape, choice.algorithm.and_then(named).map(|(_, points)| *points)))
}

/// The operand of a convolution and its weights, which are constants.
fn factors(graph: &Graph, node: &Node) -> Option<[ValueId; 2]> {
    let operand = |i: usize| node.inputs.get(i).copied().flatten();
    let (x, w) = (operand(0)?, operand(*schedule::weights(node.op.name).first()?)?);
    graph.constant(w).map(|_| [x, w])
}

/// The algorithms that compute a node.
fn fitting(graph: &Graph, node: &Node) -> impl Iterator<Item = (&'static str, &'static Points)> {
    let types = factors(graph, node).map(|factors| factors.map(|id| graph.ty(id)));
    types.into_iter().flat_map(|[x, w]| winograd::fitting(node.op.name, &node.attrs, x, w))
}

/// The extents of a convolution that fits.
fn shape(graph: &Graph, node: &Node) -> Option<Shape> {
    fitting(graph, node).next()?;
    let types = factors(graph, node)?.map(|id| graph.ty(id));
    let numbers = Numbers::of(types[0].dtype, types[1].dtype)?;
    let (y, w) = (graph.ty(node.outputs[0]).const_shape()?, types[1].const_shape()?);
    let [images, filters, height, width] = y[..] else { return None };
    (!y.contains(&0) && w[1] > 0).then_some(Shape { images, height, width, channels: w[1], filters, taps: w[2], numbers })
}
