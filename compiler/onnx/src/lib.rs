//! ONNX import: protobuf to graph. Weights stay in the file; every problem of a model is reported in one go.
//!
//! The way: [`wire`] refuses malformed bytes and strips weights, onnx-protobuf parses the rest, [`import`](mod@import) builds the graph through the
//! operators' own records. No operator is known by name here, except `If`, whose branch is inlined when its condition is a constant.

mod attribute;
mod builder;
mod import;
pub mod options;
pub mod report;
mod tensor;
pub mod wire;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use onnx_protobuf::{Message, ModelProto};
use onnxc_ir::Graph;

pub use import::{NEWEST_OPSET, OLDEST_OPSET, Opsets};
pub use options::{Limits, Options};
pub use report::{Problem, Report};
use tensor::{Owner, Source};

/// An imported model.
#[derive(Debug)]
pub struct Imported {
    /// The graph, typed; symbolic extents remain where options did not fix them.
    pub graph: Graph,
    /// Operator sets of the model by domain.
    pub opsets: Opsets,
    /// `producer_name` and `producer_version`.
    pub producer: String,
    /// Bytes of the model file.
    pub bytes: ModelBytes,
}

/// The model file, for hashing.
#[derive(Clone)]
pub struct ModelBytes(Owner);

impl std::fmt::Debug for ModelBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.as_slice().len())
    }
}

impl ModelBytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// Imports a model file. External data is read from the file's folder only.
pub fn import(path: &Path, options: &Options) -> Result<Imported, Report> {
    let shown = path.display();
    let file = File::open(path).map_err(|e| Problem::model("import::file", format!("cannot open {shown}: {e}")))?;
    let is_file = file.metadata().is_ok_and(|m| m.is_file());
    if !is_file {
        return Err(Problem::model("import::file", format!("{shown} is not a file")).into());
    }
    let empty = file.metadata().is_ok_and(|m| m.len() == 0);
    if empty {
        return Err(Problem::model("import::file", format!("{shown} is empty")).into());
    }
    let map = tensor::map(&file).map_err(|e| Problem::model("import::file", format!("cannot read {shown}: {e}")))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    load(Arc::new(map), Some(folder), options)
}

/// Imports a model from memory. External data is refused.
pub fn import_bytes(bytes: Vec<u8>, options: &Options) -> Result<Imported, Report> {
    load(Arc::new(bytes), None, options)
}

fn load(file: Owner, folder: Option<&Path>, options: &Options) -> Result<Imported, Report> {
    let limits = &options.limits;
    let skeleton = wire::skeleton((*file).as_ref(), limits.depth).map_err(|e| Problem::model("import::file", e.to_string()))?;
    let model = ModelProto::parse_from_bytes(&skeleton).map_err(|e| {
        Problem::model("import::file", format!("the file is corrupt: {e}")).help("check that it is an ONNX model and complete")
    })?;
    let source = Source { file: file.clone(), folder, limits };
    let (graph, opsets) = import::Importer::new(options, source).model(&model)?;
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_string();
    Ok(Imported { graph, opsets, producer, bytes: ModelBytes(file) })
}
