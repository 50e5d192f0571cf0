//! Integers of 16 bits: a search takes them where 8 bits lose too much, and the recipe runs as it says.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzWriter, read_npy};
use onnxc_ir::op::OpSet;
use onnxc_ir::{Tensor, parse};
use onnxc_testsuite::numbers::number;
use onnxc_testsuite::run;

const NETWORK: &str = "graph @words(%x: f32[1,64,16,16]) {
  %w1 = const f32[64,64,1,1] blob(0000000000000001)
  %w2 = const f32[64,64,3,3] blob(0000000000000002)
  %a = conv %x, %w1, _ : f32[1,64,16,16] @\"point\"
  %b = relu %a : f32[1,64,16,16] @\"relu\"
  %y = conv %b, %w2, _ {pads = ints[1, 1, 1, 1]} : f32[1,64,16,16] @\"window\"
  return %y
}
";

/// Samples of the search, and elements of each.
const SAMPLES: usize = 24;
const EACH: usize = 64 * 16 * 16;

fn weights(blob: u64) -> Option<Tensor> {
    let shape: &[u64] = if blob == 1 { &[64, 64, 1, 1] } else { &[64, 64, 3, 3] };
    let fan = (shape[1] * shape[2] * shape[3]) as f32;
    let n: u64 = shape.iter().product();
    Some(Tensor::from_vec(shape, (0..n as usize).map(|i| number(i, blob as usize) / fan.sqrt()).collect()))
}

#[test]
fn layers_that_bear_no_8_bits_get_16() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let graph = parse::parse(NETWORK, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"));
    onnxc::nir::write(Path::new(&at("words.nir")), &graph).expect("a model");
    let inputs: Vec<f32> = (0..SAMPLES * EACH).map(|i| number(i, 5)).collect();
    let mut file = NpzWriter::new(fs::File::create(at("calib.npz")).expect("a file"));
    file.add_array("x", &ArrayD::from_shape_vec(IxDyn(&[SAMPLES, 64, 16, 16]), inputs).expect("inputs")).expect("an array");
    file.finish().expect("written");
    let search = |target: &str, cpu: &str, to: &str| {
        let (model, calib, work, to) = (at("words.nir"), at("calib.npz"), at("work"), at(to));
        let limit = ["--metric", "signal", "--max-drop", "0.002%", "--without", "weight-only", "--no-baselines"];
        let args = ["compile", &model, "--target", target, "--calib", &calib, "--work", &work, "-o", &to];
        let cpu: &[&str] = if cpu.is_empty() { &[] } else { &["--cpu", cpu] };
        run::run(Command::new(run::onnxc()).args(args).args(cpu).args(limit), Duration::from_secs(600)).expect_ok("a search");
        fs::read_to_string(Path::new(&to).with_extension("recipe")).expect("a recipe")
    };
    let recipe = search("x86_64-unknown-linux-gnu", "x86-64-v3", "words.a");
    assert!(recipe.matches("weights = \"int16\"").count() == 2 && recipe.matches("bits = 16").count() == 2, "{recipe}");
    // Where words are no faster than floats nothing is gained by them.
    assert!(!search("aarch64-unknown-linux-gnu", "", "other.a").contains("int16"));
    // On any host: what the recipe says is right for every target.
    let answers = |to: &str, more: &[&str]| {
        let (model, calib, to) = (at("words.nir"), at("calib.npz"), at(to));
        let args = ["run", &model, "--inputs", &calib, "--samples", "--outputs", &to];
        run::run(Command::new(run::onnxc()).args(args).args(more), Duration::from_secs(600)).expect_ok("answers");
        read_npy::<_, ArrayD<f32>>(Path::new(&to).join("output_0.npy")).expect("answers")
    };
    let (dense, compressed) = (answers("dense", &[]), answers("compressed", &["--recipe", &at("words.recipe")]));
    let power = |a: &ArrayD<f32>| a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let noise = power(&(&compressed - &dense)) / power(&dense);
    assert!(noise > 0.0 && noise < 2e-5, "{noise}");
}
