//! `SVMRegressor` and `SVMClassifier`.

use std::cmp::Ordering;

use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};
use onnxc_ir::{DType, ValueId};

use super::scores::{Labels, Transform, both, classify};
use super::{features, floats, import, rows, table};
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// The kernel with its parameters.
struct Kernel {
    kind: String,
    gamma: f64,
    start: f64,
    degree: f64,
}

impl Kernel {
    fn of(cx: &dyn ImportCx) -> OpResult<Kernel> {
        let kind = cx.attrs().str("kernel_type").unwrap_or("LINEAR").to_string();
        if !["LINEAR", "POLY", "RBF", "SIGMOID"].contains(&kind.as_str()) {
            return Err(OpError::new(format!("kernel_type {kind:?} is unknown")).help("LINEAR, POLY, RBF or SIGMOID"));
        }
        let params = floats(cx, "kernel_params");
        let param = |i: usize| params.get(i).map_or(0.0, |v| f64::from(*v));
        Ok(Kernel { kind, gamma: param(0), start: param(1), degree: param(2) })
    }

    /// `[rows, vectors]` of rows and vectors `[vectors, features]`.
    fn apply(&self, b: &mut Build, x: ValueId, vectors: ValueId) -> OpResult<ValueId> {
        if self.kind == "RBF" {
            let (x, v) = (b.unsqueeze(x, &[1])?, b.unsqueeze(vectors, &[0])?);
            let apart = b.op("sub", &[x, v])?;
            let square = b.op("mul", &[apart, apart])?;
            let distance = b.sum(square, &[2])?;
            let scaled = scaled(b, "mul", distance, -self.gamma)?;
            return b.op("exp", &[scaled]);
        }
        let dot = b.with("gemm", &[x, vectors], int_attrs(&[("transB", 1)]))?;
        if self.kind == "LINEAR" {
            return Ok(dot);
        }
        let y = scaled(b, "mul", dot, self.gamma)?;
        let y = scaled(b, "add", y, self.start)?;
        if self.kind == "SIGMOID" { b.op("tanh", &[y]) } else { scaled(b, "pow", y, self.degree) }
    }
}

fn scaled(b: &mut Build, op: &str, x: ValueId, by: f64) -> OpResult<ValueId> {
    let by = b.scalar(DType::F32, by)?;
    b.op(op, &[x, by])
}

/// `SVMRegressor`: kernels with the support vectors, weighted, and `rho`; a linear one may have its coefficients only.
pub(crate) const REGRESSOR: Import = import("SVMRegressor", |cx| {
    let (kernel, transform) = (Kernel::of(cx)?, Transform::of(cx)?);
    let one_class = cx.attrs().int("one_class").unwrap_or(0) != 0;
    let (coefficients, rho) = (floats(cx, "coefficients"), floats(cx, "rho"));
    let (count, vectors) = (cx.attrs().int("n_supports").unwrap_or(0), floats(cx, "support_vectors"));
    let [rho] = rho[..] else { return Err(OpError::new(format!("rho has {} elements, one is needed", rho.len()))) };
    let x = rows(cx)?;
    let mut b = Build(cx);
    let width = features(&b, x)?;
    let y = if count > 0 {
        let n = count as u64;
        let vectors = table(&mut b, &[n, width], &vectors)?;
        let k = kernel.apply(&mut b, x, vectors)?;
        let weights = table(&mut b, &[n, 1], &coefficients)?;
        b.op("matmul", &[k, weights])?
    } else {
        let weights = table(&mut b, &[1, width], &coefficients)?;
        kernel.apply(&mut b, x, weights)?
    };
    let y = scaled(&mut b, "add", y, f64::from(rho))?;
    if one_class {
        let (zero, one, minus) = (b.scalar(DType::F32, 0.0)?, b.scalar(DType::F32, 1.0)?, b.scalar(DType::F32, -1.0)?);
        let inside = b.op("greater", &[y, zero])?;
        return Ok(vec![b.op("where", &[inside, one, minus])?]);
    }
    Ok(vec![transform.of_targets(&mut b, y)?])
});

/// `SVMClassifier`: one against one, the class with most votes; or a linear score for each class.
pub(crate) const CLASSIFIER: Import = import("SVMClassifier", |cx| {
    let (kernel, transform) = (Kernel::of(cx)?, Transform::of(cx)?);
    let labels = Labels::of(cx, "classlabels_ints")?.several()?;
    let counts = cx.attrs().ints("vectors_per_class").unwrap_or_default().to_vec();
    if counts.iter().all(|n| *n == 0) {
        return linear(cx, &labels, transform);
    }
    let logistic = (floats(cx, "prob_a"), floats(cx, "prob_b"));
    let logistic = (!logistic.0.is_empty()).then_some(logistic);
    let x = rows(cx)?;
    let scores = one_against_one(cx, &kernel, x, labels.count(), &counts)?;
    let mut b = Build(cx);
    let label = elected(&mut b, scores, &labels)?;
    let shown = if let Some(logistic) = logistic {
        let p = probabilities(&mut b, scores, labels.count(), &logistic)?;
        transform.of_scores(&mut b, p)?
    } else if labels.count() == 2 {
        both(&mut b, scores, transform, transform != Transform::None)?
    } else {
        transform.of_scores(&mut b, scores)?
    };
    Ok(vec![label, shown])
});

/// A row of coefficients for each class, and one `rho`.
fn linear(cx: &mut dyn ImportCx, labels: &Labels, transform: Transform) -> OpResult<Vec<ValueId>> {
    let (coefficients, rho) = (floats(cx, "coefficients"), floats(cx, "rho"));
    if labels.count() < 3 {
        return Err(OpError::new("a linear support vector machine of two classes without support vectors is not supported")
            .help("export it as a LinearClassifier"));
    }
    let x = rows(cx)?;
    let mut b = Build(cx);
    let width = features(&b, x)?;
    let weights = table(&mut b, &[labels.count() as u64, width], &coefficients)?;
    let scores = b.with("gemm", &[x, weights], int_attrs(&[("transB", 1)]))?;
    let scores = scaled(&mut b, "add", scores, rho.first().map_or(0.0, |r| f64::from(*r)))?;
    classify(&mut b, scores, labels, transform)
}

/// The pairs of classes, in the order of their scores.
fn pairs(classes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..classes).flat_map(move |i| (i + 1..classes).map(move |j| (i, j)))
}

const MOST_CLASSES: usize = 256;
const MOST_WEIGHTS: u64 = 1 << 28;

/// Scores of the pairs of classes, above 0 for the first of the pair: the kernels with the vectors of both classes, each weighted by the coefficient that
/// the vector has against the other class.
fn one_against_one(cx: &mut dyn ImportCx, kernel: &Kernel, x: ValueId, classes: usize, counts: &[i64]) -> OpResult<ValueId> {
    let (vectors, coefficients, rho) = (floats(cx, "support_vectors"), floats(cx, "coefficients"), floats(cx, "rho"));
    let mut b = Build(cx);
    let width = features(&b, x)?;
    let total = counts.iter().try_fold(0i64, |sum, n| if *n < 0 { None } else { sum.checked_add(*n) });
    let total = total.map_or(u64::MAX, |n| n as u64);
    let wanted = total.checked_mul(classes as u64 - 1);
    if counts.len() != classes || wanted != Some(coefficients.len() as u64) || rho.len() != classes * (classes - 1) / 2 {
        let (c, r) = (coefficients.len(), rho.len());
        return Err(OpError::new(format!("{c} coefficients and {r} rho do not fit {classes} classes with {counts:?} vectors")));
    }
    // The tables below are larger than the lists of the model by a factor of the number of classes.
    if classes > MOST_CLASSES || total.saturating_mul(rho.len() as u64) > MOST_WEIGHTS {
        return Err(OpError::new(format!("a support vector machine of {classes} classes and {total} vectors is not supported"))
            .help(format!("up to {MOST_CLASSES} classes are, and {MOST_WEIGHTS} pairs of vectors and scores")));
    }
    let (vectors, n) = (table(&mut b, &[total, width], &vectors)?, total as usize);
    let class_of: Vec<usize> = counts.iter().enumerate().flat_map(|(class, n)| std::iter::repeat_n(class, *n as usize)).collect();
    let weight = |v: usize, (i, j): (usize, usize)| match class_of[v] {
        c if c == i => coefficients[(j - 1) * n + v],
        c if c == j => coefficients[i * n + v],
        _ => 0.0,
    };
    let weights: Vec<f32> = (0..n).flat_map(|v| pairs(classes).map(move |p| (v, p))).map(|(v, p)| weight(v, p)).collect();
    let weights = table(&mut b, &[total, rho.len() as u64], &weights)?;
    let start = table(&mut b, &[rho.len() as u64], &rho)?;
    let kernels = kernel.apply(&mut b, x, vectors)?;
    b.op("gemm", &[kernels, weights, start])
}

/// Probabilities of the classes from the scores of the pairs, each through its own logistic function `1 / (1 + exp(a * score + b))`.
fn probabilities(b: &mut Build, scores: ValueId, classes: usize, (slope, offset): &(Vec<f32>, Vec<f32>)) -> OpResult<ValueId> {
    let n = classes * (classes - 1) / 2;
    let (slope, offset) = (table(b, &[n as u64], slope)?, table(b, &[n as u64], offset)?);
    let product = b.op("mul", &[scores, slope])?;
    let sum = b.op("add", &[product, offset])?;
    let minus = b.op("neg", &[sum])?;
    let first = b.op("sigmoid", &[minus])?;
    let (low, high) = (b.scalar(DType::F32, 1e-7)?, b.scalar(DType::F32, f64::from(1.0 - 1e-7f32))?);
    let first = b.op("clip", &[first, low, high])?;
    let one = b.scalar(DType::F32, 1.0)?;
    let second = b.op("sub", &[one, first])?;
    // Of both, the one that a place of the square takes; the diagonal takes any.
    let both = b.concat(&[first, second], 1)?;
    let number = |i: usize, j: usize| i * (2 * classes - i - 1) / 2 + (j - i - 1);
    let source = |i: usize, j: usize| match i.cmp(&j) {
        Ordering::Less => number(i, j),
        Ordering::Equal => 0,
        Ordering::Greater => n + number(j, i),
    };
    let places: Vec<i64> = (0..classes * classes).map(|at| source(at / classes, at % classes) as i64).collect();
    let places = b.ints(&places);
    let square = b.with("gather", &[both, places], int_attrs(&[("axis", 1)]))?;
    // The number of rows need not be known.
    let shape = b.ints(&[0, classes as i64, classes as i64]);
    let square = b.op("reshape", &[square, shape])?;
    b.op("pairwise_coupling", &[square])
}

/// The label of the class that wins most pairs, the first of equals.
fn elected(b: &mut Build, scores: ValueId, labels: &Labels) -> OpResult<ValueId> {
    let classes = labels.count();
    // A pair votes for its second class, and where its score is above 0 for its first one instead.
    let changes = pairs(classes).flat_map(|(i, j)| (0..classes).map(move |c| f32::from(c == i) - f32::from(c == j)));
    let (changes, n) = (changes.collect::<Vec<f32>>(), (classes * (classes - 1) / 2) as u64);
    let seconds: Vec<f32> = (0..classes).map(|c| c as f32).collect();
    let (changes, seconds) = (table(b, &[n, classes as u64], &changes)?, table(b, &[classes as u64], &seconds)?);
    let zero = b.scalar(DType::F32, 0.0)?;
    let first = b.op("greater", &[scores, zero])?;
    let first = b.cast(first, DType::F32)?;
    let votes = b.op("gemm", &[first, changes, seconds])?;
    labels.by_place(b, votes)
}
