//! Every operator of onnxc, one file each
