//! From raw scores to the results of classifiers and regressors: post transforms and labels.

use onnxc_ir::op::{ImportCx, OpError, OpResult};
use onnxc_ir::{Attr, Tensor, ValueId};

use crate::common::sample::int_attrs;
use crate::composed::Build;

/// The attribute `post_transform`.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Transform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

impl Transform {
    pub(crate) fn of(cx: &dyn ImportCx) -> OpResult<Transform> {
        Ok(match cx.attrs().str("post_transform").unwrap_or("NONE") {
            "NONE" | "" => Transform::None,
            "LOGISTIC" => Transform::Logistic,
            "SOFTMAX" => Transform::Softmax,
            "SOFTMAX_ZERO" => Transform::SoftmaxZero,
            "PROBIT" => Transform::Probit,
            other => return Err(OpError::new(format!("post_transform {other:?} is unknown"))),
        })
    }

    /// Of several scores.
    pub(crate) fn of_scores(self, b: &mut Build, scores: ValueId) -> OpResult<ValueId> {
        match self {
            Transform::None => Ok(scores),
            Transform::Logistic => b.op("sigmoid", &[scores]),
            Transform::Softmax => b.with("softmax", &[scores], int_attrs(&[("axis", 1)])),
            Transform::SoftmaxZero => softmax_zero(b, scores),
            Transform::Probit => probit(b, scores),
        }
    }

    /// Of the targets of a regressor: a single one has no other to be compared with, and is left alone.
    pub(crate) fn of_targets(self, b: &mut Build, y: ValueId) -> OpResult<ValueId> {
        let single = b.ty(y).shape.last().is_some_and(|d| d.is_one());
        if single && self != Transform::Probit { Ok(y) } else { self.of_scores(b, y) }
    }
}

/// A softmax in which scores of zero stay zero.
fn softmax_zero(b: &mut Build, scores: ValueId) -> OpResult<ValueId> {
    let (tiny, zero, axes) = (b.scalar(b.dtype(scores), 1e-7)?, b.scalar(b.dtype(scores), 0.0)?, b.ints(&[1]));
    let size = b.op("abs", &[scores])?;
    let counts = b.op("greater", &[size, tiny])?;
    let most = b.with("reduce_max", &[scores, axes], int_attrs(&[("keepdims", 1)]))?;
    let apart = b.op("sub", &[scores, most])?;
    let exp = b.op("exp", &[apart])?;
    let kept = b.op("where", &[counts, exp, zero])?;
    let sum = b.with("reduce_sum", &[kept, axes], int_attrs(&[("keepdims", 1)]))?;
    b.op("div", &[kept, sum])
}

/// `sqrt(2) * erfinv(2x - 1)` by the approximation of Winitzki ("A handy approximation for the error function and its inverse", 2008), with$
/// constants of ONNX Runtime.
fn probit(b: &mut Build, x: ValueId) -> OpResult<ValueId> {
    let dtype = b.dtype(x);
    let k = |b: &mut Build, op: &str, x: ValueId, value: f64| {
        let value = b.scalar(dtype, value)?;
        b.op(op, &[x, value])
    };
    const A: f64 = 0.147;
    let twice = k(b, "mul", x, 2.0)?;
    let t = k(b, "sub", twice, 1.0)?;
    let one = b.scalar(dtype, 1.0)?;
    let (below, above) = (b.op("sub", &[one, t])?, b.op("add", &[one, t])?);
    let product = b.op("mul", &[below, above])?;
    let log = b.op("log", &[product])?;
    let half = k(b, "mul", log, 0.5)?;
    let v = k(b, "add", half, 2.0 / (std::f64::consts::PI * A))?;
    let (square, scaled) = (b.op("mul", &[v, v])?, k(b, "mul", log, 1.0 / A)?);
    let inside = b.op("sub", &[square, scaled])?;
    let root = b.op("sqrt", &[inside])?;
    let rest = b.op("sub", &[root, v])?;
    let size = b.op("sqrt", &[rest])?;
    let zero = b.scalar(dtype, 0.0)?;
    let (negative, minus) = (b.op("less", &[t, zero])?, b.op("neg", &[size])?);
    let y = b.op("where", &[negative, minus, size])?;
    k(b, "mul", y, std::f64::consts::SQRT_2)
}

/// Integers that name the classes.
pub(crate) struct Labels(Vec<i64>);

impl Labels {
    /// From the attribute `name`; strings are refused.
    pub(crate) fn of(cx: &dyn ImportCx, name: &str) -> OpResult<Labels> {
        if matches!(cx.attrs().get("classlabels_strings"), Some(Attr::Strs(s)) if !s.is_empty()) {
            return Err(OpError::new("labels that are strings are not supported")
                .help("train with integers as labels, or cut the labels off and take the largest score outside"));
        }
        Ok(Labels(cx.attrs().ints(name).unwrap_or_default().to_vec()))
    }

    /// Refuses fewer than two.
    pub(crate) fn several(self) -> OpResult<Labels> {
        if self.0.len() < 2 {
            return Err(OpError::new(format!("{} labels of classes: at least two are needed", self.0.len())));
        }
        Ok(self)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Two labels by whether the score `[rows, 1]` is above `limit`; 0 and 1 where none are given.
    pub(crate) fn by_sign(&self, b: &mut Build, score: ValueId, limit: f64) -> OpResult<ValueId> {
        let (no, yes) = if let [no, yes] = self.0[..] { (no, yes) } else { (0, 1) };
        let limit = b.scalar(b.dtype(score), limit)?;
        let above = b.op("greater", &[score, limit])?;
        let above = b.squeeze(above, &[1])?;
        let (yes, no) = (b.0.constant(Tensor::scalar(yes)), b.0.constant(Tensor::scalar(no)));
        b.op("where", &[above, yes, no])
    }

    /// The label at the place of the first largest score.
    pub(crate) fn by_place(&self, b: &mut Build, scores: ValueId) -> OpResult<ValueId> {
        let ty = b.ty(scores);
        if ty.shape.last().and_then(|d| d.as_const()) != Some(self.0.len() as u64) {
            return Err(OpError::new(format!("{} labels for scores {ty}", self.0.len())));
        }
        let place = b.with("arg_max", &[scores], int_attrs(&[("axis", 1), ("keepdims", 0)]))?;
        let labels = b.ints(&self.0);
        b.with("gather", &[labels, place], int_attrs(&[("axis", 0)]))
    }
}

/// Labels and transformed scores of several classes.
pub(crate) fn classify(b: &mut Build, scores: ValueId, labels: &Labels, transform: Transform) -> OpResult<Vec<ValueId>> {
    Ok(vec![labels.by_place(b, scores)?, transform.of_scores(b, scores)?])
}

/// Labels and scores of two classes from one score `[rows, 1]`. One that is compared with a half, or comes from a linear model, is a probability; else
/// it has a sign.
pub(crate) fn binary(b: &mut Build, score: ValueId, labels: &Labels, transform: Transform, limit: f64) -> OpResult<Vec<ValueId>> {
    let label = labels.by_sign(b, score, limit)?;
    Ok(vec![label, both(b, score, transform, limit != 0.0)?])
}

/// The scores of both classes from that of the second.
pub(crate) fn both(b: &mut Build, score: ValueId, transform: Transform, probability: bool) -> OpResult<ValueId> {
    let minus = b.op("neg", &[score])?;
    let pair = match transform {
        Transform::Logistic => [b.op("sigmoid", &[minus])?, b.op("sigmoid", &[score])?],
        Transform::Probit => {
            return Err(OpError::new("post_transform PROBIT for two classes of one score is not supported")
                .help("ONNX Runtime leaves the second score undefined; export with post_transform NONE"));
        }
        _ if probability => {
            let one = b.scalar(b.dtype(score), 1.0)?;
            [b.op("sub", &[one, score])?, score]
        }
        _ => [minus, score],
    };
    b.concat(&pair, 1)
}
