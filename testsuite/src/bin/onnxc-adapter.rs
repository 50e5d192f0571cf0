//! The two adapters by which the zoo's scripts drive compiled code; started through `testsuite/adapters/*`.
//!
//! `onnxc-adapter conformance MODEL IN_DIR OUT_DIR` runs the model once on `input_<i>.pb` (JIT of the same code generator). With
//! ONNXC_CONFORMANCE_TARGET (a name of `testsuite/src/target.rs`) it is compiled for that target, linked with `raw_main.c` and run under the emulator.
//! `onnxc-adapter bench MODEL IN_DIR THREADS` compiles an archive, links `bench_main.c` with it and becomes that program. ONNXC_BENCH_CPU is the CPU
//! to compile for, this machine's without it; ONNXC_BENCH_FLAGS are passed on.

use onnxc_testsuite::target::{self, Target};
use onnxc_testsuite::tensor::Tensor;
use onnxc_testsuite::{data, harness::Program, npy, pb, ports};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::Instant;

/// What `run_conformance.py` takes for "refused, not implemented".
const UNSUPPORTED: u8 = 77;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["conformance", model, inputs, outputs] => conformance(model, inputs, outputs),
        ["bench", model, inputs, threads] => bench(Path::new(model), Path::new(inputs), threads),
        _ => Err("usage: onnxc-adapter conformance MODEL IN_DIR OUT_DIR | bench MODEL IN_DIR THREADS".into()),
    };
    done.unwrap_or_else(|e| {
        eprintln!("onnxc-adapter: {e}");
        ExitCode::FAILURE
    })
}

/// `$ONNXC`, or the binary beside this one.
fn onnxc() -> PathBuf {
    let beside = || std::env::current_exe().expect("own path").with_file_name("onnxc");
    std::env::var_os("ONNXC").map_or_else(beside, PathBuf::from)
}

fn conformance(model: &str, inputs: &str, outputs: &str) -> Result<ExitCode, String> {
    if let Ok(name) = std::env::var("ONNXC_CONFORMANCE_TARGET") {
        return on_target(target::by_name(&name), Path::new(model), Path::new(inputs), Path::new(outputs));
    }
    let done = Command::new(onnxc())
        .args(["run", model, "--inputs", inputs, "--outputs", outputs])
        .arg("--message-format=json")
        .output();
    let done = done.map_err(|e| format!("onnxc: {e}"))?;
    if done.status.success() {
        return as_pb(Path::new(outputs)).map(|()| ExitCode::SUCCESS);
    }
    Ok(refusal(&done))
}

/// What the script is told of a run or compilation that failed.
fn refusal(done: &Output) -> ExitCode {
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let first = first_message(&said).unwrap_or_else(|| said.clone());
    eprintln!("{first}");
    // Exit code 1 means that the model is at fault for onnxc; of these, "not supported" is an answer and the rest are errors.
    let answers = ["not supported", "unsupported", "would depend on data"];
    let refused = done.status.code() == Some(1) && answers.iter().any(|a| first.contains(a));
    ExitCode::from(if refused { UNSUPPORTED } else { done.status.code().map_or(4, |c| c.clamp(1, 70) as u8) })
}

/// Compiled to an archive for a target, linked, and run there on raw bytes.
fn on_target(target: &Target, model: &Path, inputs: &Path, outputs: &Path) -> Result<ExitCode, String> {
    let text = |e: std::io::Error| e.to_string();
    let place = tempfile::tempdir().map_err(text)?;
    let (archive, program) = (place.path().join("model.a"), place.path().join("program"));
    let (given, made) = ports::of_model(&std::fs::read(model).map_err(text)?)?;
    let (mut names, mut tensors, mut flags) = (Vec::new(), Vec::new(), Vec::new());
    for (i, port) in given.iter().enumerate() {
        let held = port.read(&inputs.join(format!("input_{i}.pb")))?;
        flags.extend(port.flag(held.as_deref()));
        let held = held.unwrap_or_default();
        names.extend(port.names(held.len()));
        tensors.extend(held);
    }
    let mut compile = Command::new(onnxc());
    compile.arg("compile").arg(model).arg("-o").arg(&archive).args([
        "--name",
        "model",
        "--target",
        target.triple,
        "--cpu",
        target.cpu,
    ]);
    let done =
        compile.arg("--message-format=json").args(flags).args(data::shape_args(&names, &tensors)).output().map_err(text)?;
    if !done.status.success() {
        return Ok(refusal(&done));
    }
    succeed(Command::new(target.cc).arg(raw_main(target)?).arg(&archive).arg("-o").arg(&program))?;
    for (i, tensor) in tensors.iter().enumerate() {
        std::fs::write(place.path().join(format!("input_{i}.bin")), &tensor.bytes).map_err(text)?;
    }
    let done = target.command(&program).arg(place.path()).arg(place.path()).output().map_err(text)?;
    if !done.status.success() {
        return Err(format!("{program:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr)));
    }
    let mut results = Vec::new();
    for (j, line) in String::from_utf8_lossy(&done.stdout).lines().enumerate() {
        let mut numbers = line.split(' ').map(|n| n.parse::<usize>().map_err(|e| format!("{line:?}: {e}")));
        let elem_type = numbers.next().ok_or("an empty line")?? as i32;
        let dims = numbers.collect::<Result<_, _>>()?;
        let bytes = std::fs::read(place.path().join(format!("output_{j}.bin"))).map_err(text)?;
        results.push(Tensor { elem_type, dims, bytes });
    }
    let sequences = sequences_of_outputs(&archive.with_extension("json"))?;
    let mut rest = results.into_iter().zip(sequences).peekable();
    for (j, port) in made.iter().enumerate() {
        let mut own = Vec::new();
        while rest.peek().is_some_and(|(_, s)| if port.sequence { s.as_ref() == Some(&port.name) } else { own.is_empty() }) {
            own.extend(rest.next().map(|(tensor, _)| tensor));
        }
        port.write(&outputs.join(format!("output_{j}.pb")), &own)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The sequence that each output of a compiled model is a part of, from the report.
fn sequences_of_outputs(report: &Path) -> Result<Vec<Option<String>>, String> {
    let text = std::fs::read(report).map_err(|e| format!("{}: {e}", report.display()))?;
    let report: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let rows = report["outputs"].as_array().ok_or("the report lists no outputs")?;
    Ok(rows.iter().map(|row| row["sequence"].as_str().map(str::to_owned)).collect())
}

/// `raw_main.c` compiled for a target; the object is kept, and appears whole, since several adapters may run at once.
fn raw_main(target: &Target) -> Result<PathBuf, String> {
    let text = |e: std::io::Error| e.to_string();
    let folder = data::repository().join("target/conformance").join(target.name);
    let (object, source) = (folder.join("raw_main.o"), data::repository().join("testsuite/adapters/raw_main.c"));
    let newest = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified());
    if newest(&object).is_ok_and(|made| newest(&source).is_ok_and(|written| written < made)) {
        return Ok(object);
    }
    std::fs::create_dir_all(&folder).map_err(text)?;
    let draft = folder.join(format!("raw_main-{}.o", std::process::id()));
    let include = data::repository().join("runtime/include");
    succeed(Command::new(target.cc).args(["-std=gnu11", "-O1", "-c", "-I"]).arg(include).arg(&source).arg("-o").arg(&draft))?;
    std::fs::rename(&draft, &object).map_err(text)?;
    Ok(object)
}

/// Outputs as the protocol wants them: those of a model without inputs, whose files would show the format, are arrays of NumPy.
fn as_pb(outputs: &Path) -> Result<(), String> {
    for j in 0.. {
        let (array, tensor) = (outputs.join(format!("output_{j}.npy")), outputs.join(format!("output_{j}.pb")));
        if !array.exists() && !tensor.exists() {
            break;
        }
        if array.exists() {
            let value = npy::read(&array).map_err(|e| format!("{}: {e}", array.display()))?;
            pb::write(&tensor, &value, "").map_err(|e| format!("{}: {e}", tensor.display()))?;
        }
    }
    Ok(())
}

/// Code and text of the first message in JSON.
fn first_message(said: &str) -> Option<String> {
    let all = said.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let text = |v: serde_json::Value| Some(format!("{}: {}", v.get("code")?.as_str()?, v.get("message")?.as_str()?));
    all.into_iter().find_map(text)
}

fn bench(model: &Path, inputs: &Path, threads: &str) -> Result<ExitCode, String> {
    let stem = model.file_stem().ok_or("the model has no name")?.to_string_lossy().into_owned();
    let cpu = std::env::var("ONNXC_BENCH_CPU").unwrap_or_else(|_| "native".to_string());
    let other = if cpu == "native" { String::new() } else { format!("-{cpu}") };
    let folder = data::repository().join("target/bench-adapter").join(format!("{stem}-t{threads}{other}"));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let archive = folder.join("model.a");

    let bytes = std::fs::read(model).map_err(|e| format!("{}: {e}", model.display()))?;
    let mut compile = Command::new(onnxc());
    compile.arg("compile").arg(model).arg("-o").arg(&archive).args(["--name", "model", "--cpu", &cpu, "--max-threads", threads]);
    let shapes = data::shape_args(&pb::model_inputs(&bytes)?, &data::numbered(inputs, "input"));
    compile.args(&shapes);
    compile.args(std::env::var("ONNXC_BENCH_FLAGS").unwrap_or_default().split_whitespace());
    let start = Instant::now();
    succeed(&mut compile)?;
    let facts =
        serde_json::json!({ "compile_s": start.elapsed().as_secs_f64(), "command": format!("{compile:?}"), "shapes": shapes });
    std::fs::write(folder.join("bench.json"), format!("{facts:#}\n")).map_err(|e| e.to_string())?;

    let main = data::repository().join("testsuite/adapters/bench_main.c");
    let program = Program { main: &main, header: &folder.join("model.h"), archive: &archive, symbol: "model_model", flags: &[] };
    let binary = folder.join("bench");
    succeed(&mut program.command(target::by_name("x86-64"), &binary))?;
    // The benchmark reads CPU time and memory of the process it started, so this process becomes the program.
    Err(Command::new(&binary).arg(inputs).arg(threads).exec().to_string())
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?}: {}\n{}{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    ))
}
