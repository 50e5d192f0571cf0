//! ONNX import: protobuf to graph. Weights stay in the file; every problem of a model is reported in one go.
//!
//! The way: [`wire`] refuses malformed bytes and strips weights, onnx-protobuf parses the rest, `order` checks the structure of each
//! list of nodes, `node` builds each node through the operators' own records; `function` and `control` expand what contains further
//! nodes. No operator is known by name here, except the constructs of the language itself: `Constant`, `If`, `Loop`, `Scan`.
//! Sequences and optionals resolve here: `items` hands them from node to node, `ports` makes tensors of those that are inputs and outputs.

mod attribute;
mod builder;
mod carried;
mod control;
mod declared;
mod function;
mod import;
mod items;
mod node;
mod node_cx;
pub mod options;
mod order;
mod ports;
mod prune;
mod refused;
pub mod report;
mod scan;
mod schema;
mod scope;
mod tensor;
mod types;
mod unroll;
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
pub use ports::{Port, element};
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
    /// Inputs of the model; those that became constants are left out.
    pub inputs: Vec<Port>,
    /// Outputs of the model.
    pub outputs: Vec<Port>,
    /// Operator sets of the model by domain.
    pub opsets: Opsets,
    /// `producer_name` and `producer_version`.
    pub producer: String,
    /// SHA-256 of the model file (external data not included).
    pub hash: [u8; 32],
}

/// Imports a model file. External data is read from the file's folder only.
pub fn import(path: &Path, options: &Options) -> Result<Imported, Report> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    load(open(path)?, Some(folder), options, OpSet(onnxc_ops::ALL))
}

/// Inputs that a model file declares, initialisers left out: what must be known of its sequences before it can be imported. Which tensors they
/// are is not known yet.
pub fn inputs(path: &Path, limits: &Limits) -> Result<Vec<Port>, Report> {
    inputs_of((*open(path)?).as_ref(), limits)
}

/// The same for a model in memory.
pub fn inputs_of(bytes: &[u8], limits: &Limits) -> Result<Vec<Port>, Report> {
    Ok(parse(bytes, limits)?.graph.as_ref().map_or_else(Vec::new, ports::declared_inputs))
}

fn open(path: &Path) -> Result<Owner, Report> {
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
    Ok(Arc::new(map))
}

/// The model without its weights.
fn parse(bytes: &[u8], limits: &Limits) -> Result<ModelProto, Report> {
    let skeleton = wire::skeleton(bytes, limits.depth).map_err(|e| Problem::model("import::file", e.to_string()))?;
    let parsed = ModelProto::parse_from_bytes(&skeleton).map_err(|e| {
        Problem::model("import::file", format!("the file is corrupt: {e}")).help("check that it is an ONNX model and complete")
    });
    Ok(parsed?)
}

/// Imports a model from memory. External data is refused.
pub fn import_bytes(bytes: Vec<u8>, options: &Options) -> Result<Imported, Report> {
    load(Arc::new(bytes), None, options, OpSet(onnxc_ops::ALL))
}

/// Like [`import_bytes`] with operators of the caller's choice (tests).
pub fn import_with(bytes: Vec<u8>, options: &Options, ops: OpSet) -> Result<Imported, Report> {
    load(Arc::new(bytes), None, options, ops)
}

/// SHA-256 of a file, of which no more is in memory at once than is being read.
fn hash(file: &Owner) -> [u8; 32] {
    const PIECE: usize = 1 << 20;
    let mut hash = Sha256::new();
    for (i, piece) in (**file).as_ref().chunks(PIECE).enumerate() {
        hash.update(piece);
        file.release(i * PIECE..i * PIECE + piece.len());
    }
    hash.finalize().into()
}

fn load(file: Owner, folder: Option<&Path>, options: &Options, ops: OpSet) -> Result<Imported, Report> {
    let limits = &options.limits;
    let model = parse((*file).as_ref(), limits)?;
    let source = Source::new(file.clone(), folder, limits);
    let import::Built { graph, inputs, outputs, opsets } = import::Importer::new(options, source, ops).model(&model)?;
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_string();
    let hash = hash(&file);
    Ok(Imported { graph, inputs, outputs, opsets, producer, hash })
}
