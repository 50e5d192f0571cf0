//! Filters that need the same positions next to each other: a search that moves them, and recipes that say so.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzWriter, read_npy};
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, parse};
use onnxc_testsuite::numbers::number;
use onnxc_testsuite::run::{self, Output};
use tempfile::TempDir;

/// Filters of two kinds in turn; a depthwise layer is between them and the layer that reads them.
const NETWORK: &str = "graph @kinds(%x: f32[1,32,10,10]) {
  %w1 = const f32[32,32,1,1] blob(0000000000000001)
  %d = const f32[32,1,3,3] blob(0000000000000002)
  %w2 = const f32[6,32,1,1] blob(0000000000000003)
  %a = conv %x, %w1, _ : f32[1,32,10,10] @\"mixed\"
  %b = relu %a : f32[1,32,10,10] @\"relu\"
  %c = conv %b, %d, _ {group = 32, pads = ints[1, 1, 1, 1]} : f32[1,32,10,10] @\"deep\"
  %y = conv %c, %w2, _ : f32[1,6,10,10] @\"last\"
  return %y
}
";
const SHAPES: [&[u64]; 3] = [&[32, 32, 1, 1], &[32, 1, 3, 3], &[6, 32, 1, 1]];
/// Samples of the search.
const SAMPLES: usize = 48;

/// Even filters of the first layer need the first half of the channels, odd ones the other half.
fn weights(blob: u64) -> Option<Tensor> {
    let shape = SHAPES[blob as usize - 1];
    let own = |i: usize| blob != 1 || (i / 32).is_multiple_of(2) == (i % 32 < 16);
    let value = |i: usize| number(i, blob as usize) * if own(i) { 0.3 } else { 0.0003 };
    Some(Tensor::from_vec(shape, (0..shape.iter().product::<u64>() as usize).map(value).collect()))
}

fn graph() -> Graph {
    parse::parse(NETWORK, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"))
}

struct Task(TempDir);

impl Task {
    fn new() -> Task {
        let task = Task(tempfile::tempdir().expect("a folder"));
        onnxc::nir::write(&task.at("kinds.nir"), &graph()).expect("a model");
        let inputs = (0..SAMPLES * 3200).map(|i| number(i, 5)).collect::<Vec<f32>>();
        let mut file = NpzWriter::new(fs::File::create(task.at("calib.npz")).expect("a file"));
        file.add_array("x", &ArrayD::from_shape_vec(IxDyn(&[SAMPLES, 32, 10, 10]), inputs).expect("inputs")).expect("an array");
        file.finish().expect("written");
        task
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, command: &str, args: &[&str]) -> Output {
        let mut onnxc = Command::new(run::onnxc());
        onnxc.current_dir(self.0.path()).args([command, "kinds.nir"]).args(args);
        run::run(&mut onnxc, Duration::from_secs(600))
    }

    fn compile(&self, to: &str, flags: &[&str]) -> String {
        let target = ["--target", "x86_64-unknown-linux-gnu", "--cpu", "x86-64-v3", "--name", "kinds", "-o", to];
        self.run("compile", &[&target[..], flags].concat()).expect_ok("an archive");
        fs::read_to_string(self.at(to).with_extension("recipe")).unwrap_or_default()
    }

    fn search(&self, to: &str, flags: &[&str]) -> String {
        let floats = ["--without", "int8", "--without", "weight-only", "--without", "low-rank", "--no-baselines"];
        let inputs = ["--calib", "calib.npz", "--work", "work", "--max-drop", "2%", "--objective", "macs"];
        self.compile(to, &[&inputs[..], &floats, flags].concat())
    }

    fn answers(&self, to: &str, flags: &[&str]) -> ArrayD<f32> {
        self.run("run", &[&["--inputs", "calib.npz", "--samples", "--outputs", to], flags].concat()).expect_ok("answers");
        read_npy(self.at(to).join("output_0.npy")).expect("an output")
    }
}

/// The share of a layer's multiplications that a recipe leaves.
fn density(recipe: &str, layer: &str) -> f64 {
    let own = recipe.split("[[layer]]").find(|text| text.contains(&format!("name = \"{layer}\"")));
    let line = own.and_then(|text| text.lines().find_map(|l| l.strip_prefix("density = ")));
    line.map_or(1.0, |number| number.parse().expect("a number"))
}

#[test]
fn filters_of_a_kind_become_neighbours() {
    let task = Task::new();
    let (as_they_are, moved) = (task.search("plain.a", &[]), task.search("moved.a", &["--reorder"]));
    // Panels of both kinds need all channels.
    assert!(!as_they_are.contains("[[order]]") && density(&as_they_are, "mixed") > 0.6, "{as_they_are}");
    assert!(moved.contains("[[order]]\nlayer = \"mixed\"") && density(&moved, "mixed") <= 0.5, "{moved}");

    let (dense, compressed) = (task.answers("dense", &[]), task.answers("moved", &["--recipe", "moved.recipe"]));
    let noise = (&dense - &compressed).mapv(|x| f64::from(x) * f64::from(x)).sum();
    let signal = dense.mapv(|x| f64::from(x) * f64::from(x)).sum();
    assert!(noise < 0.02 * signal, "{noise} of {signal}");

    task.compile("again.a", &["--recipe", "moved.recipe"]);
    assert_eq!(fs::read(task.at("moved.a")).expect("an archive"), fs::read(task.at("again.a")).expect("an archive"));
}

#[test]
fn orders_that_do_not_fit_are_told() {
    let task = Task::new();
    let recipe = task.search("moved.a", &["--reorder"]);
    fs::copy(task.at("moved.recipe.npz"), task.at("edited.recipe.npz")).expect("a copy");
    let (begin, end) = (recipe.find("[[order]]").expect("an order"), recipe.find("[[layer]]").expect("a layer"));
    let without = [&recipe[..begin], &recipe[end..]].concat();
    let other = recipe.replace("[[order]]\nlayer = \"mixed\"", "[[order]]\nlayer = \"last\"");
    for (edited, why) in [
        (&without, "layer \"mixed\": its weights are in the order order_0000, which is not there; take the layer out too"),
        (&other, "the order of layer \"last\": the model has no such layer whose 32 filters can be moved"),
    ] {
        assert_ne!(*edited, recipe);
        fs::write(task.at("edited.recipe"), edited).expect("a recipe");
        let said = task.run("compile", &["--recipe", "edited.recipe", "-o", "edited.a"]);
        assert!(said.code == Some(1) && !task.at("edited.a").exists());
        assert!(said.stderr.contains(why), "{}", said.stderr);
    }
}
