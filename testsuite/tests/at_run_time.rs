//! Shape operands that are computed: values that agree with the declared shapes are computed with (the ONNX backend tests say so), values that
//! contradict them end with a status and no output, and `--const` makes constants of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use onnxc_testsuite::tensor::{Tensor, code};
use onnxc_testsuite::{compare, data, npy, pb, run};

/// Backend test, the operand that decides the shape, and values that lead to another shape or mean nothing.
const CASES: &[(&str, usize, &[&[i64]])] = &[
    ("test_reshape_reordered_all_dims", 1, &[&[2, 4, 3], &[4, 3, 2], &[-1, -1, 3], &[i64::MAX, 2, 3]]),
    ("test_reduce_sum_do_not_keepdims_example", 1, &[&[0], &[3], &[-4], &[i64::MIN]]),
    ("test_reduce_max_keepdims_example", 1, &[&[0], &[2], &[100]]),
    ("test_slice", 2, &[&[4, 10], &[3, 9], &[-1, 10], &[i64::MIN, i64::MAX]]),
    ("test_slice_neg_steps", 4, &[&[0, 0, 0], &[1, -3, -2], &[i64::MIN, -3, -2]]),
    ("test_constant_pad", 1, &[&[0, 0, 1, 3, 0, 0, 2, 5], &[i64::MAX, 0, 1, 3, 1, 0, 2, 4]]),
    ("test_expand_dim_changed", 1, &[&[2, 1, 5], &[3, 1, 6]]),
    ("test_unsqueeze_two_axes", 1, &[&[0, 4], &[1, 9], &[-7, 4]]),
    ("test_squeeze", 1, &[&[1], &[9]]),
    ("test_tile", 1, &[&[1, 1, 1, 1], &[0, 0, 0, 0]]),
    ("test_top_k", 1, &[&[2], &[4], &[-1]]),
    ("test_range_int32_type_negative_delta", 2, &[&[-1], &[0], &[3]]),
    ("test_split_variable_parts_1d_opset18", 1, &[&[4, 2], &[3, 3], &[-2, 8]]),
    ("test_compress_0", 1, &[&[1, 1, 1], &[0, 0, 0]]),
    ("test_resize_upsample_sizes_nearest", 1, &[&[1, 1, 7, 9], &[1, 1, 0, 8]]),
    ("test_loop11", 0, &[&[4], &[6], &[0], &[-1]]),
];

fn folder(test: &str) -> PathBuf {
    data::require("onnx-tests/node").join(test)
}

fn onnxc(test: &str, inputs: &Path, outputs: &Path, more: &[String]) -> run::Output {
    let mut command = Command::new(run::onnxc());
    command.arg("run").arg(folder(test).join("model.onnx")).args(more);
    run::run(command.arg("--inputs").arg(inputs).arg("--outputs").arg(outputs), Duration::from_secs(60))
}

/// The values in the type of the operand.
fn of_type(like: &Tensor, values: &[i64]) -> Tensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()[..like.bytes.len() / like.len().max(1)].to_vec()).collect();
    Tensor { bytes, ..like.clone() }
}

#[test]
fn values_that_contradict_a_shape_end_with_a_status() {
    for (test, operand, values) in CASES {
        let inputs = data::numbered(&folder(test).join("test_data_set_0"), "input");
        for wrong in *values {
            let place = tempfile::tempdir().expect("temporary folder");
            let (given, out) = (place.path().join("in"), place.path().join("out"));
            std::fs::create_dir(&given).expect("folder of inputs");
            for (i, tensor) in inputs.iter().enumerate() {
                let tensor = if i == *operand { of_type(tensor, wrong) } else { tensor.clone() };
                npy::write(&given.join(format!("input_{i}.npy")), &tensor).expect("write an input");
            }
            let got = onnxc(test, &given, &out, &[]);
            assert_eq!(got.code, Some(1), "{test} with {wrong:?}: {}{}", got.stdout, got.stderr);
            assert!(got.stderr.contains("ONNXC_DATA"), "{test} with {wrong:?}: {}", got.stderr);
            assert!(!out.join("output_0.npy").exists(), "{test} with {wrong:?} left an output");
        }
    }
}

#[test]
fn inputs_become_constants() {
    for (test, operand, _) in CASES {
        let set = folder(test).join("test_data_set_0");
        let model = std::fs::read(folder(test).join("model.onnx")).expect("the model");
        let name = pb::model_inputs(&model).expect("its inputs").swap_remove(*operand);
        let place = tempfile::tempdir().expect("temporary folder");
        let (given, out) = (place.path().join("in"), place.path().join("out"));
        std::fs::create_dir(&given).expect("folder of inputs");
        let rest = data::numbered(&set, "input").into_iter().enumerate().filter(|(i, _)| i != operand).map(|(_, t)| t);
        for (i, tensor) in rest.enumerate() {
            npy::write(&given.join(format!("input_{i}.npy")), &tensor).expect("write an input");
        }
        let constant = format!("--const={name}={}", set.join(format!("input_{operand}.pb")).display());
        let got = onnxc(test, &given, &out, &[constant]);
        assert_eq!(got.code, Some(0), "{test}: {}", got.stderr);
        for (j, want) in data::numbered(&set, "output").iter().enumerate() {
            let got = npy::read(&out.join(format!("output_{j}.npy"))).expect("an output");
            compare::all_close(&got, want, 1e-3, 1e-6).unwrap_or_else(|e| panic!("{test}: output {j}: {e}"));
        }
    }
}

/// A condition that is one element of a larger input: the part of a buffer of the caller that is not its start.
const PART: &str = r#"graph @part(%x: f32[4], %c: bool[3]) {
  %s = const i64[1] [2]
  %e = const i64[1] [3]
  %one = slice %c, %s, %e : bool[1]
  %y = if %one, %x {else = graph @otherwise(%x: f32[4]) {
    %y = abs %x : f32[4]
    return %y
  }, then = graph @then(%x: f32[4]) {
    %y = neg %x : f32[4]
    return %y
  }} : f32[4]
  return %y
}
"#;

#[test]
fn conditions_are_read_where_they_are() {
    for (flags, want) in [([1u8, 1, 0], [1f32, 2.0, 3.0, 4.0]), ([0, 0, 1], [-1.0, -2.0, 3.0, -4.0])] {
        let place = tempfile::tempdir().expect("temporary folder");
        let (model, given, out) = (place.path().join("part.nir"), place.path().join("in"), place.path().join("out"));
        std::fs::create_dir(&given).expect("folder of inputs");
        std::fs::write(&model, PART).expect("write the model");
        let flags = Tensor { elem_type: code::BOOL, dims: vec![3], bytes: flags.to_vec() };
        for (i, tensor) in [Tensor::f32(&[4], &[1.0, 2.0, -3.0, 4.0]), flags].iter().enumerate() {
            npy::write(&given.join(format!("input_{i}.npy")), tensor).expect("write an input");
        }
        let mut command = Command::new(run::onnxc());
        command.arg("run").arg(&model).arg("--inputs").arg(&given).arg("--outputs").arg(&out);
        run::run(&mut command, Duration::from_secs(60)).expect_ok("onnxc run");
        assert_eq!(npy::read(&out.join("output_0.npy")).expect("an output"), Tensor::f32(&[4], &want));
    }
}
