//! The two adapters by which the zoo's scripts drive compiled code; started through `testsuite/adapters/*`.
//!
//! `onnxc-adapter conformance MODEL IN_DIR OUT_DIR` runs the model once on `input_<i>.pb` (JIT of the same code generator).
//! `onnxc-adapter bench MODEL IN_DIR THREADS` compiles an archive, links `bench_main.c` with it and becomes that program.

use onnxc_testsuite::{data, harness::Program, npy, pb, target};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
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
    let done = Command::new(onnxc())
        .args(["run", model, "--inputs", inputs, "--outputs", outputs])
        .arg("--message-format=json")
        .output();
    let done = done.map_err(|e| format!("onnxc: {e}"))?;
    if done.status.success() {
        return as_pb(Path::new(outputs)).map(|()| ExitCode::SUCCESS);
    }
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let first = first_message(&said).unwrap_or_else(|| said.clone());
    eprintln!("{first}");
    // Exit code 1 means that the model is at fault for onnxc; of these, "not supported" is an answer and the rest are errors.
    let answers = ["not supported", "unsupported", "would depend on data"];
    let refused = done.status.code() == Some(1) && answers.iter().any(|a| first.contains(a));
    Ok(ExitCode::from(if refused { UNSUPPORTED } else { done.status.code().map_or(4, |c| c.clamp(1, 70) as u8) }))
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
    let folder = data::repository().join("target/bench-adapter").join(format!("{stem}-t{threads}"));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let archive = folder.join("model.a");

    let bytes = std::fs::read(model).map_err(|e| format!("{}: {e}", model.display()))?;
    let mut compile = Command::new(onnxc());
    compile.arg("compile").arg(model).arg("-o").arg(&archive).args([
        "--name",
        "model",
        "--cpu",
        "native",
        "--max-threads",
        threads,
    ]);
    compile.args(data::shape_args(&pb::model_inputs(&bytes)?, &data::numbered(inputs, "input")));
    compile.args(std::env::var("ONNXC_BENCH_FLAGS").unwrap_or_default().split_whitespace());
    let start = Instant::now();
    succeed(&mut compile)?;
    let facts = serde_json::json!({ "compile_s": start.elapsed().as_secs_f64(), "command": format!("{compile:?}") });
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
