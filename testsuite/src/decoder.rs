//! A small language model with pseudo-random weights as ONNX models: token ids in, logits out. The forms have the same weights and differ in how
//! they go over a text, so that they must give the same logits for every token of it.
//!
//! Two layers of attention with rotary positions and a gated network behind it, normalised by their root mean squares, as in the language
//! models of today. The whole text attends by the operator `Attention`, tokens with a cache by products and a softmax written out.

use std::fmt::Display;

use crate::bad_models::build::{FLOAT, Graph, INT64, int64s, node, opset, tensor};
use crate::mutate::Rng;
use crate::tensor::Tensor;
use crate::wire::Msg;

/// Different tokens.
pub const VOCABULARY: usize = 61;
/// Most tokens of a text.
pub const POSITIONS: usize = 24;
/// Layers, each with a cache of keys and one of values.
pub const LAYERS: usize = 2;
const HEADS: usize = 4;
/// Elements of a head.
const HEAD: usize = 8;
const WIDTH: usize = HEADS * HEAD;
const HIDDEN: usize = 48;

/// How a model goes over a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As many tokens at once, without caches.
    Whole(usize),
    /// As many tokens from a position on, which is an input. Their keys and values are written to caches of [`POSITIONS`] rows.
    Fixed(usize),
    /// One token behind those of the caches, whose length is the dimension `past`; caches come back with a row more.
    Growing,
}

impl Form {
    fn tokens(self) -> usize {
        match self {
            Form::Whole(n) | Form::Fixed(n) => n,
            Form::Growing => 1,
        }
    }
}

/// Caches before the first token, of keys and values of each layer: empty, or with numbers in them that no token may see.
///
/// # Panics
/// Without caches.
pub fn caches(form: Form) -> Vec<Tensor> {
    let shapes = match form {
        Form::Whole(_) => panic!("a model without caches"),
        Form::Fixed(_) => [[1, HEADS, POSITIONS, HEAD], [POSITIONS, 1, HEADS, HEAD]],
        Form::Growing => [[1, HEADS, 0, HEAD]; 2],
    };
    let garbage = |dims: [usize; 4]| Tensor::f32(&dims, &vec![9.0; dims.iter().product()]);
    (0..LAYERS).flat_map(|_| shapes.map(garbage)).collect()
}

/// The model: inputs are the tokens, the position if it has one, and the caches; outputs are the logits and the caches.
pub fn model(form: Form) -> Vec<u8> {
    let mut w = Writer { graph: Graph::default(), rng: Rng(5), form, positions: String::new(), mask: None };
    w.begin();
    let embedding = w.weight("embedding", &[VOCABULARY, WIDTH], 1.0);
    let mut x = w.op("Gather", &[&embedding, "tokens"]);
    for layer in 0..LAYERS {
        let attended = w.attention(layer, &x);
        x = w.op("Add", &[&x, &attended]);
        let hidden = w.gated(layer, &x);
        x = w.op("Add", &[&x, &hidden]);
    }
    x = w.norm("last", &x);
    let projection = w.weight("projection", &[WIDTH, VOCABULARY], 0.4);
    w.graph.nodes.push(node("MatMul", &[&x, &projection], &["logits"]));
    Msg::new().int(1, 11).msg(8, &opset("", 24)).msg(7, &w.graph.msg()).0
}

struct Writer {
    graph: Graph,
    rng: Rng,
    form: Form,
    /// Positions of the tokens, `i64[1, tokens]`.
    positions: String,
    /// What is added to the scores of the keys, where not all may be seen.
    mask: Option<String>,
}

impl Writer {
    /// Inputs that every layer uses, and what follows from them.
    fn begin(&mut self) {
        let n = self.form.tokens();
        self.graph.inputs.push(value("tokens", INT64, &[&1, &n]));
        self.graph.outputs.push(value("logits", FLOAT, &[&1, &n, &VOCABULARY]));
        self.tables();
        let steps = self.ints("steps", &(0..n as i64).collect::<Vec<_>>());
        let positions = match self.form {
            Form::Whole(_) => steps,
            Form::Fixed(_) => {
                self.graph.inputs.push(value("position", INT64, &[&1]));
                self.op("Add", &["position", &steps])
            }
            Form::Growing => self.node("Shape", &["past_key_0"], |m| m.attr_int("start", 2).attr_int("end", 3)),
        };
        let shape = self.ints("row", &[1, n as i64]);
        self.positions = self.op("Reshape", &[&positions, &shape]);
        if let Form::Fixed(_) = self.form {
            self.mask = Some(self.causal());
        }
    }

    /// Cosines and sines of the angles by which pairs of elements are turned, for each position.
    fn tables(&mut self) {
        let angles =
            (0..POSITIONS).flat_map(|p| (0..HEAD / 2).map(move |i| p as f32 / 100f32.powf(2.0 * i as f32 / HEAD as f32)));
        let angles: Vec<f32> = angles.collect();
        for (name, f) in [("cosines", f32::cos as fn(f32) -> f32), ("sines", f32::sin)] {
            self.floats(name, &[POSITIONS, HEAD / 2], angles.iter().map(|a| f(*a)));
        }
    }

    /// Keys of a cache behind a token's position are hidden from it.
    fn causal(&mut self) -> String {
        let keys = self.ints("keys", &(0..POSITIONS as i64).collect::<Vec<_>>());
        let column = self.ints("column", &[self.form.tokens() as i64, 1]);
        let own = self.op("Reshape", &[&self.positions.clone(), &column]);
        let seen = self.op("LessOrEqual", &[&keys, &own]);
        let (zero, hidden) = (self.floats("zero", &[], [0.0]), self.floats("hidden", &[], [f32::NEG_INFINITY]));
        self.op("Where", &[&seen, &zero, &hidden])
    }

    fn attention(&mut self, layer: usize, x: &str) -> String {
        let normed = self.norm(&format!("attention_{layer}"), x);
        let (q, k) = (self.heads(layer, "query", &normed), self.heads(layer, "key", &normed));
        let (q, k, v) = (self.turned(&q), self.turned(&k), self.heads(layer, "value", &normed));
        let mixed = match self.form {
            Form::Whole(_) => self.node("Attention", &[&q, &k, &v], |m| m.attr_int("is_causal", 1)),
            Form::Fixed(_) | Form::Growing => self.cached(layer, &q, &k, &v),
        };
        let joined = self.transposed(&mixed, &[0, 2, 1, 3]);
        let shape = self.ints("joined", &[1, self.form.tokens() as i64, WIDTH as i64]);
        let joined = self.op("Reshape", &[&joined, &shape]);
        let w = self.weight(&format!("mix_{layer}"), &[WIDTH, WIDTH], 0.3);
        self.op("MatMul", &[&joined, &w])
    }

    /// `x` by a matrix, one row for each head.
    fn heads(&mut self, layer: usize, name: &str, x: &str) -> String {
        let w = self.weight(&format!("{name}_{layer}"), &[WIDTH, WIDTH], 0.3);
        let product = self.op("MatMul", &[x, &w]);
        let shape = self.ints("heads", &[1, self.form.tokens() as i64, HEADS as i64, HEAD as i64]);
        let split = self.op("Reshape", &[&product, &shape]);
        self.transposed(&split, &[0, 2, 1, 3])
    }

    fn turned(&mut self, x: &str) -> String {
        self.op("RotaryEmbedding", &[x, "cosines", "sines", &self.positions.clone()])
    }

    /// Attention to what the caches hold with these keys and values.
    fn cached(&mut self, layer: usize, q: &str, k: &str, v: &str) -> String {
        let names = ["key", "value"].map(|kind| (format!("past_{kind}_{layer}"), format!("present_{kind}_{layer}")));
        for (i, (past, present)) in names.iter().enumerate() {
            let (before, after) = self.cache_types(i, past, present);
            self.graph.inputs.push(before);
            self.graph.outputs.push(after);
        }
        let [(past_key, key), (past_value, values)] = &names;
        let (mut all, along) = (values.clone(), |m: Msg| m.attr_int("axis", 2));
        if self.form == Form::Growing {
            self.graph.nodes.push(along(node("Concat", &[past_key, k], &[key])));
            self.graph.nodes.push(along(node("Concat", &[past_value, v], &[values])));
        } else {
            self.graph.nodes.push(along(node("TensorScatter", &[past_key, k, "position"], &[key])));
            let (rows, column) = (self.transposed(v, &[2, 0, 1, 3]), self.ints("column", &[self.form.tokens() as i64, 1]));
            let places = self.op("Reshape", &[&self.positions.clone(), &column]);
            self.graph.nodes.push(node("ScatterND", &[past_value, &places, &rows], &[values]));
            all = self.transposed(values, &[1, 2, 0, 3]);
        }
        let (keys, root) = (self.transposed(key, &[0, 1, 3, 2]), self.floats("root", &[], [(HEAD as f32).sqrt()]));
        let scores = self.op("MatMul", &[q, &keys]);
        let mut scores = self.op("Div", &[&scores, &root]);
        if let Some(mask) = self.mask.clone() {
            scores = self.op("Add", &[&scores, &mask]);
        }
        let weights = self.op("Softmax", &[&scores]);
        self.op("MatMul", &[&weights, &all])
    }

    /// Types of a cache before and after the tokens; keys (0) and values (1) lie in different orders where they are written at a position.
    fn cache_types(&self, kind: usize, past: &str, present: &str) -> (Msg, Msg) {
        let fixed = |name| match kind {
            0 => value(name, FLOAT, &[&1, &HEADS, &POSITIONS, &HEAD]),
            _ => value(name, FLOAT, &[&POSITIONS, &1, &HEADS, &HEAD]),
        };
        match self.form {
            Form::Growing => {
                let growing = |name, rows: &dyn Display| value(name, FLOAT, &[&1, &HEADS, rows, &HEAD]);
                (growing(past, &"past"), growing(present, &"present"))
            }
            Form::Whole(_) | Form::Fixed(_) => (fixed(past), fixed(present)),
        }
    }

    /// `down(up(x) * gate(x) * sigmoid(gate(x)))`.
    fn gated(&mut self, layer: usize, x: &str) -> String {
        let normed = self.norm(&format!("network_{layer}"), x);
        let [gate, up] = ["gate", "up"].map(|name| {
            let w = self.weight(&format!("{name}_{layer}"), &[WIDTH, HIDDEN], 0.3);
            self.op("MatMul", &[&normed, &w])
        });
        let open = self.op("Sigmoid", &[&gate]);
        let gate = self.op("Mul", &[&gate, &open]);
        let hidden = self.op("Mul", &[&gate, &up]);
        let w = self.weight(&format!("down_{layer}"), &[HIDDEN, WIDTH], 0.3);
        self.op("MatMul", &[&hidden, &w])
    }

    fn norm(&mut self, name: &str, x: &str) -> String {
        let scale: Vec<f32> = (0..WIDTH).map(|i| 1.0 + (i % 5) as f32 / 16.0).collect();
        let scale = self.floats(&format!("scale_{name}"), &[WIDTH], scale);
        self.op("RMSNormalization", &[x, &scale])
    }

    fn transposed(&mut self, x: &str, order: &[i64]) -> String {
        self.node("Transpose", &[x], |m| m.attr_ints("perm", order))
    }

    fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.node(op, inputs, |m| m)
    }

    /// A node; the name of its result.
    fn node(&mut self, op: &str, inputs: &[&str], with: impl FnOnce(Msg) -> Msg) -> String {
        let result = format!("{}_{}", op.to_lowercase(), self.graph.nodes.len());
        self.graph.nodes.push(with(node(op, inputs, &[&result])));
        result
    }

    /// Numbers between `-most` and `most`, the same in every form since they are drawn in the same order.
    fn weight(&mut self, name: &str, dims: &[usize], most: f32) -> String {
        let count = dims.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|_| (self.rng.below(2001) as f32 / 1000.0 - 1.0) * most).collect();
        self.floats(name, dims, values)
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: impl IntoIterator<Item = f32>) -> String {
        let raw: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
        self.constant(name, |name| tensor(name, FLOAT, &dims).bytes(9, &raw))
    }

    fn ints(&mut self, name: &str, values: &[i64]) -> String {
        self.constant(name, |name| int64s(name, values))
    }

    fn constant(&mut self, name: &str, of: impl FnOnce(&str) -> Msg) -> String {
        let known = self.graph.weights.len();
        let name = if matches!(name, "cosines" | "sines") { name.to_string() } else { format!("{name}_c{known}") };
        self.graph.weights.push(of(&name));
        name
    }
}

/// A `ValueInfoProto` of a tensor; an extent that is no number is a name.
fn value(name: &str, elem_type: i64, dims: &[&dyn Display]) -> Msg {
    let extent = |d: &&dyn Display| match d.to_string().parse::<i64>() {
        Ok(n) => Msg::new().int(1, n),
        Err(_) => Msg::new().bytes(2, d.to_string()),
    };
    let shape = dims.iter().map(extent).fold(Msg::new(), |m, d| m.msg(1, &d));
    Msg::new().bytes(1, name).msg(2, &Msg::new().msg(1, &Msg::new().int(1, elem_type).msg(2, &shape)))
}
