//! Compression: recipes from files, recipes from a search, and the pass that applies them.

mod ablate;
mod backend;
pub mod front;
mod live;
mod store;
pub mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use onnxc_codegen::{Contents, Weights};
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Graph, Tensor};
use onnxc_search::budget::Caps;
use onnxc_search::recipe::{self, Arrays};
use onnxc_search::search::{Goal, Search};
use onnxc_search::{Backend, Error, Recipe, Samples};
use onnxc_targets::Target;

use crate::cli::{self, Budget, Extent, Freedom, Model, Size, Technique};
use crate::commands;
use crate::data::npy;
use crate::fault::{Diagnostic, Done, Fault};
use crate::pipeline;
use backend::Host;

/// Points of the metric that compression may cost where the command line has no limit at all.
const MAX_DROP: f64 = 0.01;

/// A recipe with its arrays.
#[derive(Debug)]
pub struct Loaded {
    /// The text.
    pub recipe: Recipe,
    /// What it refers to.
    pub arrays: Arrays,
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        match e {
            Error::Input(why) => Fault::Model(vec![Diagnostic::new("compress::input", why)]),
            Error::Budget(why) => Fault::Model(vec![Diagnostic::new("compress::budget", why)]),
            Error::Internal(why) => Fault::Internal(why),
        }
    }
}

impl Loaded {
    /// Reads a recipe and the arrays beside it.
    pub fn read(path: &Path) -> Done<Loaded> {
        let text = std::fs::read_to_string(path).map_err(|e| Fault::file(path, e))?;
        let recipe = Recipe::parse(&text).map_err(|e| Fault::file(path, e))?;
        let beside = arrays_of(path);
        let arrays = match read_npz(&beside) {
            Ok(arrays) => arrays,
            Err(e) => return Err(Fault::file(&beside, format!("{e}; it lies beside the recipe and holds its arrays"))),
        };
        if recipe::fingerprint(&arrays) != recipe.arrays {
            return Err(Fault::file(&beside, format!("these are not the arrays that {} was written with", path.display())));
        }
        Ok(Loaded { recipe, arrays })
    }

    /// The files of a recipe.
    pub fn files(&self, path: &Path) -> Done<Vec<(PathBuf, Contents)>> {
        let arrays = npy::encode_npz(&self.arrays).map_err(Fault::Internal)?;
        Ok(vec![(path.to_path_buf(), self.recipe.text()?.into_bytes().into()), (arrays_of(path), arrays.into())])
    }
}

/// Where the arrays of a recipe are.
fn arrays_of(recipe: &Path) -> PathBuf {
    let mut name = recipe.as_os_str().to_os_string();
    name.push(".npz");
    PathBuf::from(name)
}

fn read_npz(path: &Path) -> Result<Arrays, String> {
    npy::parse_npz(&std::fs::read(path).map_err(|e| e.to_string())?)
}

/// The recipe that the command line names, or that a search has found.
fn loaded(freedom: &Freedom) -> Done<Option<Arc<Loaded>>> {
    match (&freedom.found, &freedom.recipe[..]) {
        (Some(found), _) => Ok(Some(found.clone())),
        (None, [path]) => Loaded::read(path).map(|l| Some(Arc::new(l))),
        (None, []) => Ok(None),
        (None, _) => Err(Fault::Usage("several recipes are points of a bundle: add --emit=bundle, or give one".to_string())),
    }
}

/// The text of the recipe that the command line names.
pub fn told(freedom: &Freedom) -> Done<Option<String>> {
    Ok(loaded(freedom)?.map(|l| table::recipe(&l.recipe)))
}

/// What the model's report says of compression: the recipe with its own report.
pub fn report(freedom: &Freedom) -> Done<Option<serde_json::Value>> {
    let json = |l: Arc<Loaded>| serde_json::to_value(&l.recipe).map_err(|e| Fault::Internal(e.to_string()));
    loaded(freedom)?.map(json).transpose()
}

/// The pass: the graph as the recipe wants it, canonical again.
pub fn run(graph: &Graph, target: &Target, freedom: &Freedom, sha256: &[u8; 32]) -> Done<Graph> {
    let Some(loaded) = loaded(freedom)? else { return Ok(graph.clone()) };
    if loaded.recipe.model != hex(sha256) {
        let why = "the recipe is for another model: its SHA-256 is not that of this file".to_string();
        return Err(Error::Input(format!("{why}; make one with --calib")).into());
    }
    let compressed = recipe::apply(graph, &loaded.recipe, &loaded.arrays)?;
    Ok(onnxc_passes::run_within(freedom.math(), onnxc_passes::Phase::Canonicalize, &compressed, &target.desc).0)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A model with calibration inputs.
pub struct Session<'a> {
    model: Model,
    graph: Graph,
    sha256: String,
    samples: Samples,
    host: Host<'a>,
    goal: Goal,
    group: usize,
}

impl<'a> Session<'a> {
    /// Reads everything that a search needs. Without calibration inputs there are generated ones, and a warning.
    pub fn open(model: &Model, target: &'a Target, freedom: &Freedom, budget: &Budget) -> Done<Session<'a>> {
        let arrays = budget.calib.as_deref().map(calibration).transpose()?;
        let model = arrays.as_ref().map_or_else(|| Ok(model.clone()), |arrays| with_sample_shapes(model, arrays))?;
        let (graph, sha256) = pipeline::canonical(&model, target, freedom)?;
        let samples = match (&budget.calib, &arrays) {
            (Some(path), Some(arrays)) => {
                Samples::new(&graph, arrays).map_err(|e| Fault::file(path, e))?.labelled(labels(budget, arrays)?)
            }
            _ => onnxc_search::generated::samples(&graph)?,
        };
        let (host, group) = (Host::new(target, freedom, store::open(budget))?, onnxc_passes::compress::group(&target.desc));
        let goal = goal(budget, freedom, (&graph, &target.desc));
        let session = Session { model, graph, sha256: hex(&sha256), samples, host, goal, group };
        if session.samples.are_generated() {
            session.warn(&without_inputs(session.samples.count));
        }
        Ok(session)
    }

    fn warn(&self, warning: &Diagnostic) {
        self.host.tell(&warning.warning(&self.model.model.display().to_string()));
    }

    /// Measures the model and hands it on, with what tells how many seconds a graph takes here, if this machine is the target.
    pub fn with<T>(&self, f: impl FnOnce(&Search, &dyn Fn(&Graph) -> Done<Option<f64>>) -> Done<T>) -> Done<T> {
        let search = Search::new(&self.host, &self.graph, &self.samples, self.group, &self.sha256, self.goal)?;
        f(&search, &|graph| Ok(self.host.measure(graph, &self.samples.get(0))?))
    }
}

/// What is said where calibration inputs are missing.
fn without_inputs(samples: usize) -> Diagnostic {
    let why = format!(
        "there are no calibration inputs, and {samples} generated ones say little of what the model will see: weights become numbers of 8 or 4 bits by what they \
         are alone, nothing else changes, and half of the drop that is allowed counts as used"
    );
    Diagnostic::new("compress::generated", why).help("pass --calib FILE.npz with a few hundred inputs of the model")
}

/// What is said of a model of which nothing changes.
fn unchanged(samples: &Samples, drop: f64) -> Diagnostic {
    let (count, least) = (samples.count, 100.0 * drop);
    let warning = Diagnostic::new(
        "compress::unchanged",
        "no layer was changed: none may be within the limits, or no change makes the model cheaper",
    );
    if samples.are_generated() {
        return warning
            .help("pass --calib FILE.npz, which permits more than numbers of weights, another --objective, or larger limits");
    }
    warning.help(format!("{count} samples tell losses from {least:.2} % on; more of them tell smaller ones"))
}

/// What the command line limits beside the loss.
fn caps(budget: &Budget, freedom: &Freedom, graph: &Graph) -> Caps {
    let constants = commands::constant_bytes(graph) as f64;
    let weight_bytes = match freedom.max_size {
        Some(Size::Bytes(n)) => Some(n as f64),
        // A model that may grow need not shrink.
        Some(Size::Times(n)) => Some(n * constants).filter(|_| n < 1.0),
        None => None,
    };
    Caps { seconds: budget.max_latency, weight_bytes, arena_bytes: budget.max_ram.map(|n| n as f64) }
}

fn goal(budget: &Budget, freedom: &Freedom, (graph, target): (&Graph, &TargetDesc)) -> Goal {
    use onnxc_search::{metric, price};
    let without = |t: Technique| !budget.without.contains(&t);
    let objective = match budget.objective.unwrap_or_default() {
        cli::Objective::Latency => price::Objective::Latency,
        cli::Objective::Size => price::Objective::Size,
        cli::Objective::Ram => price::Objective::Ram,
        cli::Objective::Energy => price::Objective::Energy,
        cli::Objective::Macs => price::Objective::Macs,
    };
    let caps = caps(budget, freedom, graph);
    let usual = if caps.list().is_empty() { MAX_DROP } else { f64::INFINITY };
    let metric = |m| match m {
        cli::Metric::Top1 => metric::Metric::Top1,
        cli::Metric::Top5 => metric::Metric::Top5,
        cli::Metric::Path => metric::Metric::Path,
        cli::Metric::Characters => metric::Metric::Characters,
        cli::Metric::F1 => metric::Metric::F1,
        cli::Metric::Iou => metric::Metric::Iou,
        cli::Metric::Signal => metric::Metric::Signal,
    };
    let mut goal = Goal {
        objective,
        max_drop: budget.max_drop.unwrap_or(usual),
        caps,
        metric: budget.metric.map(metric),
        integers: without(Technique::Int8),
        short_steps: target.short_steps(),
        words: target.fast_words(),
        weight_only: without(Technique::WeightOnly),
        pruning: without(Technique::Pruning),
        half_panels: onnxc_passes::compress::half_panels(target),
        low_rank: without(Technique::LowRank),
        streams: budget.streams,
        reorder: budget.reorder,
        dynamic: budget.dynamic,
        coded: freedom.weights == Weights::Coded,
        method: onnxc_search::assemble::Method::default(),
    };
    goal.method.range = budget.range.unwrap_or(goal.method.range);
    goal.method.apart = goal.coded && goal.bytes_matter();
    goal
}

/// Searches for a recipe, if the command line has calibration inputs. The model's open inputs have the shapes of the samples then.
pub fn find(model: &Model, target: &Target, freedom: &Freedom, budget: &Budget) -> Done<Option<(Arc<Loaded>, Model)>> {
    if !budget.wants_search() {
        return match budget.says_how() {
            Some(flag) => {
                Err(Fault::Usage(format!("{flag} is about compression: pass --calib FILE.npz, or a limit such as --max-drop 1%")))
            }
            None => Ok(None),
        };
    }
    let session = Session::open(model, target, freedom, budget)?;
    let loaded = session.with(|search, _| {
        let found = search.run()?;
        let found = if budget.no_baselines { found } else { search.or_uniform(found)? };
        let mut recipe = found.assembled.recipe.clone();
        search.describe(&mut recipe, &found);
        let half = 100.0 * search.max_drop();
        if session.samples.are_generated() && half.is_finite() {
            let said = format!("{half:.3} % of {:.3} %: half counts as used, since inputs are generated", 2.0 * half);
            recipe.about.insert("limit of the drop".to_string(), said);
        }
        let report = search.report(&found, !budget.no_baselines)?;
        session.host.tell(&table::summary(&report));
        if found.assembled.recipe.layers.is_empty() {
            session.warn(&unchanged(&session.samples, found.score.drop()));
        }
        recipe.report = Some(report);
        Ok(Loaded { recipe, arrays: found.assembled.arrays })
    })?;
    Ok(Some((Arc::new(loaded), session.model.clone())))
}

/// The labels that the command line names: one of the arrays, or a file.
fn labels(budget: &Budget, arrays: &Arrays) -> Done<Option<Tensor>> {
    let Some(name) = &budget.labels else { return Ok(None) };
    if let Some((_, array)) = arrays.iter().find(|a| a.0 == *name) {
        return Ok(Some(array.clone()));
    }
    let path = Path::new(name);
    if !path.exists() {
        let there: Vec<&str> = arrays.iter().map(|a| a.0.as_str()).collect();
        let why = format!("--labels {name}: neither an array of the calibration inputs ({}) nor a file", there.join(", "));
        return Err(Error::Input(why).into());
    }
    let parsed = std::fs::read(path).map_err(|e| Fault::file(path, e))?;
    npy::parse(&parsed).map(Some).map_err(|e| Fault::file(path, e))
}

/// The arrays of a file, or of all files of a folder behind each other.
fn calibration(path: &Path) -> Done<Arrays> {
    if !path.is_dir() {
        return read_npz(path).map_err(|e| Fault::file(path, e));
    }
    let entries = std::fs::read_dir(path).map_err(|e| Fault::file(path, e))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "npz")).collect();
    files.sort();
    let mut all: Vec<(String, Vec<Tensor>)> = Vec::new();
    for file in &files {
        for (name, tensor) in read_npz(file).map_err(|e| Fault::file(file, e))? {
            match all.iter_mut().find(|a| a.0 == name) {
                Some((_, list)) => list.push(tensor),
                None => all.push((name, vec![tensor])),
            }
        }
    }
    if all.is_empty() {
        return Err(Fault::file(path, "there is no .npz file in this folder"));
    }
    all.into_iter()
        .map(|(name, list)| {
            Ok((name.clone(), joined(&list).ok_or_else(|| Fault::file(path, format!("arrays {name:?} have different samples")))?))
        })
        .collect()
}

/// Arrays behind each other along the leading axis.
fn joined(list: &[Tensor]) -> Option<Tensor> {
    let first = list.first()?;
    let sample = first.shape().get(1..)?;
    let fits = |t: &Tensor| t.dtype() == first.dtype() && t.shape().get(1..) == Some(sample);
    let count = list.iter().map(|t| t.shape().first().copied().unwrap_or(0)).sum();
    let bytes = list.iter().flat_map(|t| t.bytes().iter().copied()).collect();
    let shape = std::iter::once(count).chain(sample.iter().copied()).collect();
    if list.iter().all(fits) { Tensor::from_bytes(first.dtype(), shape, onnxc_ir::tensor::Bytes::new(bytes)) } else { None }
}

/// The model with open inputs fixed to the shapes of samples, where the command line leaves them open.
pub fn with_sample_shapes(model: &Model, arrays: &Arrays) -> Done<Model> {
    let mut model = model.clone();
    let (graph, _) = pipeline::inputs(&model)?;
    for id in &graph.inputs {
        let value = graph.value(*id);
        let open = value.ty.const_shape().is_none() && model.shapes.iter().all(|s| s.0 != value.name);
        let Some((_, array)) = arrays.iter().find(|a| a.0 == value.name).filter(|_| open) else { continue };
        let (rank, shape) = (value.ty.rank(), array.shape());
        let sample: Vec<u64> = if shape.len() == rank {
            std::iter::once(1).chain(shape[1..].iter().copied()).collect()
        } else {
            shape.get(1..).unwrap_or(&[]).to_vec()
        };
        model.shapes.push((value.name.clone(), Extent::numbers(&sample)));
    }
    Ok(model)
}
