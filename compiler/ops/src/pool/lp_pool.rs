//! `lp_pool`: the p-norm of each window.

use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::{Attr, Attrs, Tensor, TensorType};

use super::{common as pool, lower as pool_lower};
use crate::common::elements::{f64s, from_f64s};
use crate::common::{float, sample};

pub(crate) static LP_POOL: OpDef = OpDef {
    name: "lp_pool",
    onnx: &[Import { domain: "", name: "LpPool", opsets: (2, NEWEST), build: |cx| cx.forward("lp_pool") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(pool_lower::lp),
    tolerance: Tolerance::SUMS,
    samples,
};

/// The exponent.
pub(crate) fn exponent(attrs: &Attrs) -> OpResult<i64> {
    let p = attrs.int("p").unwrap_or(2);
    if p < 1 { Err(OpError::new(format!("p = {p} must be positive"))) } else { Ok(p) }
}

/// The p-norm of `values`.
pub(crate) fn norm(values: impl Iterator<Item = f64>, p: i64) -> f64 {
    values.map(|v| v.abs().powi(p as i32)).sum::<f64>().powf(1.0 / p as f64)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    float::check(cx.input(0)?.dtype, "pooling")?;
    exponent(cx.attrs)?;
    Ok(vec![pool::infer(cx)?])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let win = pool::window(cx.attrs, x.shape())?;
    let (values, p) = (f64s(x)?, exponent(cx.attrs)?);
    let mut y = Vec::new();
    pool::windows(x.shape(), &win, |_, inside| y.push(norm(inside.iter().map(|i| values[*i]), p)));
    Ok(vec![from_f64s(x.dtype(), &cx.out_shape(0), y)?])
}

fn samples() -> Vec<Sample> {
    let case = |(i, (attrs, x)): (usize, (Attrs, Vec<u64>))| {
        sample::sample(attrs.with("p", Attr::Int(1 + i as i64 % 3)), vec![sample::f32s(&x)])
    };
    pool::sample_cases().into_iter().enumerate().map(case).collect()
}
