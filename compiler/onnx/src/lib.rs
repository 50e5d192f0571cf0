//! ONNX import: protobuf to graph. Weights stay in the file; every problem of a model is reported in one go.
//!
//! The way: [`wire`] refuses malformed bytes and strips weights, onnx-protobuf parses the rest, `order` checks the structure of each
//! list of nodes, `node` builds each node through the operators' own records; `function` and `control` expand what contains further
//! nodes. No operator is known by name here, except the constructs of the language itself: `Constant`, `If`, `Loop`, `Scan`.

mod attribute;
mod builder;
mod control;
mod declared;
mod function;
mod import;
mod node;
mod node_cx;
pub mod options;
mod order;
mod prune;
mod refused;
pub mod report;
mod schema;
mod scope;
mod tensor;
mod types;
pub mod wire;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use onnx_protobuf::{Message, ModelProto};
use onnxc_ir::Graph;
use onnxc_ir::op::OpSet;
use sha2::{Digest, Sha256};

pub use import::OLDEST_OPSET;
pub use options::{Limits, Options};
pub use refused::{REFUSED, Refused};
pub use report::{Problem, Report};
pub use schema::NEWEST_OPSET;
pub use scope::Opsets;
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
    /// SHA-256 of the model file (external data not included).
    pub hash: [u8; 32],
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
    load(Arc::new(map), Some(folder), options, OpSet(onnxc_ops::ALL))
}

/// Imports a model from memory. External data is refused.
pub fn import_bytes(bytes: Vec<u8>, options: &Options) -> Result<Imported, Report> {
    load(Arc::new(bytes), None, options, OpSet(onnxc_ops::ALL))
}

/// Like [`import_bytes`] with operators of the caller's choice (tests).
pub fn import_with(bytes: Vec<u8>, options: &Options, ops: OpSet) -> Result<Imported, Report> {
    load(Arc::new(bytes), None, options, ops)
}

fn load(file: Owner, folder: Option<&Path>, options: &Options, ops: OpSet) -> Result<Imported, Report> {
    let limits = &options.limits;
    let skeleton = wire::skeleton((*file).as_ref(), limits.depth).map_err(|e| Problem::model("import::file", e.to_string()))?;
    let model = ModelProto::parse_from_bytes(&skeleton).map_err(|e| {
        Problem::model("import::file", format!("the file is corrupt: {e}")).help("check that it is an ONNX model and complete")
    })?;
    let source = Source::new(file.clone(), folder, limits);
    let (graph, opsets) = import::Importer::new(options, source, ops).model(&model)?;
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_string();
    let hash = Sha256::digest((*file).as_ref()).into();
    Ok(Imported { graph, opsets, producer, hash })
}
