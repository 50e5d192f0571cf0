//! `hardmax`: 1 at the first largest element of each row and 0 elsewhere. Attributes as `softmax` has them.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType};

use crate::arg_extreme::{find, find_in_row};
use crate::common::elements::{from_f64s, scalars};
use crate::common::nest::{compute_type, float, select, store};
use crate::common::rows::{Rows, offsets, position, positions};
use crate::common::sample::{data, f32s, int_attrs, sample};
use crate::normalization::float_type;
use crate::normalization::softmax::{import_flat, row_axes};

/// The record.
pub(crate) static HARDMAX: OpDef = OpDef {
    name: "hardmax",
    onnx: &[
        Import { domain: "", name: "Hardmax", opsets: (1, 12), build: |cx| import_flat(cx, "hardmax") },
        Import { domain: "", name: "Hardmax", opsets: (13, NEWEST), build: |cx| cx.forward("hardmax") },
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float_type(x)?;
    row_axes(cx.attrs, x.rank())?;
    Ok(vec![x.clone()])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let values = scalars(x)?;
    let mut out = vec![0.0; values.len()];
    let (starts, steps) = offsets(x.shape(), &row_axes(cx.attrs, x.shape().len())?);
    for start in starts {
        if !steps.is_empty() {
            out[start + steps[find(true, false, steps.iter().map(|s| values[start + s]))]] = 1.0;
        }
    }
    Ok(vec![from_f64s(x.dtype(), x.shape(), out)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let shape = x.view.shape.clone();
    let axes = row_axes(cx.attrs, shape.len())?;
    let places = positions(cx, &shape, &axes);
    let t = compute_type(x.dtype);
    Rows::new(&x.view.extents(), &axes, vec![x, y, places]).emit(cx, &mut |row| {
        let index = find_in_row(row, 2, true, false);
        let (y, places) = (row.arg(1), row.arg(2));
        row.each(|cx, at| {
            let here = Expr::bin(BinOp::Eq, position(cx, &places, at), index.clone());
            store(cx, &y, at, select(here, float(t, 1.0), float(t, 0.0)));
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let at = |axis: i64| int_attrs(&[("axis", axis)]);
    vec![
        sample(Attrs::default(), vec![f32s(&[3, 37])]),
        sample(at(0), vec![f32s(&[7, 21])]),
        sample(at(1), vec![f32s(&[2, 11, 3, 5])]),
        sample(at(1).with("flatten", Attr::Int(1)), vec![f32s(&[2, 3, 4, 5])]),
        sample(at(1), vec![data(DType::F64, &[2, 9])]),
        sample(at(1), vec![data(DType::F16, &[2, 9])]),
    ]
}
