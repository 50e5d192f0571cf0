//! A convolution as two: a narrow one that all blocks of a kernel share, and one over its results.
//!
//! Positions fall into blocks of equal length, and every block is multiplied by the same first matrix P `[r][length]`; the second convolution sees r
//! values where the layer saw a block. Blocks are the taps (P is 1 by 1 over the channels, the input half of Tucker's decomposition: Kim et al.,
//! "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications", 2016, §3.1), or the columns of the kernel (P is a
//! column of taps: Jaderberg et al., "Speeding up Convolutional Neural Networks with Low Rank Expansions", 2014, §2, scheme 2). The output half of
//! Tucker's decomposition is [`super::low_rank()`] of the second layer, for which its moments are returned.
//!
//! P starts from the singular vectors of the weights unfolded over blocks, whitened by the second moment that blocks have on average. Then both
//! matrices are fitted in turns (alternating least squares, as for tensor decompositions: Kolda and Bader, "Tensor Decompositions and Applications",
//! 2009, §3.4, but to the layer's output): the second in closed form, P by conjugate gradients, because its normal equations are large.

use faer::{Mat, MatRef};
use rayon::prelude::*;

use super::moments::{self, Centred, Moments};
use super::{Matrix, linalg, prune};

/// Turns of fitting both matrices after the first fit of the second.
const TURNS: usize = 3;
/// Steps of conjugate gradients in a turn.
const STEPS: usize = 8;

/// What the positions of a kernel `rows` x `columns` are split into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocks {
    /// Its taps: the first convolution is 1 by 1.
    Taps,
    /// Its columns: the first convolution is `rows` x 1, the second 1 x `columns`.
    Columns,
}

/// Extents of a convolution's kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// Taps from top to bottom.
    pub rows: usize,
    /// Taps from left to right.
    pub columns: usize,
    /// Channels of a tap.
    pub channels: usize,
}

/// Two convolutions in place of one. The first has no bias, so that padding stays zero.
#[derive(Clone, PartialEq, Debug)]
pub struct Narrowed {
    /// `[r][channels]`, or `[r][rows * channels]` where blocks are columns.
    pub first: Matrix,
    /// `[n][taps * r]`, or `[n][columns * r]`.
    pub second: Matrix,
    /// `[n]`, to add to the bias of the second.
    pub bias_shift: Vec<f32>,
    /// What the second is fed.
    pub moments: Moments,
    /// Squared error of the output over its variance (see [`super::moments`]).
    pub error: f64,
}

impl Narrowed {
    /// The weights of one convolution that does the same, `[n][k]`.
    pub fn product(&self, kernel: &Kernel, blocks: Blocks) -> Matrix {
        let (n, k, width) = (self.second.n, kernel.rows * kernel.columns * kernel.channels, self.first.n);
        let mut values = vec![0.0; n * k];
        for (b, block) in kernel.blocks(blocks).iter().enumerate() {
            for (row, second) in values.chunks_exact_mut(k.max(1)).zip(self.second.values.chunks_exact(self.second.k.max(1))) {
                for (share, first) in second[b * width..][..width].iter().zip(self.first.values.chunks_exact(block.len())) {
                    block.iter().zip(first).for_each(|(&p, x)| row[p] += share * x);
                }
            }
        }
        Matrix { n, k, values }
    }
}

/// Both convolutions for each of some widths r, which are cut to the length of a block. `damping` is relative to the mean of H's diagonal. None for
/// a layer whose weights or moments are not finite.
pub fn narrow(w: &Matrix, h: &Moments, kernel: &Kernel, blocks: Blocks, widths: &[usize], damping: f64) -> Option<Vec<Narrowed>> {
    assert_eq!(w.k, kernel.rows * kernel.columns * kernel.channels, "internal: compress: a kernel of another layer");
    let layer = Centred::new(w, h);
    let fit = Fit::new(&layer, kernel.blocks(blocks), prune::absolute(layer.second.as_ref(), damping));
    let start = fit.start(damping)?;
    let one = |&width: &usize| {
        let width = width.clamp(start.ncols().min(1), start.ncols());
        let mut shared = start.subcols(0, width).to_owned();
        (0..TURNS).for_each(|_| shared = fit.shared(shared.as_ref(), fit.second(shared.as_ref()).as_ref()));
        fit.assemble(h, shared.as_ref())
    };
    Some(widths.par_iter().map(one).collect())
}

impl Kernel {
    /// The positions of each block, those of one place of the first convolution at the same place.
    pub(super) fn blocks(&self, blocks: Blocks) -> Vec<Vec<usize>> {
        let tap = |row: usize, column: usize| {
            let start = (row * self.columns + column) * self.channels;
            start..start + self.channels
        };
        let taps = || (0..self.rows).flat_map(|row| (0..self.columns).map(move |column| (row, column)));
        match blocks {
            Blocks::Taps => taps().map(|(row, column)| tap(row, column).collect()).collect(),
            Blocks::Columns => (0..self.columns).map(|c| (0..self.rows).flat_map(|row| tap(row, c)).collect()).collect(),
        }
    }
}

/// The problem of both matrices, the damping added: it pulls the product of both towards the trained weights.
struct Fit<'a> {
    layer: &'a Centred,
    blocks: Vec<Vec<usize>>,
    /// `[k][k]`.
    damped: Mat<f64>,
    /// `[k][n]`.
    wanted: Mat<f64>,
}

impl Fit<'_> {
    fn new(layer: &Centred, blocks: Vec<Vec<usize>>, ridge: f64) -> Fit<'_> {
        let mut damped = layer.second.clone();
        (0..damped.nrows()).for_each(|p| damped[(p, p)] += ridge);
        let wanted = &layer.wanted + faer::Scale(ridge) * &layer.weights;
        Fit { layer, blocks, damped, wanted }
    }

    /// `[length][length]`: columns of what blocks could be multiplied by, the most important first.
    fn start(&self, damping: f64) -> Option<Mat<f64>> {
        let length = self.blocks.first().map_or(0, Vec::len);
        let (mut second, mut gram) = (Mat::zeros(length, length), Mat::zeros(length, length));
        for block in &self.blocks {
            second += linalg::gather(self.layer.second.as_ref(), block);
            let weights = linalg::gather_rows(self.layer.weights.as_ref(), block, 0..self.layer.weights.ncols());
            linalg::add_gram(gram.as_mut(), 1.0, weights.as_ref());
        }
        let factor = linalg::Cholesky::new(second.as_ref(), prune::absolute(second.as_ref(), damping));
        let mut vectors = linalg::eigenvectors(linalg::congruent(gram.as_ref(), factor.factor()).as_ref())?;
        factor.solve_transposed(vectors.as_mut());
        Some(vectors)
    }

    /// `[k][blocks * r]`: what the first convolution does to a row of the layer.
    fn map(&self, shared: MatRef<'_, f64>) -> Mat<f64> {
        map(&self.blocks, self.damped.nrows(), shared)
    }

    /// `[blocks * r][n]`: the second matrix that fits a first one best.
    fn second(&self, shared: MatRef<'_, f64>) -> Mat<f64> {
        let map = self.map(shared);
        let mut fitted = linalg::product(map.transpose(), self.wanted.as_ref());
        linalg::Cholesky::new(linalg::congruent(self.damped.as_ref(), map.as_ref()).as_ref(), 0.0).solve(fitted.as_mut());
        fitted
    }

    /// The derivative by P of tr(Yᵀ V), V the weights that P and the second matrix make.
    fn contract(&self, y: MatRef<'_, f64>, second: MatRef<'_, f64>) -> Mat<f64> {
        let width = second.nrows() / self.blocks.len();
        let all = linalg::product(y, second.transpose());
        let own = |i: usize, r: usize| self.blocks.iter().enumerate().map(|(b, at)| all[(at[i], b * width + r)]).sum();
        Mat::from_fn(self.blocks[0].len(), width, own)
    }

    /// A first matrix that fits the second better than the one given: [`STEPS`] of conjugate gradients from there. Its columns are orthonormal.
    fn shared(&self, start: MatRef<'_, f64>, second: MatRef<'_, f64>) -> Mat<f64> {
        let apply = |p: &Mat<f64>| {
            let weights = linalg::product(self.map(p.as_ref()).as_ref(), second);
            self.contract(linalg::product(self.damped.as_ref(), weights.as_ref()).as_ref(), second)
        };
        let mut shared = start.to_owned();
        let mut residual = self.contract(self.wanted.as_ref(), second) - apply(&shared);
        let mut direction = residual.clone();
        let mut square = residual.squared_norm_l2();
        for _ in 0..STEPS {
            let image = apply(&direction);
            let curvature: f64 = moments::dots(direction.as_ref(), image.as_ref()).iter().sum();
            if !(square > 0.0 && curvature > 0.0) {
                break;
            }
            let step = square / curvature;
            shared += faer::Scale(step) * &direction;
            residual -= faer::Scale(step) * &image;
            let next = residual.squared_norm_l2();
            direction = &residual + faer::Scale(next / square) * &direction;
            square = next;
        }
        orthonormal(shared.as_ref())
    }

    /// Both convolutions, as the numbers that will be used.
    fn assemble(&self, h: &Moments, shared: MatRef<'_, f64>) -> Narrowed {
        let single = |a: Mat<f64>| Mat::from_fn(a.nrows(), a.ncols(), |i, j| f64::from(a[(i, j)] as f32));
        let shared = single(orthonormal(shared));
        let second = single(self.second(shared.as_ref()));
        let map = self.map(shared.as_ref());
        let weights = linalg::product(map.as_ref(), second.as_ref());
        let all: Vec<usize> = (0..weights.nrows()).collect();
        let bias_shift: Vec<f32> = self.layer.shift(0, &all, weights.as_ref()).iter().map(|&b| b as f32).collect();
        let shift: Vec<f64> = bias_shift.iter().map(|&b| f64::from(b)).collect();
        let error = self.layer.error(0, &all, weights.as_ref(), &shift, self.layer.second.as_ref());
        let rows = |a: MatRef<'_, f64>| Matrix {
            n: a.ncols(),
            k: a.nrows(),
            values: a.col_iter().flat_map(|c| c.iter().map(|&x| x as f32)).collect(),
        };
        Narrowed {
            first: rows(shared.as_ref()),
            second: rows(second.as_ref()),
            bias_shift,
            moments: h.mapped(map.as_ref()),
            error: self.layer.relative(error),
        }
    }
}

/// `[k][blocks * r]`: what a matrix `[length][r]` does to every block of a row.
fn map(blocks: &[Vec<usize>], k: usize, shared: MatRef<'_, f64>) -> Mat<f64> {
    let width = shared.ncols();
    let mut map = Mat::zeros(k, blocks.len() * width);
    for (b, block) in blocks.iter().enumerate() {
        for (i, &p) in block.iter().enumerate() {
            (0..width).for_each(|r| map[(p, b * width + r)] = shared[(i, r)]);
        }
    }
    map
}

/// Moments of the blocks of rows, and of rows of what a first matrix `[r][length]` makes of each block.
pub(super) fn moments_of_both(h: &Moments, blocks: &[Vec<usize>], first: &Matrix) -> [Moments; 2] {
    let length = first.k;
    let mut before = Moments::new(length, false);
    before.rows = h.rows * blocks.len() as f64;
    for block in blocks {
        for (i, &p) in block.iter().enumerate() {
            before.sum[i] += h.sum[p];
            block.iter().enumerate().for_each(|(j, &q)| before.second[i * length + j] += h.second[p * h.k + q]);
        }
    }
    before.dense_sum.clone_from(&before.sum);
    let shared = Mat::from_fn(length, first.n, |i, r| f64::from(first.values[r * length + i]));
    [before, h.mapped(map(blocks, h.k, shared.as_ref()).as_ref())]
}

/// Columns that span the same: what the first matrix spans is all that matters, and so its values keep the range of the input.
fn orthonormal(a: MatRef<'_, f64>) -> Mat<f64> {
    let scale = |j: usize| a.col(j).norm_l2().max(f64::MIN_POSITIVE);
    let unit = Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)] / scale(j));
    let mut rows = unit.transpose().to_owned();
    let gram = linalg::product(unit.transpose(), unit.as_ref());
    linalg::Cholesky::new(gram.as_ref(), 0.0).solve_lower(rows.as_mut());
    rows.transpose().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Inputs, Random, apply, disturbed, paired, relative_error};
    use super::*;

    const KERNEL: Kernel = Kernel { rows: 2, columns: 3, channels: 5 };

    fn layer(seed: u64) -> (Matrix, Vec<f32>, Vec<f32>) {
        let mut random = Random(seed);
        let inputs = Inputs::new(&mut random, 8, 30);
        let rows = inputs.rows(&mut random, 300);
        (random.matrix(12, 30), disturbed(&mut random, &rows), rows)
    }

    /// What the first convolution makes of rows.
    fn through(narrowed: &Narrowed, blocks: Blocks, rows: &[f32]) -> Vec<f32> {
        let blocks = KERNEL.blocks(blocks);
        let first = &narrowed.first;
        let one = |row: &[f32]| -> Vec<f32> {
            let block = |b: &Vec<usize>| apply(first, &vec![0.0; first.n], &b.iter().map(|&p| row[p]).collect::<Vec<f32>>());
            blocks.iter().flat_map(block).map(|x| x as f32).collect()
        };
        rows.chunks_exact(30).flat_map(one).collect()
    }

    #[test]
    fn errors_and_moments_are_those_of_the_rows() {
        let (w, fed, rows) = layer(1);
        let dense = apply(&w, &[0.0; 12], &rows);
        for blocks in [Blocks::Taps, Blocks::Columns] {
            let h = paired(30, &fed, &rows);
            let all = narrow(&w, &h, &KERNEL, blocks, &[1, 2, 3, 4, 5], 1e-6).unwrap();
            for narrowed in &all {
                let between = through(narrowed, blocks, &fed);
                let error = relative_error(12, &dense, &apply(&narrowed.second, &narrowed.bias_shift, &between));
                assert!((narrowed.error - error).abs() < 1e-4 * error, "{blocks:?}: {} {error}", narrowed.error);
                let whole = super::super::error(&w, &narrowed.product(&KERNEL, blocks), &narrowed.bias_shift, &h);
                assert!((whole - error).abs() < 1e-4 * error, "{blocks:?}: {whole} {error}");
                let moments = super::super::testing::moments(narrowed.second.k, &between);
                let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3 * (1.0 + b.abs()));
                assert!(near(&narrowed.moments.second, &moments.second) && near(&narrowed.moments.sum, &moments.sum));
            }
            assert!(all.windows(2).all(|w| w[1].error < w[0].error));
        }
    }

    #[test]
    fn full_width_is_the_layer_itself() {
        let (w, _, rows) = layer(2);
        let h = super::super::testing::moments(30, &rows);
        for (blocks, width) in [(Blocks::Taps, 5), (Blocks::Columns, 10)] {
            let narrowed = &narrow(&w, &h, &KERNEL, blocks, &[width], 1e-6).unwrap()[0];
            assert!(narrowed.error < 1e-8, "{}", narrowed.error);
        }
    }

    /// Turns only ever help, and they do.
    #[test]
    fn fitting_in_turns_beats_the_start() {
        let (w, fed, rows) = layer(4);
        let h = paired(30, &fed, &rows);
        for blocks in [Blocks::Taps, Blocks::Columns] {
            let layer = Centred::new(&w, &h);
            let fit = Fit::new(&layer, KERNEL.blocks(blocks), prune::absolute(layer.second.as_ref(), 1e-6));
            let mut shared = fit.start(1e-6).unwrap().subcols(0, 2).to_owned();
            let mut errors = vec![fit.assemble(&h, shared.as_ref()).error];
            for _ in 0..TURNS {
                shared = fit.shared(shared.as_ref(), fit.second(shared.as_ref()).as_ref());
                errors.push(fit.assemble(&h, shared.as_ref()).error);
            }
            assert!(errors.windows(2).all(|e| e[1] <= e[0]) && errors[TURNS] < 0.97 * errors[0], "{errors:?}");
        }
    }

    /// A kernel that is separable is found to be.
    #[test]
    fn weights_of_that_form_are_kept() {
        let mut random = Random(3);
        let (_, _, rows) = layer(3);
        let h = super::super::testing::moments(30, &rows);
        for blocks in [Blocks::Taps, Blocks::Columns] {
            let places = KERNEL.blocks(blocks);
            let (first, second) = (random.matrix(2, places[0].len()), random.matrix(12, 2 * places.len()));
            let mut w = Matrix { n: 12, k: 30, values: vec![0.0; 12 * 30] };
            for (b, block) in places.iter().enumerate() {
                for (i, &p) in block.iter().enumerate() {
                    let weight = |c: usize, r: usize| second.values[c * second.k + b * 2 + r] * first.values[r * first.k + i];
                    (0..12).for_each(|c| w.values[c * 30 + p] = weight(c, 0) + weight(c, 1));
                }
            }
            let all = narrow(&w, &h, &KERNEL, blocks, &[1, 2], 1e-6).unwrap();
            assert!(all[1].error < 1e-8 && all[0].error > 1e-3, "{blocks:?}: {} {}", all[0].error, all[1].error);
        }
    }
}
