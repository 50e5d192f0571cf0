//! Convolutions between dequantisations and a quantisation become integer convolutions.
//!
//! What   `quantize(conv(dequantize(x), dequantize(w), b))` = `qlinear_conv(x, w, round(b / (sx * sw)))`, for constant w with one scale or one for
//!        each filter.
//! When   canonicalize phase.
//! Why    a quarter of the memory traffic, and dot products of bytes.
//! Class  bounded: within one quantisation step (see the folder's head).
//! Misses convolutions whose float result others use too; weights computed at run time; scales per block; activations of more than 8 bits, or with
//!        parameters per channel; sums that could leave the range of i32.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs, DType, Tensor};

use super::params::{dequantized, quantizes, sane, zero_operand};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    vec![Rule { name: "quantized-conv", class: RuleClass::Bounded, roots: Roots::Named(&["quantize_linear"]), apply }]
}

/// Products that an i32 sum has room for: each is at most 255 * 255.
pub(super) const MOST_PRODUCTS: u64 = 32_000;

/// Constant weights as 8-bit integers, and their parameters.
pub(super) struct Weights {
    pub values: Tensor,
    /// One for all, or one for each filter.
    pub scales: Vec<f32>,
    pub zeros: Option<Tensor>,
}

/// The dequantised constant in a class, with parameters for the whole tensor or along `axis`.
pub(super) fn weights(cx: &mut RuleCx, id: Id, axis: usize) -> Option<Weights> {
    let m = cx.find(id, "dequantize_linear").into_iter().next()?;
    let values = cx.constant(m.input(0)?)?.clone();
    let rank = values.shape().len() as i64;
    let scales: Vec<f32> = cx.constant(m.input(1)?).filter(|s| s.dtype() == DType::F32 && s.shape().len() <= 1)?.to_vec();
    let along = m.attrs.int("axis").unwrap_or(1);
    let fits = scales.len() == 1 || (along.rem_euclid(rank.max(1)) == axis as i64 && scales.len() as u64 == *values.shape().get(axis)?);
    if m.attrs.int("block_size").unwrap_or(0) != 0 || !fits || !scales.iter().all(|s| sane(*s)) {
        return None;
    }
    let zeros = match m.input(2) {
        Some(zero) => Some(cx.constant(zero)?.clone()),
        None => None,
    };
    let values = bytes(cx, values)?;
    let zeros = match zeros {
        Some(zeros) => Some(bytes(cx, zeros)?),
        None => None,
    };
    Some(Weights { values, scales, zeros })
}

/// Integers of at most 8 bits, one to a byte.
fn bytes(cx: &mut RuleCx, t: Tensor) -> Option<Tensor> {
    let to = match t.dtype() {
        DType::U8 | DType::I8 => return Some(t),
        DType::U4 | DType::U2 => DType::U8,
        DType::I4 | DType::I2 => DType::I8,
        _ => return None,
    };
    cx.fold("cast", &[t], &Attrs::default().with("to", Attr::Type(to)))
}

/// A float bias in units of the accumulators.
pub(super) fn bias(values: &[f32], x_scale: f32, scales: &[f32]) -> Option<Vec<i32>> {
    let unit = |f: usize| f64::from(x_scale) * f64::from(scales[f % scales.len()]);
    let whole = values.iter().enumerate().map(|(f, b)| (f64::from(*b) / unit(f)).round_ties_even());
    // Half of the range is left to the sum.
    whole.map(|b| (b.abs() < f64::from(1 << 30)).then_some(b as i32)).collect()
}

/// An integer convolution in the place of a quantisation `m` of `y`.
pub(super) fn convolution(cx: &mut RuleCx, m: &Match, x: Id, w: &Weights, b: Option<Vec<i32>>, attrs: Attrs) -> Option<Id> {
    let to = quantizes(cx, m).filter(|p| p.dtype.bits() == 8)?;
    let x = dequantized(cx, x).filter(|x| x.params.dtype.bits() == 8)?;
    let shape = w.values.shape();
    let per_filter: u64 = shape[1..].iter().product();
    if per_filter > MOST_PRODUCTS {
        return None;
    }
    let zero = zero_operand(cx, m, to)?;
    let scales = Tensor::from_vec(&[w.scales.len() as u64], w.scales.clone());
    let filters = shape[0];
    let [values, scales] = [w.values.clone(), scales].map(|t| cx.add_constant(t));
    let zeros = w.zeros.clone().map(|z| cx.add_constant(z));
    let b = b.map(|b| cx.add_constant(Tensor::from_vec(&[filters], b)));
    let inputs = [Some(x.x), Some(x.scale), x.zero, Some(values), Some(scales), zeros, m.input(1), Some(zero), b];
    cx.node("qlinear_conv", &inputs, attrs)
}

fn apply(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let y = m.input(0).filter(|y| cx.single_use(*y))?;
    let conv = cx.find(y, "conv").into_iter().find(|c| c.inputs.len() <= 3 && c.attrs.get("epilogue").is_none())?;
    let x = conv.input(0)?;
    let x_scale = dequantized(cx, x)?.params.scale;
    if conv.attrs.ints("pads").is_some_and(|p| p.iter().any(|p| *p < 0)) {
        return None;
    }
    let w = weights(cx, conv.input(1)?, 0)?;
    let b = match conv.input(2) {
        Some(b) => Some(bias(&cx.constant(b)?.to_vec::<f32>(), x_scale, &w.scales)?),
        None => None,
    };
    cx.absorb(y);
    convolution(cx, m, x, &w, b, conv.attrs)
}
