//! Running commands: output captured, a time limit kept, failures told in full.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    /// Exit code; `None` when a signal or the time limit ended it.
    pub code: Option<i32>,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
    /// True when the time limit ended the command.
    pub timed_out: bool,
    /// Wall time.
    pub time: Duration,
}

impl Output {
    /// Panics with everything the command said unless its exit code was 0; returns standard output.
    #[track_caller]
    pub fn expect_ok(self, what: &str) -> String {
        assert_eq!(
            self.code,
            Some(0),
            "{what}: exit {:?} (timed out: {})\n{}\n{}",
            self.code,
            self.timed_out,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}

/// Runs `command` with closed standard input; kills it after `limit`.
///
/// # Panics
/// When the program cannot be started.
pub fn run(command: &mut Command, limit: Duration) -> Output {
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    // Both pipes are drained by threads: a child that fills one of them would otherwise wait for ever.
    let out = drain(child.stdout.take().expect("piped"));
    let err = drain(child.stderr.take().expect("piped"));
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if start.elapsed() > limit && !timed_out {
            timed_out = true;
            child.kill().expect("kill");
        }
        std::thread::sleep(Duration::from_millis(if start.elapsed().as_millis() < 50 { 1 } else { 10 }));
    };
    Output {
        code: if timed_out { None } else { status.code() },
        stdout: out.join().expect("reader"),
        stderr: err.join().expect("reader"),
        timed_out,
        time: start.elapsed(),
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A read error only cuts the text short; the exit code decides.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// True when `program` is found on `PATH`.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).is_file()))
}

/// Path of the `onnxc` binary: `$ONNXC` when set, else built from the workspace, in the profile of the running test.
///
/// Cargo does not build the binaries of other packages for a test, so this asks it to; nothing is done when it is fresh.
pub fn onnxc() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("ONNXC").map_or_else(build_onnxc, PathBuf::from))
}

/// Runs `onnxc` with these arguments, fifteen minutes at the most.
pub fn onnxc_with(args: &[&str]) -> Output {
    run(Command::new(onnxc()).args(args), Duration::from_secs(900))
}

fn build_onnxc() -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let folder =
        test.parent().filter(|d| d.ends_with("deps")).and_then(Path::parent).unwrap_or_else(|| test.parent().expect("folder"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Both packages are named so that cargo unifies features as it did for the test, and rebuilds nothing.
    cargo.args(["build", "--quiet", "-p", "onnxc", "-p", "onnxc-testsuite", "--bins"]).current_dir(crate::data::repository());
    cargo.arg("--target-dir").arg(folder.parent().expect("target folder"));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    run(&mut cargo, Duration::from_secs(1800)).expect_ok("cargo build of onnxc");
    folder.join("onnxc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_exit_code_and_time_limit() {
        let o = run(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"]), Duration::from_secs(10));
        assert_eq!((o.code, o.stdout.as_str(), o.stderr.as_str()), (Some(3), "a\n", "b\n"));
        let o = run(Command::new("sleep").arg("20"), Duration::from_millis(50));
        assert!(o.timed_out && o.code.is_none() && o.time < Duration::from_secs(10));
    }
}
