//! Filter reorder: outputs that need the same positions become neighbours, so that groups can drop what none of theirs needs.
//!
//! Outputs are moved between groups of fixed sizes and the groups' masks are chosen anew, in turns, as k-means moves points between clusters and
//! then the centres. What an output is worth in a group is what a fit on the group's support saves of its loss, `b_Sᵀ (H_SS + d I)⁻¹ b_S` with
//! b = (C + d I) w: the objective of the repair itself. The masks are those of the sweep of `removal`. Since sweeps take long for long rows, the turns
//! start from an order found by a cheaper measure, the parts that single positions have in each output's loss, `w_b [H⁻¹]_bb⁻¹ w_bᵀ`. The result is
//! never worse by the first measure than the order that was given.
//!
//! The filter kernel reorder of PatDNN (Niu et al., 2020, §5.1) groups filters of equal length and similar patterns for the sake of threads; here
//! whole groups share their positions, and the order is what saves accuracy.

use faer::Mat;

use super::moments::{Centred, Moments};
use super::{Matrix, Shape, assign, linalg, prune, removal};

/// Shares of the units that groups are thought to keep by the cheap measure: a unit within the smallest counts for each of them.
const KEPT: [f64; 3] = [0.25, 0.5, 0.75];
/// Share of the units that groups keep while outputs are moved.
const SWEPT: f64 = 0.35;
/// Damping of H, relative to the mean of its diagonal.
const DAMPING: f64 = 1e-2;
/// Turns by the cheap measure.
const ROUNDS: usize = 20;
/// Turns by what fits save, and the floating point operations that they may take altogether.
const TURNS: (usize, f64) = (6, 1e11);
/// Steps of the power iteration; the component need not be exact.
const STEPS: usize = 30;

/// The outputs in their new order: output `order[i]` becomes output i. Within a group they stay in the order they had.
pub fn order(w: &Matrix, h: &Moments, shape: &Shape) -> Vec<u32> {
    assert_eq!(w.k, shape.channels * shape.taps, "internal: compress: a shape of another layer");
    let natural: Vec<u32> = (0..w.n as u32).collect();
    if shape.groups(w.n) < 2 || w.k == 0 {
        return natural;
    }
    let layer = Layer::new(w, h, shape);
    let natural = layer.split(&natural);
    let parts = layer.parts();
    let (kept, moved) = (parts.improve(natural.clone(), &layer), parts.improve(layer.split(&parts.principal()), &layer));
    let start = if moved.0 > kept.0 { moved.1 } else { kept.1 };
    tidy(layer.improve(natural, start))
}

/// Outputs of each group.
type Groups = Vec<Vec<u32>>;

/// What masks and fits need, the damping added.
struct Layer<'a> {
    shape: &'a Shape,
    units: Vec<Vec<usize>>,
    /// `[k][k]`, and its inverse.
    second: Mat<f64>,
    inverse: Mat<f64>,
    /// `[k][n]`: what is wanted of the fits, and the fit without a mask.
    wanted: Mat<f64>,
    target: Mat<f64>,
    room: Vec<usize>,
}

impl Layer<'_> {
    fn new<'a>(w: &Matrix, h: &Moments, shape: &'a Shape) -> Layer<'a> {
        let layer = Centred::new(w, h);
        let damping = prune::absolute(layer.second.as_ref(), DAMPING);
        let factor = linalg::Cholesky::new(layer.second.as_ref(), damping);
        let wanted = &layer.wanted + faer::Scale(damping) * &layer.weights;
        let mut target = wanted.clone();
        factor.solve(target.as_mut());
        let mut second = layer.second;
        (0..w.k).for_each(|p| second[(p, p)] += damping);
        let room = (0..shape.groups(w.n)).map(|g| shape.outputs(g, w.n).len()).collect();
        Layer { shape, units: shape.units(), second, inverse: factor.inverse(), wanted, target, room }
    }

    fn split(&self, order: &[u32]) -> Groups {
        (0..self.room.len()).map(|g| order[self.shape.outputs(g, order.len())].to_vec()).collect()
    }

    /// Moves outputs by what fits save, from the better of two starts, if there is time for it.
    fn improve(&self, natural: Groups, start: Groups) -> Groups {
        let (k, groups) = (self.second.nrows() as f64, self.room.len() as f64);
        let turns = ((TURNS.1 / (groups * k * k * k)) as usize).min(TURNS.0);
        if turns < 2 {
            return start;
        }
        let ((mut saved, mut worth), first) = (self.worth(&start), self.worth(&natural));
        let mut best = start;
        if first.0 > saved {
            ((saved, worth), best) = (first, natural);
        }
        for _ in 2..turns {
            let moved = assign::assign(&worth, &self.room);
            let next = self.worth(&moved);
            if next.0 <= saved {
                break;
            }
            ((saved, worth), best) = (next, moved);
        }
        best
    }

    /// What the groups save altogether with the masks that suit them, and `[n][groups]`, what each output would save in each group.
    fn worth(&self, groups: &Groups) -> (f64, Vec<Vec<f64>>) {
        let keep = ((SWEPT * self.units.len() as f64).round() as usize).max(1);
        let n = self.target.ncols();
        let mut worth = vec![vec![0.0; groups.len()]; n];
        for (g, outputs) in groups.iter().enumerate() {
            let target = Mat::from_fn(self.target.nrows(), outputs.len(), |p, c| self.target[(p, outputs[c] as usize)]);
            let removal = removal::by_loss(self.inverse.as_ref(), target.as_ref(), &self.units, keep);
            let at = self.shape.positions(&removal.kept(self.units.len(), removal.order.len()));
            let mut saved = linalg::gather_rows(self.wanted.as_ref(), &at, 0..n);
            linalg::Cholesky::new(linalg::gather(self.second.as_ref(), &at).as_ref(), 0.0).solve_lower(saved.as_mut());
            worth.iter_mut().zip(saved.col_iter()).for_each(|(worth, column)| worth[g] = column.squared_norm_l2());
        }
        let own = |(g, outputs): (usize, &Vec<u32>)| outputs.iter().map(|&c| worth[c as usize][g]).sum::<f64>();
        (groups.iter().enumerate().map(own).sum(), worth)
    }

    /// The part of each unit in the loss of each output.
    fn parts(&self) -> Parts {
        let (n, units) = (self.target.ncols(), self.units.len());
        let mut values = vec![0.0; n * units];
        for (u, unit) in self.units.iter().enumerate() {
            let block = linalg::gather(self.inverse.as_ref(), unit);
            let flat: Vec<f64> = (0..unit.len()).flat_map(|i| block.col(i).iter().copied().collect::<Vec<f64>>()).collect();
            let mut scratch = vec![0.0; unit.len() * (unit.len() + 1)];
            for c in 0..n {
                let weights = Mat::from_fn(1, unit.len(), |_, i| self.target[(unit[i], c)]);
                values[c * units + u] = removal::block_loss(&flat, weights.as_ref(), &mut scratch);
            }
        }
        Parts { units, values }
    }
}

/// `[n][units]`: what each output loses with each unit alone.
struct Parts {
    units: usize,
    values: Vec<f64>,
}

impl Parts {
    fn of(&self, output: u32) -> &[f64] {
        &self.values[output as usize * self.units..][..self.units]
    }

    /// What groups keep of the parts, and the groups that keep most of all the turns.
    fn improve(&self, start: Groups, layer: &Layer<'_>) -> (f64, Groups) {
        let (mut best, mut now) = ((f64::NEG_INFINITY, start.clone()), start);
        for _ in 0..ROUNDS {
            let kept: Vec<Vec<f64>> = now.iter().map(|outputs| self.kept(outputs)).collect();
            let worth = |c: u32| kept.iter().map(|kept| self.saved(c, kept)).collect::<Vec<f64>>();
            let worth: Vec<Vec<f64>> = (0..layer.target.ncols() as u32).map(worth).collect();
            let own = |(g, outputs): (usize, &Vec<u32>)| outputs.iter().map(|&c| worth[c as usize][g]).sum::<f64>();
            let saved: f64 = now.iter().enumerate().map(own).sum();
            if saved <= best.0 {
                break;
            }
            best = (saved, now);
            now = assign::assign(&worth, &layer.room);
        }
        best
    }

    /// How much each unit counts for a group: the shares of [`KEPT`] within which it is.
    fn kept(&self, group: &[u32]) -> Vec<f64> {
        let mut worth = vec![0.0; self.units];
        group.iter().for_each(|&c| worth.iter_mut().zip(self.of(c)).for_each(|(sum, part)| *sum += part));
        let mut ranks: Vec<usize> = (0..self.units).collect();
        ranks.sort_by(|&a, &b| worth[b].total_cmp(&worth[a]));
        let mut counts = vec![0.0; self.units];
        for share in KEPT {
            let within = (share * self.units as f64).round() as usize;
            ranks[..within].iter().for_each(|&u| counts[u] += 1.0);
        }
        counts
    }

    fn saved(&self, output: u32, kept: &[f64]) -> f64 {
        self.of(output).iter().zip(kept).map(|(part, counts)| part * counts).sum()
    }

    /// Outputs along the first principal component of their parts, by power iteration on the parts without their mean.
    fn principal(&self) -> Vec<u32> {
        let n = self.values.len() / self.units;
        let mean = |u: usize| (0..n).map(|c| self.values[c * self.units + u]).sum::<f64>() / n as f64;
        let means: Vec<f64> = (0..self.units).map(mean).collect();
        let centred = Mat::from_fn(self.units, n, |u, c| self.values[c * self.units + u] - means[u]);
        // Any start that is not orthogonal to the component will do.
        let mut scores = Mat::from_fn(n, 1, |c, _| ((c * 2654435761) % 1000) as f64 / 1000.0 - 0.5);
        for _ in 0..STEPS {
            let direction = linalg::product(centred.as_ref(), scores.as_ref());
            scores = linalg::product(centred.transpose(), direction.as_ref());
            let norm = scores.col(0).iter().map(|s| s * s).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            scores.col_mut(0).iter_mut().for_each(|s| *s /= norm);
        }
        let mut outputs: Vec<u32> = (0..n as u32).collect();
        outputs.sort_by(|&a, &b| scores[(a as usize, 0)].total_cmp(&scores[(b as usize, 0)]));
        outputs
    }
}

/// Outputs ascend within groups, and groups of full size by their first outputs; a smaller one stays last.
fn tidy(mut groups: Groups) -> Vec<u32> {
    groups.iter_mut().for_each(|outputs| outputs.sort_unstable());
    let full = groups.len() - usize::from(groups.first().map(Vec::len) != groups.last().map(Vec::len));
    groups[..full].sort_unstable();
    groups.concat()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Inputs, Random, moments};
    use super::super::{Balance, Damping, Mask, Repair};
    use super::*;

    /// Two kinds of outputs, each with weights at half of the positions, in turns; the last group is smaller.
    fn interleaved() -> (Matrix, Moments, Shape) {
        let mut random = Random(1);
        let inputs = Inputs::new(&mut random, 16, 32);
        let h = moments(32, &inputs.rows(&mut random, 400));
        let mut w = random.matrix(22, 32);
        w.values.iter_mut().enumerate().for_each(|(i, w)| {
            if (i / 32) % 2 != (i % 32) / 16 {
                *w *= 0.05;
            }
        });
        (w, h, Shape { group: 8, unit: 1, channels: 8, taps: 4, whole_channels: false })
    }

    #[test]
    fn outputs_of_a_kind_become_neighbours() {
        let (w, h, shape) = interleaved();
        let order = order(&w, &h, &shape);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..22).collect::<Vec<u32>>());
        let odd: Vec<usize> = order.chunks(8).map(|g| g.iter().filter(|&&c| c % 2 == 1).count()).collect();
        // 11 of each kind cannot fill groups of 8, 8 and 6 with one kind each.
        assert!(odd.iter().zip([8, 8, 6]).filter(|(odd, width)| **odd == 0 || *odd == width).count() >= 2, "{odd:?}");
    }

    #[test]
    fn pruning_loses_less_in_the_new_order() {
        let (w, h, shape) = interleaved();
        let order = order(&w, &h, &shape);
        let values = order.iter().flat_map(|&c| w.values[c as usize * 32..][..32].to_vec()).collect();
        let error = |w: &Matrix| {
            super::super::prune(w, &h, None, &shape, &[0.5], Mask::Obs, Repair::Refit, Balance::Equal, Damping::Fixed(1e-3))[0]
                .error
        };
        let (before, after) = (error(&w), error(&Matrix { n: 22, k: 32, values }));
        assert!(after < 0.7 * before, "{before} {after}");
    }
}
