//! `adapters/bench_main.c` against a model written by hand in C: the line protocol, one thread and two.

use onnxc_testsuite::{data, harness, harness::Program, npy, run, target, tensor::Tensor};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn speaks_the_protocol_of_bench_peers() {
    let root = data::repository().join("testsuite");
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("model.o");
    let model = root.join("tests/bench_main");
    let mut cc = Command::new("gcc");
    cc.args(["-c", "-O1", "-Wall", "-Werror"]).arg(model.join("model.c")).arg("-o").arg(&object);
    run::run(&mut cc, Duration::from_secs(60)).expect_ok("gcc");
    let main = root.join("adapters/bench_main.c");
    let header = model.join("model.h");
    let program = Program { main: &main, header: &header, archive: &object, symbol: "model_model", flags: &[] };
    let program = program.build(target::by_name("x86-64"), folder.path());

    let x = Tensor::f32(&[2, 3], &[0.5, 1.0, -2.0, 3.0, 4.0, 5.0]);
    npy::write(&folder.path().join("input_0.npy"), &x).unwrap();
    for threads in ["1", "2"] {
        let out = folder.path().join(format!("out{threads}"));
        std::fs::create_dir(&out).unwrap();
        let mut child =
            Command::new(&program).arg(folder.path()).arg(threads).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ask = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "ready");
        writeln!(ask, "run 200").unwrap();
        assert_eq!(lines.next().unwrap().split_whitespace().filter(|t| t.parse::<u64>().is_ok()).count(), 200);
        writeln!(ask, "out {}", out.display()).unwrap();
        assert_eq!(lines.next().unwrap(), "ok");
        assert_eq!(npy::read(&out.join("output_0.npy")).unwrap(), Tensor::f32(&[2, 3], &[1.0, 2.0, -4.0, 6.0, 8.0, 10.0]));
        writeln!(ask, "quit").unwrap();
        assert!(child.wait().unwrap().success());
    }
    let out = harness::infer(&program, target::by_name("x86-64"), folder.path(), &folder.path().join("infer"));
    assert_eq!(out, [Tensor::f32(&[2, 3], &[1.0, 2.0, -4.0, 6.0, 8.0, 10.0])]);

    let more = run::run(Command::new(&program).arg(folder.path()).arg("3"), Duration::from_secs(10));
    assert_eq!(more.code, Some(1), "three threads for a model of two");
}
