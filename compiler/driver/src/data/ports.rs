//! Inputs and outputs of a model as its files have them: a sequence is one file of several tensors, an optional one of a tensor or of none.

use std::path::Path;

use onnxc_ir::{Graph, Tensor, ValueId};
use onnxc_onnx::{Imported, Port};

use super::pb::{self, Held};
use super::{Slot, read_file, read_tensor};
use crate::cli::{Extent, Model};
use crate::fault::{Done, Fault};
use crate::pipeline;

/// The inputs or the outputs of a model.
#[derive(Clone, Debug)]
pub struct Side {
    /// Tensors, in the order of a call.
    pub slots: Vec<Slot>,
    /// What they are in the model, in its order.
    pub ports: Vec<Port>,
}

/// Where a tensor is in a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the sequence.
    pub sequence: String,
    /// Its place in it.
    pub index: usize,
    /// Length of the sequence.
    pub length: usize,
}

/// The places of `n` tensors; `None` for those that are of no sequence.
pub fn places(ports: &[Port], n: usize) -> Vec<Option<Place>> {
    let mut all = vec![None; n];
    for port in ports.iter().filter(|p| p.sequence) {
        let length = port.tensors.len();
        for (index, at) in port.tensors.iter().enumerate() {
            if let Some(at) = at {
                all[*at] = Some(Place { sequence: port.name.clone(), index, length });
            }
        }
    }
    all
}

/// Inputs and outputs of a graph, as import tells of them. A graph in text form has tensors only.
pub fn sides(graph: &Graph, imported: Option<&Imported>) -> (Side, Side) {
    let side = |ids: &[ValueId], ports: Option<&Vec<Port>>| {
        let slots: Vec<Slot> = ids.iter().map(|id| (graph.value(*id).name.clone(), graph.ty(*id).clone())).collect();
        let plain = || slots.iter().enumerate().map(|(i, (name, _))| Port::tensor(name, i)).collect();
        let ports = ports.cloned().unwrap_or_else(plain);
        Side { slots, ports }
    };
    (side(&graph.inputs, imported.map(|i| &i.inputs)), side(&graph.outputs, imported.map(|i| &i.outputs)))
}

/// The model with the lengths of its sequences and the presence of its optionals as the files in `folder` have them, where the command line
/// leaves them open.
pub fn with_lengths(model: &mut Model, folder: &Path) -> Done<()> {
    if model.model.extension().is_some_and(|e| e == "nir") || !folder.is_dir() {
        return Ok(());
    }
    let ports = onnxc_onnx::inputs(&model.model, &pipeline::limits(&model.limits)?)?;
    let constant = |p: &&Port| model.consts.iter().any(|(name, _)| *name == p.name);
    let open: Vec<(usize, Port)> = ports.iter().filter(|p| !constant(p)).cloned().enumerate().collect();
    for (i, port) in open.into_iter().filter(|(_, p)| p.sequence || p.optional) {
        let path = folder.join(format!("input_{i}.pb"));
        if !path.exists() {
            continue;
        }
        match read_pb(&path, &port)? {
            Held::List(all) if model.lengths.iter().all(|(name, _)| *name != port.name) => {
                model.lengths.push((port.name.clone(), all.len() as u64));
                // The model need not declare even a rank.
                for (i, tensor) in all.iter().enumerate() {
                    let name = onnxc_onnx::element(&port.name, i);
                    if model.shapes.iter().all(|(n, _)| *n != name) && model.consts.iter().all(|(n, _)| *n != name) {
                        model.shapes.push((name, Extent::numbers(tensor.shape())));
                    }
                }
            }
            Held::Nothing if !model.absent.contains(&port.name) => model.absent.push(port.name),
            _ => {}
        }
    }
    Ok(())
}

fn read_pb(path: &Path, port: &Port) -> Done<Held> {
    pb::parse_held(&read_file(path)?, port.sequence, port.optional).map_err(|e| Fault::file(path, e))
}

/// What a file has for a port: one tensor for each of its own.
pub fn read_port(path: &Path, port: &Port) -> Done<Vec<Tensor>> {
    let all = match path.extension() {
        Some(e) if e == "pb" => match read_pb(path, port)? {
            Held::Tensor(tensor) => vec![tensor],
            Held::List(all) => all,
            Held::Nothing => Vec::new(),
        },
        _ if port.sequence => return Err(Fault::file(path, "a sequence is read from a .pb file (a SequenceProto)")),
        _ => vec![read_tensor(path)?],
    };
    if all.len() != port.tensors.len() {
        let wanted = port.tensors.len();
        return Err(Fault::file(path, format!("it holds {} tensors, the model was compiled for {wanted}", all.len())));
    }
    Ok(all)
}
