//! `average_pool`: the mean of each window, over the elements inside or (`count_include_pad`) also over the padding as zeros.

use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpResult, Sample, Tolerance};
use onnxc_ir::{Attr, Tensor, TensorType};

use super::{common as pool, lower as pool_lower};
use crate::common::elements::{f64s, from_f64s};
use crate::common::{float, sample};

pub(crate) static AVERAGE_POOL: OpDef = OpDef {
    name: "average_pool",
    onnx: &[Import { domain: "", name: "AveragePool", opsets: (1, NEWEST), build: |cx| cx.forward("average_pool") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(pool_lower::average),
    tolerance: Tolerance::SUMS,
    samples,
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    float::check(cx.input(0)?.dtype, "average pooling")?;
    Ok(vec![pool::infer(cx)?])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let win = pool::window(cx.attrs, x.shape())?;
    let pads = pool::declared_pads(cx.attrs, &win);
    let include = cx.attrs.int("count_include_pad").unwrap_or(0) != 0;
    let values = f64s(x)?;
    let mut y = Vec::new();
    pool::windows(x.shape(), &win, |o, inside| {
        let sum: f64 = inside.iter().map(|i| values[*i]).sum();
        y.push(sum / pool::divisor(&win, o, inside.len(), &pads, include));
    });
    Ok(vec![from_f64s(x.dtype(), &cx.out_shape(0), y)?])
}

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for (attrs, x) in pool::sample_cases() {
        all.push(sample::sample(attrs.clone(), vec![sample::f32s(&x)]));
        all.push(sample::sample(attrs.with("count_include_pad", Attr::Int(1)), vec![sample::f32s(&x)]));
    }
    let (attrs, x) = pool::sample_cases().swap_remove(1);
    all.push(sample::sample(attrs, vec![sample::data(onnxc_ir::DType::F16, &x)]));
    all
}
