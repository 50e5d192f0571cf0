//! Results of searches as files in a folder: the file's name is the key.

use std::path::PathBuf;

use onnxc_search::recipe::Arrays;
use onnxc_search::work::{Nowhere, Store};

use crate::cli::Budget;
use crate::data::{npy, write_file};

/// A folder of results.
struct Folder(PathBuf);

/// The store that the command line asks for: a folder, the user's cache folder (XDG Base Directory Specification), or none.
pub fn open(budget: &Budget) -> Box<dyn Store> {
    match budget.work.clone().or_else(|| crate::tune::cache_folder().map(|c| c.join("compress"))) {
        Some(folder) if !budget.forget => Box::new(Folder(folder)),
        _ => Box::new(Nowhere),
    }
}

impl Store for Folder {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.0.join(format!("{key}.json"))).ok()
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        // What cannot be kept is computed again.
        let _ = write_file(&self.0.join(format!("{key}.json")), bytes);
    }

    fn get_arrays(&self, key: &str) -> Option<Arrays> {
        npy::parse_npz(&std::fs::read(self.0.join(format!("{key}.npz"))).ok()?).ok()
    }

    fn put_arrays(&self, key: &str, arrays: &Arrays) {
        if let Ok(bytes) = npy::encode_npz(arrays) {
            let _ = write_file(&self.0.join(format!("{key}.npz")), &bytes);
        }
    }
}
