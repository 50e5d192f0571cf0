//! Matrix products between dequantisations and a quantisation become integer products.
//!
//! What   `quantize(matmul(dequantize(a), dequantize(w)))` = `qlinear_matmul(a, w)`; `quantize(gemm(dequantize(a), dequantize(w), c))` =
//!        `qlinear_conv` of the rows of a with windows of one element, which has a bias. Constant w, one scale or one for each column.
//! When   canonicalize phase.
//! Class  bounded: within one quantisation step.
//! Misses products of two values of run time, whose loops are no faster in integers; alpha other than 1; a transposed a.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs, Tensor};

use super::params::{Params, dequantized, done, quantizes, zero_operand};
use super::products::{Weights, bias, convolution, weights};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, apply| Rule { name, class: RuleClass::Bounded, roots: Roots::Named(&["quantize_linear"]), apply };
    vec![rule("quantized-matmul", matmul), rule("quantized-gemm", gemm)]
}

fn matmul(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let y = m.input(0).filter(|y| cx.single_use(*y) && !done(cx, m, "qlinear_matmul"))?;
    let product = cx.find(y, "matmul").into_iter().find(|p| p.inputs.len() == 2)?;
    let to = quantizes(cx, m).filter(Params::multiplied)?;
    let a = dequantized(cx, product.input(0)?).filter(|a| a.params.multiplied())?;
    let w = weights(cx, product.input(1)?, 1)?.beside(cx, &a.params)?;
    if w.values.shape().len() != 2 || !w.sums_fit(&a.params, None, true) || cx.ty(a.x).rank() < 2 {
        return None;
    }
    let zero = zero_operand(cx, m, to)?;
    let scales =
        if w.scales.len() == 1 { Tensor::scalar(w.scales[0]) } else { Tensor::from_vec(&[w.scales.len() as u64], w.scales) };
    let [values, scales] = [w.values, scales].map(|t| cx.add_constant(t));
    let zeros = w.zeros.map(|z| cx.add_constant(z));
    cx.absorb(y);
    let inputs = [Some(a.x), Some(a.scale), a.zero, Some(values), Some(scales), zeros, m.input(1), Some(zero)];
    cx.node("qlinear_matmul", &inputs, Attrs::default())
}

fn gemm(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let y = m.input(0).filter(|y| cx.single_use(*y) && !done(cx, m, "reshape"))?;
    let gemm = cx.find(y, "gemm").into_iter().find(|g| g.inputs.len() <= 3 && g.attrs.get("epilogue").is_none())?;
    let one = |name| gemm.attrs.float(name).unwrap_or(1.0) == 1.0;
    let on = |name| gemm.attrs.int(name).unwrap_or(0) != 0;
    if !one("alpha") || !(one("beta") || gemm.input(2).is_none()) || on("transA") {
        return None;
    }
    let a = dequantized(cx, gemm.input(0)?)?;
    let w = weights(cx, gemm.input(1)?, usize::from(!on("transB")))?;
    let w = if on("transB") { w } else { Weights { values: transposed(cx, &w.values)?, ..w } };
    let (n, k) = (w.values.shape()[0], w.values.shape()[1]);
    let b = match gemm.input(2) {
        Some(c) => Some(bias(&row(cx, c, n)?, a.params.scale, &w.scales)?),
        None => None,
    };
    let rows = cx.ty(a.x).const_shape()?[0];
    let w = Weights { values: reshaped(cx, &w.values, &[n, k, 1])?, ..w };
    cx.absorb(y);
    let x = reshape(cx, a.x, &[rows, k, 1])?;
    let x = cx.node("dequantize_linear", &[Some(x), Some(a.scale), a.zero], Attrs::default())?;
    let y = convolution(cx, m, x, w, b, Attrs::default())?;
    reshape(cx, y, &[rows, n])
}

/// A constant that is the same for all rows, as one value per column.
pub(super) fn row(cx: &RuleCx, c: Id, n: u64) -> Option<Vec<f32>> {
    let t = cx.constant(c)?;
    let one_row = t.shape().len() < 2 || t.shape()[0] == 1;
    let values = t.to_vec::<f32>();
    match values.len() as u64 {
        len if len == n && one_row => Some(values),
        1 => Some(vec![values[0]; n as usize]),
        _ => None,
    }
}

fn ints(values: &[u64]) -> Tensor {
    Tensor::from_vec(&[values.len() as u64], values.iter().map(|v| *v as i64).collect())
}

/// Extents are written out, so a zero means zero.
fn literal() -> Attrs {
    Attrs::default().with("allowzero", Attr::Int(1))
}

pub(super) fn reshape(cx: &mut RuleCx, x: Id, shape: &[u64]) -> Option<Id> {
    let target = cx.add_constant(ints(shape));
    cx.node_of("reshape", &[x, target], literal())
}

fn reshaped(cx: &mut RuleCx, t: &Tensor, shape: &[u64]) -> Option<Tensor> {
    cx.fold("reshape", &[t.clone(), ints(shape)], &literal())
}

pub(super) fn transposed(cx: &mut RuleCx, t: &Tensor) -> Option<Tensor> {
    cx.fold("transpose", std::slice::from_ref(t), &Attrs::default().with("perm", Attr::Ints(vec![1, 0])))
}
