//! Convolutions between dequantisations and a quantisation become integer convolutions.
//!
//! What   `quantize(conv(dequantize(x), dequantize(w), b))` = `qlinear_conv(x, w, round(b / (sx * sw)))`, for constant w with one scale or one for
//!        each filter.
//! When   canonicalize phase.
//! Why    a quarter of the memory traffic, and dot products of bytes; of 16 bits half of the traffic, and dot products of words.
//! Class  bounded: within one quantisation step (see the folder's head).
//! Misses convolutions whose float result others use too; weights computed at run time; scales per block; activations of more than 8 bits that are not i16, or with
//!        parameters per channel; sums that could leave the range of i32; grouped convolutions of words, whose code for floats is faster.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs, DType, Tensor};

use super::params::{Params, dequantized, done, quantizes, sane, values, zero_operand};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    vec![Rule { name: "quantized-conv", class: RuleClass::Bounded, roots: Roots::Named(&["quantize_linear"]), apply }]
}

/// Constant weights as integers of 8 or 16 bits, and their parameters.
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
    let fits = scales.len() == 1
        || (along.rem_euclid(rank.max(1)) == axis as i64 && scales.len() as u64 == *values.shape().get(axis)?);
    if m.attrs.int("block_size").unwrap_or(0) != 0 || !fits || !scales.iter().all(|s| sane(*s)) {
        return None;
    }
    let zeros = match m.input(2) {
        Some(zero) => Some(cx.constant(zero)?.clone()),
        None => None,
    };
    let values = unpacked(cx, values)?;
    let zeros = match zeros {
        Some(zeros) => Some(unpacked(cx, zeros)?),
        None => None,
    };
    Some(Weights { values, scales, zeros })
}

/// Integers of at most 8 bits, one to a byte, or words.
fn unpacked(cx: &mut RuleCx, t: Tensor) -> Option<Tensor> {
    let to = match t.dtype() {
        DType::U8 | DType::I8 | DType::I16 => return Some(t),
        DType::U4 | DType::U2 => DType::U8,
        DType::I4 | DType::I2 => DType::I8,
        _ => return None,
    };
    cx.fold("cast", &[t], &Attrs::default().with("to", Attr::Type(to)))
}

impl Weights {
    /// As values of a type are multiplied by them: bytes by bytes, words by words, which have no zero points.
    pub fn beside(self, cx: &mut RuleCx, x: &Params) -> Option<Weights> {
        let zeros = |w: &Weights| w.zeros.as_ref().map_or(Some(vec![0]), values).is_some_and(|z| z.iter().any(|z| *z != 0));
        match (x.dtype == DType::I16, self.values.dtype() == DType::I16) {
            (false, false) => Some(self),
            (false, true) => None,
            (true, _) if zeros(&self) => None,
            (true, true) => Some(Weights { zeros: None, ..self }),
            (true, false) => {
                let words = cx.fold("cast", &[self.values], &Attrs::default().with("to", Attr::Type(DType::I16)))?;
                Some(Weights { values: words, zeros: None, ..self })
            }
        }
    }

    /// True when no sum of `filter_len` products of such values by these weights and an addend of `bias` leaves the range of i32. Filters lie one after
    /// the other, or, `columns`, are columns.
    pub fn sums_fit(&self, x: &Params, bias: Option<&[i32]>, columns: bool) -> bool {
        if self.values.dtype() == DType::I16 {
            let values = values(&self.values).unwrap_or_default();
            return self.within(&values, |w, _| i64::from(*w), x, bias, columns);
        }
        let Some(zeros) = self.zeros.as_ref().map_or(Some(vec![0]), values) else { return false };
        let value: fn(u8) -> i16 = match self.values.dtype() {
            DType::U8 => i16::from,
            DType::I8 => |b| i16::from(b as i8),
            _ => return false,
        };
        let centred = |w: &u8, f: usize| i64::from(value(*w)) - i64::from(zeros[f % zeros.len()]);
        self.within(self.values.bytes(), centred, x, bias, columns)
    }

    fn within<T>(&self, values: &[T], value: impl Fn(&T, usize) -> i64, x: &Params, bias: Option<&[i32]>, columns: bool) -> bool {
        let shape = self.values.shape();
        let filters = (if columns { shape[shape.len() - 1] } else { shape[0] }).max(1) as usize;
        let mut sums = vec![0i64; filters];
        let mut add = |f: usize, w: &T| sums[f] += value(w, f).abs() * x.reach();
        if columns {
            values.chunks(filters).for_each(|row| row.iter().enumerate().for_each(|(f, w)| add(f, w)));
        } else {
            let filter = (values.len() / filters).max(1);
            values.chunks(filter).enumerate().for_each(|(f, ws)| ws.iter().for_each(|w| add(f, w)));
        }
        self.values.release();
        let addend = |f: usize| bias.map_or(0, |b| i64::from(b[f].unsigned_abs()));
        sums.iter().enumerate().all(|(f, sum)| sum + addend(f) <= i64::from(i32::MAX))
    }
}

/// A float bias in units of the accumulators.
pub(super) fn bias(values: &[f32], x_scale: f32, scales: &[f32]) -> Option<Vec<i32>> {
    let unit = |f: usize| f64::from(x_scale) * f64::from(scales[f % scales.len()]);
    let whole = values.iter().enumerate().map(|(f, b)| (f64::from(*b) / unit(f)).round_ties_even());
    whole.map(|b| (b.abs() < f64::from(i32::MAX)).then_some(b as i32)).collect()
}

/// Is a convolution of such values faster than one of floats?
pub(super) fn suits(attrs: &Attrs, x: &Params) -> bool {
    x.dtype != DType::I16 || attrs.int("group").unwrap_or(1) == 1
}

/// An integer convolution in the place of a quantisation `m` of `y`.
pub(super) fn convolution(cx: &mut RuleCx, m: &Match, x: Id, w: Weights, b: Option<Vec<i32>>, attrs: Attrs) -> Option<Id> {
    let to = quantizes(cx, m).filter(Params::multiplied)?;
    let x = dequantized(cx, x).filter(|x| x.params.multiplied() && suits(&attrs, &x.params))?;
    let w = w.beside(cx, &x.params)?;
    if !w.sums_fit(&x.params, b.as_deref(), false) {
        return None;
    }
    let zero = zero_operand(cx, m, to)?;
    let scales = Tensor::from_vec(&[w.scales.len() as u64], w.scales.clone());
    let filters = w.values.shape()[0];
    let [values, scales] = [w.values, scales].map(|t| cx.add_constant(t));
    let zeros = w.zeros.map(|z| cx.add_constant(z));
    let b = b.map(|b| cx.add_constant(Tensor::from_vec(&[filters], b)));
    let inputs = [Some(x.x), Some(x.scale), x.zero, Some(values), Some(scales), zeros, m.input(1), Some(zero), b];
    cx.node("qlinear_conv", &inputs, attrs)
}

fn apply(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let y = m.input(0).filter(|y| cx.single_use(*y) && !done(cx, m, "qlinear_conv"))?;
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
    convolution(cx, m, x, w, b, conv.attrs)
}
