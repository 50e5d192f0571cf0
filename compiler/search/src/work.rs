//! Memory of work: what a search has computed is kept and found again by what it was computed from.
//!
//! Keys are hashes of the model, the calibration inputs and the options that a result depends on, so that nothing has to be invalidated: a search with
//! another budget finds errors, prices and whole models; one for another target with panels of the same width finds errors. (CoCo-Tune, Guan et al.,
//! "Wootz", 2019, keeps trained blocks in the same spirit.)

use onnxc_ir::{DType, Tensor};
use onnxc_passes::compress::Moments;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::recipe::Arrays;
use crate::taps::Answers;

/// Where results are kept, by key. Nothing depends on it: what is not found is computed.
pub trait Store: Sync {
    /// The bytes of a key.
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    /// Keeps the bytes of a key.
    fn put(&self, key: &str, bytes: &[u8]);
    /// Arrays of a key.
    fn get_arrays(&self, key: &str) -> Option<Arrays>;
    /// Keeps arrays.
    fn put_arrays(&self, key: &str, arrays: &Arrays);
}

/// A store that forgets.
pub struct Nowhere;

impl Store for Nowhere {
    fn get(&self, _: &str) -> Option<Vec<u8>> {
        None
    }
    fn put(&self, _: &str, _: &[u8]) {}
    fn get_arrays(&self, _: &str) -> Option<Arrays> {
        None
    }
    fn put_arrays(&self, _: &str, _: &Arrays) {}
}

/// Raised when results are computed in another way.
const REVISION: u32 = 47;

/// A key for something that is computed from these parts.
pub fn key(what: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{} {REVISION} {what}\n", env!("CARGO_PKG_VERSION")));
    for part in parts {
        hash.update(part);
        hash.update("\n");
    }
    let hex: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
    format!("{what}-{hex}")
}

/// The result of `key`, from the store or computed and kept.
///
/// # Errors
/// Those of the computation.
pub fn remember<T: Serialize + DeserializeOwned, E>(
    store: &dyn Store,
    key: &str,
    compute: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    if let Some(found) = store.get(key).and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(found);
    }
    let result = compute()?;
    if let Ok(bytes) = serde_json::to_vec(&result) {
        store.put(key, &bytes);
    }
    Ok(result)
}

/// Answers as arrays: of each output, which has one size, the bytes of all samples behind each other.
pub fn arrays_of_answers(answers: &Answers) -> Arrays {
    let outputs = answers.first().map_or(0, Vec::len);
    let all = |n: usize| answers.iter().flat_map(|a| a[n].iter().copied()).collect::<Vec<u8>>();
    let array = |bytes: Vec<u8>| Tensor::from_vec(&[bytes.len() as u64], bytes);
    (0..outputs).map(|n| (n.to_string(), array(all(n)))).collect()
}

/// The answers of so many samples, all of one size; `None` if the arrays are others.
pub fn answers_of(arrays: &Arrays, samples: usize) -> Option<Answers> {
    let fits = |(_, t): &(String, Tensor)| samples > 0 && t.dtype() == DType::U8 && t.len().is_multiple_of(samples);
    let part = |i: usize, t: &Tensor| t.bytes()[i * (t.len() / samples)..][..t.len() / samples].to_vec();
    let one = |i: usize| arrays.iter().map(|(_, tensor)| part(i, tensor)).collect();
    arrays.iter().all(fits).then(|| (0..samples).map(one).collect())
}

/// Moments of rows of one model as arrays. Of the symmetric matrix they have one triangle.
pub fn arrays_of_moments(moments: &Moments) -> Arrays {
    let array = |name: &str, values: Vec<f64>| (name.to_string(), Tensor::from_vec(&[values.len() as u64], values));
    let triangle = moments.second.chunks_exact(moments.k.max(1)).enumerate().flat_map(|(i, row)| row[..=i].iter().copied());
    vec![array("second", triangle.collect()), array("sum", moments.sum.clone()), array("rows", vec![moments.rows])]
}

/// The moments of a layer that multiplies rows of length `k`; `None` if the arrays are others.
pub fn moments_of(arrays: &Arrays, k: usize) -> Option<Moments> {
    let array = |name: &str, len: usize| {
        let tensor = arrays.iter().find(|a| a.0 == name).map(|a| &a.1)?;
        (tensor.dtype() == DType::F64 && tensor.len() == len).then(|| tensor.to_vec::<f64>())
    };
    let (triangle, sum) = (array("second", k * (k + 1) / 2)?, array("sum", k)?);
    let mut moments = Moments { rows: array("rows", 1)?[0], dense_sum: sum.clone(), sum, ..Moments::new(k, false) };
    let mut rest = &triangle[..];
    for i in 0..k {
        let row;
        (row, rest) = rest.split_at(i + 1);
        moments.second[i * k..=i * k + i].copy_from_slice(row);
        (0..i).for_each(|j| moments.second[j * k + i] = row[j]);
    }
    Some(moments)
}

/// A fingerprint of tensors.
pub fn fingerprint<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> String {
    let mut hash = Sha256::new();
    for tensor in tensors {
        hash.update(format!("{}{:?}", tensor.dtype(), tensor.shape()));
        hash.update(tensor.bytes());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_were_kept() {
        let mut moments = Moments::new(3, false);
        moments.add(&[1.0, 2.0, 3.0, 0.1, -0.7, 5.5], None);
        let arrays = arrays_of_moments(&moments);
        assert_eq!(arrays[0].1.len(), 6, "a triangle");
        assert_eq!(moments_of(&arrays, 3), Some(moments));
        assert_eq!(moments_of(&arrays, 4), None);
    }

    #[test]
    fn answers_are_read_as_they_were_kept() {
        let answers = vec![vec![vec![1u8, 2], vec![3]], vec![vec![4, 5], vec![6]]];
        let arrays = arrays_of_answers(&answers);
        assert_eq!((answers_of(&arrays, 2), answers_of(&arrays, 4)), (Some(answers), None));
    }
}
