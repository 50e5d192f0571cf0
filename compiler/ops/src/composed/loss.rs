//! ONNX `NegativeLogLikelihoodLoss` and `SoftmaxCrossEntropyLoss`: each target's log-probability, negated and weighted.
//!
//! Targets equal to `ignore_index` count nothing; a mean divides by the sum of the weights.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, ValueId};

use super::Build;
use crate::common::sample::int_attrs;

/// ONNX `NegativeLogLikelihoodLoss`.
pub(crate) const NEGATIVE_LOG_LIKELIHOOD: Import = Import {
    domain: "",
    name: "NegativeLogLikelihoodLoss",
    opsets: (12, NEWEST),
    build: |cx| {
        let x = cx.input(0)?;
        Ok(vec![likelihood(cx, x)?])
    },
};

/// ONNX `SoftmaxCrossEntropyLoss`.
pub(crate) const CROSS_ENTROPY: Import = Import {
    domain: "",
    name: "SoftmaxCrossEntropyLoss",
    opsets: (12, NEWEST),
    build: |cx| {
        let x = cx.input(0)?;
        let log = cx.node1("log_softmax", &[x], int_attrs(&[("axis", 1)]))?;
        Ok(vec![likelihood(cx, log)?, log])
    },
};

fn likelihood(cx: &mut dyn ImportCx, x: ValueId) -> OpResult<ValueId> {
    let (targets, weights) = (cx.input(1)?, cx.opt_input(2));
    let (ignore, reduction) = (cx.attrs().int("ignore_index"), cx.attrs().str("reduction").unwrap_or("mean").to_string());
    let mut b = Build(cx);
    let (dtype, rank) = (b.dtype(x), b.ty(targets).rank() as i64);
    if b.ty(x).rank() as i64 != rank + 1 {
        return Err(OpError::new(format!("scores are {} and targets {}: one dimension more is needed", b.ty(x), b.ty(targets))));
    }
    let (mut class, mut ignored) = (targets, None);
    if let Some(index) = ignore {
        let t = b.dtype(targets);
        // The ignored index need not be a class.
        let (index, zero) = (b.scalar(t, index as f64)?, b.scalar(t, 0.0)?);
        let is = b.op("equal", &[targets, index])?;
        class = b.op("where", &[is, zero, targets])?;
        ignored = Some(is);
    }
    let place = b.unsqueeze(class, &[1])?;
    let chosen = b.with("gather_elements", &[x, place], int_attrs(&[("axis", 1)]))?;
    let chosen = b.squeeze(chosen, &[1])?;
    let mut loss = b.op("neg", &[chosen])?;
    let mut weight = match weights {
        Some(w) => Some(b.with("gather", &[w, class], int_attrs(&[("axis", 0)]))?),
        None => None,
    };
    if let Some(is) = ignored {
        let (zero, one) = (b.scalar(dtype, 0.0)?, b.scalar(dtype, 1.0)?);
        weight = Some(b.op("where", &[is, zero, weight.unwrap_or(one)])?);
    }
    if let Some(w) = weight {
        loss = b.op("mul", &[loss, w])?;
    }
    let all: Vec<i64> = (0..rank).collect();
    match (reduction.as_str(), weight) {
        ("none", _) => Ok(loss),
        ("sum", _) => b.sum(loss, &all),
        ("mean", Some(w)) => {
            let (total, count) = (b.sum(loss, &all)?, b.sum(w, &all)?);
            b.op("div", &[total, count])
        }
        ("mean", None) => {
            let axes = b.ints(&all);
            b.with("reduce_mean", &[loss, axes], Attrs::default().with("keepdims", Attr::Int(0)))
        }
        (other, _) => Err(OpError::new(format!("reduction {other:?} is unknown")).help("none, sum or mean")),
    }
}
