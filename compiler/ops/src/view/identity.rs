//! `identity`, and `dropout` as it is in inference: nothing is dropped.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{Import, ImportCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::{Attrs, DType, Tensor, TensorType, ValueId};

use crate::common::nest::{fill, int};
use crate::common::sample::{data, f32s, plain};

/// `identity`
pub(crate) static IDENTITY: OpDef = OpDef {
    name: "identity",
    onnx: &[Import { domain: "", name: "Identity", opsets: (1, NEWEST), build: |cx| cx.forward("identity") }],
    infer: |cx| Ok(vec![cx.input(0)?.clone()]),
    infer_dims: Some(|cx| cx.as_dims(0)),
    eval: |cx| Ok(vec![cx.input(0).clone()]),
    lower: Lower::View(|_, view, _, _| Some(view.clone())),
    tolerance: Tolerance::EXACT,
    samples: || vec![plain(vec![f32s(&[3, 5])]), plain(vec![data(DType::I64, &[])]), plain(vec![f32s(&[0, 2])])],
};

/// `dropout`: the operand, and a mask of ones. Without a used mask it is imported as `identity`.
pub(crate) static DROPOUT: OpDef = OpDef {
    name: "dropout",
    onnx: &[Import { domain: "", name: "Dropout", opsets: (7, NEWEST), build: import }],
    infer: |cx| {
        let x = cx.input(0)?.clone();
        let mask = TensorType::new(DType::Bool, x.shape.clone());
        Ok(vec![x, mask])
    },
    infer_dims: None,
    eval: |cx| {
        let x = cx.input(0);
        Ok(vec![x.clone(), Tensor::from_vec(x.shape(), vec![true; x.len()])])
    },
    lower: Lower::Nest(lower),
    tolerance: Tolerance::EXACT,
    samples: || vec![Sample { attrs: Attrs::default(), inputs: vec![f32s(&[3, 5])], n_outputs: 2 }],
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let x = cx.input(0)?;
    if let Some(training) = cx.opt_input(2) {
        let off = cx.graph().constant(training).and_then(|t| t.to_i64s()).is_some_and(|v| v.iter().all(|x| *x == 0));
        if !off {
            return Err(OpError::new("training mode is not supported").help("export the model for inference"));
        }
    }
    let op = if cx.n_outputs() > 1 { "dropout" } else { "identity" };
    cx.node(op, &[Some(x)], Attrs::default())
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    cx.copy(&x, &y);
    if cx.outputs.len() > 1 {
        let mask = cx.output(1);
        cx.for_(LoopKind::Serial, 1, |cx, _: Expr| fill(cx, &mask, &int(DType::Bool, 1)));
    }
    Ok(())
}
