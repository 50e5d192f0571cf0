//! Means of quantised values are convolutions with weights of one.
//!
//! What   `quantize(mean over space of dequantize(x))` = `qlinear_conv(x, ones)` with one filter per channel and weights of scale 1/n; the same for
//!        average pools.
//! When   canonicalize phase.
//! Why    sums of integers, requantised once, by kernels that exist.
//! Class  bounded: within one quantisation step.
//! Misses pools with padding that does not count, `ceil_mode`; means over other axes than all of space.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs, Tensor};

use super::matmul::reshape;
use super::params::dequantized;
use super::products::{Weights, convolution};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, apply| Rule { name, class: RuleClass::Bounded, roots: Roots::Named(&["quantize_linear"]), apply };
    vec![rule("quantized-mean", mean), rule("quantized-average-pool", pool)]
}

/// One filter of ones for each of `channels`, dividing by their number.
fn ones(channels: u64, kernel: &[u64]) -> Weights {
    let shape = [&[channels, 1], kernel].concat();
    let n: u64 = kernel.iter().product();
    let values = Tensor::from_vec(&shape, vec![1i8; (channels * n) as usize]);
    Weights { values, scales: vec![1.0 / n.max(1) as f32], zeros: None }
}

fn per_channel(attrs: Attrs, channels: u64) -> Attrs {
    attrs.with("group", Attr::Int(channels as i64))
}

fn mean(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let y = m.input(0).filter(|y| cx.single_use(*y))?;
    let mean = cx.find(y, "reduce_mean").into_iter().next()?;
    let x = mean.input(0)?;
    dequantized(cx, x)?;
    let shape = cx.ty(x).const_shape().filter(|s| s.len() >= 3)?;
    let rank = shape.len() as i64;
    let mut axes: Vec<i64> = cx.constant(mean.input(1)?)?.to_i64s()?.iter().map(|a| a.rem_euclid(rank)).collect();
    axes.sort_unstable();
    if axes != (2..rank).collect::<Vec<_>>() || shape.contains(&0) {
        return None;
    }
    cx.absorb(y);
    let result = convolution(cx, m, x, ones(shape[1], &shape[2..]), None, per_channel(Attrs::default(), shape[1]))?;
    if mean.attrs.int("keepdims").unwrap_or(1) != 0 { Some(result) } else { reshape(cx, result, &shape[..2]) }
}

fn pool(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let y = m.input(0).filter(|y| cx.single_use(*y))?;
    let pool = cx.find(y, "average_pool").into_iter().next()?;
    let x = pool.input(0)?;
    dequantized(cx, x)?;
    let kernel: Vec<u64> = pool.attrs.ints("kernel_shape")?.iter().map(|k| *k as u64).collect();
    let padded = pool.attrs.ints("pads").is_some_and(|p| p.iter().any(|p| *p != 0));
    let on = |name| pool.attrs.int(name).unwrap_or(0) != 0;
    let automatic = !matches!(pool.attrs.str("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "" | "VALID");
    if on("ceil_mode") || automatic || (padded && !on("count_include_pad")) {
        return None;
    }
    let channels = cx.ty(x).const_shape()?[1];
    let mut attrs = Attrs::default();
    for name in ["strides", "pads", "dilations"] {
        if let Some(list) = pool.attrs.ints(name) {
            attrs = attrs.with(name, Attr::Ints(list.to_vec()));
        }
    }
    cx.absorb(y);
    convolution(cx, m, x, ones(channels, &kernel), None, per_channel(attrs, channels))
}
