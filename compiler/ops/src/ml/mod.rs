//! Operators of classical machine learning (the domain ai.onnx.ml), as far as they compute with numbers.

mod features;
mod label_encoder;
mod tree_ensemble;
mod tree_import;

pub(crate) use features::{ARRAY_FEATURE_EXTRACTOR, BINARIZER};
pub(crate) use label_encoder::LABEL_ENCODER;
pub(crate) use tree_ensemble::TREE_ENSEMBLE;

/// The domain.
const DOMAIN: &str = "ai.onnx.ml";
