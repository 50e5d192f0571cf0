//! Models that answer with the same bits on every target.

use crate::data::{self, Model};
use crate::harness::{self, Program};
use crate::target::{self, Target};
use crate::tensor::Tensor;

/// What a model answers on a target.
///
/// # Panics
/// When it does not compile or run.
pub fn infer(model: &Model, target: &Target) -> Vec<Tensor> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path();
    let what = format!("{} on {}", model.id, target.name);
    harness::compile(&model.path, target, "model", path, &model.shape_args()).expect_ok(&what);
    let main = data::repository().join("testsuite/adapters/bench_main.c");
    let (header, archive) = (path.join("model.h"), path.join("model.a"));
    let program = Program { main: &main, header: &header, archive: &archive, symbol: "model_model", flags: &[] };
    harness::infer(&program.build(target, path), target, &model.data, &path.join("out"))
}

/// The answers on every target that runs here, which must be the same bits.
///
/// # Panics
/// When they are not.
pub fn same_everywhere(model: &Model, targets: &[&str]) -> Vec<Tensor> {
    let mut first: Option<(&str, Vec<Tensor>)> = None;
    for t in targets.iter().map(|t| target::by_name(t)).filter(|t| t.can_run()) {
        let got = infer(model, t);
        let Some((other, want)) = &first else {
            first = Some((t.name, got));
            continue;
        };
        for (j, (a, b)) in got.iter().zip(want).enumerate() {
            let differ = a.bytes.iter().zip(&b.bytes).filter(|(a, b)| a != b).count();
            assert_eq!(
                differ,
                0,
                "{}: output {j}: {differ} of {} bytes differ on {} and {other}",
                model.id,
                a.bytes.len(),
                t.name
            );
        }
        assert_eq!(got.len(), want.len(), "{}: number of outputs", model.id);
    }
    first.expect("a target that runs here").1
}
