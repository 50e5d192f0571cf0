//! Memory of work: what a search has computed is kept and found again by what it was computed from.
//!
//! Keys are hashes of the model, the calibration inputs and the options that a result depends on, so that nothing has to be invalidated: a search with
//! another budget finds errors, prices and whole models; one for another target with panels of the same width finds errors. (CoCo-Tune, Guan et al.,
//! "Wootz", 2019, keeps trained blocks in the same spirit.)

use onnxc_ir::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::recipe::Arrays;

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
const REVISION: u32 = 34;

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

/// A fingerprint of tensors.
pub fn fingerprint<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> String {
    let mut hash = Sha256::new();
    for tensor in tensors {
        hash.update(format!("{}{:?}", tensor.dtype(), tensor.shape()));
        hash.update(tensor.bytes());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
