//! Where the test data is, and the list of zoo models.  `testsuite/setup.sh` writes it.

use crate::tensor::Tensor;
use crate::{npy, pb};
use std::fs;
use std::path::{Path, PathBuf};

/// Root folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("testsuite has a parent").to_path_buf()
}

/// The data folder: `$ONNXC_DATA`, else `target/` of the repository.
pub fn folder() -> PathBuf {
    std::env::var_os("ONNXC_DATA").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// `folder()/name`, which must exist.
///
/// # Panics
/// When it is missing, with the command that makes it.
#[track_caller]
pub fn require(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(path.exists(), "{} is missing: run testsuite/setup.sh", path.display());
    path
}

/// A model with seeded inputs and the outputs of ONNX Runtime for them.
#[derive(Clone, Debug)]
pub struct Model {
    /// Short name, also the stem of the file.
    pub id: String,
    /// The `.onnx` file.
    pub path: PathBuf,
    /// Folder of `input_<i>.npy` and `output_<j>.npy`.
    pub data: PathBuf,
}

impl Model {
    /// The inputs, in the order of the graph's inputs that are not initialisers.
    pub fn inputs(&self) -> Vec<Tensor> {
        numbered(&self.data, "input")
    }

    /// What ONNX Runtime answered, in the order of the graph's outputs.
    pub fn expected(&self) -> Vec<Tensor> {
        numbered(&self.data, "output")
    }

    /// `--shape NAME=d,d,..` arguments that fix every input to the shape of its stored value.
    pub fn shape_args(&self) -> Vec<String> {
        let model = fs::read(&self.path).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()));
        shape_args(&pb::model_inputs(&model).expect("zoo models are well-formed"), &self.inputs())
    }
}

/// `--shape` arguments for these inputs.
pub fn shape_args(names: &[String], inputs: &[Tensor]) -> Vec<String> {
    assert_eq!(names.len(), inputs.len(), "inputs {names:?}");
    let dims = |t: &Tensor| t.dims.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    names.iter().zip(inputs).map(|(n, t)| format!("--shape={n}={}", dims(t))).collect()
}

/// `<stem>_0.npy`, `<stem>_1.npy`, ... (or `.pb`) of a folder, up to the first that is missing.
///
/// # Panics
/// When one cannot be read.
pub fn numbered(folder: &Path, stem: &str) -> Vec<Tensor> {
    let one = |i: usize| {
        let (npy, pb) = (folder.join(format!("{stem}_{i}.npy")), folder.join(format!("{stem}_{i}.pb")));
        if npy.exists() { Some(npy::read(&npy)) } else { pb.exists().then(|| pb::read(&pb)) }
    };
    (0..).map_while(one).collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}"))
}

/// The trained models of the zoo, by `testsuite/zoo/zoo_manifest.json`.
///
/// # Panics
/// When one is missing from the data folder.
pub fn zoo() -> Vec<Model> {
    let manifest = fs::read(repository().join("testsuite/zoo/zoo_manifest.json")).expect("manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("manifest is JSON");
    let id = |m: &serde_json::Value| m["id"].as_str().expect("id").to_owned();
    manifest.as_array().expect("list").iter().map(|m| model("zoo", &id(m))).collect()
}

/// One model of the zoo.
pub fn zoo_model(id: &str) -> Model {
    model("zoo", id)
}

/// One of the small quantised networks of `testsuite/qdq/make_qdq_models.py`.
pub fn quantised_model(id: &str) -> Model {
    model("qdq", id)
}

/// A benchmark network or, as `ID.int8`, its quantised form. `testsuite/setup.sh` makes the small ones, with `--bench` all.
pub fn network(id: &str) -> Model {
    model("bench", id)
}

/// True when [`network`] is there.
pub fn has_network(id: &str) -> bool {
    folder().join(format!("bench/data/{id}/output_0.npy")).exists()
}

#[track_caller]
fn model(kind: &str, id: &str) -> Model {
    Model { id: id.to_owned(), path: require(&format!("{kind}/{id}.onnx")), data: require(&format!("{kind}/data/{id}")) }
}
