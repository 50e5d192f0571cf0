//! Normalisations: rows of a tensor scaled by their own statistics, and batch normalisation, whose statistics are operands.

mod batch_norm;
mod group_norm;
mod layer_norm;
mod lp_norm;
mod lrn;
mod mean_variance;
mod per_channel;
mod rms_norm;
pub(crate) mod softmax;

pub(crate) use batch_norm::BATCH_NORMALIZATION;
pub(crate) use group_norm::{GROUP_NORMALIZATION, INSTANCE_NORMALIZATION};
pub(crate) use layer_norm::LAYER_NORMALIZATION;
pub(crate) use lp_norm::LP_NORMALIZATION;
pub(crate) use lrn::LRN;
pub(crate) use mean_variance::MEAN_VARIANCE_NORMALIZATION;
pub(crate) use rms_norm::RMS_NORMALIZATION;
pub(crate) use softmax::{LOG_SOFTMAX, SOFTMAX};

use onnxc_ir::lir::Expr;
use onnxc_ir::op::{OpError, OpResult, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{DType, TensorType};

use crate::common::nest::{ExprExt, float, load, sqrt};
use crate::common::rows::Row;

/// Sums in another order, `exp` by a polynomial, a division as a product with the reciprocal.
pub(crate) const TOLERANCE: Tolerance =
    Tolerance { rel: 2e-5, abs: 1e-5, why: "order of summation, polynomial exp, product with a reciprocal" };

/// Refuses types that are not floats of at least 16 bits.
pub(crate) fn float_type(ty: &TensorType) -> OpResult<DType> {
    match ty.dtype {
        t @ (DType::F32 | DType::F64 | DType::F16 | DType::BF16) => Ok(t),
        t => Err(OpError::new(format!("elements of type {t} are not allowed: floats are needed"))),
    }
}

/// Mean and variance of a row of view `x`, in two passes; `share` is one divided by its number of elements.
pub(crate) fn moments(row: &mut Row, x: usize, t: DType, share: Expr) -> (Expr, Expr) {
    let x = row.arg(x);
    let sum = row.reduce(BinOp::Add, float(t, 0.0), |cx, at| load(cx, &x, at));
    let mean = row.let_(sum.mul(share.clone()));
    let squares = row.reduce(BinOp::Add, float(t, 0.0), |cx, at| {
        let d = load(cx, &x, at).minus(mean.clone());
        let d = Expr::Var(cx.let_(d));
        d.clone().mul(d)
    });
    let variance = row.let_(squares.mul(share));
    (mean, variance)
}

/// `1 / sqrt(e + eps)`.
pub(crate) fn inverse_root(row: &mut Row, e: Expr, t: DType, eps: f32) -> Expr {
    let root = sqrt(e.add(float(t, f64::from(eps))));
    row.let_(Expr::bin(BinOp::Div, float(t, 1.0), root))
}

/// Mean and variance in f64, for `eval`.
pub(crate) fn moments_f64(row: &[f64]) -> (f64, f64) {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / row.len() as f64;
    (mean, variance)
}
