//! The samples of every operator as models of one node with their inputs, and what the reference interpreter makes of them.

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::{InferCx, OpDef, Sample, SampleInput};
use onnxc_ir::scalar_eval::{Scalar, Writer};
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Tensor, TensorType, interp, text};
use onnxc_ops::winograd;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One sample, ready to compile and run.
#[derive(Debug)]
pub struct Case {
    /// The operator.
    pub op: &'static OpDef,
    /// Position in the operator's list of samples.
    pub number: usize,
    /// The operator alone; constants stay constants, the rest is inputs.
    pub graph: Graph,
    /// A value per graph input.
    pub inputs: Vec<Tensor>,
    /// The interpreter's outputs.
    pub want: Vec<Tensor>,
}

/// Every sample of the operators whose name contains `only`, and complaints about those that the interpreter refuses.
pub fn cases(only: &str) -> (Vec<Case>, Vec<String>) {
    let (mut cases, mut failures) = (Vec::new(), Vec::new());
    for op in onnxc_ops::ALL.iter().filter(|op| op.name.contains(only)) {
        for (number, sample) in (op.samples)().into_iter().enumerate() {
            match case(op, number, &sample) {
                Ok(case) => cases.push(case),
                Err(e) => failures.push(format!("{} sample {number}: {e}", op.name)),
            }
        }
    }
    (cases, failures)
}

fn case(op: &'static OpDef, number: usize, sample: &Sample) -> Result<Case, String> {
    let graph = graph_of(op, sample).map_err(|e| format!("inference: {e}"))?;
    let inputs = inputs_of(sample, number as u64);
    let want = interp::run(&graph, &inputs).map_err(|e| e.to_string())?;
    Ok(Case { op, number, graph, inputs, want })
}

impl Case {
    /// A complaint about this sample, with its graph.
    pub fn complaint(&self, place: &str, what: &str) -> String {
        format!("{} sample {} on {place}: {what}\n{}", self.op.name, self.number, text::print(&self.graph))
    }

    /// Compares the bytes of all outputs with the interpreter's.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, outputs: &[Vec<u8>]) -> Result<(), String> {
        check(&self.graph.nodes[0], outputs, &self.want)
    }
}

/// Compares the bytes of all outputs of a node with the interpreter's.
pub(crate) fn check(node: &Node, outputs: &[Vec<u8>], wanted: &[Tensor]) -> Result<(), String> {
    if outputs.len() != wanted.len() {
        return Err(format!("{} outputs, wanted {}", outputs.len(), wanted.len()));
    }
    for (j, (got, want)) in outputs.iter().zip(wanted).enumerate() {
        let got = Tensor::from_bytes(want.dtype(), want.shape().to_vec(), Bytes::new(got.clone()))
            .ok_or_else(|| format!("output {j} has the wrong size"))?;
        close(node, &got, want).map_err(|e| format!("output {j}: {e}"))?;
    }
    Ok(())
}

/// `f`'s result; a panic of the compiler becomes an error, so that one operator does not hide the others.
///
/// # Errors
/// What `f` answers, or the message of its panic.
pub fn guarded<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("without text")))
    })
}

/// Random values for the operands that are no constants.
pub(crate) fn inputs_of(sample: &Sample, seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let data = sample.inputs.iter().flatten().filter_map(|input| match input {
        SampleInput::Const(_) => None,
        SampleInput::Data(ty, lo, hi) => Some(random.tensor(ty, *lo, *hi)),
    });
    data.collect()
}

/// A graph of one node; constants stay constants, the rest becomes inputs.
pub(crate) fn graph_of(op: &'static OpDef, sample: &Sample) -> Result<Graph, String> {
    let mut graph = Graph::new("sample");
    let operand = |(i, input): (usize, &Option<SampleInput>)| {
        input.as_ref().map(|input| match input {
            SampleInput::Const(t) => graph.add_const(&format!("c{i}"), t.clone()),
            SampleInput::Data(ty, ..) => graph.add_input(&format!("x{i}"), ty.clone()),
        })
    };
    let ids: Vec<_> = sample.inputs.iter().enumerate().map(operand).collect();
    let types: Vec<Option<TensorType>> = ids.iter().map(|i| i.map(|id| graph.ty(id).clone())).collect();
    let constants: Vec<Option<Tensor>> = ids.iter().map(|i| i.and_then(|id| graph.constant(id).cloned())).collect();
    let dims: Vec<_> = constants.iter().map(|c| c.as_ref().and_then(interp::as_dims)).collect();
    let cx = InferCx { attrs: &sample.attrs, inputs: &types, constants: &constants, dims: &dims, n_outputs: sample.n_outputs };
    let types = (op.infer)(&cx).map_err(|e| e.to_string())?;
    let outputs: Vec<_> =
        types.into_iter().take(sample.n_outputs).enumerate().map(|(j, ty)| graph.add_value(&format!("y{j}"), ty, None)).collect();
    graph.nodes.push(Node {
        op,
        inputs: ids,
        outputs: outputs.clone(),
        attrs: sample.attrs.clone(),
        origins: vec!["sample".into()],
    });
    graph.outputs = outputs;
    onnxc_ir::verify::verify(&graph).map_err(|e| e.join("; "))?;
    Ok(graph)
}

/// Element by element within the operator's tolerance; bit for bit for types that are not floating point.
fn close(node: &Node, got: &Tensor, want: &Tensor) -> Result<(), String> {
    let (op, rounding) = (node.op, winograd::rounding(&node.attrs));
    let (Some(a), Some(b)) = (got.to_f64s(), want.to_f64s()) else {
        return if got == want { Ok(()) } else { Err("bytes differ".into()) };
    };
    if !want.dtype().is_float() {
        let first = || a.iter().zip(&b).position(|(a, b)| a != b).map(|i| format!("element {i}: got {}, wanted {}", a[i], b[i]));
        return if got == want { Ok(()) } else { Err(first().unwrap_or_else(|| "low bits differ".into())) };
    }
    // One rounding of the storage type is allowed where the operator is not exact.
    let ulp = match want.dtype() {
        _ if op.tolerance.rel == 0.0 => 0.0,
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        _ => 0.0,
    };
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let same = a == b || (a.is_nan() && b.is_nan()) || (a.abs() < 1.2e-38 && b.abs() < 1.2e-38);
        // NaN is close to nothing.
        let close = (a - b).abs() <= rounding * op.tolerance.abs + (op.tolerance.rel + ulp) * b.abs();
        if !same && !close {
            return Err(format!("element {i}: got {a}, wanted {b}"));
        }
    }
    Ok(())
}

/// Numbers in -1..1 (xorshift64*).
pub fn random(n: u64, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A linear congruential generator (Knuth's MMIX constants).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9).wrapping_add(1))
    }

    /// From 0 up to, but not including, `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((self.next() * n as f64) as usize).min(n - 1)
    }

    /// From 0 up to 1.
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }

    pub(crate) fn tensor(&mut self, ty: &TensorType, lo: f64, hi: f64) -> Tensor {
        let shape = ty.const_shape().expect("samples have known extents");
        let count: u64 = shape.iter().product();
        let mut bytes = Vec::new();
        if ty.dtype.is_packed() {
            let mut out = Writer::new(ty.dtype);
            (0..count).for_each(|_| out.push(Scalar::Float(lo + (hi - lo) * self.next())));
            return out.finish(&shape);
        }
        for _ in 0..count {
            let x = lo + (hi - lo) * self.next();
            match ty.dtype {
                DType::F32 => bytes.extend((x as f32).to_le_bytes()),
                DType::F64 => bytes.extend(x.to_le_bytes()),
                DType::F16 => bytes.extend(half::f16::from_f64(x).to_le_bytes()),
                DType::BF16 => bytes.extend(half::bf16::from_f64(x).to_le_bytes()),
                DType::Bool => bytes.push(u8::from(x > (lo + hi) / 2.0)),
                t => bytes.extend(&((x.floor() as i128).to_le_bytes())[..t.bytes() as usize]),
            }
        }
        Tensor::from_bytes(ty.dtype, shape, Bytes::new(bytes)).expect("sized")
    }
}
