//! Tests across crates, ONNX node runner, fuzzing, benchmarks, tidy checks
