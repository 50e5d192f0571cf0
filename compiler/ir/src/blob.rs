//! Constants of compiled code: bytes that are there, or how they are made when they are written.
//!
//! Packed weights are as large as the model. Made part by part when the file is written, only the parts at hand are in memory, and what they are
//! made from may stay in the mapped model.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::tensor::{Bytes, Tensor};

/// How the bytes of a constant are made from a tensor. Two of them that print the same (`Debug`) make the same bytes of equal tensors.
pub trait Packing: fmt::Debug + Send + Sync {
    /// Size of all parts together.
    fn bytes(&self) -> u64;
    /// Number of parts.
    fn parts(&self) -> usize;
    /// The bytes of one part; parts follow each other. They may be made in any order and at once.
    fn part(&self, from: &Tensor, part: usize) -> Vec<u8>;
}

/// The bytes of a constant.
#[derive(Clone)]
pub struct Blob(Source);

#[derive(Clone)]
enum Source {
    Ready(Bytes),
    Packed { from: Tensor, how: Arc<dyn Packing> },
}

impl Blob {
    /// A constant that is made from a tensor when it is needed.
    pub fn packed(from: Tensor, how: impl Packing + 'static) -> Blob {
        Blob(Source::Packed { from, how: Arc::new(how) })
    }

    /// Size.
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Source::Ready(bytes) => bytes.as_slice().len() as u64,
            Source::Packed { how, .. } => how.bytes(),
        }
    }

    /// Number of parts, which follow each other.
    pub fn parts(&self) -> usize {
        match &self.0 {
            Source::Ready(_) => 1,
            Source::Packed { how, .. } => how.parts(),
        }
    }

    /// The bytes of one part.
    pub fn part(&self, part: usize) -> Cow<'_, [u8]> {
        match &self.0 {
            Source::Ready(bytes) => Cow::Borrowed(bytes.as_slice()),
            Source::Packed { from, how } => Cow::Owned(how.part(from, part)),
        }
    }

    /// The blob will not be read soon.
    pub fn release(&self) {
        match &self.0 {
            Source::Ready(bytes) => bytes.release(),
            Source::Packed { from, .. } => from.release(),
        }
    }

    /// The bytes, if they need not be made.
    pub fn ready(&self) -> Option<&[u8]> {
        match &self.0 {
            Source::Ready(bytes) => Some(bytes.as_slice()),
            Source::Packed { .. } => None,
        }
    }

    /// A hash that equal blobs share; it looks at a few of the bytes only.
    pub fn key(&self) -> u64 {
        match &self.0 {
            Source::Ready(bytes) => crate::tensor::sample(bytes.as_slice()),
            Source::Packed { from, .. } => !from.key(),
        }
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Blob {
        Blob(Source::Ready(Bytes::new(bytes)))
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Blob {
        Blob(Source::Ready(bytes))
    }
}

impl PartialEq for Blob {
    /// Equal bytes, or the same way to make them from equal tensors: `false` when that cannot be told without making them.
    fn eq(&self, other: &Blob) -> bool {
        match (&self.0, &other.0) {
            (Source::Ready(a), Source::Ready(b)) => a.as_slice() == b.as_slice(),
            (Source::Packed { from: a, how: x }, Source::Packed { from: b, how: y }) => {
                format!("{x:?}") == format!("{y:?}") && a == b
            }
            _ => false,
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Ready(bytes) => bytes.fmt(f),
            Source::Packed { how, .. } => how.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte so many times.
    #[derive(Debug)]
    struct Repeated(usize);

    impl Packing for Repeated {
        fn bytes(&self) -> u64 {
            3 * self.0 as u64
        }
        fn parts(&self) -> usize {
            3
        }
        fn part(&self, from: &Tensor, part: usize) -> Vec<u8> {
            vec![from.bytes()[part]; self.0]
        }
    }

    #[test]
    fn blobs_are_equal_when_what_makes_them_is() {
        let tensor = |last: u8| Tensor::from_vec(&[3], vec![1, 2, last]);
        let blob = Blob::packed(tensor(3), Repeated(2));
        assert_eq!((0..3).flat_map(|p| blob.part(p).into_owned()).collect::<Vec<u8>>(), [1, 1, 2, 2, 3, 3]);
        assert_eq!(blob, Blob::packed(tensor(3), Repeated(2)));
        assert_eq!(blob.key(), Blob::packed(tensor(3), Repeated(2)).key());
        assert_ne!(blob, Blob::packed(tensor(4), Repeated(2)));
        assert_ne!(blob, Blob::packed(tensor(3), Repeated(1)));
        assert_eq!(Blob::from(vec![7u8; 9]), Blob::from(Bytes::new(vec![7; 9])));
    }
}
