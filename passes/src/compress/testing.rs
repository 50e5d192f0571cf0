//! Layers for tests: inputs that are alike, as those of trained networks are, and errors computed from the rows themselves.

use super::{Matrix, Moments};

/// Numbers that are the same in every run (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    /// From -1 to 1.
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// About normal, variance 1.
    pub(super) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() / 2.0
    }

    pub(super) fn matrix(&mut self, n: usize, k: usize) -> Matrix {
        Matrix { n, k, values: (0..n * k).map(|_| self.normal() as f32).collect() }
    }
}

/// Rows `[rows][k]` of few causes: `relu(z A + noise)`, with a mean.
pub(super) struct Inputs {
    mixing: Vec<f64>,
    causes: usize,
    pub(super) k: usize,
}

impl Inputs {
    pub(super) fn new(random: &mut Random, causes: usize, k: usize) -> Inputs {
        Inputs { mixing: (0..causes * k).map(|_| random.normal()).collect(), causes, k }
    }

    pub(super) fn rows(&self, random: &mut Random, rows: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(rows * self.k);
        for _ in 0..rows {
            let z: Vec<f64> = (0..self.causes).map(|_| random.normal()).collect();
            let mix = |p: usize| z.iter().enumerate().map(|(c, z)| z * self.mixing[c * self.k + p]).sum::<f64>();
            out.extend((0..self.k).map(|p| (mix(p) + 0.3 * random.normal() + 0.5).max(0.0) as f32));
        }
        out
    }
}

/// What a compressed model before the layer may have done to rows.
pub(super) fn disturbed(random: &mut Random, rows: &[f32]) -> Vec<f32> {
    rows.iter().map(|x| (f64::from(*x) * 0.9 + 0.1 * random.normal() + 0.05) as f32).collect()
}

pub(super) fn moments(k: usize, rows: &[f32]) -> Moments {
    let mut moments = Moments::new(k, false);
    rows.chunks(7 * k).for_each(|chunk| moments.add(chunk, None));
    moments
}

pub(super) fn paired(k: usize, rows: &[f32], dense: &[f32]) -> Moments {
    let mut moments = Moments::new(k, true);
    rows.chunks(7 * k).zip(dense.chunks(7 * k)).for_each(|(chunk, dense)| moments.add(chunk, Some(dense)));
    moments.beside(&self::moments(k, dense));
    moments
}

/// `[rows][n]`: what a layer makes of rows.
pub(super) fn apply(w: &Matrix, bias: &[f32], rows: &[f32]) -> Vec<f64> {
    let dot = |row: &[f32], c: usize| {
        let weights = &w.values[c * w.k..][..w.k];
        row.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() + f64::from(bias[c])
    };
    rows.chunks_exact(w.k).flat_map(|row| (0..w.n).map(move |c| dot(row, c))).collect()
}

/// The squared difference of two outputs over the variance of the first, columns apart.
pub(super) fn relative_error(n: usize, dense: &[f64], other: &[f64]) -> f64 {
    let rows = (dense.len() / n) as f64;
    let mean = |c: usize| dense.iter().skip(c).step_by(n).sum::<f64>() / rows;
    let means: Vec<f64> = (0..n).map(mean).collect();
    let variance: f64 = dense.iter().enumerate().map(|(i, y)| (y - means[i % n]).powi(2)).sum();
    dense.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / variance
}
