//! Which algorithm computes a convolution of 3 by 3: directly, or Winograd's F(2x2, 3x3) or F(4x4, 3x3).
//!
//! What   `conv(x, w, b)` gets the attribute `algorithm`, which permits its lowering to compute it through transforms.
//! When   after fusion: shapes, epilogues and users are settled, and the layout can give tiles at the edge the zeros that they read.
//! Why    2.25 and 4 times fewer multiplications.
//! Class  reassociates with a bound: with the points of `onnxc_ops::winograd` an output differs from the exact one by about 1 (F(2)) and 2 (F(4))
//!        times what direct summation differs by, so that whole models stay far below 1e-3 of their largest output. `--math=strict` forbids it.
//! Paper  Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
//! Misses strides, dilations, groups, other kernels, weights that are computed, extents that come with the call, types other than f32.
//!
//! Transformed weights are larger: 16/9 and 36/9 times. Where that makes a model larger than it may be, the layers that gain least for their bytes
//! are done with less.

use onnxc_egraph::RuleClass;
use onnxc_ir::graph::Node;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Attr, Graph};
use onnxc_ops::winograd::blocks::Shape;
use onnxc_ops::winograd::{self, cost};

use crate::with_bodies;

/// What the choice does to numbers.
pub const CLASS: RuleClass = RuleClass::Bounded;

/// The factor by which constants may grow if nobody says otherwise.
pub const GROWTH: f64 = 1.5;

/// A way to compute a layer.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Way {
    /// The attribute's value; none for direct computation.
    algorithm: Option<&'static str>,
    cycles: f64,
    /// Bytes of the weights as they are kept.
    bytes: u64,
}

/// A convolution with its ways, the fastest first; later ones need fewer bytes. The first is taken.
struct Layer {
    node: usize,
    ways: Vec<Way>,
}

/// The graph with the algorithm of each convolution; `growth` is the largest factor by which its constants may grow.
pub fn run(graph: &Graph, target: &TargetDesc, growth: f64) -> Graph {
    let mut out = with_bodies(graph, &|body| run(body, target, growth)).unwrap_or_else(|| graph.clone());
    let mut layers: Vec<Layer> = (0..graph.nodes.len()).filter_map(|n| layer(graph, n, target)).collect();
    let constants: u64 = graph.values.iter().filter_map(|v| v.constant.as_ref()).map(|t| t.bytes().len() as u64).sum();
    shrink(&mut layers, (constants as f64 * (growth - 1.0)).max(0.0) as u64);
    for layer in layers {
        if let Some(algorithm) = layer.ways[0].algorithm {
            let attrs = &mut out.nodes[layer.node].attrs;
            *attrs = std::mem::take(attrs).with(winograd::ATTR, Attr::Str(algorithm.to_string()));
        }
    }
    out
}

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

/// The ways of a convolution, if Winograd's algorithm computes it at all.
fn layer(graph: &Graph, n: usize, target: &TargetDesc) -> Option<Layer> {
    let node = &graph.nodes[n];
    let shape = shape(graph, node)?;
    let mut ways = vec![Way { algorithm: None, cycles: cost::direct(target, shape), bytes: kernel_bytes(shape, 9) }];
    for (name, points) in winograd::ALGORITHMS {
        let cycles = cost::tiled(target, points, shape);
        ways.push(Way { algorithm: Some(name), cycles, bytes: kernel_bytes(shape, (points.n() * points.n()) as u64) });
    }
    ways.sort_by(|a, b| a.cycles.total_cmp(&b.cycles));
    // Only what needs fewer bytes is worth more time.
    let mut least = u64::MAX;
    ways.retain(|w| {
        let better = w.bytes < least;
        least = least.min(w.bytes);
        better
    });
    Some(Layer { node: n, ways })
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

/// Takes ways of fewer bytes until all layers together need at most `allowed` bytes more than directly, the least loss of time for each byte first.
fn shrink(layers: &mut [Layer], allowed: u64) {
    let direct = |l: &Layer| l.ways.last().map_or(0, |w| w.bytes);
    loop {
        let more: u64 = layers.iter().map(|l| l.ways[0].bytes - direct(l)).sum();
        if more <= allowed {
            return;
        }
        let loss = |l: &Layer, next: &Way| (next.cycles - l.ways[0].cycles) / (l.ways[0].bytes - next.bytes) as f64;
        let steps =
            layers.iter().enumerate().flat_map(|(i, l)| l.ways[1..].iter().enumerate().map(move |(j, w)| (loss(l, w), i, j)));
        let Some((_, i, j)) = steps.min_by(|a, b| a.0.total_cmp(&b.0)) else { return };
        layers[i].ways.drain(..=j);
    }
}
