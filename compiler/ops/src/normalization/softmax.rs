//! `softmax` and `log_softmax`: `exp(x - max) / sum(exp(x - max))` over one dimension, and its logarithm.
//!
//! Attributes: `axis` (-1 if absent); with `flatten` = 1 the sum runs over that dimension and all after it, which is what opsets before 13 meant.
//! With `narrow` = 1 `softmax` rounds differences, exponentials and their sum to the element type: what `Attention` asks for.
//! Three passes over a row: the largest element, exponentials and their sum, the product with the sum's reciprocal.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpResult, Sample};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use super::{TOLERANCE, float_type};
use crate::common::axes::axis;
use crate::common::elements::{f64s, from_f64s};
use crate::common::nest::{ExprExt, compute_type, float, load, store};
use crate::common::rows::{Row, Rows, accumulate, offsets};
use crate::common::sample::{data, data_in, f32s, int_attrs, sample};

macro_rules! softmax {
    ($id:ident $name:literal $onnx:literal $log:literal) => {
        #[doc = concat!("`", $name, "`")]
        pub(crate) static $id: OpDef = OpDef {
            name: $name,
            onnx: &[
                Import { domain: "", name: $onnx, opsets: (1, 12), build: |cx| import_flat(cx, $name) },
                Import { domain: "", name: $onnx, opsets: (13, NEWEST), build: |cx| cx.forward($name) },
            ],
            infer,
            infer_dims: None,
            eval: |cx| eval(cx, $log),
            lower: Lower::OpenNest(|cx| lower(cx, $log)),
            tolerance: TOLERANCE,
            samples,
        };
    };
}

softmax!(SOFTMAX "softmax" "Softmax" false);
softmax!(LOG_SOFTMAX "log_softmax" "LogSoftmax" true);

/// Opsets before 13: the tensor is flattened to a matrix at the axis, 1 by default.
pub(crate) fn import_flat(cx: &mut dyn ImportCx, name: &str) -> OpResult<Vec<ValueId>> {
    let ty = cx.ty(0)?;
    let at = axis(cx.attrs().int("axis").unwrap_or(1).min(ty.rank() as i64 - 1), ty.rank())?;
    let plain = ty.shape[at + 1..].iter().all(Dim::is_one);
    let attrs = int_attrs(&[("axis", at as i64)]);
    let attrs = if plain { attrs } else { attrs.with("flatten", Attr::Int(1)) };
    cx.node(name, &[Some(cx.input(0)?)], attrs)
}

/// The dimensions of a row.
pub(crate) fn row_axes(attrs: &Attrs, rank: usize) -> OpResult<Vec<usize>> {
    if rank == 0 {
        return Ok(Vec::new());
    }
    let at = axis(attrs.int("axis").unwrap_or(-1), rank)?;
    Ok((at..if attrs.int("flatten") == Some(1) { rank } else { at + 1 }).collect())
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float_type(x)?;
    row_axes(cx.attrs, x.rank())?;
    Ok(vec![x.clone()])
}

fn eval(cx: &EvalCx, log: bool) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let mut values = f64s(x)?;
    let narrow = !log && cx.attrs.int("narrow") == Some(1);
    let round = |v: f64| if narrow { Scalar::Float(v).rounded(x.dtype()).float() } else { v };
    let (starts, steps) = offsets(x.shape(), &row_axes(cx.attrs, x.shape().len())?);
    for start in starts {
        let row: Vec<f64> = steps.iter().map(|s| values[start + s]).collect();
        let top = row.iter().fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(*b) });
        let exp = |v: &f64| round(round(v - top).exp());
        let sum = round(row.iter().map(exp).sum());
        for (s, v) in steps.iter().zip(row) {
            values[start + s] = if log { v - top - sum.ln() } else { exp(&v) / sum };
        }
    }
    Ok(vec![from_f64s(x.dtype(), x.shape(), values)?])
}

fn lower(cx: &mut LowerCx, log: bool) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let extents = x.view.extents();
    let rows = Rows::new(&extents, &row_axes(cx.attrs, extents.len())?, vec![x, y]);
    let narrow = !log && cx.attrs.int("narrow") == Some(1);
    rows.emit(cx, &mut |row| if narrow { one_narrow_row(row) } else { one_row(row, log) });
    Ok(())
}

/// With each step rounded to the element type; the sum is rounded once.
fn one_narrow_row(row: &mut Row) {
    let (x, y) = (row.arg(0), row.arg(1));
    let (t, narrow) = (compute_type(x.dtype), y.dtype);
    let rounded = move |e: Expr| e.cast_from(t, narrow).cast_from(narrow, t);
    let top = row.reduce(BinOp::Max, float(t, f64::NEG_INFINITY), |cx, at| load(cx, &x, at));
    let sum = row.start(float(t, 0.0));
    row.each(|cx, at| {
        let distance = rounded(load(cx, &x, at).minus(top.clone()));
        let e = Expr::Var(cx.let_(rounded(Expr::un(UnOp::ExpNonPositive, distance))));
        store(cx, &y, at, e.clone());
        accumulate(cx, sum, BinOp::Add, e);
    });
    let sum = row.let_(rounded(Expr::Var(sum)));
    row.each(|cx, at| {
        let e = load(cx, &y, at);
        store(cx, &y, at, Expr::bin(BinOp::Div, e, sum.clone()));
    });
}

fn one_row(row: &mut Row, log: bool) {
    let (x, y) = (row.arg(0), row.arg(1));
    let t = compute_type(x.dtype);
    let top = row.reduce(BinOp::Max, float(t, f64::NEG_INFINITY), |cx, at| load(cx, &x, at));
    // Exponentials wait in the result where it holds them without loss.
    let keep = !log && y.dtype == t;
    let sum = row.start(float(t, 0.0));
    row.each(|cx, at| {
        let mut e = Expr::un(UnOp::ExpNonPositive, load(cx, &x, at).minus(top.clone()));
        if keep {
            e = Expr::Var(cx.let_(e));
            store(cx, &y, at, e.clone());
        }
        accumulate(cx, sum, BinOp::Add, e);
    });
    if log {
        let log_sum = row.let_(Expr::un(UnOp::Log, Expr::Var(sum)));
        return row.each(|cx, at| {
            let e = load(cx, &x, at).minus(top.clone()).minus(log_sum.clone());
            store(cx, &y, at, e);
        });
    }
    let share = row.let_(Expr::bin(BinOp::Div, float(t, 1.0), Expr::Var(sum)));
    row.each(|cx, at| {
        let e = if keep { load(cx, &y, at) } else { Expr::un(UnOp::ExpNonPositive, load(cx, &x, at).minus(top.clone())) };
        store(cx, &y, at, e.mul(share.clone()));
    });
}

fn samples() -> Vec<Sample> {
    let at = |axis: i64| int_attrs(&[("axis", axis)]);
    let mut all = vec![
        sample(Attrs::default(), vec![f32s(&[5])]),
        sample(Attrs::default(), vec![f32s(&[3, 37])]),
        sample(at(0), vec![f32s(&[7, 21])]),
        sample(at(1), vec![f32s(&[2, 11, 3, 5])]),
        sample(at(-1), vec![data_in(DType::F32, &[4, 1000], -50.0, 90.0)]),
        sample(at(1).with("flatten", Attr::Int(1)), vec![f32s(&[2, 3, 4, 5])]),
        sample(at(0).with("flatten", Attr::Int(1)), vec![f32s(&[2, 3, 4])]),
        sample(at(1), vec![f32s(&[2, 1, 3])]),
        sample(at(1), vec![f32s(&[2, 0, 3])]),
    ];
    all.extend([DType::F16, DType::BF16].map(|t| sample(at(1).with("narrow", Attr::Int(1)), vec![data(t, &[2, 19])])));
    all.extend([DType::F64, DType::F16, DType::BF16].map(|t| sample(at(1), vec![data(t, &[2, 19])])));
    all
}
