//! A few hundred random graphs through the whole compiler, against the reference interpreter, on every kind of target. The program runs as
//! many as one likes.

use onnxc_testsuite::tensor::Tensor;
use onnxc_testsuite::{data, npy, run, small};
use std::process::Command;
use std::time::Duration;

/// Runs `random_graphs` and wants most graphs to be comparable.
#[track_caller]
fn agree(count: u64, place: &[&str]) {
    agree_of(count, 4, place);
}

/// The same where this many fifths are most of them.
#[track_caller]
fn agree_of(count: u64, fifths: u64, place: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_random_graphs"));
    command.args(["1", &count.to_string()]).args(place);
    let said = run::run(&mut command, Duration::from_secs(900)).expect_ok(&place.join(" "));
    let compared: u64 = said.split(' ').next().and_then(|n| n.parse().ok()).expect("the number of graphs");
    assert!(compared > count * fifths / 5, "{said}");
}

/// Graphs that were once wrong, made small: `tests/regressions/`, run on numbers by `onnxc` compiled and interpreted.
#[test]
fn findings_stay_fixed() {
    let folder = data::repository().join("testsuite/tests/regressions");
    let mut graphs: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    graphs.sort();
    assert!(!graphs.is_empty());
    for path in graphs {
        let graph = small::graph(&std::fs::read_to_string(&path).unwrap());
        let (inputs, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (i, id) in graph.inputs.iter().enumerate() {
            let dims: Vec<usize> = graph.ty(*id).const_shape().unwrap().into_iter().map(|n| n as usize).collect();
            let values: Vec<f32> = (0..dims.iter().product()).map(|n: usize| (n * 7 % 11) as f32 / 4.0 - 1.0).collect();
            npy::write(&inputs.path().join(format!("input_{i}.npy")), &Tensor::f32(&dims, &values)).unwrap();
        }
        let run = |how: &[&str]| {
            let mut c = Command::new(run::onnxc());
            c.arg("run").arg(&path).arg("--inputs").arg(inputs.path()).arg("--outputs").arg(to.path()).args(how);
            run::run(&mut c, Duration::from_secs(60)).expect_ok("onnxc run");
            data::numbered(to.path(), "output")
        };
        let (got, want) = (run(&[]), run(&["--interpret"]));
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            let (a, b) = (got.to_f64().unwrap(), want.to_f64().unwrap());
            assert_eq!(got.dims, want.dims, "{}", path.display());
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs())), "{}: {a:?} {b:?}", path.display());
        }
    }
}

#[test]
fn random_graphs_agree_with_the_interpreter() {
    for cpu in ["x86-64", "x86-64-v3", "native"] {
        agree(250, &[cpu]);
    }
}

/// With an open extent, at several sizes.
#[test]
fn random_graphs_of_open_extents_agree() {
    for cpu in ["x86-64", "x86-64-v3", "native"] {
        agree_of(250, 3, &["--open", cpu]);
    }
}

#[test]
fn random_graphs_agree_on_aarch64() {
    agree(100, &["--target", "aarch64"]);
}

#[test]
fn random_graphs_agree_on_riscv64() {
    agree(100, &["--target", "riscv64-v128"]);
    agree(100, &["--target", "riscv64"]);
}
