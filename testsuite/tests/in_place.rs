//! `--alias`: outputs in the buffers of inputs, and the same model with buffers of their own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use onnxc_testsuite::harness::{self, Program, answers};
use onnxc_testsuite::target::{self, Target};
use onnxc_testsuite::tensor::Tensor;
use onnxc_testsuite::{data, npy, run};

/// `y` and `t` may have the buffers of `x` and `s`. `y` is an update of `x`, which `z` needs behind it if `late`; `t` needs all of `s`.
fn model(late: bool) -> String {
    let z = if late { "add %x, %y" } else { "neg %y" };
    format!(
        "graph @g(%x: f32[4,3], %i: i64[1,1], %u: f32[1,3], %s: f32[3,3]) {{\n  %y = scatter_nd %x, %i, %u : f32[4,3]\n  \
         %z = {z} : f32[4,3]\n  %t = matmul %s, %s : f32[3,3]\n  return %z, %y, %t\n}}\n"
    )
}

const ALIASES: [&str; 2] = ["--alias=x=y", "--alias=s=t"];

fn inputs() -> [Tensor; 4] {
    let floats = |rows: usize| Tensor::f32(&[rows, 3], &(0..3 * rows).map(|i| i as f32 - 2.0).collect::<Vec<_>>());
    [floats(4), Tensor::i64(&[1, 1], &[2]), Tensor::f32(&[1, 3], &[50.0, 60.0, 70.0]), floats(3)]
}

fn expected(late: bool) -> [Vec<f64>; 3] {
    let x: Vec<f64> = (0..12).map(|i| f64::from(i) - 2.0).collect();
    let product = (0..9).map(|at| (0..3).map(|k| x[at / 3 * 3 + k] * x[k * 3 + at % 3]).sum());
    let updated = [&x[..6], &[50.0, 60.0, 70.0], &x[9..]].concat();
    let z = x.iter().zip(&updated).map(|(x, y)| if late { x + y } else { -y }).collect();
    [z, updated, product.collect()]
}

#[track_caller]
fn right(got: &[Tensor], late: bool, target: &Target) {
    let got: Vec<Vec<f64>> = got.iter().map(|t| t.to_f64().unwrap()).collect();
    assert_eq!(got, expected(late), "{}, x is read later: {late}", target.name);
}

/// Compiled for a target and linked with one of the C programs.
fn program(main: &str, target: &Target, folder: &Path) -> std::path::PathBuf {
    let flags = ALIASES.map(ToString::to_string);
    harness::compile(&folder.join("model.nir"), target, "model", folder, &flags).expect_ok("onnxc compile");
    let root = data::repository();
    let (main, include) = (root.join("testsuite/adapters").join(main), format!("-I{}", root.join("runtime/include").display()));
    let (header, archive) = (folder.join("model.h"), folder.join("model.a"));
    Program { main: &main, header: &header, archive: &archive, symbol: "model_model", flags: &[&include] }.build(target, folder)
}

#[test]
fn one_buffer_or_two_give_the_same() {
    for target in target::ALL.iter().filter(|t| t.can_run()) {
        for late in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path();
            std::fs::write(path.join("model.nir"), model(late)).unwrap();
            right(&answers(&program("raw_main.c", target, path), target, path, &[], &inputs()), late, target);
            for (i, input) in inputs().iter().enumerate() {
                npy::write(&path.join(format!("input_{i}.npy")), input).unwrap();
            }
            right(&harness::infer(&program("bench_main.c", target, path), target, path, &path.join("out")), late, target);
        }
    }
}

#[test]
fn an_update_in_place_touches_its_row_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.nir");
    for (late, reads_all) in [(false, false), (true, true)] {
        std::fs::write(&path, model(late)).unwrap();
        let mut onnxc = Command::new(run::onnxc());
        onnxc.arg("compile").arg(&path).args(ALIASES).arg("--stop-after=memory").current_dir(folder.path());
        let plan = run::run(&mut onnxc, Duration::from_secs(60)).expect_ok("onnxc compile");
        let update = plan.split("_scatter_nd {").nth(1).and_then(|rest| rest.split("func ").next()).expect("the update");
        assert_eq!(update.contains("b0["), reads_all, "{update}");
    }
}

#[test]
fn header_says_which_buffers_may_be_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.nir"), model(false)).unwrap();
    program("raw_main.c", target::by_name("x86-64"), folder.path());
    let header = std::fs::read_to_string(folder.path().join("model.h")).unwrap();
    assert!(header.contains("\"y\" f32[4,3], may have the buffer of the input \"x\""), "{header}");
}

#[test]
fn what_cannot_be_one_buffer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.nir");
    std::fs::write(&path, model(false)).unwrap();
    for (flags, says) in [
        (&["--alias=x=w"][..], "no such input or output"),
        (&["--alias=u=y"], "they must be the same"),
        (&["--alias=x=y", "--alias=x=z"], "can be named once"),
        (&["--alias=x"], "INPUT=OUTPUT"),
    ] {
        let done = run::run(Command::new(run::onnxc()).arg("check").arg(&path).args(flags), Duration::from_secs(60));
        assert!(done.code == Some(2) && done.stderr.contains(says), "{flags:?}: {}", done.stderr);
    }
}
