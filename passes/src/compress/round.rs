//! Weights as small integers times scales, symmetric, a scale for each output or for each block of its inputs.
//!
//! GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022, §3): positions are rounded one
//! after another, and those that are not rounded yet make up for the error, along the columns of the Cholesky factor of the inverse of H. The
//! order is that of falling H_pp (the paper's later "act order"), updates are applied in blocks (§3, step 2). A scale per output is then fitted
//! again in closed form, and an output for which rounding to nearest is better keeps that: the sweep is greedy, so it can be.
//!
//! Instead of all integers of a range the weights of a layer may become those of a table of 16, which k-means finds ([`super::codebook`]); the sweep goes
//! over them in the same way.

use std::ops::Range;

use faer::{Mat, MatRef};

use super::moments::{self, Centred, Moments};
use super::{Matrix, Shape, codebook, linalg, prune};

/// How scales are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WeightRange {
    /// The largest weight is the largest integer.
    MinMax,
    /// Least squared error of rounding to nearest, weighted with H's diagonal; weights beyond the range are clipped.
    Mse,
}

/// The integers that weights become: from `-(2^(bits-1) - 1)` to `2^(bits-1) - 1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grid {
    /// 2 to 8.
    pub bits: u32,
    /// Inputs that share a scale; None: all of an output.
    pub block: Option<usize>,
    /// How scales are found.
    pub range: WeightRange,
}

/// How integers are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    /// Each weight by itself, half to even.
    Nearest,
    /// The error of one weight is made up for by the next ones.
    Gptq,
}

/// Rounded weights.
#[derive(Clone, PartialEq, Debug)]
pub struct Rounded {
    /// `[n][k]`.
    pub values: Vec<i8>,
    /// `[n]`, or `[n][ceil(k / block)]`.
    pub scales: Vec<f32>,
    /// `[n]`, to add to the bias.
    pub bias_shift: Vec<f32>,
    /// Squared error of the output over its variance, both with respect to the weights that were given and the rows that the layer is fed.
    pub error: f64,
}

/// Entries of a table, whose numbers have four bits.
const ENTRIES: usize = 16;
/// Weights of which a table is made, if there are more.
const CLUSTERED: usize = 1 << 16;
/// Damping of H, relative to the mean of its diagonal (GPTQ, §4).
const DAMPING: f64 = 1e-2;
/// Positions whose updates wait for those after the block.
const PENDING: usize = 64;
/// Smallest scale that is tried, as a share of the one that clips nothing, and how many are.
const SEARCH: (f64, usize) = (0.4, 60);

/// Rounds the weights of a layer. Where `kept` names the positions that a mask has left to each group, the others stay zero.
pub fn round(w: &Matrix, h: &Moments, grid: &Grid, kept: Option<(&Shape, &[Vec<u32>])>, how: Rounding) -> Rounded {
    assert!((2..=8).contains(&grid.bits) && grid.block != Some(0), "internal: compress: no such integers");
    let levels = Levels::Range(largest(grid));
    finish(&Layer { w, block: grid.block, levels, fed: Centred::imitating(w, h), scales: scales(w, h, grid) }, kept, how)
}

/// Rounds the weights of a layer to the 16 signed bytes that suit them best, with a scale for each output. As [`round`] otherwise.
pub fn round_to_table(w: &Matrix, h: &Moments, kept: Option<(&Shape, &[Vec<u32>])>, how: Rounding) -> Rounded {
    let grid = Grid { bits: 8, block: None, range: WeightRange::MinMax };
    let scales = scales(w, h, &grid);
    let levels = Levels::Table(table(w, &scales, &importance(h)));
    finish(&Layer { w, block: None, levels, fed: Centred::imitating(w, h), scales }, kept, how)
}

/// Rounds the weights of a layer to 16 signed bytes, with a scale for each output, when nothing is known of what they multiply: values and scales.
pub fn nearest_in_table(w: &Matrix) -> (Vec<i8>, Vec<f32>) {
    let grid = Grid { bits: 8, block: None, range: WeightRange::MinMax };
    let alike = vec![1.0; w.k];
    let scales: Vec<f32> = w.values.chunks(w.k.max(1)).map(|row| scale(row, &alike, &grid)).collect();
    let levels = Levels::Table(table(w, &scales, &alike));
    let one = |(i, v): (usize, &f32)| levels.nearest(f64::from(v / scales[i / w.k.max(1)])) as i8;
    (w.values.iter().enumerate().map(one).collect(), scales)
}

/// Ascending signed bytes for weights in units of their outputs' scales; zero is one of them where a weight is.
fn table(w: &Matrix, scales: &[f32], importance: &[f64]) -> Vec<i8> {
    let step = (w.values.len() / CLUSTERED) | 1;
    let some = w.values.iter().enumerate().step_by(step);
    let (values, weights): (Vec<f32>, Vec<f64>) = some
        .map(|(i, v)| {
            let scale = scales[i / w.k.max(1)];
            (v / scale, importance[i % w.k.max(1)] * f64::from(scale).powi(2))
        })
        .unzip();
    let (table, _) = codebook(&values, ENTRIES, Some(&weights));
    let mut table: Vec<i8> = table.iter().map(|v| v.round_ties_even().clamp(-127.0, 127.0) as i8).collect();
    if table.is_empty() || (w.values.contains(&0.0) && !table.contains(&0)) {
        match table.iter_mut().min_by_key(|v| v.unsigned_abs()) {
            Some(smallest) => *smallest = 0,
            None => table.push(0),
        }
    }
    table.sort_unstable();
    table.dedup();
    table
}

fn finish(layer: &Layer, kept: Option<(&Shape, &[Vec<u32>])>, how: Rounding) -> Rounded {
    let w = layer.w;
    let nearest = layer.nearest();
    let (values, scales) = match how {
        Rounding::Nearest => (nearest, layer.scales.clone()),
        Rounding::Gptq => {
            let all: Vec<usize> = (0..w.k).collect();
            let mut swept = nearest.clone();
            match kept {
                None => layer.sweep(&all, 0..w.n, &mut swept),
                Some((shape, kept)) => {
                    let groups = kept.iter().enumerate();
                    groups.for_each(|(g, units)| layer.sweep(&shape.positions(units), shape.outputs(g, w.n), &mut swept));
                }
            }
            layer.better(swept, nearest)
        }
    };
    let difference = layer.difference(&values, &scales);
    let error: f64 = layer.errors(difference.as_ref()).iter().sum();
    let bias_shift = layer.fed.mean_of(difference.as_ref()).iter().map(|m| -m as f32).collect();
    Rounded { values, scales, bias_shift, error: layer.fed.relative(error) }
}

struct Layer<'a> {
    w: &'a Matrix,
    block: Option<usize>,
    levels: Levels,
    fed: Centred,
    scales: Vec<f32>,
}

/// The integers that weights become.
enum Levels {
    /// All from the negative of this one to it.
    Range(f64),
    /// These, which ascend.
    Table(Vec<i8>),
}

impl Levels {
    fn nearest(&self, x: f64) -> f64 {
        match self {
            Levels::Range(largest) => integer(x, *largest),
            Levels::Table(table) => {
                let after = table.partition_point(|v| f64::from(*v) < x);
                let closest = table[after.saturating_sub(1)..(after + 1).min(table.len())].iter().map(|v| f64::from(*v));
                closest.min_by(|a, b| (a - x).abs().total_cmp(&(b - x).abs())).unwrap_or(0.0)
            }
        }
    }
}

impl Layer<'_> {
    /// Where the scale of a weight is.
    fn scale_at(&self, c: usize, p: usize) -> usize {
        match self.block {
            Some(block) => c * self.w.k.div_ceil(block) + p / block,
            None => c,
        }
    }

    fn nearest(&self) -> Vec<i8> {
        let one = |(i, w): (usize, &f32)| {
            let scale = self.scales[self.scale_at(i / self.w.k, i % self.w.k)];
            self.levels.nearest(f64::from(*w) / f64::from(scale)) as i8
        };
        self.w.values.iter().enumerate().map(one).collect()
    }

    /// Rounds the positions `at` of some outputs one after another.
    fn sweep(&self, at: &[usize], outputs: Range<usize>, values: &mut [i8]) {
        let second = self.fed.second.as_ref();
        let mut at = at.to_vec();
        at.sort_by(|&a, &b| second[(b, b)].total_cmp(&second[(a, a)]));
        let damping = prune::absolute(second, DAMPING);
        let inverse = linalg::Cholesky::new(linalg::gather(second, &at).as_ref(), damping).inverse();
        let factor = linalg::Cholesky::new(inverse.as_ref(), 0.0);
        let factor = factor.factor();
        let mut weights = Mat::from_fn(outputs.len(), at.len(), |c, i| self.fed.weights[(at[i], outputs.start + c)]);
        for start in (0..at.len()).step_by(PENDING) {
            let end = (start + PENDING).min(at.len());
            let mut errors = Mat::zeros(outputs.len(), end - start);
            for i in start..end {
                for c in outputs.clone() {
                    let scale = f64::from(self.scales[self.scale_at(c, at[i])]);
                    let weight = weights[(c - outputs.start, i)];
                    let rounded = self.levels.nearest(weight / scale);
                    values[c * self.w.k + at[i]] = rounded as i8;
                    errors[(c - outputs.start, i - start)] = (weight - scale * rounded) / factor[(i, i)];
                }
                let error = errors.col_as_slice(i - start);
                for j in i + 1..end {
                    let share = factor[(j, i)];
                    weights.col_as_slice_mut(j).iter_mut().zip(error).for_each(|(w, e)| *w -= share * e);
                }
            }
            let (later, rows) = (weights.subcols_mut(end, at.len() - end), at.len() - end);
            linalg::add_product(later, -1.0, errors.as_ref(), factor.submatrix(end, start, rows, end - start).transpose());
        }
    }

    /// Of each output the better one, with its scale: swept values with a scale fitted to them, or the nearest ones.
    fn better(&self, mut swept: Vec<i8>, nearest: Vec<i8>) -> (Vec<i8>, Vec<f32>) {
        let mut scales = if self.block.is_none() { self.fitted_scales(&swept) } else { self.scales.clone() };
        let errors = |values: &[i8], scales: &[f32]| self.errors(self.difference(values, scales).as_ref());
        let (by_sweep, by_nearest) = (errors(&swept, &scales), errors(&nearest, &self.scales));
        let k = self.w.k;
        let per_output = scales.len() / self.w.n.max(1);
        for c in (0..self.w.n).filter(|&c| by_nearest[c] <= by_sweep[c]) {
            swept[c * k..][..k].copy_from_slice(&nearest[c * k..][..k]);
            scales[c * per_output..][..per_output].copy_from_slice(&self.scales[c * per_output..][..per_output]);
        }
        (swept, scales)
    }

    /// The scales with which integers q imitate w best: (q H w) / (q H q).
    fn fitted_scales(&self, values: &[i8]) -> Vec<f32> {
        let integers = Mat::from_fn(self.w.k, self.w.n, |p, c| f64::from(values[c * self.w.k + p]));
        let wanted = moments::dots(integers.as_ref(), self.fed.wanted.as_ref());
        let product = linalg::product(self.fed.second.as_ref(), integers.as_ref());
        let own = moments::dots(integers.as_ref(), product.as_ref());
        let fitted = wanted.iter().zip(&own).map(|(wanted, own)| (wanted / own) as f32);
        let usable = |(fitted, old): (f32, &f32)| if fitted.is_normal() && fitted > 0.0 { fitted } else { *old };
        fitted.zip(&self.scales).map(usable).collect()
    }

    /// `[k][n]`: rounded weights less the given ones.
    fn difference(&self, values: &[i8], scales: &[f32]) -> Mat<f64> {
        let rounded = |p: usize, c: usize| {
            f64::from(scales[self.scale_at(c, p)] * f32::from(values[c * self.w.k + p])) - self.fed.weights[(p, c)]
        };
        Mat::from_fn(self.w.k, self.w.n, rounded)
    }

    /// Squared error of each output, the mean aside.
    fn errors(&self, difference: MatRef<'_, f64>) -> Vec<f64> {
        moments::dots(linalg::product(self.fed.second.as_ref(), difference).as_ref(), difference)
    }
}

fn largest(grid: &Grid) -> f64 {
    f64::from((1i32 << (grid.bits - 1)) - 1)
}

fn integer(x: f64, largest: f64) -> f64 {
    x.round_ties_even().clamp(-largest, largest)
}

/// How much an error of a weight of each input counts.
fn importance(h: &Moments) -> Vec<f64> {
    let rows = h.rows.max(1.0);
    (0..h.k).map(|p| (h.second[p * h.k + p] - h.sum[p] * h.sum[p] / rows).max(0.0)).collect()
}

fn scales(w: &Matrix, h: &Moments, grid: &Grid) -> Vec<f32> {
    let importance = importance(h);
    let block = grid.block.unwrap_or(w.k).max(1);
    let one = |weights: &[f32]| -> Vec<f32> {
        weights.chunks(block).zip(importance.chunks(block)).map(|(w, importance)| scale(w, importance, grid)).collect()
    };
    w.values.chunks(w.k.max(1)).flat_map(one).collect()
}

/// The scale of weights that share one.
fn scale(weights: &[f32], importance: &[f64], grid: &Grid) -> f32 {
    let (peak, largest) = (weights.iter().fold(0.0f32, |m, w| m.max(w.abs())), largest(grid));
    let widest = (f64::from(peak) / largest) as f32;
    if !widest.is_normal() {
        return 1.0;
    }
    let error = |scale: f32| -> f64 {
        let one = |w: f32| (f64::from(w) - f64::from(scale) * integer(f64::from(w) / f64::from(scale), largest)).powi(2);
        weights.iter().zip(importance).map(|(w, importance)| one(*w) * importance).sum()
    };
    let candidates = |steps: usize| (0..steps).map(move |i| 1.0 - (1.0 - SEARCH.0) * i as f64 / steps as f64);
    match grid.range {
        WeightRange::MinMax => widest,
        WeightRange::Mse => {
            let tried = candidates(SEARCH.1).map(|share| (widest as f64 * share) as f32).map(|s| (error(s), s));
            tried.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(widest, |best| best.1)
        }
    }
}

#[cfg(test)]
mod tests;
