//! Random graphs of a few nodes each: samples of operators, one feeding the next.
//!
//! A value that goes into another operator is brought into that operand's range and shape first, so that logarithms see positive numbers and nothing
//! grows without bound. The same seed gives the same graph.

mod open;

pub use open::{Open, compose as compose_open};

use crate::samples::Random;
use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::{InferCx, OpDef, OpSet, SampleInput};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId, interp};

/// Elements of one operand above which a sample is not used.
const MOST_ELEMENTS: u64 = 20_000;

/// A graph with values for its inputs.
#[derive(Debug)]
pub struct Composed {
    /// The graph.
    pub graph: Graph,
    /// A value per input.
    pub inputs: Vec<Tensor>,
}

struct Composer {
    graph: Graph,
    random: Random,
    inputs: Vec<Tensor>,
    /// f32 values that nodes computed.
    values: Vec<ValueId>,
}

/// The graph of a seed: 3 to 12 samples and what connects them. `None` where they do not make one.
pub fn compose(seed: u64) -> Option<Composed> {
    let random = Random::new(seed);
    let mut c = Composer { graph: Graph::new("random"), random, inputs: Vec::new(), values: Vec::new() };
    let wanted = 3 + c.random.below(10);
    let (mut added, mut tries) = (0, 0);
    while added < wanted && tries < 60 {
        tries += 1;
        added += usize::from(c.sample().is_some());
    }
    let used: Vec<ValueId> = c.graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten().copied()).collect();
    c.graph.outputs = c.values.iter().copied().filter(|id| !used.contains(id)).collect();
    if added < 3 || c.graph.outputs.is_empty() {
        return None;
    }
    // Nodes whose results nobody needs are left in: the compiler has to cope with them.
    onnxc_ir::verify::verify(&c.graph).ok()?;
    Some(Composed { graph: c.graph, inputs: c.inputs })
}

/// Ends of the pattern that is added to a value between these ends.
fn pattern_range(low: f64, high: f64) -> (f64, f64) {
    let middle = (low + high) / 2.0;
    ((low - middle) * 0.2, (high - middle) * 0.2)
}

impl Composer {
    /// Adds a sample of some operator; some of its operands come from earlier nodes.
    fn sample(&mut self) -> Option<()> {
        let op = onnxc_ops::ALL[self.random.below(onnxc_ops::ALL.len())];
        let samples = (op.samples)();
        let sample = &samples[self.random.below(samples.len())];
        let size = |ty: &TensorType| ty.const_shape().map_or(u64::MAX, |s| s.iter().product());
        let small = |i: &SampleInput| match i {
            SampleInput::Data(ty, ..) => size(ty) <= MOST_ELEMENTS,
            SampleInput::Const(t) => t.len() as u64 <= MOST_ELEMENTS,
        };
        if !sample.inputs.iter().flatten().all(small) {
            return None;
        }
        let mut ids = Vec::new();
        for input in &sample.inputs {
            ids.push(match input {
                None => None,
                Some(SampleInput::Const(t)) => Some(self.constant(t.clone())),
                Some(SampleInput::Data(ty, low, high)) => {
                    let reuse = ty.dtype == DType::F32 && size(ty) > 0 && !self.values.is_empty() && self.random.next() < 0.75;
                    Some(if reuse { self.adapted(ty, *low, *high)? } else { self.input(ty, *low, *high) })
                }
            });
        }
        let outputs = self.node(op, &ids, sample.attrs.clone(), sample.n_outputs)?;
        for id in outputs {
            let ty = self.graph.ty(id);
            if ty.dtype == DType::F32 && size(ty) > 0 {
                self.values.push(id);
            }
        }
        Some(())
    }

    fn name(&self, kind: &str) -> String {
        format!("{kind}{}", self.graph.values.len())
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        let name = self.name("c");
        self.graph.add_const(&name, tensor)
    }

    fn input(&mut self, ty: &TensorType, low: f64, high: f64) -> ValueId {
        self.inputs.push(self.random.tensor(ty, low, high));
        let name = self.name("x");
        self.graph.add_input(&name, ty.clone())
    }

    fn node(&mut self, op: &'static OpDef, inputs: &[Option<ValueId>], attrs: Attrs, n_outputs: usize) -> Option<Vec<ValueId>> {
        let types: Vec<Option<TensorType>> = inputs.iter().map(|i| i.map(|id| self.graph.ty(id).clone())).collect();
        let constants: Vec<Option<Tensor>> = inputs.iter().map(|i| i.and_then(|id| self.graph.constant(id).cloned())).collect();
        let dims: Vec<_> = constants.iter().map(|c| c.as_ref().and_then(interp::as_dims)).collect();
        let cx = InferCx { attrs: &attrs, inputs: &types, constants: &constants, dims: &dims, n_outputs };
        let types = (op.infer)(&cx).ok()?;
        let mut outputs = Vec::new();
        for ty in types.into_iter().take(n_outputs.max(1)) {
            let name = self.name("v");
            outputs.push(self.graph.add_value(&name, ty, None));
        }
        let origins = vec![format!("node{}", self.graph.nodes.len())];
        self.graph.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), attrs, origins });
        Some(outputs)
    }

    fn one(&mut self, op: &str, inputs: &[ValueId]) -> Option<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Some(self.node(OpSet(onnxc_ops::ALL).get(op)?, &inputs, Attrs::default(), 1)?[0])
    }

    fn ints(&mut self, values: &[u64]) -> ValueId {
        self.constant(Tensor::from_vec(&[values.len() as u64], values.iter().map(|v| *v as i64).collect()))
    }

    /// An earlier value in the range and shape that an operand needs.
    fn adapted(&mut self, ty: &TensorType, low: f64, high: f64) -> Option<ValueId> {
        let x = self.values[self.random.below(self.values.len())];
        let (from, to) = (self.graph.ty(x).const_shape()?, ty.const_shape()?);
        let mut x = self.ranged(x, low, high)?;
        let (n, m): (u64, u64) = (from.iter().product(), to.iter().product());
        if n != m {
            let flat = self.ints(&[n]);
            x = self.one("reshape", &[x, flat])?;
        }
        if n < m {
            let times = self.ints(&[m.div_ceil(n)]);
            x = self.one("tile", &[x, times])?;
        }
        if n.max(m) % m != 0 || n > m {
            let (start, end) = (self.ints(&[0]), self.ints(&[m]));
            x = self.one("slice", &[x, start, end])?;
        }
        if from != to {
            let shape = self.ints(&to);
            let attrs = Attrs::default().with("allowzero", Attr::Int(1));
            x = self.node(OpSet(onnxc_ops::ALL).get("reshape")?, &[Some(x), Some(shape)], attrs, 1)?[0];
        }
        let (low_of_pattern, high_of_pattern) = pattern_range(low, high);
        let pattern = self.random.tensor(ty, low_of_pattern, high_of_pattern);
        let pattern = self.constant(pattern);
        self.patterned(x, pattern, low, high)
    }

    /// A value between these ends.
    fn ranged(&mut self, x: ValueId, low: f64, high: f64) -> Option<ValueId> {
        // Between -1 and 1, then between the ends.
        let x = self.one("softsign", &[x])?;
        let (scale, shift) = (Tensor::scalar(((high - low) / 2.0) as f32), Tensor::scalar(((high + low) / 2.0) as f32));
        let (scale, shift) = (self.constant(scale), self.constant(shift));
        let x = self.one("mul", &[x, scale])?;
        self.one("add", &[x, shift])
    }

    /// A value with a pattern added, between the same ends.
    fn patterned(&mut self, mut x: ValueId, pattern: ValueId, low: f64, high: f64) -> Option<ValueId> {
        // Without a pattern of its own: rows of equal elements have no variance to divide by.
        let middle = (low + high) / 2.0;
        let part = self.constant(Tensor::scalar(0.8f32));
        let rest = self.constant(Tensor::scalar((0.2 * middle) as f32));
        x = self.one("mul", &[x, part])?;
        x = self.one("add", &[x, rest])?;
        self.one("add", &[x, pattern])
    }
}
