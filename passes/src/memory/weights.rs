//! The weight blob: every constant that some step reads, once, in the order of first use.

use std::collections::BTreeMap;
use std::sync::Arc;

use onnxc_ir::tensor::Fnv;

use super::ALIGN;

/// Parts of the blob with their offsets.
pub type Parts = Vec<(u64, Arc<Vec<u8>>)>;

/// A blob under construction.
#[derive(Default)]
pub struct Weights {
    parts: Parts,
    by_hash: BTreeMap<u64, Vec<usize>>,
    end: u64,
}

impl Weights {
    /// The offset of these bytes; equal bytes are stored once.
    pub fn add(&mut self, bytes: Arc<Vec<u8>>) -> u64 {
        let mut hash = Fnv::default();
        hash.write(&bytes);
        let same = self.by_hash.entry(hash.0).or_default();
        if let Some(at) = same.iter().find(|i| *self.parts[**i].1 == *bytes) {
            return self.parts[*at].0;
        }
        let offset = self.end;
        self.end = (offset + bytes.len() as u64).next_multiple_of(ALIGN);
        same.push(self.parts.len());
        self.parts.push((offset, bytes));
        offset
    }

    /// Parts with their offsets, and the size of the whole.
    pub fn finish(self) -> (Parts, u64) {
        (self.parts, self.end)
    }
}
