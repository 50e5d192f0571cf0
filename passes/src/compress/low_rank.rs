//! A matrix as a product of two thin ones, such that the layer's output changes least.
//!
//! With H the damped second moment of the input about its mean and T the weights that fit best, the loss of other weights is |Lᵀ (W' - T)|² where
//! H = L Lᵀ: the best of rank r is the truncated singular value decomposition of Lᵀ T, taken back through L (SVD-LLM: Wang et al., 2024, §3.1;
//! ASVD: Yuan et al., 2023, §3.2, scales by the diagonal only). Singular vectors are the eigenvectors of the smaller of Tᵀ H T, where they are the
//! principal components of the output and L is not needed, and Lᵀ T Tᵀ L. One decomposition serves all ranks.

use faer::{Mat, MatRef};

use super::moments::{Centred, Moments};
use super::{Matrix, linalg, prune};

/// `W ≈ second first`: the layer multiplies by `first`, then by `second`.
#[derive(Clone, PartialEq, Debug)]
pub struct Factors {
    /// `[r][k]`.
    pub first: Matrix,
    /// `[n][r]`.
    pub second: Matrix,
    /// `[n]`, to add to the bias.
    pub bias_shift: Vec<f32>,
    /// Squared error of the output over its variance (see [`super::moments`]).
    pub error: f64,
}

impl Factors {
    /// The matrix that both make, `[n][k]`.
    pub fn product(&self) -> Matrix {
        let (n, k, rank) = (self.second.n, self.first.k, self.first.n);
        let mut values = vec![0.0; n * k];
        for (row, shares) in values.chunks_exact_mut(k.max(1)).zip(self.second.values.chunks_exact(rank.max(1))) {
            for (share, first) in shares.iter().zip(self.first.values.chunks_exact(k.max(1))) {
                row.iter_mut().zip(first).for_each(|(w, x)| *w += share * x);
            }
        }
        Matrix { n, k, values }
    }
}

/// Factors of each of some ranks, which are cut to what the matrix can have. `damping` is relative to the mean of H's diagonal. None for a layer
/// whose weights or moments are not finite.
pub fn low_rank(w: &Matrix, h: &Moments, ranks: &[usize], damping: f64) -> Option<Vec<Factors>> {
    let layer = Centred::new(w, h);
    let damping = prune::absolute(layer.second.as_ref(), damping);
    let factor = linalg::Cholesky::new(layer.second.as_ref(), damping);
    let mut target = &layer.wanted + faer::Scale(damping) * &layer.weights;
    let (first, second) = if w.n <= w.k {
        // (H + d I) T is what was wanted before the solve.
        let wanted = target.clone();
        factor.solve(target.as_mut());
        let second = linalg::eigenvectors(linalg::symmetric(linalg::product(target.transpose(), wanted.as_ref())).as_ref())?;
        (linalg::product(target.as_ref(), second.as_ref()), second)
    } else {
        factor.solve(target.as_mut());
        let whitened = linalg::product(factor.factor().transpose(), target.as_ref());
        let mut gram = Mat::zeros(w.k, w.k);
        linalg::add_gram(gram.as_mut(), 1.0, whitened.as_ref());
        let mut first = linalg::eigenvectors(gram.as_ref())?;
        let second = linalg::product(whitened.transpose(), first.as_ref());
        factor.solve_transposed(first.as_mut());
        (first, second)
    };
    Some(ranks.iter().map(|&rank| factors(&layer, first.as_ref(), second.as_ref(), rank)).collect())
}

/// The first columns `[k][..]` and `[n][..]` as the factors of a layer.
fn factors(layer: &Centred, first: MatRef<'_, f64>, second: MatRef<'_, f64>, rank: usize) -> Factors {
    let rank = rank.clamp(first.ncols().min(1), first.ncols());
    let (k, n) = (first.nrows(), second.nrows());
    let (mut first, mut second) = (first.subcols(0, rank).to_owned(), second.subcols(0, rank).to_owned());
    for (a, b) in first.col_iter_mut().zip(second.col_iter_mut()) {
        // Elements of both of one size on average, so that neither loses more than the other when rounded.
        let (left, right) = (a.norm_l2() / (k as f64).sqrt(), b.norm_l2() / (n as f64).sqrt());
        let scale = if left > 0.0 && right > 0.0 { (right / left).sqrt() } else { 1.0 };
        a.iter_mut().for_each(|x| *x = f64::from((*x * scale) as f32));
        b.iter_mut().for_each(|x| *x = f64::from((*x / scale) as f32));
    }
    let weights = linalg::product(first.as_ref(), second.transpose());
    let all: Vec<usize> = (0..k).collect();
    let bias_shift: Vec<f32> = layer.shift(0, &all, weights.as_ref()).iter().map(|&b| b as f32).collect();
    let shift: Vec<f64> = bias_shift.iter().map(|&b| f64::from(b)).collect();
    let error = layer.relative(layer.error(0, &all, weights.as_ref(), &shift, layer.second.as_ref()));
    let first = Matrix { n: rank, k, values: first.col_iter().flat_map(|c| c.iter().map(|&x| x as f32)).collect() };
    let second = Matrix { n, k: rank, values: second.row_iter().flat_map(|r| r.iter().map(|&x| x as f32)).collect() };
    Factors { first, second, bias_shift, error }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Inputs, Random, apply, disturbed, moments, paired, relative_error};
    use super::*;

    fn layer(seed: u64, n: usize, k: usize) -> (Matrix, Vec<f32>, Vec<f32>) {
        let mut random = Random(seed);
        let inputs = Inputs::new(&mut random, 7, k);
        let rows = inputs.rows(&mut random, 300);
        (random.matrix(n, k), disturbed(&mut random, &rows), rows)
    }

    /// Both ways of decomposing, with more outputs than inputs and fewer.
    const SIZES: [(usize, usize); 2] = [(10, 24), (24, 10)];

    #[test]
    fn full_rank_is_the_layer_itself() {
        for (n, k) in SIZES {
            let (w, _, rows) = layer(1, n, k);
            let full = low_rank(&w, &moments(k, &rows), &[10], 1e-6).unwrap().remove(0);
            assert!(full.error < 1e-9, "{}", full.error);
            assert!(full.product().values.iter().zip(&w.values).all(|(a, b)| (a - b).abs() < 1e-3));
        }
    }

    #[test]
    fn errors_are_those_of_the_rows_and_fall_with_the_rank() {
        for (n, k) in SIZES {
            let (w, fed, rows) = layer(2, n, k);
            let dense = apply(&w, &vec![0.0; n], &rows);
            let all = low_rank(&w, &paired(k, &fed, &rows), &[1, 2, 4, 7, 10], 1e-4).unwrap();
            for f in &all {
                let error = relative_error(n, &dense, &apply(&f.product(), &f.bias_shift, &fed));
                assert!((f.error - error).abs() < 1e-5 * (error + 1e-3), "rank {}: {} {error}", f.first.n, f.error);
            }
            assert!(all.windows(2).all(|w| w[1].error <= w[0].error));
        }
    }

    /// The error of the best approximation is the sum of the variances of the output's components that are left out.
    #[test]
    fn what_is_lost_is_the_rest_of_the_outputs_components() {
        let (w, _, rows) = layer(3, 10, 24);
        let h = moments(24, &rows);
        let output = apply(&w, &[0.0; 10], &rows);
        let count = output.len() / 10;
        let mean = |c: usize| output.iter().skip(c).step_by(10).sum::<f64>() / count as f64;
        let means: Vec<f64> = (0..10).map(mean).collect();
        let centred = Mat::from_fn(count, 10, |i, c| output[i * 10 + c] - means[c]);
        let values = centred.singular_values().unwrap();
        let square = |v: &[f64]| v.iter().map(|s| s * s).sum::<f64>();
        for f in low_rank(&w, &h, &[1, 3, 6], 0.0).unwrap() {
            let lost = square(&values[f.first.n..]) / square(&values);
            assert!((f.error - lost).abs() < 1e-6, "rank {}: {} {lost}", f.first.n, f.error);
        }
    }

    /// Knowing the input is worth something: the plain decomposition of the weights loses more.
    #[test]
    fn the_input_decides_which_components_matter() {
        let (w, _, rows) = layer(4, 24, 24);
        let h = moments(24, &rows);
        let plain =
            Moments { second: (0..24 * 24).map(|i| f64::from(u8::from(i % 25 == 0))).collect(), ..Moments::new(24, false) };
        let plain = low_rank(&w, &plain, &[8], 0.0).unwrap()[0].product();
        let dense = apply(&w, &[0.0; 24], &rows);
        let of_plain = relative_error(24, &dense, &apply(&plain, &[0.0; 24], &rows));
        let aware = low_rank(&w, &h, &[8], 1e-3).unwrap()[0].error;
        assert!(aware < 0.5 * of_plain, "{aware} {of_plain}");
    }

    #[test]
    fn moments_that_are_not_numbers_have_no_factors() {
        let (mut w, _, rows) = layer(5, 4, 8);
        w.values[3] = f32::NAN;
        assert_eq!(low_rank(&w, &moments(8, &rows), &[2], 1e-3), None);
    }
}
