//! `layer_normalization`: `(x - mean) / sqrt(variance + epsilon) * scale + bias`, statistics over the dimensions from `axis` on.
//!
//! Inputs: x, scale and optionally bias, both broadcast to x. Attributes: `axis` (-1), `epsilon` (1e-5). Results: y, and if wanted the mean and
//! `1 / sqrt(variance + epsilon)`, with extents of 1 along the row. Three passes over a row: mean, variance, result.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample};
use onnxc_ir::scalar_eval::broadcast_strides;
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use super::{TOLERANCE, float_type, inverse_root, moments, moments_f64};
use crate::common::axes::axis;
use crate::common::elements::{f64s, for_coords, from_f64s, offset};
use crate::common::nest::{self, ExprExt, compute_type, load, store};
use crate::common::rows::{Rows, offsets, spread, spread_reduced};
use crate::common::sample::{const_f32s, data, f32s, int_attrs, sample};
use crate::composed::contrib::transformer;

/// The record.
pub(crate) static LAYER_NORMALIZATION: OpDef = OpDef {
    name: "layer_normalization",
    onnx: &[
        Import { domain: "", name: "LayerNormalization", opsets: (1, NEWEST), build: |cx| cx.forward("layer_normalization") },
        transformer::SKIP_LAYER_NORMALIZATION,
        transformer::EMBED,
        transformer::BIAS_ADD,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: TOLERANCE,
    samples,
};

/// The dimensions of a row.
pub(crate) fn row_axes(attrs: &Attrs, rank: usize) -> OpResult<Vec<usize>> {
    Ok((axis(attrs.int("axis").unwrap_or(-1), rank)?..rank).collect())
}

pub(crate) fn epsilon(attrs: &Attrs) -> f32 {
    attrs.float("epsilon").unwrap_or(1e-5)
}

/// Refuses an operand that does not broadcast to x.
pub(crate) fn check_operand(what: &str, ty: &TensorType, x: &TensorType) -> OpResult<()> {
    float_type(ty)?;
    let lead = x.rank().checked_sub(ty.rank());
    let fits = lead.is_some_and(|lead| {
        ty.shape
            .iter()
            .zip(&x.shape[lead..])
            .all(|(a, b)| a.is_one() || a == b || a.as_const().is_none() || b.as_const().is_none())
    });
    if fits { Ok(()) } else { Err(OpError::new(format!("{what} is {ty}, which does not broadcast to {x}"))) }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let dtype = float_type(x)?;
    let axes = row_axes(cx.attrs, x.rank())?;
    check_operand("the scale", cx.input(1)?, x)?;
    if let Some(b) = cx.opt(2) {
        check_operand("the bias", b, x)?;
    }
    let shape = x.shape.iter().enumerate().map(|(d, n)| if axes.contains(&d) { Dim::Const(1) } else { n.clone() }).collect();
    let statistic = TensorType::new(compute_type(dtype), shape);
    Ok([x.clone(), statistic.clone(), statistic].into_iter().take(cx.n_outputs.max(1)).collect())
}

/// Multiplies by operand `scale` and adds operand `bias`, both broadcast to `shape`.
pub(crate) fn apply_affine(cx: &EvalCx, shape: &[u64], values: &mut [f64], (scale, bias): (usize, usize)) -> OpResult<()> {
    let operand = |i: usize| -> OpResult<Option<(Vec<f64>, Vec<usize>)>> {
        let Some(t) = cx.opt(i) else { return Ok(None) };
        let strides = broadcast_strides(t.shape(), shape).ok_or_else(|| OpError::new("an operand does not broadcast to x"))?;
        Ok(Some((f64s(t)?, strides.into_iter().map(|s| s as usize).collect())))
    };
    let (scale, bias) = (operand(scale)?, operand(bias)?);
    let mut i = 0;
    for_coords(shape, |at| {
        let get = |o: &Option<(Vec<f64>, Vec<usize>)>, none: f64| o.as_ref().map_or(none, |(v, s)| v[offset(at, s)]);
        values[i] = values[i] * get(&scale, 1.0) + get(&bias, 0.0);
        i += 1;
    });
    Ok(())
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let mut values = f64s(x)?;
    let (starts, steps) = offsets(x.shape(), &row_axes(cx.attrs, x.shape().len())?);
    let (mut means, mut inverses) = (Vec::new(), Vec::new());
    for start in starts {
        let row: Vec<f64> = steps.iter().map(|s| values[start + s]).collect();
        let (mean, variance) = moments_f64(&row);
        let inverse = 1.0 / (variance + f64::from(epsilon(cx.attrs))).sqrt();
        steps.iter().zip(row).for_each(|(s, v)| values[start + s] = (v - mean) * inverse);
        means.push(mean);
        inverses.push(inverse);
    }
    apply_affine(cx, x.shape(), &mut values, (1, 2))?;
    let all = [values, means, inverses].into_iter().zip(cx.outputs).enumerate();
    all.map(|(i, (v, ty))| from_f64s(ty.dtype, &cx.out_shape(i), v)).collect()
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let x = cx.input(0);
    let (shape, extents) = (x.view.shape.clone(), x.view.extents());
    nest::broadcasts(cx, 1, &x.view)?;
    let axes = row_axes(cx.attrs, shape.len())?;
    let eps = epsilon(cx.attrs);
    let t = compute_type(x.dtype);
    let mut views = vec![x, cx.output(0)];
    let mut view = |arg: Option<onnxc_ir::lower::Arg>| {
        views.extend(arg);
        views.len() - 1
    };
    let scale = view(Some(spread(&cx.input(1), &shape)));
    let bias = cx.opt(2).map(|b| view(Some(spread(&b, &shape))));
    let statistics: Vec<usize> = cx.outputs.iter().skip(1).map(|o| view(Some(spread_reduced(o, &shape, &axes)))).collect();
    let rows = Rows::new(&extents, &axes, views);
    let share = rows.share(cx, t);
    rows.emit(cx, &mut |row| {
        let (mean, variance) = moments(row, 0, t, share.clone());
        let inverse = inverse_root(row, variance, t, eps);
        for (i, value) in statistics.iter().zip([&mean, &inverse]) {
            row.store(*i, value.clone());
        }
        let (x, y, scale, bias) = (row.arg(0), row.arg(1), row.arg(scale), bias.map(|b| row.arg(b)));
        row.each(|cx, at| {
            let centred = load(cx, &x, at).minus(mean.clone()).mul(inverse.clone());
            let k = cx.load(&scale, at).cast_from(scale.dtype, t);
            let e = match &bias {
                Some(b) => Expr::Fma(Box::new(centred), Box::new(k), Box::new(cx.load(b, at).cast_from(b.dtype, t))),
                None => centred.mul(k),
            };
            store(cx, &y, at, e);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let at = |axis: i64| int_attrs(&[("axis", axis)]);
    let mut all = vec![
        sample(at(-1), vec![f32s(&[3, 37]), const_f32s(&[37])]),
        sample(at(-1), vec![f32s(&[2, 5, 64]), const_f32s(&[64]), const_f32s(&[64])]),
        sample(at(1), vec![f32s(&[2, 3, 4, 5]), f32s(&[3, 4, 5]), f32s(&[3, 4, 5])]),
        sample(at(0).with("epsilon", Attr::Float(0.1)), vec![f32s(&[4, 6]), f32s(&[6]), f32s(&[1])]),
        Sample { n_outputs: 3, ..sample(at(2), vec![f32s(&[2, 3, 4, 5]), f32s(&[4, 5]), f32s(&[4, 5])]) },
        Sample { n_outputs: 2, ..sample(at(-1), vec![f32s(&[6, 3]), f32s(&[3])]) },
    ];
    all.extend(
        [DType::F64, DType::F16, DType::BF16].map(|t| sample(at(1), vec![data(t, &[2, 19]), data(t, &[19]), data(t, &[19])])),
    );
    all
}
