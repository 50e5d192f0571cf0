//! Channels that several layers read: which of them go, and what that does to the answers.
//!
//! A residual stream, or a value that squeeze and excitation scales, has as many channels for all layers that read it. They lose the same ones, in one order:
//! each step takes the channel whose loss costs the sum of all readers least after repair ([`compress::together`]). What is left of it all is measured at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_passes::compress::{self, Matrix, Moments};
use rayon::prelude::*;

use crate::assemble::Subject;
use crate::candidate::{self, Curve, Pick};
use crate::effect::Probes;
use crate::search::{Curves, Search};
use crate::{Result, Samples};

/// The order in which channels go, by the nodes of the layers that read them.
pub type Orders = BTreeMap<usize, Arc<Vec<u32>>>;

impl Subject<'_> {
    /// The orders of channels that are read by several layers, of which some are `wanted`, as the samples to compute with have it.
    ///
    /// # Errors
    /// When the dense model does not run on the samples.
    pub fn orders(&self, samples: &Samples, wanted: impl Fn(usize) -> bool) -> Result<Orders> {
        let mut orders = Orders::new();
        for (n, layer) in self.layers.iter().enumerate() {
            if layer.together.is_empty() || !wanted(n) || orders.contains_key(&layer.node) {
                continue;
            }
            let readers: Vec<&Weighted> = self.layers.iter().filter(|l| layer.together.contains(&l.node)).collect();
            let key = (readers[0].node, samples.fit());
            let order = match self.kept.order(&key) {
                Some(order) => order,
                None => self.kept.keep_order(key, self.order(&readers, samples)?),
            };
            orders.extend(readers.iter().map(|reader| (reader.node, order.clone())));
        }
        Ok(orders)
    }

    /// The outputs of layers that are read, by the layers' numbers, where streams are read in part: panels of filters are made of these.
    pub(crate) fn some_outputs(&self, picks: &[Pick], orders: &Orders) -> BTreeMap<usize, Vec<u32>> {
        let mut some = BTreeMap::new();
        for (layer, pick) in self.layers.iter().zip(picks).filter(|(_, pick)| pick.form.reads_less()) {
            let Some(order) = orders.get(&layer.node) else { continue };
            let outputs = candidate::channels::left(self, layer, pick.density, order);
            let before = (0..self.layers.len()).filter(|n| layer.before.contains(&self.layers[*n].node));
            some.extend(before.map(|n| (n, outputs.clone())));
        }
        some
    }

    fn order(&self, readers: &[&Weighted], samples: &Samples) -> Result<Vec<u32>> {
        let known = self.source(readers).moments(samples)?;
        let moments = |(layer, (fit, _)): (&&Weighted, &(Arc<Moments>, Arc<Moments>))| {
            candidate::centred(fit, weighted::takes_shift(&self.graph, layer))
        };
        let moments: Vec<Moments> = readers.iter().zip(&known).map(moments).collect();
        let weights: Vec<Matrix> = readers.iter().map(|layer| layer.matrix(&self.graph)).collect();
        Ok(compress::together(&weights.iter().zip(&moments).collect::<Vec<_>>(), readers[0].channels))
    }
}

impl Search<'_> {
    /// Adds to the errors of layers what it does to the answers when all layers that read the same channels read fewer of them. It is one error of all of them, and
    /// stands with the first one.
    pub(crate) fn add_streams(&self, errors: &mut [Vec<f64>], curves: &[Curves], sample: &[usize]) -> Result<()> {
        let layers = &self.subject.layers;
        let first = |n: &usize| layers[*n].together.first() == Some(&layers[*n].node);
        let curve = |n: usize| curves[n].iter().find(|(of, _)| of.form.reads_less()).map(|(_, curve)| (n, curve));
        let effect = |first: usize| {
            let readers = (0..layers.len()).filter(|n| layers[first].together.contains(&layers[*n].node));
            let Some(readers) = readers.map(curve).collect::<Option<Vec<(usize, &Curve)>>>() else { return Ok(None) };
            let effect = Probes::of(self, &layers[first], sample)?.effect(&readers)?;
            Ok(Some((first, readers, effect)))
        };
        let firsts: Vec<usize> = (0..layers.len()).filter(first).collect();
        let effects = firsts.into_par_iter().map(effect).collect::<Result<Vec<_>>>()?;
        for (first, readers, effect) in effects.into_iter().flatten() {
            let reads_less = |(_, kind): &(usize, &Pick)| kind.form.reads_less();
            for (n, kind) in self.kinds.iter().enumerate().filter(reads_less) {
                let error: f64 = readers.iter().map(|(_, curve)| curve.at(kind.density)).sum();
                errors[first][n] += effect.at(error);
            }
        }
        Ok(())
    }
}
