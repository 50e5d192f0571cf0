//! `batch_normalization`: `(x - mean) / sqrt(variance + epsilon) * scale + bias` with one value of each per channel (dimension 1).
//!
//! Inputs: x, scale, bias, mean, variance. Attribute: `epsilon` (1e-5). Only the inference form is an operator; training mode becomes reductions on
//! import. With constant operands the canonicalize phase turns it into a product and a sum, or folds it into a convolution, before it gets here.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use super::layer_norm::epsilon;
use super::{TOLERANCE, float_type, inverse_root, per_channel};
use crate::common::elements::{f64s, for_coords, from_f64s};
use crate::common::import::{attrs_without, ints};
use crate::common::nest::{ExprExt, compute_type, load, store};
use crate::common::rows::Rows;
use crate::common::sample::{const_f32s, data, data_in, f32s, plain, sample};

/// The record.
pub(crate) static BATCH_NORMALIZATION: OpDef = OpDef {
    name: "batch_normalization",
    onnx: &[Import { domain: "", name: "BatchNormalization", opsets: (1, NEWEST), build: import }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: TOLERANCE,
    samples,
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    if cx.attrs().int("spatial").unwrap_or(1) == 0 {
        return Err(OpError::new("spatial = 0 is not supported")
            .help("export the model with opset 9 or later, where statistics are per channel"));
    }
    let training = cx.attrs().int("training_mode").unwrap_or(0) != 0;
    let momentum = cx.attrs().float("momentum").unwrap_or(0.9);
    let attrs = attrs_without(cx, &["training_mode", "momentum", "spatial", "is_test", "consumed_inputs"]);
    let inputs = (0..5).map(|i| cx.input(i)).collect::<OpResult<Vec<_>>>()?;
    if training { train(cx, &inputs, attrs, momentum) } else { Ok(vec![cx.node1("batch_normalization", &inputs, attrs)?]) }
}

/// Statistics of the batch itself, and the running ones moved toward them.
fn train(cx: &mut dyn ImportCx, inputs: &[ValueId], attrs: Attrs, momentum: f32) -> OpResult<Vec<ValueId>> {
    let x = inputs[0];
    let (rank, statistic) = (cx.graph().ty(x).rank() as i64, cx.graph().ty(inputs[3]).dtype);
    let others: Vec<i64> = (0..rank).filter(|d| *d != 1).collect();
    let axes = ints(cx, &others);
    let keep = |k: i64| Attrs::default().with("keepdims", Attr::Int(k));
    let to = Attrs::default().with("to", Attr::Type(statistic));
    let wide = cx.node1("cast", &[x], to)?;
    let centre = cx.node1("reduce_mean", &[wide, axes], keep(1))?;
    let distance = cx.node1("sub", &[wide, centre], Attrs::default())?;
    let square = cx.node1("mul", &[distance, distance], Attrs::default())?;
    let mean = cx.node1("reduce_mean", &[wide, axes], keep(0))?;
    let variance = cx.node1("reduce_mean", &[square, axes], keep(0))?;
    let y = cx.node1("batch_normalization", &[x, inputs[1], inputs[2], mean, variance], attrs)?;
    let mut out = vec![y];
    for (old, new) in [(inputs[3], mean), (inputs[4], variance)] {
        let (a, b) = (constant(cx, statistic, momentum)?, constant(cx, statistic, 1.0 - momentum)?);
        let old = cx.node1("mul", &[old, a], Attrs::default())?;
        let new = cx.node1("mul", &[new, b], Attrs::default())?;
        out.push(cx.node1("add", &[old, new], Attrs::default())?);
    }
    Ok(out)
}

fn constant(cx: &mut dyn ImportCx, dtype: DType, value: f32) -> OpResult<ValueId> {
    Ok(cx.constant(from_f64s(dtype, &[], [f64::from(value)])?))
}

/// Number of channels: dimension 1, or 1 for tensors without it.
fn channels(shape: &[Dim]) -> Dim {
    shape.get(1).cloned().unwrap_or(Dim::Const(1))
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float_type(x)?;
    for (i, what) in ["scale", "bias", "mean", "variance"].into_iter().enumerate() {
        per_channel::check(what, cx.input(i + 1)?, &channels(&x.shape))?;
    }
    Ok(vec![x.clone()])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let mut values = f64s(x)?;
    let [scale, bias, mean, variance] = [1, 2, 3, 4].map(|i| f64s(cx.input(i)));
    let (scale, bias, mean, variance) = (scale?, bias?, mean?, variance?);
    let mut i = 0;
    for_coords(x.shape(), |at| {
        let c = at.get(1).copied().unwrap_or(0);
        let root = (variance[c] + f64::from(epsilon(cx.attrs))).sqrt();
        values[i] = (values[i] - mean[c]) / root * scale[c] + bias[c];
        i += 1;
    });
    Ok(vec![from_f64s(x.dtype(), x.shape(), values)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let x = cx.input(0);
    let (shape, extents) = (x.view.shape.clone(), x.view.extents());
    per_channel::same(cx, 1..5, &extents[1])?;
    let eps = epsilon(cx.attrs);
    let t = compute_type(x.dtype);
    let mut views = vec![x, cx.output(0)];
    views.extend((1..5).map(|i| per_channel::view(&cx.input(i), &shape, 1)));
    let axes: Vec<usize> = (2..shape.len()).collect();
    Rows::new(&extents, &axes, views).emit(cx, &mut |row| {
        let [scale, bias, mean, variance] = [2, 3, 4, 5].map(|i| row.load_as(i, t));
        let inverse = inverse_root(row, variance, t, eps);
        let factor = row.let_(scale.mul(inverse));
        let shift = row.let_(bias.minus(mean.mul(factor.clone())));
        let (x, y) = (row.arg(0), row.arg(1));
        row.each(|cx, at| {
            let e = Expr::Fma(Box::new(load(cx, &x, at)), Box::new(factor.clone()), Box::new(shift.clone()));
            store(cx, &y, at, e);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let variance = |t: DType, n: u64| data_in(t, &[n], 0.1, 2.0);
    let case = |t: DType, shape: &[u64], c: u64| {
        plain(vec![data(t, shape), data(t, &[c]), data(t, &[c]), data(t, &[c]), variance(t, c)])
    };
    let mut all = vec![
        case(DType::F32, &[2, 5, 6, 7], 5),
        case(DType::F32, &[3, 21], 21),
        case(DType::F32, &[1, 3, 40], 3),
        sample(
            Attrs::default().with("epsilon", Attr::Float(0.01)),
            vec![f32s(&[2, 3, 4]), const_f32s(&[3]), const_f32s(&[3]), const_f32s(&[3]), const_f32s(&[3])],
        ),
    ];
    all.extend([DType::F64, DType::F16, DType::BF16].map(|t| case(t, &[2, 3, 9], 3)));
    all
}
