//! ONNX import: protobuf to graph, weights without copies, all problems in one report
