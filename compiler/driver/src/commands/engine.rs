//! A model that can be run here: compiled code, or the reference interpreter.

use onnxc_codegen::JitModel;
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DimBindings, Graph, Tensor, TensorType};
use onnxc_targets::Target;

use crate::cli::{Debugging, Freedom, Model};
use crate::data::{self, Side};
use crate::fault::{Done, Fault};
use crate::pipeline::{self, Compiled};

/// A model ready to run.
pub struct Engine {
    /// Inputs.
    pub inputs: Side,
    /// Outputs.
    pub outputs: Side,
    how: How,
}

enum How {
    Jit(Box<JitModel>),
    Interpreter(Graph),
}

/// An engine that interprets the model as imported.
pub fn interpreter(model: &Model) -> Done<Engine> {
    let (graph, imported) = pipeline::import(model)?;
    let (inputs, outputs) = data::sides(&graph, imported.as_ref());
    Ok(Engine { inputs, outputs, how: How::Interpreter(graph) })
}

/// Compiles a model for this machine, and says what it compiled.
pub fn jit(model: &Model, target: &Target, freedom: &Freedom, debugging: &Debugging) -> Done<(Engine, Compiled)> {
    let mut compiled = pipeline::compile(model, target, freedom, debugging)?;
    let plan = &compiled.plan;
    let progress = crate::progress::Progress::start("codegen");
    crate::reproducer::entering("codegen", Some(&compiled.graph));
    let jit =
        compiled.times.measure("codegen", || JitModel::with_weights(plan, target, &freedom.weights)).map_err(codegen_fault)?;
    drop(progress);
    crate::reproducer::entering("execution", Some(&compiled.graph));
    compiled.times.report(debugging)?;
    let side = |list: &[onnxc_ir::plan::Io], ports: &[onnxc_onnx::Port]| Side {
        slots: list.iter().map(|io| (io.name.clone(), io.ty.clone())).collect(),
        ports: ports.to_vec(),
    };
    let (inputs, outputs) = (side(&plan.inputs, &compiled.inputs), side(&plan.outputs, &compiled.outputs));
    Ok((Engine { inputs, outputs, how: How::Jit(Box::new(jit)) }, compiled))
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
                let counts = jit.run(&bytes, &mut outputs, threads).map_err(codegen_fault)?;
                self.outputs.slots.iter().zip(outputs).map(|((_, ty), bytes)| tensor(ty, &counts, bytes)).collect()
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

fn tensor(ty: &TensorType, counts: &DimBindings, bytes: Vec<u8>) -> Done<Tensor> {
    let shape: Option<Vec<u64>> = ty.shape.iter().map(|d| d.bind(counts).as_const()).collect();
    Tensor::from_bytes(ty.dtype, shape.unwrap_or_default(), Bytes::new(bytes))
        .ok_or_else(|| Fault::Internal("an output has the wrong size".to_string()))
}
