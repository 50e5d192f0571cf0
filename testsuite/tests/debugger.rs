//! A debugger sees the callers of generated code, from functions of Cranelift and from assembled kernels, at every instruction.

use std::process::Command;
use std::time::Duration;

use onnxc_testsuite::harness::{self, Program};
use onnxc_testsuite::{data, run, target};

/// Instructions that are stepped through in a kernel; a backtrace is taken at each.
const STEPS: usize = 60;

#[test]
fn gdb_follows_the_callers_of_kernels_and_functions() {
    let (model, folder) = (data::zoo_model("dtln_1"), tempfile::tempdir().expect("temporary folder"));
    for level in ["x86-64-v3", "x86-64"] {
        let (target, path) = (target::by_name(level), folder.path());
        harness::compile(&model.path, target, "model", path, &model.shape_args()).expect_ok(level);
        let main = data::repository().join("testsuite/adapters/bench_main.c");
        let (header, archive) = (path.join("model.h"), path.join("model.a"));
        let flags = &["-pie", "-Wl,-z,text"];
        let program =
            Program { main: &main, header: &header, archive: &archive, symbol: "model_model", flags }.build(target, path);
        let symbols = run::run(Command::new("nm").arg(&program), Duration::from_secs(30)).expect_ok("nm");
        let kernel = symbols.split_whitespace().find(|s| s.starts_with("model_k0_tile")).expect("the model has a tile");

        let mut gdb = Command::new("gdb");
        gdb.args(["-batch", "-nx", "-ex", "set debuginfod enabled off", "-ex", &format!("break {kernel}"), "-ex"]);
        gdb.arg(format!("run {} 1 < /dev/null > /dev/null", model.data.display())).args(["-ex", "bt"]);
        for _ in 0..STEPS {
            gdb.args(["-ex", "stepi", "-ex", "bt"]);
        }
        gdb.arg(&program);
        let said = run::run(&mut gdb, Duration::from_secs(120)).expect_ok("gdb");
        // A backtrace begins with frame 0 and goes on to `main`.
        let traces: Vec<&str> = said.split("\n#0 ").skip(1).collect();
        assert_eq!(traces.len(), STEPS + 1, "{level}: {said}");
        for trace in traces {
            let whole = ["model_s", "model_run", "main ("].iter().all(|f| trace.contains(f));
            assert!(whole && !trace.contains("corrupt stack"), "{level}: #0 {trace}");
        }
    }
}
