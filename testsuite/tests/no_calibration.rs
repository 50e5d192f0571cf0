//! Compression without calibration inputs: generated ones, a warning, weights that follow from the weights alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter, read_npy};
use onnxc_testsuite::data::repository;
use onnxc_testsuite::run::{self, Output};
use serde_json::Value;

const SHAPE: &str = "--shape=input=1,1,28,28";
const DIGITS: usize = 400;

fn onnxc(args: &[&str]) -> Output {
    // Messages name the model as the command line does.
    run::run(Command::new(run::onnxc()).args(args).current_dir(repository().join("testsuite/accuracy")), Duration::from_secs(900))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// Compiles the digits' network with these flags to NAME.a.
    fn compile(&self, name: &str, flags: &[&str]) -> Output {
        let to = self.text(&format!("{name}.a"));
        onnxc(&[&["compile", "mnist.onnx", SHAPE, "--name=net", "-o", &to][..], flags].concat())
    }

    fn report(&self, name: &str) -> Value {
        serde_json::from_slice(&bytes(&self.at(&format!("{name}.json")))).expect("a report")
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Writes digits that nothing was computed from; answers their labels.
fn write_digits(to: &Path) -> Vec<i64> {
    let file = repository().join("testsuite/accuracy/mnist/eval.npz");
    let mut stored = NpzReader::new(fs::File::open(file).expect("the task")).expect("arrays");
    let pixels: ArrayD<u8> = stored.by_name("input.npy").expect("digits");
    let labels: ArrayD<i64> = stored.by_name("labels.npy").expect("labels");
    let pixels = pixels.iter().take(DIGITS * 28 * 28).map(|b| f32::from(*b) / 255.0).collect();
    let mut out = NpzWriter::new(fs::File::create(to).expect("a file"));
    out.add_array("input", &ArrayD::from_shape_vec(IxDyn(&[DIGITS, 1, 28, 28]), pixels).expect("digits")).expect("an array");
    out.finish().expect("written");
    labels.into_iter().take(DIGITS).collect()
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(repository().join("testsuite/tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// The messages on stderr, without the figures of the report below them.
fn messages(output: &Output) -> String {
    let figures = |line: &&str| !line.starts_with("compression for") && !line.starts_with("  ") || line.starts_with("  Help");
    output.stderr.lines().filter(figures).map(|l| format!("{l}\n")).collect()
}

#[test]
fn weights_alone_become_numbers_of_few_bits() {
    let folder = Folder::new();
    let output = folder.compile("small", &["--max-drop", "2%", "--objective", "size", "--forget"]);
    snapshot("no_calibration-warning", &messages(&output));
    assert!(output.stderr.contains("on 128 generated samples"), "{}", output.stderr);
    output.expect_ok("compile --max-drop");
    let recipe = fs::read_to_string(folder.at("small.recipe")).expect("a recipe");
    let layers = recipe.matches("[[layer]]").count();
    let coded = recipe.matches("weights = \"byte\"").count() + recipe.matches("weights = \"nibble\"").count();
    assert!(layers >= 8 && coded == layers && recipe.matches("form = \"whole\"").count() == layers, "{recipe}");
    assert!(recipe.contains("activation = []") && recipe.contains("1.000 % of 2.000 %: half counts as used"), "{recipe}");
    let told = folder.report("small")["compression"]["report"].clone();
    assert!(told["generated"] == true && told["drop"].as_f64().is_some_and(|d| d <= 0.01), "{told:#}");

    folder.compile("again", &["--recipe", &folder.text("small.recipe")]).expect_ok("compile --recipe");
    assert!(bytes(&folder.at("small.a")) == bytes(&folder.at("again.a")), "the archives differ");
    folder.compile("dense", &[]).expect_ok("compile");
    let (large, little) = (bytes(&folder.at("dense.a")).len(), bytes(&folder.at("small.a")).len());
    assert!(3 * little < large, "{large} -> {little} bytes");

    // Digits, of which nothing was known.
    let labels = write_digits(&folder.at("eval.npz"));
    let right = |to: &str, flags: &[&str]| -> f64 {
        let (inputs, to) = (folder.text("eval.npz"), folder.text(to));
        let run = ["run", "mnist.onnx", SHAPE, "--inputs", &inputs, "--samples", "--outputs", &to];
        onnxc(&[&run[..], flags].concat()).expect_ok("run --samples");
        let scores: ArrayD<f32> = read_npy(Path::new(&to).join("output_0.npy")).expect("scores");
        let scores: Vec<f32> = scores.into_iter().collect();
        let best = |row: &[f32]| (0..10).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0) as i64;
        scores.chunks(10).zip(&labels).filter(|(row, label)| best(row) == **label).count() as f64 / DIGITS as f64
    };
    let (dense, small) = (right("dense", &[]), right("small", &["--recipe", &folder.text("small.recipe")]));
    assert!(dense > 0.97 && dense - small <= 0.02, "{dense} -> {small}");
}

#[test]
fn a_model_in_which_nothing_may_change_stays_as_it_is() {
    let folder = Folder::new();
    let output = folder.compile("same", &["--max-drop", "0%", "--forget"]);
    snapshot("no_calibration-unchanged", &messages(&output));
    output.expect_ok("compile --max-drop 0%");
    folder.compile("dense", &[]).expect_ok("compile");
    assert!(bytes(&folder.at("same.a")) == bytes(&folder.at("dense.a")), "the archives differ");
    assert!(!fs::read_to_string(folder.at("same.recipe")).expect("a recipe").contains("[[layer]]"));
}

#[test]
fn a_front_has_generated_inputs_too() {
    let (folder, front) = (Folder::new(), "front");
    let to = folder.text(front);
    let flags = ["--objective", "size", "--points", "2", "--forget", "--message-format=json", "--front", &to];
    let output = onnxc(&[&["compress", "mnist.onnx", SHAPE][..], &flags].concat());
    let warning: Value = serde_json::from_str(output.stderr.lines().next().unwrap_or_default()).expect("a message");
    assert_eq!((&warning["level"], &warning["code"]), (&"warning".into(), &"compress::generated".into()), "{warning:#}");
    output.expect_ok("compress --front");
    let json: Value = serde_json::from_slice(&bytes(&folder.at("front/front.json"))).expect("a front");
    let points = json["points"].as_array().expect("points");
    assert!(json["inputs"] == "generated" && points.len() >= 2, "{json:#}");
    let recipe = fs::read_to_string(folder.at("front/point_00.recipe")).expect("a recipe");
    let coded = recipe.contains("\"byte\"") || recipe.contains("\"nibble\"");
    assert!(coded && !recipe.contains("int8") && recipe.contains("inputs = \"generated"), "{recipe}");
}

#[test]
fn limits_that_weights_alone_cannot_keep_are_refused_and_flags_without_a_limit_too() {
    let folder = Folder::new();
    let refused = folder.compile("refused", &["--max-latency", "0.1us", "--forget"]);
    let told = refused.stderr.contains("there are no calibration inputs") && refused.stderr.contains("least latency of all");
    assert!(refused.code == Some(1) && told && !folder.at("refused.a").exists(), "{}", refused.stderr);
    let usage: [&[&str]; 3] = [&["--metric", "top1"], &["--labels", "truth", "--max-drop", "1%"], &["--without", "pruning"]];
    for flags in usage {
        let output = folder.compile("refused", flags);
        assert!(output.code == Some(2) && output.stderr.contains("--calib"), "{flags:?}: {}", output.stderr);
    }
    let open = onnxc(&["compile", "mnist.onnx", "--max-drop", "1%", "--forget", "-o", &folder.text("refused.a")]);
    assert!(open.code == Some(1) && open.stderr.contains("--shape input="), "{}", open.stderr);
    let ablation = onnxc(&["compress", "mnist.onnx", SHAPE, "--ablate", "table.csv"]);
    assert!(ablation.code == Some(2) && ablation.stderr.contains("--calib"), "{}", ablation.stderr);
}
