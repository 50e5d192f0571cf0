//! Choices within limits of time, memory and size beside that of error.
//!
//! Time, bytes of weights and joules are sums over layers: a limit of such a sum gets a multiplier (Lagrangian relaxation; Everett, "Generalized Lagrange
//! multiplier method", 1963), which is found by bisection around the extraction of [`crate::choose`]. The arena is as large as its busiest step, so that its
//! limit takes away the candidates with which a layer's step needs more. Both go by prices of layers, which are estimates: a model of the same structure is
//! planned for each choice, and where that takes more than the estimate, the limit is tightened by as much.

use crate::assemble::Assembled;
use crate::candidate::Pick;
use crate::choose::Chosen;
use crate::price::{Objective, macs, macs_of, sketch};
use crate::search::{Found, GRID, Search};
use crate::{Error, Result, Taken, work};

/// What a compiled model may take, as far as there are limits.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Caps {
    /// Predicted seconds of an inference.
    pub seconds: Option<f64>,
    /// Bytes of weights.
    pub weight_bytes: Option<f64>,
    /// Bytes of the arena.
    pub arena_bytes: Option<f64>,
}

impl Caps {
    /// The limits by what they limit.
    pub fn list(&self) -> Vec<(Objective, f64)> {
        let all = [(Objective::Latency, self.seconds), (Objective::Size, self.weight_bytes), (Objective::Ram, self.arena_bytes)];
        all.into_iter().filter_map(|(of, cap)| Some((of, cap?))).collect()
    }

    /// Does a model keep them?
    pub fn keeps(&self, taken: &Taken) -> bool {
        self.list().iter().all(|(of, cap)| taken.of(*of) <= *cap)
    }
}

/// Halvings of the range of a multiplier, and the range in powers of two.
const HALVINGS: usize = 16;
const MULTIPLIERS: (f64, f64) = (-12.0, 20.0);
/// How often a limit is tightened, and by how much more than the estimate errs.
const TRIES: usize = 6;
const MARGIN: f64 = 1.002;
/// Larger limits of error that are tried when a model, repaired, takes more than its sketch.
const LATER: usize = 8;

/// What all bytes of the dense model are worth of its time: models that are as fast but for this are told apart by their bytes.
const BESIDE: f64 = 0.05;

/// A choice with a lower bound of what it is to be little of.
struct Solved {
    chosen: Chosen,
    bound: f64,
}

impl Search<'_> {
    /// The cheapest choice within a limit of the sum of divergences, and within the caps of the goal; `None` when there is none.
    pub(crate) fn choice(&self, limit: f64) -> Result<Option<Chosen>> {
        let caps = self.goal.caps.list();
        let Some(mut ratios) = self.ratios(limit, &caps)? else { return Ok(None) };
        for _ in 0..TRIES {
            let wanted: Vec<(Objective, f64)> = caps.iter().zip(&ratios).map(|((of, cap), ratio)| (*of, cap / ratio)).collect();
            let Some(chosen) = self.within(limit, self.goal.objective, &wanted) else { return Ok(None) };
            if caps.is_empty() {
                return Ok(Some(chosen));
            }
            let taken = self.taken_by(&self.picks(&chosen))?;
            if self.goal.caps.keeps(&taken) {
                return Ok(Some(chosen));
            }
            for ((of, cap), ratio) in caps.iter().zip(&mut ratios) {
                *ratio *= (taken.of(*of) / cap * MARGIN).max(1.0);
            }
        }
        Ok(None)
    }

    /// By how much models that take least of what is limited differ from the estimate; `None` when even they take too much.
    fn ratios(&self, limit: f64, caps: &[(Objective, f64)]) -> Result<Option<Vec<f64>>> {
        let mut ratios = Vec::new();
        for (of, cap) in caps {
            let Some(least) = self.within(limit, *of, &[]) else { return Ok(None) };
            let taken = self.taken_by(&self.picks(&least))?.of(*of);
            if taken > *cap {
                return Ok(None);
            }
            ratios.push(taken / self.prices.total(*of, &least.picks).max(f64::MIN_POSITIVE));
        }
        Ok(Some(ratios))
    }

    /// What a choice makes of layers.
    pub(crate) fn picks(&self, chosen: &Chosen) -> Vec<Pick> {
        chosen.picks.iter().map(|k| self.kinds[*k]).collect()
    }

    /// What a model of these picks takes, whatever its weights are.
    fn taken_by(&self, picks: &[Pick]) -> Result<Taken> {
        let backend = self.subject.backend;
        let key = work::key("sketch", &[&self.known, &backend.name(), &format!("{picks:?}")]);
        let taken: Taken = work::remember(backend.store(), &key, || Ok(backend.cost(&sketch(&self.subject, picks)?)?.taken))?;
        Ok(Taken { macs: macs_of(&self.subject, picks).round() as u64, ..taken })
    }

    /// What the dense model takes.
    ///
    /// # Errors
    /// When it has no code for the target.
    pub fn dense(&self) -> Result<Taken> {
        self.taken_by(&vec![Pick::DENSE; self.layers().len()])
    }

    /// What a model that was made takes.
    ///
    /// # Errors
    /// When it has no code for the target.
    pub fn taken(&self, found: &Found) -> Result<Taken> {
        self.taken_by_model(&found.assembled)
    }

    /// What is to be little, of a model that was made.
    pub(crate) fn planned(&self, found: &Found) -> Result<f64> {
        Ok(self.taken(found)?.of(self.goal.objective))
    }

    /// The same with what is beside it.
    pub(crate) fn planned_sum(&self, found: &Found) -> Result<f64> {
        let taken = self.taken(found)?;
        if self.goal.objective == Objective::Ram {
            return Ok(taken.of(Objective::Ram));
        }
        Ok(self.weights(self.goal.objective).iter().map(|(of, weight)| weight * taken.of(*of)).sum())
    }

    pub(crate) fn taken_by_model(&self, made: &Assembled) -> Result<Taken> {
        let backend = self.subject.backend;
        let key = work::key("taken", &[&self.known, &backend.name(), &made.recipe.arrays]);
        let taken: Taken = work::remember(backend.store(), &key, || Ok(backend.cost(&made.graph)?.taken))?;
        Ok(Taken { macs: macs(&self.subject, &made.recipe).round() as u64, ..taken })
    }

    /// The choice with least of `objective` by estimates within a limit of error and caps.
    fn within(&self, limit: f64, objective: Objective, caps: &[(Objective, f64)]) -> Option<Chosen> {
        let ceiling = caps.iter().find(|c| c.0 == Objective::Ram).map_or(f64::INFINITY, |c| c.1);
        let sums: Vec<(Objective, f64)> = caps.iter().copied().filter(|c| c.0 != Objective::Ram).collect();
        let weights = self.weights(objective);
        if objective != Objective::Ram {
            let solved = self.lagrange(limit, &mut weights.clone(), &sums, ceiling)?;
            let sum = |picks: &[usize]| {
                let of = |(of, weight): &(Objective, f64)| weight * (self.prices.total(*of, picks) - self.prices.table(*of).rest);
                weights.iter().map(of).sum::<f64>()
            };
            let price = sum(&solved.chosen.picks);
            return Some(self.stated(solved, objective, price));
        }
        // Of choices with the lowest ceiling the fastest one.
        let live = |ceiling: f64| self.lagrange(limit, &mut weights.clone(), &sums, ceiling);
        let mut steps: Vec<f64> =
            self.prices.table(Objective::Ram).of.iter().flatten().copied().filter(|b| *b <= ceiling).collect();
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        let first = steps.partition_point(|ceiling| live(*ceiling).is_none());
        let solved = live(*steps.get(first)?)?;
        let bound = steps[first];
        let price = self.prices.total(objective, &solved.chosen.picks);
        Some(self.stated(Solved { bound, ..solved }, objective, price))
    }

    /// What is to be little, and beside it what decides between models that are nearly alike in that: bytes for time, energy and multiplications, time for bytes.
    fn weights(&self, objective: Objective) -> Vec<(Objective, f64)> {
        let (of, beside) = match objective {
            Objective::Ram | Objective::Latency => (Objective::Latency, Objective::Size),
            Objective::Energy | Objective::Macs => (objective, Objective::Size),
            Objective::Size => (objective, Objective::Latency),
        };
        let dense = |of: Objective| self.prices.total(of, &vec![0; self.layers().len()]);
        vec![(of, 1.0), (beside, BESIDE * dense(of) / dense(beside).max(f64::MIN_POSITIVE))]
    }

    /// The choice with its price in terms of the objective; `sum` is its price in terms of the bound.
    fn stated(&self, solved: Solved, objective: Objective, sum: f64) -> Chosen {
        let Solved { chosen, bound } = solved;
        let rest = if objective == Objective::Ram { 0.0 } else { self.prices.table(objective).rest };
        let price = self.prices.total(objective, &chosen.picks) - rest;
        let gap = if sum > 0.0 { ((sum - bound) / sum).max(0.0) } else { 0.0 };
        Chosen { price, gap, ..chosen }
    }

    /// The choice with the least weighted sum of prices, with multipliers for the caps that it would not keep.
    fn lagrange(
        &self,
        limit: f64,
        weights: &mut Vec<(Objective, f64)>,
        caps: &[(Objective, f64)],
        ceiling: f64,
    ) -> Option<Solved> {
        let Some(((of, cap), others)) = caps.split_first() else { return self.weighted(limit, weights, ceiling) };
        let keeps = |s: &Solved| self.prices.total(*of, &s.chosen.picks) <= *cap;
        let free = self.lagrange(limit, weights, others, ceiling)?;
        if keeps(&free) {
            return Some(free);
        }
        let scale = free.chosen.price / self.prices.total(*of, &free.chosen.picks).max(f64::MIN_POSITIVE);
        let mut at = |power: f64| {
            let multiplier = scale * power.exp2();
            weights.push((*of, multiplier));
            let solved = self.lagrange(limit, weights, others, ceiling);
            weights.pop();
            let slack = multiplier * (cap - self.prices.table(*of).rest);
            solved.map(|s| Solved { bound: s.bound - slack, ..s })
        };
        let (mut low, mut high) = MULTIPLIERS;
        let mut best = at(high).filter(keeps)?;
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            match at(middle).filter(keeps) {
                Some(solved) => (best, high) = (solved, middle),
                None => low = middle,
            }
        }
        Some(best)
    }

    /// The choice with the least weighted sum of prices, without candidates whose steps need more of the arena than `ceiling`.
    fn weighted(&self, limit: f64, weights: &[(Objective, f64)], ceiling: f64) -> Option<Solved> {
        let chosen = self.choices.cheapest(limit, weights, ceiling)?;
        let bound = chosen.price * (1.0 - chosen.gap);
        Some(Solved { chosen, bound })
    }

    /// The number of the least limit of error that leaves a choice within the caps; `None` when none does.
    pub(crate) fn floor(&self) -> Result<Option<usize>> {
        if self.goal.caps.list().is_empty() {
            return Ok(Some(0));
        }
        if self.choice(self.limit(GRID))?.is_none() {
            return Ok(None);
        }
        let (mut low, mut high) = (0, GRID);
        while low < high {
            let middle = (low + high) / 2;
            if self.choice(self.limit(middle))?.is_some() { high = middle } else { low = middle + 1 }
        }
        Ok(Some(low))
    }

    /// Does a model that was made keep the caps?
    pub(crate) fn within_caps(&self, found: &Found) -> Result<bool> {
        Ok(self.goal.caps.list().is_empty() || self.goal.caps.keeps(&self.taken(found)?))
    }

    /// The model that loses least of those that keep the caps.
    pub(crate) fn least_loss(&self, floor: usize) -> Result<Found> {
        let mut last = None;
        for n in floor..=(floor + LATER).min(GRID) {
            let limit = self.limit(n);
            let Some(chosen) = self.choice(limit)? else { continue };
            let mut found = self.make(limit, &chosen)?;
            if self.within_caps(&found)? {
                found.score = self.folded(&found.picks, self.goal.method, &found.assembled.graph, None)?;
                return self.handed_out(found);
            }
            last = Some(found);
        }
        let points = last.iter().map(|f| self.point("the nearest one that was made", f)).collect::<Result<Vec<_>>>()?;
        Err(self.refused(&points))
    }

    /// What is said of a budget that cannot be met: the model that takes least of what is limited, the one that loses no more than it may, and `floor`, which
    /// keeps the caps but loses too much.
    pub(crate) fn nearest(&self, floor: Option<&Found>) -> Result<Error> {
        let mut points = Vec::new();
        if let Some(found) = floor {
            points.push(self.point("keeps all but the drop", found)?);
        }
        for (of, cap) in self.goal.caps.list() {
            let name = quantity(of);
            let Some(least) = self.within(self.limit(GRID), of, &[]) else { continue };
            if floor.is_none() {
                let taken = self.taken_by(&self.picks(&least))?;
                if taken.of(of) > cap {
                    points.push(format!("  least {name} of all: {}", text(&taken)));
                }
            }
            if self.goal.max_drop.is_finite() {
                let exact = || self.within(0.0, of, &[]).map(|chosen| self.make(0.0, &chosen)).transpose();
                let found = self.bisect(0, |limit| Ok(self.within(limit, of, &[])), |_| Ok(true))?;
                if let Some(found) = found.map_or_else(exact, |found| Ok(Some(found)))? {
                    points.push(self.point(&format!("least {name} that keeps the drop"), &found)?);
                }
            }
        }
        Ok(self.refused(&points))
    }

    fn point(&self, what: &str, found: &Found) -> Result<String> {
        Ok(format!("  {what}: drop {:.2} %, {}", 100.0 * found.score.drop(), text(&self.taken(found)?)))
    }

    fn refused(&self, points: &[String]) -> Error {
        let mut wanted: Vec<String> = Vec::new();
        if self.goal.max_drop.is_finite() {
            wanted.push(format!("a drop of {:.2} %", 100.0 * self.goal.max_drop));
        }
        wanted.extend(self.goal.caps.list().iter().map(|(of, cap)| match of {
            Objective::Latency => format!("a latency of {:.4} ms", cap * 1e3),
            of => format!("{cap:.0} bytes of {}", quantity(*of)),
        }));
        Error::Budget(format!("no model keeps {}; the nearest points:\n{}", wanted.join(" and "), points.join("\n")))
    }
}

/// The name of what an objective counts.
fn quantity(objective: Objective) -> &'static str {
    match objective {
        Objective::Latency => "latency",
        Objective::Size => "weights",
        Objective::Ram => "arena",
        Objective::Energy => "energy",
        Objective::Macs => "multiplications",
    }
}

/// What a model takes, for people.
pub fn text(taken: &Taken) -> String {
    let Taken { seconds, joules, weight_bytes, arena_bytes, .. } = taken;
    format!(
        "{:.4} ms predicted, {weight_bytes} bytes of weights, arena {arena_bytes} bytes, {:.1} uJ",
        seconds * 1e3,
        joules * 1e6
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_are_kept_or_not() {
        let caps = Caps { seconds: Some(1e-3), arena_bytes: Some(100.0), ..Caps::default() };
        assert_eq!(caps.list(), [(Objective::Latency, 1e-3), (Objective::Ram, 100.0)]);
        let taken = Taken { seconds: 1e-3, arena_bytes: 100, weight_bytes: 1 << 40, ..Taken::default() };
        assert!(caps.keeps(&taken) && Caps::default().keeps(&taken));
        assert!(!caps.keeps(&Taken { arena_bytes: 101, ..taken }) && !caps.keeps(&Taken { seconds: 1.1e-3, ..taken }));
    }
}
