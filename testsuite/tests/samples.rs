//! Every operator's samples: compiled code against the reference interpreter, on every instruction set that this machine runs.
//!
//! `SAMPLE=conv` in the environment runs only operators whose name contains it.

use onnxc_codegen::JitModel;
use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::{InferCx, OpDef, Sample, SampleInput};
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Tensor, TensorType, interp, text};

/// Instruction sets: baseline, AVX2, and whatever this machine has.
const CPUS: [&str; 3] = ["x86-64", "x86-64-v3", "native"];

#[test]
fn samples_agree_with_the_interpreter() {
    let only = std::env::var("SAMPLE").unwrap_or_default();
    let mut failures = Vec::new();
    let mut ran = 0;
    for op in onnxc_ops::ALL.iter().filter(|op| op.name.contains(&only)) {
        for (n, sample) in (op.samples)().into_iter().enumerate() {
            let (graph, inputs) = match graph_of(op, &sample, n as u64) {
                Ok(g) => g,
                Err(e) => {
                    failures.push(format!("{} sample {n}: inference: {e}", op.name));
                    continue;
                }
            };
            let want = match interp::run(&graph, &inputs) {
                Ok(w) => w,
                Err(e) => {
                    failures.push(format!("{} sample {n}: {e}", op.name));
                    continue;
                }
            };
            for cpu in CPUS {
                ran += 1;
                if let Err(e) = compare(op, &graph, &inputs, &want, cpu) {
                    failures.push(format!("{} sample {n} on {cpu}: {e}\n{}", op.name, text::print(&graph)));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {ran} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 0 || !only.is_empty(), "no sample ran");
}

#[test]
fn every_operator_has_samples() {
    let without: Vec<&str> = onnxc_ops::ALL.iter().filter(|op| (op.samples)().is_empty()).map(|op| op.name).collect();
    assert!(without.is_empty(), "operators without samples: {without:?}");
}

/// A graph of one node; constants stay constants, the rest becomes inputs with random values.
fn graph_of(op: &'static OpDef, sample: &Sample, seed: u64) -> Result<(Graph, Vec<Tensor>), String> {
    let mut graph = Graph::new("sample");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9) + 1);
    let mut inputs = Vec::new();
    let ids: Vec<_> = sample
        .inputs
        .iter()
        .enumerate()
        .map(|(i, input)| {
            input.as_ref().map(|input| match input {
                SampleInput::Const(t) => graph.add_const(&format!("c{i}"), t.clone()),
                SampleInput::Data(ty, lo, hi) => {
                    inputs.push(random.tensor(ty, *lo, *hi));
                    graph.add_input(&format!("x{i}"), ty.clone())
                }
            })
        })
        .collect();
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
    Ok((graph, inputs))
}

fn compare(op: &OpDef, graph: &Graph, inputs: &[Tensor], want: &[Tensor], cpu: &str) -> Result<(), String> {
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, 1).map_err(|e| e.to_string())?;
    let plan = onnxc_passes::plan::plan(graph, &target.desc).map_err(|e| format!("{e:?}"))?;
    let model = JitModel::new(&plan, &target).map_err(|e| e.to_string())?;
    let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
    let mut outputs = Vec::new();
    model.run(&bytes, &mut outputs, 1).map_err(|e| e.to_string())?;
    for (j, (got, want)) in outputs.iter().zip(want).enumerate() {
        let got = Tensor::from_bytes(want.dtype(), want.shape().to_vec(), Bytes::new(got.clone()))
            .ok_or("output has the wrong size")?;
        close(op, &got, want).map_err(|e| format!("output {j}: {e}"))?;
    }
    Ok(())
}

/// Element by element within the operator's tolerance; bit for bit for types that are not real numbers.
fn close(op: &OpDef, got: &Tensor, want: &Tensor) -> Result<(), String> {
    let (Some(a), Some(b)) = (got.to_f64s(), want.to_f64s()) else {
        return if got == want { Ok(()) } else { Err("bytes differ".into()) };
    };
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
        let close = (a - b).abs() <= op.tolerance.abs + (op.tolerance.rel + ulp) * b.abs();
        if !same && !close {
            return Err(format!("element {i}: got {a}, wanted {b}"));
        }
    }
    Ok(())
}

/// A linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }

    fn tensor(&mut self, ty: &TensorType, lo: f64, hi: f64) -> Tensor {
        let shape = ty.const_shape().expect("samples have known extents");
        let count: u64 = shape.iter().product();
        let mut bytes = Vec::new();
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
