//! Models through import and the reference interpreter or code compiled into this process: backend tests and zoo. Where the interpreter differs
//! too, the importer or an operator is wrong; where only compiled code does, a pass, a lowering or the code generator.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use onnxc_codegen::JitModel;
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Graph, interp};
use onnxc_onnx::{Options, import};
use onnxc_passes::{Math, Phase, choose, plan, winograd};

use crate::compare::{all_close, close};
use crate::ports::{self, Port};
use crate::tensor::Tensor;
use crate::{data, pb};

/// A tensor of the compiler from one of the tests.
pub fn to_ir(t: &Tensor) -> Result<onnxc_ir::Tensor, String> {
    let dtype = DType::from_onnx(t.elem_type).ok_or_else(|| format!("element type {}", t.elem_type))?;
    let dims = t.dims.iter().map(|d| *d as u64).collect();
    onnxc_ir::Tensor::from_bytes(dtype, dims, Bytes::new(t.bytes.clone())).ok_or_else(|| "bytes do not fit the dims".to_string())
}

/// And back.
pub fn from_ir(t: &onnxc_ir::Tensor) -> Tensor {
    let dims = t.shape().iter().map(|d| *d as usize).collect();
    Tensor { elem_type: t.dtype().onnx_code(), dims, bytes: t.bytes().to_vec() }
}

/// What runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine<'a> {
    /// The reference interpreter, on the graph as imported.
    Interpreter,
    /// All passes, then code for this processor.
    Compiled(&'a str),
}

/// What a model is given: its tensors by name, lengths of its sequences, optionals that are left out.
#[derive(Default)]
struct Given {
    tensors: Vec<(String, Tensor)>,
    lengths: BTreeMap<String, u64>,
    absent: BTreeSet<String>,
}

/// Imports `model` for inputs of these shapes, checks the graph, runs it.
pub fn run(model: &Path, inputs: &[Tensor], engine: Engine) -> Result<Vec<Tensor>, String> {
    let bytes = std::fs::read(model).map_err(|e| format!("{}: {e}", model.display()))?;
    let tensors = pb::model_inputs(&bytes)?.into_iter().zip(inputs.iter().cloned()).collect();
    run_given(model, Given { tensors, ..Given::default() }, engine, |_| false)
}

/// The same, those inputs of which `constant` holds being known when the model is imported.
fn run_given(model: &Path, given: Given, engine: Engine, constant: impl Fn(&Tensor) -> bool) -> Result<Vec<Tensor>, String> {
    let Given { tensors, lengths, absent } = given;
    let (known, inputs): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(_, t)| constant(t));
    let shapes =
        inputs.iter().map(|(n, t)| (n.clone(), t.dims.iter().map(|d| onnxc_ir::Dim::Const(*d as u64)).collect())).collect();
    let consts = known.into_iter().map(|(n, t)| Ok((n, to_ir(&t)?))).collect::<Result<_, String>>()?;
    let options = Options { shapes, consts, lengths, absent, ..Options::default() };
    let imported = import(model, &options).map_err(|report| format!("import: {report}"))?;
    onnxc_ir::verify::verify(&imported.graph).map_err(|all| format!("verify: {}", all.join("; ")))?;
    let inputs: Vec<onnxc_ir::Tensor> = inputs.iter().map(|(_, t)| to_ir(t)).collect::<Result<_, _>>()?;
    let outputs = match engine {
        Engine::Interpreter => interp::run(&imported.graph, &inputs).map_err(|e| format!("run: {e}"))?,
        Engine::Compiled(cpu) => compiled(&imported.graph, &inputs, cpu)?,
    };
    Ok(outputs.iter().map(from_ir).collect())
}

fn compiled(graph: &Graph, inputs: &[onnxc_ir::Tensor], cpu: &str) -> Result<Vec<onnxc_ir::Tensor>, String> {
    let open = graph.nodes.iter().find(|n| n.outputs.iter().any(|o| graph.ty(*o).bound_shape(&graph.bounds).is_none()));
    if let Some(node) = open {
        return Err(format!("shape: {} has a result whose shape is not known", node.op.name));
    }
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, 1).map_err(|e| e.to_string())?;
    let mut graph = graph.clone();
    for phase in [Phase::Canonicalize, Phase::Fuse] {
        graph = onnxc_passes::run(phase, &graph, &target.desc).0;
        onnxc_ir::verify::verify(&graph).map_err(|all| format!("verify after {phase:?}: {}", all.join("; ")))?;
    }
    graph = choose::by_costs(&graph, &target.desc, winograd::GROWTH, Math::Fast);
    let plan = plan::plan(&plan::schedule(&graph), &target.desc).map_err(|e| format!("plan: {e:?}"))?;
    let model = JitModel::new(&plan, &target).map_err(|e| format!("code: {e}"))?;
    let bytes: Vec<&[u8]> = inputs.iter().map(onnxc_ir::Tensor::bytes).collect();
    let mut outputs = Vec::new();
    let counts = model.run(&bytes, &mut outputs, 1).map_err(|e| format!("run: {e}"))?;
    let tensor = |(id, bytes): (&onnxc_ir::ValueId, Vec<u8>)| {
        let ty = graph.ty(*id);
        let shape = ty.shape.iter().map(|d| d.bind(&counts).as_const()).collect::<Option<Vec<u64>>>()?;
        onnxc_ir::Tensor::from_bytes(ty.dtype, shape, Bytes::new(bytes))
    };
    let all: Option<Vec<_>> = graph.outputs.iter().zip(outputs).map(tensor).collect();
    all.ok_or_else(|| "an output has the wrong size".to_string())
}

/// What became of a test.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `node/test_abs`.
    pub test: String,
    /// The operator under test: the first of its model.
    pub op: String,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// All backend tests whose `kind/name` contains `filter`, in the order of their names.
pub fn backend_tests(kinds: &[&str], filter: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for kind in kinds {
        let folder = data::require(&format!("onnx-tests/{kind}"));
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        all.extend(entries.filter_map(|e| Some(e.ok()?.path())));
    }
    all.retain(|p| p.join("model.onnx").exists() && test_name(p).contains(filter));
    all.sort();
    all
}

fn test_name(folder: &Path) -> String {
    let part = |p: Option<&Path>| p.and_then(Path::file_name).map_or(String::new(), |n| n.to_string_lossy().into_owned());
    format!("{}/{}", part(folder.parent()), part(Some(folder)))
}

/// Runs one backend test: every data set, compared by the tolerance that its `meta.json` states. A panic is a failure.
pub fn backend_test(folder: &Path, engine: Engine) -> Outcome {
    backend_test_with(folder, engine, |_| false)
}

/// The same, those inputs of which `constant` holds being known when the model is imported.
pub fn backend_test_with(folder: &Path, engine: Engine, constant: fn(&Tensor) -> bool) -> Outcome {
    let meta: serde_json::Value =
        std::fs::read(folder.join("meta.json")).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    let op = meta["ops"][0].as_str().unwrap_or("?").to_string();
    let number = |key: &str, default| meta[key].as_f64().unwrap_or(default);
    let tolerances = (number("rtol", 1e-3), number("atol", 1e-7));
    let result = catch_unwind(AssertUnwindSafe(|| data_sets(folder, tolerances, engine, constant)));
    let error = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("PANIC: {}", text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()))
    });
    Outcome { test: test_name(folder), op, error: error.err() }
}

fn data_sets(folder: &Path, (rtol, atol): (f64, f64), engine: Engine, constant: fn(&Tensor) -> bool) -> Result<(), String> {
    let sets = (0..).map(|i| folder.join(format!("test_data_set_{i}"))).take_while(|s| s.exists());
    let model = folder.join("model.onnx");
    let bytes = std::fs::read(&model).map_err(|e| format!("{}: {e}", model.display()))?;
    let (inputs, outputs) = ports::of_model(&bytes)?;
    let mut n = 0;
    for set in sets {
        let given = given(&set, &inputs).map_err(|e| format!("data: {e}"))?;
        let files = outputs.iter().enumerate().map(|(j, port)| (set.join(format!("output_{j}.pb")), port));
        let read = files.take_while(|(path, _)| path.exists()).map(|(path, port)| Ok(port.read(&path)?.unwrap_or_default()));
        let expected: Vec<Vec<Tensor>> = read.collect::<Result<_, String>>().map_err(|e| format!("data: {e}"))?;
        let expected = expected.concat();
        let got = run_given(&model, given, engine, constant)?;
        if got.len() != expected.len() {
            return Err(format!("{} outputs, expected {}", got.len(), expected.len()));
        }
        for (i, (got, want)) in got.iter().zip(&expected).enumerate() {
            all_close(got, want, rtol, atol)
                .or_else(|e| same_bytes(got, want).ok_or(e))
                .map_err(|e| format!("output {i}: {e}"))?;
        }
        n += 1;
    }
    if n == 0 { Err("no data".into()) } else { Ok(()) }
}

/// Types without a numeric comparison are compared by their bytes.
fn same_bytes(a: &Tensor, b: &Tensor) -> Option<()> {
    (a.to_f64().is_none() && a == b).then_some(())
}

/// The inputs of a data set.
fn given(set: &Path, inputs: &[Port]) -> Result<Given, String> {
    let mut given = Given::default();
    for (i, port) in inputs.iter().enumerate() {
        let Some(held) = port.read(&set.join(format!("input_{i}.pb")))? else {
            given.absent.insert(port.name.clone());
            continue;
        };
        if port.sequence {
            given.lengths.insert(port.name.clone(), held.len() as u64);
        }
        given.tensors.extend(port.names(held.len()).into_iter().zip(held));
    }
    Ok(given)
}

/// Runs tests on all cores; outcomes in the order of `folders`.
pub fn backend_run(folders: &[PathBuf], engine: Engine) -> Vec<Outcome> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut all: Vec<(usize, Outcome)> = std::thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(folder) = folders.get(i) else { return done };
                done.push((i, backend_test(folder, engine)));
            }
        };
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().expect("a worker ends")).collect()
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, o)| o).collect()
}

/// Runs a zoo model on its stored inputs; the largest relative error of its outputs, which must be within `tolerance`.
pub fn zoo_model(model: &data::Model, tolerance: f64, engine: Engine) -> Result<f64, String> {
    let (inputs, expected) = (model.inputs(), model.expected());
    let got = catch_unwind(AssertUnwindSafe(|| run(&model.path, &inputs, engine))).unwrap_or_else(|_| Err("PANIC".into()))?;
    if got.len() != expected.len() {
        return Err(format!("{} outputs, expected {}", got.len(), expected.len()));
    }
    let mut worst = 0f64;
    for (i, (got, want)) in got.iter().zip(&expected).enumerate() {
        worst = worst.max(close(got, want, tolerance).map_err(|e| format!("output {i}: {e}"))?);
    }
    Ok(worst)
}
