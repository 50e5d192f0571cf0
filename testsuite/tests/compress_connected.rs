//! Kernels of 3 by 3 that the filters of a panel leave out: every target leaves them out inside Winograd's algorithm, and a search finds the layer that can do without.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::NpzWriter;
use onnxc_codegen::JitModel;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, interp, parse, text};
use onnxc_passes::compress;
use onnxc_search::Recipe;
use onnxc_testsuite::numbers::number;
use onnxc_testsuite::run;

/// 40 filters do not fill the last panel.
const LAYER: &str = "graph @layer(%x: f32[1,48,28,28]) {
  %w = const f32[40,48,3,3] blob(0000000000000001)
  %y = conv %x, %w, _ {pads = ints[1, 1, 1, 1]} : f32[1,40,28,28] @\"layer\"
  return %y
}
";

const NETWORK: &str = "graph @network(%x: f32[1,64,16,16]) {
  %w1 = const f32[64,64,3,3] blob(0000000000000002)
  %w2 = const f32[6,64,1,1] blob(0000000000000003)
  %a = conv %x, %w1, _ {pads = ints[1, 1, 1, 1]} : f32[1,64,16,16] @\"connected\"
  %b = relu %a : f32[1,64,16,16] @\"relu\"
  %y = conv %b, %w2, _ : f32[1,6,16,16] @\"last\"
  return %y
}
";

/// Samples of the search.
const SAMPLES: usize = 60;

/// Triples and CPUs.
const TARGETS: [(&str, &str); 6] = [
    ("x86_64-unknown-linux-gnu", "x86-64"),
    ("x86_64-unknown-linux-gnu", "x86-64-v3"),
    ("x86_64-unknown-linux-gnu", "znver4"),
    ("aarch64-unknown-linux-gnu", "armv8.2-a"),
    ("riscv64gc-unknown-linux-gnu", "rv64gcv"),
    ("riscv64gc-unknown-linux-gnu", ""),
];

/// Weights of which so many filters at a time have the kernels of one channel in three, the others times `rest`.
fn connected(shape: &[u64], group: usize, rest: f32) -> Tensor {
    let n: u64 = shape.iter().product();
    let (filter, taps) = ((n / shape[0]) as usize, (shape[2] * shape[3]) as usize);
    let own = |i: usize| (i / filter / group + i % filter / taps).is_multiple_of(3);
    let value = |i: usize| number(i, 1) / (filter as f32).sqrt() * if own(i) { 1.0 } else { rest };
    Tensor::from_vec(shape, (0..n as usize).map(value).collect())
}

/// A graph whose layers of 3 by 3 have such weights.
fn graph(text: &str, group: usize) -> Graph {
    let last = |i: usize| number(i, 9);
    let weights = |blob: u64| {
        Some(match blob {
            1 => connected(&[40, 48, 3, 3], group, 0.0),
            2 => connected(&[64, 64, 3, 3], group, 0.001),
            _ => Tensor::from_vec(&[6, 64, 1, 1], (0..384).map(last).collect()),
        })
    };
    parse::parse(text, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn kernels_are_left_out_inside_winograd_on_every_target() {
    for (triple, cpu) in TARGETS {
        let target = onnxc_targets::describe(triple, cpu, 1).expect("a target");
        let graph = graph(LAYER, compress::group(&target.desc));
        let (planned, _) = onnxc::pipeline::plan_of(&graph, &target, &Default::default()).unwrap_or_else(|_| panic!("no plan"));
        let text = text::print(&planned);
        assert!(text.contains("algorithm = \"winograd") && text.contains("sparse\""), "{triple} {cpu}: {text}");
    }
}

#[test]
fn what_is_left_is_what_the_layer_computes() {
    let x = Tensor::from_vec(&[1, 48, 28, 28], (0..48 * 784).map(|i| number(i, 3)).collect::<Vec<f32>>());
    for cpu in ["x86-64", "x86-64-v3", "native"] {
        let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, 1).expect("a target");
        let graph = graph(LAYER, compress::group(&target.desc));
        let (_, plan) = onnxc::pipeline::plan_of(&graph, &target, &Default::default()).unwrap_or_else(|_| panic!("no plan"));
        let (mut found, want) = (vec![], interp::run(&graph, std::slice::from_ref(&x)).expect("a result"));
        JitModel::new(&plan, &target).expect("code").run(&[x.bytes()], &mut found, 1).expect("a run");
        let found: Vec<f32> = found[0].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        for (found, want) in found.iter().zip(want[0].to_vec::<f32>()) {
            assert!((found - want).abs() < 1e-4, "{cpu}: {found}, not {want}");
        }
    }
}

#[test]
fn a_layer_that_needs_few_kernels_has_these_and_its_recipe_makes_the_same_archive() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let inputs: Vec<f32> = (0..SAMPLES * 16384).map(|i| number(i, 5)).collect();
    let mut file = NpzWriter::new(fs::File::create(at("calib.npz")).expect("a file"));
    file.add_array("x", &ArrayD::from_shape_vec(IxDyn(&[SAMPLES, 64, 16, 16]), inputs).expect("inputs")).expect("an array");
    file.finish().expect("written");
    let onnxc = |args: &[&str]| {
        let target = ["--target", "x86_64-unknown-linux-gnu"];
        run::run(Command::new(run::onnxc()).args(args).args(target), Duration::from_secs(600)).expect_ok("onnxc")
    };
    for (cpu, group) in [("znver4", 32), ("x86-64-v3", 16)] {
        let (model, calib, to, again) = (at("model.nir"), at("calib.npz"), at("small.a"), at("again/small.a"));
        onnxc::nir::write(Path::new(&model), &graph(NETWORK, group)).expect("a model");
        let search = ["--calib", &calib, "--forget", "--max-drop", "2%", "--no-baselines"];
        let floats = ["--without", "int8,weight-only"];
        onnxc(&[&["compile", &model, "--cpu", cpu, "-o", &to][..], &search, &floats].concat());
        let recipe = Recipe::parse(&fs::read_to_string(at("small.recipe")).expect("a recipe")).expect("a recipe");
        let layer = recipe.layers.iter().find(|l| l.name == "connected").unwrap_or_else(|| panic!("{cpu}: {recipe:?}"));
        assert_eq!((&layer.form[..], layer.group, layer.unit), ("connected", Some(group), Some(1)), "{cpu}: {layer:?}");
        assert!(layer.density <= 0.5, "{cpu}: {layer:?}");
        onnxc(&["compile", &model, "--cpu", cpu, "--recipe", &at("small.recipe"), "--name=small", "-o", &again]);
        assert!(fs::read(&to).expect("an archive") == fs::read(&again).expect("an archive"), "{cpu}: the archives differ");
    }
}
