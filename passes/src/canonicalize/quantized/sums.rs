//! Products of dequantised values whose result stays float: sums of integers, made floats in registers.
//!
//! What   `conv(dequantize(x), dequantize(w), b)` = `conv_integer(x, w){float(sum) * (sx * sw) + b}`, and the same for `matmul` and `gemm`, for constant w
//!        with one scale or one for each filter.
//! When   canonicalize phase.
//! Why    graphs that quantise only what products read have elementwise work, such as the addition of a residual, between a product and the next
//!        quantisation. Fusion appends it to this epilogue, and nothing float is stored.
//! Class  reassociates: the sum is exact, then two roundings.
//! Misses what `products` and `matmul` miss, but for results that are used as floats; scales that are found at run time (`dynamic`).

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::{Attr, Attrs, DType, Tensor};

use super::matmul::{row, transposed};
use super::params::{Params, dequantized, done};
use super::products::{Weights, suits, weights};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Reassociates, roots: Roots::Named(roots), apply };
    vec![
        rule("integer-sums-of-conv", &["conv"], |cx, m| conv(cx, m, known)),
        rule("integer-sums-of-matmul", &["matmul"], |cx, m| matmul(cx, m, known)),
        rule("integer-sums-of-gemm", &["gemm"], |cx, m| gemm(cx, m, known)),
    ]
}

/// Integers of run time with one scale that products take.
pub(super) struct Operand {
    /// The integers.
    pub x: Id,
    /// Their zero point.
    pub zero: Option<Id>,
    /// Their type and, if it is a constant, their scale.
    pub params: Params,
    /// The scale where it is found at run time.
    pub found: Option<Id>,
}

/// How rules look at the operand of a product.
type Look = fn(&RuleCx, Id) -> Option<Operand>;

/// Integers with a scale that is a constant.
fn known(cx: &RuleCx, id: Id) -> Option<Operand> {
    let x = dequantized(cx, id).filter(|x| x.params.multiplied() && cx.constant(x.x).is_none())?;
    Some(Operand { x: x.x, zero: x.zero, params: x.params, found: None })
}

/// `f32(a0) * a1`, or `f32(a0) * a1 + a2`; with a scale that is `found` at run time that comes first, and `a1 * a2` takes the place of `a1`.
fn scaled(found: bool, bias: bool) -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (sum, scale) = (p.arg(0, DType::I32), p.arg(1, DType::F32));
    let (scale, next) = if found {
        let of_weights = p.arg(2, DType::F32);
        (p.bin(BinOp::Mul, scale, of_weights), 3)
    } else {
        (scale, 2)
    };
    let real = p.cast(sum, DType::F32);
    let product = p.bin(BinOp::Mul, real, scale);
    if bias {
        let bias = p.arg(next, DType::F32);
        p.bin(BinOp::Add, product, bias);
    }
    p
}

/// The integer product `op` of x and w; scales and bias get `shape`, by which they broadcast to the result.
fn product(
    cx: &mut RuleCx,
    op: &str,
    x: &Operand,
    w: Weights,
    bias: Option<Vec<f32>>,
    shape: &[u64],
    attrs: Attrs,
) -> Option<Id> {
    let filters: u64 = shape.iter().product();
    let of_x = if x.found.is_some() { 1.0 } else { x.params.scale };
    let scale = |f: usize| of_x * w.scales[f % w.scales.len()];
    let scales = Tensor::from_vec(shape, (0..filters as usize).map(scale).collect());
    let attrs = attrs.with("epilogue", Attr::Program(scaled(x.found.is_some(), bias.is_some())));
    let [values, scales] = [w.values, scales].map(|t| cx.add_constant(t));
    let zeros = w.zeros.map(|z| cx.add_constant(z));
    let mut inputs = vec![Some(x.x), Some(values), x.zero, zeros];
    inputs.extend(x.found.map(Some));
    inputs.push(Some(scales));
    inputs.extend(bias.map(|b| Some(cx.add_constant(Tensor::from_vec(shape, b)))));
    cx.node(op, &inputs, attrs)
}

/// A node without epilogue that `op` has not replaced yet.
fn plain(cx: &RuleCx, m: &Match, own: usize, op: &str) -> Option<()> {
    (m.inputs.len() <= own && m.attrs.get("epilogue").is_none() && !done(cx, m, op)).then_some(())
}

/// The sums of a convolution.
pub(super) fn conv(cx: &mut RuleCx, m: &Match, look: Look) -> Option<Id> {
    plain(cx, m, 3, "conv_integer")?;
    let x = look(cx, m.input(0)?).filter(|x| suits(&m.attrs, &x.params))?;
    if m.attrs.ints("pads").is_some_and(|p| p.iter().any(|p| *p < 0)) {
        return None;
    }
    let w = weights(cx, m.input(1)?, 0)?.beside(cx, &x.params).filter(|w| w.sums_fit(&x.params, None, false))?;
    let bias = match m.input(2) {
        Some(b) => Some(cx.constant(b)?.to_vec::<f32>()),
        None => None,
    };
    let mut shape = vec![1; w.values.shape().len() - 1];
    shape[0] = w.values.shape()[0];
    product(cx, "conv_integer", &x, w, bias, &shape, m.attrs.clone())
}

/// The sums of a product of matrices.
pub(super) fn matmul(cx: &mut RuleCx, m: &Match, look: Look) -> Option<Id> {
    plain(cx, m, 2, "matmul_integer")?;
    let x = look(cx, m.input(0)?).filter(|x| cx.ty(x.x).rank() >= 2)?;
    let w = weights(cx, m.input(1)?, 1)?.beside(cx, &x.params)?;
    (w.values.shape().len() == 2 && w.sums_fit(&x.params, None, true)).then_some(())?;
    let columns = w.values.shape()[1];
    product(cx, "matmul_integer", &x, w, None, &[columns], Attrs::default())
}

/// The sums of a product of two matrices.
pub(super) fn gemm(cx: &mut RuleCx, m: &Match, look: Look) -> Option<Id> {
    plain(cx, m, 3, "matmul_integer")?;
    let one = |name| m.attrs.float(name).unwrap_or(1.0) == 1.0;
    let on = |name| m.attrs.int(name).unwrap_or(0) != 0;
    if !one("alpha") || !(one("beta") || m.input(2).is_none()) || on("transA") {
        return None;
    }
    let x = look(cx, m.input(0)?)?;
    let w = weights(cx, m.input(1)?, usize::from(!on("transB")))?.beside(cx, &x.params)?;
    let w = if on("transB") { Weights { values: transposed(cx, &w.values)?, ..w } } else { w };
    let columns = w.values.shape()[1];
    let bias = match m.input(2) {
        Some(c) => Some(row(cx, c, columns)?),
        None => None,
    };
    w.sums_fit(&x.params, None, true).then_some(())?;
    product(cx, "matmul_integer", &x, w, bias, &[columns], Attrs::default())
}
