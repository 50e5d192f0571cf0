//! Recurrent layers as layers of their own: the product of x with w, and that of the state with r.
//!
//! What   `lstm(x, w, r, b)` = `lstm(x * w^T + b, _, r)`, and the same of `gru` and `rnn`, one direction after the other. Of a layer of one step with the usual
//!        activations nothing is left but products of matrices and elementwise operators.
//! When   compress, before layers are listed and before recipes are applied to them.
//! Why    what a matrix can become these can become too. The first one is called as the ONNX node with `.x` behind it, the second one as the node.
//! Class  reassociates: biases are added in another order.
//! Misses weights and biases that are computed, states of two directions that are, parameters of activations of two directions, layers in bodies of loops and
//!        branches.

use onnxc_ir::graph::Node;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Attr, Attrs, DType, Dim, Graph, Tensor, TensorType, ValueId};
use onnxc_ops::recurrent::gates;

/// Operands: sequence_lens, initial_h, initial_c, peepholes.
const LENGTHS: usize = 4;
const STATES: [usize; 2] = [5, 6];
const PEEPHOLES: usize = 7;

/// Is it a recurrent layer of products of x that are there already? Its one matrix is r then.
pub(super) fn is_state(node: &Node) -> bool {
    gates(node.op.name).is_some() && node.inputs.get(1).is_some_and(Option::is_none)
}

/// The graph with its recurrent layers taken apart.
pub fn unfold(graph: &mut Graph, ops: OpSet) {
    for node in std::mem::take(&mut graph.nodes) {
        match Layer::of(graph, &node) {
            Some(layer) => layer.put(graph, ops, &node),
            None => graph.nodes.push(node),
        }
    }
}

/// What is known of a layer.
struct Layer {
    gates: usize,
    directions: usize,
    hidden: usize,
    inputs: usize,
    w: Vec<f32>,
    r: Vec<f32>,
    /// Of w and of r for each direction, if there are any.
    bias: Option<Vec<f32>>,
}

impl Layer {
    fn of(graph: &Graph, node: &Node) -> Option<Layer> {
        let gates = gates(node.op.name)?;
        let operand = |i: usize| node.inputs.get(i).copied().flatten();
        let floats = |i: usize| graph.constant(operand(i)?).filter(|t| t.dtype() == DType::F32);
        let (w, r, bias) = (floats(1)?, floats(2)?, floats(3));
        let directions = r.shape()[0] as usize;
        // What is there has to be constant.
        let known = |i: usize| operand(i).is_none_or(|id| graph.constant(id).is_some());
        // Parameters of activations are one list for both directions.
        let listed = ["activation_alpha", "activation_beta"].iter().any(|name| node.attrs.get(name).is_some());
        let apart = directions == 1 || STATES.iter().all(|i| known(*i)) && !listed;
        let whole = node.outputs.len() == if node.op.name == "lstm" { 3 } else { 2 };
        (known(3) && known(PEEPHOLES) && apart && whole).then(|| Layer {
            gates,
            directions,
            hidden: r.shape()[2] as usize,
            inputs: w.shape()[2] as usize,
            w: w.to_vec(),
            r: r.to_vec(),
            bias: bias.map(Tensor::to_vec),
        })
    }

    /// Rows of w and r of a direction.
    fn width(&self) -> usize {
        self.gates * self.hidden
    }

    /// Puts what the layer becomes behind the nodes that are there.
    fn put(&self, graph: &mut Graph, ops: OpSet, node: &Node) {
        let mut parts: Vec<Vec<ValueId>> = Vec::new();
        for d in 0..self.directions {
            let results: Vec<ValueId> = match self.directions {
                1 => node.outputs.clone(),
                _ => node.outputs.iter().enumerate().map(|(i, id)| part_of(graph, *id, i)).collect(),
            };
            let mut direction = Direction::new(self, graph, ops, node, d);
            let own = direction.operands(&results);
            if !direction.explicit(&own) {
                direction.cell(own);
            }
            parts.push(results);
        }
        if self.directions > 1 {
            for (i, id) in node.outputs.iter().enumerate() {
                let inputs = parts.iter().map(|p| Some(p[i])).collect();
                let attrs = Attrs::default().with("axis", Attr::Int(directions_at(i) as i64));
                push(graph, ops, ("concat", inputs, attrs), *id, node.origins.clone());
            }
        }
    }

    /// Bias of w and of r of a direction.
    fn bias(&self, d: usize, half: usize) -> Option<&[f32]> {
        self.bias.as_ref().map(|b| &b[(2 * d + half) * self.width()..][..self.width()])
    }

    /// What is added to the products of x: all that is added to sums as they are. Of a GRU whose reset gate multiplies the product of the state that of this product is not.
    fn joint_bias(&self, d: usize, apart: usize) -> Option<Vec<f32>> {
        let (w, r) = (self.bias(d, 0)?, self.bias(d, 1)?);
        let end = self.width() - apart;
        Some(w.iter().zip(r).enumerate().map(|(i, (w, r))| if i < end { w + r } else { *w }).collect())
    }
}

/// The dimension of a result that counts directions.
fn directions_at(result: usize) -> usize {
    usize::from(result == 0)
}

/// A value like a result of all directions, for one of them.
fn part_of(graph: &mut Graph, id: ValueId, result: usize) -> ValueId {
    let (name, mut ty) = (graph.value(id).name.clone(), graph.ty(id).clone());
    ty.shape[directions_at(result)] = Dim::Const(1);
    graph.add_value(&name, ty, None)
}

fn push(
    graph: &mut Graph,
    ops: OpSet,
    (op, inputs, attrs): (&str, Vec<Option<ValueId>>, Attrs),
    to: ValueId,
    origins: Vec<String>,
) {
    let op = ops.get(op).expect("internal: compress: an operator of this name");
    graph.nodes.push(Node { op, inputs, outputs: vec![to], attrs, origins });
}

/// One direction of a layer that is taken apart.
struct Direction<'a> {
    layer: &'a Layer,
    graph: &'a mut Graph,
    ops: OpSet,
    node: &'a Node,
    d: usize,
    /// The ONNX nodes that it does the work of.
    origins: Vec<String>,
    /// Gates at the end whose bias of r is not added to the sum.
    apart: usize,
}

/// What a direction reads and makes.
struct Operands {
    /// Products of x, `[T, B, G*H]`.
    x: ValueId,
    /// Initial states `[1, B, H]`.
    states: [Option<ValueId>; 2],
    results: Vec<ValueId>,
}

impl<'a> Direction<'a> {
    fn new(layer: &'a Layer, graph: &'a mut Graph, ops: OpSet, node: &'a Node, d: usize) -> Direction<'a> {
        let origins = node.origins.iter().map(|name| if d == 0 { name.clone() } else { format!("{name}.reverse") }).collect();
        let resets_product = node.op.name == "gru" && node.attrs.int("linear_before_reset").unwrap_or(0) != 0;
        let apart = if resets_product { layer.hidden } else { 0 };
        Direction { layer, graph, ops, node, d, origins, apart }
    }

    fn operand(&self, i: usize) -> Option<ValueId> {
        self.node.inputs.get(i).copied().flatten()
    }

    /// A node with a new result.
    fn add(&mut self, op: &str, inputs: &[ValueId], shape: &[Dim]) -> ValueId {
        let to = self.graph.add_value(op, TensorType::new(DType::F32, shape.to_vec()), None);
        self.into(op, inputs, to);
        to
    }

    /// A node with a result that is there.
    fn into(&mut self, op: &str, inputs: &[ValueId], to: ValueId) {
        let inputs = inputs.iter().copied().map(Some).collect();
        push(self.graph, self.ops, (op, inputs, Attrs::default()), to, self.origins.clone());
    }

    fn constant(&mut self, what: &str, shape: &[usize], values: Vec<f32>) -> ValueId {
        let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
        self.graph.add_const(what, Tensor::from_vec(&shape, values))
    }

    /// `x * rows^T` of `k` columns, with a suffix to the names of the node.
    fn product(&mut self, x: ValueId, (rows, k): (&[f32], usize), suffix: &str, bias: Option<Vec<f32>>) -> ValueId {
        let n = rows.len() / k.max(1);
        let columns = (0..k * n).map(|i| rows[i % n * k + i / n]).collect();
        let w = self.constant("w", &[k, n], columns);
        let mut shape = self.graph.ty(x).shape.clone();
        *shape.last_mut().expect("internal: compress: x has three dimensions") = Dim::Const(n as u64);
        let plain = self.origins.clone();
        self.origins.iter_mut().for_each(|name| name.push_str(suffix));
        let mut y = self.add("matmul", &[x, w], &shape);
        if let Some(bias) = bias {
            let bias = self.constant("b", &[n], bias);
            y = self.add("add", &[y, bias], &shape);
        }
        self.origins = plain;
        y
    }

    /// The products of x and the states.
    fn operands(&mut self, results: &[ValueId]) -> Operands {
        let (layer, d) = (self.layer, self.d);
        let size = layer.width() * layer.inputs;
        let x = self.operand(0).expect("internal: compress: a recurrent layer has an operand");
        let x = self.product(x, (&layer.w[d * size..][..size], layer.inputs), ".x", layer.joint_bias(d, self.apart));
        let states = STATES.map(|i| self.state(i));
        Operands { x, states, results: results.to_vec() }
    }

    /// An initial state of this direction.
    fn state(&mut self, i: usize) -> Option<ValueId> {
        let given = self.operand(i)?;
        if self.layer.directions == 1 {
            return Some(given);
        }
        let tensor = self.graph.constant(given)?.clone();
        let (mut shape, values) = (tensor.shape().to_vec(), tensor.to_vec::<f32>());
        shape[0] = 1;
        let size = shape.iter().product::<u64>() as usize;
        Some(self.graph.add_const("state", Tensor::from_vec(&shape, values[self.d * size..][..size].to_vec())))
    }

    /// Rows of a constant operand of this direction, `[1, ...]`.
    fn rows_of(&mut self, i: usize) -> Option<ValueId> {
        let given = self.operand(i)?;
        let tensor = self.graph.constant(given)?.clone();
        let values = tensor.to_vec::<f32>();
        let size = values.len() / self.layer.directions;
        Some(self.constant("rows", &[1, size], values[self.d * size..][..size].to_vec()))
    }

    /// The bias of r that is not added to the sums as they are, if there is one.
    fn bias_apart(&self) -> Option<Vec<f32>> {
        let (bias, end) = (self.layer.bias(self.d, 1).filter(|_| self.apart > 0)?, self.layer.width() - self.apart);
        Some(bias.iter().enumerate().map(|(i, b)| if i < end { 0.0 } else { *b }).collect())
    }

    /// The operator without w.
    fn cell(&mut self, own: Operands) {
        let (layer, d) = (self.layer, self.d);
        let size = layer.width() * layer.hidden;
        let r = self.constant("r", &[1, layer.width(), layer.hidden], layer.r[d * size..][..size].to_vec());
        let bias = self.bias_apart().map(|b| self.constant("b", &[1, layer.width()], b));
        let mut inputs = vec![Some(own.x), None, Some(r), bias, self.operand(LENGTHS), own.states[0]];
        if self.node.op.name == "lstm" {
            inputs.extend([own.states[1], self.rows_of(PEEPHOLES)]);
        }
        let mut attrs = self.node.attrs.clone();
        if layer.directions > 1 {
            let one = |names: &[String]| names[d * names.len() / 2..][..names.len() / 2].to_vec();
            attrs = attrs.with("direction", Attr::Str(if d == 0 { "forward" } else { "reverse" }.to_string()));
            if let Some(names) = self.node.attrs.strs("activations") {
                attrs = attrs.with("activations", Attr::Strs(one(names)));
            }
        }
        let node = Node { op: self.node.op, inputs, outputs: own.results, attrs, origins: self.origins.clone() };
        self.graph.nodes.push(node);
    }

    /// Is it one step with the usual activations from a state that is given?
    fn is_one_step(&self, own: &Operands) -> bool {
        let attrs = &self.node.attrs;
        let usual: &[&str] = match self.node.op.name {
            "lstm" => &["Sigmoid", "Tanh", "Tanh"],
            "gru" => &["Sigmoid", "Tanh"],
            _ => &["Tanh"],
        };
        let named = |names: &[String]| names.iter().zip(usual.iter().cycle()).all(|(a, b)| a.eq_ignore_ascii_case(b));
        let plain = attrs.strs("activations").is_none_or(named)
            && attrs.float("clip").is_none_or(|c| c <= 0.0)
            && attrs.int("input_forget").unwrap_or(0) == 0;
        let given = own.states[0].is_some() && (self.node.op.name != "lstm" || own.states[1].is_some());
        let absent = |i: usize| self.operand(i).is_none();
        plain && given && absent(LENGTHS) && absent(PEEPHOLES) && self.graph.ty(own.x).shape[0].is_one()
    }

    /// The step in products and elementwise operators, if it is one; false if not.
    fn explicit(&mut self, own: &Operands) -> bool {
        let Some(h) = own.states[0].filter(|_| self.is_one_step(own)) else { return false };
        let ty = self.graph.ty(own.results[1]).clone();
        // The new state `[1, B, H]`, written where it belongs.
        match self.node.op.name {
            "lstm" => self.lstm(own, h, &ty.shape),
            "gru" => self.gru(own, h, &ty.shape),
            _ => {
                let sum = self.of_state(own, h);
                self.into("tanh", &[sum], own.results[1]);
            }
        }
        let axis = self.graph.add_const("axes", Tensor::from_vec(&[1], vec![1i64]));
        self.into("unsqueeze", &[own.results[1], axis], own.results[0]);
        true
    }

    /// Products of x with those of the state added.
    fn of_state(&mut self, own: &Operands, h: ValueId) -> ValueId {
        let product = self.product_of_state(h, 0..self.layer.gates, "", None);
        let shape = self.graph.ty(own.x).shape.clone();
        self.add("add", &[product, own.x], &shape)
    }

    /// The product of a state with the rows of r of some gates.
    fn product_of_state(&mut self, h: ValueId, gates: std::ops::Range<usize>, suffix: &str, bias: Option<Vec<f32>>) -> ValueId {
        let (layer, size) = (self.layer, self.layer.hidden * self.layer.hidden);
        let first = self.d * layer.gates + gates.start;
        self.product(h, (&layer.r[first * size..][..gates.len() * size], layer.hidden), suffix, bias)
    }

    /// Gates of a sum, `[1, B, H]` each.
    fn gates(&mut self, sum: ValueId, shape: &[Dim], many: usize) -> Vec<ValueId> {
        let ty = TensorType::new(DType::F32, shape.to_vec());
        let parts: Vec<ValueId> = (0..many).map(|_| self.graph.add_value("gate", ty.clone(), None)).collect();
        let op = self.ops.get("split").expect("internal: compress: an operator of this name");
        let attrs = Attrs::default().with("axis", Attr::Int(2)).with("num_outputs", Attr::Int(many as i64));
        let (inputs, outputs, origins) = (vec![Some(sum)], parts.clone(), self.origins.clone());
        self.graph.nodes.push(Node { op, inputs, outputs, attrs, origins });
        parts
    }

    fn lstm(&mut self, own: &Operands, h: ValueId, shape: &[Dim]) {
        let c = own.states[1].expect("internal: compress: one step has its states");
        let sum = self.of_state(own, h);
        let gates = self.gates(sum, shape, 4);
        let [input, output, forget] = [0, 1, 2].map(|n| self.add("sigmoid", &[gates[n]], shape));
        let new = self.add("tanh", &[gates[3]], shape);
        let (kept, added) = (self.add("mul", &[forget, c], shape), self.add("mul", &[input, new], shape));
        self.into("add", &[kept, added], own.results[2]);
        let shown = self.add("tanh", &[own.results[2]], shape);
        self.into("mul", &[output, shown], own.results[1]);
    }

    fn gru(&mut self, own: &Operands, h: ValueId, shape: &[Dim]) {
        let x = self.gates(own.x, shape, 3);
        let linear = self.apart > 0;
        let some = if linear { 3 } else { 2 };
        let product = self.product_of_state(h, 0..some, "", self.bias_apart());
        let of_h = self.gates(product, shape, some);
        let gate = |this: &mut Self, n: usize| {
            let sum = this.add("add", &[x[n], of_h[n]], shape);
            this.add("sigmoid", &[sum], shape)
        };
        let (update, reset) = (gate(self, 0), gate(self, 1));
        let fresh = if linear {
            self.add("mul", &[reset, of_h[2]], shape)
        } else {
            let scaled = self.add("mul", &[reset, h], shape);
            self.product_of_state(scaled, 2..3, ".reset", None)
        };
        let sum = self.add("add", &[x[2], fresh], shape);
        let new = self.add("tanh", &[sum], shape);
        let step = self.add("sub", &[h, new], shape);
        let moved = self.add("mul", &[update, step], shape);
        self.into("add", &[new, moved], own.results[1]);
    }
}

#[cfg(test)]
mod tests {
    use onnxc_ir::{interp, verify};

    use super::super::testing::Random;
    use super::super::weighted;
    use super::*;

    const HIDDEN: u64 = 5;
    const INPUTS: u64 = 3;

    struct Case {
        op: &'static str,
        gates: u64,
        time: u64,
        direction: &'static str,
        state: bool,
        attrs: Attrs,
    }

    fn floats(random: &mut Random, shape: &[u64]) -> Tensor {
        let n: u64 = shape.iter().product();
        Tensor::from_vec(shape, (0..n).map(|_| random.normal() as f32 / 2.0).collect())
    }

    impl Case {
        /// The graph and its inputs.
        fn graph(&self) -> (Graph, Vec<Tensor>) {
            let (mut random, ops) = (Random(7), OpSet(onnxc_ops::ALL));
            let directions = if self.direction == "bidirectional" { 2 } else { 1 };
            let (batch, width) = (2, self.gates * HIDDEN);
            let mut g = Graph::new("test");
            let mut given = vec![floats(&mut random, &[self.time, batch, INPUTS])];
            let x = g.add_input("x", TensorType::fixed(DType::F32, given[0].shape()));
            let mut constant = |g: &mut Graph, name: &str, shape: &[u64]| Some(g.add_const(name, floats(&mut random, shape)));
            let mut inputs = vec![
                Some(x),
                constant(&mut g, "w", &[directions, width, INPUTS]),
                constant(&mut g, "r", &[directions, width, HIDDEN]),
                constant(&mut g, "b", &[directions, 2 * width]),
                None,
            ];
            let state = [directions, batch, HIDDEN];
            let states = if self.op == "lstm" { 2 } else { 1 };
            for name in ["h", "c"].iter().take(if self.state { states } else { 0 }) {
                // Those of two directions are known.
                if directions == 2 {
                    inputs.push(constant(&mut g, name, &state));
                } else {
                    given.push(floats(&mut Random(9), &state));
                    inputs.push(Some(g.add_input(name, TensorType::fixed(DType::F32, &state))));
                }
            }
            let result = |g: &mut Graph, name: &str, shape: &[u64]| g.add_value(name, TensorType::fixed(DType::F32, shape), None);
            let mut outputs = vec![result(&mut g, "y", &[self.time, directions, batch, HIDDEN])];
            outputs.extend(["y_h", "y_c"].iter().take(states).map(|name| result(&mut g, name, &state)));
            let attrs = self.attrs.clone().with("direction", Attr::Str(self.direction.to_string()));
            g.outputs.clone_from(&outputs);
            let op = ops.get(self.op).expect("an operator");
            g.nodes.push(Node { op, inputs, outputs, attrs, origins: vec!["layer".to_string()] });
            verify::verify(&g).unwrap_or_else(|e| panic!("{e:?}"));
            (g, given)
        }
    }

    fn cases() -> Vec<Case> {
        let linear = || Attrs::default().with("linear_before_reset", Attr::Int(1));
        let kinds =
            [("lstm", 4, Attrs::default()), ("gru", 3, Attrs::default()), ("gru", 3, linear()), ("rnn", 1, Attrs::default())];
        let mut all = Vec::new();
        for (op, gates, attrs) in kinds {
            for (time, direction, state) in [
                (1, "forward", true),
                (1, "reverse", false),
                (4, "forward", true),
                (4, "reverse", false),
                (3, "bidirectional", true),
            ] {
                all.push(Case { op, gates, time, direction, state, attrs: attrs.clone() });
            }
        }
        let clipped = Attrs::default().with("clip", Attr::Float(0.5));
        all.push(Case { op: "lstm", gates: 4, time: 1, direction: "forward", state: true, attrs: clipped });
        all
    }

    #[test]
    fn what_is_taken_apart_computes_the_same() {
        for case in cases() {
            let (dense, given) = case.graph();
            let mut graph = dense.clone();
            unfold(&mut graph, OpSet(onnxc_ops::ALL));
            graph.make_names_unique();
            verify::verify(&graph).unwrap_or_else(|e| panic!("{e:?}"));
            let run = |g: &Graph| interp::run(g, &given).unwrap_or_else(|e| panic!("{e:?}"));
            for (a, b) in run(&dense).iter().zip(&run(&graph)) {
                let far = a.to_vec::<f32>().iter().zip(b.to_vec::<f32>()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < 1e-5, "{} {} {}: {far}", case.op, case.time, case.direction);
            }
            let before = graph.clone();
            unfold(&mut graph, OpSet(onnxc_ops::ALL));
            assert_eq!(graph, before, "nothing is left to take apart");
        }
    }

    #[test]
    fn parameters_of_both_directions_stay_together() {
        let names = ["HardSigmoid", "Tanh", "HardSigmoid", "Tanh"].map(str::to_string).to_vec();
        let attrs = Attrs::default().with("activations", Attr::Strs(names));
        let case = |attrs: Attrs| Case { op: "gru", gates: 3, time: 3, direction: "bidirectional", state: false, attrs };
        let taken_apart = |case: Case| {
            let (mut graph, _) = case.graph();
            unfold(&mut graph, OpSet(onnxc_ops::ALL));
            graph.nodes.len() > 1
        };
        assert!(taken_apart(case(attrs.clone())));
        assert!(!taken_apart(case(attrs.with("activation_alpha", Attr::Floats(vec![0.2, 0.3])))));
    }

    #[test]
    fn both_matrices_are_layers() {
        let names = |time, direction, op| {
            let case = cases().into_iter().find(|c| (c.time, c.direction, c.op) == (time, direction, op)).expect("a case");
            let (mut graph, _) = case.graph();
            unfold(&mut graph, OpSet(onnxc_ops::ALL));
            let layers = weighted::layers(&graph);
            layers.iter().map(|l| (l.name.clone(), l.n, l.k(), l.rows, l.is_state())).collect::<Vec<_>>()
        };
        let row = |name: &str, n, k, rows, state| (name.to_string(), n, k, rows, state);
        assert_eq!(names(4, "forward", "lstm"), [row("layer.x", 20, 3, 8, false), row("layer", 20, 5, 8, true)]);
        assert_eq!(names(1, "forward", "lstm"), [row("layer.x", 20, 3, 2, false), row("layer", 20, 5, 2, false)]);
        let both = names(3, "bidirectional", "rnn");
        assert_eq!(both.iter().map(|l| &l.0[..]).collect::<Vec<_>>(), ["layer.x", "layer", "layer.reverse.x", "layer.reverse"]);
        assert_eq!(names(1, "forward", "gru").len(), 3, "the gate that resets the state comes between");
    }
}
