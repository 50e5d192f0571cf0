//! The passes of onnxc, one file each
