//! onnxc, the ahead-of-time neural network compiler
