//! `require`: its first operand, if the second one, a bool, holds when the model runs; otherwise the inference ends with `ONNXC_DATA`.
//!
//! The importer adds it where sizes that the model declares depend on data ([`crate::at_run_time`]).
//! The planner makes a test between two steps of it.

use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, SampleInput, Tolerance};
use onnxc_ir::{DType, Dim, Tensor, TensorType};

use crate::common::sample::{f32s, plain};

/// `require`
pub(crate) static REQUIRE: OpDef = OpDef {
    name: "require",
    onnx: &[],
    infer,
    infer_dims: Some(|cx| cx.as_sizes(0)),
    eval,
    lower: Lower::View(|_, view, _, _| Some(view.clone())),
    tolerance: Tolerance::EXACT,
    samples: || vec![plain(vec![f32s(&[3, 5]), Some(SampleInput::Const(Tensor::scalar(true)))])],
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let ok = cx.input(1)?;
    if ok.dtype != DType::Bool || !ok.shape.iter().all(Dim::is_one) {
        return Err(OpError::new(format!("what is required is {ok}, it must be one bool")));
    }
    Ok(vec![cx.input(0)?.clone()])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    match cx.input(1).to_i64s().as_deref() {
        Some([0]) => Err(OpError::new("the data contradicts the sizes that the model declares")),
        _ => Ok(vec![cx.input(0).clone()]),
    }
}
