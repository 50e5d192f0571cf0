//! The model that a choice makes: layers pruned, repaired and rounded one stage after another.
//!
//! Layers are repaired for the operands that they will have: each stage measures what the compressed layers before it pass on, beside what the dense model
//! passes on, and fits weights that give the dense results from these (sequential repair, as in AdaPrune, Hubara et al., 2021, and SparseGPT, Frantar and
//! Alistarh, 2023, section 3). A stage has several layers so that the model is run a few times, not once for every layer.

use std::collections::BTreeMap;

use onnxc_ir::{Graph, Tensor, ValueId};
use onnxc_passes::compress::pairs::Range;
use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_passes::compress::{Balance, Damping, Grid, Mask, Matrix, Moments, Repair, Rounding, Shape, WeightRange, prune, round};
use rayon::prelude::*;

use crate::recipe::{self, Activation, Arrays, Layer, Recipe, Weights};
use crate::taps;
use crate::{Backend, Result, Samples};

/// What a layer becomes.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Pick {
    /// Share of positions that is kept; 1 for all.
    pub density: f64,
    /// Type of weights and of what they multiply.
    pub weights: Weights,
}

impl Pick {
    /// The layer as it is.
    pub const DENSE: Pick = Pick { density: 1.0, weights: Weights::F32 };
}

/// How layers are repaired; `--ablate` shows what each part is good for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Method {
    /// How positions are chosen.
    pub mask: Mask,
    /// What is done for what is left.
    pub repair: Repair,
    /// How much of the model's own weights stays in it.
    pub damping: Damping,
    /// How weights are rounded.
    pub rounding: Rounding,
    /// Stages; 1 repairs every layer for the dense model's operands.
    pub stages: usize,
}

impl Default for Method {
    fn default() -> Method {
        Method { mask: Mask::Obs, repair: Repair::Refit, damping: Damping::CrossValidated, rounding: Rounding::Gptq, stages: 4 }
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
    pub ranges: BTreeMap<ValueId, Range>,
    /// SHA-256 of the model file.
    pub sha256: String,
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

/// Channels that are kept or dropped together with this type of weights: what one step of a tile multiplies.
pub fn unit(weights: Weights) -> usize {
    match weights {
        Weights::F32 => 1,
        Weights::Int8 => 4,
    }
}

impl Subject<'_> {
    /// The positions that outputs of a layer share.
    pub fn shape(&self, layer: &Weighted, weights: Weights) -> Shape {
        Shape { group: self.group, unit: unit(weights), channels: layer.channels, taps: layer.taps, whole_channels: false }
    }

    /// Can positions of this layer be dropped?
    pub fn prunable(&self, layer: &Weighted) -> bool {
        layer.groups == 1 && layer.k() >= 8 && layer.n >= 4
    }

    /// Makes the model in which every layer is what `picks` says, computed from the samples that these do not hold out.
    ///
    /// # Errors
    /// When a part of the model has no code, or does not run on the samples.
    pub fn assemble(&self, samples: &Samples, picks: &[Pick], method: Method) -> Result<Assembled> {
        let changed: Vec<usize> = (0..picks.len()).filter(|i| picks[*i] != Pick::DENSE).collect();
        let pruned = |i: &usize| picks[*i].density < 1.0;
        let stages = method.stages.clamp(1, changed.len().max(1));
        let mut made = Assembled { recipe: self.empty(), arrays: Vec::new(), graph: self.graph.clone() };
        for stage in 0..stages {
            let part = &changed[stage * changed.len() / stages..(stage + 1) * changed.len() / stages];
            let fitted: Vec<&Weighted> = part.iter().filter(|i| self.layers[**i].groups == 1).map(|i| &self.layers[*i]).collect();
            self.backend.say(&format!("repairing layers, stage {} of {stages}", stage + 1));
            // Without changes in front, operands are the dense model's.
            let own = if stage == 0 || !changed.iter().any(pruned) {
                None
            } else {
                Some(recipe::apply(&self.graph, &made.recipe, &made.arrays)?)
            };
            let moments = taps::moments(self.backend, (&self.graph, own.as_ref()), &fitted, samples)?;
            let known: BTreeMap<usize, (&Moments, &Moments)> =
                fitted.iter().zip(&moments).map(|(l, (fit, held_out))| (l.node, (fit, held_out))).collect();
            let results: Vec<Treated> = part
                .par_iter()
                .map(|i| self.treat(&self.layers[*i], picks[*i], known.get(&self.layers[*i].node).copied(), method))
                .collect();
            for (i, treated) in part.iter().zip(results) {
                self.keep(&mut made, *i, picks[*i], treated);
            }
        }
        self.keep_ranges(&mut made.recipe, picks);
        made.recipe.arrays = recipe::fingerprint(&made.arrays);
        made.graph = recipe::apply(&self.graph, &made.recipe, &made.arrays)?;
        Ok(made)
    }

    /// What this layer can be of a kind of candidate.
    pub fn possible(&self, layer: &Weighted, pick: Pick) -> Pick {
        let density = if self.prunable(layer) { pick.density } else { 1.0 };
        let weights = if self.ranges.contains_key(&layer.x(&self.graph)) { pick.weights } else { Weights::F32 };
        Pick { density, weights }
    }

    /// The model with these floats as weights, rounded to nearest where `picks` wants integers.
    ///
    /// # Errors
    /// As [`recipe::apply`].
    pub fn plain(&self, picks: &[Pick], matrices: Vec<Matrix>) -> Result<Assembled> {
        let mut made = Assembled { recipe: self.empty(), arrays: Vec::new(), graph: self.graph.clone() };
        for (i, (pick, weights)) in picks.iter().zip(matrices).enumerate().filter(|(_, (pick, _))| **pick != Pick::DENSE) {
            let integers = (pick.weights == Weights::Int8).then(|| round_alone(&weights));
            self.keep(&mut made, i, *pick, Treated { shift: vec![0.0; weights.n], weights, integers, error: 0.0 });
        }
        self.keep_ranges(&mut made.recipe, picks);
        made.recipe.arrays = recipe::fingerprint(&made.arrays);
        made.graph = recipe::apply(&self.graph, &made.recipe, &made.arrays)?;
        Ok(made)
    }

    fn empty(&self) -> Recipe {
        let (model, about) = (self.sha256.clone(), BTreeMap::new());
        Recipe { version: recipe::VERSION, model, arrays: String::new(), about, layers: Vec::new(), activations: Vec::new() }
    }

    /// One layer by itself.
    pub fn treat(&self, layer: &Weighted, pick: Pick, known: Option<(&Moments, &Moments)>, method: Method) -> Treated {
        let matrix = layer.matrix(&self.graph);
        let Some((moments, check)) = known else {
            // Groups of channels: each has its own few inputs, and nothing is dropped.
            let rounded = round_alone(&matrix);
            return Treated { weights: matrix, shift: vec![0.0; layer.n], integers: Some(rounded), error: 0.0 };
        };
        let shape = self.shape(layer, pick.weights);
        let moved = weighted::takes_shift(&self.graph, layer);
        let (moments, check) = (centred(moments, moved), centred(check, moved));
        let (weights, mut shift, kept, mut error) = if pick.density < 1.0 && self.prunable(layer) {
            let Method { mask, repair, damping, .. } = method;
            let all = prune(&matrix, &moments, Some(&check), &shape, &[pick.density], mask, repair, Balance::Free, damping);
            let one = all.into_iter().next().expect("internal: search: one density, one result");
            let error = one.check_error.unwrap_or(one.error);
            (one.weights, one.bias_shift, Some(one.kept), error)
        } else {
            (matrix, vec![0.0; layer.n], None, 0.0)
        };
        let integers = (pick.weights == Weights::Int8).then(|| {
            let grid = Grid { bits: 8, block: None, range: WeightRange::Mse };
            let rounded = round(&weights, &moments, &grid, kept.as_ref().map(|k| (&shape, &k[..])), method.rounding);
            error += rounded.error;
            shift.iter_mut().zip(&rounded.bias_shift).for_each(|(s, r)| *s += r);
            (rounded.values, rounded.scales)
        });
        Treated { weights, shift, integers, error }
    }

    fn keep(&self, made: &mut Assembled, i: usize, pick: Pick, treated: Treated) {
        let (layer, arrays) = (&self.layers[i], format!("layer_{i:04}"));
        let shape = layer.shape(&self.graph);
        let mut add = |what: &str, tensor: Tensor| made.arrays.push((format!("{arrays}.{what}"), tensor));
        match &treated.integers {
            Some((values, scales)) => {
                let (values, scales) = without_dust(values, scales);
                add("weights", Tensor::from_vec(&shape, layer.operand(&values)));
                add("scales", Tensor::from_vec(&[scales.len() as u64], scales));
            }
            None => add("weights", Tensor::from_vec(&shape, layer.operand(&treated.weights.values))),
        }
        if treated.shift.iter().any(|x| *x != 0.0) {
            add("shift", Tensor::from_vec(&[treated.shift.len() as u64], treated.shift.clone()));
        }
        let unit = unit(pick.weights);
        let (name, error) = (layer.name.clone(), rounded(treated.error));
        let group = self.group.min(layer.n);
        made.recipe.layers.push(Layer { name, weights: pick.weights, density: pick.density, group, unit, error, arrays });
    }

    /// What 8-bit layers multiply becomes integers.
    fn keep_ranges(&self, recipe: &mut Recipe, picks: &[Pick]) {
        let mut ids: Vec<ValueId> = Vec::new();
        for (layer, pick) in self.layers.iter().zip(picks) {
            if pick.weights == Weights::Int8 {
                ids.push(layer.x(&self.graph));
            }
        }
        ids.sort_unstable();
        ids.dedup();
        let known = ids.into_iter().filter_map(|id| Some((id, self.ranges.get(&id)?)));
        let activation =
            |(id, r): (ValueId, &Range)| Activation { value: self.graph.value(id).name.clone(), scale: r.scale, zero: r.zero };
        recipe.activations = known.map(activation).collect();
    }
}

/// A layer as it becomes.
pub struct Treated {
    /// Floats.
    pub weights: Matrix,
    /// Added to the bias.
    pub shift: Vec<f32>,
    /// Integers and their scales, if it gets any.
    pub integers: Option<(Vec<i8>, Vec<f32>)>,
    /// Relative error of the result.
    pub error: f64,
}

/// Moments for a layer that can be shifted, or without sums for one that cannot.
fn centred(moments: &Moments, moved: bool) -> Moments {
    let mut moments = moments.clone();
    if !moved {
        moments.sum.fill(0.0);
        moments.dense_sum.fill(0.0);
    }
    moments
}

/// Scales below this one are of outputs that training has switched off: products with them would be subnormal, which not every target computes with.
const DUST: f32 = 1e-20;

/// Integers whose scales are not far below all else: what they stand for is zero.
fn without_dust(values: &[i8], scales: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let (mut values, mut scales) = (values.to_vec(), scales.to_vec());
    let k = values.len() / scales.len().max(1);
    for (row, scale) in values.chunks_mut(k.max(1)).zip(&mut scales).filter(|(_, scale)| **scale <= DUST || scale.is_nan()) {
        row.fill(0);
        *scale = 1.0;
    }
    (values, scales)
}

/// Nearest integers with the least squared error of each output's weights by themselves.
fn round_alone(matrix: &Matrix) -> (Vec<i8>, Vec<f32>) {
    let (mut values, mut scales) = (Vec::with_capacity(matrix.values.len()), Vec::with_capacity(matrix.n));
    for row in matrix.values.chunks(matrix.k.max(1)) {
        let most = row.iter().fold(0f32, |m, x| m.max(x.abs()));
        let quantized = |x: f32, scale: f32| (x / scale).round().clamp(-127.0, 127.0);
        let error = |scale: f32| row.iter().map(|x| (x - quantized(*x, scale) * scale).powi(2)).sum::<f32>();
        let scales_tried = (0..20).map(|i| most / 127.0 * (1.0 - 0.02 * i as f32)).filter(|s| *s > 0.0);
        let scale = scales_tried.min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap_or(1.0);
        values.extend(row.iter().map(|x| quantized(*x, scale) as i8));
        scales.push(scale);
    }
    (values, scales)
}

/// Three digits: what people read.
pub fn rounded(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let scale = 10f64.powi(2 - x.abs().log10().floor() as i32);
    (x * scale).round() / scale
}
