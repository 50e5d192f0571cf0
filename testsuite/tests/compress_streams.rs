//! Channels that several layers read: those of a residual stream and of squeeze and excitation go from all of them or from none.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter, read_npy};
use onnxc_ir::op::OpSet;
use onnxc_ir::{Tensor, parse};
use onnxc_search::Recipe;
use onnxc_testsuite::numbers::normal;
use onnxc_testsuite::run;

/// Samples, and elements of one.
const SAMPLES: usize = 80;
const ELEMENTS: usize = 4 * 10 * 10;
/// Channels of a stream.
const CHANNELS: usize = 32;

/// `second` and `fourth` read the sum of what `first` and `third` compute, or a part of it.
const RESIDUAL: &str = "graph @residual(%x: f32[1,4,10,10]) {
  %w1 = const f32[32,4,3,3] blob(0000000000000001)
  %w2 = const f32[32,32,3,3] blob(0000000000000002)
  %w3 = const f32[32,32,3,3] blob(0000000000000003)
  %w4 = const f32[16,32,3,3] blob(0000000000000004)
  %w5 = const f32[16,6] blob(0000000000000005)
  %axes = const i64[2] [2, 3]
  %a = conv %x, %w1, _ {pads = ints[1, 1, 1, 1]} : f32[1,32,10,10] @\"first\"
  %b = relu %a : f32[1,32,10,10] @\"relu1\"
  %c = conv %b, %w2, _ {pads = ints[1, 1, 1, 1]} : f32[1,32,10,10] @\"second\"
  %d = relu %c : f32[1,32,10,10] @\"relu2\"
  %e = conv %d, %w3, _ {pads = ints[1, 1, 1, 1]} : f32[1,32,10,10] @\"third\"
  %f = add %b, %e : f32[1,32,10,10] @\"sum\"
  %g = relu %f : f32[1,32,10,10] @\"relu3\"
  %h = conv %g, %w4, _ {strides = ints[2, 2]} : f32[1,16,4,4] @\"fourth\"
  %i = relu %h : f32[1,16,4,4] @\"relu4\"
  %j = reduce_mean %i, %axes {keepdims = 0} : f32[1,16] @\"mean\"
  %y = matmul %j, %w5 : f32[1,6] @\"last\"
  return %y
}
";

/// `third` and `fourth` read the result of a depthwise layer, which `first` and `second` decide on.
const SCALED: &str = "graph @scaled(%x: f32[1,4,10,10]) {
  %w1 = const f32[32,4,3,3] blob(0000000000000001)
  %w2 = const f32[32,1,3,3] blob(0000000000000006)
  %w3 = const f32[8,32,1,1] blob(0000000000000007)
  %w4 = const f32[32,8,1,1] blob(0000000000000008)
  %w5 = const f32[16,32,3,3] blob(0000000000000004)
  %w6 = const f32[16,6] blob(0000000000000005)
  %axes = const i64[2] [2, 3]
  %a = conv %x, %w1, _ {pads = ints[1, 1, 1, 1]} : f32[1,32,10,10] @\"first\"
  %b = relu %a : f32[1,32,10,10] @\"relu1\"
  %c = conv %b, %w2, _ {group = 32, pads = ints[1, 1, 1, 1]} : f32[1,32,10,10] @\"second\"
  %d = reduce_mean %c, %axes {keepdims = 1} : f32[1,32,1,1] @\"pool\"
  %e = conv %d, %w3, _ {group = 1} : f32[1,8,1,1] @\"squeeze\"
  %f = relu %e : f32[1,8,1,1] @\"relu2\"
  %g = conv %f, %w4, _ {group = 1} : f32[1,32,1,1] @\"third\"
  %h = sigmoid %g : f32[1,32,1,1] @\"gate\"
  %i = mul %c, %h : f32[1,32,10,10] @\"scale\"
  %j = conv %i, %w5, _ {strides = ints[2, 2]} : f32[1,16,4,4] @\"fourth\"
  %k = relu %j : f32[1,16,4,4] @\"relu3\"
  %l = reduce_mean %k, %axes {keepdims = 0} : f32[1,16] @\"mean\"
  %y = matmul %l, %w6 : f32[1,6] @\"last\"
  return %y
}
";

/// Are the channel's numbers noise that no layer reads?
fn is_noise(channel: usize) -> bool {
    channel % 3 == 1 || channel % 6 == 2
}

/// Weights of the layers by the numbers of their blobs. What reads a stream has none for its noise.
fn weights(blob: u64) -> Option<Tensor> {
    let shapes: [&[u64]; 8] = [
        &[32, 4, 3, 3],
        &[32, 32, 3, 3],
        &[32, 32, 3, 3],
        &[16, 32, 3, 3],
        &[16, 6],
        &[32, 1, 3, 3],
        &[8, 32, 1, 1],
        &[32, 8, 1, 1],
    ];
    let (shape, reads) = (shapes.get(blob as usize - 1)?, [2, 4, 7].contains(&blob));
    let n = shape.iter().product::<u64>() as usize;
    let (scale, taps) = ((2.0 * shape[0] as f32 / n as f32).sqrt(), shape[2..].iter().product::<u64>() as usize);
    let value = |(i, x): (usize, f32)| if reads && is_noise(i / taps % CHANNELS) { 0.0 } else { scale * x };
    Some(Tensor::from_vec(shape, normal(blob, n).into_iter().enumerate().map(value).collect()))
}

fn inputs() -> ArrayD<f32> {
    // A third of each sample is one of six patterns, so that samples have something in common.
    let (patterns, noise) = (normal(7, 6 * ELEMENTS), normal(8, SAMPLES * ELEMENTS));
    let element = |i: usize| 0.7 * noise[i] + patterns[(i / ELEMENTS * 5 % 6) * ELEMENTS + i % ELEMENTS];
    ArrayD::from_shape_vec(IxDyn(&[SAMPLES, 4, 10, 10]), (0..SAMPLES * ELEMENTS).map(element).collect()).expect("inputs")
}

/// What a search in floats has made of a network.
struct Found {
    folder: tempfile::TempDir,
    recipe: Recipe,
    /// The channels that are left to layers of the form `channels`.
    kept: BTreeMap<String, Vec<i32>>,
}

impl Found {
    fn of(text: &str) -> Found {
        let folder = tempfile::tempdir().expect("a folder");
        let graph = parse::parse(text, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"));
        onnxc::nir::write(&folder.path().join("model.nir"), &graph).expect("a model");
        let mut file = NpzWriter::new(fs::File::create(folder.path().join("calib.npz")).expect("a file"));
        file.add_array("x", &inputs()).expect("an array");
        file.finish().expect("written");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (model, calib, to) = (at("model.nir"), at("calib.npz"), at("small.a"));
        let flags = ["--streams", "--no-baselines", "--forget", "--without", "int8,weight-only,low-rank", "--max-drop", "1%"];
        run::onnxc_with(&[&["compile", &model, "--calib", &calib, "-o", &to][..], &flags].concat()).expect_ok("compile --calib");
        let recipe = Recipe::parse(&fs::read_to_string(at("small.recipe")).expect("a recipe")).expect("a recipe");
        let mut arrays = NpzReader::new(fs::File::open(at("small.recipe.npz")).expect("arrays")).expect("arrays");
        let mut kept = BTreeMap::new();
        for layer in recipe.layers.iter().filter(|l| l.form == "channels") {
            let list: ArrayD<i32> = arrays.by_name(&format!("{}.kept.npy", layer.arrays)).expect("channels");
            kept.insert(layer.name.clone(), list.iter().copied().collect());
        }
        Found { folder, recipe, kept }
    }

    fn text(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Scores of the samples.
    fn scores(&self, flags: &[&str], to: &str) -> Vec<f32> {
        let (model, calib, to) = (self.text("model.nir"), self.text("calib.npz"), self.text(to));
        let args = ["run", &model, "--inputs", &calib, "--samples", "--outputs", &to];
        run::onnxc_with(&[&args[..], flags].concat()).expect_ok("run --samples");
        let scores: ArrayD<f32> = read_npy(Path::new(&to).join("output_0.npy")).expect("scores");
        scores.iter().copied().collect()
    }
}

/// The layers of a stream lose its noise, the same channels all of them, and those before do not compute it.
fn loses_the_noise(text: &str, [one, other]: [&str; 2], before: &[&str]) {
    let found = Found::of(text);
    let kept = found.kept.get(one).unwrap_or_else(|| panic!("{one} reads all: {:?}", found.recipe.layers));
    assert_eq!(Some(kept), found.kept.get(other));
    let (few, noise) = (kept.len(), kept.iter().filter(|c| is_noise(**c as usize)).count());
    assert!(few < CHANNELS && noise <= few.saturating_sub((0..CHANNELS).filter(|c| !is_noise(*c)).count()), "{kept:?}");
    let recipe = found.text("small.recipe");
    let text = run::onnxc_with(&["compile", &found.text("model.nir"), "--recipe", &recipe, "--stop-after=compress"])
        .expect_ok("compress");
    for name in before {
        let line = text.lines().find(|l| l.contains(&format!("@\"{name}\""))).expect("a layer");
        assert!(line.contains(&format!(": f32[1,{few},")), "{name} computes {line}");
    }
    let (dense, small) = (found.scores(&[], "dense"), found.scores(&["--recipe", &recipe], "small"));
    let signal: f32 = dense.iter().map(|x| x * x).sum();
    let apart: f32 = dense.iter().zip(&small).map(|(a, b)| (a - b).powi(2)).sum();
    assert!(apart < 0.05 * signal, "{apart} of {signal}");
}

#[test]
fn layers_of_a_residual_stream_lose_its_noise() {
    loses_the_noise(RESIDUAL, ["second", "fourth"], &["first", "third"]);
}

#[test]
fn layers_around_squeeze_and_excitation_lose_its_noise() {
    loses_the_noise(SCALED, ["squeeze", "fourth"], &["first", "second", "third"]);
}

#[test]
fn streams_that_others_read_stay_whole() {
    let output = RESIDUAL.replace("return %y", "return %y, %f");
    let unknown = RESIDUAL.replace("%g = relu %f", "%g = softmax %f {axis = 1}");
    for text in [output, unknown] {
        assert_ne!(text, RESIDUAL);
        let found = Found::of(&text);
        assert!(["second", "fourth"].iter().all(|name| !found.kept.contains_key(*name)), "{:?}", found.kept);
    }
}
