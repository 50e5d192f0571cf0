//! `group_normalization` and `instance_normalization`: `(x - mean) / sqrt(variance + epsilon) * scale + bias`, statistics over each sample's groups of
//! neighbouring channels and all of space.
//!
//! Inputs: x `[N, C, ...]`, scale and bias, one value per channel (or one per group: opset 18). Attributes: `num_groups` (instance normalisation has one
//! group per channel), `epsilon` (1e-5).

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use super::layer_norm::epsilon;
use super::{TOLERANCE, float_type, inverse_root, moments, moments_f64, per_channel};
use crate::common::elements::{f64s, from_f64s};
use crate::common::nest::{self, ExprExt, compute_type, load, store};
use crate::common::rows::Rows;
use crate::common::sample::{const_f32s, data, f32s, int_attrs, plain, sample};

/// The record of group normalisation.
pub(crate) static GROUP_NORMALIZATION: OpDef = OpDef {
    name: "group_normalization",
    onnx: &[Import {
        domain: "",
        name: "GroupNormalization",
        opsets: (18, NEWEST),
        build: |cx| cx.forward("group_normalization"),
    }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: TOLERANCE,
    samples: group_samples,
};

/// The record of instance normalisation.
pub(crate) static INSTANCE_NORMALIZATION: OpDef = OpDef {
    name: "instance_normalization",
    onnx: &[Import {
        domain: "",
        name: "InstanceNormalization",
        opsets: (6, NEWEST),
        build: |cx| cx.forward("instance_normalization"),
    }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: TOLERANCE,
    samples: instance_samples,
};

/// Groups of `channels` channels: one for each without the attribute.
fn groups(attrs: &Attrs, channels: u64) -> u64 {
    attrs.int("num_groups").map_or(channels, |g| g.max(1) as u64)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float_type(x)?;
    let channels = x.shape.get(1).ok_or_else(|| OpError::new(format!("x is {x}; it needs a dimension of channels")))?;
    if let Some(g) = cx.attrs.int("num_groups")
        && (g < 1 || channels.as_const().is_some_and(|c| c % g as u64 != 0))
    {
        return Err(OpError::new(format!("{channels} channels do not divide into {g} groups")));
    }
    let count = groups(cx.attrs, channels.as_const().unwrap_or(0));
    for (i, what) in ["scale", "bias"].into_iter().enumerate() {
        let ty = cx.input(i + 1)?;
        let per_group = ty.shape == [Dim::Const(count)];
        per_channel::check(what, ty, if per_group { &ty.shape[0] } else { channels })?;
    }
    Ok(vec![x.clone()])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let mut values = f64s(x)?;
    let (scale, bias) = (f64s(cx.input(1))?, f64s(cx.input(2))?);
    let (batch, channels) = (x.shape()[0] as usize, x.shape()[1] as usize);
    let space = x.shape()[2..].iter().product::<u64>() as usize;
    let groups = groups(cx.attrs, channels as u64) as usize;
    let group = channels / groups * space;
    for row in 0..if group > 0 { batch * groups } else { 0 } {
        let part = &mut values[row * group..][..group];
        let (mean, variance) = moments_f64(part);
        let root = (variance + f64::from(epsilon(cx.attrs))).sqrt();
        for (i, v) in part.iter_mut().enumerate() {
            let channel = row % groups * (channels / groups) + i / space;
            let k = |list: &[f64]| if list.len() == channels { list[channel] } else { list[row % groups] };
            *v = (*v - mean) / root * k(&scale) + k(&bias);
        }
    }
    Ok(vec![from_f64s(x.dtype(), x.shape(), values)?])
}

/// `[N, C, ...]` as `[N, groups, C / groups, ...]`.
fn split(arg: &Arg, groups: u64) -> Arg {
    let v = &arg.view;
    let each = v.shape[1] / groups;
    let n = v.extents();
    let shape = [&[n[0].clone(), groups.into(), each.into()], &n[2..]].concat();
    let strides = [&[v.strides[0], v.strides[1] * each as i64, v.strides[1]], &v.strides[2..]].concat();
    Arg { view: nest::view(&shape, strides, v.offset), ..arg.clone() }
}

/// A vector of values per channel or per group as a view of the split shape.
fn split_vector(arg: &Arg, shape: &[u64]) -> Arg {
    let mut view = per_channel::view(arg, shape, 1);
    if arg.view.shape[0] == shape[1] * shape[2] {
        view.view.strides[1] = arg.view.strides[0] * shape[2] as i64;
        view.view.strides[2] = arg.view.strides[0];
    }
    view
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    nest::fixed(cx, 0, [1])?;
    nest::fixed(cx, 1, [0])?;
    nest::fixed(cx, 2, [0])?;
    let groups = groups(cx.attrs, cx.input(0).view.shape[1]);
    if groups == 0 {
        return Ok(());
    }
    let (x, y) = (split(&cx.input(0), groups), split(&cx.output(0), groups));
    let shape = x.view.shape.clone();
    let eps = epsilon(cx.attrs);
    let t = compute_type(x.dtype);
    let axes: Vec<usize> = (2..shape.len()).collect();
    let (scale, bias) = (split_vector(&cx.input(1), &shape), split_vector(&cx.input(2), &shape));
    let rows = Rows::new(&x.view.extents(), &axes, vec![x, y, scale, bias]);
    let share = rows.share(cx, t);
    rows.emit(cx, &mut |row| {
        let (mean, variance) = moments(row, 0, t, share.clone());
        let inverse = inverse_root(row, variance, t, eps);
        let [x, y, scale, bias] = [0, 1, 2, 3].map(|i| row.arg(i));
        row.each(|cx, at| {
            let centred = load(cx, &x, at).minus(mean.clone()).mul(inverse.clone());
            let [k, b] = [&scale, &bias].map(|a| Box::new(cx.load(a, at).cast_from(a.dtype, t)));
            store(cx, &y, at, Expr::Fma(Box::new(centred), k, b));
        });
    });
    Ok(())
}

fn instance_samples() -> Vec<Sample> {
    let case = |t: DType, shape: &[u64], c: u64| plain(vec![data(t, shape), data(t, &[c]), data(t, &[c])]);
    let mut all = vec![
        case(DType::F32, &[2, 3, 5, 7], 3),
        case(DType::F32, &[1, 17, 6, 6], 17),
        plain(vec![f32s(&[2, 4, 33]), const_f32s(&[4]), const_f32s(&[4])]),
    ];
    all.extend([DType::F64, DType::F16].map(|t| case(t, &[2, 3, 19], 3)));
    all
}

fn group_samples() -> Vec<Sample> {
    let attrs = |g: i64| int_attrs(&[("num_groups", g)]).with("epsilon", Attr::Float(0.01));
    let case = |g: i64, shape: &[u64], n: u64| sample(attrs(g), vec![f32s(shape), f32s(&[n]), f32s(&[n])]);
    vec![
        case(2, &[2, 6, 5, 7], 6),
        case(2, &[2, 6, 5, 7], 2),
        case(1, &[3, 4, 9], 4),
        case(4, &[1, 4, 3, 3], 4),
        case(3, &[2, 12], 12),
        sample(attrs(2), vec![data(DType::F16, &[2, 4, 9]), data(DType::F16, &[4]), data(DType::F16, &[4])]),
    ]
}
