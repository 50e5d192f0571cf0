//! `attention`: `softmax(scores(q * k)) * v` over the last dimension of the scores, which are never in memory as a whole.
//!
//! Operands: q `[.., m, d]`, k `[.., d, n]` (transposed, as the product needs it), v `[.., n, e]`, then those of the program; all broadcast as those of
//! `matmul` do. Attribute: `scores`, a program over a product (`a0`) and operands that broadcast to `[.., m, n]` (`a1`, ...): scale, mask, bias; the
//! products themselves without it. Result: `[.., m, e]`. No ONNX operator becomes this one on import: a pass puts it together from matrix products and
//! a softmax, whichever operator or exporter they are from.

mod lower;

use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, scalar_eval};

use crate::common::elements::{f64s, from_f64s};
use crate::common::{broadcast, sample};
use crate::matmul::shapes;

/// The record.
pub(crate) static ATTENTION: OpDef = OpDef {
    name: "attention",
    onnx: &[],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::Nest(lower::lower),
    tolerance: Tolerance::SUMS,
    samples,
};

/// Operands before those of the program.
pub(crate) const OWN: usize = 3;
/// The attribute with the program.
pub(crate) const SCORES: &str = "scores";

/// The program over products, the identity where there is none.
fn program(attrs: &Attrs) -> ScalarProgram {
    attrs.program(SCORES).cloned().unwrap_or_else(|| {
        let mut identity = ScalarProgram::default();
        identity.arg(0, DType::F32);
        identity
    })
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if [q, k, v].iter().any(|ty| ty.dtype != DType::F32 || ty.rank() < 2) {
        return Err(OpError::new(format!("attention of {q}, {k} and {v}: only matrices of f32 are supported")));
    }
    let scores = shapes::infer_shape(q, k)?;
    let program = program(cx.attrs);
    if program.dtype(program.result()) != DType::F32 {
        return Err(OpError::new("the scores are no f32"));
    }
    for ty in cx.inputs.iter().skip(OWN).flatten() {
        if broadcast::broadcast(&[&scores, &ty.shape])? != scores {
            return Err(OpError::new(format!("{ty} does not broadcast to scores of {}", broadcast::text(&scores))));
        }
    }
    if [&scores[scores.len() - 1], &q.shape[q.rank() - 1]].contains(&&Dim::Const(0)) {
        return Err(OpError::new(format!("attention of {q} to {k} has nothing to attend to")));
    }
    Ok(vec![TensorType::new(DType::F32, shapes::infer_shape(&TensorType::new(DType::F32, scores), v)?)])
}

/// The product of two stacks of matrices in f64, with its shape.
fn product((a, a_shape): (&[f64], &[u64]), (b, b_shape): (&[f64], &[u64])) -> (Vec<f64>, Vec<u64>) {
    let shape = shapes::stacked(a_shape, b_shape).2;
    let mut y = vec![0f64; shape.iter().product::<u64>() as usize];
    shapes::products(a_shape, b_shape, |o, i, j| y[o] += a[i] * b[j]);
    (y, shape)
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (q, k, v) = (cx.input(0), cx.input(1), cx.input(2));
    let (raw, shape) = product((&f64s(q)?, q.shape()), (&f64s(k)?, k.shape()));
    let raw = from_f64s(DType::F32, &shape, raw)?;
    let operands: Vec<&Tensor> = std::iter::once(&raw).chain(cx.inputs.iter().skip(OWN).flatten().copied()).collect();
    let scores = scalar_eval::run_tensors(&program(cx.attrs), &operands, &shape);
    let mut scores = f64s(&scores.ok_or_else(|| OpError::new("an operand does not broadcast to the scores"))?)?;
    for row in scores.chunks_mut(shape[shape.len() - 1] as usize) {
        let top = row.iter().fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(*b) });
        row.iter_mut().for_each(|s| *s = (*s - top).exp());
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|s| *s /= sum);
    }
    let (y, shape) = product((&scores, &shape), (&f64s(v)?, v.shape()));
    Ok(vec![from_f64s(DType::F32, &shape, y)?])
}

/// `a0 * factor`, and `+ a1` with an operand.
fn scaled(factor: f64, masked: bool) -> Attrs {
    let mut p = ScalarProgram::default();
    let raw = p.arg(0, DType::F32);
    let mask = masked.then(|| p.arg(1, DType::F32));
    let factor = p.float(factor, DType::F32);
    let scores = p.bin(BinOp::Mul, raw, factor);
    mask.into_iter().for_each(|mask| {
        p.bin(BinOp::Add, scores, mask);
    });
    Attrs::default().with(SCORES, Attr::Program(p))
}

fn samples() -> Vec<Sample> {
    let data = |shapes: &[&[u64]]| shapes.iter().map(|s| sample::f32s(s)).collect::<Vec<_>>();
    let masked = |mask: &[u64]| sample::sample(scaled(0.25, true), data(&[&[2, 21, 16], &[2, 16, 45], &[2, 45, 8], mask]));
    // Most of a row far below the rest, and what a mask of infinities leaves.
    let mut causal = data(&[&[1, 2, 20, 8], &[1, 2, 8, 20], &[1, 2, 20, 16]]);
    let values = (0..400).map(|i| if i % 20 <= i / 20 { 0f32 } else { f32::NEG_INFINITY }).collect();
    causal.push(Some(onnxc_ir::op::SampleInput::Const(Tensor::from_vec(&[20, 20], values))));
    vec![
        sample::plain(data(&[&[3, 5], &[5, 7], &[7, 4]])),
        sample::plain(data(&[&[2, 3, 37, 12], &[2, 3, 12, 50], &[2, 3, 50, 33]])),
        sample::plain(data(&[&[70, 40], &[40, 130], &[130, 64]])),
        sample::sample(scaled(1.0, false), data(&[&[2, 33, 24], &[1, 24, 19], &[19, 40]])),
        sample::sample(scaled(0.5, false), data(&[&[4, 16, 8], &[4, 8, 3], &[4, 3, 1]])),
        sample::sample(scaled(0.5, false), data(&[&[1, 8], &[2, 8, 9], &[2, 9, 8]])),
        masked(&[1, 1, 45]),
        masked(&[2, 21, 45]),
        masked(&[2, 21, 1]),
        masked(&[1]),
        sample::sample(scaled(1.0, true), causal),
        sample::plain(data(&[&[2, 0, 4], &[2, 4, 3], &[2, 3, 4]])),
    ]
}
