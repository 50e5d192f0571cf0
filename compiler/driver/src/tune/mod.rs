//! `--tune`: the ways of each distinct layer are measured on this machine, and the fastest is taken.
//!
//! A layer is compiled alone ([`onnxc_passes::layer`]) in every way that the lowering has for it ([`onnxc_ops::schedule::candidates`]) and run by the
//! JIT ([`measure`]). Results are kept in a file ([`cache`]), and what is there is not measured again: the same model and the same file give the same
//! bytes.

mod cache;
mod measure;

use std::collections::BTreeMap;
use std::path::PathBuf;

use onnxc_ir::plan::Plan;
use onnxc_ir::{Attr, Graph};
use onnxc_ops::schedule::{self, Choice};
use onnxc_passes::choose::{self, Way};
use onnxc_passes::layer::{Layer, layers};
use onnxc_passes::{plan, sparsity, strassen, winograd};
use onnxc_targets::Target;

use crate::cli::{Freedom, Math, Tuning};
use crate::commands::constant_bytes;
use crate::fault::{Done, Fault};
use crate::progress::Progress;
use cache::{Cache, Machine};

/// Nanoseconds of a layer in each of its ways.
pub type Times = BTreeMap<Choice, u64>;

/// What the lowering chooses by itself stays unless another way is faster by more than measurements differ.
const NOISE: f64 = 0.05;
/// Layers with more bytes of weights are as fast as memory in any way, and packing them in all ways takes long.
const MOST_WEIGHTS: u64 = 64 << 20;
/// The layers of models with more bytes of constants find none of their weights in caches.
const COLD: u64 = 64 << 20;

/// The graph with the measured choice of every layer; what has not been measured is chosen by the model of costs.
pub fn run(graph: &Graph, (target, freedom): (&Target, &Freedom), growth: f64, progress: &Progress) -> Done<Graph> {
    on_this_machine(target)?;
    let path = path(&freedom.tuning)?;
    let around = rounded(constant_bytes(graph)).min(COLD);
    let machine = Machine::of(target, freedom.math == Math::Fast, around);
    let mut cache = Cache::read(&path, machine);
    let measured = measure_missing(graph, (target, freedom), around, &cache, progress)?;
    if !measured.is_empty() {
        cache.add(measured)?;
    }
    let ways = |graph: &Graph| -> Vec<Vec<Way>> {
        let of = |(node, layer): (_, Option<Layer>)| {
            let times = layer.as_ref().and_then(|l| cache.get(&l.signature()).map(|t| ways(graph, l, t, target)));
            times.unwrap_or_else(|| choose::analytical(graph, node, layer.as_ref(), (&target.desc, freedom.math()), around))
        };
        graph.nodes.iter().zip(layers(graph)).map(of).collect()
    };
    Ok(choose::run(graph, growth, &ways))
}

/// Bytes, up to an eighth more: models of nearly one size share measurements. Twice as many would leave caches in which the model has room.
fn rounded(bytes: u64) -> u64 {
    bytes.next_multiple_of((bytes.next_power_of_two() / 16).max(1))
}

/// Measured ways of a layer.
fn ways(graph: &Graph, layer: &Layer, times: &Times, target: &Target) -> Vec<Way> {
    let usual = candidates(layer, target, onnxc_passes::Math::Fast).into_iter().next();
    let way = |(choice, ns): (&Choice, &u64)| {
        let time = *ns as f64 * if usual.as_ref() == Some(choice) { 1.0 - NOISE } else { 1.0 };
        Way { choice: choice.clone(), time, bytes: winograd::bytes(graph, layer.node(), choice).unwrap_or(0) }
    };
    // The same layer may have been measured in a model that permits more.
    let halves = strassen::permits(graph, layer.node(), onnxc_passes::Math::Fast);
    times.iter().filter(|(choice, _)| halves || !choice.is_strassen()).map(way).collect()
}

fn candidates(layer: &Layer, target: &Target, math: onnxc_passes::Math) -> Vec<Choice> {
    let (node, inputs, bounded) = (layer.node(), layer.inputs(), math.allows(winograd::CLASS));
    let weights = schedule::weights(node.op.name).first().copied().unwrap_or(1);
    let constant = layer.is_constant(weights);
    let mut list = schedule::candidates(node.op.name, &node.attrs, &inputs, (constant, bounded), &target.desc);
    if sparsity::fits(layer.graph(), node, math) {
        list.extend(sparsity::choices(layer, &target.desc, math));
    }
    if strassen::permits(layer.graph(), node, math) {
        list.extend(schedule::strassen(&target.desc));
    }
    list
}

/// Times of all layers of a graph and its bodies that the cache does not have.
fn measure_missing(
    graph: &Graph,
    (target, freedom): (&Target, &Freedom),
    around: u64,
    cache: &Cache,
    progress: &Progress,
) -> Done<BTreeMap<String, Times>> {
    let mut missing = BTreeMap::new();
    collect(graph, &mut |layer| {
        let signature = layer.signature();
        let known = cache.get(&signature).is_some() || missing.contains_key(&signature);
        if known || layer.constant_bytes() > MOST_WEIGHTS || Choice::of(&layer.node().attrs) != Choice::default() {
            return;
        }
        let plans = plans(layer, target, freedom.math());
        if plans.len() > 1 {
            missing.insert(signature, plans);
        }
    });
    progress.count("measuring layers", missing.len() as u64);
    let mut bench = measure::Bench::new(target, around);
    let mut measured = BTreeMap::new();
    for (signature, plans) in missing {
        measured.insert(signature, bench.times(&plans)?);
        progress.advance();
    }
    Ok(measured)
}

fn collect(graph: &Graph, f: &mut dyn FnMut(&Layer)) {
    layers(graph).iter().flatten().for_each(&mut *f);
    for attr in graph.nodes.iter().flat_map(|n| n.attrs.0.values()) {
        if let Attr::Graph(body) = attr {
            collect(body, f);
        }
    }
}

/// The ways to compute a layer that come out as different code.
fn plans(layer: &Layer, target: &Target, math: onnxc_passes::Math) -> Vec<(Choice, Plan)> {
    let mut plans: Vec<(Choice, Plan)> = Vec::new();
    for choice in candidates(layer, target, math) {
        // What has no code alone has none in the model either, where that is told.
        let Ok(plan) = plan::plan(&layer.alone(&choice), &target.desc) else { return Vec::new() };
        if plans.iter().all(|(_, p)| p.steps != plan.steps || p.weights != plan.weights) {
            plans.push((choice, plan));
        }
    }
    plans
}

/// Refuses targets whose code says nothing about this machine.
fn on_this_machine(target: &Target) -> Done<()> {
    let host = target_lexicon::Triple::host();
    let cpu = if cfg!(target_arch = "x86_64") { "native" } else { "" };
    let here = onnxc_targets::describe(&host.to_string(), cpu, 1).map_err(|e| Fault::Usage(e.to_string()))?;
    if target.isa.triple().architecture != host.architecture {
        let why = format!("--tune measures on this machine, and the target is {}", target.desc.triple);
        return Err(Fault::Usage(format!("{why}: leave --tune out, or tune on such a machine")));
    }
    if target.required_features != here.required_features {
        let why = format!("--tune measures on this machine, whose CPU has other features than {:?}", target.desc.cpu);
        return Err(Fault::Usage(format!("{why}: pass --cpu native, or leave --tune out")));
    }
    Ok(())
}

/// The file of measurements: what the command line says, else the user's cache folder (XDG Base Directory Specification).
fn path(tuning: &Tuning) -> Done<PathBuf> {
    if let Some(path) = &tuning.tune_cache {
        return Ok(path.clone());
    }
    let missing =
        || Fault::Usage("neither XDG_CACHE_HOME nor HOME says where measurements are kept: pass --tune-cache FILE".into());
    cache_folder().map(|c| c.join("tune.jsonl")).ok_or_else(missing)
}

/// Our part of the user's cache folder, if there is one.
pub fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    cache.map(|c| c.join("onnxc"))
}
