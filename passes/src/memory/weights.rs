//! The weight blob: every constant that some step reads, once, in the order of first use.

use std::collections::BTreeMap;

use onnxc_ir::blob::Blob;

use super::ALIGN;

/// Parts of the blob with their offsets.
pub type Parts = Vec<(u64, Blob)>;

/// A blob under construction.
#[derive(Default)]
pub struct Weights {
    parts: Parts,
    by_key: BTreeMap<u64, Vec<usize>>,
    end: u64,
}

impl Weights {
    /// The offset of a constant; equal ones are stored once.
    pub fn add(&mut self, blob: Blob) -> u64 {
        let same = self.by_key.entry(blob.key()).or_default();
        if let Some(at) = same.iter().find(|i| self.parts[**i].1 == blob) {
            return self.parts[*at].0;
        }
        let offset = self.end;
        self.end = (offset + blob.bytes()).next_multiple_of(ALIGN);
        same.push(self.parts.len());
        self.parts.push((offset, blob));
        offset
    }

    /// Parts with their offsets, and the size of the whole.
    pub fn finish(self) -> (Parts, u64) {
        (self.parts, self.end)
    }
}
