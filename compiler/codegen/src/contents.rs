//! What goes into files: bytes, and behind them weights, which are packed while they are written.

use std::borrow::Cow;
use std::io::{self, Write};

use onnxc_ir::blob::Blob;
use onnxc_ir::plan::Plan;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Bytes of weights that are made at once, about, while those before are written; at least a part for each core.
const BATCH: u64 = 1 << 20;

/// The weight blob of a plan: its constants with zeros between them.
#[derive(Clone, Debug, Default)]
pub struct WeightBlob {
    blobs: Vec<(u64, Blob)>,
    bytes: u64,
}

/// A part of a constant.
struct Part<'b> {
    blob: &'b Blob,
    part: usize,
    /// Where the constant begins.
    at: u64,
}

impl WeightBlob {
    /// The blob of a plan.
    ///
    /// # Errors
    /// When constants overlap or lie outside.
    pub fn of(plan: &Plan) -> Result<WeightBlob> {
        let mut end = 0;
        for (at, blob) in &plan.weights {
            if *at < end {
                return Err(Error::Plan("weights overlap".into()));
            }
            end = at + blob.bytes();
        }
        if end > plan.weights_bytes {
            return Err(Error::Plan("a weight lies outside the blob".into()));
        }
        Ok(WeightBlob { blobs: plan.weights.clone(), bytes: plan.weights_bytes })
    }

    /// Size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where constants begin, ascending.
    pub(crate) fn starts(&self) -> Vec<u64> {
        self.blobs.iter().map(|b| b.0).collect()
    }

    /// Writes the blob, packing on all cores; the bytes do not depend on their number.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut (dyn Write + Send)) -> io::Result<()> {
        let batches = self.batches();
        let (mut made, mut end) = (batches.first().map_or_else(Vec::new, |b| make(b)), 0);
        for (i, batch) in batches.iter().enumerate() {
            let next = || batches.get(i + 1).map_or_else(Vec::new, |b| make(b));
            let (written, next) = rayon::join(|| write_parts(batch, &made, &mut end, out), next);
            written?;
            made = next;
        }
        zeros(self.bytes - end, out)
    }

    /// The blob in memory.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.bytes as usize);
        self.write(&mut all).expect("internal: memory takes all bytes");
        all
    }

    /// All parts in order, in groups of about [`BATCH`] bytes.
    fn batches(&self) -> Vec<Vec<Part<'_>>> {
        let (mut batches, mut size) = (vec![Vec::new()], 0);
        for (at, blob) in &self.blobs {
            let each = blob.bytes() / blob.parts().max(1) as u64;
            for part in 0..blob.parts() {
                let last = batches.len() - 1;
                if size >= BATCH && batches[last].len() >= rayon::current_num_threads() {
                    (size, _) = (0, batches.push(Vec::new()));
                }
                size += each;
                let last = batches.len() - 1;
                batches[last].push(Part { blob, part, at: *at });
            }
        }
        batches
    }
}

fn make<'b>(parts: &[Part<'b>]) -> Vec<Cow<'b, [u8]>> {
    parts.par_iter().map(|p| p.blob.part(p.part)).collect()
}

/// Writes parts behind the `end` bytes that are there.
fn write_parts(parts: &[Part], made: &[Cow<[u8]>], end: &mut u64, out: &mut (dyn Write + Send)) -> io::Result<()> {
    for (part, bytes) in parts.iter().zip(made) {
        if part.part == 0 {
            zeros(part.at - *end, out)?;
            *end = part.at;
        }
        out.write_all(bytes)?;
        *end += bytes.len() as u64;
        if part.part + 1 == part.blob.parts() {
            part.blob.release();
        }
    }
    Ok(())
}

fn zeros(n: u64, out: &mut (dyn Write + Send)) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), n), out).map(drop)
}

impl From<Vec<u8>> for WeightBlob {
    fn from(bytes: Vec<u8>) -> WeightBlob {
        let size = bytes.len() as u64;
        WeightBlob { blobs: vec![(0, bytes.into())], bytes: size }
    }
}

/// The contents of a file.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// What the file begins with.
    pub head: Vec<u8>,
    /// What follows.
    pub weights: WeightBlob,
}

impl Contents {
    /// Size.
    pub fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.weights.bytes()
    }

    /// Writes everything.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut (dyn Write + Send)) -> io::Result<()> {
        out.write_all(&self.head)?;
        self.weights.write(out)
    }

    /// Everything in memory.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.bytes() as usize);
        self.write(&mut all).expect("internal: memory takes all bytes");
        all
    }
}

impl From<Vec<u8>> for Contents {
    fn from(head: Vec<u8>) -> Contents {
        Contents { head, weights: WeightBlob::default() }
    }
}

impl From<WeightBlob> for Contents {
    fn from(weights: WeightBlob) -> Contents {
        Contents { head: Vec::new(), weights }
    }
}
