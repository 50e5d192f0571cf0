//! Kinds of candidates: what a layer can become.
//!
//! A kind is a form ([`Form`]: what takes the place of the layer's matrix) with a density (the share of it that is left), and numbers
//! ([`Numbers`]: what weights are): a lossy rule of the e-graph that choices are extracted from ([`crate::choose`]). Each form and each type of numbers is
//! a file of this folder and a line in [`FORMS`] or [`NUMBERS`]. The loop, prices, assembly and recipes know none of them by name.

use std::fmt;

use onnxc_ir::graph::Node;
use onnxc_ir::op::OpSet;
use onnxc_ir::{DType, Graph, Tensor};
use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_passes::compress::{self, Grid, Matrix, Moments, Shape};
use serde::{Deserialize, Serialize};

use crate::assemble::{Method, Subject};
use crate::recipe::{Arrays, Layer, Weights};
use crate::search::Goal;
use crate::streams::Orders;
use crate::work::Store;
use part::Part;

mod byte;
mod bytes;
pub(crate) mod channels;
mod coarse;
mod connected;
mod dynamic;
mod float;
mod int16;
mod int8;
mod nibble;
mod part;
mod pruned;
mod split;
mod whole;

/// What can take the place of a layer's matrix; the first one is the matrix.
pub static FORMS: &[&dyn Form] = &[
    &whole::Whole,
    &channels::Channels,
    &coarse::Coarse,
    &pruned::PANELS,
    &pruned::HALVES,
    &connected::KERNELS,
    &split::LOW_RANK,
    &split::NARROW,
    &split::TUCKER,
    &split::SEPARATED,
];

/// What weights can be; the first one is what the model has.
pub static NUMBERS: &[&dyn Numbers] = &[
    &float::Float,
    &int8::ALL,
    &int8::PAIRED,
    &int8::PAIRED_2,
    &int8::PAIRED_4,
    &int16::Words,
    &byte::Byte,
    &nibble::Nibble,
    &dynamic::Dynamic,
];

/// What a layer becomes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pick {
    /// What takes the place of its matrix.
    pub form: &'static dyn Form,
    /// The share of the matrix that is left, in what the form counts; 1 for all.
    pub density: f64,
    /// Type of weights and of what they multiply.
    pub weights: Weights,
}

impl Pick {
    /// The layer as it is.
    pub const DENSE: Pick = Pick { form: &whole::Whole, density: 1.0, weights: Weights::F32 };

    /// The share of their prices that a layer leaves to those before if it becomes this.
    pub fn left(&self, subject: &Subject, layer: usize) -> f64 {
        self.form.left(subject, &subject.layers[layer], self.density)
    }

    /// The whole matrix with this type of weights.
    pub fn whole(weights: Weights) -> Pick {
        Pick { weights, ..Pick::DENSE }
    }
}

/// The kinds of candidates that a search has; the first one is the layer as it is.
pub fn kinds(goal: &Goal) -> Vec<Pick> {
    let of_numbers = |numbers: &&'static dyn Numbers| {
        let weights = numbers.weights();
        let forms = FORMS.iter().filter(|f| f.wanted(goal) && f.takes(*numbers) && f.suits(*numbers, goal));
        forms.flat_map(move |form| form.densities().iter().map(move |density| Pick { form: *form, density: *density, weights }))
    };
    NUMBERS.iter().filter(|n| n.wanted(goal)).flat_map(of_numbers).collect()
}

/// The largest weight of each type of integers that a search has for weights and what they multiply.
pub fn largest(goal: &Goal) -> Vec<f64> {
    NUMBERS.iter().filter(|n| n.wanted(goal)).filter_map(|n| n.largest()).collect()
}

/// A layer that is to become something with weights of a type.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The model and what is known of it.
    pub subject: &'a Subject<'a>,
    /// The layer.
    pub layer: &'a Weighted,
    /// What weights will be.
    pub numbers: &'static dyn Numbers,
    /// The order in which its channels go, if other layers read them too ([`Weighted::together`]).
    pub order: Option<&'a [u32]>,
    /// The layer of which it is some outputs, if others are not computed, and which.
    pub some_of: Option<(&'a Weighted, &'a [u32])>,
}

impl<'a> Site<'a> {
    /// The same where the channels that are read go in an order that several layers share.
    #[must_use]
    pub fn in_order(self, orders: &'a Orders) -> Site<'a> {
        Site { order: orders.get(&self.layer.node).map(|order| &order[..]), ..self }
    }

    /// The weights of the layer as it is.
    pub fn matrix(&self) -> Matrix {
        let Some((whole, outputs)) = self.some_of else { return self.layer.matrix(&self.subject.graph) };
        let Matrix { k, values, .. } = whole.matrix(&self.subject.graph);
        let values = outputs.iter().flat_map(|n| values[*n as usize * k..][..k].to_vec()).collect();
        Matrix { n: outputs.len(), k, values }
    }

    /// What the channels of the operand are multiplied by before it becomes integers, if it does and they are.
    pub fn factors(&self) -> Option<Vec<f32>> {
        let x = self.layer.x(&self.subject.graph);
        self.subject.equalised.get(&x).filter(|_| self.numbers.integers()).cloned()
    }

    /// Weights of the whole matrix.
    fn part<'b>(&self, weights: &'b Matrix) -> Part<'b>
    where
        'a: 'b,
    {
        Part { layer: self.layer, weights, factors: self.factors(), numbers: self.numbers }
    }

    /// The whole matrix with these weights, each type rounding them by themselves.
    pub fn rough(&self, weights: &Matrix) -> Treated {
        self.probed(&Probe { error: 0.0, weights: weights.clone(), shift: vec![0.0; weights.n] })
    }

    /// The whole matrix with weights of which the effect on the answers is to be measured.
    pub fn probed(&self, probe: &Probe) -> Treated {
        Treated::single(self.part(&probe.weights).rough(), &probe.shift, probe.error, 1.0)
    }

    /// Which positions of the weights are kept or dropped together.
    pub fn shape(&self) -> Shape {
        let (group, unit) = (self.subject.group, self.numbers.unit());
        Shape { group, unit, channels: self.layer.channels, taps: self.layer.taps, whole_channels: false }
    }
}

/// What can take the place of a layer's matrix.
pub trait Form: Sync {
    /// Its name, in recipes too.
    fn name(&self) -> &'static str;

    /// May the search use it?
    fn wanted(&self, goal: &Goal) -> bool;

    /// The shares that are tried.
    fn densities(&self) -> &'static [f64];

    /// The share of its multiplications that a density leaves.
    fn multiplied(&self, density: f64) -> f64 {
        density
    }

    /// Can its weights be these numbers? What it makes new values for has bytes for these, of ranges that are known.
    fn takes(&self, numbers: &dyn Numbers) -> bool {
        !numbers.words() && !numbers.dynamic()
    }

    /// Is it worth a try with these numbers? Integers beside operands of floats are small, but hardly fast among a part of the positions.
    fn suits(&self, numbers: &dyn Numbers, _: &Goal) -> bool {
        numbers.integers() || numbers.weights() == Weights::F32
    }

    /// Does it leave out channels, so that layers before need not compute them? Layers that read the same channels are of it together.
    fn reads_less(&self) -> bool {
        false
    }

    /// Layers, one behind the other, that it makes of one.
    fn parts(&self) -> usize {
        1
    }

    /// Can this layer be of it?
    fn fits(&self, layer: &Weighted) -> bool;

    /// The share of their channels that a layer of it leaves to those before ([`Weighted::before`]).
    fn left(&self, _: &Subject, _: &Weighted, _density: f64) -> f64 {
        1.0
    }

    /// Do the filters of a panel share something, so that it is lost when other filters come between them?
    fn by_panels(&self) -> bool {
        false
    }

    /// Filters that share positions.
    fn group(&self, subject: &Subject) -> usize {
        subject.group
    }

    /// The form whose errors do to the answers what those of this one do.
    fn alike(&self) -> &'static str {
        self.name()
    }

    /// Does [`Form::curve`] depend on what weights are?
    fn by_numbers(&self) -> bool {
        true
    }

    /// The errors of the layer's result at all densities, before weights are rounded; `None` for a form that changes nothing. `known` are moments to fit to
    /// and moments held out.
    fn curve(&self, site: &Site, known: (&Moments, &Moments), method: Method) -> Option<Curve>;

    /// The layer at a density, fitted to moments; the second ones are held out.
    fn fitted(&self, site: &Site, density: f64, known: (&Moments, &Moments), method: Method) -> Treated;

    /// The layer at a density by its weights alone: what takes as long and as many bytes as the fitted one.
    fn rough(&self, site: &Site, density: f64) -> Treated;

    /// Bytes that weights take: what is kept, its offsets.
    fn bytes(&self, site: &Site, density: f64) -> f64;

    /// Makes the layer in a graph what a recipe says. Its node stays the one with its result; nodes that come before it are put behind all others. Nodes that
    /// need constants only are returned: they belong in front of all others.
    ///
    /// # Errors
    /// When arrays are missing or do not fit.
    fn apply(&self, cx: &mut Applied, found: &Weighted, layer: &Layer) -> Result<Vec<Node>, String>;
}

impl PartialEq for dyn Form {
    fn eq(&self, other: &dyn Form) -> bool {
        self.name() == other.name()
    }
}

impl fmt::Debug for dyn Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The form that a recipe names.
pub fn form(name: &str) -> Option<&'static dyn Form> {
    FORMS.iter().copied().find(|f| f.name() == name)
}

/// What the weights of a layer can be.
pub trait Numbers: Sync {
    /// What recipes call them.
    fn weights(&self) -> Weights;

    /// May the search use them?
    fn wanted(&self, goal: &Goal) -> bool;

    /// Can this layer have them?
    fn fits(&self, layer: &Weighted) -> bool;

    /// Is what weights multiply made integers too, of a range that is known when compiling?
    fn integers(&self) -> bool;

    /// Is it, of a range that is found at run time?
    fn dynamic(&self) -> bool {
        false
    }

    /// Are both 16 bits wide?
    fn words(&self) -> bool {
        false
    }

    /// The largest weight, of integers of 8 bits that multiply such integers.
    fn largest(&self) -> Option<f64> {
        None
    }

    /// The integers that weights become, if any of a range are.
    fn grid(&self, _: &Weighted) -> Option<Grid> {
        None
    }

    /// Channels that are kept or dropped together: what one step of a tile multiplies.
    fn unit(&self) -> usize;

    /// Bytes of a weight.
    fn bytes(&self) -> f64;

    /// Weights of a layer, or of a part of one, such that its result changes least. `kept` are the positions that a mask has left to each group.
    fn fitted(
        &self,
        layer: &Weighted,
        weights: &Matrix,
        moments: (&Moments, Option<&Moments>),
        kept: Option<(&Shape, &[Vec<u32>])>,
        method: Method,
    ) -> Coded;

    /// The same without moments.
    fn rough(&self, layer: &Weighted, weights: &Matrix) -> Coded;

    /// Gives a layer of a graph these weights. A node that makes floats of them is returned: it belongs in front of all others.
    ///
    /// # Errors
    /// The array that is missing or does not fit.
    fn put(&self, cx: &mut Applied, layer: &Weighted, name: &str) -> Result<Option<Node>, String>;
}

/// The numbers of a type.
pub fn numbers(weights: Weights) -> &'static dyn Numbers {
    NUMBERS.iter().copied().find(|n| n.weights() == weights).expect("internal: search: numbers of all types are in the list")
}

/// Weights in the form in which arrays keep them.
pub struct Coded {
    /// By what they are, as operands have them: `weights`, `scales`.
    pub arrays: Vec<(&'static str, Tensor)>,
    /// Added to the bias.
    pub shift: Vec<f32>,
    /// Relative error of the result against that of the weights given.
    pub error: f64,
}

/// A layer as it becomes.
pub struct Treated {
    /// By what they are; the name of the layer's arrays and a dot come before it.
    pub arrays: Vec<(String, Tensor)>,
    /// Relative error of the result.
    pub error: f64,
    /// The share of the matrix that is left, in what the form counts.
    pub density: f64,
    /// Channels between the layers that it becomes, if it becomes more than one.
    pub ranks: Vec<usize>,
}

/// What is kept of a layer beside its arrays.
#[derive(Serialize, Deserialize)]
struct Facts {
    error: Option<f64>,
    density: f64,
    ranks: Vec<usize>,
}

impl Treated {
    /// A layer from the store.
    pub fn kept(store: &dyn Store, key: &str) -> Option<Treated> {
        let Facts { error, density, ranks } = serde_json::from_slice(&store.get(key)?).ok()?;
        // JSON has no infinity.
        Some(Treated { arrays: store.get_arrays(key)?, error: error.unwrap_or(f64::INFINITY), density, ranks })
    }

    /// Keeps a layer in the store.
    pub fn keep(&self, store: &dyn Store, key: &str) {
        let facts =
            Facts { error: self.error.is_finite().then_some(self.error), density: self.density, ranks: self.ranks.clone() };
        store.put_arrays(key, &self.arrays);
        if let Ok(bytes) = serde_json::to_vec(&facts) {
            store.put(key, &bytes);
        }
    }

    /// Some outputs of a layer that stays one matrix, with zeros for all others.
    fn among(self, whole: &Weighted, outputs: &[u32]) -> Treated {
        let spread = |(what, tensor): (String, Tensor)| match &what[..] {
            "weights" => (what, among(&tensor, whole.axis(), whole.n, outputs)),
            // Zeros of any scale.
            "scales" => {
                let mut scales = vec![1f32; whole.n];
                outputs.iter().zip(tensor.to_vec::<f32>()).for_each(|(n, scale)| scales[*n as usize] = scale);
                (what, Tensor::from_vec(&[whole.n as u64], scales))
            }
            _ => (what, among(&tensor, 0, whole.n, outputs)),
        };
        Treated { arrays: self.arrays.into_iter().map(spread).collect(), ..self }
    }

    /// A layer that is still one matrix: its weights, and what is added to its bias before they are rounded.
    fn single(coded: Coded, shift: &[f32], error: f64, density: f64) -> Treated {
        let shift: Vec<f32> = shift.iter().zip(&coded.shift).map(|(a, b)| a + b).collect();
        let mut arrays: Vec<(String, Tensor)> = coded.arrays.into_iter().map(|(what, t)| (what.to_string(), t)).collect();
        if shift.iter().any(|x| *x != 0.0) {
            arrays.push(("shift".to_string(), Tensor::from_vec(&[shift.len() as u64], shift)));
        }
        Treated { arrays, error: error + coded.error, density, ranks: Vec::new() }
    }
}

/// A tensor with so many places along a dimension, of which these have what another tensor has, and the others zeros.
fn among(some: &Tensor, axis: usize, all: usize, places: &[u32]) -> Tensor {
    let mut shape = some.shape().to_vec();
    let inner = shape[axis + 1..].iter().product::<u64>() as usize * some.dtype().bytes() as usize;
    shape[axis] = all as u64;
    let mut bytes = vec![0; shape.iter().product::<u64>() as usize * some.dtype().bytes() as usize];
    let rows = some.bytes().chunks_exact((places.len() * inner).max(1));
    for (to, from) in bytes.chunks_exact_mut((all * inner).max(1)).zip(rows) {
        for (place, from) in places.iter().zip(from.chunks_exact(inner.max(1))) {
            to[*place as usize * inner..][..inner].copy_from_slice(from);
        }
    }
    Tensor::from_bytes(some.dtype(), shape, onnxc_ir::tensor::Bytes::new(bytes)).expect("internal: search: bytes of a shape")
}

/// Errors of a layer in one form.
pub struct Curve {
    /// Densities with their relative errors.
    pub errors: Vec<(f64, f64)>,
    /// A usual error, a smaller one for layers for which that is too much, and the largest one.
    pub probes: [Probe; 3],
}

/// Weights whose effect on the answers can be measured.
pub struct Probe {
    /// The relative error that they make.
    pub error: f64,
    /// The whole matrix.
    pub weights: Matrix,
    /// Added to the bias: without it a constant would count that no model of the search has in its answers.
    pub shift: Vec<f32>,
}

impl Probe {
    /// Of a layer at one density.
    fn of(pruned: &compress::Pruned) -> Probe {
        let error = pruned.check_error.unwrap_or(pruned.error);
        Probe { error, weights: pruned.weights.clone(), shift: pruned.bias_shift.clone() }
    }
}

impl Curve {
    /// Is a curve of the first kind one of the second?
    pub fn serves(of: &Pick, kind: &Pick) -> bool {
        let same_units = || numbers(of.weights).unit() == numbers(kind.weights).unit();
        of.form == kind.form && (same_units() || !kind.form.by_numbers())
    }

    /// The relative error at a density.
    pub fn at(&self, density: f64) -> f64 {
        self.errors.iter().find(|e| e.0 == density).map_or(f64::INFINITY, |e| e.1)
    }
}

/// One layer by itself, fitted to moments and moments held out; without them (groups of channels, of which each has its own few inputs) its numbers alone
/// change.
pub fn treat(site: &Site, pick: Pick, known: Option<(&Moments, &Moments)>, method: Method) -> Treated {
    let Some((moments, check)) = known else {
        return whole::Whole.rough(site, 1.0);
    };
    let moved = weighted::takes_shift(&site.subject.graph, site.some_of.map_or(site.layer, |(whole, _)| whole));
    pick.form.fitted(site, pick.density, (&centred(moments, moved), &centred(check, moved)), method)
}

/// The same where only some of its outputs are computed, if these are given: panels of filters are made of them.
pub fn treat_some(
    site: &Site,
    pick: Pick,
    outputs: Option<&[u32]>,
    known: Option<(&Moments, &Moments)>,
    method: Method,
) -> Treated {
    let Some(outputs) = outputs.filter(|_| pick.form.by_panels() && known.is_some()) else {
        return treat(site, pick, known, method);
    };
    let less = site.layer.with_outputs(outputs.len());
    treat(&Site { layer: &less, some_of: Some((site.layer, outputs)), ..*site }, pick, known, method).among(site.layer, outputs)
}

/// The errors of a layer in a form, from moments and moments held out.
pub fn curve(site: &Site, form: &dyn Form, (moments, check): (&Moments, &Moments), method: Method) -> Option<Curve> {
    let moved = weighted::takes_shift(&site.subject.graph, site.layer);
    form.curve(site, (&centred(moments, moved), &centred(check, moved)), method)
}

/// Moments for a layer that can be shifted, or without sums for one that cannot.
pub(crate) fn centred(moments: &Moments, moved: bool) -> Moments {
    let mut moments = moments.clone();
    if !moved {
        moments.sum.fill(0.0);
        moments.dense_sum.fill(0.0);
    }
    moments
}

/// A graph that a recipe changes, and the arrays of the recipe.
pub struct Applied<'a> {
    /// The graph.
    pub graph: &'a mut Graph,
    /// The operators.
    pub ops: OpSet,
    /// The arrays.
    pub arrays: &'a Arrays,
}

impl Applied<'_> {
    /// The array `NAME.WHAT` with elements of a type.
    ///
    /// # Errors
    /// When it is not there.
    pub fn array(&self, name: &str, what: &str, dtype: DType, shape: &[u64]) -> Result<Tensor, String> {
        let found = self.arrays.iter().find(|a| a.0 == format!("{name}.{what}")).map(|a| &a.1);
        let fits = |t: &&Tensor| t.dtype() == dtype && t.shape() == shape;
        found.filter(fits).cloned().ok_or_else(|| format!("the array {name}.{what} is missing or has another type or shape"))
    }

    /// Gives a layer that stays one matrix its weights and its shift.
    fn single(&mut self, found: &Weighted, layer: &Layer) -> Result<Vec<Node>, String> {
        self.shift(found, layer)?;
        Ok(numbers(layer.weights).put(self, found, &layer.arrays)?.into_iter().collect())
    }

    /// Adds to the bias of a layer what a recipe says.
    fn shift(&mut self, found: &Weighted, layer: &Layer) -> Result<(), String> {
        let shift = format!("{}.shift", layer.arrays);
        if self.arrays.iter().any(|a| a.0 == shift) {
            let shift = self.array(&layer.arrays, "shift", DType::F32, &[found.n as u64])?.to_vec::<f32>();
            weighted::shift(self.graph, found, &shift);
        }
        Ok(())
    }
}
