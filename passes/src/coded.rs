//! Products of floats by dequantised constants keep the integers.
//!
//! What   `conv(x, dequantize(w, s), b)` = `conv(x, w) * s + b` for constant w of at most 8 bits, one scale or one for each output, and x of f32; the same
//!        of `matmul` and `gemm`, and of what recurrent layers multiply their state by. The weights of the product are signed bytes then, which its kernel makes floats of as it loads them.
//! When   canonicalize phase, after all rules that make integer operators had their turn and before dequantised weights become floats.
//! Why    a quarter of the bytes, in the archive and on the way from memory, which a product of few rows waits for. Of weights with no more than 16 different
//!        values half of that (`onnxc_ops::common::coded`).
//! Class  reassociates: one multiplication of the sum instead of one of each weight.
//! Paper  Frantar et al., "GPTQ", 2022, section 5 (kernels that dequantise weights on the fly, activations in floats).
//! Misses groups of a convolution, scales along blocks, zero points that leave the range of a signed byte, weights that other operators read too.

use onnxc_ir::graph::Node;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Attrs, DType, Graph, Tensor, TensorType, ValueId};
use onnxc_ops::recurrent;

/// The scales for which products are no subnormal numbers.
const SCALES: std::ops::RangeInclusive<f32> = 1e-30..=1e30;

/// Operators with weights: operand 1.
const PRODUCTS: &[&str] = &["conv", "gemm", "matmul"];

/// The operand of a node that has its weights, if it has any; of recurrent layers those of the state.
fn operand_of_weights(node: &Node) -> Option<usize> {
    let of_state = recurrent::gates(node.op.name).map(|_| recurrent::MATRICES[1]);
    of_state.or_else(|| PRODUCTS.contains(&node.op.name).then_some(1))
}

/// The weights of a product.
struct Coded {
    values: Tensor,
    /// One for each output.
    scales: Vec<f32>,
    /// What is added to each output.
    bias: Option<Bias>,
}

/// An addend of a result.
enum Bias {
    /// A constant with one value for each channel.
    Channels(Tensor),
    /// Something that broadcasts to the result by itself.
    Any(ValueId),
}

/// The graph in which products keep the integers that their weights are dequantised from.
pub fn run(graph: &Graph, ops: OpSet) -> Graph {
    let coded = all(graph);
    let mut out = graph.clone();
    let nodes = std::mem::take(&mut out.nodes);
    for (node, coded) in nodes.into_iter().zip(coded) {
        match coded {
            Some(coded) => replace(&mut out, ops, node, coded),
            None => out.nodes.push(node),
        }
    }
    out
}

/// What the weights of each node become. Dequantised weights that are needed as floats anyway stay.
fn all(graph: &Graph) -> Vec<Option<Coded>> {
    let mut coded: Vec<Option<Coded>> = graph.nodes.iter().map(|node| of(graph, node)).collect();
    let mut floats = vec![false; graph.values.len()];
    graph.outputs.iter().for_each(|id| floats[id.0 as usize] = true);
    for (node, coded) in graph.nodes.iter().zip(&coded) {
        let reads = |(i, id): (usize, &Option<ValueId>)| id.filter(|_| coded.is_none() || Some(i) != operand_of_weights(node));
        node.inputs.iter().enumerate().filter_map(reads).for_each(|id| floats[id.0 as usize] = true);
    }
    for (node, coded) in graph.nodes.iter().zip(&mut coded) {
        let weights = operand_of_weights(node).and_then(|i| node.inputs.get(i).copied().flatten());
        let stays = weights.is_some_and(|w| floats[w.0 as usize]);
        coded.take_if(|_| stays);
    }
    coded
}

fn of(graph: &Graph, node: &Node) -> Option<Coded> {
    let at = operand_of_weights(node)?;
    if node.attrs.get("epilogue").is_some() || node.attrs.int("group").unwrap_or(1) != 1 {
        return None;
    }
    let operand = |i: usize| node.inputs.get(i).copied().flatten();
    let (x, w) = (operand(0)?, operand(at)?);
    let rank = graph.ty(w).rank();
    let axis = match node.op.name {
        "conv" => 0,
        "gemm" => usize::from(node.attrs.int("transB").unwrap_or(0) == 0),
        "matmul" if rank != 2 => return None,
        _ => 1,
    };
    if graph.ty(x).dtype != DType::F32 || graph.ty(w).dtype != DType::F32 {
        return None;
    }
    let dequantize = graph.nodes.iter().find(|n| n.outputs.first() == Some(&w) && n.op.name == "dequantize_linear")?;
    let (values, scales) = weights(graph, dequantize, axis)?;
    let bias = match (operand(2), node.op.name) {
        // Behind their own products, which recurrent layers keep.
        _ if at != 1 => None,
        (None, _) => None,
        (Some(b), "conv") => Some(Bias::Channels(graph.constant(b)?.clone())),
        (Some(c), "gemm") if node.attrs.float("beta").unwrap_or(1.0) == 1.0 => Some(Bias::Any(c)),
        _ => return None,
    };
    Some(Coded { values, scales, bias })
}

/// The values of dequantised weights as signed bytes, and the scale of each index of `axis`.
fn weights(graph: &Graph, node: &Node, axis: usize) -> Option<(Tensor, Vec<f32>)> {
    let constant = |i: usize| node.inputs.get(i).copied().flatten().map(|id| graph.constant(id));
    let values = constant(0)??;
    let scales = constant(1)?.filter(|s| s.dtype() == DType::F32 && s.shape().len() <= 1)?.to_vec::<f32>();
    let (rank, outputs) = (values.shape().len() as i64, *values.shape().get(axis)? as usize);
    let along = node.attrs.int("axis").unwrap_or(1).rem_euclid(rank.max(1)) == axis as i64 && scales.len() == outputs;
    let whole = node.attrs.int("block_size").unwrap_or(0) == 0 && (scales.len() == 1 || along);
    if !whole
        || outputs == 0
        || !values.dtype().is_int()
        || values.dtype().bits() > 8
        || !scales.iter().all(|s| SCALES.contains(s))
    {
        return None;
    }
    let zeros = match constant(2) {
        None => vec![0],
        Some(zeros) => integers(zeros?)?,
    };
    if zeros.len() != 1 && zeros.len() != outputs {
        return None;
    }
    let inside: usize = values.shape()[axis + 1..].iter().product::<u64>() as usize;
    let of_output = |list: &[i64], i: usize| list[if list.len() == 1 { 0 } else { i / inside.max(1) % outputs }];
    let bytes = if values.dtype() == DType::I8 && zeros.iter().all(|z| *z == 0) {
        values.clone()
    } else {
        let moved = integers(values)?.into_iter().enumerate().map(|(i, v)| i8::try_from(v - of_output(&zeros, i)).ok());
        Tensor::from_vec::<i8>(values.shape(), moved.collect::<Option<_>>()?)
    };
    let scales = if scales.len() == 1 { vec![scales[0]; outputs] } else { scales };
    Some((bytes, scales))
}

/// Elements of any type of at most 8 bits.
fn integers(t: &Tensor) -> Option<Vec<i64>> {
    use onnxc_ir::scalar_eval::Scalar;
    (0..t.len()).map(|i| Scalar::read(t.dtype(), t.bytes(), i).map(|v| v.int() as i64)).collect()
}

/// Gives a recurrent layer bytes for its state, and their scales.
fn replace_of_state(graph: &mut Graph, mut node: Node, at: usize, coded: Coded) {
    let name = graph.value(node.inputs[at].expect("internal: coded: a product has weights")).name.clone();
    let directions = coded.values.shape()[0];
    let scales = Tensor::from_vec(&[directions, coded.scales.len() as u64], coded.scales.repeat(directions as usize));
    node.inputs.resize(recurrent::SCALE + 1, None);
    node.inputs[recurrent::SCALE] = Some(graph.add_const(&format!("{name}.scale"), scales));
    node.inputs[at] = Some(graph.add_const(&format!("{name}.values"), coded.values));
    graph.nodes.push(node);
}

fn replace(graph: &mut Graph, ops: OpSet, mut node: Node, coded: Coded) {
    if let Some(at) = operand_of_weights(&node).filter(|at| *at != 1) {
        return replace_of_state(graph, node, at, coded);
    }
    let op = |name: &str| ops.get(name).expect("internal: coded: an operator of this name");
    let (y, w) = (node.outputs[0], node.inputs[1].expect("internal: coded: a product has weights"));
    let (name, ty) = (graph.value(y).name.clone(), graph.ty(y).clone());
    let weights = graph.value(w).name.clone();
    let spread = |values: Vec<f32>| {
        // Channels of a convolution are dimension 1, of matrices the last one.
        let mut shape = vec![values.len() as u64];
        shape.extend(vec![1; if node.op.name == "conv" { ty.rank() - 2 } else { 0 }]);
        Tensor::from_vec::<f32>(&shape, values)
    };
    let scale = graph.add_const(&format!("{weights}.scale"), spread(coded.scales));
    let bias = coded.bias.map(|bias| match bias {
        Bias::Channels(b) => graph.add_const(&format!("{name}.bias"), spread(b.to_vec::<f32>())),
        Bias::Any(c) => c,
    });
    let values = graph.add_const(&format!("{weights}.values"), coded.values);
    let mut value = |what: &str| graph.add_value(&format!("{name}.{what}"), TensorType::new(DType::F32, ty.shape.clone()), None);
    let (sums, scaled) = (value("sums"), if bias.is_some() { value("scaled") } else { y });
    let origins = node.origins.clone();
    node.inputs.truncate(2);
    node.inputs[1] = Some(values);
    if node.op.name != "matmul" {
        node.inputs.push(None);
    }
    node.outputs = vec![sums];
    let step = |name: &str, a: ValueId, b: ValueId, to: ValueId| {
        let inputs = vec![Some(a), Some(b)];
        Node { op: op(name), inputs, outputs: vec![to], attrs: Attrs::default(), origins: origins.clone() }
    };
    let then = bias.map(|bias| step("add", scaled, bias, y));
    let multiply = step("mul", sums, scale, scaled);
    graph.nodes.push(node);
    graph.nodes.push(multiply);
    graph.nodes.extend(then);
}
