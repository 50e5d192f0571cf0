//! Compression of a small network: budgets, labels, reports, baselines, ablation, fronts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzWriter, read_npy};
use onnxc_ir::op::OpSet;
use onnxc_ir::{Tensor, parse};
use onnxc_testsuite::numbers::normal;
use onnxc_testsuite::run::{self, Output};
use serde_json::Value;

/// Samples, and elements of one.
const SAMPLES: usize = 120;
const ELEMENTS: usize = 4 * 12 * 12;

const TEXT: &str = "graph @small(%x: f32[1,4,12,12]) {
  %w1 = const f32[32,4,3,3] blob(0000000000000001)
  %w2 = const f32[64,32,3,3] blob(0000000000000002)
  %w3 = const f32[32,64,3,3] blob(0000000000000003)
  %w4 = const f32[128,6] blob(0000000000000004)
  %a = conv %x, %w1, _ {pads = ints[1, 1, 1, 1]} : f32[1,32,12,12] @\"first\"
  %b = relu %a : f32[1,32,12,12] @\"relu1\"
  %c = conv %b, %w2, _ {pads = ints[1, 1, 1, 1], strides = ints[2, 2]} : f32[1,64,6,6] @\"second\"
  %d = relu %c : f32[1,64,6,6] @\"relu2\"
  %e = conv %d, %w3, _ {strides = ints[3, 3]} : f32[1,32,2,2] @\"third\"
  %f = relu %e : f32[1,32,2,2] @\"relu3\"
  %g = flatten %f : f32[1,128] @\"flatten\"
  %y = matmul %g, %w4 : f32[1,6] @\"last\"
  return %y
}
";

/// A folder with a network and inputs for it, and the model compressed by them to the least size.
struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// A search with the inputs and what was kept of the one before.
    fn search(&self, command: &str, flags: &[&str]) -> Output {
        let (model, calib, work) = (self.text("small.nir"), self.text("calib.npz"), self.text("work"));
        run::onnxc_with(&[&[command, &model, "--calib", &calib, "--work", &work][..], flags].concat())
    }

    /// The report beside an archive.
    fn report(&self, archive: &str) -> Value {
        serde_json::from_slice(&bytes(&self.at(archive).with_extension("json"))).expect("a report")
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn inputs() -> ArrayD<f32> {
    // A third of each sample is one of six patterns, so that samples have something in common.
    let (patterns, noise) = (normal(7, 6 * ELEMENTS), normal(8, SAMPLES * ELEMENTS));
    let element = |i: usize| 0.7 * noise[i] + patterns[(i / ELEMENTS * 5 % 6) * ELEMENTS + i % ELEMENTS];
    let values = (0..SAMPLES * ELEMENTS).map(element).collect();
    ArrayD::from_shape_vec(IxDyn(&[SAMPLES, 4, 12, 12]), values).expect("inputs")
}

fn write_npz(path: &Path, labels: Option<Vec<i64>>) {
    let mut file = NpzWriter::new(fs::File::create(path).expect("a file"));
    file.add_array("x", &inputs()).expect("an array");
    if let Some(labels) = labels {
        file.add_array("truth", &ArrayD::from_shape_vec(IxDyn(&[SAMPLES]), labels).expect("labels")).expect("an array");
    }
    file.finish().expect("written");
}

/// Weights of the layers by the numbers of their blobs.
fn weights(blob: u64) -> Option<Tensor> {
    let shape: &[u64] = [&[32, 4, 3, 3][..], &[64, 32, 3, 3], &[32, 64, 3, 3], &[128, 6]].get(blob as usize - 1)?;
    let n = shape.iter().product::<u64>() as usize;
    let scale = (2.0 * shape[0] as f32 / n as f32).sqrt();
    // Few positions carry most, as in trained networks; all filters share them.
    let inputs = n / shape[0] as usize;
    let weight: Vec<f32> = normal(blob + 20, inputs).into_iter().map(|x| (1.8 * x - 1.8 * 1.8).exp()).collect();
    let mut values: Vec<f32> = normal(blob, n).into_iter().enumerate().map(|(i, x)| scale * weight[i % inputs] * x).collect();
    if shape.len() == 2 {
        // What all features have in common decides nothing.
        for class in 0..6 {
            let mean = values.iter().skip(class).step_by(6).sum::<f32>() / 128.0;
            values.iter_mut().skip(class).step_by(6).for_each(|x| *x -= mean);
        }
    }
    Some(Tensor::from_vec(shape, values))
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let made = Made { folder: tempfile::tempdir().expect("a folder") };
    let graph = parse::parse(TEXT, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"));
    onnxc::nir::write(&made.at("small.nir"), &graph).expect("a model");
    write_npz(&made.at("calib.npz"), None);
    let flags = ["--max-drop", "5%", "--objective", "size", "-o", &made.text("small.a")];
    let told = made.search("compile", &flags);
    told.expect_ok("compile --calib");
    made
});

/// The class that the dense model decides on for each sample.
fn decisions(made: &Made) -> Vec<i64> {
    let (model, calib, to) = (made.text("small.nir"), made.text("calib.npz"), made.text("dense"));
    run::onnxc_with(&["run", &model, "--inputs", &calib, "--samples", "--outputs", &to]).expect_ok("run --samples");
    let scores: ArrayD<f32> = read_npy(made.at("dense/output_0.npy")).expect("scores");
    let scores: Vec<f32> = scores.iter().copied().collect();
    scores.chunks(6).map(|row| (0..6).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0) as i64).collect()
}

#[test]
fn limits_of_size_and_memory_are_kept_with_the_least_loss() {
    let made = &*MADE;
    let dense = made.report("small.a")["compression"]["report"]["dense"].clone();
    let number = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("no number: {v}"));
    let (weights, arena) = (number(&dense["weight_bytes"]) / 8, number(&dense["arena_bytes"]) * 2 / 3);
    let search = |to: &str, limits: &[&str]| {
        made.search("compile", &[&["--no-baselines", "-o", &made.text(to)][..], limits].concat()).expect_ok("limits");
        made.report(to)
    };
    let limited = search("limited.a", &["--max-size", &weights.to_string(), "--max-ram", &arena.to_string()]);
    assert!(number(&limited["weights_bytes"]) <= weights && number(&limited["arena_bytes"]) <= arena, "{limited:#}");
    let told = &limited["compression"]["report"]["compressed"];
    assert_eq!((&told["weight_bytes"], &told["arena_bytes"]), (&limited["weights_bytes"], &limited["arena_bytes"]));
    // Within a larger limit less is lost.
    let roomy = search("roomy.a", &["--max-size", &(2 * weights).to_string()]);
    let loss = |report: &Value| report["compression"]["report"]["score"]["divergence"].as_f64().expect("a divergence");
    assert!(loss(&roomy) < loss(&limited), "{roomy:#} {limited:#}");
}

/// Where weights are stored coded, and are to take few bytes, they become coarse integers as soon as some loss is allowed; the recipe brings them back.
#[test]
fn coded_weights_of_least_size_are_coarse() {
    let made = &*MADE;
    let (to, again) = (made.text("coarse.a"), made.text("again/coarse.a"));
    let flags = ["--weights", "coded", "--max-drop", "20%", "--objective", "size", "--no-baselines", "-o", &to];
    made.search("compile", &flags).expect_ok("a search with coded weights");
    let recipe = made.text("coarse.recipe");
    let text = fs::read_to_string(&recipe).expect("a recipe");
    assert!(text.contains("form = \"coarse\""), "{text}");
    let args = ["compile", &made.text("small.nir"), "--recipe", &recipe, "--weights", "coded", "-o", &again];
    run::onnxc_with(&args).expect_ok("compile --recipe");
    assert!(bytes(Path::new(&to)) == bytes(Path::new(&again)), "the archives differ");
}

/// Multiplications count whatever the time is that they take, and as the layers are written: Winograd's algorithm does not make them fewer.
#[test]
fn multiplications_can_be_what_is_to_be_little() {
    let made = &*MADE;
    let search = |objective: &str| {
        let name = format!("{objective}.a");
        let to = made.text(&name);
        let flags = ["--without", "int8", "--without", "weight-only", "--no-baselines", "--max-drop", "20%"];
        let flags = [&flags[..], &["--objective", objective, "-o", &to]].concat();
        made.search("compile", &flags).expect_ok(objective);
        made.report(&name)["compression"]["report"].clone()
    };
    let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("no number: {v}"));
    let [few, fast] = ["macs", "latency"].map(search);
    let sum =
        |told: &Value, n: usize| told["layers"].as_array().expect("layers").iter().map(|l| number(&l["macs"][n])).sum::<f64>();
    for told in [&few, &fast] {
        assert_eq!(number(&told["dense"]["macs"]), sum(told, 0), "{told:#}");
        assert!((number(&told["compressed"]["macs"]) - sum(told, 1)).abs() <= 4.0, "{told:#}");
    }
    assert!(sum(&few, 1) < 0.6 * sum(&few, 0) && sum(&few, 1) <= 1.02 * sum(&fast, 1), "{few:#} {fast:#}");
}

#[test]
fn what_is_kept_of_one_search_does_not_change_what_another_one_finds() {
    // The first search was for the least size, with other kinds of candidates.
    let made = &*MADE;
    let args = |to: &str, drop: &str, kept: &[&str]| {
        let (model, calib, to) = (made.text("small.nir"), made.text("calib.npz"), made.text(to));
        let args = ["compile", &model, "--calib", &calib, "--max-drop", drop, "--no-baselines", "-o", &to];
        args.iter().chain(kept).map(|a| (*a).to_string()).collect::<Vec<String>>()
    };
    let search = |to: &str, drop: &str, kept: &[&str]| {
        let args = args(to, drop, kept);
        run::onnxc_with(&args.iter().map(String::as_str).collect::<Vec<_>>()).expect_ok("compile --calib");
        let recipe = made.at(to).with_extension("recipe");
        (fs::read_to_string(&recipe).expect("a recipe"), bytes(&recipe.with_extension("recipe.npz")))
    };
    let (work, own) = (made.text("work"), made.text("work_of_its_own"));
    // One that is stopped when it has its first model leaves no output, and goes on from what it had.
    interrupt(&args("anew.a", "5%", &["--work", &own]), Path::new(&own), "model-");
    let before = kept(Path::new(&own));
    assert!(!made.at("anew.a").exists() && !made.at("anew.recipe").exists());
    assert_eq!(search("after.a", "5%", &["--work", &work]), search("anew.a", "5%", &["--work", &own]));
    let after = kept(Path::new(&own));
    let anew: Vec<&String> = before.iter().filter(|file| after.get(file.0) != Some(file.1)).map(|file| file.0).collect();
    assert!(
        anew.is_empty() && after.len() > before.len(),
        "{anew:?} computed again; {} results, then {}",
        before.len(),
        after.len()
    );
    // Another budget begins with moments, answers and models of the one before.
    let again = search("again.a", "10%", &["--work", &own]);
    assert_eq!(again, search("forgetful.a", "10%", &["--forget"]));
    for what in ["moments", "answers", "model", "score", "layer"] {
        assert!(after.keys().any(|name| name.starts_with(&format!("{what}-"))), "{what} of {after:?}");
    }
}

/// Kills a search when it has kept a result of a kind.
fn interrupt(args: &[String], work: &Path, what: &str) {
    let quiet = || std::process::Stdio::null();
    let mut search = Command::new(run::onnxc()).args(args).stdout(quiet()).stderr(quiet()).spawn().expect("onnxc");
    while !kept(work).keys().any(|name| name.starts_with(what)) {
        assert!(search.try_wait().expect("a child").is_none(), "the search ended without a result {what:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    search.kill().expect("a search to be stopped");
    search.wait().expect("a child");
}

/// Complete results in a folder, and when they were written.
fn kept(work: &Path) -> BTreeMap<String, SystemTime> {
    let files = fs::read_dir(work).into_iter().flatten().flatten();
    let named = files.filter_map(|f| Some((f.file_name().to_string_lossy().to_string(), f.metadata().ok()?.modified().ok()?)));
    named.filter(|(name, _)| name.ends_with(".json") || name.ends_with(".npz")).collect()
}

#[test]
fn limits_that_cannot_be_kept_are_refused_with_what_is_near() {
    let made = &*MADE;
    let cases: [(&[&str], &[&str]); 3] = [
        (&["--max-latency", "0.1us"], &["0.0001 ms", "least latency of all"]),
        (
            &["--max-drop", "5%", "--max-size", "9000"],
            &["drop of 5.00 %", "9000 bytes of weights", "that keeps the drop", "bytes of weights, arena"],
        ),
        (&["--max-ram", "100"], &["100 bytes of arena", "least arena of all"]),
    ];
    for (flags, told) in cases {
        let output = made.search("compile", &[&["--no-baselines", "-o", &made.text("refused.a")][..], flags].concat());
        assert_eq!(output.code, Some(1), "{flags:?}: {}", output.stderr);
        let missing: Vec<&&str> = told.iter().filter(|t| !output.stderr.contains(**t)).collect();
        assert!(missing.is_empty(), "{flags:?}: no {missing:?} in {}", output.stderr);
        assert!(!made.at("refused.a").exists() && !made.at("refused.recipe").exists());
    }
    // Without calibration nothing can be made smaller.
    let output = run::onnxc_with(&["compile", &made.text("small.nir"), "--max-size", "100K", "-o", &made.text("refused.a")]);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("--max-size permits 102400") && output.stderr.contains("--calib"), "{}", output.stderr);
}

#[test]
fn the_report_tells_layers_baselines_and_the_whole() {
    let made = MADE.report("small.a");
    let told = &made["compression"]["report"];
    let layers = told["layers"].as_array().expect("layers");
    let changed = layers.iter().filter(|l| l["chosen"] != "as it was").count();
    assert_eq!(changed, made["compression"]["layer"].as_array().expect("layers").len());
    let pair = |l: &Value, what: &str| [0, 1].map(|i| l[what][i].as_f64().unwrap_or_else(|| panic!("{what}: {l:#}")));
    for l in layers.iter().filter(|l| l["chosen"] != "as it was") {
        let [before, after] = pair(l, "bytes");
        assert!(after < before && pair(l, "macs")[1] <= pair(l, "macs")[0] && pair(l, "uj")[0] > 0.0, "{l:#}");
        assert!(l["runner_up"]["kind"] != l["chosen"] && l["runner_up"]["bytes"].as_u64().is_some(), "{l:#}");
    }
    let baselines = told["baselines"].as_array().expect("baselines");
    assert_eq!(baselines.len(), 6, "{told:#}");
    let bytes = |taken: &Value| taken["weight_bytes"].as_u64().expect("bytes");
    for model in baselines.iter().map(|b| &b["model"]).filter(|m| !m.is_null()) {
        assert!(bytes(&told["compressed"]) <= bytes(&model["taken"]), "all layers alike are smaller: {told:#}");
        assert!(model["drop"].as_f64().expect("a drop") <= 0.05 + 1e-9, "{told:#}");
    }
    assert_eq!(told["compressed"]["weight_bytes"], made["weights_bytes"]);
    let recipe = MADE.text("small.recipe");
    let shown = run::onnxc_with(&["inspect", &MADE.text("small.nir"), "--recipe", &recipe]).expect_ok("inspect --recipe");
    let names = layers.iter().all(|l| shown.contains(l["name"].as_str().expect("a name")));
    assert!(names && shown.contains("uniform int8") && shown.contains("next best") && shown.contains("ISSCC"), "{shown}");
}

#[test]
fn labels_decide_what_is_lost() {
    let made = &*MADE;
    let mut labels = decisions(made);
    assert!((0..6).filter(|c| labels.contains(c)).count() >= 3, "the network decides the same for all: {labels:?}");
    // Wrong labels, which no model can lose.
    labels.iter_mut().step_by(10).for_each(|l| *l = (*l + 1) % 6);
    write_npz(&made.at("labelled.npz"), Some(labels));
    let (model, calib, to, work) =
        (made.text("small.nir"), made.text("labelled.npz"), made.text("labelled.a"), made.text("work"));
    let compile = |flags: &[&str]| {
        let args = ["compile", &model, "--calib", &calib, "-o", &to, "--work", &work, "--no-baselines", "--objective", "size"];
        run::onnxc_with(&[&args[..], &["--without", "pruning", "--max-drop", "10%"], flags].concat())
    };
    compile(&["--labels", "truth"]).expect_ok("labels");
    let told = made.report("labelled.a")["compression"]["report"].clone();
    assert_eq!(
        (&told["metric"], &told["score"]["accuracy"]["dense"]),
        (&"top-1 accuracy by the labels".into(), &0.9.into()),
        "{told:#}"
    );
    compile(&["--labels", "truth", "--metric", "f1"]).expect_ok("labels");
    let told = made.report("labelled.a")["compression"]["report"].clone();
    assert_eq!(told["metric"], "macro F1 by the labels");
    for (name, why) in [("nothing", "neither an array"), ("x", "needs 1")] {
        let output = compile(&["--labels", name]);
        assert!(output.code == Some(1) && output.stderr.contains(why), "{why}: {}", output.stderr);
    }
}

#[test]
fn an_ablation_has_a_model_for_each_part_of_the_method() {
    let (made, table) = (&*MADE, MADE.text("ablation.json"));
    let told = made.search("compress", &["--ablate", &table]).expect_ok("compress --ablate");
    let json: Value = serde_json::from_slice(&bytes(&made.at("ablation.json"))).expect("a table");
    let rows = json["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 27, "{json:#}");
    let divergence = |method: &str, density: f64| {
        let row = rows.iter().find(|r| r["method"] == method && r["density"] == density);
        row.and_then(|r| r["divergence"].as_f64()).unwrap_or_else(|| panic!("{method}: {told}"))
    };
    let all: Vec<String> = rows
        .iter()
        .map(|r| format!("{} {} {:.2e}", r["method"], r["density"], r["divergence"].as_f64().unwrap_or(0.0)))
        .collect();
    assert!(divergence("+ refit", 0.5) < 0.8 * divergence("magnitude without repair", 0.5), "{told}{all:#?}");
    // Two layers of random weights hardly need to know of each other.
    let sequential = divergence("+ each for what those before it pass on", 0.5);
    assert!(sequential < 0.8 * divergence("magnitude without repair", 0.5), "{told}{all:#?}");
    assert!(divergence("+ OBS masks", 0.5) < 0.5 * sequential, "{told}{all:#?}");
    let (model, recipe) = (made.text("small.nir"), rows[26]["recipe"].as_str().expect("a recipe"));
    run::onnxc_with(&["compile", &model, "--recipe", recipe, "-o", &made.text("ablated.a")]).expect_ok("a recipe");
    let table = made.text("ablation.csv");
    made.search("compress", &["--ablate", &table]).expect_ok("compress --ablate");
    assert_eq!(fs::read_to_string(table).expect("a table").lines().count(), 28);
    assert_eq!(made.search("compress", &["--ablate", "table.txt"]).code, Some(2));
}

#[test]
fn a_front_has_useful_points_beside_those_without_a_choice() {
    let (made, front) = (&*MADE, MADE.text("front"));
    made.search("compress", &["--objective", "energy", "--points", "14", "--front", &front]).expect_ok("compress --front");
    let json: Value = serde_json::from_slice(&bytes(&made.at("front/front.json"))).expect("a front");
    let (points, others) = (json["points"].as_array().expect("points"), json["baselines"].as_array().expect("baselines"));
    let number = |p: &Value, name: &str| p[name].as_f64().unwrap_or_else(|| panic!("{name}: {p:#}"));
    let useful = points.iter().filter(|p| number(p, "drop") <= 0.1).count();
    let drops: Vec<f64> = points.iter().map(|p| number(p, "drop")).collect();
    assert!(useful >= 8, "{drops:?}");
    for pair in points.windows(2) {
        assert!(number(&pair[0], "divergence") > number(&pair[1], "divergence"), "{json:#}");
        assert!(number(&pair[0], "energy_uj") < number(&pair[1], "energy_uj") * 1.05, "{json:#}");
    }
    assert!(others.iter().any(|o| o["baseline"] == "uniform int8") && others.len() >= 4, "{json:#}");
    let lines = fs::read_to_string(made.at("front/front.csv")).expect("a table").lines().count();
    assert_eq!(lines, points.len() + others.len() + 1);
    let picture = fs::read_to_string(made.at("front/front.svg")).expect("a picture");
    assert!(picture.contains("</svg>") && picture.contains("uniform pruning and int8"), "{picture}");
}
