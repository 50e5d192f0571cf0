//! The loop: candidates, their errors and prices, a choice, the real model, what it really loses, another choice.
//!
//! Errors of layers are measured one at a time: a layer's relative error at a density comes from its own moments, and one run of the model with only this
//! layer changed says what such an error does to the answers. Divergences of the answers add up as long as they are small, so that a limit of their sum
//! makes the choice a knapsack ([`crate::choose`]). How the sum relates to the metric is not known before: the limit is found by bisection over models that
//! are assembled, repaired and measured on data that was held out, until the budget is used and kept.

use onnxc_ir::{Graph, ValueId};
use onnxc_passes::compress::pairs::Range;
use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_passes::compress::{ActivationRange, Balance, Matrix, Moments, prune, range};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::assemble::{Assembled, Method, Pick, Subject};
use crate::choose::{Candidate, Chosen, choose};
use crate::metric::{Judge, Metric, Score};
use crate::price::{Objective, Prices, prices};
use crate::recipe::{Recipe, Weights};
use crate::samples::Split;
use crate::taps::{Tapped, histograms, moments};
use crate::{Backend, Error, Result, Samples, recipe, work};

/// Shares of positions that are tried.
pub const DENSITIES: &[f64] = &[0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.16, 0.11, 0.08];
/// The densities whose effects on the answers are measured: the second one where the first says that answers become other ones altogether.
const PROBES: [f64; 2] = [0.5, 0.8];
/// Divergences below this one are small enough to be proportional to errors.
const SMALL: f64 = 0.2;
/// Held-out samples that a probe runs.
const PROBED: usize = 64;
/// Limits that bisection goes over, in equal ratios.
const GRID: usize = 127;
/// Limits behind the first one that fails which are tried too.
const AHEAD: [usize; 4] = [3, 6, 10, 14];
/// Losses between which the points of a front are of most use.
const USEFUL: (f64, f64) = (0.001, 0.1);
/// Limits below this one change nothing.
const LEAST: f64 = 1e-6;

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Goal {
    /// What is to be little.
    pub objective: Objective,
    /// How much of the metric may be lost, 0 to 1.
    pub max_drop: f64,
    /// Which decision is compared; `None`: what the output suggests.
    pub metric: Option<Metric>,
    /// Layers may become integers.
    pub integers: bool,
    /// Positions may be dropped.
    pub pruning: bool,
    /// How layers are repaired.
    pub method: Method,
}

/// What was found.
pub struct Found {
    /// The model.
    pub assembled: Assembled,
    /// Choices by layer.
    pub picks: Vec<Pick>,
    /// Its score on data that it was not computed from.
    pub score: Score,
    /// Predicted seconds, or bytes of weights: of the model, and of the dense one.
    pub price: (f64, f64),
    /// Distance of the choice from the best one for its limit, as a part of its price.
    pub gap: f64,
}

/// A model and what the search has measured of it.
pub struct Search<'a> {
    pub(crate) subject: Subject<'a>,
    pub(crate) judge: Judge,
    pub(crate) goal: Goal,
    /// Kinds of candidates; the first one is the layer as it is.
    kinds: Vec<Pick>,
    prices: Prices,
    /// `[layer][kind]`: divergence of the answers.
    errors: Vec<Vec<f64>>,
    /// Key of everything that depends on the model and its samples.
    pub(crate) known: String,
}

impl<'a> Search<'a> {
    /// Measures a canonical graph on its samples.
    ///
    /// # Errors
    /// When the model has no code here or does not run on the samples.
    pub fn new(
        backend: &'a dyn Backend,
        graph: &Graph,
        samples: &'a Samples,
        group: usize,
        sha256: &str,
        goal: Goal,
    ) -> Result<Search<'a>> {
        let graph = recipe::named(graph);
        let layers: Vec<Weighted> = weighted::layers(&graph).into_iter().filter(|l| l.rows > 0).collect();
        if layers.is_empty() {
            return Err(Error::Input(
                "the model has no layer with constant weights of known extents: there is nothing to compress".to_string(),
            ));
        }
        let options = format!("{:?} {} {} {group}", goal.method, goal.integers, goal.pruning);
        let known = work::key("model", &[sha256, &samples.fingerprint(), &options]);
        let store = backend.store();
        let ranges: Vec<(u32, Range)> = work::remember(store, &work::key("ranges", &[&known]), || {
            backend.say("calibration: ranges");
            if goal.integers { ranges(backend, &graph, &layers, samples) } else { Ok(Vec::new()) }
        })?;
        let ranges = ranges.into_iter().map(|(id, range)| (ValueId(id), range)).collect();
        let sha256 = sha256.to_string();
        let subject = Subject { backend, graph, layers, samples, group, ranges, sha256 };
        let answers = Tapped::new(backend, &subject.graph, &subject.graph.outputs)?.run_all(samples, &samples.held_out())?;
        let metric = goal.metric.unwrap_or_else(|| Metric::of(subject.graph.ty(subject.graph.outputs[0])));
        let judge = Judge::new(&subject.graph, metric, &answers)?;
        let kinds = kinds(&goal);
        let priced = work::key("prices", &[&known, &backend.name(), &format!("{:?}", goal.objective)]);
        let prices = work::remember(store, &priced, || prices(&subject, &kinds, goal.objective))?;
        let mut search = Search { subject, judge, goal, kinds, prices, errors: Vec::new(), known };
        let measured = work::key("errors", &[&search.known, &format!("{metric:?}")]);
        // JSON has no infinity.
        let errors: Vec<Vec<Option<f64>>> = work::remember(store, &measured, || {
            let finite = |list: Vec<f64>| list.into_iter().map(|e| e.is_finite().then_some(e)).collect();
            search.measure_errors().map(|all| all.into_iter().map(finite).collect())
        })?;
        search.errors = errors.into_iter().map(|list| list.into_iter().map(|e| e.unwrap_or(f64::INFINITY)).collect()).collect();
        Ok(search)
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.judge.metric()
    }

    /// The layers of the model.
    pub fn layers(&self) -> &[Weighted] {
        &self.subject.layers
    }

    /// What every layer does to the answers in every kind.
    fn measure_errors(&self) -> Result<Vec<Vec<f64>>> {
        let (subject, backend) = (&self.subject, self.subject.backend);
        backend.say("calibration: moments");
        let prunable: Vec<&Weighted> = subject.layers.iter().filter(|l| self.goal.pruning && subject.prunable(l)).collect();
        let known: Vec<(Moments, Moments)> = moments(backend, (&subject.graph, None), &prunable, subject.samples)?;
        backend.say("errors of layers");
        let by_node: BTreeMap<usize, &(Moments, Moments)> = prunable.iter().map(|l| l.node).zip(&known).collect();
        let curves: Vec<BTreeMap<Weights, Curve>> =
            subject.layers.par_iter().map(|l| by_node.get(&l.node).map(|m| self.curves(l, m)).unwrap_or_default()).collect();
        let check = subject.samples.held_out();
        let sample = &check[..check.len().min(PROBED)];
        let (done, all) = (AtomicUsize::new(0), subject.layers.len());
        let effects = |(n, curves): (usize, &BTreeMap<Weights, Curve>)| {
            let effects = self.effects(n, curves, sample);
            backend.say(&format!("effect of layers on the answers, {} of {all}", done.fetch_add(1, Ordering::Relaxed) + 1));
            effects
        };
        curves.par_iter().enumerate().map(effects).collect()
    }

    /// The divergence of the answers for each kind that a layer can be.
    fn effects(&self, n: usize, curves: &BTreeMap<Weights, Curve>, sample: &[usize]) -> Result<Vec<f64>> {
        let layer = &self.subject.layers[n];
        let dropped = match curves.values().next() {
            Some(curve) => {
                let effect = |n_th: usize| -> Result<(f64, f64)> {
                    let (density, weights) = (PROBES[n_th], Weights::F32);
                    let divergence = self.probe(n, Pick { density, weights }, curve.probes[n_th].clone(), sample)?;
                    Ok((divergence, divergence / curve.at(density).max(1e-12)))
                };
                let (divergence, ratio) = effect(0)?;
                if divergence < SMALL { ratio } else { effect(1)?.1 }
            }
            None => f64::INFINITY,
        };
        let eight = Pick { density: 1.0, weights: Weights::Int8 };
        let possible = self.kinds.contains(&eight) && self.subject.possible(layer, eight) == eight;
        let narrow = if possible { self.probe(n, eight, layer.matrix(&self.subject.graph), sample)? } else { f64::INFINITY };
        let error = |kind: &Pick| -> f64 {
            if self.subject.possible(layer, *kind) != *kind {
                return f64::INFINITY;
            }
            let curve = curves.get(&kind.weights).map_or(f64::INFINITY, |c| c.at(kind.density));
            let pruned = if kind.density < 1.0 { dropped * curve } else { 0.0 };
            pruned + if kind.weights == Weights::Int8 { narrow } else { 0.0 }
        };
        Ok(self.kinds.iter().map(error).collect())
    }

    /// Errors of a layer at all densities, for each size of units.
    fn curves(&self, layer: &Weighted, known: &(Moments, Moments)) -> BTreeMap<Weights, Curve> {
        let matrix = layer.matrix(&self.subject.graph);
        let kinds: Vec<Weights> = if self.goal.integers { vec![Weights::F32, Weights::Int8] } else { vec![Weights::F32] };
        let Method { mask, repair, damping, .. } = self.goal.method;
        let curve = |weights: Weights| {
            let shape = self.subject.shape(layer, weights);
            let all = prune(&matrix, &known.0, Some(&known.1), &shape, DENSITIES, mask, repair, Balance::Free, damping);
            let errors = DENSITIES.iter().zip(&all).map(|(d, p)| (*d, p.check_error.unwrap_or(p.error))).collect();
            let at = |d: f64| DENSITIES.iter().position(|x| *x == d).expect("internal: search: probes are some of the densities");
            (weights, Curve { errors, probes: PROBES.map(|d| all[at(d)].weights.clone()) })
        };
        kinds.into_iter().map(curve).collect()
    }

    /// The divergence of the answers with one layer changed.
    fn probe(&self, layer: usize, pick: Pick, weights: Matrix, sample: &[usize]) -> Result<f64> {
        let mut picks = vec![Pick::DENSE; self.subject.layers.len()];
        let mut matrices: Vec<Matrix> = (0..picks.len()).map(|_| Matrix { n: 0, k: 0, values: Vec::new() }).collect();
        (picks[layer], matrices[layer]) = (pick, weights);
        let made = self.subject.plain(&picks, matrices)?;
        Ok(self.score(&made.graph, sample)?.divergence)
    }

    pub(crate) fn score(&self, graph: &Graph, sample: &[usize]) -> Result<Score> {
        let answers = Tapped::new(self.subject.backend, graph, &graph.outputs)?.run_all(self.subject.samples, sample)?;
        Ok(self.judge.score(&answers))
    }

    /// The cheapest choice within a limit of the sum of divergences.
    fn choice(&self, limit: f64) -> Result<Chosen> {
        let candidates: Vec<Vec<Candidate>> = (self.errors.iter().zip(&self.prices.of))
            .map(|(errors, prices)| {
                prices.iter().zip(errors).map(|(price, error)| Candidate { price: *price, error: *error }).collect()
            })
            .collect();
        choose(&candidates, limit).ok_or_else(|| Error::Internal("layers as they are cost no error".to_string()))
    }

    /// The model of a choice.
    fn make(&self, limit: f64, chosen: &Chosen) -> Result<Found> {
        let picks: Vec<Pick> = chosen.picks.iter().map(|k| self.kinds[*k]).collect();
        let assembled = self.assembled(&picks, Split::HALF)?;
        let score = self.held_out(&picks, &assembled.graph)?;
        let dense = self.prices.rest + self.prices.of.iter().map(|p| p[0]).sum::<f64>();
        let found = Found { assembled, picks, score, price: (self.prices.rest + chosen.price, dense), gap: chosen.gap };
        self.subject.backend.say(&format!(
            "limit {limit:.1e}: {:.2}x, drop {:.2} % (agreement {:.2} %, expected loss {:.2} %), divergence {:.1e}",
            found.price.1 / found.price.0,
            100.0 * found.score.drop(),
            100.0 * found.score.agreement,
            100.0 * found.score.expected,
            found.score.divergence
        ));
        Ok(found)
    }

    /// Models along the whole range from the dense one to the cheapest, ascending by price, without those that another one beats in price and drop.
    ///
    /// # Errors
    /// As [`Search::run`].
    pub fn front(&self, points: usize) -> Result<Vec<Found>> {
        let mut found: Vec<(f64, Found)> = vec![(0.0, self.make(0.0, &self.choice(0.0)?)?)];
        let coarse = points.div_ceil(2);
        spread(LEAST, self.most(), coarse).try_for_each(|limit| self.add(&mut found, limit))?;
        // Where decisions begin to change the others go.
        let drop = |f: &&(f64, Found), least: f64| f.1.score.drop() >= least;
        let low = found.iter().filter(|f| !drop(f, USEFUL.0)).map(|f| f.0).fold(LEAST, f64::max);
        let high = found.iter().filter(|f| drop(f, USEFUL.1) && f.0 > low).map(|f| f.0).fold(self.most(), f64::min);
        spread(low, high, points - coarse).try_for_each(|limit| self.add(&mut found, limit))?;
        let mut found: Vec<Found> = found.into_iter().map(|f| f.1).collect();
        found.sort_by(|a, b| a.price.0.total_cmp(&b.price.0));
        let mut least = f64::INFINITY;
        found.retain(|f| {
            let better = f.score.divergence < least;
            least = least.min(f.score.divergence);
            better
        });
        Ok(found)
    }

    /// The model of a limit, if it is another one than those that there are.
    fn add(&self, found: &mut Vec<(f64, Found)>, limit: f64) -> Result<()> {
        let chosen = self.choice(limit)?;
        let picks: Vec<Pick> = chosen.picks.iter().map(|k| self.kinds[*k]).collect();
        if found.iter().all(|(_, f)| f.picks != picks) {
            found.push((limit, self.make(limit, &chosen)?));
        }
        Ok(())
    }

    /// The largest sum of divergences that a choice can have.
    fn most(&self) -> f64 {
        let worst = |errors: &Vec<f64>| errors.iter().copied().filter(|e| e.is_finite()).fold(0.0, f64::max);
        self.errors.iter().map(worst).sum::<f64>().max(10.0 * LEAST)
    }

    /// The cheapest model found that keeps the budget.
    ///
    /// # Errors
    /// When none does.
    pub fn run(&self) -> Result<Found> {
        let keeps = |drop: f64| drop <= self.goal.max_drop + 1e-9;
        // A half that is somewhat over the budget may be within it together with the other one: another decision or two, and the wider bound of fewer samples.
        let doubt = 1.5 / self.subject.samples.held_out().len() as f64;
        let may_keep = |drop: f64| drop <= 1.4 * self.goal.max_drop + doubt;
        // Limits are those of a grid, so that searches with other budgets meet models that were made before. What is found depends on the budget alone.
        let limit = |n: usize| LEAST * (self.most() / LEAST).powf(n as f64 / GRID as f64);
        let mut best: Option<Found> = None;
        let mut attempt = |n: usize| -> Result<bool> {
            let mut found = self.make(limit(n), &self.choice(limit(n))?)?;
            if !may_keep(found.score.drop()) {
                return Ok(false);
            }
            found.score = self.folded(&found.picks, &found.assembled.graph)?;
            let kept = keeps(found.score.drop());
            if kept && best.as_ref().is_none_or(|b| found.price.0 < b.price.0) {
                best = Some(found);
            }
            Ok(kept)
        };
        let (mut low, mut high) = (0, GRID + 1);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if attempt(middle)? { low = middle } else { high = middle }
        }
        // A few decisions more or less are chance: somewhat larger limits may keep the budget again.
        for n in AHEAD.iter().map(|n| high + n).filter(|n| *n <= GRID) {
            attempt(n)?;
        }
        match best {
            Some(found) => self.handed_out(found),
            None => self.make(0.0, &self.choice(0.0)?),
        }
    }
}

/// So many numbers between two, in equal ratios.
fn spread(low: f64, high: f64, n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| low * (high / low).powf((i as f64 + 0.5) / n as f64))
}

/// The relative error of a layer at each density.
struct Curve {
    errors: Vec<(f64, f64)>,
    /// Weights at the densities of the probes.
    probes: [Matrix; 2],
}

impl Curve {
    fn at(&self, density: f64) -> f64 {
        self.errors.iter().find(|e| e.0 == density).map_or(f64::INFINITY, |e| e.1)
    }
}

fn kinds(goal: &Goal) -> Vec<Pick> {
    let mut kinds = vec![Pick::DENSE];
    for weights in [Weights::F32, Weights::Int8] {
        if weights == Weights::Int8 && !goal.integers {
            continue;
        }
        if weights == Weights::Int8 {
            kinds.push(Pick { density: 1.0, weights });
        }
        if goal.pruning {
            kinds.extend(DENSITIES.iter().map(|density| Pick { density: *density, weights }));
        }
    }
    kinds
}

/// Integers for everything that layers multiply.
fn ranges(backend: &dyn Backend, graph: &Graph, layers: &[Weighted], samples: &Samples) -> Result<Vec<(u32, Range)>> {
    let mut values: Vec<ValueId> = layers.iter().map(|l| l.x(graph)).collect();
    values.sort_unstable();
    values.dedup();
    let all = histograms(backend, graph, &values, samples, &samples.fit())?;
    let usable = all.into_iter().filter(|(_, h)| h.min.is_finite() && h.max.is_finite());
    Ok(usable.map(|(id, h)| (id.0, Range::of_pair(range(&h, ActivationRange::Mse, 256)))).collect())
}

/// A recipe of the search with what it promises.
pub fn describe(recipe: &mut Recipe, found: &Found, metric: Metric, samples: &Samples) {
    let percent = |x: f64| format!("{:.3} %", 100.0 * x);
    let about = [
        ("metric", metric.name().to_string()),
        ("agreement on samples that were held out", percent(found.score.agreement)),
        ("expected loss", percent(found.score.expected)),
        ("90 % bound of it", percent(found.score.bound)),
        ("samples", samples.count.to_string()),
        ("optimality gap of the choice", percent(found.gap)),
    ];
    recipe.about.extend(about.map(|(k, v)| (k.to_string(), v)));
}
