//! Positions that half of the filters of a panel share: the code of such masks, and a search that finds the layer which needs them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::NpzWriter;
use onnxc_codegen::JitModel;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, interp, parse, text};
use onnxc_testsuite::numbers::number;
use onnxc_testsuite::run;

/// 40 filters are two tiles of one vector of 16 lanes, and half of one.
const REMAINDER: &str = "graph @remainder(%x: f32[1,24,15,15]) {
  %w = const f32[40,24,3,3] blob(0000000000000001)
  %v = const f32[40,40,1,1] blob(0000000000000002)
  %a = conv %x, %w, _ {pads = ints[1, 1, 1, 1], schedule = \"28x16 sparse\"} : f32[1,40,15,15] @\"wide\"
  %y = conv %a, %v, _ {schedule = \"28x16 sparse\"} : f32[1,40,15,15] @\"point\"
  return %y
}
";

const NETWORK: &str = "graph @halves(%x: f32[1,64,16,16]) {
  %w1 = const f32[64,64,1,1] blob(0000000000000003)
  %w2 = const f32[6,64,1,1] blob(0000000000000004)
  %a = conv %x, %w1, _ : f32[1,64,16,16] @\"halved\"
  %b = relu %a : f32[1,64,16,16] @\"relu\"
  %y = conv %b, %w2, _ : f32[1,6,16,16] @\"last\"
  return %y
}
";

/// Samples of the search.
const SAMPLES: usize = 60;

/// Weights of which each 16 filters have channels of their own, the others times `rest`.
fn halves(shape: &[u64], seed: usize, rest: f32) -> Tensor {
    let n: u64 = shape.iter().product();
    let (filter, taps) = ((n / shape[0]) as usize, (shape[2] * shape[3]) as usize);
    let own = |i: usize| (i / filter / 16 + i % filter / taps).is_multiple_of(2);
    let value = |i: usize| number(i, seed) / (filter as f32).sqrt() * if own(i) { 1.0 } else { rest };
    Tensor::from_vec(shape, (0..n as usize).map(value).collect())
}

fn weights(blob: u64) -> Option<Tensor> {
    let plain =
        |shape: &[u64]| Tensor::from_vec(shape, (0..shape.iter().product::<u64>() as usize).map(|i| number(i, 9)).collect());
    Some(match blob {
        1 => halves(&[40, 24, 3, 3], 1, 0.0),
        2 => halves(&[40, 40, 1, 1], 2, 0.0),
        3 => halves(&[64, 64, 1, 1], 4, 0.001),
        _ => plain(&[6, 64, 1, 1]),
    })
}

fn graph(text: &str) -> Graph {
    parse::parse(text, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn masks_of_halves_run_in_tiles_of_one_vector() {
    let graph = graph(REMAINDER);
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cpu = if cfg!(target_arch = "x86_64") { "native" } else { "" };
    let target = onnxc_targets::describe(&host, cpu, 1).expect("a target");
    let freedom = onnxc::cli::Freedom::default();
    let (planned, plan) = onnxc::pipeline::plan_of(&graph, &target, &freedom).unwrap_or_else(|_| panic!("no plan"));
    assert_eq!(text::print(&planned).matches("28x16 sparse").count(), 2);
    let x = Tensor::from_vec(&[1, 24, 15, 15], (0..24 * 225).map(|i| number(i, 3)).collect::<Vec<f32>>());
    let (mut found, want) = (vec![], interp::run(&graph, std::slice::from_ref(&x)).expect("a result"));
    JitModel::new(&plan, &target).expect("code").run(&[x.bytes()], &mut found, 1).expect("a run");
    let found: Vec<f32> = found[0].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    for (found, want) in found.iter().zip(want[0].to_vec::<f32>()) {
        assert!((found - want).abs() < 1e-4, "{found}, not {want}");
    }
}

#[test]
fn a_layer_whose_halves_need_other_positions_gets_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    onnxc::nir::write(&folder.path().join("halves.nir"), &graph(NETWORK)).expect("a model");
    let inputs: Vec<f32> = (0..SAMPLES * 16384).map(|i| number(i, 5)).collect();
    let mut file = NpzWriter::new(fs::File::create(at("calib.npz")).expect("a file"));
    file.add_array("x", &ArrayD::from_shape_vec(IxDyn(&[SAMPLES, 64, 16, 16]), inputs).expect("inputs")).expect("an array");
    file.finish().expect("written");
    let search = |cpu: &str, to: &str| {
        let (model, calib, work, to) = (at("halves.nir"), at("calib.npz"), at("work"), at(to));
        let without = ["--without", "int8", "--without", "weight-only", "--without", "low-rank", "--no-baselines"];
        let args = ["compile", &model, "--cpu", cpu, "--calib", &calib, "--work", &work, "--max-drop", "2%", "-o", &to];
        let target = ["--target", "x86_64-unknown-linux-gnu"];
        run::run(Command::new(run::onnxc()).args(args).args(target).args(without), Duration::from_secs(600))
            .expect_ok("a search");
        fs::read_to_string(std::path::Path::new(&to).with_extension("recipe")).expect("a recipe")
    };
    let recipe = search("znver5", "wide.a");
    let layer = recipe.split("[[layer").find(|layer| layer.contains("\"halved\"")).unwrap_or_else(|| panic!("{recipe}"));
    assert!(layer.contains("\"pruned_half\"") && layer.contains("group = 16"), "{recipe}");
    // Where panels have 16 filters there are no halves of them.
    assert!(!search("x86-64-v3", "narrow.a").contains("pruned_half"));
}
