//! Integers of 16 bits with a scale for each output; what they multiply is 16 bits wide.
//!
//! Sums stay in 32 bits: operands reach 2^15, so that the weights of an output add up to less than 2^16 in size. That leaves them 8 to 14 bits, more where there are
//! few of them: layers lose less than a hundredth of what they lose with 8 bits, for half of the speed, where a target multiplies words faster than floats.

use onnxc_ir::graph::Node;
use onnxc_ir::{DType, Tensor};
use onnxc_passes::compress::pairs::{self, Integers};
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Matrix, Moments, Shape, error};

use super::{Applied, Coded, Numbers};
use crate::assemble::Method;
use crate::recipe::Weights;
use crate::search::Goal;

/// The numbers.
pub struct Words;

/// What the weights of an output add up to in size: three quarters of what 32 bits hold. The rest is for the bias.
const ALL: f64 = 49152.0;
/// Weights of an output: of more, sums of 32 bits leave each no more than the 8 bits of bytes.
const MOST: usize = 1 << 11;

impl Words {
    /// Nearest integers of each output's weights, and their scales.
    fn nearest(weights: &Matrix) -> (Vec<i16>, Vec<f32>) {
        let k = weights.k.max(1);
        let scale = |row: &[f32]| {
            let sum: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
            let largest = row.iter().fold(0.0, |m: f64, w| m.max(f64::from(w.abs())));
            let scale = (sum / (ALL - k as f64 / 2.0)).max(largest / f64::from(i16::MAX)) as f32;
            // Of an output that training has switched off: products with it would be subnormal.
            if scale > 1e-20 { scale } else { 1.0 }
        };
        let scales: Vec<f32> = weights.values.chunks(k).map(scale).collect();
        let round = |(row, scale): (&[f32], &f32)| row.iter().map(|w| (w / scale).round_ties_even() as i16).collect::<Vec<_>>();
        (weights.values.chunks(k).zip(&scales).flat_map(round).collect(), scales)
    }

    fn coded(layer: &Weighted, weights: &Matrix, error: impl Fn(&Matrix) -> f64) -> Coded {
        let (values, scales) = Words::nearest(weights);
        let k = weights.k.max(1);
        let real = |(n, q): (usize, &i16)| f32::from(*q) * scales[n / k];
        let now = Matrix { values: values.iter().enumerate().map(real).collect(), ..weights.clone() };
        let arrays = vec![
            ("weights", Tensor::from_vec(&layer.shape(), layer.operand(&values))),
            ("scales", Tensor::from_vec(&[scales.len() as u64], scales.clone())),
        ];
        Coded { arrays, shift: vec![0.0; weights.n], error: error(&now) }
    }
}

impl Numbers for Words {
    fn weights(&self) -> Weights {
        Weights::Int16
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.integers && goal.words
    }

    fn fits(&self, layer: &Weighted) -> bool {
        layer.groups == 1 && layer.k() <= MOST && !layer.is_state()
    }

    fn integers(&self) -> bool {
        true
    }

    fn words(&self) -> bool {
        true
    }

    fn unit(&self) -> usize {
        4
    }

    fn bytes(&self) -> f64 {
        2.0
    }

    fn fitted(
        &self,
        layer: &Weighted,
        weights: &Matrix,
        (fit, check): (&Moments, Option<&Moments>),
        _: Option<(&Shape, &[Vec<u32>])>,
        _: Method,
    ) -> Coded {
        Words::coded(layer, weights, |now| error(weights, now, &vec![0.0; weights.n], check.unwrap_or(fit)))
    }

    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded {
        Words::coded(layer, weights, |_| 0.0)
    }

    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String> {
        let values = cx.array(name, "weights", DType::I16, &layer.shape())?;
        let scales = cx.array(name, "scales", DType::F32, &[layer.n as u64])?.to_vec();
        Ok(Some(pairs::weights(cx.graph, cx.ops, layer, &Integers { values, scales })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_all_operands_fit_in_32_bits() {
        let row = |n: usize| (0..n).map(move |i| ((i * 7919 % 2003) as f32 - 1000.0) / 3.0);
        for k in [1, 7, 300, MOST] {
            let values: Vec<f32> = row(k).chain(std::iter::repeat_n(1e-30, k)).chain(std::iter::repeat_n(5.0, k)).collect();
            let (q, scales) = Words::nearest(&Matrix { n: 3, k, values: values.clone() });
            for (n, q) in q.chunks(k).enumerate() {
                let sum: i64 = q.iter().map(|q| i64::from(*q).abs()).sum();
                assert!(32768 * sum < i64::from(i32::MAX) * 3 / 4 + 32768, "{k} {n}: {sum}");
                let far = q.iter().zip(&values[n * k..]).map(|(q, w)| (f32::from(*q) * scales[n] - w).abs()).fold(0.0, f32::max);
                assert!(far <= scales[n] * 0.51, "{k} {n}: {far}");
            }
        }
    }
}
