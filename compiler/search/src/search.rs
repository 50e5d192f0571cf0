//! The loop: candidates, their errors and prices, a choice, the real model, what it really loses, another choice.
//!
//! Errors of layers are measured one at a time: a layer's relative error at a density comes from its own moments, and one run of the model with only this
//! layer changed says what such an error does to the answers. Divergences of the answers add up as long as they are small, so that a limit of their sum
//! makes the choice an extraction under constraints ([`crate::choose`]). How the sum relates to the metric is not known before: the limit is found by bisection over models that
//! are assembled, repaired and measured on data that was held out, until the budget is used and kept.

use onnxc_ir::{Graph, ValueId};
use onnxc_passes::compress::pairs::Ranges;
use onnxc_passes::compress::weighted::{self, Weighted};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::assemble::{Assembled, Method, Subject};
use crate::budget::Caps;
use crate::candidate::{self, Curve, Form, Pick, kinds};
use crate::choose::{Choices, Chosen};
use crate::effect::{Effect, Probes};
use crate::labels::Labels;
use crate::metric::{JUDGED, Judge, Metric, Score};
use crate::moments::{Both, Kept};
use crate::outputs::{self, Outputs};
use crate::price::{self, Objective, Prices, prices};
use crate::recipe::{Recipe, Weights};
use crate::samples::Split;
use crate::streams::Orders;
use crate::taps::{Tapped, floats};
use crate::{Backend, Error, Result, Samples, equalised, isotonic, recipe, reordered, work};

/// Held-out samples that a probe runs.
const PROBED: usize = 128;
/// Limits that are tried, in equal ratios.
pub(crate) const GRID: usize = 127;
/// The number of the one that is tried first, and the first step from there. Budgets that are like each other lead over the same numbers.
const START: (usize, usize) = (64, 8);
/// Limits so near to each other make models that are as good.
const NEAR: usize = 2;
/// Bytes that models which are computed at the same time keep of samples, about. Rows and moments come on top.
const ALIVE: f64 = 1.3e9;
/// Limits behind the first one that fails which are tried too: how many, and what their numbers are multiples of, so that other searches meet them.
const AHEAD: (usize, usize) = (4, 4);
/// Losses larger than what is permitted by this factor count as so much.
const HOPELESS: f64 = 2.0;
/// Limits below this one change nothing.
pub(crate) const LEAST: f64 = 1e-6;

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Goal {
    /// What is to be little.
    pub objective: Objective,
    /// How much of the metric may be lost, 0 to 1; infinity: as little as the caps permit.
    pub max_drop: f64,
    /// What the model may take.
    pub caps: Caps,
    /// Which decision is compared; `None`: what the output suggests.
    pub metric: Option<Metric>,
    /// Layers may become integers.
    pub integers: bool,
    /// The most steps that the target adds up in 16 bits where it multiplies short weights faster ([`onnxc_ir::target::SHORT_SUM`]); 0: it does not.
    pub short_steps: u32,
    /// Does the target multiply integers of 16 bits faster than floats?
    pub words: bool,
    /// Weights alone may become integers.
    pub weight_only: bool,
    /// Positions may be dropped.
    pub pruning: bool,
    /// Half of the filters of a panel may have positions of their own.
    pub half_panels: bool,
    /// Layers with little between them may take the place of one.
    pub low_rank: bool,
    /// Layers that read the same channels may lose some of them together.
    pub streams: bool,
    /// Filters that need the same positions become neighbours.
    pub reorder: bool,
    /// Layers may become integers whose operands have ranges that are found at run time.
    pub dynamic: bool,
    /// Weights are stored coded by their entropy.
    pub coded: bool,
    /// How layers are repaired.
    pub method: Method,
}

impl Goal {
    /// Are bytes of weights what is to be little, or limited?
    pub fn bytes_matter(&self) -> bool {
        self.objective == Objective::Size || self.caps.weight_bytes.is_some()
    }

    /// What may be done without inputs of the model's own, since generated ones say nothing of what it will see: numbers of weights that follow from the weights,
    /// within a half of what may be lost.
    #[must_use]
    pub fn by_weights_alone(self) -> Goal {
        Goal { integers: false, pruning: false, low_rank: false, max_drop: self.max_drop / 2.0, ..self }
    }
}

/// What was found.
pub struct Found {
    /// The model.
    pub assembled: Assembled,
    /// Choices by layer.
    pub picks: Vec<Pick>,
    /// Its score on data that it was not computed from.
    pub score: Score,
    /// What is to be little, by prices of layers: of the model, and of the dense one.
    pub price: (f64, f64),
    /// Distance of the choice from the best one for its limit, as a part of its price.
    pub gap: f64,
    /// The choice.
    pub chosen: Chosen,
}

/// A model and what the search has measured of it.
pub struct Search<'a> {
    pub(crate) subject: Subject<'a>,
    pub(crate) judge: Judge,
    /// The judge over all samples, once it was needed.
    pub(crate) judge_of_all: OnceLock<Judge>,
    pub(crate) goal: Goal,
    /// Kinds of candidates; the first one is the layer as it is.
    pub(crate) kinds: Vec<Pick>,
    pub(crate) prices: Prices,
    /// The e-graph of the model with what its layers can be, and the divergence of the answers that this makes.
    pub(crate) choices: Choices,
    /// Key of everything that depends on the model and its samples.
    pub(crate) known: String,
    /// What scores depend on beside that.
    pub(crate) judged_by: String,
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
        let goal = if samples.are_generated() { goal.by_weights_alone() } else { goal };
        let graph = recipe::named(graph);
        let countable = |graph: &Graph| weighted::layers(graph).into_iter().filter(|l| l.rows > 0).collect::<Vec<Weighted>>();
        if countable(&graph).is_empty() {
            return Err(Error::Input(
                "the model has no layer with constant weights of known extents: there is nothing to compress".to_string(),
            ));
        }
        let (integers, alone, pruning, low_rank) = (goal.integers, goal.weight_only, goal.pruning, goal.low_rank);
        let options = format!("{:?} {integers} {alone} {pruning} {low_rank} {group} {}", goal.method, goal.short_steps);
        let options = format!("{options} {} {} {}", goal.streams, goal.words, goal.reorder);
        let known = work::key("model", &[sha256, &samples.fingerprint(), &options]);
        let store = backend.store();
        let unit = if goal.integers { candidate::numbers(Weights::Int8).unit() } else { 1 };
        let orders = || reordered::orders(backend, &graph, samples, (group, unit), &known);
        let (graph, reordered) = reordered::apply(&graph, if goal.reorder && goal.pruning { orders()? } else { Vec::new() });
        let factors: equalised::Factors = work::remember(store, &work::key("equalised", &[&known]), || {
            backend.say("calibration: channels");
            if goal.integers { equalised::factors(backend, &graph, samples, &candidate::largest(&goal)) } else { Ok(Vec::new()) }
        })?;
        let mut layers = countable(&graph);
        for layer in layers.iter_mut().filter(|l| !goal.streams && !l.together.is_empty()) {
            layer.before.clear();
            layer.together.clear();
        }
        let equalised = factors.into_iter().map(|(id, factors)| (ValueId(id), factors)).collect();
        let ranges: Vec<(u32, Ranges)> = work::remember(store, &work::key("ranges", &[&known]), || {
            backend.say("calibration: ranges");
            let how = (samples, goal.method.range);
            if goal.integers { equalised::ranges(backend, &graph, &layers, &equalised, how) } else { Ok(Vec::new()) }
        })?;
        let ranges = ranges.into_iter().map(|(id, range)| (ValueId(id), range)).collect();
        let sha256 = sha256.to_string();
        let subject = Subject {
            backend,
            graph,
            layers,
            samples,
            group,
            ranges,
            reordered,
            equalised,
            sha256,
            known: known.clone(),
            kept: Kept::default(),
        };
        let answers = subject.answers(&samples.held_out())?;
        let outputs = Outputs::of(&subject.graph)?;
        let deciding = || answers.iter().map(|a| floats(&a[outputs.decides])).collect::<Vec<_>>();
        let metric = goal.metric.unwrap_or_else(|| outputs::metric(outputs.ty(&subject.graph), &deciding()));
        let labels = samples.labels(metric, outputs.ty(&subject.graph))?;
        let judged_by = format!("{metric:?} {}", labels.as_ref().map(Labels::fingerprint).unwrap_or_default());
        let judge = Judge::new(&subject.graph, metric, &answers, labels.map(|l| l.of(&samples.held_out())))?;
        let judge = judge.strict(samples.are_generated());
        let mut kinds = kinds(&goal);
        kinds.retain(|k| subject.layers.iter().any(|l| k.form.fits(l)));
        // Other goals have other kinds.
        let of_kinds = format!("{kinds:?}");
        let priced = work::key("prices", &[&known, &backend.name(), &of_kinds]);
        let prices = work::remember(store, &priced, || prices(&subject, &kinds, goal.coded))?.linked(&subject, &kinds);
        let mut search = Search {
            subject,
            judge,
            judge_of_all: OnceLock::new(),
            goal,
            kinds,
            prices,
            choices: Choices::default(),
            known,
            judged_by,
        };
        let measured = work::key("errors", &[&search.known, &format!("{JUDGED} {metric:?}"), &of_kinds]);
        // JSON has no infinity.
        let errors: Vec<Vec<Option<f64>>> = work::remember(store, &measured, || {
            let finite = |list: Vec<f64>| list.into_iter().map(|e| e.is_finite().then_some(e)).collect();
            search.measure_errors().map(|all| all.into_iter().map(finite).collect())
        })?;
        let errors: Vec<Vec<f64>> =
            errors.into_iter().map(|list| list.into_iter().map(|e| e.unwrap_or(f64::INFINITY)).collect()).collect();
        let panels: Vec<bool> = search.kinds.iter().map(|kind| kind.form.by_panels()).collect();
        search.choices = Choices::new(&search.subject.graph, &search.subject.layers, &errors, &search.prices, &panels)?;
        Ok(search)
    }

    /// The name of the metric in reports.
    pub fn metric(&self) -> &'static str {
        self.judge.name()
    }

    /// The dense model.
    pub fn graph(&self) -> &Graph {
        &self.subject.graph
    }

    /// The layers of the model.
    pub fn layers(&self) -> &[Weighted] {
        &self.subject.layers
    }

    /// Multiplications that a recipe leaves of all layers'.
    pub fn macs(&self, recipe: &Recipe) -> f64 {
        price::macs(&self.subject, recipe)
    }

    /// How much of the metric may be lost: half of what was asked for where inputs are generated.
    pub fn max_drop(&self) -> f64 {
        self.goal.max_drop
    }

    /// Says in a recipe of the search what it promises.
    pub fn describe(&self, recipe: &mut Recipe, found: &Found) {
        let (percent, samples) = (|x: f64| format!("{:.3} %", 100.0 * x), self.subject.samples);
        let on =
            if samples.are_generated() { "agreement on generated samples" } else { "agreement on samples that were held out" };
        let about = [
            ("metric", self.metric().to_string()),
            (on, percent(found.score.agreement)),
            ("expected loss", percent(found.score.expected)),
            ("90 % bound of it", percent(found.score.bound)),
            ("samples", samples.count.to_string()),
            ("optimality gap of the choice", percent(found.gap)),
        ];
        recipe.about.extend(about.map(|(k, v)| (k.to_string(), v)));
        // Only where each sample is one decision.
        if found.score.least_doubt > 0.0 {
            recipe.about.insert("90 % bound of new decisions that differ".to_string(), percent(found.score.doubt));
        }
        if samples.are_generated() {
            recipe.about.insert("inputs".to_string(), "generated: weights alone decided what they become".to_string());
        }
    }

    /// What every layer does to the answers in every kind.
    fn measure_errors(&self) -> Result<Vec<Vec<f64>>> {
        let (subject, backend) = (&self.subject, self.subject.backend);
        backend.say("calibration: moments");
        // Weights alone decide what models of generated inputs become.
        let generated = subject.samples.are_generated();
        let rounded = |l: &Weighted, kind: &Pick| *kind != Pick::DENSE && l.groups == 1 && !generated;
        let exact = |kind: &Pick| kind.form == Pick::DENSE.form;
        let fits = |l: &&Weighted| self.kinds.iter().any(|k| if exact(k) { rounded(l, k) } else { k.form.fits(l) });
        let fitted: Vec<&Weighted> = subject.layers.iter().filter(fits).collect();
        let known: Vec<Both> = subject.source(&fitted).moments(subject.samples)?;
        backend.say("errors of layers");
        let by_node: BTreeMap<usize, &Both> = fitted.iter().map(|l| l.node).zip(&known).collect();
        let orders = if self.kinds.iter().any(|k| k.form.reads_less()) {
            subject.orders(subject.samples, |n| by_node.contains_key(&subject.layers[n].node))?
        } else {
            Orders::new()
        };
        let of = |l: &Weighted| by_node.get(&l.node).map(|m| self.curves(l, m, &orders)).unwrap_or_default();
        let curves: Vec<Curves> = subject.layers.par_iter().map(of).collect();
        let check = subject.samples.held_out();
        let sample = &check[..check.len().min(PROBED)];
        let (done, all) = (AtomicUsize::new(0), subject.layers.len());
        let effects = |(n, curves): (usize, &Curves)| {
            let known = by_node.get(&subject.layers[n].node).copied().filter(|_| !generated);
            let effects = self.effects(n, curves, known, sample);
            backend.count("effect of layers on the answers", done.fetch_add(1, Ordering::Relaxed) + 1, all);
            effects
        };
        let mut errors = curves.par_iter().enumerate().map(effects).collect::<Result<Vec<Vec<f64>>>>()?;
        self.add_streams(&mut errors, &curves, sample)?;
        Ok(errors)
    }

    /// The divergence of the answers for each kind that a layer can be. Its integers are those that it would have, if its moments are known.
    fn effects(&self, n: usize, curves: &Curves, known: Option<&Both>, sample: &[usize]) -> Result<Vec<f64>> {
        let layer = &self.subject.layers[n];
        let probes = Probes::of(self, layer, sample)?;
        // Errors of one size are not of one kind: each form is measured by itself, but for those that leave out the same.
        let mut by_error: BTreeMap<&str, Effect> = BTreeMap::new();
        // What layers do together is measured of all of them at once.
        let together = |form: &dyn Form| form.reads_less() && !layer.together.is_empty();
        for (of, curve) in curves.iter().filter(|(of, _)| !together(of.form)) {
            if !by_error.contains_key(of.form.alike()) {
                by_error.insert(of.form.alike(), probes.effect(&[(n, curve)])?);
            }
        }
        let mut by_numbers: BTreeMap<Weights, f64> = BTreeMap::from([(Weights::F32, 0.0)]);
        for kind in self.kinds.iter().filter(|k| **k == Pick::whole(k.weights) && **k != Pick::DENSE) {
            if self.subject.possible(layer, *kind) == *kind {
                let treated = match known {
                    Some((fit, held_out)) => self.subject.treated(n, *kind, (fit, held_out), self.goal.method),
                    None => self.subject.site(layer, kind.weights).rough(&layer.matrix(&self.subject.graph)),
                };
                by_numbers.insert(kind.weights, probes.divergence(vec![(n, Pick::whole(kind.weights), treated)])?);
            }
        }
        let error = |kind: &Pick| -> f64 {
            let Some(numbers) = by_numbers.get(&kind.weights).filter(|_| self.subject.possible(layer, *kind) == *kind) else {
                return f64::INFINITY;
            };
            let curve = curves.iter().find(|(of, _)| Curve::serves(of, kind));
            // Each part rounds its weights and what it multiplies.
            numbers * kind.form.parts() as f64
                + match curve {
                    Some((_, curve)) if together(kind.form) && curve.at(kind.density).is_finite() => 0.0,
                    Some(_) if together(kind.form) => f64::INFINITY,
                    Some((_, curve)) => by_error[kind.form.alike()].at(curve.at(kind.density)),
                    None if kind.form == Pick::DENSE.form => 0.0,
                    None => f64::INFINITY,
                }
        };
        Ok(self.kinds.iter().map(error).collect())
    }

    /// Errors of a layer in each form that has any, with weights of each type; what is known are its moments.
    fn curves(&self, layer: &Weighted, (fit, held_out): &Both, orders: &Orders) -> Curves {
        let mut kinds: Curves = Vec::new();
        for kind in &self.kinds {
            if kinds.iter().any(|(of, _)| Curve::serves(of, kind)) || !kind.form.fits(layer) {
                continue;
            }
            let site = self.subject.site(layer, kind.weights).in_order(orders);
            let curve = candidate::curve(&site, kind.form, (fit, held_out), self.goal.method);
            kinds.extend(curve.map(|curve| (*kind, curve)));
        }
        kinds
    }

    pub(crate) fn score(&self, graph: &Graph, sample: &[usize]) -> Result<Score> {
        let answers = Tapped::new(self.subject.backend, graph, &graph.outputs)?.run_all(self.subject.samples, sample)?;
        Ok(self.judge.score(&answers))
    }

    /// The model of a choice.
    pub(crate) fn make(&self, limit: f64, chosen: &Chosen) -> Result<Found> {
        let (picks, method) = (self.picks(chosen), self.goal.method);
        let assembled = self.assembled(&picks, method, Split::HALF)?;
        let score = self.held_out(&picks, method, &assembled.graph)?;
        let total = |picks: &[usize]| self.prices.total(self.goal.objective, picks);
        let price = (total(&chosen.picks), total(&vec![0; picks.len()]));
        let found = Found { assembled, picks, score, price, gap: chosen.gap, chosen: chosen.clone() };
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

    /// The largest sum of divergences that a choice can have.
    pub(crate) fn most(&self) -> f64 {
        self.choices.most_error().max(10.0 * LEAST)
    }

    /// Limits are those of a grid, so that searches with other budgets meet models that were made before. What is found depends on the budget alone.
    pub(crate) fn limit(&self, n: usize) -> f64 {
        LEAST * (self.most() / LEAST).powf(n as f64 / GRID as f64)
    }

    /// Does a model lose no more than it may?
    pub(crate) fn keeps(&self, found: &Found) -> bool {
        found.score.keeps(self.goal.max_drop)
    }

    /// The cheapest model found that keeps the budget.
    ///
    /// # Errors
    /// When none does.
    pub fn run(&self) -> Result<Found> {
        let caps = !self.goal.caps.list().is_empty();
        let Some(floor) = self.floor()? else { return Err(self.nearest(None)?) };
        if caps && self.goal.max_drop.is_infinite() {
            return self.least_loss(floor);
        }
        if let Some(found) = self.bisect(floor, |limit| self.choice(limit), |f| self.within_caps(f))? {
            return self.handed_out(found);
        }
        let limit = if caps { self.limit(floor) } else { 0.0 };
        let chosen = self.choice(limit)?.ok_or_else(|| Error::Internal("layers as they are cost no error".to_string()))?;
        let found = self.make(limit, &chosen)?;
        if caps { Err(self.nearest(Some(&found))?) } else { Ok(found) }
    }

    /// The cheapest model that is found to lose no more than it may and to keep something else, among limits of error from number `floor` on: by steps from the
    /// middle that double, then by bisection, as if models of larger limits never kept it again, and a few of these. A model that lost little by luck alone, when others whose answers moved no further
    /// lost more, does not count ([`isotonic`]).
    pub(crate) fn bisect(
        &self,
        floor: usize,
        choice: impl Fn(f64) -> Result<Option<Chosen>>,
        keeps: impl Fn(&Found) -> Result<bool>,
    ) -> Result<Option<Found>> {
        let (mut known, mut made) = (Known::default(), 0);
        // As many as there usually are.
        let all = GRID.ilog2() as usize + AHEAD.0;
        let mut attempt = |n: usize| -> Result<bool> {
            self.subject.backend.count("models", made, all.max(made + 1));
            made += 1;
            if known.measured.contains_key(&n) {
                return Ok(known.kept.iter().any(|k| k.0 == n));
            }
            let Some(chosen) = choice(self.limit(n))? else { return Ok(false) };
            self.learn(&mut known, n, self.attempt(n, &chosen, false)?, &keeps)
        };
        let (mut low, mut high) = (floor, GRID + 1);
        if floor > 0 && !attempt(floor)? {
            high = floor;
        }
        let (mut next, mut step) = START;
        while high > low + NEAR {
            let n = if low < next && next < high { next } else { (low + high) / 2 };
            if attempt(n)? {
                (low, next) = (n, n + step);
            } else {
                (high, next) = (n, n.saturating_sub(step));
            }
            step *= 2;
        }
        // A few decisions more or less are chance: somewhat larger limits may keep the budget again.
        let (count, step) = AHEAD;
        let ahead = (1..=count).map(|i| (high / step + i) * step).filter(|n| *n <= GRID && !known.measured.contains_key(n));
        let chosen = ahead.map(|n| Ok((n, choice(self.limit(n))?))).collect::<Result<Vec<_>>>()?;
        let chosen: Vec<(usize, Chosen)> = chosen.into_iter().filter_map(|(n, chosen)| Some((n, chosen?))).collect();
        self.subject.backend.count("models", made, made + chosen.len());
        // Where one half of the samples told enough of the next limit below, it tells enough of this one too.
        let hopeless = |n: usize| known.measured.range(..n).next_back().is_some_and(|(below, _)| known.hopeless.contains(below));
        let likely: Vec<bool> = chosen.iter().map(|(n, _)| !hopeless(*n)).collect();
        for (n, attempt) in self.attempts(&chosen, &likely)? {
            self.learn(&mut known, n, attempt, &keeps)?;
        }
        self.subject.backend.count("models", made, made);
        let Known { kept, measured, .. } = known;
        // How far answers move is known better than how many decisions change.
        let mut by_divergence: Vec<(usize, (f64, f64))> = measured.into_iter().collect();
        by_divergence.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
        let fit = isotonic::fit(&by_divergence.iter().map(|m| m.1.1).collect::<Vec<f64>>());
        let lucky: Vec<usize> =
            by_divergence.iter().zip(fit).filter(|(_, drop)| *drop > self.goal.max_drop + 1e-9).map(|(m, _)| m.0).collect();
        let earned = kept.into_iter().filter(|(n, _)| !lucky.contains(n)).map(|(_, found)| found);
        let planned = earned.map(|found| Ok((self.planned_sum(&found)?, found))).collect::<Result<Vec<_>>>()?;
        Ok(planned.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, found)| found))
    }

    /// The model of limit `n`, and its score over all samples if the half that is held out does not tell already that it loses too much. Where both halves are
    /// `likely` to be needed, models are computed from them at the same time.
    fn attempt(&self, n: usize, chosen: &Chosen, likely: bool) -> Result<Attempt> {
        let (limit, method) = (self.limit(n), self.goal.method);
        let picks = self.picks(chosen);
        let both = likely && self.at_once() > 1 && !self.is_measured(&picks, method);
        let other = || both.then(|| self.assembled(&picks, method, Split::OTHER_HALF)).transpose();
        let (found, other) = rayon::join(|| self.make(limit, chosen), other);
        let (found, other) = (found?, other?);
        let judged = self.judged(&found.picks, method, &found.assembled.graph, other, self.goal.max_drop)?;
        if let Some(score) = &judged {
            let (drop, agreement) = (100.0 * score.drop(), 100.0 * score.agreement);
            self.subject.backend.say(&format!("limit {limit:.1e}: drop {drop:.2} % of all samples (agreement {agreement:.2} %)"));
        }
        Ok(Attempt { found, judged })
    }

    /// The models of several limits, at the same time. Limits that lead to the same one come after it: then it is known.
    fn attempts(&self, chosen: &[(usize, Chosen)], likely: &[bool]) -> Result<Vec<(usize, Attempt)>> {
        let is_first = |i: usize| chosen[..i].iter().all(|(_, other)| other.picks != chosen[i].1.picks);
        let one = |i: usize| self.attempt(chosen[i].0, &chosen[i].1, likely[i]);
        let halves = if likely.contains(&true) { 2 } else { 1 };
        let all: Vec<usize> = (0..chosen.len()).collect();
        let mut firsts: Vec<Option<Result<Attempt>>> = Vec::new();
        for some in all.chunks(self.at_once().div_ceil(halves)) {
            firsts.par_extend(some.par_iter().map(|i| is_first(*i).then(|| one(*i))));
        }
        firsts.into_iter().enumerate().map(|(i, first)| Ok((chosen[i].0, first.unwrap_or_else(|| one(i))?))).collect()
    }

    /// Models that may be computed at the same time: each keeps for all samples what is alive where it has come to.
    fn at_once(&self) -> usize {
        let samples = self.subject.samples.fit().len() + self.subject.samples.held_out().len();
        let alive =
            self.prices.table(Objective::Ram).of.iter().filter_map(|kinds| kinds.first()).fold(1.0, |a: f64, b| a.max(*b));
        ((ALIVE / (alive * samples as f64)) as usize).max(1)
    }

    /// What a model tells of limit `n`: whether it keeps the budget.
    fn learn(&self, known: &mut Known, n: usize, attempt: Attempt, keeps: impl Fn(&Found) -> Result<bool>) -> Result<bool> {
        let Attempt { mut found, judged } = attempt;
        if judged.is_none() {
            known.hopeless.insert(n);
        }
        found.score = judged.unwrap_or(found.score);
        known.measured.insert(n, (found.score.divergence, found.score.drop().min(HOPELESS * self.goal.max_drop)));
        let keeps = judged.is_some() && self.keeps(&found) && keeps(&found)?;
        if keeps {
            known.kept.push((n, found));
        }
        Ok(keeps)
    }
}

/// A model that was made for a limit, and its score over all samples unless it is hopeless.
struct Attempt {
    found: Found,
    judged: Option<Score>,
}

/// What models have told, by the numbers of their limits.
#[derive(Default)]
struct Known {
    /// Those that keep the budget.
    kept: Vec<(usize, Found)>,
    /// How far answers move, and what is lost.
    measured: BTreeMap<usize, (f64, f64)>,
    /// Those of which one half of the samples told that they lose too much.
    hopeless: BTreeSet<usize>,
}

/// The curves of a layer, each with one of the kinds that it is of.
pub(crate) type Curves = Vec<(Pick, Curve)>;
