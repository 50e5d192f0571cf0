//! ONNX messages written with the schema-less encoder, so that each can be spoiled in one place.
//! Field numbers are those of `onnx.proto`.

use crate::wire::Msg;

pub(crate) const FLOAT: i64 = 1;
pub(crate) const INT64: i64 = 7;
pub(crate) const BOOL: i64 = 9;

/// Attribute type tags of `AttributeProto`.
pub(crate) mod tag {
    pub const FLOAT: i64 = 1;
    pub const INT: i64 = 2;
    pub const STRING: i64 = 3;
    pub const TENSOR: i64 = 4;
    pub const GRAPH: i64 = 5;
    pub const INTS: i64 = 7;
}

/// A `ValueInfoProto` of tensor type.
pub(crate) fn value(name: &str, elem_type: i64, dims: &[i64]) -> Msg {
    let shape = dims.iter().fold(Msg::new(), |m, d| m.msg(1, &Msg::new().int(1, *d)));
    let tensor = Msg::new().int(1, elem_type).msg(2, &shape);
    Msg::new().bytes(1, name).msg(2, &Msg::new().msg(1, &tensor))
}

/// A `NodeProto`, named after its first output.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Msg {
    let m = inputs.iter().fold(Msg::new(), |m, i| m.bytes(1, i));
    let m = outputs.iter().fold(m, |m, o| m.bytes(2, o));
    m.bytes(3, format!("the_{}", outputs.first().unwrap_or(&"node"))).bytes(4, op)
}

fn attribute(name: &str, type_tag: i64) -> Msg {
    Msg::new().bytes(1, name).int(20, type_tag)
}

impl Msg {
    /// On a node: an integer attribute.
    pub(crate) fn attr_int(self, name: &str, v: i64) -> Self {
        self.msg(5, &attribute(name, tag::INT).int(3, v))
    }

    /// On a node: a list of integers.
    pub(crate) fn attr_ints(self, name: &str, all: &[i64]) -> Self {
        self.msg(5, &all.iter().fold(attribute(name, tag::INTS), |m, v| m.int(8, *v)))
    }

    /// On a node: a string.
    pub(crate) fn attr_string(self, name: &str, v: &str) -> Self {
        self.msg(5, &attribute(name, tag::STRING).bytes(4, v))
    }

    /// On a node: a tensor.
    pub(crate) fn attr_tensor(self, name: &str, v: &Msg) -> Self {
        self.msg(5, &attribute(name, tag::TENSOR).msg(5, v))
    }

    /// On a node: a graph.
    pub(crate) fn attr_graph(self, name: &str, v: &Msg) -> Self {
        self.msg(5, &attribute(name, tag::GRAPH).msg(6, v))
    }
}

/// A `TensorProto` without data.
pub(crate) fn tensor(name: &str, elem_type: i64, dims: &[i64]) -> Msg {
    dims.iter().fold(Msg::new(), |m, d| m.int(1, *d)).int(2, elem_type).bytes(8, name)
}

/// An `f32` initialiser of ones.
pub(crate) fn ones(name: &str, dims: &[i64]) -> Msg {
    tensor(name, FLOAT, dims).bytes(9, 1f32.to_le_bytes().repeat(dims.iter().product::<i64>() as usize))
}

/// An `i64` vector initialiser.
pub(crate) fn int64s(name: &str, all: &[i64]) -> Msg {
    let raw: Vec<u8> = all.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(name, INT64, &[all.len() as i64]).bytes(9, raw)
}

/// A `GraphProto`.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    pub nodes: Vec<Msg>,
    pub inputs: Vec<Msg>,
    pub outputs: Vec<Msg>,
    pub weights: Vec<Msg>,
}

impl Graph {
    /// `y = Add(Relu(x), w)`, everything `f32[2,3]`.
    pub(crate) fn good() -> Self {
        Self {
            nodes: vec![node("Relu", &["x"], &["h"]), node("Add", &["h", "w"], &["y"])],
            inputs: vec![value("x", FLOAT, &[2, 3])],
            outputs: vec![value("y", FLOAT, &[2, 3])],
            weights: vec![ones("w", &[2, 3])],
        }
    }

    /// Nodes from `x: f32[2,3]` to `y: f32[2,3]`.
    pub(crate) fn of(nodes: impl Into<Vec<Msg>>) -> Self {
        Self { nodes: nodes.into(), weights: vec![], ..Self::good() }
    }

    /// Adds initialisers.
    pub(crate) fn weights(mut self, all: impl IntoIterator<Item = Msg>) -> Self {
        self.weights.extend(all);
        self
    }

    /// Replaces the inputs.
    pub(crate) fn inputs(mut self, all: impl Into<Vec<Msg>>) -> Self {
        self.inputs = all.into();
        self
    }

    /// Replaces the outputs.
    pub(crate) fn outputs(mut self, all: impl Into<Vec<Msg>>) -> Self {
        self.outputs = all.into();
        self
    }

    pub(crate) fn msg(&self) -> Msg {
        let m = Msg::new().msgs(1, &self.nodes).bytes(2, "g").msgs(5, &self.weights);
        m.msgs(11, &self.inputs).msgs(12, &self.outputs)
    }

    /// The whole model, opset 17.
    pub(crate) fn model(&self) -> Vec<u8> {
        model(&self.msg()).0
    }
}

/// An `OperatorSetIdProto`.
pub(crate) fn opset(domain: &str, version: i64) -> Msg {
    Msg::new().bytes(1, domain).int(2, version)
}

/// A `ModelProto` of IR version 8 and opset 17 around a graph.
pub(crate) fn model(graph: &Msg) -> Msg {
    model_of(17, graph)
}

/// The same of another opset.
pub(crate) fn model_of(version: i64, graph: &Msg) -> Msg {
    Msg::new().int(1, 8).msg(8, &opset("", version)).msg(7, graph)
}

/// The model that most cases spoil; it is valid.
pub fn good_model() -> Vec<u8> {
    Graph::good().model()
}

/// A valid model whose `If` takes either of two one-node graphs.
pub fn with_subgraph() -> Vec<u8> {
    let branch = |op: &str, out: &str| Graph::of([node(op, &["x"], &[out])]).inputs([]).outputs([value(out, FLOAT, &[2, 3])]);
    if_node(&branch("Relu", "t"), &branch("Neg", "e")).model()
}

/// `y = If(c, then, else)` with `x: f32[2,3]` and `c: bool[]`.
pub(crate) fn if_node(then_branch: &Graph, else_branch: &Graph) -> Graph {
    let n =
        node("If", &["c"], &["y"]).attr_graph("then_branch", &then_branch.msg()).attr_graph("else_branch", &else_branch.msg());
    Graph::of([n]).inputs([value("x", FLOAT, &[2, 3]), value("c", BOOL, &[])])
}

/// A model of one node, opset `version` of `domain`, whose operands are inputs of these element types and dims, and whose result is declared to
/// have the last ones.
pub fn one_node(domain: &str, op: &str, version: i64, inputs: &[(i64, &[i64])], result: Option<(i64, &[i64])>) -> Vec<u8> {
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    let n = node(op, &names.iter().map(String::as_str).collect::<Vec<_>>(), &["y"]).bytes(7, domain);
    let values: Vec<Msg> = names.iter().zip(inputs).map(|(name, (elem_type, dims))| value(name, *elem_type, dims)).collect();
    let output = result.map_or_else(|| Msg::new().bytes(1, "y"), |(elem_type, dims)| value("y", elem_type, dims));
    let graph = Graph::of([n]).inputs(values).outputs([output]).msg();
    let opsets = Msg::new().int(1, 8).msg(8, &opset(domain, version));
    (if domain.is_empty() { opsets } else { opsets.msg(8, &opset("", 17)) }).msg(7, &graph).0
}
