//! `LinearRegressor` and `LinearClassifier`.

use onnxc_ir::ValueId;
use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};

use super::scores::{Labels, Transform, both, classify};
use super::{features, floats, import, rows, table};
use crate::common::sample::int_attrs;
use crate::composed::Build;

pub(crate) const REGRESSOR: Import = import("LinearRegressor", |cx| {
    let (n, transform) = (cx.attrs().int("targets").unwrap_or(1), Transform::of(cx)?);
    let y = scores(cx, n)?;
    Ok(vec![transform.of_targets(&mut Build(cx), y)?])
});

/// `LinearClassifier`; its number of scores is that of the intercepts, one for two classes or one for each.
pub(crate) const CLASSIFIER: Import = import("LinearClassifier", |cx| {
    let (labels, transform) = (Labels::of(cx, "classlabels_ints")?, Transform::of(cx)?);
    let given = floats(cx, "intercepts").len();
    let n = if given == 0 { labels.count() } else { given };
    let y = scores(cx, n as i64)?;
    let mut b = Build(cx);
    match (n, labels.count()) {
        (1, 2) => Ok(vec![labels.by_sign(&mut b, y, 0.0)?, both(&mut b, y, transform, true)?]),
        (1, 0) => Ok(vec![labels.by_sign(&mut b, y, 0.0)?, transform.of_targets(&mut b, y)?]),
        _ => classify(&mut b, y, &labels, transform),
    }
});

/// `x * coefficients' + intercepts` with a row of coefficients for each of `n` targets.
fn scores(cx: &mut dyn ImportCx, n: i64) -> OpResult<ValueId> {
    let (coefficients, intercepts) = (floats(cx, "coefficients"), floats(cx, "intercepts"));
    let n =
        u64::try_from(n).ok().filter(|n| *n > 0).ok_or_else(|| OpError::new(format!("{n} targets: at least one is needed")))?;
    let x = rows(cx)?;
    let mut b = Build(cx);
    let width = features(&b, x)?;
    let weights = table(&mut b, &[n, width], &coefficients)?;
    let mut inputs = vec![x, weights];
    if !intercepts.is_empty() {
        inputs.push(table(&mut b, &[n], &intercepts)?);
    }
    b.with("gemm", &inputs, int_attrs(&[("transB", 1)]))
}
