//! Weights as small integers times scales, symmetric, a scale for each output or for each block of its inputs.
//!
//! GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022, §3): positions are rounded one
//! after another, and those that are not rounded yet make up for the error, along the columns of the Cholesky factor of the inverse of H. The
//! order is that of falling H_pp (the paper's later "act order"), updates are applied in blocks (§3, step 2). A scale per output is then fitted
//! again in closed form, and an output for which rounding to nearest is better keeps that: the sweep is greedy, so it can be.
//!
//! Instead of all integers of a range the weights of a layer may become those of a table of 16, which k-means finds ([`super::codebook`]); the sweep goes
//! over them in the same way. Or the integers of 8 bits are those of which few add up to much ([`Sums`]): where they add up to too much all of them give
//! way, each by as much as the others count, and the sweep makes up for that too. Few sums have to: the error is hardly above that of 8 bits.
//!
//! Or one step is common to all outputs, and so coarse that only a share of the weights is not zero ([`WeightRange::Share`]): where entropy is what counts,
//! equal steps take fewer bits than values that are placed freely, at the same error (Gish and Pierce, "Asymptotically Efficient Quantizing", 1968).

use std::ops::Range;
use std::sync::OnceLock;

use faer::{Mat, MatRef};
use rayon::prelude::*;

use super::moments::{self, Centred, Moments};
use super::{Matrix, Shape, codebook, linalg, prune};

mod sums;

pub use sums::Sums;
use sums::{Groups, Others};

/// How scales are found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum WeightRange {
    /// The largest weight is the largest integer.
    MinMax,
    /// Least squared error of rounding to nearest, weighted with H's diagonal; weights beyond the range are clipped.
    Mse,
    /// One for all weights, such that this share of them, the largest ones, rounds to something else than zero, or more of them where the largest weight would
    /// be clipped.
    Share(f64),
}

/// The integers that weights become: from `-(2^(bits-1) - 1)` to `2^(bits-1) - 1`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Grid {
    /// 2 to 8.
    pub bits: u32,
    /// Inputs that share a scale; None: all of an output.
    pub block: Option<usize>,
    /// How scales are found.
    pub range: WeightRange,
    /// Some of them add up to little; None: they need not.
    pub sums: Option<Sums>,
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
    /// The same on the rows that judge, if there are any.
    pub check_error: Option<f64>,
}

/// Signed bytes that clip nothing.
const WIDEST: Grid = Grid { bits: 8, block: None, range: WeightRange::MinMax, sums: None };
/// Entries of a table, whose numbers have four bits.
const ENTRIES: usize = 16;
/// Weights of which a table is made, if there are more.
const CLUSTERED: usize = 1 << 16;
/// Damping of H, relative to the mean of its diagonal (GPTQ, §4).
const DAMPING: f64 = 1e-2;
/// Positions whose updates wait for those after the block.
const PENDING: usize = 64;
/// Smallest scale that is tried, as a share of the one that clips nothing, and how many are, of rough ones fewer.
const SEARCH: (f64, [usize; 2]) = (0.4, [60, 20]);

/// Rounds the weights of a layer for moments, and others that judge what was found if there are any: a sweep can fit few rows too well. Where `kept` names the
/// positions that a mask has left to each group, the others stay zero.
pub fn round(
    w: &Matrix,
    moments: (&Moments, Option<&Moments>),
    grid: &Grid,
    kept: Option<(&Shape, &[Vec<u32>])>,
    how: Rounding,
) -> Rounded {
    round_on(&Rows::new(w, moments), w, grid, kept, how)
}

/// The same for integers of several kinds: what does not depend on them is computed once.
pub fn round_each(w: &Matrix, moments: (&Moments, Option<&Moments>), grids: &[Grid], how: Rounding) -> Vec<Rounded> {
    let rows = Rows::new(w, moments);
    grids.par_iter().map(|grid| round_on(&rows, w, grid, None, how)).collect()
}

fn round_on(rows: &Rows, w: &Matrix, grid: &Grid, kept: Option<(&Shape, &[Vec<u32>])>, how: Rounding) -> Rounded {
    let sums = grid.sums.is_none() || grid.bits == 8 && grid.block.is_none();
    assert!((2..=8).contains(&grid.bits) && grid.block != Some(0) && sums, "internal: compress: no such integers");
    let levels = Levels::of(grid, w, &rows.importance, kept);
    let scales = scales(w, &rows.importance, grid, &levels, false);
    finish(&Layer { w, block: grid.block, levels, rows, scales }, kept, how)
}

/// Rounds the weights of a layer to the 16 signed bytes that suit them best, with a scale for each output. As [`round`] otherwise.
pub fn round_to_table(
    w: &Matrix,
    moments: (&Moments, Option<&Moments>),
    kept: Option<(&Shape, &[Vec<u32>])>,
    how: Rounding,
) -> Rounded {
    let rows = Rows::new(w, moments);
    let scales = scales(w, &rows.importance, &WIDEST, &Levels::of(&WIDEST, w, &rows.importance, None), false);
    let levels = Levels::Table(table(w, &scales, &rows.importance));
    finish(&Layer { w, block: None, levels, rows: &rows, scales }, kept, how)
}

/// The nearest integers for the weights of a layer when nothing is known of what they multiply: values and scales. Fewer scales are tried than otherwise.
pub fn nearest(w: &Matrix, grid: &Grid) -> (Vec<i8>, Vec<f32>) {
    let alike = vec![1.0; w.k];
    let levels = Levels::of(grid, w, &alike, None);
    let scales = scales(w, &alike, grid, &levels, true);
    (levels.of_all(w, |c, p| scales[scale_at(w, grid.block, c, p)]), scales)
}

/// Rounds the weights of a layer to 16 signed bytes, with a scale for each output, when nothing is known of what they multiply: values and scales.
pub fn nearest_in_table(w: &Matrix) -> (Vec<i8>, Vec<f32>) {
    let alike = vec![1.0; w.k];
    let scales = scales(w, &alike, &WIDEST, &Levels::of(&WIDEST, w, &alike, None), true);
    let levels = Levels::Table(table(w, &scales, &alike));
    (levels.of_all(w, |c, _| scales[c]), scales)
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
            let (rows, mut swept) = (layer.rows, nearest.clone());
            match kept {
                None => {
                    let order = rows.order.get_or_init(|| Order::new(&rows.fed, (0..w.k).collect()));
                    layer.sweep(order, 0..w.n, &mut swept);
                }
                Some((shape, kept)) => {
                    let groups = swept.par_chunks_mut(shape.group.max(1) * w.k.max(1)).zip(kept).enumerate();
                    let sweep = |(g, (values, units)): (usize, (&mut [i8], &Vec<u32>))| {
                        layer.sweep(&Order::new(&rows.fed, shape.positions(units)), shape.outputs(g, w.n), values);
                    };
                    groups.for_each(sweep);
                }
            }
            layer.better(swept, nearest)
        }
    };
    let (difference, fed) = (layer.difference(&values, &scales), &layer.rows.fed);
    let error: f64 = errors(fed, difference.as_ref()).iter().sum();
    let means = fed.mean_of(difference.as_ref());
    let on_others = |rows: &Centred| {
        // The bias makes up for the mean of the rows that the layer is fitted to.
        let off = rows.mean_of(difference.as_ref()).iter().zip(&means).map(|(own, of_fed)| (own - of_fed).powi(2)).sum::<f64>();
        rows.relative(errors(rows, difference.as_ref()).iter().sum::<f64>() + rows.rows * off)
    };
    let check_error = layer.rows.check.as_ref().map(on_others);
    let bias_shift = means.iter().map(|m| -m as f32).collect();
    Rounded { values, scales, bias_shift, error: fed.relative(error), check_error }
}

/// What is known of the rows that a layer multiplies.
struct Rows {
    /// Those that it is fitted to.
    fed: Centred,
    /// Those that judge what was found.
    check: Option<Centred>,
    /// `[k]`.
    importance: Vec<f64>,
    /// All positions, once they were swept.
    order: OnceLock<Order>,
}

impl Rows {
    fn new(w: &Matrix, (h, check): (&Moments, Option<&Moments>)) -> Rows {
        let (fed, check) = rayon::join(|| Centred::imitating(w, h), || check.map(|h| Centred::imitating(w, h)));
        Rows { fed, check, importance: importance(h), order: OnceLock::new() }
    }
}

/// Positions as a sweep rounds them.
struct Order {
    /// One after another.
    at: Vec<usize>,
    /// Along its columns others make up for an error.
    factor: linalg::Cholesky,
}

impl Order {
    fn new(fed: &Centred, mut at: Vec<usize>) -> Order {
        let second = fed.second.as_ref();
        at.sort_by(|&a, &b| second[(b, b)].total_cmp(&second[(a, a)]));
        let damping = prune::absolute(second, DAMPING);
        let inverse = linalg::Cholesky::new(linalg::gather(second, &at).as_ref(), damping).inverse();
        Order { at, factor: linalg::Cholesky::new(inverse.as_ref(), 0.0) }
    }
}

struct Layer<'a> {
    w: &'a Matrix,
    block: Option<usize>,
    levels: Levels,
    rows: &'a Rows,
    scales: Vec<f32>,
}

/// The integers that weights become.
enum Levels {
    /// All from the negative of this one to it.
    Range(f64),
    /// Those of 8 bits of which few add up to much: so many outputs have the first sums, as many the next ones.
    Sums(Vec<Groups>, usize),
    /// These, which ascend.
    Table(Vec<i8>),
}

impl Levels {
    fn of(grid: &Grid, w: &Matrix, importance: &[f64], kept: Option<(&Shape, &[Vec<u32>])>) -> Levels {
        let Some(sums) = grid.sums else { return Levels::Range(largest(grid)) };
        match kept {
            None => Levels::Sums(vec![Groups::new(sums, importance, None)], w.n.max(1)),
            Some((shape, kept)) => {
                let groups = kept.par_iter().map(|units| Groups::new(sums, importance, Some(&shape.positions(units))));
                Levels::Sums(groups.collect(), shape.group.max(1))
            }
        }
    }

    /// The sums of an output.
    fn sums(&self, output: usize) -> Option<&Groups> {
        let Levels::Sums(groups, outputs) = self else { return None };
        groups.get(output / outputs)
    }

    /// The nearest one by itself.
    fn nearest(&self, x: f64) -> f64 {
        match self {
            Levels::Range(largest) => integer(x, *largest),
            Levels::Sums(..) => integer(x, 127.0),
            Levels::Table(table) => {
                let after = table.partition_point(|v| f64::from(*v) < x);
                let closest = table[after.saturating_sub(1)..(after + 1).min(table.len())].iter().map(|v| f64::from(*v));
                closest.min_by(|a, b| (a - x).abs().total_cmp(&(b - x).abs())).unwrap_or(0.0)
            }
        }
    }

    /// The nearest ones of an output's weights.
    fn of_row(&self, output: usize, xs: &[f64], rounded: &mut [f64]) {
        match self.sums(output) {
            Some(groups) => groups.nearest(xs, rounded),
            None => rounded.iter_mut().zip(xs).for_each(|(r, x)| *r = self.nearest(*x)),
        }
    }

    /// The nearest ones of a layer's weights by themselves, for the scale of each.
    fn of_all(&self, w: &Matrix, scale: impl Fn(usize, usize) -> f32) -> Vec<i8> {
        let (mut xs, mut rounded, mut values) = (vec![0.0; w.k], vec![0.0; w.k], Vec::with_capacity(w.values.len()));
        for (c, row) in w.values.chunks(w.k.max(1)).enumerate() {
            xs.iter_mut().zip(row).enumerate().for_each(|(p, (x, w))| *x = f64::from(*w) / f64::from(scale(c, p)));
            self.of_row(c, &xs, &mut rounded);
            values.extend(rounded.iter().map(|v| *v as i8));
        }
        values
    }
}

/// Where the scale of a weight is.
fn scale_at(w: &Matrix, block: Option<usize>, c: usize, p: usize) -> usize {
    match block {
        Some(block) => c * w.k.div_ceil(block) + p / block,
        None => c,
    }
}

impl Layer<'_> {
    fn scale_at(&self, c: usize, p: usize) -> usize {
        scale_at(self.w, self.block, c, p)
    }

    fn nearest(&self) -> Vec<i8> {
        self.levels.of_all(self.w, |c, p| self.scales[self.scale_at(c, p)])
    }

    /// Rounds positions of some outputs one after another; `values` are those of these outputs.
    fn sweep(&self, Order { at, factor }: &Order, outputs: Range<usize>, values: &mut [i8]) {
        let factor = factor.factor();
        let mut weights = Mat::from_fn(outputs.len(), at.len(), |c, i| self.rows.fed.weights[(at[i], outputs.start + c)]);
        let sums = self.levels.sums(outputs.start).map(|groups| (groups, others(groups, self.w.k, at)));
        for start in (0..at.len()).step_by(PENDING) {
            let end = (start + PENDING).min(at.len());
            let mut errors = Mat::zeros(outputs.len(), end - start);
            for i in start..end {
                for c in outputs.clone() {
                    let scale = f64::from(self.scales[self.scale_at(c, at[i])]);
                    let weight = weights[(c - outputs.start, i)];
                    let x = weight / scale;
                    let rounded = sums.as_ref().map_or_else(
                        || self.levels.nearest(x),
                        |(groups, others)| {
                            let mut beside = Others::default();
                            for &(p, place) in &others[i] {
                                if place < i {
                                    beside.add_rounded(x, f64::from(values[(c - outputs.start) * self.w.k + p]));
                                } else {
                                    beside.add_open(x, weights[(c - outputs.start, place)] / scale, groups.yields(p));
                                }
                            }
                            groups.beside(at[i], x, &beside)
                        },
                    );
                    values[(c - outputs.start) * self.w.k + at[i]] = rounded as i8;
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
        let judge = self.rows.check.as_ref().unwrap_or(&self.rows.fed);
        let errors = |values: &[i8], scales: &[f32]| errors(judge, self.difference(values, scales).as_ref());
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
        let fed = &self.rows.fed;
        let wanted = moments::dots(integers.as_ref(), fed.wanted.as_ref());
        let product = linalg::product(fed.second.as_ref(), integers.as_ref());
        let own = moments::dots(integers.as_ref(), product.as_ref());
        let fitted = wanted.iter().zip(&own).map(|(wanted, own)| (wanted / own) as f32);
        let usable = |(fitted, old): (f32, &f32)| if fitted.is_normal() && fitted > 0.0 { fitted } else { *old };
        fitted.zip(&self.scales).map(usable).collect()
    }

    /// `[k][n]`: rounded weights less the given ones.
    fn difference(&self, values: &[i8], scales: &[f32]) -> Mat<f64> {
        let rounded = |p: usize, c: usize| {
            f64::from(scales[self.scale_at(c, p)] * f32::from(values[c * self.w.k + p])) - self.rows.fed.weights[(p, c)]
        };
        Mat::from_fn(self.w.k, self.w.n, rounded)
    }
}

/// The other positions that add up with each of these, as they are and where among these.
fn others(groups: &Groups, k: usize, at: &[usize]) -> Vec<Vec<(usize, usize)>> {
    let mut places = vec![0; k];
    at.iter().enumerate().for_each(|(i, &p)| places[p] = i);
    at.iter().map(|p| groups.with(*p).iter().filter(|o| *o != p).map(|o| (*o, places[*o])).collect()).collect()
}

/// Squared error of each output on some rows, the mean aside.
fn errors(rows: &Centred, difference: MatRef<'_, f64>) -> Vec<f64> {
    moments::dots(linalg::product(rows.second.as_ref(), difference).as_ref(), difference)
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

fn scales(w: &Matrix, importance: &[f64], grid: &Grid, levels: &Levels, rough: bool) -> Vec<f32> {
    let block = grid.block.unwrap_or(w.k).max(1);
    if let WeightRange::Share(share) = grid.range {
        return vec![common_scale(w, share, grid, levels); w.n * w.k.div_ceil(block)];
    }
    let one = |(output, weights): (usize, &[f32])| -> Vec<f32> {
        let blocks = weights.chunks(block).zip(importance.chunks(block));
        blocks.map(|(w, importance)| scale((output, w), importance, grid, levels, rough)).collect()
    };
    w.values.chunks(w.k.max(1)).enumerate().flat_map(one).collect()
}

/// The scale of all weights of which a share is not to become zero.
fn common_scale(w: &Matrix, share: f64, grid: &Grid, levels: &Levels) -> f32 {
    let rows = w.values.chunks(w.k.max(1)).enumerate();
    let widest = rows.map(|row| peak(row, grid, levels)).fold(0.0, f64::max);
    let mut sizes: Vec<f32> = w.values.iter().map(|v| v.abs()).collect();
    let zeros = sizes.len() - (share * sizes.len() as f64).round() as usize;
    // What is half a step or less becomes zero.
    let step = match zeros.checked_sub(1) {
        Some(last) => 2.0 * f64::from(*sizes.select_nth_unstable_by(last, f32::total_cmp).1),
        None => 0.0,
    };
    let scale = step.max(widest) as f32;
    if scale.is_normal() { scale } else { 1.0 }
}

/// The scale of weights of an output that share one.
fn scale((output, weights): (usize, &[f32]), importance: &[f64], grid: &Grid, levels: &Levels, rough: bool) -> f32 {
    let widest = peak((output, weights), grid, levels) as f32;
    if !widest.is_normal() {
        return 1.0;
    }
    let (mut xs, mut rounded) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
    let mut error = |scale: f32| -> f64 {
        let scale = f64::from(scale);
        xs.iter_mut().zip(weights).for_each(|(x, w)| *x = f64::from(*w) / scale);
        levels.of_row(output, &xs, &mut rounded);
        let all = weights.iter().zip(&rounded).zip(importance);
        all.map(|((w, q), importance)| (f64::from(*w) - scale * q).powi(2) * importance).sum()
    };
    match grid.range {
        WeightRange::MinMax | WeightRange::Share(_) => widest,
        WeightRange::Mse => {
            let steps = SEARCH.1[usize::from(rough)];
            let shares = (0..steps).map(|i| 1.0 - (1.0 - SEARCH.0) * i as f64 / steps as f64);
            let tried = shares.map(|share| (f64::from(widest) * share) as f32).map(|s| (error(s), s));
            tried.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(widest, |best| best.1)
        }
    }
}

/// The scale at which nothing is clipped: what the largest weight needs, or a sum.
fn peak((output, weights): (usize, &[f32]), grid: &Grid, levels: &Levels) -> f64 {
    let (sums, size) = (levels.sums(output), weights.iter().fold(0f32, |most, w| most.max(w.abs())));
    let widest = sums.map_or(largest(grid), Groups::widest);
    (f64::from(size) / widest).max(sums.map_or(0.0, |groups| groups.reach(weights)))
}

#[cfg(test)]
mod tests;
