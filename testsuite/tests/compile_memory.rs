//! What compiling costs: most memory as a multiple of the model file, bytes of code, and the same bytes for any number of cores.

use onnxc_testsuite::data;
use onnxc_testsuite::run::{self, run};
use onnxc_testsuite::wire::Msg;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Most memory as a multiple of the model file, besides what the compiler takes for any model: from 50 MB on that is less than 2.5 times the file.
const MOST: f64 = 2.0;
const COMPILER: f64 = 25e6;
/// Models from this size on are looked at.
const LARGE: u64 = 20_000_000;

const FLOAT: i64 = 1;
const INITIALIZER: u32 = 5;

/// A `TensorProto` of f32 with values that do not repeat.
fn tensor(name: &str, dims: &[u64]) -> Msg {
    let mut state = name.len() as u32 + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<u8> = (0..dims.iter().product::<u64>()).flat_map(|_| next().to_le_bytes()).collect();
    dims.iter().fold(Msg::new(), |m, d| m.int(1, *d as i64)).int(2, FLOAT).bytes(8, name).bytes(9, values)
}

fn value(name: &str, dims: &[i64]) -> Msg {
    let shape = dims.iter().fold(Msg::new(), |m, d| m.msg(1, &Msg::new().int(1, *d)));
    Msg::new().bytes(1, name).msg(2, &Msg::new().msg(1, &Msg::new().int(1, FLOAT).msg(2, &shape)))
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, &[i64])]) -> Msg {
    let m = inputs.iter().fold(Msg::new(), |m, i| m.bytes(1, i)).bytes(2, output).bytes(4, op);
    attributes.iter().fold(m, |m, (name, all)| {
        let list = Msg::new().bytes(1, name);
        m.msg(
            5,
            &match all {
                [one] => list.int(3, *one).int(20, 2),
                all => all.iter().fold(list, |a, v| a.int(8, *v)).int(20, 7),
            },
        )
    })
}

/// Convolutions of 3 by 3 (one of them scaled per channel), and two large matrices.
fn network() -> Vec<u8> {
    let nodes = [
        node("Conv", &["x", "w0"], "a", &[("pads", &[1, 1, 1, 1])]),
        node("Mul", &["a", "s"], "b", &[]),
        node("Relu", &["b"], "c", &[]),
        node("Conv", &["c", "w1"], "d", &[("pads", &[1, 1, 1, 1])]),
        node("Flatten", &["d"], "e", &[]),
        node("Gemm", &["e", "w2"], "f", &[("transB", &[1])]),
        node("MatMul", &["f", "w3"], "y", &[]),
    ];
    let weights: [(&str, &[u64]); 5] = [
        ("w0", &[512, 256, 3, 3]),
        ("s", &[1, 512, 1, 1]),
        ("w1", &[512, 512, 3, 3]),
        ("w2", &[1536, 8192]),
        ("w3", &[1536, 512]),
    ];
    let graph = nodes.iter().fold(Msg::new(), |g, n| g.msg(1, n)).bytes(2, "network");
    let graph = weights.iter().fold(graph, |g, (name, dims)| g.msg(INITIALIZER, &tensor(name, dims)));
    let graph = graph.msg(11, &value("x", &[1, 256, 4, 4])).msg(12, &value("y", &[1, 512]));
    Msg::new().int(1, 8).msg(7, &graph).msg(8, &Msg::new().int(2, 17)).0
}

/// Compiles and gives the most memory in bytes.
fn peak(model: &Path, archive: &Path, flags: &[String]) -> f64 {
    let mut command = Command::new(run::onnxc());
    command.arg("compile").arg(model).arg("-o").arg(archive).args(flags).arg("--time-passes=times");
    run(command.current_dir(archive.parent().expect("a folder")), Duration::from_secs(300)).expect_ok("onnxc compile");
    let table = fs::read_to_string(archive.with_file_name("times")).expect("the table");
    let line = table.lines().find_map(|l| l.trim().strip_suffix(" MB  peak memory")).unwrap_or_else(|| panic!("{table}"));
    1e6 * line.parse::<f64>().expect("a number")
}

#[track_caller]
fn check(model: &Path, flags: &[String]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (peak, size) = (peak(model, &folder.path().join("m.a"), flags), fs::metadata(model).expect("the model").len() as f64);
    println!("{}: {:.2} of {:.1} MB", model.display(), peak / size, size / 1e6);
    assert!(peak <= MOST * size + COMPILER, "{}: {:.1} MB, the model has {:.1}", model.display(), peak / 1e6, size / 1e6);
}

#[test]
fn weights_flow_from_the_model_to_the_archive() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("network.onnx");
    fs::write(&model, network()).unwrap();
    check(&model, &[]);
    check(&model, &["--weights=file".to_string()]);
}

#[test]
fn large_models_of_the_zoo_take_little_memory() {
    let mut seen = 0;
    for model in data::zoo().iter().filter(|m| fs::metadata(&m.path).is_ok_and(|f| f.len() >= LARGE)) {
        check(&model.path, &model.shape_args());
        seen += 1;
    }
    assert!(seen >= 3, "{seen} models");
}

/// Most bytes of code, of any model.
const CODE: u64 = 400_000;

#[test]
fn code_of_every_model_is_small() {
    for (model, cpu) in data::zoo().iter().flat_map(|m| ["x86-64-v3", "sapphirerapids"].map(|cpu| (m, cpu))) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(run::onnxc());
        command.arg("compile").arg(&model.path).args(model.shape_args()).args(["--emit=report", "--cpu", cpu]);
        run(command.arg("-o").arg(folder.path().join("m.a")), Duration::from_secs(300)).expect_ok("onnxc compile");
        let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.path().join("m.json")).unwrap()).unwrap();
        let code = report["code_bytes"].as_u64().expect("bytes of code");
        assert!(code <= CODE, "{} for {cpu}: {code} bytes of code", model.path.display());
    }
}

/// Weights are packed on all cores while the archive is written.
#[test]
fn the_number_of_cores_changes_no_byte() {
    let model = data::zoo_model("opennsfw");
    let archive = |threads: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(run::onnxc());
        command.env("RAYON_NUM_THREADS", threads).arg("compile").arg(&model.path).args(model.shape_args());
        run(command.arg("-o").arg(folder.path().join("m.a")), Duration::from_secs(300)).expect_ok("onnxc compile");
        fs::read(folder.path().join("m.a")).unwrap()
    };
    assert!(archive("1") == archive("3"), "archives differ");
}
