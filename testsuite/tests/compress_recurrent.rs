//! Recurrent layers: what they make of their operand and what they make of their state are layers of a search, and run as its recipe says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzWriter, read_npy};
use onnxc_ir::op::OpSet;
use onnxc_ir::{Tensor, parse};
use onnxc_testsuite::numbers::number;
use onnxc_testsuite::run;

/// Steps, inputs and units of the layers.
const STEPS: usize = 12;
const INPUTS: usize = 48;
const UNITS: usize = 64;
/// Samples of the search.
const SAMPLES: usize = 48;

const LSTM: &str = "graph @memory(%x: f32[12,1,48]) {
  %w = const f32[1,256,48] blob(0000000000000001)
  %r = const f32[1,256,64] blob(0000000000000002)
  %b = const f32[1,512] blob(0000000000000003)
  %y, %h, %c = lstm %x, %w, %r, %b : f32[12,1,1,64], f32[1,1,64], f32[1,1,64] @\"memory\"
  return %y
}
";

const GRU: &str = "graph @both(%x: f32[12,1,48]) {
  %w = const f32[2,192,48] blob(0000000000000001)
  %r = const f32[2,192,64] blob(0000000000000002)
  %b = const f32[2,384] blob(0000000000000003)
  %y, %h = gru %x, %w, %r, %b, _, _ {direction = \"bidirectional\"} : f32[12,2,1,64], f32[2,1,64] @\"both\"
  return %y
}
";

/// Weights of which most columns matter little, the same for all rows.
fn weights(shape: &[u64], seed: usize) -> Tensor {
    let columns = *shape.last().expect("a shape") as usize;
    let n: u64 = shape.iter().product();
    let size = |column: usize| if column.is_multiple_of(4) || columns > 100 { 4.0 } else { 0.1 };
    let value = |i: usize| number(i, seed) * size(i % columns) / (columns.min(64) as f32).sqrt();
    Tensor::from_vec(shape, (0..n as usize).map(value).collect())
}

/// A folder with a model and inputs to search with, and others.
struct Task {
    folder: tempfile::TempDir,
}

impl Task {
    fn new(text: &str) -> Task {
        let folder = tempfile::tempdir().expect("a folder");
        let (directions, gates) = if text == LSTM { (1, 4) } else { (2, 3) };
        let width = gates * UNITS as u64;
        let blob = |n: u64| {
            let shape = match n {
                1 => vec![directions, width, INPUTS as u64],
                2 => vec![directions, width, UNITS as u64],
                _ => vec![directions, 2 * width],
            };
            Some(weights(&shape, n as usize))
        };
        let graph = parse::parse(text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"));
        let task = Task { folder };
        onnxc::nir::write(&task.at("model.nir"), &graph).expect("a model");
        for (name, seed) in [("calib.npz", 5), ("others.npz", 6)] {
            let inputs: Vec<f32> = (0..SAMPLES * STEPS * INPUTS).map(|i| number(i, seed)).collect();
            let mut file = NpzWriter::new(fs::File::create(task.at(name)).expect("a file"));
            let inputs = ArrayD::from_shape_vec(IxDyn(&[SAMPLES, STEPS, 1, INPUTS]), inputs).expect("inputs");
            file.add_array("x", &inputs).expect("an array");
            file.finish().expect("written");
        }
        task
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, command: &str, args: &[&str]) {
        let mut all = Command::new(run::onnxc());
        all.arg(command).arg(self.at("model.nir")).args(args).current_dir(self.folder.path());
        run::run(&mut all, Duration::from_secs(600)).expect_ok(command);
    }

    /// The recipe that a search finds, beside an archive.
    fn search(&self, name: &str, flags: &[&str]) -> String {
        let to = format!("{name}.a");
        let args =
            ["--cpu", "x86-64-v3", "--calib", "calib.npz", "--work", "work", "--metric", "signal", "--no-baselines", "-o", &to];
        self.run("compile", &[&args, flags].concat());
        fs::read_to_string(self.at(&format!("{name}.recipe"))).expect("a recipe")
    }

    /// What the model answers to inputs that no search has seen.
    fn answers(&self, flags: &[&str]) -> ArrayD<f32> {
        self.run("run", &[&["--inputs", "others.npz", "--samples", "--outputs", "out"], flags].concat());
        read_npy::<_, ArrayD<f32>>(self.at("out").join("output_0.npy")).expect("answers")
    }

    /// Noise over signal of a recipe.
    fn noise(&self, recipe: &str) -> f64 {
        let power = |a: &ArrayD<f32>| a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let dense = self.answers(&[]);
        power(&(&self.answers(&["--recipe", recipe]) - &dense)) / power(&dense)
    }
}

/// The line of a layer of a recipe that begins with a word.
fn line<'a>(recipe: &'a str, layer: &str, word: &str) -> &'a str {
    let of = recipe.split("[[layer]]").find(|part| part.contains(&format!("name = \"{layer}\"")));
    let of = of.unwrap_or_else(|| panic!("no layer {layer} in {recipe}"));
    of.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(" = ")).unwrap_or_else(|| panic!("no {word} in {of}"))
}

#[test]
fn both_matrices_are_pruned() {
    let task = Task::new(LSTM);
    let recipe =
        task.search("pruned", &["--max-drop", "4%", "--without", "int8", "--without", "weight-only", "--without", "low-rank"]);
    for layer in ["memory.x", "memory"] {
        assert_eq!(line(&recipe, layer, "form"), "\"pruned\"", "{layer}");
        assert!(line(&recipe, layer, "density").parse::<f64>().expect("a number") < 0.6, "{layer}");
    }
    let noise = task.noise("pruned.recipe");
    assert!(noise > 0.0 && noise < 0.06, "{noise}");
    // What the recipe says is the same archive, and is smaller and faster than the dense one.
    task.run("compile", &["--cpu", "x86-64-v3", "--recipe", "pruned.recipe", "--name", "pruned", "-o", "again.a"]);
    task.run("compile", &["--cpu", "x86-64-v3", "--name", "pruned", "-o", "dense.a"]);
    let bytes = |name: &str| fs::read(task.at(name)).expect("an archive");
    assert!(bytes("pruned.a") == bytes("again.a"), "a recipe makes the same archive");
    assert!(bytes("pruned.a").len() * 3 < bytes("dense.a").len() * 2);
    // A state has no integers on both sides.
    fs::copy(task.at("pruned.recipe.npz"), task.at("wrong.recipe.npz")).expect("arrays");
    fs::write(task.at("wrong.recipe"), recipe.replace("weights = \"f32\"", "weights = \"int8\"")).expect("written");
    let mut wrong = Command::new(run::onnxc());
    wrong.arg("compile").arg(task.at("model.nir")).args(["--recipe", "wrong.recipe", "-o", "wrong.a"]);
    let told = run::run(wrong.current_dir(task.folder.path()), Duration::from_secs(60));
    assert!(told.code == Some(1) && told.stderr.contains("cannot be pruned with weights int8"), "{}", told.stderr);
}

#[test]
fn weights_of_states_become_bytes_and_numbers() {
    let task = Task::new(LSTM);
    let limits = ["--objective", "size", "--max-drop", "2%", "--without", "pruning", "--without", "low-rank"];
    let recipe = task.search("small", &limits);
    let weights = line(&recipe, "memory", "weights");
    assert!(weights == "\"byte\"" || weights == "\"nibble\"", "{weights}");
    let noise = task.noise("small.recipe");
    assert!(noise > 0.0 && noise < 0.03, "{noise}");
    let (small, dense) = (task.at("small.a"), task.at("dense.a"));
    task.run("compile", &["--cpu", "x86-64-v3", "-o", "dense.a"]);
    let size = |path: &Path| fs::metadata(path).expect("an archive").len();
    assert!(size(&small) * 2 < size(&dense), "{} {}", size(&small), size(&dense));
}

#[test]
fn directions_are_layers_of_their_own() {
    let task = Task::new(GRU);
    let recipe = task.search("both", &["--max-drop", "4%", "--without", "int8", "--without", "weight-only"]);
    for layer in ["both.x", "both", "both.reverse.x", "both.reverse"] {
        assert!(line(&recipe, layer, "density").parse::<f64>().expect("a number") < 1.0, "{layer}");
    }
    let noise = task.noise("both.recipe");
    assert!(noise > 0.0 && noise < 0.06, "{noise}");
    for target in ["aarch64-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu"] {
        task.run("compile", &["--target", target, "--recipe", "both.recipe", "-o", "other.a"]);
    }
}

#[test]
fn ranges_are_found_as_asked() {
    let task = Task::new(LSTM);
    let scale = |name: &str, flags: &[&str]| {
        let only = ["--without", "pruning", "--without", "weight-only", "--without", "low-rank"];
        // Fewest bytes: no integers of 16 bits.
        let limits = [&["--max-drop", "50%", "--objective", "size"], &only[..]].concat();
        let recipe = task.search(name, &[&limits[..], flags].concat());
        let of = recipe.split("[[activation]]").nth(1).unwrap_or_else(|| panic!("no activation: {recipe}")).to_string();
        let line = of.lines().find_map(|line| line.strip_prefix("scale = ")).expect("a scale");
        line.parse::<f64>().expect("a number")
    };
    // Inputs are spread evenly: a twentieth of them is outside on each side.
    let (all, most) = (scale("all", &["--range", "minmax"]), scale("most", &["--range", "percentile=95"]));
    assert!((most / all - 0.9).abs() < 0.03, "{most} {all}");
    let mut wrong = Command::new(run::onnxc());
    wrong.arg("compile").arg(task.at("model.nir")).args(["--calib", "calib.npz", "--range", "widest", "-o", "no.a"]);
    let told = run::run(wrong.current_dir(task.folder.path()), Duration::from_secs(60));
    assert!(told.code != Some(0) && told.stderr.contains("percentile=P"), "{}", told.stderr);
}
