//! Which of its ways computes each layer.
//!
//! What   a node gets the attributes `algorithm` and `schedule` of the fastest of its ways, which its lowering obeys.
//! When   after fusion: shapes, epilogues and users are settled, and the layout can still give a way what it needs.
//! Why    the fastest way depends on extents, and on the machine.
//! Class  a schedule is exact; algorithms and lists have the class of the passes that offer them ([`crate::winograd`], [`crate::across`], [`crate::strassen`], [`crate::sparsity`]).
//! Misses nodes of which nobody knows ways, and those that have an attribute already: a graph that is read back keeps its choices.
//!
//! Ways may need different amounts of weights. Where that makes a model larger than it may be, the layers that gain least for their bytes are done
//! with less.

use onnxc_ir::Graph;
use onnxc_ir::graph::Node;
use onnxc_ir::lir::BufKind;
use onnxc_ir::plan::Step;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::workload::{Work, latency};
use onnxc_ops::schedule::{self, Choice};

use crate::layer::{Layer, OWN, layers};
use crate::{Math, across, plan, sparsity, strassen, winograd, with_bodies};

/// A way to compute a layer.
#[derive(Clone, PartialEq, Debug)]
pub struct Way {
    /// The node's attributes.
    pub choice: Choice,
    /// Time of one call, in a unit that all ways of a graph share.
    pub time: f64,
    /// Bytes of the weights as they are kept.
    pub bytes: u64,
}

/// Tells the ways of every node of a graph; none where there is nothing to choose.
pub type Ways<'a> = dyn Fn(&Graph) -> Vec<Vec<Way>> + 'a;

/// The ways of a node by what they are thought to cost; `layer` is what is around it, where that is known, among `around` bytes of constants.
pub fn analytical(
    graph: &Graph,
    node: &Node,
    layer: Option<&Layer>,
    (target, math): (&TargetDesc, Math),
    around: u64,
) -> Vec<Way> {
    let listed = layer.filter(|_| sparsity::fits(graph, node, math));
    let mut ways = listed.map(|layer| sparsity::ways(layer, target, math, around)).unwrap_or_default();
    if let (true, Some(layer)) = (ways.is_empty() && across::fits(graph, node, target, math), layer) {
        ways = across::ways(layer, target, math, around);
    }
    if let (true, Some(layer)) = (ways.is_empty() && strassen::fits(graph, node, math), layer) {
        ways = strassen::ways(layer, target, math, around);
    }
    if !ways.is_empty() || !winograd::permits(graph, node, math) {
        return ways;
    }
    let lowered = layer.filter(|_| winograd::is_small(graph, node, target));
    winograd::ways(graph, node, target, &|choice| Some(way(lowered?, choice.clone(), target, around)?.time))
}

/// The ways of a layer as its lowered code is predicted, among `around` bytes of constants: those `choices` that save at least the part `gain` of the time of the
/// lowering's own choice, with this and the algorithms beside them; none if there is no such choice.
pub(crate) fn by_prediction(
    layer: &Layer,
    choices: impl IntoIterator<Item = Choice>,
    gain: f64,
    (target, math): (&TargetDesc, Math),
    around: u64,
) -> Vec<Way> {
    let way = |choice: Choice| way(layer, choice, target, around);
    let Some(direct) = way(Choice::default()) else { return Vec::new() };
    let better = |way: &Way| way.time < direct.time * (1.0 - gain);
    let mut ways: Vec<Way> = choices.into_iter().filter_map(way).filter(better).collect();
    if !ways.is_empty() {
        ways.push(direct);
        ways.extend(algorithms(layer, target, math).into_iter().map(Choice::algorithm).filter_map(way));
    }
    ways
}

/// The algorithms that compute a layer in tiles.
pub(crate) fn algorithms(layer: &Layer, target: &TargetDesc, math: Math) -> Vec<&'static str> {
    let (node, inputs) = (layer.node(), layer.inputs());
    let weights = schedule::weights(node.op.name).first().copied();
    let (Some(Some(x)), Some(Some(w))) = (inputs.first(), weights.and_then(|i| inputs.get(i))) else { return Vec::new() };
    let allowed = winograd::is_exact(x.dtype) || math.allows(winograd::CLASS);
    let fitting = onnxc_ops::winograd::fitting(node.op.name, &node.attrs, x, w);
    let fitting = fitting.filter(|a| allowed && winograd::has_room(target, a.1));
    fitting.map(|a| a.0).collect()
}

/// A layer computed in one way: cycles by the model of the target.
fn way(layer: &Layer, choice: Choice, target: &TargetDesc, around: u64) -> Option<Way> {
    let plan = plan::plan(&layer.alone(&choice), target).ok()?;
    let own = |step: &Step| match step {
        Step::Call { func, places, origins, .. } if origins.iter().any(|o| o == OWN) => {
            let work = Work::of(func, &[]);
            let traffic = work.traffic(func, places);
            let time = latency::predict(target, &work, &traffic, around, target.lanes == 1).seconds * target.machine.ghz * 1e9;
            let bytes = func.bufs.iter().map(|b| if let BufKind::Const(blob) = &b.kind { blob.bytes() } else { 0 }).sum();
            Some((time, bytes))
        }
        _ => None,
    };
    let steps: Vec<(f64, u64)> = plan.steps.iter().filter_map(own).collect();
    let sum = steps.iter().fold((0.0, 0), |sum, step| (sum.0 + step.0, sum.1 + step.1));
    (!steps.is_empty()).then_some(Way { choice, time: sum.0, bytes: sum.1 })
}

/// The graph with the choices that the model of costs makes.
pub fn by_costs(graph: &Graph, target: &TargetDesc, growth: f64, math: Math) -> Graph {
    run(graph, growth, &|graph| {
        let fits = |node: &Node| {
            winograd::permits(graph, node, math) && winograd::is_small(graph, node, target)
                || sparsity::fits(graph, node, math)
                || across::fits(graph, node, target, math)
                || strassen::fits(graph, node, math)
        };
        let any = graph.nodes.iter().any(fits);
        let layers = if any { layers(graph) } else { graph.nodes.iter().map(|_| None).collect() };
        let ways =
            |(node, layer): (&Node, Option<Layer>)| analytical(graph, node, layer.as_ref(), (target, math), constants(graph));
        graph.nodes.iter().zip(layers).map(ways).collect()
    })
}

/// Bytes of the constants of a graph.
fn constants(graph: &Graph) -> u64 {
    graph.values.iter().filter_map(|v| v.constant.as_ref()).map(|t| t.bytes().len() as u64).sum()
}

/// A node with its ways, the fastest first; later ones need fewer bytes. The first is taken.
struct Candidate {
    node: usize,
    ways: Vec<Way>,
}

/// The graph with a choice for every node that has ways; `growth` is the largest factor by which its constants may grow.
pub fn run(graph: &Graph, growth: f64, ways: &Ways) -> Graph {
    let mut out = with_bodies(graph, &|body| run(body, growth, ways)).unwrap_or_else(|| graph.clone());
    let of_nodes = ways(graph).into_iter().enumerate();
    let mut layers: Vec<Candidate> = of_nodes.filter_map(|(n, ways)| layer(&graph.nodes[n], n, ways)).collect();
    shrink(&mut layers, (constants(graph) as f64 * (growth - 1.0)).max(0.0) as u64);
    for layer in layers {
        layer.ways[0].choice.apply(&mut out.nodes[layer.node].attrs);
    }
    out
}

fn layer(node: &Node, n: usize, mut ways: Vec<Way>) -> Option<Candidate> {
    if Choice::of(&node.attrs) != Choice::default() {
        return None;
    }
    ways.sort_by(|a, b| a.time.total_cmp(&b.time));
    // Only what needs fewer bytes is worth more time.
    let mut least = u64::MAX;
    ways.retain(|w| {
        let better = w.bytes < least;
        least = least.min(w.bytes);
        better
    });
    (!ways.is_empty()).then_some(Candidate { node: n, ways })
}

/// Takes ways of fewer bytes until all layers together need at most `allowed` bytes more than they have to, the least loss of time for each byte first.
fn shrink(layers: &mut [Candidate], allowed: u64) {
    let least = |l: &Candidate| l.ways.last().map_or(0, |w| w.bytes);
    loop {
        let more: u64 = layers.iter().map(|l| l.ways[0].bytes - least(l)).sum();
        if more <= allowed {
            return;
        }
        let loss = |l: &Candidate, next: &Way| (next.time - l.ways[0].time) / (l.ways[0].bytes - next.bytes) as f64;
        let steps =
            layers.iter().enumerate().flat_map(|(i, l)| l.ways[1..].iter().enumerate().map(move |(j, w)| (loss(l, w), i, j)));
        let Some((_, i, j)) = steps.min_by(|a, b| a.0.total_cmp(&b.0)) else { return };
        layers[i].ways.drain(..=j);
    }
}
