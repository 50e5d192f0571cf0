//! What values are inside of a model while it runs as compiled code, and what is kept of them: moments of the rows that layers multiply, ranges.

use std::collections::BTreeMap;

use onnxc_codegen::JitModel;
use onnxc_ir::{DType, Graph, ValueId};
use onnxc_passes::compress::pairs::Range;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{ActivationRange, Histogram, Moments, range};
use rayon::prelude::*;

use crate::{Backend, Error, Result, Samples};

/// Samples whose values are in memory at once.
const BATCH: usize = 16;
/// Rows of a layer that are taken, as a multiple of the length of a row, and at least.
const ROWS: (u64, u64) = (24, 8192);
/// Bins of histograms.
const BINS: usize = 2048;

/// A model whose outputs are some of its values.
pub struct Tapped {
    jit: JitModel,
}

impl Tapped {
    /// Compiles the part of a graph that computes these values.
    ///
    /// # Errors
    /// When it has no code.
    pub fn new(backend: &dyn Backend, graph: &Graph, values: &[ValueId]) -> Result<Tapped> {
        let mut part = graph.clone();
        part.outputs = values.to_vec();
        Ok(Tapped { jit: backend.runner(&part)? })
    }

    /// The values of one sample.
    ///
    /// # Errors
    /// When the model answers with a status.
    pub fn run(&self, samples: &Samples, i: usize) -> Result<Vec<Vec<u8>>> {
        let mut outputs = Vec::new();
        self.jit.run(&samples.get(i), &mut outputs, 1).map_err(|e| Error::Input(format!("sample {i}: {e}")))?;
        Ok(outputs)
    }

    /// The values of several samples.
    ///
    /// # Errors
    /// As [`Tapped::run`].
    pub fn run_all(&self, samples: &Samples, which: &[usize]) -> Result<Vec<Vec<Vec<u8>>>> {
        which.par_iter().map(|i| self.run(samples, *i)).collect()
    }
}

/// Bytes as floats.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Moments of the rows that these layers of the `dense` graph multiply in it; with a graph that was made from it (`own`) those that they multiply there, and
/// both together. One of the samples to compute with, one of those held out.
///
/// # Errors
/// As [`Tapped::run`].
pub fn moments(
    backend: &dyn Backend,
    (dense, own): (&Graph, Option<&Graph>),
    layers: &[&Weighted],
    samples: &Samples,
) -> Result<Vec<(Moments, Moments)>> {
    if layers.is_empty() {
        return Ok(Vec::new());
    }
    let taps = |g: &Graph| Tapped::new(backend, g, &layers.iter().map(|l| l.x_within(dense, g)).collect::<Vec<_>>());
    let other = own.map(|_| taps(dense)).transpose()?;
    let own = taps(own.unwrap_or(dense))?;
    let fit = sums(layers, (&own, other.as_ref()), samples, &samples.fit())?;
    let held_out = sums(layers, (&own, other.as_ref()), samples, &samples.held_out())?;
    Ok(fit.into_iter().zip(held_out).collect())
}

fn sums(
    layers: &[&Weighted],
    (own, other): (&Tapped, Option<&Tapped>),
    samples: &Samples,
    which: &[usize],
) -> Result<Vec<Moments>> {
    let mut sums: Vec<Moments> = layers.iter().map(|l| Moments::new(l.k(), other.is_some())).collect();
    for (n, batch) in which.chunks(BATCH).enumerate() {
        let x = own.run_all(samples, batch)?;
        let y = other.map(|t| t.run_all(samples, batch)).transpose()?;
        let add = |(l, (layer, sums)): (usize, (&&Weighted, &mut Moments))| {
            let each = (rows_wanted(layer) / which.len() as u64).clamp(1, layer.rows);
            let (mut rows, mut others) = (Vec::new(), Vec::new());
            for i in 0..batch.len() {
                // Other positions for every sample, spread evenly.
                let first = (n * BATCH + i) as u64 * 7919;
                let picked = (0..each).map(|r| (first + r * layer.rows / each) % layer.rows);
                layer.rows_of(&floats(&x[i][l]), picked.clone(), &mut rows);
                if let Some(y) = &y {
                    layer.rows_of(&floats(&y[i][l]), picked, &mut others);
                }
            }
            sums.add(&rows, y.is_some().then_some(&others[..]));
        };
        layers.par_iter().zip(&mut sums).enumerate().for_each(add);
    }
    Ok(sums)
}

fn rows_wanted(layer: &Weighted) -> u64 {
    (ROWS.0 * layer.k() as u64).max(ROWS.1)
}

/// Integers for values, such that they lose least of the samples to compute with.
///
/// # Errors
/// As [`Tapped::run`].
pub fn ranges(backend: &dyn Backend, graph: &Graph, values: &[ValueId], samples: &Samples) -> Result<BTreeMap<ValueId, Range>> {
    let all = histograms(backend, graph, values, samples, &samples.fit())?;
    let usable = all.into_iter().filter(|(_, h)| h.min.is_finite() && h.max.is_finite());
    Ok(usable.map(|(id, h)| (id, Range::of_pair(range(&h, ActivationRange::Mse, 256)))).collect())
}

/// Histograms of values over all elements and samples.
///
/// # Errors
/// As [`Tapped::run`].
pub fn histograms(
    backend: &dyn Backend,
    graph: &Graph,
    values: &[ValueId],
    samples: &Samples,
    which: &[usize],
) -> Result<BTreeMap<ValueId, Histogram>> {
    let values: Vec<ValueId> = values.iter().copied().filter(|id| graph.ty(*id).dtype == DType::F32).collect();
    let tapped = Tapped::new(backend, graph, &values)?;
    let mut limits = vec![(f32::INFINITY, f32::NEG_INFINITY); values.len()];
    // Twice over the samples: bins need the limits first.
    for batch in which.chunks(BATCH) {
        for outputs in tapped.run_all(samples, batch)? {
            for (limit, bytes) in limits.iter_mut().zip(outputs) {
                let all = floats(&bytes);
                *limit = all.iter().fold(*limit, |(low, high), x| (low.min(*x), high.max(*x)));
            }
        }
    }
    let mut all: Vec<Histogram> =
        limits.iter().map(|(min, max)| Histogram { min: *min, max: *max, counts: vec![0; BINS] }).collect();
    for batch in which.chunks(BATCH) {
        let outputs = tapped.run_all(samples, batch)?;
        all.par_iter_mut().enumerate().for_each(|(n, h)| {
            let scale = if h.max > h.min { BINS as f32 / (h.max - h.min) } else { 0.0 };
            for x in outputs.iter().flat_map(|o| floats(&o[n])) {
                h.counts[(((x - h.min) * scale) as usize).min(BINS - 1)] += 1;
            }
        });
    }
    Ok(values.into_iter().zip(all).collect())
}
