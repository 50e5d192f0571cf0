//! Operators of com.microsoft and ai.onnx.ml against ONNX Runtime: the folders that testsuite/contrib/make_contrib_tests.py wrote, through compiled code.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use onnxc_testsuite::{data, run};
use rayon::prelude::*;

#[test]
fn operators_of_onnxruntime_agree_with_it() {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(data::require("contrib"))
        .expect("folder")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.is_dir())
        .collect();
    folders.sort();
    assert!(folders.len() > 100, "{} cases: run testsuite/setup.sh", folders.len());
    let onnxc = run::onnxc();
    let wrong: Vec<String> = folders
        .par_iter()
        .filter_map(|folder| {
            let tolerance = std::fs::read_to_string(folder.join("tolerance")).expect("tolerance");
            let mut command = Command::new(onnxc);
            command.arg("verify").arg(folder.join("model.onnx")).arg("--data").arg(folder).args([
                "--tolerance",
                tolerance.trim(),
                "-j1",
            ]);
            let said = run::run(&mut command, Duration::from_secs(60));
            (said.code != Some(0)).then(|| format!("{}: {:?}\n{}{}", folder.display(), said.code, said.stdout, said.stderr))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} cases differ:\n{}", wrong.len(), folders.len(), wrong.join("\n"));
}
