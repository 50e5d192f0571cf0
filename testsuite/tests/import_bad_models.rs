//! Every model of `bad_models` is refused by the importer with the words that its case asks for, and never by a panic.

use onnxc_ir::{Tensor, interp};
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

#[test]
fn each_row_of_a_batch_is_scanned_by_itself() {
    let imported = import_bytes(bad_models::batched_scan(), &Options::default()).unwrap_or_else(|report| panic!("{report}"));
    let x = Tensor::from_vec(&[2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let got = interp::run(&imported.graph, &[x]).expect("it runs");
    assert_eq!(got, [Tensor::from_vec(&[2], vec![7f32, 16.0])]);
}
