//! Moments of the rows that layers multiply, and what is kept of the dense model's.
//!
//! Each model that is assembled is fitted to what the dense model feeds its layers, beside what it feeds them itself. The former does not depend on the
//! model: moments of dense rows, and the rows as far as there is memory for them, are computed once for a part of the samples.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onnxc_ir::Graph;
use onnxc_passes::compress::Moments;
use onnxc_passes::compress::weighted::Weighted;
use rayon::prelude::*;

use crate::extremes::{self, Places};
use crate::taps::{BATCH, Tapped, floats};
use crate::walk::Walk;
use crate::{Backend, Result, Samples};

/// Rows of a layer that are taken, as a multiple of the length of a row, and at least.
const ROWS: (u64, u64) = (24, 8192);
/// One of so many rows is any, where most are those of extremes.
const EVENLY: u64 = 4;
/// Bytes of moments and rows that are kept.
const KEPT: u64 = 3 << 29;

/// Moments of one layer: of samples to compute with, and of those held out.
pub type Both = (Arc<Moments>, Arc<Moments>);

/// What the dense model feeds a layer.
struct Dense {
    moments: Arc<Moments>,
    /// All rows, unless they would take too much memory.
    rows: Option<Vec<f32>>,
}

/// What is known of the dense model's rows.
#[derive(Default)]
pub struct Kept(Mutex<Known>);

#[derive(Default)]
struct Known {
    bytes: u64,
    /// By the layer's node and the samples.
    of: HashMap<(usize, Vec<usize>), Arc<Dense>>,
    /// By the layer's node, for layers of which only extremes count.
    largest: HashMap<usize, Arc<Places>>,
}

impl Kept {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a layer is largest, if that was looked for.
    fn largest(&self, layer: &Weighted) -> Option<Arc<Places>> {
        self.known().largest.get(&layer.node).cloned()
    }

    /// Takes a part of the memory, if there is so much.
    fn reserve(&self, bytes: u64) -> bool {
        let mut known = self.known();
        let fits = known.bytes + bytes <= KEPT;
        known.bytes += if fits { bytes } else { 0 };
        fits
    }
}

/// How far the samples have come in a model that is being made, and in the dense one, for the layers whose rows there are not kept.
pub struct Walks<'a> {
    own: Walk<'a>,
    dense: Walk<'a>,
}

impl<'a> Walks<'a> {
    /// At the models' inputs.
    pub fn new(backend: &'a dyn Backend, dense: &'a Graph, samples: &'a Samples) -> Walks<'a> {
        let walk = || Walk::new(backend, dense, samples);
        Walks { own: walk(), dense: walk() }
    }
}

/// A dense graph, some of its layers, and what is known of its rows.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The compiler.
    pub backend: &'a dyn Backend,
    /// The graph.
    pub dense: &'a Graph,
    /// Its layers that are asked for.
    pub layers: &'a [&'a Weighted],
    /// What was asked for before.
    pub kept: &'a Kept,
}

impl Source<'_> {
    /// Moments of the rows that the layers multiply in the dense model.
    ///
    /// # Errors
    /// As [`Tapped::run`].
    pub fn moments(&self, samples: &Samples) -> Result<Vec<Both>> {
        let part = |which: &[usize]| -> Result<Vec<Arc<Moments>>> {
            Ok(self.dense_rows(samples, which)?.iter().map(|d| d.moments.clone()).collect())
        };
        Ok(part(&samples.fit())?.into_iter().zip(part(&samples.held_out())?).collect())
    }

    /// Moments of the rows that the layers multiply in a graph that was made from the dense one, beside the dense ones. Nothing before the layer `first` changes
    /// any more.
    ///
    /// # Errors
    /// As [`Walk::run`].
    pub fn moments_of(&self, own: &Graph, walks: &mut Walks, first: &Weighted, samples: &Samples) -> Result<Vec<Both>> {
        if self.layers.is_empty() {
            return Ok(Vec::new());
        }
        let parts = [samples.fit(), samples.held_out()].map(|which| (self.dense_rows(samples, &which), which));
        let mut known = Vec::new();
        for (dense, which) in parts {
            known.push((dense?, which));
        }
        let has_rows = |n: usize| known.iter().all(|(dense, _)| dense[n].rows.is_some());
        let missing: Vec<usize> = (0..self.layers.len()).filter(|n| !has_rows(*n)).collect();
        let layers: Vec<&Weighted> = missing.iter().map(|n| self.layers[*n]).collect();
        let mut way = walks.own.way(own, first, self.layers)?;
        let mut beside = (!layers.is_empty()).then(|| walks.dense.way(self.dense, first, &layers)).transpose()?;
        let mut found = Vec::new();
        for (dense, which) in &known {
            let mut sums: Vec<Moments> = self.layers.iter().map(|l| Moments::new(l.k(), true)).collect();
            for (n, batch) in which.chunks(BATCH).enumerate() {
                let x = walks.own.run(&mut way, batch)?;
                let y = beside.as_mut().map(|way| walks.dense.run(way, batch)).transpose()?.unwrap_or_default();
                let add = |(l, (layer, sums)): (usize, (&&Weighted, &mut Moments))| {
                    let own = self.rows(layer, which, n, x.iter().map(|x| &x[l][..]));
                    match (&dense[l].rows, missing.binary_search(&l)) {
                        (_, Ok(place)) => {
                            sums.add(&own, Some(&self.rows(layer, which, n, y.iter().map(|y| &y[place][..]))));
                        }
                        (rows, Err(_)) => {
                            let all = rows.as_ref().expect("internal: search: rows that are not missing are kept");
                            let first = n * BATCH * rows_of_sample(layer, which) as usize * layer.k();
                            sums.add(&own, Some(&all[first..first + own.len()]));
                        }
                    }
                };
                self.layers.par_iter().zip(&mut sums).enumerate().for_each(add);
            }
            sums.iter_mut().zip(dense).for_each(|(sums, dense)| sums.beside(&dense.moments));
            found.push(sums.into_iter().map(Arc::new).collect::<Vec<_>>());
        }
        walks.own.arrive(way);
        beside.into_iter().for_each(|way| walks.dense.arrive(way));
        let held_out = found.pop().unwrap_or_default();
        Ok(found.pop().unwrap_or_default().into_iter().zip(held_out).collect())
    }

    /// What the dense model feeds all layers on these samples.
    fn dense_rows(&self, samples: &Samples, which: &[usize]) -> Result<Vec<Arc<Dense>>> {
        let key = |l: &Weighted| (l.node, which.to_vec());
        let mut found: Vec<Option<Arc<Dense>>> = {
            let known = self.kept.known();
            self.layers.iter().map(|l| known.of.get(&key(l)).cloned()).collect()
        };
        let missing: Vec<usize> = (0..found.len()).filter(|n| found[*n].is_none()).collect();
        if !missing.is_empty() {
            let layers: Vec<&Weighted> = missing.iter().map(|n| self.layers[*n]).collect();
            for (n, dense) in missing.into_iter().zip(self.computed(&layers, samples, which)?) {
                let layer = self.layers[n];
                // Moments that there is no memory for are computed anew each time.
                let known = dense.rows.is_some() || self.kept.reserve(square_bytes(layer));
                if known {
                    self.kept.known().of.insert(key(layer), dense.clone());
                }
                found[n] = Some(dense);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Looks where layers of which only extremes count are largest.
    fn find_largest(&self, layers: &[&Weighted], samples: &Samples, which: &[usize]) -> Result<()> {
        for layer in layers.iter().filter(|l| extremes::are_all(self.dense, l)) {
            let mut known = self.kept.largest(layer).map_or_else(Places::new, |places| (*places).clone());
            let missing: Vec<usize> = which.iter().copied().filter(|i| !known.contains_key(i)).collect();
            if !missing.is_empty() {
                known.extend(extremes::places(self.backend, self.dense, layer, samples, &missing)?);
                self.kept.known().largest.insert(layer.node, Arc::new(known));
            }
        }
        Ok(())
    }

    /// The rows of a layer that are taken of batch `n` of these samples, whose operands are `x`.
    fn rows<'x>(&self, layer: &Weighted, which: &[usize], n: usize, x: impl Iterator<Item = &'x [u8]>) -> Vec<f32> {
        let (each, mut rows) = (rows_of_sample(layer, which), Vec::new());
        let largest = self.kept.largest(layer);
        for (i, x) in x.enumerate() {
            let number = n * BATCH + i;
            // Other positions for every sample, spread evenly.
            let first = number as u64 * 7919;
            let evenly = |count: u64, of: u64| (0..count).map(move |r| (first + r * of / count) % of);
            let places = largest.as_ref().and_then(|l| l.get(&which[number])).map_or(&[][..], |places| &places[..]);
            // Most of them where the layer's channels are largest, each as often as channels are.
            let often = if places.is_empty() { 0 } else { each - each / EVENLY };
            let there = evenly(often, places.len() as u64).map(|c| places[c as usize]);
            layer.rows_of(&floats(x), evenly(each - often, layer.rows).chain(there), &mut rows);
        }
        rows
    }

    fn computed(&self, layers: &[&Weighted], samples: &Samples, which: &[usize]) -> Result<Vec<Arc<Dense>>> {
        self.find_largest(layers, samples, which)?;
        struct Sums {
            moments: Moments,
            rows: Option<Vec<f32>>,
        }
        let operands: Vec<_> = layers.iter().map(|l| l.x(self.dense)).collect();
        let tapped = Tapped::new(self.backend, self.dense, &operands)?;
        let new = |l: &&Weighted| {
            let bytes = rows_of_sample(l, which) * which.len() as u64 * l.k() as u64 * size_of::<f32>() as u64;
            let rows = self.kept.reserve(square_bytes(l) + bytes).then(Vec::new);
            Sums { moments: Moments::new(l.k(), false), rows }
        };
        let mut sums: Vec<Sums> = layers.iter().map(new).collect();
        for (n, batch) in which.chunks(BATCH).enumerate() {
            let x = tapped.run_all(samples, batch)?;
            layers.par_iter().zip(&mut sums).enumerate().for_each(|(l, (layer, sums))| {
                let rows = self.rows(layer, which, n, x.iter().map(|x| &x[l][..]));
                sums.moments.add(&rows, None);
                if let Some(all) = &mut sums.rows {
                    all.extend(rows);
                }
            });
        }
        Ok(sums.into_iter().map(|s| Arc::new(Dense { moments: Arc::new(s.moments), rows: s.rows })).collect())
    }
}

fn square_bytes(layer: &Weighted) -> u64 {
    (layer.k() * layer.k() * size_of::<f64>()) as u64
}

/// Rows that are taken of each of these samples.
fn rows_of_sample(layer: &Weighted, which: &[usize]) -> u64 {
    let wanted = (ROWS.0 * layer.k() as u64).max(ROWS.1);
    (wanted / which.len() as u64).clamp(1, layer.rows)
}
