//! In which order units of positions are dropped from a group of outputs: by magnitude, or by the loss that remains after repair.
//!
//! Optimal brain surgery (Hassibi and Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1993, §3; for a layer's
//! squared error: Frantar and Alistarh, "Optimal Brain Compression", 2022, §4). With the damped second moment H and weights that minimise the
//! loss, dropping the positions b of a group and repairing the others costs `tr(w_bᵀ [H⁻¹]_bb⁻¹ w_b)`, summed over the columns; the others
//! change by `- [H⁻¹]_:b [H⁻¹]_bb⁻¹ w_b`, and `[H⁻¹]_:b [H⁻¹]_bb⁻¹ [H⁻¹]_b:` leaves the inverse. Each step drops the unit that costs least at that
//! moment, whatever the size: this is the exact greedy sweep, not a batched one.
//!
//! What makes it fast is when the inverse is updated: a step needs its diagonal blocks and one column only. Both are kept up to date, the rest
//! follows once in [`PENDING`] positions by a product of matrices (as LAPACK delays the updates of its pivoted factorisations), and dropped rows
//! leave the matrix.

use faer::Mat;
use faer::MatRef;
use rayon::prelude::*;

use super::linalg;

/// Positions whose updates are pending before they are applied to the whole inverse.
const PENDING: usize = 64;

/// Units in the order in which they go, and what each costs at that moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Removal {
    /// Units, first dropped first.
    pub(super) order: Vec<u32>,
    /// The loss that each adds.
    pub(super) loss: Vec<f64>,
}

impl Removal {
    /// What is left of so many units after the first ones went, ascending.
    pub(super) fn kept(&self, units: usize, removed: usize) -> Vec<u32> {
        let mut gone = vec![false; units];
        self.order[..removed].iter().for_each(|&u| gone[u as usize] = true);
        (0..units as u32).filter(|&u| !gone[u as usize]).collect()
    }
}

/// Smallest weights first. `weights` has a row for each position and a column for each output of the group.
pub(super) fn by_magnitude(weights: MatRef<'_, f64>, units: &[Vec<usize>]) -> Removal {
    let squares = |p: usize| weights.row(p).iter().map(|w| w * w).sum::<f64>();
    let norms: Vec<f64> = units.iter().map(|unit| unit.iter().map(|&p| squares(p)).sum()).collect();
    let mut order: Vec<u32> = (0..units.len() as u32).collect();
    order.sort_by(|&a, &b| norms[a as usize].total_cmp(&norms[b as usize]));
    let loss = order.iter().map(|&u| norms[u as usize]).collect();
    Removal { order, loss }
}

/// Smallest loss after repair first, until `keep` units are left. `inverse` is that of the damped second moment, `target` the weights `[k][m]` that
/// fit best without a mask.
pub(super) fn by_loss(inverse: MatRef<'_, f64>, target: MatRef<'_, f64>, units: &[Vec<usize>], keep: usize) -> Removal {
    let mut sweep = Sweep::new(inverse, target, units);
    let mut removal = Removal::default();
    while removal.order.len() + keep < units.len() {
        let alive = sweep.units.iter().enumerate().filter(|(_, u)| !u.gone);
        let Some((i, unit)) = alive.min_by(|a, b| a.1.loss.total_cmp(&b.1.loss)) else { break };
        removal.order.push(unit.name);
        removal.loss.push(unit.loss);
        sweep.remove(i);
    }
    removal
}

/// A layer whose units go together with those of others.
pub(super) struct Member {
    /// These as [`by_loss`] has them.
    pub(super) inverse: Mat<f64>,
    pub(super) target: Mat<f64>,
    pub(super) units: Vec<Vec<usize>>,
    /// What a loss of this layer is worth.
    pub(super) worth: f64,
}

/// The same for several layers with as many units, each of which goes from all of them at once: the one with the smallest sum of losses first.
pub(super) fn together(members: &[Member], keep: usize) -> Removal {
    let count = members.iter().map(|m| m.units.len()).min().unwrap_or(0);
    let sweep = |m: &Member| Sweep::new(m.inverse.as_ref(), m.target.as_ref(), &m.units);
    let mut sweeps: Vec<Sweep> = members.par_iter().map(sweep).collect();
    let (mut removal, mut gone) = (Removal::default(), vec![false; count]);
    while removal.order.len() + keep < count {
        let mut losses = vec![0.0; count];
        for (sweep, member) in sweeps.iter().zip(members) {
            sweep.units.iter().filter(|u| !u.gone).for_each(|u| losses[u.name as usize] += member.worth * u.loss);
        }
        let left = (0..count).filter(|unit| !gone[*unit]);
        let Some(unit) = left.min_by(|a, b| losses[*a].total_cmp(&losses[*b])) else { break };
        removal.order.push(unit as u32);
        removal.loss.push(losses[unit]);
        gone[unit] = true;
        sweeps.par_iter_mut().for_each(|sweep| sweep.remove_named(unit as u32));
    }
    removal
}

/// A unit that was there when the inverse was last brought up to date.
struct Unit {
    /// Its number in the shape.
    name: u32,
    /// Its rows of the inverse.
    start: usize,
    len: usize,
    /// Where its diagonal block is.
    block: usize,
    /// What dropping it would cost now.
    loss: f64,
    gone: bool,
}

/// The state of one group's sweep. Positions of a unit are neighbours here.
struct Sweep {
    units: Vec<Unit>,
    /// Without the pending updates.
    inverse: Mat<f64>,
    /// Columns u of the updates `inverse -= u uᵀ`; the first `pending` count.
    updates: Mat<f64>,
    pending: usize,
    /// `[m][rows]`: weights of the positions, up to date.
    weights: Mat<f64>,
    /// Diagonal blocks of the inverse, up to date.
    blocks: Vec<f64>,
    /// For the factor of a block and a solve with it.
    scratch: Vec<f64>,
}

impl Sweep {
    fn new(inverse: MatRef<'_, f64>, target: MatRef<'_, f64>, units: &[Vec<usize>]) -> Sweep {
        let at: Vec<usize> = units.iter().flatten().copied().collect();
        let (mut start, mut block, mut list) = (0, 0, Vec::new());
        for (name, unit) in units.iter().enumerate() {
            let len = unit.len();
            list.push(Unit { name: name as u32, start, len, block, loss: 0.0, gone: false });
            (start, block) = (start + len, block + len * len);
        }
        let longest = list.iter().map(|u| u.len).max().unwrap_or(0);
        let inverse = linalg::gather(inverse, &at);
        let blocks = list.iter().flat_map(|u| diagonal_block(&inverse, u.start, u.len)).collect();
        let weights = Mat::from_fn(target.ncols(), at.len(), |c, i| target[(at[i], c)]);
        let mut sweep = Sweep {
            units: list,
            updates: Mat::zeros(at.len(), PENDING.max(longest)),
            pending: 0,
            inverse,
            scratch: vec![0.0; longest * longest + longest * weights.nrows()],
            weights,
            blocks,
        };
        sweep.price();
        sweep
    }

    /// Drops the unit at that place of the list.
    fn remove(&mut self, i: usize) {
        let (start, len) = (self.units[i].start, self.units[i].len);
        if self.pending + len > self.updates.ncols() {
            // Rows move, so the unit does too.
            let name = self.units[i].name;
            self.settle();
            return self.remove_named(name);
        }
        (start..start + len).for_each(|p| self.eliminate(p));
        self.units[i].gone = true;
        self.update_blocks(len);
        self.price();
    }

    /// Drops the unit with this number in the shape.
    fn remove_named(&mut self, name: u32) {
        let place = self.units.iter().position(|u| u.name == name);
        place.into_iter().for_each(|i| self.remove(i));
    }

    /// Drops one position: its update becomes pending, and the weights of the others make up for it.
    fn eliminate(&mut self, p: usize) {
        let earlier = self.updates.subcols(0, self.pending);
        let mut column = Mat::from_fn(self.inverse.nrows(), 1, |i, _| self.inverse[(i, p)]);
        linalg::add_product(column.as_mut(), -1.0, earlier, earlier.subrows(p, 1).transpose());
        // A pivot can only be lost to rounding: then the position is one that others explain, and goes without a trace.
        let root = column[(p, 0)].max(f64::MIN_POSITIVE).sqrt();
        let update = self.updates.col_mut(self.pending);
        update.iter_mut().zip(column.col(0).iter()).for_each(|(u, c)| *u = c / root);
        let own = Mat::from_fn(self.weights.nrows(), 1, |c, _| self.weights[(c, p)] / root);
        let update = self.updates.subcols(self.pending, 1);
        linalg::add_product(self.weights.as_mut(), -1.0, own.as_ref(), update.transpose());
        self.pending += 1;
    }

    /// Brings the diagonal blocks up to date with the last updates.
    fn update_blocks(&mut self, last: usize) {
        for j in self.pending - last..self.pending {
            let update = self.updates.col_as_slice(j);
            for unit in self.units.iter().filter(|u| !u.gone) {
                let u = &update[unit.start..unit.start + unit.len];
                let block = &mut self.blocks[unit.block..unit.block + unit.len * unit.len];
                for (row, left) in block.chunks_exact_mut(unit.len).zip(u) {
                    row.iter_mut().zip(u).for_each(|(b, right)| *b -= left * right);
                }
            }
        }
    }

    /// Recomputes what each unit would cost.
    fn price(&mut self) {
        for unit in self.units.iter_mut().filter(|u| !u.gone) {
            let block = &self.blocks[unit.block..unit.block + unit.len * unit.len];
            unit.loss = if unit.len == 1 {
                squares(self.weights.col_as_slice(unit.start)) / block[0].max(f64::MIN_POSITIVE)
            } else {
                block_loss(block, self.weights.subcols(unit.start, unit.len), &mut self.scratch)
            };
        }
    }

    /// Applies the pending updates to the whole inverse; rows and units that are gone leave.
    fn settle(&mut self) {
        let mut rows = Vec::with_capacity(self.inverse.nrows());
        let mut blocks = Vec::with_capacity(self.blocks.len());
        self.units.retain(|u| !u.gone);
        for unit in &mut self.units {
            let start = rows.len();
            rows.extend(unit.start..unit.start + unit.len);
            let block = blocks.len();
            blocks.extend_from_slice(&self.blocks[unit.block..unit.block + unit.len * unit.len]);
            (unit.start, unit.block) = (start, block);
        }
        let updates = linalg::gather_rows(self.updates.as_ref(), &rows, 0..self.pending);
        self.inverse = linalg::gather(self.inverse.as_ref(), &rows);
        linalg::add_gram(self.inverse.as_mut(), -1.0, updates.as_ref());
        self.weights = Mat::from_fn(self.weights.nrows(), rows.len(), |c, i| self.weights[(c, rows[i])]);
        self.updates = Mat::zeros(rows.len(), self.updates.ncols());
        (self.blocks, self.pending) = (blocks, 0);
    }
}

fn diagonal_block(a: &Mat<f64>, start: usize, len: usize) -> Vec<f64> {
    (0..len * len).map(|i| a[(start + i / len, start + i % len)]).collect()
}

/// `tr(wᵀ block⁻¹ w)` for the weights w `[m][len]` of a unit: with the factor L of the block it is |L⁻¹ w|².
pub(super) fn block_loss(block: &[f64], weights: MatRef<'_, f64>, scratch: &mut [f64]) -> f64 {
    let (len, m) = (weights.ncols(), weights.nrows());
    let (factor, solved) = scratch[..len * (len + m)].split_at_mut(len * len);
    for i in 0..len {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|t| factor[i * len + t] * factor[j * len + t]).sum();
            let left = block[i * len + j] - dot;
            factor[i * len + j] = if i == j { left.max(f64::MIN_POSITIVE).sqrt() } else { left / factor[j * len + j] };
        }
    }
    let mut loss = 0.0;
    for i in 0..len {
        let (before, row) = solved.split_at_mut(i * m);
        let row = &mut row[..m];
        row.iter_mut().zip(weights.col(i).iter()).for_each(|(to, w)| *to = *w);
        for (j, earlier) in before.chunks_exact(m.max(1)).enumerate() {
            let scale = factor[i * len + j];
            row.iter_mut().zip(earlier).for_each(|(to, y)| *to -= scale * y);
        }
        let pivot = factor[i * len + i];
        row.iter_mut().for_each(|y| *y /= pivot);
        loss += squares(row);
    }
    loss
}

/// The sum of squares, in lanes that a vector unit can add side by side.
fn squares(values: &[f64]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|v| v * v).sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, v)| *lane += v * v);
    }
    lanes.iter().sum::<f64>() + rest
}
