//! Models with open dimensions: one archive for several sizes, which come with each call, against models compiled for each size alone.

use onnxc_testsuite::harness::{answers, call, program};
use onnxc_testsuite::mutate::Rng;
use onnxc_testsuite::target::{self, Target};
use onnxc_testsuite::tensor::Tensor;
use onnxc_testsuite::{data, npy, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A zoo model, its sizes on the command line, and what its inputs are for values of the open dimensions.
struct Case {
    id: &'static str,
    flags: &'static [&'static str],
    inputs: fn(&[usize], &mut Rng) -> Vec<Tensor>,
    /// Flags that fix the same sizes.
    fixed: fn(&[usize]) -> Vec<String>,
}

fn floats(dims: &[usize], rng: &mut Rng) -> Tensor {
    let n = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|_| (rng.below(2001) as f32 - 1000.0) / 500.0).collect();
    Tensor::f32(dims, &values)
}

const MINILM: Case = Case {
    id: "minilm_l3",
    flags: &["--dim=batch_size=1,3", "--dim=sequence_length=7,16"],
    inputs: |v, rng| {
        let n = v[0] * v[1];
        let ids: Vec<i64> = (0..n).map(|_| 1000 + rng.below(20000) as i64).collect();
        let mask: Vec<i64> = (0..n).map(|i| i64::from(i % v[1] < 5)).collect();
        vec![Tensor::i64(&[v[0], v[1]], &ids), Tensor::i64(&[v[0], v[1]], &mask)]
    },
    fixed: |v| vec![format!("--dim=batch_size={}", v[0]), format!("--dim=sequence_length={}", v[1])],
};

const RECOGNISER: Case = Case {
    id: "ppocr4_rec",
    flags: &["--shape=x=1,3,48,width", "--dim=width=32,64,200"],
    inputs: |v, rng| vec![floats(&[1, 3, 48, v[0]], rng)],
    fixed: |v| vec![format!("--shape=x=1,3,48,{}", v[0])],
};

/// The program of `open_dims/main.c` for a case on a target.
fn build(case: &Case, target: &Target, folder: &Path) -> PathBuf {
    program(&data::require(&format!("zoo/{}.onnx", case.id)), case.flags, target, folder)
}

/// What the same model compiled for one size answers.
fn alone(case: &Case, folder: &Path, cpu: &str, values: &[usize], inputs: &[Tensor]) -> Vec<Tensor> {
    let (from, to) = (folder.join("in"), folder.join("out"));
    fs::create_dir_all(&from).unwrap();
    for (i, input) in inputs.iter().enumerate() {
        npy::write(&from.join(format!("input_{i}.npy")), input).unwrap();
    }
    let mut c = Command::new(run::onnxc());
    c.arg("run").arg(data::require(&format!("zoo/{}.onnx", case.id))).arg("--inputs").arg(&from).arg("--outputs").arg(&to);
    run::run(c.args(["--cpu", cpu]).args((case.fixed)(values)), Duration::from_secs(600)).expect_ok("onnxc run");
    data::numbered(&to, "output")
}

#[test]
fn every_combination_answers_as_if_compiled_alone() {
    let target = target::by_name("x86-64-v3");
    for (case, choices) in
        [(&MINILM, &[&[1, 7][..], &[1, 16], &[3, 7], &[3, 16]][..]), (&RECOGNISER, &[&[32][..], &[64], &[200]][..])]
    {
        let folder = tempfile::tempdir().unwrap();
        let program = build(case, target, folder.path());
        let mut rng = Rng(7);
        for values in choices {
            let inputs = (case.inputs)(values, &mut rng);
            let got = answers(&program, target, folder.path(), values, &inputs);
            assert!(!got.is_empty() && got.iter().all(|t| !t.is_empty()));
            assert_eq!(got, alone(case, folder.path(), target.cpu, values, &inputs), "{} {values:?}", case.id);
        }
        let wrong: &[&[usize]] = if choices[0].len() == 2 { &[&[2, 7], &[1, 8], &[0, 0], &[7, 1]] } else { &[&[33], &[0]] };
        for values in wrong {
            assert_eq!(call(&program, target, folder.path(), values).code, Some(onnxc_runtime::abi::ONNXC_DIMS), "{values:?}");
        }
    }
}

#[test]
fn foreign_targets_choose_too() {
    for name in ["aarch64", "riscv64-v128"] {
        let target = target::by_name(name);
        let folder = tempfile::tempdir().unwrap();
        let program = build(&MINILM, target, folder.path());
        let values = [1, 7];
        let inputs = (MINILM.inputs)(&values, &mut Rng(3));
        let got = answers(&program, target, folder.path(), &values, &inputs);
        let want = alone(&MINILM, folder.path(), "x86-64-v3", &values, &inputs);
        close(&got, &want, name);
        assert_eq!(call(&program, target, folder.path(), &[2, 2]).code, Some(onnxc_runtime::abi::ONNXC_DIMS));
    }
}

/// Models for ranges of sizes, and the sizes to call them with.
const RANGES: &[(Case, &[&[usize]])] = &[
    (
        Case {
            id: "basic_pitch",
            flags: &["--dim=unk__749=1..3"],
            inputs: |v, rng| vec![floats(&[v[0], 43844, 1], rng)],
            fixed: |v| vec![format!("--dim=unk__749={}", v[0])],
        },
        &[&[1], &[3]],
    ),
    (
        Case {
            id: "magika",
            flags: &["--dim=unk__214=1..5"],
            inputs: |v, rng| {
                let bytes = (0..v[0] * 2048).flat_map(|_| (rng.below(257) as i32).to_le_bytes()).collect();
                vec![Tensor { elem_type: 6, dims: vec![v[0], 2048], bytes }]
            },
            fixed: |v| vec![format!("--dim=unk__214={}", v[0])],
        },
        &[&[1], &[2], &[5]],
    ),
    (
        Case {
            id: "ppocr2_cls",
            flags: &["--shape=x=N,3,48,W", "--dim=N=1..3", "--dim=W=96..200"],
            inputs: |v, rng| vec![floats(&[v[0], 3, 48, v[1]], rng)],
            fixed: |v| vec![format!("--shape=x={},3,48,{}", v[0], v[1])],
        },
        &[&[1, 96], &[3, 137], &[2, 200]],
    ),
    (
        Case {
            id: "oww_melspec",
            flags: &["--dim=batch_size=1..2", "--dim=samples=2000..9000"],
            inputs: |v, rng| vec![floats(&[v[0], v[1]], rng)],
            fixed: |v| vec![format!("--dim=batch_size={}", v[0]), format!("--dim=samples={}", v[1])],
        },
        &[&[1, 2000], &[2, 8999]],
    ),
];

#[test]
fn models_for_ranges_answer_as_if_compiled_alone() {
    let target = target::by_name("x86-64-v3");
    for (case, choices) in RANGES {
        let folder = tempfile::tempdir().unwrap();
        let program = build(case, target, folder.path());
        let mut rng = Rng(5);
        for values in *choices {
            let inputs = (case.inputs)(values, &mut rng);
            let got = answers(&program, target, folder.path(), values, &inputs);
            close(&got, &alone(case, folder.path(), target.cpu, values, &inputs), &format!("{} {values:?}", case.id));
        }
    }
}

/// One archive for ranges of sizes: every size of `testsuite/zoo/make_size_data.py` against ONNX Runtime's outputs.
fn agrees_with_onnx_runtime(id: &str, flags: &[&str], target: &Target, few: bool) {
    let folder = tempfile::tempdir().unwrap();
    let program = program(&data::require(&format!("zoo/{id}.onnx")), flags, target, folder.path());
    let sizes = data::require(&format!("sizes/{id}"));
    let mut cases: Vec<PathBuf> = fs::read_dir(sizes).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    if few {
        // Emulators are slow: the smaller inputs.
        cases.sort_by_key(|c| data::numbered(c, "input").iter().map(Tensor::len).sum::<usize>());
        cases.truncate(3);
    }
    for case in &cases {
        let name = name_of(case);
        let values: Vec<usize> = name.split('x').map(|n| n.parse().unwrap()).collect();
        let got = answers(&program, target, folder.path(), &values, &data::numbered(case, "input"));
        close(&got, &data::numbered(case, "output"), &format!("{id} {name} on {}", target.name));
    }
    assert!(cases.len() >= 3, "{id}: {} sizes", cases.len());
    let beyond = vec![100_000; name_of(&cases[0]).split('x').count()];
    assert_eq!(call(&program, target, folder.path(), &beyond).code, Some(onnxc_runtime::abi::ONNXC_DIMS));
}

fn name_of(case: &Path) -> String {
    case.file_name().unwrap().to_string_lossy().into_owned()
}

fn close(got: &[Tensor], want: &[Tensor], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.dims, want.dims, "{what}");
        let (a, b) = (got.to_f64().unwrap(), want.to_f64().unwrap());
        let scale = b.iter().fold(0f64, |m, x| m.max(x.abs()));
        let error = a.iter().zip(&b).fold(0f64, |m, (x, y)| m.max((x - y).abs()));
        assert!(error <= 1e-4 * scale, "{what}: {error} of {scale}");
    }
}

const SEQUENCES: &[&str] = &["--dim=batch_size=1..4", "--dim=sequence_length=1..128"];

#[test]
fn a_transformer_for_all_batches_and_lengths() {
    agrees_with_onnx_runtime("minilm_l3", SEQUENCES, target::by_name("x86-64-v3"), false);
}

#[test]
fn a_text_recogniser_for_all_widths() {
    let flags = ["--shape=x=1,3,48,width", "--dim=width=32..1280"];
    agrees_with_onnx_runtime("ppocr4_rec", &flags, target::by_name("x86-64-v3"), false);
}

#[test]
fn a_text_recogniser_for_all_batches_and_widths() {
    let recogniser = Case {
        id: "ppocr4_rec",
        flags: &["--shape=x=B,3,48,W", "--dim=B=1..3", "--dim=W=32..320"],
        inputs: |v, rng| vec![floats(&[v[0], 3, 48, v[1]], rng)],
        fixed: |v| vec![format!("--shape=x={},3,48,{}", v[0], v[1])],
    };
    let (target, folder) = (target::by_name("x86-64-v3"), tempfile::tempdir().unwrap());
    let program = build(&recogniser, target, folder.path());
    let mut rng = Rng(17);
    for values in [[1, 32], [3, 101], [2, 320]] {
        let inputs = (recogniser.inputs)(&values, &mut rng);
        let got = answers(&program, target, folder.path(), &values, &inputs);
        close(&got, &alone(&recogniser, folder.path(), target.cpu, &values, &inputs), &format!("{values:?}"));
    }
}

#[test]
fn a_text_detector_for_all_heights_and_widths() {
    let flags = ["--shape=x=1,3,32*H,32*W", "--dim=H=1..9", "--dim=W=1..4,5..9"];
    agrees_with_onnx_runtime("ppocr4_det", &flags, target::by_name("x86-64-v3"), false);
}

#[test]
fn a_classifier_for_all_batches() {
    agrees_with_onnx_runtime("opennsfw", &["--dim=unk__653=1..3"], target::by_name("x86-64-v3"), false);
}

#[test]
fn ranges_on_foreign_targets() {
    for name in ["aarch64", "riscv64-v128", "riscv64"] {
        agrees_with_onnx_runtime("minilm_l3", SEQUENCES, target::by_name(name), true);
    }
    let flags = ["--shape=x=1,3,48,width", "--dim=width=32..64,65..1280"];
    agrees_with_onnx_runtime("ppocr4_rec", &flags, target::by_name("aarch64"), true);
}

/// Reshapes that no strides can say where the extents are open: of an input, of a transposed one, of a computed value that is used further.
const RESHAPES: &str = r#"graph @g(%x: f32[N,M,4]) {
  %flat = const i64[1] [-1]
  %pairs = const i64[2] [-1, 2]
  %four = const i64[2] [4, -1]
  %a = reshape %x, %flat : f32[(4*M*N)] @"a"
  %xt = transpose %x {perm = ints[1, 0, 2]} : f32[M,N,4] @"xt"
  %b = reshape %xt, %pairs : f32[(2*M*N),2] @"b"
  %r = abs %x : f32[N,M,4] @"r"
  %c = reshape %r, %four : f32[4,(M*N)] @"c"
  %d = neg %c : f32[4,(M*N)] @"d"
  return %a, %b, %d
}
"#;

#[test]
fn reshapes_keep_the_order_of_the_elements_at_every_size() {
    for name in ["x86-64-v3", "riscv64"] {
        let (target, folder) = (target::by_name(name), tempfile::tempdir().unwrap());
        let graph = folder.path().join("graph.nir");
        fs::write(&graph, RESHAPES).unwrap();
        let program = program(&graph, &["--dim=N=1..4", "--dim=M=1..5"], target, folder.path());
        let mut rng = Rng(13);
        for (n, m) in [(1, 1), (4, 5), (4, 1), (1, 5), (2, 3), (3, 4)] {
            let x = floats(&[n, m, 4], &mut rng);
            let got = answers(&program, target, folder.path(), &[n, m], std::slice::from_ref(&x));
            let x = x.to_f64().unwrap();
            let transposed = (0..m).flat_map(|j| (0..n).map(move |i| (i * m + j) * 4)).flat_map(|at| x[at..at + 4].to_vec());
            let want = [
                (vec![4 * n * m], x.clone()),
                (vec![2 * n * m, 2], transposed.collect()),
                (vec![4, n * m], x.iter().map(|v| -v.abs()).collect()),
            ];
            let got: Vec<_> = got.iter().map(|t| (t.dims.clone(), t.to_f64().unwrap())).collect();
            assert_eq!(got, want, "{n} {m} on {name}");
        }
    }
}

#[test]
fn what_cannot_be_served_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = data::require("zoo/minilm_l3.onnx");
    for (flags, code, says) in [
        (&["--dim=batch_size=1,2", "--dim=sequence_length=8", "--emit=ir"][..], 2, "--emit=ir"),
        (&["--dim=batch_size=1,2"][..], 1, "pass --dim sequence_length=N"),
        (&["--shape=input_ids=1,L", "--shape=attention_mask=1,8"][..], 2, "--dim L=N"),
        (&["--dim=batch_size=4..1"][..], 2, "write the smaller one first"),
    ] {
        let out = folder.path().join("model.a");
        let mut c = Command::new(run::onnxc());
        let done = run::run(c.arg("compile").arg(&model).arg("-o").arg(&out).args(flags), Duration::from_secs(60));
        assert_eq!(done.code, Some(code), "{flags:?}: {}", done.stderr);
        assert!(done.stderr.contains(says) && !out.exists(), "{flags:?}: {}", done.stderr);
    }
}
