//! `lp_normalization`: `x / norm(x)` along one dimension; a row whose norm is 0 gives zeros.
//!
//! Attributes: `axis` (-1), `p` (1: sum of magnitudes; 2, the default: root of the sum of squares).

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{Attrs, DType, Tensor, TensorType};

use super::{TOLERANCE, float_type};
use crate::common::axes::axis;
use crate::common::elements::{f64s, from_f64s};
use crate::common::nest::{ExprExt, compute_type, float, load, select, sqrt, store};
use crate::common::rows::{Rows, offsets};
use crate::common::sample::{data, f32s, int_attrs, plain, sample};
use crate::composed::classic::prepare;

/// The record.
pub(crate) static LP_NORMALIZATION: OpDef = OpDef {
    name: "lp_normalization",
    onnx: &[
        Import { domain: "", name: "LpNormalization", opsets: (1, NEWEST), build: |cx| cx.forward("lp_normalization") },
        prepare::NORMALIZER,
        prepare::SCALER,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: TOLERANCE,
    samples,
};

fn row_axis(attrs: &Attrs, rank: usize) -> OpResult<usize> {
    axis(attrs.int("axis").unwrap_or(-1), rank)
}

fn is_l1(attrs: &Attrs) -> bool {
    attrs.int("p") == Some(1)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float_type(x)?;
    row_axis(cx.attrs, x.rank())?;
    match cx.attrs.int("p").unwrap_or(2) {
        1 | 2 => Ok(vec![x.clone()]),
        p => Err(OpError::new(format!("p is {p}, only 1 and 2 are defined"))),
    }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let mut values = f64s(x)?;
    let (starts, steps) = offsets(x.shape(), &[row_axis(cx.attrs, x.shape().len())?]);
    for start in starts {
        let row = steps.iter().map(|s| values[start + s]);
        let norm = if is_l1(cx.attrs) { row.map(f64::abs).sum() } else { row.map(|v| v * v).sum::<f64>().sqrt() };
        steps.iter().for_each(|s| values[start + s] = if norm == 0.0 { 0.0 } else { values[start + s] / norm });
    }
    Ok(vec![from_f64s(x.dtype(), x.shape(), values)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let shape = x.view.extents();
    let axis = row_axis(cx.attrs, shape.len())?;
    let l1 = is_l1(cx.attrs);
    let t = compute_type(x.dtype);
    Rows::new(&shape, &[axis], vec![x, y]).emit(cx, &mut |row| {
        let (x, y) = (row.arg(0), row.arg(1));
        let sum = row.reduce(BinOp::Add, float(t, 0.0), |cx, at| {
            let e = Expr::Var(cx.let_(load(cx, &x, at)));
            if l1 { Expr::un(UnOp::Abs, e) } else { e.clone().mul(e) }
        });
        let norm = row.let_(if l1 { sum } else { sqrt(sum) });
        let none = Expr::bin(BinOp::Eq, norm.clone(), float(t, 0.0));
        let share = row.let_(select(none, float(t, 0.0), Expr::bin(BinOp::Div, float(t, 1.0), norm)));
        row.each(|cx, at| {
            let e = load(cx, &x, at).mul(share.clone());
            store(cx, &y, at, e);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let at = |axis: i64, p: i64| int_attrs(&[("axis", axis), ("p", p)]);
    let mut all = vec![
        plain(vec![f32s(&[3, 37])]),
        sample(at(-1, 1), vec![f32s(&[3, 37])]),
        sample(at(0, 2), vec![f32s(&[5, 21])]),
        sample(at(1, 1), vec![f32s(&[2, 3, 4, 5])]),
    ];
    all.extend([DType::F64, DType::F16].map(|t| sample(at(1, 2), vec![data(t, &[2, 19])])));
    all
}
