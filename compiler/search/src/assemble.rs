//! The model that a choice makes: layers pruned, repaired and rounded one stage after another.
//!
//! Layers are repaired for the operands that they will have: each stage measures what the compressed layers before it pass on, beside what the dense model
//! passes on, and fits weights that give the dense results from these (sequential repair, as in AdaPrune, Hubara et al., 2021, and SparseGPT, Frantar and
//! Alistarh, 2023, section 3). Where some of them lose a part of themselves, layers are repaired one by one: what they lose adds up quickly where those behind
//! do not know of it, and two that make up for the same loss without knowing of each other do so twice. Where numbers alone change they are taken together.

use std::collections::{BTreeMap, BTreeSet};

use onnxc_ir::{Graph, Tensor, ValueId};
use onnxc_passes::compress::pairs::{Range, Ranges};
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{ActivationRange, Balance, Damping, Mask, Moments, Repair, Rounding};
use rayon::prelude::*;

use crate::candidate::{self, Pick, Site, Treated};
use crate::moments::{Kept, Source, Walks};
use crate::recipe::{self, Activation, Arrays, Layer, Recipe, Weights};
use crate::reordered::Reordered;
use crate::taps::{self, Answers, Tapped};
use crate::{Backend, Result, Samples, work};

/// Bytes of answers that other searches find, at most.
const ANSWERS: usize = 1 << 26;

/// How layers are repaired; `--ablate` shows what each part is good for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Method {
    /// How positions are chosen.
    pub mask: Mask,
    /// What is done for what is left.
    pub repair: Repair,
    /// How much of the model's own weights stays in it.
    pub damping: Damping,
    /// How the positions that stay are spread over panels.
    pub balance: Balance,
    /// Masks are those of panels of filters that like the same positions. The filters of the model stay where they are, so that this is good for scores only.
    pub reorder: bool,
    /// How weights are rounded.
    pub rounding: Rounding,
    /// How ranges of values that become integers are found.
    pub range: ActivationRange,
    /// Short weights are small in each step of k by itself, not in the sum of steps: fewer digits, which take fewer bits where they are stored coded.
    pub apart: bool,
    /// Parts of the model that are repaired one after another, at least; 1 repairs every layer for the dense model's operands.
    pub stages: usize,
}

impl Default for Method {
    fn default() -> Method {
        Method {
            mask: Mask::Obs,
            repair: Repair::Refit,
            damping: Damping::CrossValidated,
            balance: Balance::Free,
            reorder: false,
            rounding: Rounding::Gptq,
            range: ActivationRange::Mse,
            apart: false,
            stages: 4,
        }
    }
}

/// A model to be compressed, and what is known of it.
pub struct Subject<'a> {
    /// The compiler.
    pub backend: &'a dyn Backend,
    /// The canonical graph, with names of its own for all values.
    pub graph: Graph,
    /// Its layers.
    pub layers: Vec<Weighted>,
    /// Calibration inputs.
    pub samples: &'a Samples,
    /// Outputs that share positions: what the target's tiles have in a panel.
    pub group: usize,
    /// Integers for values that layers multiply.
    pub ranges: BTreeMap<ValueId, Ranges>,
    /// Filters that are in another order than the model's.
    pub reordered: Vec<Reordered>,
    /// What channels of some of these values are multiplied by before they become integers.
    pub equalised: BTreeMap<ValueId, Vec<f32>>,
    /// SHA-256 of the model file.
    pub sha256: String,
    /// Key of the model, its samples, and what may be done: what layers become depends on nothing else but the choice.
    pub known: String,
    /// What is known of the rows that the dense model feeds its layers.
    pub kept: Kept,
}

/// A compressed model.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// What to do.
    pub recipe: Recipe,
    /// With what.
    pub arrays: Arrays,
    /// The graph that this makes.
    pub graph: Graph,
}

impl Subject<'_> {
    /// A layer that is to become something with weights of a type.
    pub fn site<'a>(&'a self, layer: &'a Weighted, weights: Weights) -> Site<'a> {
        Site { subject: self, layer, numbers: candidate::numbers(weights), order: None, some_of: None }
    }

    /// What the dense model answers to these samples.
    ///
    /// # Errors
    /// As [`taps::Tapped::run`].
    pub(crate) fn answers(&self, which: &[usize]) -> Result<Answers> {
        let (store, key) = (self.backend.store(), work::key("answers", &[&self.known, &format!("{which:?}")]));
        if let Some(known) = store.get_arrays(&key).and_then(|arrays| work::answers_of(&arrays, which.len())) {
            return Ok(known);
        }
        let answers = Tapped::new(self.backend, &self.graph, &self.graph.outputs)?.run_all(self.samples, which)?;
        // Where data decides how many values an output has, samples have as many as each has.
        let sizes = |of: &Vec<Vec<u8>>| of.iter().map(Vec::len).collect::<Vec<_>>();
        let alike = answers.windows(2).all(|two| sizes(&two[0]) == sizes(&two[1]));
        if alike && answers.iter().flatten().map(Vec::len).sum::<usize>() <= ANSWERS {
            store.put_arrays(&key, &work::arrays_of_answers(&answers));
        }
        Ok(answers)
    }

    /// Where moments of these layers are from.
    pub(crate) fn source<'a>(&'a self, layers: &'a [&'a Weighted]) -> Source<'a> {
        Source { backend: self.backend, dense: &self.graph, all: &self.layers, layers, kept: &self.kept, known: &self.known }
    }

    /// Makes the model in which every layer is what `picks` says, computed from the samples that these do not hold out, or by weights alone if they are generated.
    ///
    /// # Errors
    /// When a part of the model has no code, or does not run on the samples.
    pub fn assemble(&self, samples: &Samples, picks: &[Pick], method: Method) -> Result<Assembled> {
        let changed: Vec<usize> = (0..picks.len()).filter(|i| picks[*i] != Pick::DENSE).collect();
        let fits = |i: &&usize| self.layers[**i].groups == 1 && !samples.are_generated();
        // Otherwise layers are fitted to what the dense model feeds them.
        let partial = changed.iter().any(|i| picks[*i].density < 1.0);
        let stages = self.stages(&changed, if samples.are_generated() { 1 } else { method.stages }, partial);
        let mut made = self.untouched();
        let mut walks = Walks::new(self.backend, &self.graph, samples);
        // What is passed on is rounded as it will be.
        self.keep_ranges(&mut made, picks);
        let orders = self.orders(samples, |i| picks[i].form.reads_less())?;
        let some = self.some_outputs(picks, &orders);
        if partial {
            let later: Vec<&Weighted> = stages.iter().skip(1).flatten().filter(fits).map(|i| &self.layers[*i]).collect();
            self.source(&later).prepare(samples)?;
        }
        for (stage, part) in stages.iter().enumerate() {
            self.backend.say(&format!("repairing layers, stage {} of {}", stage + 1, stages.len()));
            // Without changes in front, operands are the dense model's, and layers become what they do in other models.
            let own = if stage == 0 || !partial {
                None
            } else {
                let waiting = |i: &&usize| candidate::numbers(picks[**i].weights).integers();
                let waiting = stages[stage..].iter().flatten().filter(waiting).map(|i| self.result(*i));
                Some(recipe::apply_partly(&self.graph, &made.recipe, &made.arrays, &waiting.collect::<Vec<_>>())?)
            };
            let key = |i: &usize| own.is_none().then(|| self.key(*i, picks[*i], some.get(i), method, samples));
            let keys: Vec<Option<String>> = part.iter().map(key).collect();
            let kept: Vec<Option<Treated>> = keys.iter().map(|key| Treated::kept(self.backend.store(), key.as_ref()?)).collect();
            let missing: Vec<usize> = part.iter().zip(&kept).filter(|(_, kept)| kept.is_none()).map(|(i, _)| *i).collect();
            let fitted: Vec<&Weighted> = missing.iter().filter(fits).map(|i| &self.layers[*i]).collect();
            let source = self.source(&fitted);
            let moments = match &own {
                None => source.moments(samples)?,
                Some(own) => source.moments_of(own, &mut walks, &self.layers[part[0]], samples)?,
            };
            let known: BTreeMap<usize, (&Moments, &Moments)> =
                fitted.iter().zip(&moments).map(|(l, (fit, held_out))| (l.node, (&**fit, &**held_out))).collect();
            let treat = |(i, (key, kept)): (&usize, (Option<String>, Option<Treated>))| {
                let (layer, pick) = (&self.layers[*i], picks[*i]);
                kept.unwrap_or_else(|| {
                    let (known, outputs) = (known.get(&layer.node).copied(), some.get(i).map(|outputs| &outputs[..]));
                    let site = self.site(layer, pick.weights).in_order(&orders);
                    let treated = candidate::treat_some(&site, pick, outputs, known, method);
                    if let Some(key) = &key {
                        treated.keep(self.backend.store(), key);
                    }
                    treated
                })
            };
            let results: Vec<Treated> = part.par_iter().zip(keys.into_par_iter().zip(kept)).map(treat).collect();
            for (i, treated) in part.iter().zip(results) {
                self.keep(&mut made, *i, picks[*i], treated);
            }
        }
        self.finish(made, picks, Some((samples, method.range)))
    }

    /// The layers that change, in parts that are repaired together: `least` parts where there are so many, and if they are to go `one_by_one`, each in an earlier
    /// one than all that depend on it.
    fn stages(&self, changed: &[usize], least: usize, one_by_one: bool) -> Vec<Vec<usize>> {
        let most = changed.len().div_ceil(least.max(1));
        let mut stages: Vec<Vec<usize>> = Vec::new();
        let mut behind: BTreeSet<ValueId> = BTreeSet::new();
        for i in changed {
            let layer = &self.layers[*i];
            let depends = least > 1 && behind.contains(&layer.x(&self.graph));
            match stages.last_mut() {
                Some(stage) if !depends && stage.len() < most => stage.push(*i),
                _ => {
                    stages.push(vec![*i]);
                    behind.clear();
                }
            }
            if one_by_one {
                behind.extend(&self.graph.nodes[layer.node].outputs);
                for node in &self.graph.nodes[layer.node..] {
                    if node.inputs.iter().flatten().any(|id| behind.contains(id)) {
                        behind.extend(&node.outputs);
                    }
                }
            }
        }
        stages
    }

    /// A layer as it becomes where no layer changes what it is fed, kept for the models that it is a part of.
    pub fn treated(&self, i: usize, pick: Pick, known: (&Moments, &Moments), method: Method) -> Treated {
        let (store, key) = (self.backend.store(), self.key(i, pick, None, method, self.samples));
        Treated::kept(store, &key).unwrap_or_else(|| {
            let treated = candidate::treat(&self.site(&self.layers[i], pick.weights), pick, Some(known), method);
            treated.keep(store, &key);
            treated
        })
    }

    /// What a layer becomes is kept by this; `some` are its outputs where not all are computed.
    fn key(&self, i: usize, pick: Pick, some: Option<&Vec<u32>>, method: Method, samples: &Samples) -> String {
        let what = format!("{} {} {method:?} {pick:?} {some:?}", samples.split_name(), self.layers[i].name);
        work::key("layer", &[&self.known, &what])
    }

    /// The model with some of its layers changed, layer by layer. What is between layers that take the place of one has no range of its own.
    ///
    /// # Errors
    /// As [`recipe::apply`].
    pub fn with(&self, changes: Vec<Option<(Pick, Treated)>>) -> Result<Assembled> {
        let mut made = self.untouched();
        let mut picks = vec![Pick::DENSE; changes.len()];
        for (i, (pick, treated)) in changes.into_iter().enumerate().filter_map(|(i, change)| Some((i, change?))) {
            picks[i] = pick;
            self.keep(&mut made, i, pick, treated);
        }
        self.finish(made, &picks, None)
    }

    /// Gives all that integers multiply a range; values that only the compressed model has get theirs from what they are on the samples to compute with,
    /// or any.
    fn finish(&self, mut made: Assembled, picks: &[Pick], samples: Option<(&Samples, ActivationRange)>) -> Result<Assembled> {
        self.keep_ranges(&mut made, picks);
        let several: Vec<(&Weighted, &Pick)> = self
            .layers
            .iter()
            .zip(picks)
            .filter(|(_, p)| p.form.parts() > 1 && candidate::numbers(p.weights).integers())
            .collect();
        if !several.is_empty() {
            let graph = recipe::apply_partly(&self.graph, &made.recipe, &made.arrays, &[])?;
            let values: Vec<ValueId> =
                several.iter().flat_map(|(layer, pick)| layer.within(&self.graph, &graph, pick.form.parts() - 1)).collect();
            let ranges = match samples {
                Some((samples, method)) => taps::ranges(self.backend, &graph, &values, samples, method)?,
                None => values.iter().map(|id| (*id, Ranges::of((-1.0, 1.0), (-1.0, 1.0)))).collect(),
            };
            made.recipe.activations.extend(ranges.iter().map(|(id, range)| activation(&graph, *id, range.bytes)));
        }
        made.recipe.arrays = recipe::fingerprint(&made.arrays);
        made.graph = recipe::apply_partly(&self.graph, &made.recipe, &made.arrays, &[])?;
        Ok(made)
    }

    /// What this layer can be of a kind of candidate.
    pub fn possible(&self, layer: &Weighted, pick: Pick) -> Pick {
        let numbers = candidate::numbers(pick.weights);
        let known = !numbers.integers() || self.ranges.contains_key(&layer.x(&self.graph));
        let weights = if known && numbers.fits(layer) { pick.weights } else { Weights::F32 };
        if pick.form.fits(layer) && pick.form.takes(candidate::numbers(weights)) {
            Pick { weights, ..pick }
        } else {
            Pick::whole(weights)
        }
    }

    /// The dense model.
    fn untouched(&self) -> Assembled {
        let (orders, arrays) = self.reordered.iter().map(|r| (r.order.clone(), (r.order.array.clone(), r.filters()))).unzip();
        let recipe = Recipe { version: recipe::VERSION, model: self.sha256.clone(), orders, ..Recipe::default() };
        Assembled { recipe, arrays, graph: self.graph.clone() }
    }

    fn result(&self, i: usize) -> ValueId {
        self.graph.nodes[self.layers[i].node].outputs[0]
    }

    fn keep(&self, made: &mut Assembled, i: usize, pick: Pick, treated: Treated) {
        let (layer, arrays) = (&self.layers[i], format!("layer_{i:04}"));
        made.arrays.extend(treated.arrays.into_iter().map(|(what, tensor)| (format!("{arrays}.{what}"), tensor)));
        made.recipe.layers.push(Layer {
            name: layer.name.clone(),
            form: pick.form.name().to_string(),
            weights: pick.weights,
            density: rounded(treated.density),
            group: treated.ranks.is_empty().then_some(pick.form.group(self).min(layer.n)),
            unit: treated.ranks.is_empty().then_some(candidate::numbers(pick.weights).unit()),
            ranks: treated.ranks,
            error: rounded(treated.error),
            factors: self.factors_name(layer.x(&self.graph)).filter(|_| candidate::numbers(pick.weights).integers()),
            orders: self.reordered.iter().filter(|r| r.touched.contains(&layer.name)).map(|r| r.order.array.clone()).collect(),
            arrays,
        });
    }

    /// What integers multiply becomes integers: words if any of those are.
    fn keep_ranges(&self, made: &mut Assembled, picks: &[Pick]) {
        let mut ids: BTreeMap<ValueId, bool> = BTreeMap::new();
        for (layer, pick) in self.layers.iter().zip(picks) {
            let numbers = candidate::numbers(pick.weights);
            if numbers.integers() {
                *ids.entry(layer.x(&self.graph)).or_default() |= numbers.words();
            }
        }
        made.recipe.activations.clear();
        for (id, range) in ids.into_iter().filter_map(|(id, words)| Some((id, self.ranges.get(&id)?.get(words)))) {
            let factors = self.keep_factors(made, id);
            made.recipe.activations.push(Activation { factors, ..activation(&self.graph, id, range) });
        }
    }

    /// What the array of a value's factors is called, if there is one.
    fn factors_name(&self, id: ValueId) -> Option<String> {
        self.equalised.contains_key(&id).then(|| format!("equalised_{:04}", self.equalised.range(..id).count()))
    }

    /// The array of what the channels of a value are multiplied by, if they are.
    fn keep_factors(&self, made: &mut Assembled, id: ValueId) -> Option<String> {
        let (factors, name) = (self.equalised.get(&id)?, self.factors_name(id)?);
        if made.arrays.iter().all(|a| a.0 != name) {
            made.arrays.push((name.clone(), Tensor::from_vec(&[factors.len() as u64], factors.clone())));
        }
        Some(name)
    }
}

fn activation(graph: &Graph, id: ValueId, range: Range) -> Activation {
    let bits = if range.words { 16 } else { 8 };
    Activation { value: graph.value(id).name.clone(), scale: range.scale, zero: range.zero, bits, factors: None }
}

/// Three digits: what people read.
pub fn rounded(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let scale = 10f64.powi(2 - x.abs().log10().floor() as i32);
    (x * scale).round() / scale
}
