//! Cross-layer equalisation: the weights of a channel get the same range on both sides of it, so that one scale for a tensor loses less.
//!
//! Where what lies between two layers maps positive multiples to the same multiples (`relu`, `leaky_relu`, pooling, nothing at all), a channel can be
//! divided by s in the first layer and multiplied by s in the second; ranges are equal for s = sqrt(r1 / r2) (Nagel et al., "Data-Free Quantization
//! Through Weight Equalization and Bias Correction", 2019, §4.1). `relu6` is not such a map: its bound would have to become one per channel.

use super::Matrix;

/// Scales the outputs of `first` with its `bias` `[n]`, and the inputs of `second`, whose channels they are, at every tap. Returns the s by which each
/// channel was divided; 1 for channels without weights on one side.
pub fn equalise(first: &mut Matrix, bias: &mut [f32], second: &mut Matrix) -> Vec<f32> {
    let channels = first.n;
    assert!(
        bias.len() == channels && (channels == 0 || second.k.is_multiple_of(channels)),
        "internal: compress: layers that do not follow each other"
    );
    let largest = |values: &mut dyn Iterator<Item = &f32>| values.fold(0.0f32, |m, w| m.max(w.abs()));
    let scale = |c: usize| {
        let before = largest(&mut first.values[c * first.k..][..first.k].iter());
        let after = largest(&mut second.values.iter().skip(c).step_by(channels));
        let scale = (before / after).sqrt();
        if scale.is_normal() && scale > 0.0 { scale } else { 1.0 }
    };
    let scales: Vec<f32> = (0..channels).map(scale).collect();
    for (c, s) in scales.iter().enumerate() {
        first.values[c * first.k..][..first.k].iter_mut().for_each(|w| *w /= s);
        bias[c] /= s;
        second.values.iter_mut().skip(c).step_by(channels).for_each(|w| *w *= s);
    }
    scales
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, apply};
    use super::*;

    /// One tap seen twice by the second layer, `relu` between them.
    fn both(first: &Matrix, bias: &[f32], second: &Matrix, rows: &[f32]) -> Vec<f64> {
        let between = apply(first, bias, rows);
        let taps = |row: &[f64]| [row, row].concat().iter().map(|x| x.max(0.0) as f32).collect::<Vec<f32>>();
        let between: Vec<f32> = between.chunks_exact(first.n).flat_map(taps).collect();
        apply(second, &vec![0.0; second.n], &between)
    }

    #[test]
    fn the_function_stays_and_ranges_become_equal() {
        let mut random = Random(1);
        let (mut first, mut second) = (random.matrix(6, 10), random.matrix(4, 12));
        (0..10).for_each(|p| first.values[20 + p] *= 50.0);
        (0..10).for_each(|p| first.values[30 + p] = 0.0);
        let mut bias: Vec<f32> = (0..6).map(|_| random.normal() as f32).collect();
        let rows = random.matrix(30, 10).values;
        let before = both(&first, &bias, &second, &rows);
        let scales = equalise(&mut first, &mut bias, &mut second);
        let after = both(&first, &bias, &second, &rows);
        assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4 * (1.0 + a.abs())));
        assert_eq!(scales[3], 1.0);
        let peak = |values: Vec<f32>| values.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        for c in (0..6).filter(|c| *c != 3) {
            let one = peak(first.values[c * 10..][..10].to_vec());
            let other = peak(second.values.iter().skip(c).step_by(6).copied().collect());
            assert!((one / other - 1.0).abs() < 1e-5, "{one} {other}");
        }
    }
}
