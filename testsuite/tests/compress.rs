//! Compression from calibration inputs: the contract on data that it has not seen, recipes that reproduce archives, errors.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter, read_npy};
use onnxc_testsuite::data::repository;
use onnxc_testsuite::run;

/// Samples that are computed with and scored: fewer than the task has, for time.
const SAMPLES: (usize, usize) = (160, 400);
/// Flags of searches that take less time: [`layers_become_thin_ones`] has what is left out.
const QUICK: [&str; 3] = ["--no-baselines", "--without", "low-rank"];

fn task() -> PathBuf {
    repository().join("testsuite/accuracy/mnist")
}

fn model() -> String {
    repository().join("testsuite/accuracy/mnist.onnx").display().to_string()
}

/// Some of the digits of a file as the model wants them, and their labels.
fn digits(file: &str, n: usize) -> (ArrayD<f32>, Vec<i64>) {
    let open = || NpzReader::new(fs::File::open(task().join(file)).expect("the task")).expect("arrays");
    let stored: ArrayD<u8> = open().by_name("input.npy").expect("digits");
    let pixels = stored.iter().take(n * 28 * 28).map(|b| f32::from(*b) / 255.0).collect();
    let labels = open().by_name::<ndarray::OwnedRepr<i64>, IxDyn>("labels.npy");
    let labels = labels.map(|l| l.iter().take(n).copied().collect()).unwrap_or_default();
    (ArrayD::from_shape_vec(IxDyn(&[n, 1, 28, 28]), pixels).expect("digits"), labels)
}

fn write_npz(path: &Path, name: &str, array: &ArrayD<f32>) {
    let mut file = NpzWriter::new(fs::File::create(path).expect("a file"));
    file.add_array(name, array).expect("an array");
    file.finish().expect("written");
}

/// A folder with calibration inputs, the model compressed by them, and inputs to score.
struct Made {
    folder: tempfile::TempDir,
    labels: Vec<i64>,
}

impl Made {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let (calib, _) = digits("calib.npz", SAMPLES.0);
    let (eval, labels) = digits("eval.npz", SAMPLES.1);
    write_npz(&folder.path().join("calib.npz"), "input", &calib);
    write_npz(&folder.path().join("eval.npz"), "input", &eval);
    let made = Made { folder, labels };
    let (calib, to, work) = (made.text("calib.npz"), made.text("small.a"), made.text("work"));
    let args = ["compile", &model(), "--calib", &calib, "--max-drop", "2%", "-o", &to, "--work", &work, "--objective", "size"];
    run::onnxc_with(&[&args[..], &QUICK].concat()).expect_ok("compile --calib");
    made
});

/// Which digits are right.
fn right(outputs: &Path, labels: &[i64]) -> Vec<bool> {
    let scores: ArrayD<f32> = read_npy(outputs.join("output_0.npy")).expect("scores");
    let scores: Vec<f32> = scores.iter().copied().collect();
    let best = |row: &[f32]| (0..10).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0) as i64;
    scores.chunks(10).zip(labels).map(|(row, label)| best(row) == *label).collect()
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_compressed_model_keeps_its_contract_on_other_data() {
    let (made, eval) = (&*MADE, MADE.text("eval.npz"));
    let shape = "--shape=input=1,1,28,28";
    let score = |flags: &[&str], to: &str| {
        let to = made.at(to);
        let model = model();
        let args =
            [&["run", &model, "--inputs", &eval, "--samples", "--outputs", to.to_str().expect("a path"), shape][..], flags]
                .concat();
        run::onnxc_with(&args).expect_ok("run --samples");
        right(&to, &made.labels)
    };
    let recipe = made.text("small.recipe");
    let (dense, small) = (score(&[], "dense"), score(&["--recipe", &recipe], "small"));
    let n = dense.len() as f64;
    let share = |which: &[bool]| which.iter().filter(|r| **r).count() as f64 / n;
    let changed = dense.iter().zip(&small).filter(|(a, b)| a != b).count() as f64;
    let (dense, small) = (share(&dense), share(&small));
    // The limit, and one standard error of a difference of pairs.
    let allowed = 0.02 + changed.sqrt() / n;
    assert!(dense > 0.97 && dense - small <= allowed + 1e-9, "{dense} -> {small}, allowed {allowed}");
    run::onnxc_with(&["compile", &model(), shape, "-o", &made.text("dense.a")]).expect_ok("compile");
    let (large, little) = (bytes(&made.at("dense.a")).len(), bytes(&made.at("small.a")).len());
    assert!(little * 3 < large, "{large} -> {little} bytes");
    let report: serde_json::Value = serde_json::from_slice(&bytes(&made.at("small.json"))).expect("a report");
    let layers = report["compression"]["layer"].as_array().expect("layers").len();
    assert!(layers >= 8, "{report:#}");
}

#[test]
fn weights_of_compressed_layers_are_integers_of_the_graph() {
    let recipe = MADE.text("small.recipe");
    let args = ["compile", &model(), "--shape=input=1,1,28,28", "--recipe", &recipe, "--stop-after=compress"];
    let text = run::onnxc_with(&args).expect_ok("compress");
    // Operands of integer convolutions, or of convolutions of floats.
    assert!(text.matches("= const i8[").count() >= 8 && text.matches("conv").count() >= 8, "{text}");
}

/// Nothing else being allowed, layers become several with little between them.
#[test]
fn layers_become_thin_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (calib, _) = digits("calib.npz", 24);
    write_npz(Path::new(&at("calib.npz")), "input", &calib);
    let (model, calib, front) = (model(), at("calib.npz"), at("front"));
    let search = ["compress", &model, "--calib", &calib, "--objective", "size", "--points", "6", "--forget", "--front", &front];
    run::onnxc_with(&[&search[..], &["--without", "pruning,int8,weight-only"]].concat()).expect_ok("compress");
    let json: serde_json::Value = serde_json::from_slice(&bytes(Path::new(&at("front/front.json")))).expect("a front");
    // The smallest model that still is the model.
    let points = json["points"].as_array().expect("points");
    let thin = points.iter().find(|p| p["agreement"].as_f64().is_some_and(|a| a > 0.9)).expect("a point");
    let recipe = at(&format!("front/{}", thin["recipe"].as_str().expect("a name")));
    let text = fs::read_to_string(&recipe).expect("a recipe");
    let forms = ["low_rank", "narrow", "tucker", "separated"].map(|form| text.matches(&format!("form = \"{form}\"")).count());
    let others = ["pruned", "int8", "byte", "nibble"].iter().any(|other| text.contains(&format!("= \"{other}\"")));
    assert!(forms.iter().sum::<usize>() >= 4 && !others, "{text}");
    let shape = "--shape=input=1,1,28,28";
    run::onnxc_with(&["compile", &model, shape, "--recipe", &recipe, "-o", &at("thin.a")]).expect_ok("a recipe");
    run::onnxc_with(&["compile", &model, shape, "-o", &at("dense.a")]).expect_ok("compile");
    let (large, little) = (bytes(Path::new(&at("dense.a"))).len(), bytes(Path::new(&at("thin.a"))).len());
    assert!(2 * little < large, "{large} -> {little} bytes");
}

#[test]
fn a_recipe_reproduces_the_archive_and_another_search_finds_the_same() {
    let (made, recipe) = (&*MADE, MADE.text("small.recipe"));
    let shape = "--shape=input=1,1,28,28";
    run::onnxc_with(&["compile", &model(), shape, "--recipe", &recipe, "--name=small", "-o", &made.text("again/small.a")])
        .expect_ok("compile --recipe");
    assert!(bytes(&made.at("small.a")) == bytes(&made.at("again/small.a")), "the archives differ");
    let args = [
        "compile",
        &model(),
        "--calib",
        &made.text("calib.npz"),
        "--max-drop",
        "2%",
        "--objective",
        "size",
        "--work",
        &made.text("work"),
    ];
    run::onnxc_with(&[&args[..], &QUICK, &["-o", &made.text("kept/small.a")]].concat())
        .expect_ok("compile --calib with what was kept");
    assert!(bytes(&made.at("small.recipe")) == bytes(&made.at("kept/small.recipe")), "the recipes differ");
}

#[test]
fn a_front_goes_from_the_dense_model_to_small_ones() {
    let (made, front) = (&*MADE, MADE.text("front"));
    let flags = ["--objective", "size", "--points", "4", "--work", &made.text("work"), "--front", &front];
    run::onnxc_with(&[&["compress", &model(), "--calib", &made.text("calib.npz")][..], &flags, &QUICK].concat())
        .expect_ok("compress");
    let json: serde_json::Value = serde_json::from_slice(&bytes(&made.at("front/front.json"))).expect("a front");
    let points = json["points"].as_array().expect("points");
    let number = |p: &serde_json::Value, name: &str| p[name].as_f64().unwrap_or_else(|| panic!("{name}: {p:#}"));
    assert!(points.len() >= 3, "{json:#}");
    for pair in points.windows(2) {
        assert!(number(&pair[0], "weight_bytes") < number(&pair[1], "weight_bytes"), "{json:#}");
        assert!(number(&pair[0], "divergence") > number(&pair[1], "divergence"), "{json:#}");
    }
    let last = &points[points.len() - 1];
    assert_eq!((number(last, "drop"), number(last, "divergence")), (0.0, 0.0), "the dense model is one of the points");
    assert_eq!(fs::read_to_string(made.at("front/front.csv")).expect("a table").lines().count(), points.len() + 1);
    assert!(fs::read_to_string(made.at("front/front.svg")).expect("a picture").contains("</svg>"));
    let recipe = made.at("front").join(points[0]["recipe"].as_str().expect("a recipe")).display().to_string();
    let output = made.text("point.a");
    run::onnxc_with(&["compile", &model(), "--shape=input=1,1,28,28", "--recipe", &recipe, "-o", &output]).expect_ok("a point");
}

#[test]
fn recipes_can_be_edited_and_what_does_not_fit_is_told() {
    let made = &*MADE;
    let text = fs::read_to_string(made.at("small.recipe")).expect("a recipe");
    fs::copy(made.at("small.recipe.npz"), made.at("edited.recipe.npz")).expect("arrays");
    let first = text.find("[[layer]]").expect("a layer");
    let second = first + 9 + text[first + 9..].find("[[layer]]").expect("another layer");
    let edited = made.at("edited.recipe");
    let compile = |recipe: &Path| {
        let recipe = recipe.display().to_string();
        run::onnxc_with(&["compile", &model(), "--shape=input=1,1,28,28", "--recipe", &recipe, "-o", &made.text("edited.a")])
    };
    fs::write(&edited, format!("{}{}", &text[..first], &text[second..])).expect("written");
    compile(&edited).expect_ok("a recipe with a layer less");

    let cases = [
        (text.replacen("name = \"", "name = \"no ", 1), "no layer \"no "),
        (text.replacen("version = 1", "version = 99", 1), "version 99"),
        (text.replacen("model = \"", "model = \"0", 1), "another model"),
        (text.replacen("[[layer]]", "[[layer]]\ncolour = \"red\"", 1), "colour"),
        (text.replacen("arrays = \"", "arrays = \"0", 1), "not the arrays"),
    ];
    for (recipe, why) in cases {
        fs::write(&edited, recipe).expect("written");
        let output = compile(&edited);
        assert_eq!(output.code, Some(1), "{why}: {}", output.stderr);
        assert!(output.stderr.contains(why), "{why}: {}", output.stderr);
    }
    let output = compile(&made.at("none.recipe"));
    assert_eq!(output.code, Some(1), "{}", output.stderr);
}

#[test]
fn calibration_inputs_that_do_not_fit_are_told() {
    let made = &*MADE;
    let wrong = made.at("wrong.npz");
    write_npz(&wrong, "image", &ArrayD::zeros(IxDyn(&[2, 1, 28, 28])));
    let output = run::onnxc_with(&[
        "compile",
        &model(),
        "--calib",
        wrong.to_str().expect("a path"),
        "--shape=input=1,1,28,28",
        "-o",
        &made.text("wrong.a"),
    ]);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("\"input\"") && output.stderr.contains("image"), "{}", output.stderr);
    assert!(!made.at("wrong.a").exists());
}
