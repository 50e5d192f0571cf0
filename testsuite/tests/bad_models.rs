//! Every bad model gives exit code 1 and a message that says what is wrong, in little time and memory.

use onnxc_testsuite::bad_models::{all, good_model, with_subgraph};
use onnxc_testsuite::run::{self, Output};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Runs `onnxc check` with 4 GB of address space: a model that claims terabytes must not be believed.
fn check(model: &Path) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -v 4000000; exec \"$0\" check \"$1\""]).arg(run::onnxc()).arg(model);
    run::run(&mut shell, Duration::from_secs(30))
}

#[test]
fn bad_models_are_refused_with_a_clear_message() {
    let folder = tempfile::tempdir().unwrap();
    let mut complaints = Vec::new();
    for case in all() {
        let path = case.write(folder.path()).unwrap();
        let done = check(&path);
        let name = case.name;
        // The path in the message holds the name of the case, which often is the word that is asked for.
        let missing = case.missing_from(&done.stderr.replace(&path.display().to_string(), "model.onnx"));
        if done.timed_out {
            complaints.push(format!("{name}: no answer in 30 s"));
        } else if done.code != Some(1) {
            complaints.push(format!("{name}: exit code {:?}: {}{}", done.code, done.stdout, done.stderr));
        } else if !missing.is_empty() {
            complaints.push(format!("{name}: the message lacks {missing:?}:\n{}", done.stderr));
        } else if done.stderr.contains("panicked") || done.stderr.contains("internal:") {
            complaints.push(format!("{name}: {}", done.stderr));
        }
    }
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), all().len(), complaints.join("\n"));
}

/// Guards against a `check` that refuses everything.
#[test]
fn the_models_that_they_were_made_from_are_good() {
    let folder = tempfile::tempdir().unwrap();
    for (name, model) in [("good", good_model()), ("subgraph", with_subgraph())] {
        let path = folder.path().join(format!("{name}.onnx"));
        std::fs::write(&path, model).unwrap();
        check(&path).expect_ok(name);
    }
}
