//! Models that `onnxc` must refuse with a clear message, built byte by byte.
//!
//! A case says which words the message must hold: what is wrong, and the name of the culprit where the model has one.
//! `testsuite/tests/bad_models.rs` runs `onnxc check` on each.  The same bytes are good seeds for fuzzing the importer.

mod attributes;
pub(crate) mod build;
mod external;
mod functions;
mod sequences;
mod shapes;
mod structure;
mod tensors;
mod wire_format;

pub use build::{good_model, one_node, with_subgraph};
pub use structure::batched_scan;

use std::path::{Path, PathBuf};

/// One model at fault.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique name, kebab-case.
    pub name: &'static str,
    /// Each of these must be in the error message, in any case of letters; `a|b` asks for either.
    pub says: &'static [&'static str],
    /// The model's bytes.
    pub model: Vec<u8>,
    /// Files beside the model; see [`File`].
    pub files: Vec<(&'static str, File)>,
}

/// A file that lies beside a model.  Its path is relative to the model's folder and may begin with `../`.
#[derive(Clone, Debug)]
pub enum File {
    /// A plain file with these bytes.
    Data(Vec<u8>),
    /// A symbolic link to this path.
    Link(&'static str),
}

impl Case {
    fn new(name: &'static str, says: &'static [&'static str], model: impl Into<Vec<u8>>) -> Self {
        Self { name, says, model: model.into(), files: vec![] }
    }

    fn with(mut self, path: &'static str, file: File) -> Self {
        self.files.push((path, file));
        self
    }

    /// Writes the model and its files below `folder/NAME/`; returns the model's path.
    pub fn write(&self, folder: &Path) -> std::io::Result<PathBuf> {
        // One more level, so that `../` of a case stays inside the case's own folder.
        let inner = folder.join(self.name).join("model");
        std::fs::create_dir_all(&inner)?;
        for (path, file) in &self.files {
            match file {
                File::Data(bytes) => std::fs::write(inner.join(path), bytes)?,
                File::Link(to) => std::os::unix::fs::symlink(to, inner.join(path))?,
            }
        }
        let model = inner.join("model.onnx");
        std::fs::write(&model, &self.model)?;
        Ok(model)
    }

    /// The words of [`Case::says`] that `message` lacks.
    pub fn missing_from(&self, message: &str) -> Vec<&'static str> {
        let message = message.to_lowercase();
        let said = |words: &&str| words.split('|').any(|w| message.contains(&w.to_lowercase()));
        self.says.iter().filter(|w| !said(w)).copied().collect()
    }
}

/// All cases, in a fixed order.
pub fn all() -> Vec<Case> {
    let groups = [
        wire_format::cases(),
        structure::cases(),
        tensors::cases(),
        shapes::cases(),
        attributes::cases(),
        external::cases(),
        functions::cases(),
        sequences::cases(),
    ];
    groups.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_case_expects_words() {
        let cases = all();
        let names: std::collections::BTreeSet<_> = cases.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), cases.len());
        assert!(cases.len() >= 45, "{} cases", cases.len());
        assert!(cases.iter().all(|c| !c.says.is_empty()));
        let models: std::collections::BTreeSet<_> = cases.iter().map(|c| (&c.model, c.files.len())).collect();
        assert_eq!(models.len(), cases.len(), "two cases have the same bytes");
    }

    #[test]
    fn alternatives_and_missing_words() {
        let case = Case::new("x", &["cycle|loop", "Relu"], vec![]);
        assert!(case.missing_from("a LOOP through relu").is_empty());
        assert_eq!(case.missing_from("a loop"), ["Relu"]);
    }
}
