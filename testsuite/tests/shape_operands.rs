//! Backend tests whose small operands decide about shapes: with these operands as constants, as models have them, the operators are supported.
//!
//! The tests themselves pass such operands at run time, which is another matter.

use onnxc_testsuite::interpret::{Engine, backend_test_with, backend_tests};
use onnxc_testsuite::tensor::Tensor;

/// Parts of the names of the tests.
const TESTS: &[&str] = &[
    "node/test_affine_grid",
    "node/test_center_crop_pad",
    "node/test_col2im",
    "node/test_dft",
    "node/test_maxunpool",
    "node/test_stft",
    "node/test_blackmanwindow",
    "node/test_hammingwindow",
    "node/test_hannwindow",
    "node/test_melweightmatrix",
];

/// Their expected imaginary parts are rounding errors of another algorithm, above the tolerance.
const NOISE: &[&str] = &["node/test_dft_inverse", "node/test_dft_inverse_opset19"];

/// Scalars, and vectors of integers.
fn constant(t: &Tensor) -> bool {
    let integers = onnxc_ir::DType::from_onnx(t.elem_type).is_some_and(|t| t.is_int());
    t.dims.is_empty() || t.dims.len() == 1 && integers
}

#[test]
fn operators_of_known_shapes_agree_with_onnx() {
    let folders: Vec<_> = TESTS.iter().flat_map(|name| backend_tests(&["node"], name)).collect();
    assert!(folders.len() > 2 * TESTS.len(), "tests are missing: {folders:?}");
    let engines = [Engine::Interpreter, Engine::Compiled("native")];
    let outcomes = folders.iter().flat_map(|f| engines.map(|e| (e, backend_test_with(f, e, constant))));
    let failed: Vec<String> = outcomes
        .filter(|(_, o)| !NOISE.contains(&o.test.as_str()))
        .filter_map(|(engine, o)| Some(format!("{} ({engine:?}): {}", o.test, o.error?)))
        .collect();
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}
