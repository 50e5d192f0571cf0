//! Quantised networks: every node runs in integers, answers are the same bits on every target, and within a step or two of ONNX Runtime's.
//!
//! The small networks (`testsuite/qdq/make_qdq_models.py`) answer with the integers of several of their layers.

use std::path::Path;

use onnxc_ir::Graph;
use onnxc_passes::Phase;
use onnxc_passes::canonicalize::quantized::report::{Row, rows};
use onnxc_testsuite::bits::{infer, same_everywhere};
use onnxc_testsuite::data::{self, Model};
use onnxc_testsuite::target;
use onnxc_testsuite::tensor::Tensor;
use onnxc_testsuite::{compare, pb};

const SMALL: [&str; 7] = ["images", "images_i8", "words", "rows", "rows_i8", "rows_7_bits", "rows_pairs"];
const EVERY: [&str; 7] = ["x86-64-v4", "x86-64-v3", "x86-64", "aarch64", "riscv64-v128", "riscv64-v256", "riscv64"];
/// Steps between what the graph means in floats and what integers give: one for each of the layers behind each other that round a tie the other way,
/// of which few meet.
const STEPS: f64 = 2.0;
/// The same for integers of 16 bits, whose steps are 256 times as fine: floats round each sum of hundreds of products by a part of one.
const STEPS_OF_WORDS: f64 = 4.0;

/// Every output of integers within [`STEPS`], or [`STEPS_OF_WORDS`], of what ONNX Runtime answers.
#[track_caller]
fn within_steps(id: &str, got: &[Tensor], want: &[Tensor]) {
    assert_eq!(got.len(), want.len(), "{id}: number of outputs");
    let mut compared = 0;
    for (j, (got, want)) in got.iter().zip(want).enumerate() {
        let (Some(a), Some(b)) = (integers(got), integers(want)) else { continue };
        let steps = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
        let (worst, off) = (steps.clone().fold(0.0, f64::max), steps.filter(|s| *s > 0.0).count());
        println!("{id}: output {j} {:?}: {off} of {} off by at most {worst}", want.dims, a.len());
        let most = if got.elem_type == onnxc_testsuite::tensor::code::I16 { STEPS_OF_WORDS } else { STEPS };
        assert!(worst <= most, "{id}: output {j} is {worst} steps off");
        compared += 1;
    }
    assert!(compared >= 6, "{id}: {compared} outputs of integers");
}

/// Integers as numbers.
fn integers(t: &Tensor) -> Option<Vec<f64>> {
    match t.elem_type {
        2 => Some(t.bytes.iter().map(|b| f64::from(*b)).collect()),
        3 => Some(t.bytes.iter().map(|b| f64::from(*b as i8)).collect()),
        5 => Some(t.bytes.as_chunks::<2>().0.iter().map(|b| f64::from(i16::from_le_bytes(*b))).collect()),
        _ => None,
    }
}

#[test]
fn small_networks_are_the_same_bits_on_every_target() {
    for id in SMALL {
        let model = data::quantised_model(id);
        within_steps(id, &same_everywhere(&model, &EVERY), &model.expected());
    }
}

/// Weights of 7 bits, and pairs of 8 bits that add up to no more, which some targets multiply by other instructions. Averages of 7 bits are further from ONNX
/// Runtime's than those of 8 bits, on all targets alike.
#[test]
fn short_weights_are_the_same_bits_on_every_target() {
    for id in ["images_7_bits", "images_pairs"] {
        same_everywhere(&data::quantised_model(id), &EVERY);
    }
}

/// Float products between quantisations: not the same bits everywhere, but as close, and the report says what is missing.
#[test]
fn float_weights_are_reported_and_agree() {
    for id in ["images_float_weights", "rows_float_weights"] {
        let model = data::quantised_model(id);
        for t in EVERY.iter().map(|t| target::by_name(t)).filter(|t| t.can_run() && (t.is_native() || t.name == "aarch64")) {
            within_steps(&format!("{id} on {}", t.name), &infer(&model, t), &model.expected());
        }
        let (rows, _) = report(&model);
        for row in &rows {
            let product = matches!(row.op, "conv" | "matmul" | "gemm");
            let why = row.floats.as_deref().unwrap_or_default();
            assert_eq!(product, why.contains("weights") && why.contains("are floats"), "{id}: {row:?}");
        }
    }
}

fn import(path: &Path, inputs: &[Tensor]) -> Graph {
    let names = pb::model_inputs(&std::fs::read(path).expect("readable")).expect("well-formed");
    let shape = |t: &Tensor| t.dims.iter().map(|d| onnxc_ir::Dim::Const(*d as u64)).collect::<Vec<_>>();
    let shapes = names.into_iter().zip(inputs.iter().map(shape)).collect();
    let options = onnxc_onnx::Options { shapes, ..onnxc_onnx::Options::default() };
    onnxc_onnx::import(path, &options).unwrap_or_else(|report| panic!("{}: {report}", path.display())).graph
}

/// The report of `onnxc inspect`, and the graph behind it.
fn report(model: &Model) -> (Vec<Row>, Graph) {
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", "x86-64-v3", 1).expect("a known machine").desc;
    let imported = import(&model.path, &model.inputs());
    let canonical = onnxc_passes::run(Phase::Canonicalize, &imported, &target).0;
    let fused = onnxc_passes::run(Phase::Fuse, &canonical, &target).0;
    (rows(&imported, &fused), fused)
}

/// No float tensor but the model's own inputs and outputs.
#[track_caller]
fn only_integers(model: &Model) {
    let (rows, fused) = report(model);
    let floats: Vec<&Row> = rows.iter().filter(|r| r.floats.is_some()).collect();
    assert!(!rows.is_empty() && floats.is_empty(), "{}: in floats: {floats:#?}", model.id);
    let results = fused.nodes.iter().flat_map(|n| &n.outputs);
    let inside: Vec<_> = results.filter(|id| fused.ty(**id).dtype.is_float() && !fused.outputs.contains(id)).collect();
    assert!(inside.is_empty(), "{}: float tensors {inside:?}", model.id);
}

#[test]
fn small_networks_run_in_integers() {
    SMALL.iter().for_each(|id| only_integers(&data::quantised_model(id)));
}

/// The large networks, where they were made: `testsuite/setup.sh --bench`.
#[test]
fn large_networks_run_in_integers_and_agree_with_onnx_runtime() {
    // An inference of ResNet-50 takes minutes under an emulator.
    for (id, targets) in [("mobilenetv2", &EVERY[..5]), ("resnet50", &EVERY[..3])] {
        let id = format!("{id}.int8");
        if !data::has_network(&id) {
            println!("{id}: not here");
            continue;
        }
        let model = data::network(&id);
        only_integers(&model);
        let got = same_everywhere(&model, targets);
        for (got, want) in got.iter().zip(&model.expected()) {
            let error = compare::close(got, want, 0.02).unwrap_or_else(|e| panic!("{id}: {e}"));
            println!("{id}: relative error {error:.1e}");
            assert_eq!(compare::largest_per_row(got), compare::largest_per_row(want), "{id}: the class");
        }
    }
}
