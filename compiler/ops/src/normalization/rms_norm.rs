//! `rms_normalization`: `x / sqrt(mean(x*x) + epsilon) * scale`, the mean over the dimensions from `axis` on.
//!
//! Inputs: x, scale, broadcast to x. Attributes: `axis` (-1), `epsilon` (1e-5). The result has the scale's element type.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpResult, Sample};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{DType, Tensor, TensorType};

use super::layer_norm::{apply_affine, check_operand, epsilon, row_axes};
use super::{TOLERANCE, float_type, inverse_root};
use crate::common::elements::{f64s, from_f64s};
use crate::common::nest::{self, ExprExt, compute_type, float, load};
use crate::common::rows::{Rows, offsets, spread};
use crate::common::sample::{const_f32s, data, f32s, int_attrs, sample};
use crate::composed::contrib::transformer::{SIMPLIFIED, SKIP_SIMPLIFIED};

/// The record.
pub(crate) static RMS_NORMALIZATION: OpDef = OpDef {
    name: "rms_normalization",
    onnx: &[
        Import { domain: "", name: "RMSNormalization", opsets: (23, NEWEST), build: |cx| cx.forward("rms_normalization") },
        SIMPLIFIED,
        SKIP_SIMPLIFIED,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: TOLERANCE,
    samples,
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    float_type(x)?;
    row_axes(cx.attrs, x.rank())?;
    check_operand("the scale", scale, x)?;
    Ok(vec![TensorType::new(scale.dtype, x.shape.clone())])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let mut values = f64s(x)?;
    let (starts, steps) = offsets(x.shape(), &row_axes(cx.attrs, x.shape().len())?);
    for start in starts {
        let squares: f64 = steps.iter().map(|s| values[start + s] * values[start + s]).sum();
        let inverse = 1.0 / (squares / steps.len() as f64 + f64::from(epsilon(cx.attrs))).sqrt();
        steps.iter().for_each(|s| values[start + s] *= inverse);
    }
    apply_affine(cx, x.shape(), &mut values, (1, usize::MAX))?;
    Ok(vec![from_f64s(cx.outputs[0].dtype, x.shape(), values)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let (shape, extents) = (x.view.shape.clone(), x.view.extents());
    nest::broadcasts(cx, 1, &x.view)?;
    let eps = epsilon(cx.attrs);
    let t = compute_type(x.dtype);
    let scale = spread(&cx.input(1), &shape);
    let rows = Rows::new(&extents, &row_axes(cx.attrs, shape.len())?, vec![x, y, scale]);
    let share = rows.share(cx, t);
    rows.emit(cx, &mut |row| {
        let (x, y, scale) = (row.arg(0), row.arg(1), row.arg(2));
        let squares = row.reduce(BinOp::Add, float(t, 0.0), |cx, at| {
            let e = load(cx, &x, at);
            let e = Expr::Var(cx.let_(e));
            e.clone().mul(e)
        });
        let inverse = inverse_root(row, squares.mul(share.clone()), t, eps);
        row.each(|cx, at| {
            let k = cx.load(&scale, at).cast_from(scale.dtype, t);
            let e = load(cx, &x, at).mul(inverse.clone()).mul(k).cast_from(t, y.dtype);
            cx.store(&y, at, e);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let at = |axis: i64| int_attrs(&[("axis", axis)]);
    let mut all = vec![
        sample(at(-1), vec![f32s(&[3, 37]), const_f32s(&[37])]),
        sample(at(1), vec![f32s(&[2, 3, 4, 5]), f32s(&[3, 4, 5])]),
        sample(at(-2), vec![f32s(&[2, 3, 4]), f32s(&[4])]),
        sample(at(-1), vec![data(DType::F16, &[2, 9]), data(DType::F32, &[9])]),
    ];
    all.extend([DType::F64, DType::F16, DType::BF16].map(|t| sample(at(1), vec![data(t, &[2, 19]), data(t, &[19])])));
    all
}
