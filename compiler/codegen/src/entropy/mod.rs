//! Weights coded by their entropy, for `--weights coded`: what the object holds, and the function that makes weights of it again.
//!
//! The weights are cut into runs (`runs.rs`). A run is read as elements of 1, 2 or 4 bytes, and the bytes that are at the same place in each element
//! are its lanes: of floats only the bytes with sign and exponent have little entropy, of bytes and nibbles each one has. Each lane is stored as it
//! is, as one byte that fills it, or as a stream of an interleaved range coder with a table of its own (`rans.rs`). `decoder.rs` is the decoder in generated code.
//!
//! ```text
//! weights   run*                       until all bytes are there
//! run       u32 bytes, u32 period      then `period` lanes
//! lane      u32 bytes, u32 kind | fill << 8, contents, zeros up to a multiple of 4
//! contents  kind 0: the bytes; kind 1: nothing; kind 2: table, stream (`rans.rs`)
//! ```
//!
//! Numbers are little-endian, and begin at multiples of 4. What is deliberately absent: contexts of several bytes, which would make the decoder slower
//! and gain little on weights, and models that adapt, whose streams could not be interleaved so simply.

mod decoder;
mod rans;
mod runs;

use onnxc_ir::plan::Plan;
use rayon::prelude::*;

pub(crate) use decoder::unpack;

use crate::contents::WeightBlob;
use crate::error::Result;
use runs::{Run, Way};

/// Bytes that the decoder may read behind the last lane.
const SLACK: usize = 8;

/// A lane as it is.
const KIND_RAW: u32 = 0;
/// A lane of equal bytes.
const KIND_FILL: u32 = 1;
/// A lane that the range coder has coded.
const KIND_RANS: u32 = 2;

/// How many bytes the weights of a plan take when they are coded: what the object has instead of them.
///
/// # Errors
/// As [`WeightBlob::of`].
pub fn coded_weight_bytes(plan: &Plan) -> Result<u64> {
    let blob = WeightBlob::of(plan)?;
    Ok(encode(&blob.to_vec(), &blob.starts()).len() as u64)
}

/// How many bytes a constant takes by itself when it is coded, about: what the heads of all weights have beside it aside.
pub fn coded_bytes(bytes: &[u8]) -> u64 {
    runs::bytes_of(bytes)
}

/// Bytes, coded; `starts` says, ascending, where something of another kind may begin. The result does not depend on the number of cores.
pub(crate) fn encode(bytes: &[u8], starts: &[u64]) -> Vec<u8> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let runs = runs::choose(bytes, starts);
    let coded: Vec<Vec<u8>> = runs.par_iter().map(|run| encode_run(&bytes[run.at..][..run.bytes], run)).collect();
    let mut all = coded.concat();
    all.extend([0; SLACK]);
    all
}

fn encode_run(bytes: &[u8], run: &Run) -> Vec<u8> {
    let lanes: Vec<Vec<u8>> =
        run.ways.par_iter().enumerate().map(|(lane, way)| encode_lane(bytes, lane, run.ways.len(), way)).collect();
    let mut out = Vec::new();
    put(&mut out, run.bytes as u32);
    put(&mut out, run.ways.len() as u32);
    out.extend(lanes.concat());
    out
}

fn encode_lane(bytes: &[u8], lane: usize, period: usize, way: &Way) -> Vec<u8> {
    let bytes: Vec<u8> = bytes.iter().skip(lane).step_by(period).copied().collect();
    let mut out = Vec::new();
    put(&mut out, bytes.len() as u32);
    match way {
        Way::Raw => {
            put(&mut out, KIND_RAW);
            out.extend(bytes);
        }
        Way::Fill(byte) => put(&mut out, KIND_FILL | u32::from(*byte) << 8),
        Way::Rans(counts) => {
            put(&mut out, KIND_RANS);
            rans::encode(&bytes, counts, &mut out);
        }
    }
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn put(out: &mut Vec<u8>, number: u32) {
    out.extend(number.to_le_bytes());
}

#[cfg(test)]
mod tests;
