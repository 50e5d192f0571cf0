//! What each candidate of each layer takes on the target.
//!
//! The compiler is asked for whole models in which every layer is the same kind of candidate, and its prediction of each step goes to the layers whose ONNX
//! nodes the step does the work of. So fusion, layout and integer regions are priced as they will be, and there are as many compilations as kinds, not as
//! layers times kinds.

use std::collections::HashMap;

use onnxc_codegen::coded_bytes;
use onnxc_ir::Graph;
use onnxc_passes::compress::weighted::Weighted;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::assemble::Subject;
use crate::candidate::{self, Form, Pick, Treated};
use crate::{Cost, Recipe, Result, Taken, coded, recipe};

/// What the user wants least of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Objective {
    /// Time of an inference.
    Latency,
    /// Bytes of weights.
    Size,
    /// Bytes of the arena.
    Ram,
    /// Energy of an inference.
    Energy,
    /// Multiplications of the layers, whatever their numbers are and by which algorithm.
    Macs,
}

impl Objective {
    /// All of them, in the order in which candidates state what they take.
    pub const ALL: [Objective; 5] = [Objective::Latency, Objective::Size, Objective::Ram, Objective::Energy, Objective::Macs];
}

impl Taken {
    /// What an objective counts: seconds, bytes, joules or multiplications.
    pub fn of(&self, objective: Objective) -> f64 {
        match objective {
            Objective::Latency => self.seconds,
            Objective::Size => self.weight_bytes as f64,
            Objective::Ram => self.arena_bytes as f64,
            Objective::Energy => self.joules,
            Objective::Macs => self.macs as f64,
        }
    }
}

/// Prices of all layers in seconds, bytes, joules or multiplications.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    /// For each layer and each kind.
    pub of: Vec<Vec<f64>>,
    /// What does not depend on the choice.
    pub rest: f64,
}

/// What every kind of every layer takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Prices {
    latency: Table,
    size: Table,
    /// Bytes of the arena that are in use while a layer runs: the most of them counts, not their sum.
    ram: Table,
    energy: Table,
    macs: Table,
    /// For each layer the one that reads its channels alone.
    #[serde(skip)]
    behind: Vec<Option<usize>>,
    /// For each layer and each kind, the share of their prices that it leaves to the layers before.
    #[serde(skip)]
    left: Vec<Vec<f64>>,
}

impl Prices {
    /// The same, knowing which layers these kinds of candidates make cheaper.
    #[must_use]
    pub fn linked(self, subject: &Subject, picks: &[Pick]) -> Prices {
        let left =
            |layer: usize| picks.iter().map(|p| subject.possible(&subject.layers[layer], *p).left(subject, layer)).collect();
        self.with_links(behind(&subject.layers), (0..subject.layers.len()).map(left).collect())
    }

    /// The same with these layers behind, and shares that kinds of each layer leave.
    pub(crate) fn with_links(self, behind: Vec<Option<usize>>, left: Vec<Vec<f64>>) -> Prices {
        Prices { behind, left, ..self }
    }

    /// For each layer the one that reads its channels alone.
    pub fn behind(&self) -> &[Option<usize>] {
        &self.behind
    }

    /// The share of their prices that a kind of a layer leaves to the layers before.
    pub fn left(&self, layer: usize, kind: usize) -> f64 {
        self.left[layer][kind]
    }

    /// The share of a layer's price that is left by the layer that reads its channels.
    pub fn share(&self, picks: &[usize], layer: usize) -> f64 {
        self.behind[layer].map_or(1.0, |above| self.left[above][picks[above]])
    }

    /// Those that an objective counts.
    pub fn table(&self, objective: Objective) -> &Table {
        match objective {
            Objective::Latency => &self.latency,
            Objective::Size => &self.size,
            Objective::Ram => &self.ram,
            Objective::Energy => &self.energy,
            Objective::Macs => &self.macs,
        }
    }

    /// What a layer takes in a kind when a share of it is computed, by [`Objective::ALL`]. Memory is that of the whole.
    pub fn takes(&self, layer: usize, kind: usize, share: f64) -> Box<[f64]> {
        let of = |of: &Objective| self.table(*of).of[layer][kind] * if *of == Objective::Ram { 1.0 } else { share };
        Objective::ALL.iter().map(of).collect()
    }

    /// What a choice of kinds takes of an objective: the sum of the layers' prices, of memory the most.
    pub fn total(&self, objective: Objective, picks: &[usize]) -> f64 {
        let table = self.table(objective);
        let of = |n: usize| table.of[n][picks[n]];
        match objective {
            Objective::Ram => (0..picks.len()).map(of).fold(table.rest, f64::max),
            _ => table.rest + (0..picks.len()).map(|n| of(n) * self.share(picks, n)).sum::<f64>(),
        }
    }
}

/// Prices of these kinds of candidates, of which the first one leaves layers as they are. Where it `is_coded`, what is
/// stored takes the bytes that its entropy leaves.
///
/// # Errors
/// When a model has no code for the target.
pub fn prices(subject: &Subject, picks: &[Pick], is_coded: bool) -> Result<Prices> {
    let mut prices = Prices::default();
    let behind = behind(&subject.layers);
    for (n, pick) in picks.iter().enumerate() {
        subject.backend.count("pricing candidates", n, picks.len());
        let layers: Vec<Pick> = subject.layers.iter().map(|l| subject.possible(l, *pick)).collect();
        let made = rough(subject, &layers);
        let bytes_of = |n: usize| {
            let (layer, pick) = (&subject.layers[n], layers[n]);
            if is_coded {
                coded::bytes(subject, layer, pick, made[n].as_ref().map(|m| &m.1))
            } else {
                bytes(subject, layer, pick)
            }
        };
        let bytes: Vec<f64> = (0..layers.len()).into_par_iter().map(bytes_of).collect();
        let cost = subject.backend.cost(&subject.with(made)?.graph)?;
        // Layers get the price that they have where all that they compute is read.
        let given: Vec<f64> = behind.iter().map(|above| above.map_or(1.0, |above| layers[above].left(subject, above))).collect();
        let full = |(prices, rest): (Vec<f64>, f64)| (prices.iter().zip(&given).map(|(p, share)| p / share).collect(), rest);
        let (seconds, rest) = full(shares(&subject.layers, cost.steps.iter().map(|s| (&s.origins[..], s.seconds))));
        prices.latency.add(seconds, rest, n == 0);
        let (joules, rest) = full(shares(&subject.layers, cost.steps.iter().map(|s| (&s.origins[..], s.joules))));
        prices.energy.add(joules, rest, n == 0);
        let (live, rest) = most(&subject.layers, &cost);
        prices.ram.add(live, rest, n == 0);
        let (bytes, rest) = stored((bytes, other_bytes(subject, is_coded)), &given, cost.taken.weight_bytes);
        prices.size.add(bytes, rest, n == 0);
        let macs = |(layer, pick): (&Weighted, &Pick)| layer.macs() as f64 * pick.form.multiplied(pick.density);
        prices.macs.add(subject.layers.iter().zip(&layers).map(macs).collect(), 0.0, n == 0);
    }
    subject.backend.count("pricing candidates", picks.len(), picks.len());
    Ok(prices)
}

/// For each layer the one that reads its channels alone, so that it need not compute those which that one does not read.
pub fn behind(layers: &[Weighted]) -> Vec<Option<usize>> {
    layers.iter().map(|l| layers.iter().position(|other| other.before.contains(&l.node))).collect()
}

impl Table {
    fn add(&mut self, each: Vec<f64>, rest: f64, first: bool) {
        if first {
            (self.of, self.rest) = (vec![Vec::new(); each.len()], rest);
        }
        self.of.iter_mut().zip(each).for_each(|(of, price)| of.push(price));
    }
}

/// The bytes of layers and of what belongs to none, so that they are as many as a model takes in which the layers are `given` these shares of them: packing
/// fills gaps, transforms make weights larger, and coding makes them smaller.
fn stored((bytes, rest): (Vec<f64>, f64), given: &[f64], taken: u64) -> (Vec<f64>, f64) {
    let all: f64 = rest + bytes.iter().zip(given).map(|(bytes, share)| bytes * share).sum::<f64>();
    let ratio = if all > 0.0 { taken as f64 / all } else { 1.0 };
    (bytes.into_iter().map(|bytes| ratio * bytes).collect(), ratio * rest)
}

/// Bytes of constants that belong to no layer.
fn other_bytes(subject: &Subject, is_coded: bool) -> f64 {
    let graph = &subject.graph;
    let own: Vec<_> = subject.layers.iter().map(|l| l.weights(graph)).collect();
    let mut read: Vec<_> = graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten().copied()).collect();
    read.sort_unstable();
    read.dedup();
    let others = read.into_iter().filter(|id| !own.contains(id)).filter_map(|id| graph.constant(id));
    others.map(|t| if is_coded { coded_bytes(t.bytes()) as f64 } else { t.bytes().len() as f64 }).sum()
}

/// Bytes that the weights of a layer take.
fn bytes(subject: &Subject, layer: &Weighted, pick: Pick) -> f64 {
    pick.form.bytes(&subject.site(layer, pick.weights), pick.density)
}

/// The layers that own ONNX nodes.
fn owners(layers: &[Weighted]) -> HashMap<&str, usize> {
    let mut owner: HashMap<&str, usize> = HashMap::new();
    for (i, layer) in layers.iter().enumerate() {
        for name in layer.name.split(' ') {
            owner.entry(name).or_insert(i);
        }
    }
    owner
}

/// The layers that a step does the work of.
fn owners_of(owner: &HashMap<&str, usize>, origins: &[String]) -> Vec<usize> {
    let mut owners: Vec<usize> = origins.iter().filter_map(|o| owner.get(o.as_str()).copied()).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// The share of each layer in what steps take, and what belongs to none.
fn shares<'s>(layers: &[Weighted], steps: impl Iterator<Item = (&'s [String], f64)>) -> (Vec<f64>, f64) {
    let owner = owners(layers);
    let (mut each, mut rest) = (vec![0.0; layers.len()], 0.0);
    for (origins, price) in steps {
        // A step that does several layers' work (a chain of convolutions) costs each of them by its multiplications.
        let owners = owners_of(&owner, origins);
        let all: u64 = owners.iter().map(|i| layers[*i].macs()).sum();
        owners.iter().for_each(|i| each[*i] += price * layers[*i].macs() as f64 / all.max(1) as f64);
        if owners.is_empty() {
            rest += price;
        }
    }
    (each, rest)
}

/// The most bytes that are in use while each layer runs, and while nothing of a layer does.
fn most(layers: &[Weighted], cost: &Cost) -> (Vec<f64>, f64) {
    let owner = owners(layers);
    let (mut each, mut rest) = (vec![0.0f64; layers.len()], 0.0f64);
    for step in &cost.steps {
        let (live, owners) = (step.live_bytes as f64, owners_of(&owner, &step.origins));
        owners.iter().for_each(|i| each[*i] = each[*i].max(live));
        if owners.is_empty() {
            rest = rest.max(live);
        }
    }
    (each, rest)
}

/// A model that takes as long and as many bytes as the one that these picks make, whatever its weights are then.
///
/// # Errors
/// As [`crate::recipe::apply`].
pub fn sketch(subject: &Subject, picks: &[Pick]) -> Result<Graph> {
    Ok(subject.with(rough(subject, picks))?.graph)
}

/// What layers become by their weights alone, if they change.
fn rough(subject: &Subject, picks: &[Pick]) -> Vec<Option<(Pick, Treated)>> {
    let rough = |(layer, pick): (&Weighted, &Pick)| {
        (*pick != Pick::DENSE).then(|| (*pick, pick.form.rough(&subject.site(layer, pick.weights), pick.density)))
    };
    subject.layers.par_iter().zip(picks).map(rough).collect()
}

/// Multiplications that a recipe leaves of all layers'.
pub fn macs(subject: &Subject, recipe: &Recipe) -> f64 {
    let stated: HashMap<&str, &recipe::Layer> = recipe.layers.iter().map(|l| (l.name.as_str(), l)).collect();
    let stated =
        |n: usize| stated.get(subject.layers[n].name.as_str()).and_then(|s| Some((candidate::form(&s.form)?, s.density)));
    left(subject, stated)
}

/// Multiplications that these picks leave of all layers'.
pub fn macs_of(subject: &Subject, picks: &[Pick]) -> f64 {
    left(subject, |n| Some((picks[n].form, picks[n].density)))
}

/// Multiplications of layers that have these forms and densities.
fn left(subject: &Subject, of: impl Fn(usize) -> Option<(&'static dyn Form, f64)>) -> f64 {
    let layers = &subject.layers;
    let behind = behind(layers);
    let before = |above: usize| of(above).map_or(1.0, |(form, density)| form.left(subject, &layers[above], density));
    let own = |(n, l): (usize, &Weighted)| {
        let multiplied = of(n).map_or(1.0, |(form, density)| form.multiplied(density));
        l.macs() as f64 * multiplied * behind[n].map_or(1.0, before)
    };
    layers.iter().enumerate().map(own).sum()
}
