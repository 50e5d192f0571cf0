//! What compression without a choice gives, to compare with: the same kind of candidate in all layers.

use onnxc_passes::compress::{Mask, Repair};

use crate::assemble::{Assembled, Method};
use crate::candidate::{self, Pick};
use crate::choose::Chosen;
use crate::front::USEFUL;
use crate::metric::Score;
use crate::recipe::Weights;
use crate::samples::Split;
use crate::search::{Found, Search};
use crate::{Result, Taken};

/// A way to compress all layers alike.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Uniform {
    /// Its name.
    pub name: &'static str,
    /// Type of weights.
    weights: Weights,
    /// Positions are dropped.
    pruned: bool,
    /// By size alone, and nothing is done for what is left.
    bare: bool,
}

/// All of them.
pub const UNIFORM: [Uniform; 7] = [
    Uniform { name: "uniform pruning", weights: Weights::F32, pruned: true, bare: false },
    Uniform { name: "uniform int8", weights: Weights::Int8, pruned: false, bare: false },
    Uniform { name: "uniform paired int8", weights: Weights::Paired, pruned: false, bare: false },
    Uniform { name: "uniform pruning and int8", weights: Weights::Int8, pruned: true, bare: false },
    Uniform { name: "uniform pruning and paired int8", weights: Weights::Paired, pruned: true, bare: false },
    Uniform { name: "magnitude pruning without repair", weights: Weights::F32, pruned: true, bare: true },
    Uniform { name: "uniform dynamic int8", weights: Weights::Dynamic, pruned: false, bare: false },
];

/// A model in which all layers are alike.
pub struct Point {
    /// The way.
    pub name: &'static str,
    /// Share of multiplications that is left.
    pub density: f64,
    /// Its score on the held-out data.
    pub score: Score,
    /// What it takes.
    pub taken: Taken,
    /// The model.
    pub assembled: Assembled,
    picks: Vec<Pick>,
    method: Method,
}

impl Search<'_> {
    /// For each way that the goal permits the cheapest model that loses `drop` at most, with the least density: what is lost grows as it falls. `None` where
    /// even the highest density loses more.
    ///
    /// # Errors
    /// When a model has no code.
    pub fn baselines(&self, drop: f64) -> Result<Vec<(&'static str, Option<Point>)>> {
        let ways = self.ways();
        let one = |(n, way): (usize, &Uniform)| -> Result<(&'static str, Option<Point>)> {
            self.subject.backend.count("baselines", n, ways.len());
            let densities = self.densities(way);
            let (mut low, mut high, mut best) = (0, densities.len(), None);
            while low < high {
                let middle = (low + high) / 2;
                let mut point = self.uniform(way, densities[middle])?;
                let score = self.judged(&point.picks, point.method, &point.assembled.graph, None, drop)?;
                match score.filter(|s| s.keeps(drop)) {
                    Some(score) => {
                        point.score = score;
                        (best, low) = (Some(point), middle + 1);
                    }
                    None => high = middle,
                }
            }
            Ok((way.name, best))
        };
        let points = ways.iter().enumerate().map(one).collect();
        self.subject.backend.count("baselines", ways.len(), ways.len());
        points
    }

    /// The models of all ways, down to the first density that loses more than is of use.
    ///
    /// # Errors
    /// When a model has no code.
    pub fn uniform_points(&self) -> Result<Vec<Point>> {
        let mut points = Vec::new();
        for way in self.ways() {
            for density in self.densities(&way) {
                let point = self.uniform(&way, density)?;
                let useful = point.score.drop() <= USEFUL;
                points.push(point);
                if !useful {
                    break;
                }
            }
        }
        Ok(points)
    }

    /// The model, or one in which all layers are alike where that takes less and loses no more than it may: what is known of layers by themselves can mislead
    /// a choice.
    ///
    /// # Errors
    /// When a model has no code.
    pub fn or_uniform(&self, found: Found) -> Result<Found> {
        let (objective, drop) = (self.goal.objective, self.goal.max_drop);
        if drop.is_infinite() {
            return Ok(found);
        }
        let mut best = found;
        let repaired = self.baselines(drop)?.into_iter().filter_map(|(_, point)| point).filter(|p| p.method == self.goal.method);
        for point in repaired.filter(|p| self.goal.caps.keeps(&p.taken)) {
            if point.taken.of(objective) < self.taken(&best)?.of(objective) {
                best = self.handed_out(self.as_found(point)?)?;
            }
        }
        Ok(best)
    }

    /// A model in which all layers are alike as one that the search has found.
    fn as_found(&self, point: Point) -> Result<Found> {
        let Point { assembled, picks, score, .. } = point;
        let number = |pick: &Pick| self.kinds.iter().position(|k| k == pick).unwrap_or(0);
        let chosen: Vec<usize> = picks.iter().map(number).collect();
        let error: f64 = chosen.iter().enumerate().map(|(layer, kind)| self.choices.error(layer, *kind)).sum();
        let total = |picks: &[usize]| self.prices.total(self.goal.objective, picks);
        let (price, dense) = (total(&chosen), total(&vec![0; chosen.len()]));
        let (least, weight) =
            self.choice(error.min(self.most()))?.map_or((price, 0.0), |c| (total(&c.picks) * (1.0 - c.gap), c.weight));
        let gap = ((price - least) / price.max(f64::MIN_POSITIVE)).max(0.0);
        let chosen = Chosen { picks: chosen, price, error, gap, weight };
        Ok(Found { assembled, picks, score, price: (price, dense), gap, chosen })
    }

    fn ways(&self) -> Vec<Uniform> {
        let permitted = |w: &Uniform| (self.goal.pruning || !w.pruned) && candidate::numbers(w.weights).wanted(&self.goal);
        UNIFORM.into_iter().filter(permitted).collect()
    }

    /// Descending.
    fn densities(&self, way: &Uniform) -> Vec<f64> {
        let pruned = candidate::form("pruned").filter(|_| way.pruned);
        let mut densities = pruned.map_or(vec![1.0], |form| form.densities().to_vec());
        densities.sort_by(|a, b| b.total_cmp(a));
        densities
    }

    fn uniform(&self, way: &Uniform, density: f64) -> Result<Point> {
        self.subject.backend.say(&format!("baseline: {} at {density}", way.name));
        let form = candidate::form("pruned").filter(|_| way.pruned).unwrap_or(Pick::DENSE.form);
        let pick = Pick { form, density, weights: way.weights };
        let picks: Vec<Pick> = self.subject.layers.iter().map(|l| self.subject.possible(l, pick)).collect();
        let bare = Method { mask: Mask::Magnitude, repair: Repair::None, stages: 1, ..self.goal.method };
        let method = if way.bare { bare } else { self.goal.method };
        let assembled = self.assembled(&picks, method, Split::HALF)?;
        let score = self.held_out(&picks, method, &assembled.graph)?;
        let taken = self.taken_by_model(&assembled)?;
        Ok(Point { name: way.name, density, score, taken, assembled, picks, method })
    }
}
