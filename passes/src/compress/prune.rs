//! Masks and their repair: which positions a layer keeps at each density, and the weights that then fit the dense layer's output best.
//!
//! Repair is a ridge regression on the support S of each group, about the means: `(H_SS + d I) w' = (C_S: + d I_S:) w`, so that directions which
//! the calibration data does not reach keep the trained weights (the least squares reconstruction of He et al., 2017, §3.1, and of AdaPrune:
//! Hubara et al., "Accelerated Sparse Neural Training", 2021, §4, in closed form).
//! The damping d matters per layer, because rows of one image are alike and a few hundred images are fewer than they seem: the one that is best on
//! data held out is looked for at each density.

use faer::{Mat, MatRef};
use rayon::prelude::*;

use super::moments::{Centred, Moments};
use super::removal::{self, Removal};
use super::{Matrix, Shape, linalg};

/// How positions are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mask {
    /// The smallest weights go.
    Magnitude,
    /// What costs least after repair goes, one unit at a time.
    Obs,
}

/// What is done about the loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Nothing: the trained weights stay, the bias too.
    None,
    /// Weights that survive are fitted again in closed form, and the bias gets the mean error.
    Refit,
}

/// How the density of a layer is spread over its groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Balance {
    /// Each group keeps the same number of units.
    Equal,
    /// Units go where they cost least; each group keeps one at least.
    Free,
}

/// The weight of the trained weights in a fit, relative to the mean of H's diagonal.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Damping {
    /// This one.
    Fixed(f64),
    /// The one of 1e-4 to 1e-1, in steps of half a decade, with the least error on the data held out, for each density: the grid is descended
    /// from where the density before was. Masks, and fits if nothing is held out, use 1e-2.
    CrossValidated,
}

/// The weights of a layer at one density.
#[derive(Clone, PartialEq, Debug)]
pub struct Pruned {
    /// Zero where nothing is kept.
    pub weights: Matrix,
    /// `[n]`, to add to the bias.
    pub bias_shift: Vec<f32>,
    /// Kept units of each group, ascending.
    pub kept: Vec<Vec<u32>>,
    /// Squared error of the output over its variance (see [`super::moments`]), on the moments of the fit.
    pub error: f64,
    /// The same on the moments held out.
    pub check_error: Option<f64>,
    /// The damping of the fit, relative to the mean of H's diagonal.
    pub damping: f64,
}

const GRID: [f64; 7] = [1e-4, 3.162_277_66e-4, 1e-3, 3.162_277_66e-3, 1e-2, 3.162_277_66e-2, 1e-1];
/// Place of the damping that is used where none is looked for.
const USUAL: usize = 4;

/// Prunes a layer to each of some densities (kept units over all units). The kept units of a density contain those of any lower one. Densities may
/// come in any order; the result has theirs.
#[expect(clippy::too_many_arguments, reason = "the layer, what is known of it, and one choice of each kind")]
pub fn prune(
    w: &Matrix,
    h: &Moments,
    check: Option<&Moments>,
    shape: &Shape,
    densities: &[f64],
    mask: Mask,
    repair: Repair,
    balance: Balance,
    damping: Damping,
) -> Vec<Pruned> {
    let layer = Layer::new(w, (h, check), shape);
    let removed = removed(&layer, densities, mask, balance, damping);
    layer.with_each(removed, repair, damping)
}

/// A layer with some of its units, the same for all of its groups, for each of some lists of them.
pub fn keep(
    w: &Matrix,
    known: (&Moments, Option<&Moments>),
    shape: &Shape,
    kept: &[Vec<u32>],
    repair: Repair,
    damping: Damping,
) -> Vec<Pruned> {
    let layer = Layer::new(w, known, shape);
    let groups = shape.groups(w.n);
    layer.with_each(kept.iter().map(|kept| vec![kept.clone(); groups]).collect(), repair, damping)
}

/// The channels that several layers read, in the order in which they go from all of them: by the sum of what that costs after repair, each loss as a part of the
/// variance of its layer's result. The last one stays.
pub fn together(layers: &[(&Matrix, &Moments)], channels: usize) -> Vec<u32> {
    let member = |(w, h): &(&Matrix, &Moments)| {
        let fit = Centred::new(w, h);
        let (inverse, target) = damped(&fit, absolute(fit.second.as_ref(), GRID[USUAL]));
        // Where nothing is known of a result, nothing is lost of it.
        let worth = Some(fit.relative(1.0)).filter(|worth| worth.is_finite()).unwrap_or(0.0);
        let units = Shape::structured(w.n, channels, w.k / channels.max(1)).units();
        removal::Member { inverse, target, units, worth }
    };
    removal::together(&layers.par_iter().map(member).collect::<Vec<_>>(), 1).order
}

/// The inverse of the damped second moment, and the weights that fit best without a mask.
fn damped(fit: &Centred, damping: f64) -> (Mat<f64>, Mat<f64>) {
    let factor = linalg::Cholesky::new(fit.second.as_ref(), damping);
    let mut target = &fit.wanted + faer::Scale(damping) * &fit.weights;
    let ((), inverse) = rayon::join(|| factor.solve(target.as_mut()), || factor.inverse());
    (inverse, target)
}

/// Kept units of each group for each density.
fn removed(layer: &Layer<'_>, densities: &[f64], mask: Mask, balance: Balance, damping: Damping) -> Vec<Vec<Vec<u32>>> {
    let units = layer.shape.units();
    let groups = layer.shape.groups(layer.w.n);
    let least = match balance {
        Balance::Equal => densities.iter().map(|&d| share(d, units.len(), 1)).min().unwrap_or(units.len()),
        Balance::Free => 1,
    };
    let removals = layer.removals(&units, least, mask, damping);
    let counts = |density: f64| match balance {
        Balance::Equal => vec![units.len() - share(density, units.len(), 1); groups],
        Balance::Free => {
            let total = groups * units.len();
            cheapest(&removals, total - share(density, total, groups))
        }
    };
    let kept = |density: f64| removals.iter().zip(counts(density)).map(|(r, gone)| r.kept(units.len(), gone)).collect();
    densities.iter().map(|&density| kept(density)).collect()
}

/// How many of `all` a density keeps, at least `least`.
fn share(density: f64, all: usize, least: usize) -> usize {
    ((density * all as f64).round() as usize).clamp(least.min(all), all)
}

/// How many units go from each group when `total` go that cost least. A unit is not cheaper than one that goes before it.
fn cheapest(removals: &[Removal], total: usize) -> Vec<usize> {
    let mut steps = Vec::new();
    for (group, removal) in removals.iter().enumerate() {
        let mut price = 0.0f64;
        let last = removal.loss.len().min(removal.order.len());
        for loss in &removal.loss[..last] {
            price = price.max(*loss);
            steps.push((price, group));
        }
    }
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut counts = vec![0; removals.len()];
    steps.iter().take(total).for_each(|step| counts[step.1] += 1);
    counts
}

/// A layer, what it is fitted to and what fits are judged by.
struct Layer<'a> {
    w: &'a Matrix,
    shape: &'a Shape,
    fit: Centred,
    check: Option<Centred>,
}

impl<'a> Layer<'a> {
    fn new(w: &'a Matrix, (h, check): (&Moments, Option<&Moments>), shape: &'a Shape) -> Layer<'a> {
        assert_eq!(w.k, shape.channels * shape.taps, "internal: compress: a shape of another layer");
        let (fit, check) = rayon::join(|| Centred::new(w, h), || check.map(|h| Centred::new(w, h)));
        Layer { w, shape, fit, check }
    }

    /// The layer with each of these lists of kept units of its groups.
    fn with_each(&self, kept: Vec<Vec<Vec<u32>>>, repair: Repair, damping: Damping) -> Vec<Pruned> {
        let mut place = USUAL;
        let one = |kept: Vec<Vec<u32>>| match (repair, damping) {
            (Repair::None, _) => self.masked(kept),
            (Repair::Refit, Damping::Fixed(damping)) => self.refitted(kept, damping),
            (Repair::Refit, Damping::CrossValidated) if self.check.is_none() => self.refitted(kept, GRID[USUAL]),
            (Repair::Refit, Damping::CrossValidated) => {
                let (best, at) = self.cross_validated(&kept, place);
                place = at;
                best
            }
        };
        kept.into_iter().map(one).collect()
    }

    /// The order in which units leave each group, until `least` are left.
    fn removals(&self, units: &[Vec<usize>], least: usize, mask: Mask, damping: Damping) -> Vec<Removal> {
        let groups = (0..self.shape.groups(self.w.n)).map(|g| self.shape.outputs(g, self.w.n));
        let last = units.len() - least.min(units.len());
        let (second, weights) = (self.fit.second.as_ref(), self.fit.weights.as_ref());
        let magnitude = |columns: std::ops::Range<usize>| {
            let mut removal = removal::by_magnitude(weights.subcols(columns.start, columns.len()), units);
            removal.order.truncate(last);
            removal.loss.truncate(last);
            removal
        };
        if mask == Mask::Magnitude {
            return groups.map(magnitude).collect();
        }
        let damping = absolute(second, if let Damping::Fixed(damping) = damping { damping } else { GRID[USUAL] });
        let (inverse, target) = damped(&self.fit, damping);
        let sweep = |columns: std::ops::Range<usize>| {
            removal::by_loss(inverse.as_ref(), target.subcols(columns.start, columns.len()), units, least)
        };
        groups.collect::<Vec<_>>().into_par_iter().map(sweep).collect()
    }

    /// The trained weights where something is kept.
    fn masked(&self, kept: Vec<Vec<u32>>) -> Pruned {
        let group = |at: &[usize], columns: std::ops::Range<usize>| linalg::gather_rows(self.fit.weights.as_ref(), at, columns);
        self.assemble(kept, 0.0, group, |_, _, weights| vec![0.0; weights.ncols()])
    }

    /// Weights that fit best on the support, with this damping.
    fn refitted(&self, kept: Vec<Vec<u32>>, damping: f64) -> Pruned {
        let scale = absolute(self.fit.second.as_ref(), damping);
        let group = |at: &[usize], columns: std::ops::Range<usize>| {
            let mut weights = linalg::gather_rows(self.fit.wanted.as_ref(), at, columns.clone());
            weights += faer::Scale(scale) * linalg::gather_rows(self.fit.weights.as_ref(), at, columns);
            linalg::Cholesky::new(linalg::gather(self.fit.second.as_ref(), at).as_ref(), scale).solve(weights.as_mut());
            weights
        };
        self.assemble(kept, damping, group, |first, at, weights| self.fit.shift(first, at, weights))
    }

    /// The fit with the damping that is best on the data held out, and its place in the grid: from `place` on downhill.
    fn cross_validated(&self, kept: &[Vec<u32>], place: usize) -> (Pruned, usize) {
        let try_at = |place: usize| self.refitted(kept.to_vec(), GRID[place]);
        let error = |p: &Pruned| p.check_error.unwrap_or(f64::INFINITY);
        let (mut best, mut at) = (try_at(place), place);
        for step in [-1, 1] {
            while let Some(next) = at.checked_add_signed(step).filter(|&next| next < GRID.len()) {
                let candidate = try_at(next);
                if error(&candidate) >= error(&best) {
                    break;
                }
                (best, at) = (candidate, next);
            }
            if at != place {
                break;
            }
        }
        (best, at)
    }

    /// Puts groups together and measures them. `group` makes the weights `[positions][outputs]` of a group, `shift` what its biases get.
    fn assemble(
        &self,
        kept: Vec<Vec<u32>>,
        damping: f64,
        group: impl Fn(&[usize], std::ops::Range<usize>) -> Mat<f64> + Sync,
        shift: impl Fn(usize, &[usize], MatRef<'_, f64>) -> Vec<f64> + Sync,
    ) -> Pruned {
        let Matrix { n, k, .. } = *self.w;
        let mut weights = Matrix { n, k, values: vec![0.0; n * k] };
        let fit = |(g, units): (usize, &Vec<u32>)| {
            let columns = self.shape.outputs(g, n);
            let at = self.shape.positions(units);
            let fitted = group(&at, columns.clone());
            let rounded = Mat::from_fn(at.len(), columns.len(), |i, c| f64::from(fitted[(i, c)] as f32));
            let shifts: Vec<f32> = shift(columns.start, &at, rounded.as_ref()).iter().map(|&b| b as f32).collect();
            let wide: Vec<f64> = shifts.iter().map(|&b| f64::from(b)).collect();
            let measure = |judge: &Centred| {
                let second = linalg::gather(judge.second.as_ref(), &at);
                judge.error(columns.start, &at, rounded.as_ref(), &wide, second.as_ref())
            };
            let errors = (measure(&self.fit), self.check.as_ref().map_or(0.0, measure));
            (columns, at, rounded, shifts, errors)
        };
        // Sums are taken in order: the same bits whatever the number of threads.
        let (mut bias_shift, mut error, mut check_error) = (Vec::with_capacity(n), 0.0, 0.0);
        for (columns, at, rounded, shifts, errors) in kept.par_iter().enumerate().map(fit).collect::<Vec<_>>() {
            (error, check_error) = (error + errors.0, check_error + errors.1);
            for (c, column) in columns.zip(rounded.col_iter()) {
                at.iter().zip(column.iter()).for_each(|(&p, &value)| weights.values[c * k + p] = value as f32);
            }
            bias_shift.extend(shifts);
        }
        let error = self.fit.relative(error);
        let check_error = self.check.as_ref().map(|judge| judge.relative(check_error));
        Pruned { weights, bias_shift, kept, error, check_error, damping }
    }
}

/// A damping relative to the mean of the diagonal; where that is zero nothing is known, and the trained weights stay.
pub(super) fn absolute(second: MatRef<'_, f64>, damping: f64) -> f64 {
    let mean = linalg::mean_diagonal(second);
    if mean > 0.0 { damping * mean } else { 1.0 }
}

#[cfg(test)]
mod tests;
