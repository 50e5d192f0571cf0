//! Layers in integers: pairs of `quantize_linear` and `dequantize_linear` around what they multiply.
//!
//! What   conv(x, w) = conv(dequantize(quantize(x)), dequantize(wq)), for a range of x and integers wq that stand for w.
//! When   compress, before canonicalisation: its exact rules make integer operators of the pairs, join ranges with activations, and carry integers
//!        through data movement and elementwise work.
//! Why    products of 8-bit integers are four times as many per instruction, and weights and activations a quarter of the bytes; of 16-bit ones twice as many, and
//!        half of the bytes.
//! Class  lossy.
//! Paper  Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018, section 2.

use std::collections::BTreeMap;

use onnxc_ir::graph::Node;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Attr, Attrs, DType, Graph, Tensor, TensorType, ValueId};

use super::weighted::Weighted;

/// The integers that stand for a tensor of floats: `(q - zero) * scale`.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Range {
    /// Distance of neighbouring values.
    pub scale: f32,
    /// The integer of zero, 0 to 255.
    pub zero: u8,
    /// 16 bits with sign instead of 8 without; zero is 0.
    pub words: bool,
}

/// The integers of both kinds that can stand for a tensor.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Ranges {
    /// 8 bits.
    pub bytes: Range,
    /// 16 bits.
    pub words: Range,
}

impl Ranges {
    /// Bytes for values of which most are in a range, and words for all of them.
    pub fn of(most: (f32, f32), all: (f32, f32)) -> Ranges {
        Ranges { bytes: Range::of(most.0, most.1), words: Range::of_words(all.0, all.1) }
    }

    /// Words, or bytes.
    pub fn get(&self, words: bool) -> Range {
        if words { self.words } else { self.bytes }
    }
}

impl Range {
    /// 256 steps over these values and zero.
    pub fn of(min: f32, max: f32) -> Range {
        let (min, max) = (min.min(0.0), max.max(0.0));
        let scale = if max > min { (max - min) / 255.0 } else { 1.0 };
        Range { scale, zero: (-min / scale).round().clamp(0.0, 255.0) as u8, words: false }
    }

    /// Steps of 16 bits on both sides of zero, to twice what these values reach: a bit of 16 is a small price for inputs that reach farther.
    pub fn of_words(min: f32, max: f32) -> Range {
        let reach = 2.0 * min.abs().max(max.abs());
        let scale = reach / f32::from(i16::MAX);
        Range { scale: if scale.is_normal() { scale } else { 1.0 }, zero: 0, words: true }
    }
}

/// Integer weights of a layer.
#[derive(Clone, Debug)]
pub struct Integers {
    /// Values, as the operand has them.
    pub values: Tensor,
    /// One for each output.
    pub scales: Vec<f32>,
}

/// Gives a layer integer weights. The node that makes floats of them is the answer; it belongs in front of all others, since it needs constants only.
#[must_use]
pub fn weights(graph: &mut Graph, ops: OpSet, layer: &Weighted, integers: &Integers) -> Node {
    let old = layer.weights(graph);
    let (name, ty) = (graph.value(old).name.clone(), graph.ty(old).clone());
    let q = graph.add_const(&name, integers.values.clone());
    let scale =
        graph.add_const(&format!("{name}.scale"), Tensor::from_vec(&[integers.scales.len() as u64], integers.scales.clone()));
    let w = graph.add_value(&format!("{name}.real"), ty, None);
    let attrs = Attrs::default().with("axis", Attr::Int(layer.axis() as i64));
    let origins = graph.nodes[layer.node].origins.clone();
    let op = ops.get("dequantize_linear").expect("internal: compress: an operator of this name");
    graph.nodes[layer.node].inputs[layer.operand_of_weights()] = Some(w);
    Node { op, inputs: vec![Some(q), Some(scale), None], outputs: vec![w], attrs, origins }
}

/// Makes integers of what a layer multiplies, of a range that is found at run time for each inference: conv(x, w) = conv(dequantize(dynamic_quantize(x)), w). The
/// two nodes are behind all others: [`super::split::settle`] puts them in their place.
pub fn found(graph: &mut Graph, ops: OpSet, layer: &Weighted) {
    let x = layer.x(graph);
    let (name, ty) = (graph.value(x).name.clone(), graph.ty(x).clone());
    let origins = graph.nodes[layer.node].origins.clone();
    let mut value = |what: &str, ty| graph.add_value(&format!("{name}.{what}"), ty, None);
    let q = value("q", TensorType::new(DType::U8, ty.shape.clone()));
    let scale = value("scale", TensorType::new(DType::F32, Vec::new()));
    let zero = value("zero", TensorType::new(DType::U8, Vec::new()));
    let y = value("dq", ty);
    let mut push = |op: &str, inputs, outputs| {
        let op = ops.get(op).expect("internal: compress: an operator of this name");
        graph.nodes.push(Node { op, inputs, outputs, attrs: Attrs::default(), origins: origins.clone() });
    };
    push("dynamic_quantize_linear", vec![Some(x)], vec![q, scale, zero]);
    push("dequantize_linear", vec![Some(q), Some(scale), Some(zero)], vec![y]);
    graph.nodes[layer.node].inputs[0] = Some(y);
}

/// Puts a pair behind each of these values: all users read what the integers stand for.
pub fn activations(graph: &mut Graph, ops: OpSet, ranges: &BTreeMap<ValueId, Range>) {
    let mut renamed: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let old = std::mem::take(&mut graph.nodes);
    let mut nodes: Vec<Node> = Vec::with_capacity(old.len() + 2 * ranges.len());
    for id in graph.inputs.clone() {
        if let Some(range) = ranges.get(&id) {
            renamed.insert(id, pair(graph, ops, &mut nodes, id, *range, Vec::new()));
        }
    }
    for mut node in old {
        for input in node.inputs.iter_mut().flatten() {
            *input = renamed.get(input).copied().unwrap_or(*input);
        }
        let (outputs, origins) = (node.outputs.clone(), node.origins.clone());
        nodes.push(node);
        for id in outputs {
            if let Some(range) = ranges.get(&id) {
                renamed.insert(id, pair(graph, ops, &mut nodes, id, *range, origins.clone()));
            }
        }
    }
    graph.nodes = nodes;
}

fn pair(graph: &mut Graph, ops: OpSet, nodes: &mut Vec<Node>, x: ValueId, range: Range, origins: Vec<String>) -> ValueId {
    let (name, ty) = (graph.value(x).name.clone(), graph.ty(x).clone());
    let scale = graph.add_const(&format!("{name}.scale"), Tensor::scalar(range.scale));
    let zero = if range.words { Tensor::scalar(0i16) } else { Tensor::scalar(range.zero) };
    let q = graph.add_value(&format!("{name}.q"), TensorType::new(zero.dtype(), ty.shape.clone()), None);
    let zero = graph.add_const(&format!("{name}.zero"), zero);
    let y = graph.add_value(&format!("{name}.dq"), ty, None);
    let mut push = |op: &str, from: ValueId, to: ValueId| {
        let op = ops.get(op).expect("internal: compress: an operator of this name");
        let inputs = vec![Some(from), Some(scale), Some(zero)];
        nodes.push(Node { op, inputs, outputs: vec![to], attrs: Attrs::default(), origins: origins.clone() });
    };
    push("quantize_linear", x, q);
    push("dequantize_linear", q, y);
    y
}
