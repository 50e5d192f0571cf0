//! Ranges that are found at run time: where one sample is a thousand times as large as another, a search takes them, and they lose far less than ranges that are known.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ndarray::{ArrayD, Axis, IxDyn, OwnedRepr};
use ndarray_npy::{NpzReader, NpzWriter, read_npy};
use onnxc_codegen::JitModel;
use onnxc_ir::op::OpSet;
use onnxc_ir::tensor::Element;
use onnxc_ir::{Graph, Tensor, interp, parse};
use onnxc_search::recipe::{self, Arrays, Recipe};
use onnxc_testsuite::numbers::number;
use onnxc_testsuite::run;

/// Scores do not depend on how large the input is: they are divided by the mean of what they are computed from.
const NETWORK: &str = "graph @loud(%x: f32[1,32,12,12]) {
  %w1 = const f32[64,32,3,3] blob(0000000000000001)
  %w2 = const f32[64,64,3,3] blob(0000000000000002)
  %w3 = const f32[64,16] blob(0000000000000003)
  %space = const i64[2] [2, 3]
  %last = const i64[1] [1]
  %tiny = const f32[] [1e-6]
  %a = conv %x, %w1, _ {pads = ints[1, 1, 1, 1]} : f32[1,64,12,12] @\"first\"
  %b = relu %a : f32[1,64,12,12] @\"relu1\"
  %c = conv %b, %w2, _ {pads = ints[1, 1, 1, 1]} : f32[1,64,12,12] @\"second\"
  %d = relu %c : f32[1,64,12,12] @\"relu2\"
  %e = reduce_mean %d, %space {keepdims = 0} : f32[1,64] @\"mean\"
  %f = matmul %e, %w3 : f32[1,16] @\"third\"
  %g = reduce_mean %e, %last {keepdims = 1} : f32[1,1] @\"size\"
  %h = add %g, %tiny : f32[1,1] @\"positive\"
  %y = div %f, %h : f32[1,16] @\"scores\"
  return %y
}
";

/// Samples of the search, elements of each, and how much larger the last one is than the first.
const SAMPLES: usize = 40;
const EACH: usize = 32 * 12 * 12;
const LOUDEST: f32 = 1000.0;

fn weights(blob: u64) -> Option<Tensor> {
    let shapes: [&[u64]; 3] = [&[64, 32, 3, 3], &[64, 64, 3, 3], &[64, 16]];
    let shape = shapes.get(blob as usize - 1)?;
    let n: u64 = shape.iter().product();
    let fan = if blob == 3 { 64.0 } else { (n / 64) as f32 };
    Some(Tensor::from_vec(shape, (0..n as usize).map(|i| number(i, blob as usize) / fan.sqrt()).collect()))
}

fn graph() -> Graph {
    parse::parse(NETWORK, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"))
}

/// One pattern in four, noise, and factors from 1 to [`LOUDEST`], each the same times the one before.
fn inputs() -> ArrayD<f32> {
    let factor = |sample: usize| LOUDEST.powf(sample as f32 / (SAMPLES - 1) as f32);
    let value = |i: usize| number(i, 5) + number(i / EACH % 4 * EACH + i % EACH, 6);
    let all = (0..SAMPLES * EACH).map(|i| factor(i / EACH) * value(i)).collect();
    ArrayD::from_shape_vec(IxDyn(&[SAMPLES, 32, 12, 12]), all).expect("inputs")
}

/// A folder with the model, inputs, and what searches with these flags have made of them: integers of known ranges alone, or of others too.
struct Made(tempfile::TempDir);

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let made = Made(tempfile::tempdir().expect("a folder"));
    onnxc::nir::write(&made.at("loud.nir"), &graph()).expect("a model");
    let mut file = NpzWriter::new(fs::File::create(made.at("calib.npz")).expect("a file"));
    file.add_array("x", &inputs()).expect("an array");
    file.finish().expect("written");
    made.search("dynamic.a", &["--dynamic", "--max-drop", "0.5%"]);
    made.search("static.a", &["--max-drop", "99%"]);
    made
});

impl Made {
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// Numbers are all that may change.
    fn search(&self, to: &str, flags: &[&str]) {
        let (model, calib, work, to) = (self.text("loud.nir"), self.text("calib.npz"), self.text("work"), self.text(to));
        let machine = ["--target", "x86_64-unknown-linux-gnu", "--cpu", "znver4"];
        let always = ["--metric", "signal", "--without", "weight-only,pruning,low-rank", "--no-baselines", "--work", &work];
        run::onnxc_with(&[&["compile", &model, "--calib", &calib, "-o", &to][..], &machine, &always, flags].concat())
            .expect_ok("a search");
    }

    /// The text of a recipe.
    fn recipe(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).expect("a recipe")
    }

    /// What compiled code answers to all samples.
    fn answers(&self, to: &str, flags: &[&str]) -> ArrayD<f32> {
        let (model, calib, to) = (self.text("loud.nir"), self.text("calib.npz"), self.text(to));
        let args = ["run", &model, "--inputs", &calib, "--samples", "--outputs", &to];
        run::onnxc_with(&[&args[..], flags].concat()).expect_ok("answers");
        read_npy(Path::new(&to).join("output_0.npy")).expect("answers")
    }

    /// Noise over signal of each sample's answers.
    fn noise(&self, recipe: &str) -> Vec<f64> {
        let (dense, other) =
            (self.answers("dense", &[]), self.answers(&format!("{recipe}.out"), &["--recipe", &self.text(recipe)]));
        let power = |all: &mut dyn Iterator<Item = f32>| all.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let one = |i: usize| {
            let (a, b) = (dense.index_axis(Axis(0), i), other.index_axis(Axis(0), i));
            power(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / power(&mut a.iter().copied())
        };
        (0..SAMPLES).map(one).collect()
    }
}

#[test]
fn ranges_of_run_time_lose_less_where_samples_differ_in_size() {
    let (found, known) = (MADE.recipe("dynamic.recipe"), MADE.recipe("static.recipe"));
    assert!(found.matches("weights = \"dynamic\"").count() == 2 && !found.contains("weights = \"int8\""), "{found}");
    // Nothing is found at run time unless it may be.
    assert!(known.matches("weights = \"int8\"").count() >= 2 && !known.contains("dynamic"), "{known}");
    let (found, known) = (MADE.noise("dynamic.recipe"), MADE.noise("static.recipe"));
    let mean = |all: &[f64]| all.iter().sum::<f64>() / SAMPLES as f64;
    println!("{:.1e} of {:.1e}; the first: {:.1e} of {:.1e}", mean(&found), mean(&known), found[0], known[0]);
    assert!(mean(&found) > 0.0 && found.iter().all(|noise| *noise < 2e-3), "{found:?}");
    assert!(mean(&known) > 50.0 * mean(&found), "{found:?} {known:?}");
}

#[test]
fn a_recipe_reproduces_the_archive_and_its_layers_are_products_of_integers() {
    let (model, recipe) = (MADE.text("loud.nir"), MADE.text("dynamic.recipe"));
    let machine = ["--target", "x86_64-unknown-linux-gnu", "--cpu", "znver4", "--recipe", &recipe];
    let again = MADE.text("again/dynamic.a");
    run::onnxc_with(&[&["compile", &model, "-o", &again][..], &machine].concat()).expect_ok("compile --recipe");
    let bytes = |name: &str| fs::read(MADE.at(name)).expect("an archive");
    assert!(bytes("dynamic.a") == bytes("again/dynamic.a"), "the archives differ");
    let text = run::onnxc_with(&[&["compile", &model, "--stop-after=fuse"][..], &machine].concat()).expect_ok("fuse");
    let count = |op: &str| text.lines().filter(|line| line.contains(&format!(" = {op} "))).count();
    assert!(count("conv_integer") == 2 && count("conv") == 0, "{text}");
    assert_eq!(count("dynamic_quantize_linear"), 2, "{text}");
}

/// The arrays beside a recipe: floats and integers.
fn arrays(path: &Path) -> Arrays {
    let mut file = NpzReader::new(fs::File::open(path).expect("arrays")).expect("arrays");
    file.names()
        .expect("names")
        .into_iter()
        .map(|name| (name.trim_end_matches(".npy").to_string(), array(&mut file, &name)))
        .collect()
}

fn array(file: &mut NpzReader<fs::File>, name: &str) -> Tensor {
    fn tensor<T: Element>(array: ArrayD<T>) -> Tensor {
        let shape: Vec<u64> = array.shape().iter().map(|n| *n as u64).collect();
        Tensor::from_vec(&shape, array.iter().copied().collect())
    }
    let floats = file.by_name::<OwnedRepr<f32>, IxDyn>(name).map(tensor);
    let bytes = floats.or_else(|_| file.by_name::<OwnedRepr<i8>, IxDyn>(name).map(tensor));
    bytes.or_else(|_| file.by_name::<OwnedRepr<i16>, IxDyn>(name).map(tensor)).expect("floats, bytes or words")
}

/// The code computes what the graph means that the recipe makes, integers as floats.
#[test]
fn code_agrees_with_the_interpreter() {
    let recipe = Recipe::parse(&MADE.recipe("dynamic.recipe")).expect("a recipe");
    let graph = recipe::apply(&graph(), &recipe, &arrays(&MADE.at("dynamic.recipe.npz"))).expect("a graph");
    onnxc_ir::verify::verify(&graph).unwrap_or_else(|e| panic!("{e:?}"));
    let (inputs, got) = (inputs(), MADE.answers("dynamic", &["--recipe", &MADE.text("dynamic.recipe")]));
    for sample in [0, SAMPLES / 2, SAMPLES - 1] {
        let x = inputs.index_axis(Axis(0), sample).iter().copied().collect();
        let x = Tensor::from_vec(&[1, 32, 12, 12], x);
        let want = interp::run(&graph, &[x]).expect("values")[0].to_vec::<f32>();
        let got = got.index_axis(Axis(0), sample);
        let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let apart = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Sums of other roundings move an element of the second operand to the next step now and then.
        assert!(apart <= 1e-3 * most, "sample {sample}: {apart} of {most}");
    }
}

/// Tasks find the range of their parts, and NaN is in it wherever it is.
#[test]
fn threads_find_one_range() {
    const N: usize = 5 * 8 * 1024 + 7;
    let text = format!(
        "graph @f(%x: f32[{N}]) {{\n  %q, %s, %z = dynamic_quantize_linear %x : u8[{N}], f32[], u8[]\n  return %q, %s, %z\n}}\n"
    );
    let graph = parse::parse(&text, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"));
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", "native", 2).expect("this machine");
    let plan = onnxc_passes::plan::plan(&graph, &target.desc).expect("a plan");
    let model = JitModel::new(&plan, &target).expect("code");
    for (place, value) in [(0, 0.5), (3, -7.0), (N / 2, 9.0), (N - 1, 5.0), (N - 2, f32::NAN), (20_000, f32::INFINITY)] {
        let values: Vec<f32> = (0..N).map(|i| if i == place { value } else { number(i, 8) }).collect();
        let x = Tensor::from_vec(&[N as u64], values);
        let want: Vec<Vec<u8>> =
            interp::run(&graph, std::slice::from_ref(&x)).expect("values").iter().map(|t| t.bytes().to_vec()).collect();
        let mut got = Vec::new();
        model.run(&[x.bytes()], &mut got, 2).expect("an inference");
        assert!(value.is_nan() || got == want, "{value} at {place}: {:?} {:?}, not {:?} {:?}", got[1], got[2], want[1], want[2]);
        assert!(!value.is_nan() || got[0] == want[0] && f32::from_le_bytes(got[1][..4].try_into().expect("a float")).is_nan());
    }
}
