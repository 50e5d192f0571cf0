//! Which nodes of a quantised model run in integers, and why the others do not.

use std::collections::BTreeSet;

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::Lower;
use onnxc_ir::{DType, ValueId};

use super::params::sane;

/// A node of the model as imported.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The ONNX node.
    pub node: String,
    /// Its operator.
    pub op: &'static str,
    /// Why it computes in floats; `None` where it runs in integers.
    pub floats: Option<String>,
}

/// Operators whose being there makes a model a quantised one.
const QUANTISED: &[&str] = &[
    "quantize_linear",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "qlinear_conv",
    "qlinear_matmul",
    "conv_integer",
    "matmul_integer",
];

/// A row for every node that is not itself a change between floats and integers; none for a model without quantisation. `fused` is what the rewriting
/// phases made of `imported`.
pub fn rows(imported: &Graph, fused: &Graph) -> Vec<Row> {
    if !imported.nodes.iter().any(|n| QUANTISED.contains(&n.op.name)) {
        return Vec::new();
    }
    let origins = |floats: bool| -> BTreeSet<&str> {
        let nodes = fused.nodes.iter().filter(|n| computes_floats(fused, n) == floats);
        nodes.flat_map(|n| n.origins.iter().map(String::as_str)).collect()
    };
    let (in_floats, in_integers) = (origins(true), origins(false));
    let model = Model { graph: imported };
    let nodes = imported.nodes.iter().filter(|n| !matches!(n.op.name, "quantize_linear" | "dequantize_linear"));
    let row = |n: &Node| {
        // What was computed in integers may also be dequantised for another user.
        let floats = n.origins.iter().any(|o| in_floats.contains(o.as_str()) && !in_integers.contains(o.as_str()));
        Row { node: n.origins.join(", "), op: n.op.name, floats: floats.then(|| model.reason(n)) }
    };
    nodes.map(row).collect()
}

/// True for nodes that read or leave a float tensor, besides sums of integers and changes between floats and integers at the model's ends.
fn computes_floats(graph: &Graph, node: &Node) -> bool {
    if QUANTISED[2..].contains(&node.op.name) {
        return false;
    }
    let elementwise = matches!(node.op.lower, Lower::Elementwise(_));
    let float = |id: &&ValueId| graph.ty(**id).dtype.is_float() && graph.constant(**id).is_none();
    let reads = node.inputs.iter().flatten().filter(float).any(|id| !(elementwise && graph.inputs.contains(id)));
    let leaves = node.outputs.iter().filter(float).any(|id| !(elementwise && graph.outputs.contains(id)));
    reads || leaves
}

struct Model<'g> {
    graph: &'g Graph,
}

impl Model<'_> {
    fn producer(&self, id: ValueId) -> Option<&Node> {
        self.graph.nodes.iter().find(|n| n.outputs.contains(&id))
    }

    fn users(&self, id: ValueId) -> Vec<&Node> {
        self.graph.nodes.iter().filter(|n| n.inputs.contains(&Some(id))).collect()
    }

    /// The first of the rules' conditions that the node misses.
    fn reason(&self, node: &Node) -> String {
        let product = matches!(node.op.name, "conv" | "matmul" | "gemm");
        let operand = |i: usize| node.inputs.get(i).copied().flatten();
        let (first, second) = (operand(0), operand(1));
        let reason = match (product, first, second) {
            (true, Some(x), Some(w)) => self.float_operand(x).or_else(|| self.float_weights(w)).or_else(|| self.groups(node, x)),
            _ => node.inputs.iter().flatten().find_map(|x| self.float_operand(*x)),
        };
        reason.or_else(|| self.float_result(node)).unwrap_or_else(|| match node.op.name {
            "conv" | "matmul" | "gemm" => {
                "an attribute, a bias computed at run time, or sums that an i32 may not hold".to_string()
            }
            "average_pool" => "padding that does not count in the mean has no integer form".to_string(),
            op if matches!(node.op.lower, Lower::Elementwise(_)) || node.op.lower.view().is_some() => {
                format!("{op} joins neighbours that read or leave floats")
            }
            op => format!("{op} has no integer form"),
        })
    }

    /// Why an operand does not come as integers with one scale.
    fn float_operand(&self, x: ValueId) -> Option<String> {
        let name = &self.graph.value(x).name;
        if self.graph.constant(x).is_some() || !self.graph.ty(x).dtype.is_float() {
            return None;
        }
        match self.producer(x) {
            Some(d) if d.op.name == "dequantize_linear" => self.parameters(d, name),
            _ => Some(format!("its operand {name} is not quantised")),
        }
    }

    /// What rules cannot use of the parameters of a (de)quantisation of activations.
    fn parameters(&self, node: &Node, name: &str) -> Option<String> {
        let scale = node.inputs.get(1).copied().flatten().map(|s| self.graph.constant(s));
        let integers = if node.op.name == "dequantize_linear" { node.inputs[0] } else { node.outputs.first().copied() };
        let bits = integers.map_or(8, |id| self.graph.ty(id).dtype.bits());
        let by = node.inputs.get(1).copied().flatten().and_then(|s| self.producer(s));
        match scale.flatten() {
            None if by.is_some_and(|by| by.op.name == "dynamic_quantize_linear") => None,
            None => Some(format!("the scale of {name} is computed at run time")),
            Some(s) if node.attrs.int("block_size").unwrap_or(0) != 0 => {
                Some(format!("{name} has {} scales, one a block", s.len()))
            }
            Some(s) if s.len() != 1 => Some(format!("{name} has {} scales, one for each index of an axis", s.len())),
            Some(s) if s.dtype() != DType::F32 || !sane(s.to_vec::<f32>()[0]) => {
                Some(format!("the scale of {name} is {} or out of range", s.dtype()))
            }
            _ if bits != 8 && integers.is_some_and(|id| self.graph.ty(id).dtype != DType::I16) => {
                Some(format!("{name} has integers of {bits} bits, products have 8, or 16 with sign"))
            }
            _ => None,
        }
    }

    /// Why a convolution with groups stays as it is.
    fn groups(&self, node: &Node, x: ValueId) -> Option<String> {
        let integers = self.producer(x)?.inputs.first().copied().flatten()?;
        let words = self.graph.ty(integers).dtype == DType::I16;
        (words && node.attrs.int("group").unwrap_or(1) > 1)
            .then(|| "with groups, integers of 16 bits are no faster than floats".to_string())
    }

    fn float_weights(&self, w: ValueId) -> Option<String> {
        let name = &self.graph.value(w).name;
        if self.graph.constant(w).is_some() {
            return Some(format!("its weights {name} are floats"));
        }
        let Some(d) = self.producer(w).filter(|d| d.op.name == "dequantize_linear") else {
            return Some(format!("its weights {name} are not quantised"));
        };
        let constant = |i: usize| d.inputs.get(i).copied().flatten().and_then(|id| self.graph.constant(id));
        match (constant(0), constant(1)) {
            (None, _) => Some(format!("its second operand {name} is computed at run time")),
            (Some(_), None) => Some(format!("the scales of its weights {name} are computed at run time")),
            (Some(_), Some(_)) if d.attrs.int("block_size").unwrap_or(0) != 0 => {
                Some(format!("its weights {name} have a scale for each block, which one sum of integers cannot keep apart"))
            }
            (Some(w), Some(_)) if w.dtype().bits() > 8 && w.dtype() != DType::I16 => {
                Some(format!("its weights {name} have {} bits, products have at most 8, or 16 with sign", w.dtype().bits()))
            }
            _ => None,
        }
    }

    /// Why its result is needed as floats.
    fn float_result(&self, node: &Node) -> Option<String> {
        let y = *node.outputs.first()?;
        let name = &self.graph.value(y).name;
        let users = self.users(y);
        match users[..] {
            [] => Some(format!("its result {name} leaves the model as floats")),
            [_] if self.graph.outputs.contains(&y) => Some(format!("its result {name} leaves the model as floats")),
            [only] if only.op.name == "quantize_linear" => self.parameters(only, name),
            [only] => Some(format!("its result {name} is not quantised before {}", only.op.name)),
            _ => Some(format!("its result {name} is used by {} nodes as floats", users.len())),
        }
    }
}
