//! Every model of `bad_models` is refused by the importer with the words that its case asks for, and never by a panic.

use onnxc_onnx::{Options, import, import_bytes};
use onnxc_testsuite::bad_models;

#[test]
fn each_is_refused_with_a_clear_message() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut wrong = Vec::new();
    for case in bad_models::all() {
        let path = case.write(folder.path()).expect("write the model");
        match import(&path, &Options::default()) {
            Ok(imported) => wrong.push(format!("{}: accepted: {}", case.name, onnxc_ir::text::print(&imported.graph))),
            Err(report) => {
                let message = report.to_string();
                let missing = case.missing_from(&message);
                if !missing.is_empty() {
                    wrong.push(format!("{}: does not say {missing:?}:\n{message}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn good_models_are_accepted() {
    for (name, bytes) in [("good", bad_models::good_model()), ("with_subgraph", bad_models::with_subgraph())] {
        let imported = import_bytes(bytes, &Options::default()).unwrap_or_else(|report| panic!("{name}: {report}"));
        onnxc_ir::verify::verify(&imported.graph).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
    }
}
