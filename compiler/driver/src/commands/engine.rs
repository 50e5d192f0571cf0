//! A model that can be run here: compiled code, or the reference interpreter.

use onnxc_codegen::JitModel;
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{Graph, Tensor, TensorType, ValueId};
use onnxc_targets::Target;

use crate::cli::{Debugging, Model};
use crate::data::Slot;
use crate::fault::{Done, Fault};
use crate::pipeline::{self, Compiled};

/// A model ready to run.
pub struct Engine {
    /// Inputs.
    pub inputs: Vec<Slot>,
    /// Outputs.
    pub outputs: Vec<Slot>,
    how: How,
}

enum How {
    Jit(Box<JitModel>),
    Interpreter(Graph),
}

/// Names and types of graph inputs or outputs.
pub fn slots(graph: &Graph, ids: &[ValueId]) -> Vec<Slot> {
    ids.iter().map(|id| (graph.value(*id).name.clone(), graph.ty(*id).clone())).collect()
}

/// An engine that interprets the model as imported.
pub fn interpreter(model: &Model) -> Done<Engine> {
    let (graph, _) = pipeline::import(model)?;
    let (inputs, outputs) = (slots(&graph, &graph.inputs), slots(&graph, &graph.outputs));
    Ok(Engine { inputs, outputs, how: How::Interpreter(graph) })
}

/// Compiles a model for this machine, and says what it compiled.
pub fn jit(model: &Model, target: &Target, debugging: &Debugging) -> Done<(Engine, Compiled)> {
    let mut compiled = pipeline::compile(model, target, debugging)?;
    let plan = &compiled.plan;
    let progress = crate::progress::Progress::start("codegen");
    crate::reproducer::entering("codegen", Some(&compiled.graph));
    let jit = compiled.times.measure("codegen", || JitModel::new(plan, target)).map_err(codegen_fault)?;
    drop(progress);
    crate::reproducer::entering("execution", Some(&compiled.graph));
    compiled.times.report(debugging)?;
    let io = |list: &[onnxc_ir::plan::Io]| list.iter().map(|io| (io.name.clone(), io.ty.clone())).collect();
    Ok((Engine { inputs: io(&plan.inputs), outputs: io(&plan.outputs), how: How::Jit(Box::new(jit)) }, compiled))
}

/// Errors of code generation as faults.
pub fn codegen_fault(e: onnxc_codegen::Error) -> Fault {
    match e {
        onnxc_codegen::Error::Unsupported { .. } | onnxc_codegen::Error::Run(_) => {
            Fault::model("codegen::unsupported", e.to_string())
        }
        _ => Fault::Internal(e.to_string()),
    }
}

impl Engine {
    /// One inference.
    pub fn run(&self, inputs: &[Tensor], threads: u32) -> Done<Vec<Tensor>> {
        match &self.how {
            How::Interpreter(graph) => {
                onnxc_ir::interp::run(graph, inputs).map_err(|e| Fault::model("interpreter", e.to_string()))
            }
            How::Jit(jit) => {
                let mut outputs = Vec::new();
                let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
                jit.run(&bytes, &mut outputs, threads).map_err(codegen_fault)?;
                self.outputs.iter().zip(outputs).map(|((_, ty), bytes)| tensor(ty, bytes)).collect()
            }
        }
    }

    /// The compiled model, if it is one.
    pub fn compiled(&self) -> Option<&JitModel> {
        match &self.how {
            How::Jit(jit) => Some(jit),
            How::Interpreter(_) => None,
        }
    }
}

fn tensor(ty: &TensorType, bytes: Vec<u8>) -> Done<Tensor> {
    let shape = ty.const_shape().unwrap_or_default();
    Tensor::from_bytes(ty.dtype, shape, Bytes::new(bytes))
        .ok_or_else(|| Fault::Internal("an output has the wrong size".to_string()))
}
