//! What values are inside of a model while it runs as compiled code, and the ranges that they have.

use std::collections::BTreeMap;

use onnxc_codegen::JitModel;
use onnxc_ir::{DType, Graph, ValueId};
use onnxc_passes::compress::pairs::Range;
use onnxc_passes::compress::{ActivationRange, Histogram, range};
use rayon::prelude::*;

use crate::{Backend, Error, Result, Samples};

/// Samples whose values are in memory at once.
pub(crate) const BATCH: usize = 16;
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
