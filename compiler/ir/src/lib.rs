//! The intermediate representations of onnxc: graph, loop nests, text form, verifier, operator record
