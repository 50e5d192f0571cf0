//! `mean_variance_normalization`: `(x - mean) / (deviation + 1e-9)`, statistics over the dimensions `axes` (0, 2 and 3 if absent).

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpResult, Sample};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType};

use super::{TOLERANCE, float_type, moments, moments_f64};
use crate::common::axes::axes;
use crate::common::elements::{f64s, from_f64s};
use crate::common::nest::{ExprExt, compute_type, float, load, sqrt, store};
use crate::common::rows::{Rows, offsets};
use crate::common::sample::{data, f32s, plain, sample};

/// The record.
pub(crate) static MEAN_VARIANCE_NORMALIZATION: OpDef = OpDef {
    name: "mean_variance_normalization",
    onnx: &[Import {
        domain: "",
        name: "MeanVarianceNormalization",
        opsets: (9, NEWEST),
        build: |cx| cx.forward("mean_variance_normalization"),
    }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: TOLERANCE,
    samples,
};

/// What keeps the quotient finite (ONNX MeanVarianceNormalization-13).
const EPSILON: f64 = 1e-9;

fn row_axes(attrs: &Attrs, rank: usize) -> OpResult<Vec<usize>> {
    axes(attrs.ints("axes").unwrap_or(&[0, 2, 3]), rank)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float_type(x)?;
    row_axes(cx.attrs, x.rank())?;
    Ok(vec![x.clone()])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let mut values = f64s(x)?;
    let (starts, steps) = offsets(x.shape(), &row_axes(cx.attrs, x.shape().len())?);
    for start in starts {
        let row: Vec<f64> = steps.iter().map(|s| values[start + s]).collect();
        let (mean, variance) = moments_f64(&row);
        steps.iter().zip(row).for_each(|(s, v)| values[start + s] = (v - mean) / (variance.sqrt() + EPSILON));
    }
    Ok(vec![from_f64s(x.dtype(), x.shape(), values)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let shape = x.view.extents();
    let t = compute_type(x.dtype);
    let rows = Rows::new(&shape, &row_axes(cx.attrs, shape.len())?, vec![x, y]);
    let share = rows.share(cx, t);
    rows.emit(cx, &mut |row| {
        let (mean, variance) = moments(row, 0, t, share.clone());
        let deviation = sqrt(variance).add(float(t, EPSILON));
        let inverse = row.let_(Expr::bin(BinOp::Div, float(t, 1.0), deviation));
        let (x, y) = (row.arg(0), row.arg(1));
        row.each(|cx, at| {
            let e = load(cx, &x, at).minus(mean.clone()).mul(inverse.clone());
            store(cx, &y, at, e);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let at = |axes: &[i64]| Attrs::default().with("axes", Attr::Ints(axes.to_vec()));
    let mut all = vec![
        plain(vec![f32s(&[2, 3, 5, 7])]),
        sample(at(&[2, 3]), vec![f32s(&[2, 3, 5, 7])]),
        sample(at(&[0, -1]), vec![f32s(&[4, 6, 9])]),
        sample(at(&[0]), vec![f32s(&[6, 33])]),
    ];
    all.extend([DType::F64, DType::F16].map(|t| sample(at(&[1]), vec![data(t, &[2, 19])])));
    all
}
