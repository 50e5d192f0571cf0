//! Internal errors: which pass was running, and the graph before it saved as a `.nir` that can be run again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;

use onnxc_ir::Graph;

use crate::fault::{Done, Fault};
use crate::nir;

struct Now {
    pass: &'static str,
    graph: Option<Graph>,
    /// Message and place of the last panic.
    panic: Option<String>,
}

static NOW: Mutex<Now> = Mutex::new(Now { pass: "start", graph: None, panic: None });

fn now() -> std::sync::MutexGuard<'static, Now> {
    NOW.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A pass begins; `graph` is what it starts from. Graphs share their constants, so a copy costs little.
pub fn entering(pass: &'static str, graph: Option<&Graph>) {
    let mut now = now();
    now.pass = pass;
    if let Some(graph) = graph {
        now.graph = Some(graph.clone());
    }
}

/// Runs a command; a panic becomes an internal fault, and every internal fault saves a reproducer.
pub fn guard(f: impl FnOnce() -> Done<()>) -> Done<()> {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| info.payload().downcast_ref::<String>().cloned()).unwrap_or_default();
        let place = info.location().map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
        now().panic.get_or_insert(format!("{text}{place}"));
    }));
    let result = catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        let text = now().panic.take().unwrap_or_default();
        Err(Fault::Internal(format!("panic: {text}")))
    });
    match result {
        Err(Fault::Internal(text)) => Err(Fault::Internal(explain(&text))),
        other => other,
    }
}

fn explain(text: &str) -> String {
    let (pass, graph) = {
        let mut now = now();
        (now.pass, now.graph.take())
    };
    let text = text.strip_prefix("internal: ").unwrap_or(text);
    let saved = match save(pass, graph.as_ref()) {
        Ok(path) => format!("saved {} to reproduce this; please report it", path.display()),
        Err(e) => format!("a reproducer could not be saved: {e}"),
    };
    format!("internal: pass {pass}: {text}\n{saved}")
}

/// Writes the graph before the pass and the command line into a folder of the working directory, or of the temporary one.
fn save(pass: &str, graph: Option<&Graph>) -> std::io::Result<PathBuf> {
    let write = |parent: PathBuf| -> std::io::Result<PathBuf> {
        let folder = tempfile::Builder::new().prefix(&format!("onnxc-{pass}-")).disable_cleanup(true).tempdir_in(parent)?;
        let arguments: Vec<String> = std::env::args().collect();
        std::fs::write(folder.path().join("command.txt"), arguments.join(" ") + "\n")?;
        if let Some(graph) = graph {
            nir::write(&folder.path().join("graph.nir"), graph)?;
        }
        Ok(folder.path().to_path_buf())
    };
    write(std::env::current_dir()?).or_else(|_| write(std::env::temp_dir()))
}
