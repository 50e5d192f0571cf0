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
use crate::{Backend, Result, Samples, work};

/// Rows of a layer that are taken, as a multiple of the length of a row, and at least.
const ROWS: (u64, u64) = (24, 8192);
/// One of so many rows is any, where most are those of extremes.
const EVENLY: u64 = 4;
/// Bytes of moments and rows that are kept.
const KEPT: u64 = 3 << 29;
/// Bytes of a layer's moments that other searches find, at most: files are half as large.
const STORED: u64 = 1 << 25;

/// Moments of one layer: of samples to compute with, and of those held out.
pub type Both = (Arc<Moments>, Arc<Moments>);

/// What the dense model feeds a layer.
struct Dense {
    moments: Arc<Moments>,
    /// All rows, unless they would take too much memory or nobody asks for them.
    rows: Rows,
}

/// All rows of a layer; `None` where they would take too much memory.
type Rows = Option<Arc<Vec<f32>>>;

/// A layer's node, and samples.
pub(crate) type Key = (usize, Vec<usize>);

/// What is known of the dense model's rows.
#[derive(Default)]
pub struct Kept(Mutex<Known>);

#[derive(Default)]
struct Known {
    bytes: u64,
    moments: HashMap<Key, Arc<Moments>>,
    rows: HashMap<Key, Rows>,
    /// By the layer's node, for layers of which only extremes count.
    largest: HashMap<usize, Arc<Places>>,
    /// In which order the channels go that several layers read, by the first of these.
    orders: HashMap<Key, Arc<Vec<u32>>>,
}

impl Kept {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps moments that were asked for. Those that there is no memory for are read or computed anew each time.
    fn keep_moments(&self, key: &Key, moments: &Arc<Moments>) {
        if !self.known().moments.contains_key(key) && self.reserve(square_bytes(moments.k)) {
            self.known().moments.insert(key.clone(), moments.clone());
        }
    }

    /// Where a layer is largest, if that was looked for.
    fn largest(&self, layer: &Weighted) -> Option<Arc<Places>> {
        self.known().largest.get(&layer.node).cloned()
    }

    /// The order of channels that was kept.
    pub(crate) fn order(&self, key: &Key) -> Option<Arc<Vec<u32>>> {
        self.known().orders.get(key).cloned()
    }

    /// Keeps an order of channels.
    pub(crate) fn keep_order(&self, key: Key, order: Vec<u32>) -> Arc<Vec<u32>> {
        self.known().orders.entry(key).or_insert_with(|| Arc::new(order)).clone()
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
    /// All layers of it.
    pub all: &'a [Weighted],
    /// Those that are asked for.
    pub layers: &'a [&'a Weighted],
    /// What was asked for before.
    pub kept: &'a Kept,
    /// Key of the model and its samples.
    pub known: &'a str,
}

impl Source<'_> {
    /// Moments of the rows that the layers multiply in the dense model.
    ///
    /// # Errors
    /// As [`Tapped::run`].
    pub fn moments(&self, samples: &Samples) -> Result<Vec<Both>> {
        let part = |which: &[usize]| -> Result<Vec<Arc<Moments>>> {
            Ok(self.dense(samples, which, false)?.into_iter().map(|d| d.moments).collect())
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
        let parts = [samples.fit(), samples.held_out()];
        let parts: Vec<(Vec<Dense>, Vec<usize>)> =
            parts.into_iter().map(|which| Ok((self.dense(samples, &which, true)?, which))).collect::<Result<_>>()?;
        let has_rows = |n: usize| parts.iter().all(|(dense, _)| dense[n].rows.is_some());
        let missing: Vec<usize> = (0..self.layers.len()).filter(|n| !has_rows(*n)).collect();
        let layers: Vec<&Weighted> = missing.iter().map(|n| self.layers[*n]).collect();
        let mut way = walks.own.way(own, first, self.layers)?;
        let mut beside = (!layers.is_empty()).then(|| walks.dense.way(self.dense, first, &layers)).transpose()?;
        let new = || self.layers.iter().map(|l| Moments::new(l.k(), true)).collect::<Vec<Moments>>();
        let mut found: Vec<Vec<Moments>> = parts.iter().map(|_| new()).collect();
        let batches = parts.iter().map(|(_, which)| which.len().div_ceil(BATCH)).max().unwrap_or(0);
        for n in 0..batches {
            let mut operands = Vec::new();
            for (_, which) in &parts {
                let batch = which.chunks(BATCH).nth(n).unwrap_or(&[]);
                let x = walks.own.run(&mut way, batch)?;
                operands.push((x, beside.as_mut().map(|way| walks.dense.run(way, batch)).transpose()?.unwrap_or_default()));
            }
            // Both parts at the same time: often a layer is alone in its turn.
            parts.par_iter().zip(&operands).zip(&mut found).filter(|((_, (x, _)), _)| !x.is_empty()).for_each(|(of, sums)| {
                let ((dense, which), (x, y)) = of;
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
                self.layers.par_iter().zip(sums).enumerate().for_each(add);
            });
        }
        let beside_dense = |(sums, dense): (&mut Moments, &Dense)| sums.beside(&dense.moments);
        found.iter_mut().zip(&parts).for_each(|(sums, (dense, _))| sums.iter_mut().zip(dense).for_each(beside_dense));
        walks.own.arrive(way);
        beside.into_iter().for_each(|way| walks.dense.arrive(way));
        let mut found = found.into_iter().map(|sums| sums.into_iter().map(Arc::new));
        Ok(found.next().into_iter().flatten().zip(found.next().into_iter().flatten()).collect())
    }

    /// Gets to know all that [`Source::moments_of`] needs of the dense model: what runs once for all layers need not run once for each.
    ///
    /// # Errors
    /// As [`Tapped::run`].
    pub fn prepare(&self, samples: &Samples) -> Result<()> {
        for which in [samples.fit(), samples.held_out()] {
            self.dense(samples, &which, true)?;
        }
        Ok(())
    }

    /// What the dense model feeds all layers on these samples: moments, and the rows if they are wanted.
    fn dense(&self, samples: &Samples, which: &[usize], wanted: bool) -> Result<Vec<Dense>> {
        let keys: Vec<Key> = self.layers.iter().map(|l| (l.node, which.to_vec())).collect();
        let mut moments: Vec<Option<Arc<Moments>>> =
            self.layers.iter().zip(&keys).map(|(layer, key)| self.known_moments(layer, key)).collect();
        let mut rows: Vec<Option<Rows>> = {
            let known = self.kept.known();
            keys.iter().map(|key| known.rows.get(key).cloned()).collect()
        };
        let is_missing = |n: &usize| moments[*n].is_none() || (wanted && rows[*n].is_none());
        let missing: Vec<usize> = (0..keys.len()).filter(is_missing).collect();
        let asked: Vec<Asked> = missing
            .iter()
            .map(|n| Asked { layer: self.layers[*n], moments: moments[*n].clone(), rows: rows[*n].clone() })
            .collect();
        if !asked.is_empty() {
            for (n, dense) in missing.into_iter().zip(self.computed(asked, samples, which)?) {
                if moments[n].is_none() {
                    self.kept.keep_moments(&keys[n], &dense.moments);
                    self.store_moments(self.layers[n], which, &dense.moments);
                }
                self.kept.known().rows.insert(keys[n].clone(), dense.rows.clone());
                (moments[n], rows[n]) = (Some(dense.moments), Some(dense.rows));
            }
        }
        let both =
            |(moments, rows): (Option<Arc<Moments>>, Option<Rows>)| Some(Dense { moments: moments?, rows: rows.flatten() });
        Ok(moments.into_iter().zip(rows).filter_map(both).collect())
    }

    /// Moments that were computed before, by this search or another one.
    fn known_moments(&self, layer: &Weighted, key: &Key) -> Option<Arc<Moments>> {
        if let Some(moments) = self.kept.known().moments.get(key) {
            return Some(moments.clone());
        }
        let arrays = self.backend.store().get_arrays(&self.name(layer, &key.1))?;
        let moments = Arc::new(work::moments_of(&arrays, layer.k())?);
        self.kept.keep_moments(key, &moments);
        Some(moments)
    }

    /// Keeps moments for other searches.
    fn store_moments(&self, layer: &Weighted, which: &[usize], moments: &Moments) {
        if square_bytes(moments.k) <= STORED {
            self.backend.store().put_arrays(&self.name(layer, which), &work::arrays_of_moments(moments));
        }
    }

    /// What moments of a layer are stored by.
    fn name(&self, layer: &Weighted, which: &[usize]) -> String {
        work::key("moments", &[self.known, &layer.name, &format!("{} {which:?}", layer.node)])
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

    /// Runs the dense model for what is not known of some layers.
    fn computed(&self, asked: Vec<Asked>, samples: &Samples, which: &[usize]) -> Result<Vec<Dense>> {
        let layers: Vec<&Weighted> = asked.iter().map(|a| a.layer).collect();
        self.find_largest(&layers, samples, which)?;
        struct Sums {
            moments: Option<Moments>,
            rows: Option<Vec<f32>>,
        }
        // Always all of them: code that keeps a value may round it otherwise than code that need not, and what is known must not decide that.
        let operands: Vec<_> = self.all.iter().map(|l| l.x(self.dense)).collect();
        let place = |l: &Weighted| {
            self.all.iter().position(|other| other.node == l.node).expect("internal: search: a layer of the model")
        };
        let places: Vec<usize> = layers.iter().map(|l| place(l)).collect();
        let tapped = Tapped::new(self.backend, self.dense, &operands)?;
        let new = |a: &Asked| {
            let bytes = rows_of_sample(a.layer, which) * which.len() as u64 * a.layer.k() as u64 * size_of::<f32>() as u64;
            let rows = (a.rows.is_none() && self.kept.reserve(bytes)).then(Vec::new);
            Sums { moments: a.moments.is_none().then(|| Moments::new(a.layer.k(), false)), rows }
        };
        let mut sums: Vec<Sums> = asked.iter().map(new).collect();
        for (n, batch) in which.chunks(BATCH).enumerate() {
            let x = tapped.run_all(samples, batch)?;
            layers.par_iter().zip(&mut sums).enumerate().for_each(|(l, (layer, sums))| {
                let rows = self.rows(layer, which, n, x.iter().map(|x| &x[places[l]][..]));
                sums.moments.iter_mut().for_each(|moments| moments.add(&rows, None));
                if let Some(all) = &mut sums.rows {
                    all.extend(rows);
                }
            });
        }
        let both = |(a, sums): (Asked, Sums)| {
            let moments = a.moments.or_else(|| sums.moments.map(Arc::new))?;
            Some(Dense { moments, rows: a.rows.unwrap_or_else(|| sums.rows.map(Arc::new)) })
        };
        Ok(asked.into_iter().zip(sums).filter_map(both).collect())
    }
}

/// A layer, and what is known of what the dense model feeds it.
struct Asked<'a> {
    layer: &'a Weighted,
    moments: Option<Arc<Moments>>,
    rows: Option<Rows>,
}

fn square_bytes(k: usize) -> u64 {
    (k * k * size_of::<f64>()) as u64
}

/// Rows that are taken of each of these samples.
fn rows_of_sample(layer: &Weighted, which: &[usize]) -> u64 {
    let wanted = (ROWS.0 * layer.k() as u64).max(ROWS.1);
    (wanted / which.len() as u64).clamp(1, layer.rows)
}
