//! `expand`: broadcast to a shape, which itself broadcasts with the operand's.

use onnxc_ir::op::{Extent, Extents, Import, InferCx, Lower, NEWEST, OpDef, OpResult, Tolerance, View};
use onnxc_ir::{DType, Dim, TensorType};

use crate::at_run_time::{self, or_counted};
use crate::common::axes::unknown;
use crate::common::broadcast::broadcast;
use crate::common::sample::{data, f32s, ints, plain};
use crate::common::views::eval_view;

/// `expand`
pub(crate) static EXPAND: OpDef = OpDef {
    name: "expand",
    onnx: &[Import {
        domain: "",
        name: "Expand",
        opsets: (8, NEWEST),
        build: |cx| or_counted(cx, |cx| cx.forward("expand"), at_run_time::expand),
    }],
    infer,
    infer_dims: Some(|cx| {
        let n = infer(cx).ok()?[0].shape.first()?.as_const()? as usize;
        let dims = cx.as_dims(0).filter(|d| d.len() == 1 && cx.constant(0).is_none() && n <= 64)?;
        Some(vec![dims[0].clone(); n])
    }),
    eval: |cx| {
        let x = cx.input(0);
        let view = expanded(&View::contiguous(x.shape()), &cx.out_shape(0).extents());
        Ok(vec![eval_view(x, &view)])
    },
    lower: Lower::View(|_, view, to, _| Some(expanded(view, to))),
    tolerance: Tolerance::EXACT,
    samples: || {
        vec![
            plain(vec![f32s(&[3, 1]), ints(&[2, 1, 6])]),
            plain(vec![f32s(&[]), ints(&[4])]),
            plain(vec![f32s(&[2, 3]), ints(&[1])]),
            plain(vec![data(DType::Bool, &[1, 5]), ints(&[0, 5])]),
            plain(vec![data(DType::I2, &[1, 3]), ints(&[3, 3])]),
        ]
    },
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let target: Vec<Dim> = cx.as_dims(1).ok_or_else(|| unknown("the shape"))?;
    Ok(vec![TensorType::new(x.dtype, broadcast(&[&x.shape, &target])?)])
}

fn expanded(view: &View, to: &[Extent]) -> View {
    let lead = to.len() - view.shape.len();
    let stride = |d: usize| if d < lead || view.extent(d - lead).is_one() { 0 } else { view.strides[d - lead] };
    let strides = (0..to.len()).map(stride).collect();
    let out = View { shape: to.iter().map(|n| n.bound).collect(), open: Vec::new(), strides, offset: view.offset };
    out.with_open(to.iter().map(|n| n.open.clone()).collect())
}
