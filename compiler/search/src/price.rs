//! What each candidate of each layer takes on the target.
//!
//! The compiler is asked for whole models in which every layer is the same kind of candidate, and its prediction of each step goes to the layers whose ONNX
//! nodes the step does the work of. So fusion, layout and integer regions are priced as they will be, and there are as many compilations as kinds, not as
//! layers times kinds.

use std::collections::HashMap;

use onnxc_ir::Graph;
use onnxc_passes::compress::weighted::Weighted;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::assemble::Subject;
use crate::candidate::Pick;
use crate::{Cost, Result};

/// What the user wants least of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Objective {
    /// Time of an inference.
    Latency,
    /// Bytes of weights.
    Size,
}

/// Prices of all layers: `[layer][pick]`, in seconds or bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prices {
    /// For each layer and each kind.
    pub of: Vec<Vec<f64>>,
    /// What does not depend on the choice.
    pub rest: f64,
}

/// Prices of these kinds of candidates.
///
/// # Errors
/// When a model has no code for the target.
pub fn prices(subject: &Subject, picks: &[Pick], objective: Objective) -> Result<Prices> {
    let mut prices = Prices { of: vec![Vec::new(); subject.layers.len()], rest: 0.0 };
    for (n, pick) in picks.iter().enumerate() {
        subject.backend.say(&format!("pricing candidates, {} of {}", n + 1, picks.len()));
        let each: Vec<f64> = match objective {
            Objective::Size => subject.layers.iter().map(|l| bytes(subject, l, *pick)).collect(),
            Objective::Latency => {
                let graph = uniform(subject, *pick)?;
                let (each, rest) = seconds(&subject.layers, &subject.backend.cost(&graph)?);
                if n == 0 {
                    prices.rest = rest;
                }
                each
            }
        };
        prices.of.iter_mut().zip(each).for_each(|(of, price)| of.push(price));
    }
    Ok(prices)
}

/// Bytes that the weights of a layer take.
fn bytes(subject: &Subject, layer: &Weighted, pick: Pick) -> f64 {
    let possible = subject.possible(layer, pick);
    possible.form.bytes(&subject.site(layer, pick.weights), possible.density)
}

/// The seconds of each layer, and what belongs to none.
fn seconds(layers: &[Weighted], cost: &Cost) -> (Vec<f64>, f64) {
    let mut owner: HashMap<&str, usize> = HashMap::new();
    for (i, layer) in layers.iter().enumerate() {
        for name in layer.name.split(' ') {
            owner.entry(name).or_insert(i);
        }
    }
    let (mut each, mut rest) = (vec![0.0; layers.len()], 0.0);
    for (origins, seconds) in &cost.steps {
        // A step that does several layers' work (a chain of convolutions) costs each of them by its multiplications.
        let mut owners: Vec<usize> = origins.iter().filter_map(|o| owner.get(o.as_str()).copied()).collect();
        owners.sort_unstable();
        owners.dedup();
        let all: u64 = owners.iter().map(|i| layers[*i].macs()).sum();
        owners.iter().for_each(|i| each[*i] += seconds * layers[*i].macs() as f64 / all.max(1) as f64);
        if owners.is_empty() {
            rest += seconds;
        }
    }
    (each, rest)
}

/// The model in which every layer that can be is of one kind, whatever its weights are then.
fn uniform(subject: &Subject, pick: Pick) -> Result<Graph> {
    let rough = |layer: &Weighted| {
        let pick = subject.possible(layer, pick);
        (pick != Pick::DENSE).then(|| (pick, pick.form.rough(&subject.site(layer, pick.weights), pick.density)))
    };
    Ok(subject.with(subject.layers.par_iter().map(rough).collect())?.graph)
}

/// Multiplications that are left of all layers' when each is what `picks` says.
pub fn macs(layers: &[Weighted], picks: &[Pick]) -> f64 {
    layers.iter().zip(picks).map(|(l, p)| l.macs() as f64 * p.density).sum()
}
