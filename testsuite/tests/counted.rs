//! Sizes that data decides on: one archive, whose calls report them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use onnxc_runtime::abi::{ONNXC_DATA, ONNXC_DIMS, ONNXC_OK};
use onnxc_testsuite::counted::{Case, cases, open_inputs};
use onnxc_testsuite::harness::{answers, call, program};
use onnxc_testsuite::mutate::Rng;
use onnxc_testsuite::target::{self, Target};
use onnxc_testsuite::tensor::Tensor;
use onnxc_testsuite::{data, npy, run};

/// Inputs with more or fewer positive floats and true bools, by `share` of 8.
fn inputs(case: &Case, share: usize, rng: &mut Rng) -> Vec<Tensor> {
    let tensor = |(elem_type, dims): &(i64, Vec<usize>)| {
        let n: usize = dims.iter().product();
        let mut positive = || rng.below(8) < share;
        if *elem_type == 9 {
            let bytes = (0..n).map(|_| u8::from(positive())).collect();
            return Tensor { elem_type: 9, dims: dims.clone(), bytes };
        }
        let signs: Vec<bool> = (0..n).map(|_| positive()).collect();
        let values: Vec<f32> = signs.iter().map(|s| (rng.below(40) as f32 + 1.0) / if *s { 4.0 } else { -4.0 }).collect();
        Tensor::f32(dims, &values)
    };
    case.inputs.iter().map(tensor).collect()
}

/// What the interpreter makes of the same file.
fn interpreted(model: &Path, case: &Case, folder: &Path, inputs: &[Tensor], flags: &[String]) -> Option<Vec<Tensor>> {
    let (from, to) = (folder.join("in"), folder.join("out"));
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&from).unwrap();
    for (i, input) in inputs.iter().enumerate() {
        npy::write(&from.join(format!("input_{i}.npy")), input).unwrap();
    }
    let mut c = Command::new(run::onnxc());
    c.arg("run").arg(model).arg("--inputs").arg(&from).arg("--outputs").arg(&to).arg("--interpret").args(case.flags).args(flags);
    let done = run::run(&mut c, Duration::from_secs(60));
    if done.code == Some(0) {
        return Some(data::numbered(&to, "output"));
    }
    assert!(done.stderr.contains("the bound") || done.stderr.contains("contradicts"), "{}: {}", case.name, done.stderr);
    None
}

/// Every case at several sizes; how many runs there were, and how many of them ended because of the data.
fn agree(target: &Target, shares: &[usize]) -> (usize, usize) {
    let (mut runs, mut refused) = (0, 0);
    for case in cases() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.onnx");
        fs::write(&model, &case.model).unwrap();
        let program = program(&model, case.flags, target, folder.path());
        let mut rng = Rng(23);
        let mut sizes = std::collections::BTreeSet::new();
        for share in shares {
            let inputs = inputs(&case, *share, &mut rng);
            runs += 1;
            let Some(want) = interpreted(&model, &case, folder.path(), &inputs, &[]) else {
                write(folder.path(), &inputs);
                assert_eq!(call(&program, target, folder.path(), &[]).code, Some(ONNXC_DATA), "{} on {}", case.name, target.name);
                refused += 1;
                continue;
            };
            write(folder.path(), &inputs);
            let status = call(&program, target, folder.path(), &[]).code;
            assert_eq!(status, Some(0), "{} {share} on {}", case.name, target.name);
            let got = answers(&program, target, folder.path(), &[], &inputs);
            same(&got, &want, &format!("{} {share} on {}", case.name, target.name));
            sizes.insert(got.iter().map(|t| t.dims.clone()).collect::<Vec<_>>());
        }
        assert!(sizes.len() > 1, "{}: always of one size, {sizes:?}", case.name);
    }
    (runs, refused)
}

fn same(got: &[Tensor], want: &[Tensor], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.dims, want.dims, "{what}");
        let (a, b) = (got.to_f64().unwrap(), want.to_f64().unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs())), "{what}");
    }
}

fn write(folder: &Path, inputs: &[Tensor]) {
    for (i, input) in inputs.iter().enumerate() {
        fs::write(folder.join(format!("input_{i}.bin")), &input.bytes).unwrap();
    }
}

#[test]
fn calls_report_the_sizes_that_turn_up() {
    let (runs, refused) = agree(target::by_name("x86-64-v3"), &[0, 1, 3, 5, 8, 4]);
    assert!(runs >= 48 && refused >= 1 && refused < runs / 4, "{refused} of {runs} refused");
}

#[test]
fn foreign_targets_report_them_too() {
    for name in ["aarch64", "riscv64-v128", "riscv64"] {
        agree(target::by_name(name), &[0, 3, 8, 1]);
    }
}

#[test]
fn inputs_may_be_open() {
    let (mut case, flags) = open_inputs();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    fs::write(&model, &case.model).unwrap();
    for target in ["x86-64-v3", "aarch64", "riscv64"].map(target::by_name) {
        let program = program(&model, &flags, target, folder.path());
        let (mut rng, mut found) = (Rng(5), 0);
        for n in [1, 4, 9, 6] {
            case.inputs.iter_mut().for_each(|(_, dims)| dims[0] = n);
            let inputs = inputs(&case, 4, &mut rng);
            let shapes = [format!("--shape=x={n},3"), format!("--shape=c={n}")];
            let want = interpreted(&model, &case, folder.path(), &inputs, &shapes).unwrap();
            same(&answers(&program, target, folder.path(), &[n], &inputs), &want, &format!("{n} on {}", target.name));
            found += want[0].dims[1];
        }
        assert!(found > 5, "{found}");
        assert_eq!(call(&program, target, folder.path(), &[10]).code, Some(ONNXC_DIMS));
    }
}

#[test]
fn header_and_binding_name_counts() {
    let case = cases().into_iter().find(|c| c.name == "unique").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    fs::write(&model, &case.model).unwrap();
    program(&model, case.flags, target::by_name("x86-64-v3"), folder.path());
    let header = fs::read_to_string(folder.path().join("model.h")).unwrap();
    for line in ["#define MODEL_N_COUNTS 1", "/* \"y.0\": at most 14 */", "#define MODEL_COUNT_Y_0 0"] {
        assert!(header.contains(line), "{line} in\n{header}");
    }
    let binding = fs::read_to_string(folder.path().join("model.rs")).unwrap();
    assert!(binding.contains("pub struct Counts {") && binding.contains("Result<Counts, Error>"), "{binding}");
    assert_eq!(ONNXC_OK, 0);
}
