//! `identity`, and ONNX `Dropout` as it is in inference: nothing is dropped.

use onnxc_ir::op::{Import, ImportCx, Lower, NEWEST, OpDef, OpError, OpResult, Tolerance};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attr, Attrs, DType, ValueId};

use crate::common::elements::from_scalars;
use crate::common::sample::{data, f32s, plain};

/// `identity`
pub(crate) static IDENTITY: OpDef = OpDef {
    name: "identity",
    onnx: &[
        Import { domain: "", name: "Identity", opsets: (1, NEWEST), build: |cx| cx.forward("identity") },
        Import { domain: "", name: "Dropout", opsets: (1, NEWEST), build: dropout },
    ],
    infer: |cx| Ok(vec![cx.input(0)?.clone()]),
    infer_dims: Some(|cx| cx.as_sizes(0)),
    eval: |cx| Ok(vec![cx.input(0).clone()]),
    lower: Lower::View(|_, view, _, _| Some(view.clone())),
    tolerance: Tolerance::EXACT,
    samples: || {
        vec![
            plain(vec![f32s(&[3, 5])]),
            plain(vec![data(DType::I64, &[])]),
            plain(vec![data(DType::I4, &[3])]),
            plain(vec![f32s(&[0, 2])]),
        ]
    },
};

/// ONNX `Dropout` in inference: the operand, and a mask of ones.
fn dropout(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let x = cx.input(0)?;
    if let Some(training) = cx.opt_input(2) {
        let off = cx.graph().constant(training).and_then(|t| t.to_i64s()).is_some_and(|v| v.iter().all(|x| *x == 0));
        if !off {
            return Err(OpError::new("training mode is not supported").help("export the model for inference"));
        }
    }
    let mut results = cx.node("identity", &[Some(x)], Attrs::default())?;
    if cx.n_outputs() > 1 {
        let dtype = if cx.opset() < 10 { cx.ty(0)?.dtype } else { DType::Bool };
        let one = from_scalars(dtype, &[1], [Scalar::Int(1)])?;
        let shape = cx.node1("shape", &[x], Attrs::default())?;
        results.push(cx.node1("constant_of_shape", &[shape], Attrs::default().with("value", Attr::Tensor(one)))?);
    }
    Ok(results)
}
