//! What values are inside of a model while it runs as compiled code, and the ranges that they have.

use std::collections::BTreeMap;

use onnxc_codegen::JitModel;
use onnxc_ir::{DType, Graph, ValueId};
use onnxc_passes::compress::equalise::Channels;
use onnxc_passes::compress::pairs::Ranges;
use onnxc_passes::compress::{ActivationRange, Histogram, range};
use rayon::prelude::*;

use crate::{Backend, Error, Result, Samples};

/// Samples whose values are in memory at once.
pub(crate) const BATCH: usize = 16;
/// Bins of histograms.
const BINS: usize = 2048;

/// For each sample the bytes of each output.
pub type Answers = Vec<Vec<Vec<u8>>>;

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

/// Integers for values, by what these are on the samples to compute with.
///
/// # Errors
/// As [`Tapped::run`].
pub fn ranges(
    backend: &dyn Backend,
    graph: &Graph,
    values: &[ValueId],
    samples: &Samples,
    method: ActivationRange,
) -> Result<BTreeMap<ValueId, Ranges>> {
    let all = histograms(backend, graph, values, samples, &samples.fit())?;
    let usable = all.into_iter().filter(|(_, h)| h.min.is_finite() && h.max.is_finite());
    Ok(usable.map(|(id, h)| (id, Ranges::of(range(&h, method, 256), (h.min, h.max)))).collect())
}

/// What channels of values, whose dimension is given with each, are on the samples to compute with.
///
/// # Errors
/// As [`Tapped::run`].
pub fn channels(backend: &dyn Backend, graph: &Graph, values: &[(ValueId, usize)], samples: &Samples) -> Result<Vec<Channels>> {
    let ids: Vec<ValueId> = values.iter().map(|v| v.0).collect();
    let tapped = Tapped::new(backend, graph, &ids)?;
    let extents = |(id, axis): &(ValueId, usize)| {
        let shape: Vec<usize> = graph.ty(*id).shape.iter().map(|d| d.as_const().unwrap_or(1) as usize).collect();
        (shape[*axis], shape[axis + 1..].iter().product())
    };
    let mut all: Vec<Sums> = values.iter().map(extents).map(|(channels, inner)| Sums::new(channels, inner)).collect();
    for batch in samples.fit().chunks(BATCH) {
        let outputs = tapped.run_all(samples, batch)?;
        all.par_iter_mut().enumerate().for_each(|(n, sums)| outputs.iter().for_each(|o| sums.add(&floats(&o[n]))));
    }
    Ok(all.into_iter().map(Sums::channels).collect())
}

/// Of the channels of a value: smallest and largest elements, how many, their sums and those of their squares.
struct Sums {
    inner: usize,
    each: Vec<(f32, f32, f64, f64, f64)>,
}

impl Sums {
    fn new(channels: usize, inner: usize) -> Sums {
        Sums { inner, each: vec![(f32::INFINITY, f32::NEG_INFINITY, 0.0, 0.0, 0.0); channels] }
    }

    fn add(&mut self, x: &[f32]) {
        let channels = self.each.len();
        for (i, part) in x.chunks_exact(self.inner.max(1)).enumerate() {
            let (low, high, count, sum, squares) = &mut self.each[i % channels];
            *count += part.len() as f64;
            for x in part {
                (*low, *high) = (low.min(*x), high.max(*x));
                *sum += f64::from(*x);
                *squares += f64::from(*x).powi(2);
            }
        }
    }

    fn channels(self) -> Channels {
        let variance =
            |(_, _, count, sum, squares): &(f32, f32, f64, f64, f64)| (squares / count - (sum / count).powi(2)).max(0.0);
        Channels {
            min: self.each.iter().map(|e| e.0).collect(),
            max: self.each.iter().map(|e| e.1).collect(),
            variance: self.each.iter().map(variance).collect(),
            square: self.each.iter().map(|e| e.4 / e.2).collect(),
        }
    }
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
