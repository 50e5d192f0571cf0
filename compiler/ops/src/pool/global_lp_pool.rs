//! `global_lp_pool`: the p-norm of all elements of each channel.

use onnxc_ir::op::{EvalCx, Import, Lower, NEWEST, OpDef, OpResult, Sample, Tolerance};
use onnxc_ir::{DType, Tensor};

use super::lp_pool::{exponent, norm};
use super::{common as pool, lower as pool_lower};
use crate::common::elements::{f64s, from_f64s};
use crate::common::sample;

pub(crate) static GLOBAL_LP_POOL: OpDef = OpDef {
    name: "global_lp_pool",
    onnx: &[Import { domain: "", name: "GlobalLpPool", opsets: (2, NEWEST), build: |cx| cx.forward("global_lp_pool") }],
    infer: pool::infer_global,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(pool_lower::global_lp),
    tolerance: Tolerance::SUMS,
    samples,
};

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let (values, p) = (f64s(x)?, exponent(cx.attrs)?);
    let mut y = Vec::new();
    pool::windows(x.shape(), &pool::global_window(x.shape()), |_, inside| {
        y.push(norm(inside.iter().map(|i| values[*i]), p));
    });
    Ok(vec![from_f64s(x.dtype(), &cx.out_shape(0), y)?])
}

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for shape in [&[1u64, 3, 5, 7][..], &[2, 40, 7, 7], &[2, 5, 9], &[1, 2, 3, 4, 5], &[3, 1, 1, 1], &[1, 1280, 4, 4], &[2, 3]] {
        all.push(sample::plain(vec![sample::f32s(shape)]));
    }
    all.push(sample::plain(vec![sample::data(DType::F16, &[1, 3, 4, 4])]));
    all
}
