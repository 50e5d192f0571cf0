//! What calibration knows of a layer's input, and the error of other weights computed from it.
//!
//! A layer multiplies rows x (of the dense model) by `Wᵀ`; compressed, it multiplies rows x̂, which compressed layers before it have changed, by
//! `W'ᵀ` and adds a shift b to its bias. With H = Σ x̂ᵀx̂, C = Σ x̂ᵀx and D = Σ xᵀx the squared error of all rows is
//! `tr(W D Wᵀ) - 2 tr(W' C Wᵀ) + tr(W' H W'ᵀ)` when the moments are taken about the means, plus N |b - b*|², where b* = mean(x) Wᵀ - mean(x̂) W'ᵀ is
//! the best shift (bias correction: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, §4.2).
//! So everything is fitted to moments about the means, and the shift follows.
//!
//! Errors are relative to the variance of the dense output, `tr(W D Wᵀ)` about the mean, not to its energy: a constant in the output is what the
//! bias can restore whatever the weights are, and must not make a layer look harmless.

use faer::{Mat, MatRef};

use super::{Matrix, linalg};

/// What calibration knows of the rows that a layer multiplies (im2col rows; sums over samples and positions).
#[derive(Clone, PartialEq, Debug)]
pub struct Moments {
    /// Length of a row.
    pub k: usize,
    /// How many rows.
    pub rows: f64,
    /// `[k][k]`, sum of x̂_i x̂_j: what the compressed model feeds the layer.
    pub second: Vec<f64>,
    /// `[k][k]`, sum of x̂_i x_j, x being the dense model's; None: x̂ = x.
    pub cross: Option<Vec<f64>>,
    /// `[k]`, sum of x̂.
    pub sum: Vec<f64>,
    /// `[k]`, sum of x.
    pub dense_sum: Vec<f64>,
    /// `[k][k]`, sum of x_i x_j; None: `second`.
    pub dense: Option<Vec<f64>>,
}

impl Moments {
    /// Moments of inputs that have nothing to do with each other and are all of one size: what is fitted to them is what is near the weights.
    pub fn identity(k: usize) -> Moments {
        let second = (0..k * k).map(|i| f64::from(u8::from(i / k == i % k))).collect();
        Moments { k, rows: 1.0, second, cross: None, sum: vec![0.0; k], dense_sum: vec![0.0; k], dense: None }
    }

    /// Of no rows; `paired` if rows of both models will be added.
    pub fn new(k: usize, paired: bool) -> Moments {
        let cross = paired.then(|| vec![0.0; k * k]);
        Moments { k, rows: 0.0, second: vec![0.0; k * k], cross, sum: vec![0.0; k], dense_sum: vec![0.0; k], dense: None }
    }

    /// Adds rows `[rows][k]` of the compressed model, and of the dense one if the moments are paired: then [`Moments::beside`] says at the end what those are by
    /// themselves. A few hundred rows at a time are fast.
    pub fn add(&mut self, rows: &[f32], dense: Option<&[f32]>) {
        let k = self.k;
        assert!(
            k > 0 && rows.len().is_multiple_of(k) && dense.map_or(self.cross.is_none(), |d| d.len() == rows.len()),
            "internal: compress: rows of another shape than the moments"
        );
        let rows = columns(rows, k);
        self.rows += rows.ncols() as f64;
        add_sums(&mut self.sum, rows.as_ref());
        let gram = |to: &mut [f64], rows: &Mat<f64>| {
            linalg::add_gram(faer::MatMut::from_column_major_slice_mut(to, k, k), 1.0, rows.as_ref());
        };
        let Moments { second: own, cross: Some(cross), .. } = self else {
            gram(&mut self.second, &rows);
            self.dense_sum.clone_from(&self.sum);
            return;
        };
        let dense = columns(dense.expect("internal: compress: rows of both models"), k);
        let both = || {
            let cross = faer::MatMut::from_row_major_slice_mut(cross, k, k);
            linalg::add_product(cross, 1.0, rows.as_ref(), dense.transpose());
        };
        // At the same time, for models in which one layer has most of the work.
        rayon::join(both, || gram(own, &rows));
    }

    /// Says what the dense model's rows, those that were added beside others, are by themselves.
    pub fn beside(&mut self, dense: &Moments) {
        self.dense = Some(dense.second.clone());
        self.dense_sum.clone_from(&dense.sum);
    }
}

impl Moments {
    /// Of what a layer without bias makes of the rows that it is fed: the input of the second of two factors, for example.
    pub fn through(&self, first: &Matrix) -> Moments {
        assert_eq!(first.k, self.k, "internal: compress: moments of another layer");
        self.mapped(Mat::from_fn(first.k, first.n, |p, r| f64::from(first.values[r * first.k + p])).as_ref())
    }

    /// Of some positions of the rows that the layer is fed.
    pub fn only(&self, at: &[usize]) -> Moments {
        let second = at.iter().flat_map(|i| at.iter().map(move |j| self.second[i * self.k + j])).collect();
        let sum: Vec<f64> = at.iter().map(|p| self.sum[*p]).collect();
        Moments { k: at.len(), rows: self.rows, second, cross: None, dense_sum: sum.clone(), sum, dense: None }
    }

    /// Of the rows times factors of their positions, those of the dense model too.
    pub(super) fn scaled(&self, factors: &[f64]) -> Moments {
        let square = |moment: &Vec<f64>| {
            let one = |(i, m): (usize, &f64)| m * factors[i / self.k] * factors[i % self.k];
            moment.iter().enumerate().map(one).collect::<Vec<f64>>()
        };
        let row = |sum: &[f64]| sum.iter().zip(factors).map(|(s, f)| s * f).collect();
        Moments {
            k: self.k,
            rows: self.rows,
            second: square(&self.second),
            cross: self.cross.as_ref().map(square),
            sum: row(&self.sum),
            dense_sum: row(&self.dense_sum),
            dense: self.dense.as_ref().map(square),
        }
    }

    /// Of the fed rows times a matrix.
    pub(super) fn mapped(&self, map: MatRef<'_, f64>) -> Moments {
        let second = linalg::congruent(MatRef::from_column_major_slice(&self.second, self.k, self.k), map);
        let second = second.col_iter().flat_map(|c| c.iter().copied().collect::<Vec<f64>>()).collect();
        let sum = outputs(map, &self.sum);
        Moments { k: map.ncols(), rows: self.rows, second, cross: None, dense_sum: sum.clone(), sum, dense: None }
    }
}

/// Squared error of a layer's output over its variance when its weights `w` become others and `shift` is added to its biases.
pub fn error(w: &Matrix, now: &Matrix, shift: &[f32], h: &Moments) -> f64 {
    assert!(now.n == w.n && now.k == w.k && shift.len() == w.n, "internal: compress: weights of another layer");
    let layer = Centred::new(w, h);
    let now = weights(now, h);
    let shift: Vec<f64> = shift.iter().map(|&b| f64::from(b)).collect();
    let all: Vec<usize> = (0..w.k).collect();
    layer.relative(layer.error(0, &all, now.as_ref(), &shift, layer.second.as_ref()))
}

/// Squared error of a layer's output over its variance when all that it multiplies is off, each element by itself, by this share of their mean square.
pub fn noise(w: &Matrix, share: f64, h: &Moments) -> f64 {
    let layer = Centred::new(w, h);
    let squares = h.second.iter().step_by(h.k + 1).sum::<f64>() / h.k.max(1) as f64;
    let weights = w.values.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
    layer.relative(share * squares * weights)
}

/// Rows as columns of f64.
fn columns(rows: &[f32], k: usize) -> Mat<f64> {
    let mut out = Mat::zeros(k, rows.len() / k);
    for (j, row) in rows.chunks_exact(k).enumerate() {
        out.col_mut(j).iter_mut().zip(row).for_each(|(to, &x)| *to = f64::from(x));
    }
    out
}

fn add_sums(sums: &mut [f64], rows: MatRef<'_, f64>) {
    rows.col_iter().for_each(|row| sums.iter_mut().zip(row.iter()).for_each(|(sum, x)| *sum += x));
}

/// The moments about the means, applied to the weights of one layer: what fits and errors need. Columns of matrices are outputs.
pub(super) struct Centred {
    /// `[k][k]`: H.
    pub(super) second: Mat<f64>,
    /// `[k][n]`: C Wᵀ.
    pub(super) wanted: Mat<f64>,
    /// `[k][n]`: Wᵀ.
    pub(super) weights: Mat<f64>,
    /// `[n]`: w D wᵀ.
    energy: Vec<f64>,
    /// `[n]`: the mean of the dense output, without its bias.
    mean_output: Vec<f64>,
    /// `[k]`: the mean of x̂.
    mean: Vec<f64>,
    pub(super) rows: f64,
}

impl Centred {
    /// Of a layer with trained weights `w`.
    pub(super) fn new(w: &Matrix, h: &Moments) -> Centred {
        let weights = weights(w, h);
        let centre = |moment: &[f64], left: &[f64], right: &[f64]| centre(moment, left, right, h.rows);
        let second = centre(&h.second, &h.sum, &h.sum);
        let wanted = match &h.cross {
            Some(cross) => linalg::product(centre(cross, &h.sum, &h.dense_sum).as_ref(), weights.as_ref()),
            None => linalg::product(second.as_ref(), weights.as_ref()),
        };
        let dense = match (&h.dense, &h.cross) {
            (Some(dense), _) => linalg::product(centre(dense, &h.dense_sum, &h.dense_sum).as_ref(), weights.as_ref()),
            (None, Some(_)) => linalg::product(second.as_ref(), weights.as_ref()),
            (None, None) => wanted.clone(),
        };
        let energy = dots(dense.as_ref(), weights.as_ref());
        let mean_output = outputs(weights.as_ref(), &means(&h.dense_sum, h.rows));
        Centred { second, wanted, weights, energy, mean_output, mean: means(&h.sum, h.rows), rows: h.rows }
    }

    /// Of a layer whose weights `w` are what is to be imitated on the rows that it is fed.
    pub(super) fn imitating(w: &Matrix, h: &Moments) -> Centred {
        let weights = weights(w, h);
        let second = centre(&h.second, &h.sum, &h.sum, h.rows);
        let wanted = linalg::product(second.as_ref(), weights.as_ref());
        let energy = dots(wanted.as_ref(), weights.as_ref());
        let mean = means(&h.sum, h.rows);
        let mean_output = outputs(weights.as_ref(), &mean);
        Centred { second, wanted, weights, energy, mean_output, mean, rows: h.rows }
    }

    /// What to add to the bias when the weights of outputs `first..` are those columns, which multiply the positions `at` only.
    pub(super) fn shift(&self, first: usize, at: &[usize], weights: MatRef<'_, f64>) -> Vec<f64> {
        let mean: Vec<f64> = at.iter().map(|&p| self.mean[p]).collect();
        outputs(weights, &mean).iter().zip(&self.mean_output[first..]).map(|(now, dense)| dense - now).collect()
    }

    /// What weights, one column for each output, make of the mean row.
    pub(super) fn mean_of(&self, weights: MatRef<'_, f64>) -> Vec<f64> {
        outputs(weights, &self.mean)
    }

    /// Squared error over all rows of outputs `first..` whose weights are those columns at the positions `at`, with a shift of their biases.
    /// `second` is H at those positions.
    pub(super) fn error(
        &self,
        first: usize,
        at: &[usize],
        weights: MatRef<'_, f64>,
        shift: &[f64],
        second: MatRef<'_, f64>,
    ) -> f64 {
        let fitted = dots(linalg::product(second, weights).as_ref(), weights);
        let wanted = linalg::gather_rows(self.wanted.as_ref(), at, first..first + weights.ncols());
        let crossed = dots(wanted.as_ref(), weights);
        let best = self.shift(first, at, weights);
        let one = |c: usize| {
            let off = shift[c] - best[c];
            let apart = self.energy[first + c] - 2.0 * crossed[c] + fitted[c];
            // Where the fit is exact, rounding may leave less than nothing.
            (if apart < 0.0 { 0.0 } else { apart }) + self.rows * off * off
        };
        (0..weights.ncols()).map(one).sum()
    }

    /// The variance of the dense output, times rows.
    pub(super) fn variance(&self) -> f64 {
        self.energy.iter().sum()
    }

    /// A squared error relative to the variance of the dense output; 1 where that output does not vary, infinite where it is not a number.
    pub(super) fn relative(&self, error: f64) -> f64 {
        let variance = self.variance();
        if !error.is_finite() || !variance.is_finite() {
            return f64::INFINITY;
        }
        match (error > 0.0, variance > 0.0) {
            (false, _) => 0.0,
            (true, true) => error / variance,
            (true, false) => 1.0,
        }
    }
}

/// `[k][n]`: the weights of a layer as columns.
fn weights(w: &Matrix, h: &Moments) -> Mat<f64> {
    assert!(
        h.k == w.k && w.values.len() == w.n * w.k && h.second.len() == h.k * h.k,
        "internal: compress: moments of another layer"
    );
    Mat::from_fn(w.k, w.n, |p, c| f64::from(w.values[c * w.k + p]))
}

/// A moment about the means.
fn centre(moment: &[f64], left: &[f64], right: &[f64], rows: f64) -> Mat<f64> {
    let (k, rows) = (left.len(), rows.max(1.0));
    Mat::from_fn(k, k, |i, j| moment[i * k + j] - left[i] * right[j] / rows)
}

fn means(sums: &[f64], rows: f64) -> Vec<f64> {
    sums.iter().map(|s| s / rows.max(1.0)).collect()
}

/// The dot product of each column with its counterpart.
pub(super) fn dots(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Vec<f64> {
    a.col_iter().zip(b.col_iter()).map(|(a, b)| a.iter().zip(b.iter()).map(|(a, b)| a * b).sum()).collect()
}

/// What each column of weights makes of one row.
fn outputs(weights: MatRef<'_, f64>, row: &[f64]) -> Vec<f64> {
    weights.col_iter().map(|w| w.iter().zip(row).map(|(w, x)| w * x).sum()).collect()
}
