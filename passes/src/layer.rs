//! A node on its own: the graph that has only it, for measuring it, and a text that equal nodes share.
//!
//! What surrounds a node in its model decides on the layout of its operands and on whether they have a border of zeros, so operands that other nodes
//! compute are computed here too, by nodes that do next to nothing, and results are read by one.

use onnxc_ir::graph::Node;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Attr, Attrs, DType, Graph, Tensor, TensorType, ValueId, text};
use onnxc_ops::schedule::Choice;

use crate::layout::{self, Order, channels_last};
use crate::sparsity;

/// Origin of the node that the graph is about.
pub const OWN: &str = "layer";

/// Origin of the nodes around the one that the graph is about, and the beginning of the names of their results.
pub const FEED: &str = "feed";

/// A node of a graph, and where its operands come from.
pub struct Layer<'g> {
    graph: &'g Graph,
    node: &'g Node,
    /// For each operand.
    from: Vec<From>,
    /// The results that the graph returns.
    returned: Vec<bool>,
}

/// Where an operand comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Absent,
    Constant,
    /// The caller.
    Input,
    /// A node, row-major or (true) channels last.
    Node(bool),
}

/// The nodes of a graph, those with extents that are not known left out.
pub fn layers(graph: &Graph) -> Vec<Option<Layer<'_>>> {
    let orders = layout::choose(graph);
    let known = |n: &Node| n.inputs.iter().flatten().chain(&n.outputs).all(|id| graph.ty(*id).const_shape().is_some());
    graph.nodes.iter().map(|node| known(node).then(|| Layer::new(graph, node, &orders))).collect()
}

impl<'g> Layer<'g> {
    /// A node of values of `graph`, which are kept in these orders.
    pub(crate) fn new(graph: &'g Graph, node: &'g Node, orders: &[Order]) -> Layer<'g> {
        let from = |id: &Option<ValueId>| match id {
            None => From::Absent,
            Some(id) if graph.constant(*id).is_some() => From::Constant,
            Some(id) if graph.inputs.contains(id) => From::Input,
            Some(id) => {
                let ty = graph.ty(*id);
                From::Node(ty.rank() > 2 && poolable(ty) && orders[id.0 as usize] == channels_last(ty.rank()))
            }
        };
        let returned = node.outputs.iter().map(|id| graph.outputs.contains(id)).collect();
        Layer { graph, node, from: node.inputs.iter().map(from).collect(), returned }
    }

    /// The node.
    pub fn node(&self) -> &'g Node {
        self.node
    }

    /// Types of the operands.
    pub fn inputs(&self) -> Vec<Option<TensorType>> {
        self.node.inputs.iter().map(|id| id.map(|id| self.graph.ty(id).clone())).collect()
    }

    /// Is operand `i` a constant?
    pub fn is_constant(&self, i: usize) -> bool {
        self.from.get(i) == Some(&From::Constant)
    }

    /// Bytes of the constant operands.
    pub fn constant_bytes(&self) -> u64 {
        self.node.inputs.iter().flatten().filter_map(|id| self.graph.constant(*id)).map(|t| t.bytes().len() as u64).sum()
    }

    /// Everything that time depends on but the choice: the operator with its attributes, types, and where operands come from.
    pub fn signature(&self) -> String {
        let place = |(id, from): (&Option<ValueId>, &From)| {
            let ty = id.map_or(String::new(), |id| self.graph.ty(id).to_string());
            match from {
                From::Absent => "_".to_string(),
                From::Constant => match id.and_then(|id| sparsity::pattern(self.constant(id))) {
                    Some(zeros) => format!("const {ty} zeros={zeros:016x}"),
                    None => format!("const {ty}"),
                },
                From::Input => format!("input {ty}"),
                From::Node(true) => format!("{ty} channels-last"),
                From::Node(false) => ty,
            }
        };
        let operands: Vec<String> = self.node.inputs.iter().zip(&self.from).map(place).collect();
        let result =
            |(id, returned): (&ValueId, &bool)| format!("{}{}", if *returned { "output " } else { "" }, self.graph.ty(*id));
        let results: Vec<String> = self.node.outputs.iter().zip(&self.returned).map(result).collect();
        let mut attrs = self.node.attrs.clone();
        Choice::default().apply(&mut attrs);
        format!("{} {}{} : {}", self.node.op.name, operands.join(", "), text::attrs(&attrs), results.join(", "))
    }

    /// The graph with the node alone, computed as `choice` says.
    pub fn alone(&self, choice: &Choice) -> Graph {
        let (mut g, ops) = (Graph::new("layer"), OpSet(onnxc_ops::ALL));
        let mut seen: Vec<(ValueId, ValueId)> = Vec::new();
        let mut inputs = Vec::new();
        for (n, (id, from)) in self.node.inputs.iter().zip(&self.from).enumerate() {
            let Some(id) = id else {
                inputs.push(None);
                continue;
            };
            let known = seen.iter().find(|s| s.0 == *id).map(|s| s.1);
            let here = known.unwrap_or_else(|| {
                let ty = self.graph.ty(*id).clone();
                match from {
                    From::Absent | From::Constant => g.add_const(&format!("c{n}"), self.constant(*id).clone()),
                    From::Input => g.add_input(&format!("x{n}"), ty),
                    From::Node(last) => {
                        let x = g.add_input(&format!("x{n}"), ty);
                        through(&mut g, ops, x, *last, &format!("{FEED}{n}"))
                    }
                }
            });
            seen.push((*id, here));
            inputs.push(Some(here));
        }
        let mut node = Node { inputs, origins: vec![OWN.to_string()], ..self.node.clone() };
        choice.apply(&mut node.attrs);
        let result = |(n, id): (usize, &ValueId)| g.add_value(&format!("y{n}"), self.graph.ty(*id).clone(), None);
        node.outputs = self.node.outputs.iter().enumerate().map(result).collect();
        let results = node.outputs.clone();
        g.nodes.push(node);
        for (n, (y, returned)) in results.into_iter().zip(&self.returned).enumerate() {
            let y = if *returned { y } else { through(&mut g, ops, y, false, &format!("{FEED}.y{n}")) };
            g.outputs.push(y);
        }
        g
    }

    /// The graph that it is of.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    fn constant(&self, id: ValueId) -> &Tensor {
        self.graph.constant(id).expect("internal: it is one")
    }
}

/// Element types that pooling has code for: what writes images with channels last.
fn poolable(ty: &TensorType) -> bool {
    matches!(ty.dtype, DType::F32 | DType::U8 | DType::I8)
}

/// A node that only copies its operand: pooling by windows of one element where the result has to have channels last, else the operand itself if it is not
/// less than itself.
fn through(g: &mut Graph, ops: OpSet, x: ValueId, channels_last: bool, name: &str) -> ValueId {
    let ty = g.ty(x).clone();
    let spatial = ty.rank().saturating_sub(2);
    let (op, inputs, attrs) = if channels_last {
        let kernel = Attrs::default().with("kernel_shape", Attr::Ints(vec![1; spatial]));
        ("max_pool", vec![Some(x)], kernel)
    } else {
        ("max", vec![Some(x), Some(x)], Attrs::default())
    };
    let op = ops.get(op).expect("internal: an operator of this name");
    let y = g.add_value(name, ty, None);
    g.nodes.push(Node { op, inputs, outputs: vec![y], attrs, origins: vec![FEED.to_string()] });
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::{parse, verify};

    const TEXT: &str = "graph @f(%x: f32[1,4,12,12], %z: f32[1,8,12,12]) {
  %w = const f32[8,4,3,3] blob(0000000000000001)
  %v = const f32[8,8,3,3] blob(0000000000000002)
  %a = conv %x, %w, _ {pads = ints[1, 1, 1, 1]} : f32[1,8,12,12] @\"first\"
  %b = conv %a, %v, _ {pads = ints[1, 1, 1, 1]} : f32[1,8,12,12] @\"second\"
  %c = conv %b, %v, _ {pads = ints[1, 1, 1, 1]} : f32[1,8,12,12] @\"third\"
  %d = conv %c, %v, _ {pads = ints[1, 1, 1, 1]} : f32[1,8,12,12] @\"fourth\"
  return %d
}";

    #[test]
    fn equal_layers_have_one_signature_and_a_graph_of_their_own() {
        let blob = |hash: u64| {
            let shape: &[u64] = if hash == 1 { &[8, 4, 3, 3] } else { &[8, 8, 3, 3] };
            Some(Tensor::from_vec(shape, vec![0.25f32; shape.iter().product::<u64>() as usize]))
        };
        let graph = parse::parse(TEXT, OpSet(onnxc_ops::ALL), &blob).unwrap();
        let layers: Vec<Layer> = layers(&graph).into_iter().flatten().collect();
        let signatures: Vec<String> = layers.iter().map(Layer::signature).collect();
        assert_eq!(
            signatures[1],
            "conv f32[1,8,12,12] channels-last, const f32[8,8,3,3], _ {pads = ints[1, 1, 1, 1]} : f32[1,8,12,12]"
        );
        assert_eq!(signatures[1], signatures[2]);
        assert!(signatures[0].contains("input f32[1,4,12,12]") && signatures[3].ends_with("output f32[1,8,12,12]"));
        let alone = layers[1].alone(&"winograd2 14x32".parse().unwrap());
        verify::verify(&alone).unwrap();
        assert_eq!(alone.nodes.iter().map(|n| n.op.name).collect::<Vec<_>>(), ["max_pool", "conv", "max"]);
        assert_eq!(Choice::of(&alone.nodes[1].attrs).to_string(), "winograd2 14x32");
        let again: Vec<Layer> = super::layers(&alone).into_iter().flatten().collect();
        assert_eq!(again[1].signature(), signatures[1], "a choice is not part of it");
    }
}
