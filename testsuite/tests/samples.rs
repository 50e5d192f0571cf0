//! Every operator's samples: compiled code against the reference interpreter, on every instruction set that this machine runs.
//! `samples_foreign.rs` does the same for the other architectures.
//!
//! `SAMPLE=conv` in the environment runs only operators whose name contains it.

use onnxc_codegen::JitModel;
use onnxc_ir::Tensor;
use onnxc_testsuite::samples::{Case, cases};

/// Instruction sets: baseline, AVX2, and whatever this machine has.
const CPUS: [&str; 3] = ["x86-64", "x86-64-v3", "native"];

#[test]
fn samples_agree_with_the_interpreter() {
    let only = std::env::var("SAMPLE").unwrap_or_default();
    let (cases, mut failures) = cases(&only);
    for case in &cases {
        for cpu in CPUS {
            if let Err(e) = compare(case, cpu) {
                failures.push(case.complaint(cpu, &e));
            }
        }
    }
    let ran = cases.len() * CPUS.len();
    assert!(failures.is_empty(), "{} of {ran} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 0 || !only.is_empty(), "no sample ran");
}

#[test]
fn every_operator_has_samples() {
    let without: Vec<&str> = onnxc_ops::ALL.iter().filter(|op| (op.samples)().is_empty()).map(|op| op.name).collect();
    assert!(without.is_empty(), "operators without samples: {without:?}");
}

#[test]
fn no_onnx_operator_is_imported_in_two_ways() {
    let forms: Vec<_> = onnxc_ops::ALL.iter().flat_map(|op| op.onnx.iter().map(move |form| (op.name, form))).collect();
    let mut twice = Vec::new();
    for (i, (op, a)) in forms.iter().enumerate() {
        for (other, b) in &forms[..i] {
            let overlap = a.opsets.0 <= b.opsets.1 && b.opsets.0 <= a.opsets.1;
            if (a.domain, a.name) == (b.domain, b.name) && overlap {
                twice.push(format!("{}.{} by {op} and {other}", a.domain, a.name));
            }
        }
    }
    assert!(twice.is_empty(), "{twice:?}");
}

fn compare(case: &Case, cpu: &str) -> Result<(), String> {
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, 1).map_err(|e| e.to_string())?;
    let plan = onnxc_passes::plan::plan(&case.graph, &target.desc).map_err(|e| format!("{e:?}"))?;
    let model = JitModel::new(&plan, &target).map_err(|e| e.to_string())?;
    let bytes: Vec<&[u8]> = case.inputs.iter().map(Tensor::bytes).collect();
    let mut outputs = Vec::new();
    model.run(&bytes, &mut outputs, 1).map_err(|e| e.to_string())?;
    case.check(&outputs)
}
