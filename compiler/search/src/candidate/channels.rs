//! A part of the channels, for all outputs at once; what is left is fitted again. The layers before compute no others. Where several layers read them, all read the
//! same ones (`crate::streams`).

use onnxc_ir::graph::Node;
use onnxc_ir::{DType, Tensor};
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{self, Balance, Matrix, Moments, Shape, channels, prune};

use super::{Applied, Curve, Form, Part, Probe, Site, Treated, numbers};
use crate::assemble::{Method, Subject};
use crate::recipe::Layer;
use crate::search::Goal;

/// Shares of channels that are tried.
const DENSITIES: &[f64] = &[0.9, 0.8, 0.7, 0.6, 0.5, 0.35];
/// The densities whose effects on the answers are measured ([`Curve::probes`]), or the next ones that drop something.
const PROBES: [usize; 3] = [4, 1, 5];
/// Layers with fewer channels are left alone.
const LEAST: usize = 16;

/// The form.
pub struct Channels;

impl Form for Channels {
    fn name(&self) -> &'static str {
        "channels"
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.pruning
    }

    fn densities(&self) -> &'static [f64] {
        DENSITIES
    }

    fn fits(&self, layer: &Weighted) -> bool {
        layer.groups == 1 && layer.channels >= LEAST && !layer.before.is_empty()
    }

    fn left(&self, subject: &Subject, layer: &Weighted, density: f64) -> f64 {
        many(subject, layer, density) as f64 / layer.channels as f64
    }

    fn reads_less(&self) -> bool {
        true
    }

    fn by_numbers(&self) -> bool {
        false
    }

    fn curve(&self, site: &Site, known: (&Moments, &Moments), method: Method) -> Option<Curve> {
        let all = dropped(site, DENSITIES, known, method);
        let error = |p: &compress::Pruned| p.check_error.unwrap_or(p.error);
        // What drops nothing is no candidate.
        let less = |d: f64| many(site.subject, site.layer, d) < site.layer.channels;
        let at = |(d, p): (&f64, &compress::Pruned)| (*d, if less(*d) { error(p) } else { f64::INFINITY });
        Some(Curve {
            errors: DENSITIES.iter().zip(&all).map(at).collect(),
            probes: PROBES.map(|from| {
                let n = (from..DENSITIES.len()).find(|n| less(DENSITIES[*n])).unwrap_or(from);
                Probe::of(&all[n])
            }),
        })
    }

    fn fitted(&self, site: &Site, density: f64, known: (&Moments, &Moments), method: Method) -> Treated {
        let one = dropped(site, &[density], known, method).into_iter().next().expect("internal: search: one density, one result");
        let error = one.check_error.unwrap_or(one.error);
        treated(site, &one.kept[0], &one.weights, Some((known.0, method)), &one.bias_shift, error)
    }

    /// Channels are the first ones, since only their number matters.
    fn rough(&self, site: &Site, density: f64) -> Treated {
        let kept: Vec<u32> = (0..many(site.subject, site.layer, density) as u32).collect();
        treated(site, &kept, &site.matrix(), None, &vec![0.0; site.layer.n], 0.0)
    }

    fn bytes(&self, site: &Site, density: f64) -> f64 {
        let kept = many(site.subject, site.layer, density) * site.layer.taps;
        (site.layer.n * kept) as f64 * site.numbers.bytes()
    }

    fn apply(&self, cx: &mut Applied, found: &Weighted, layer: &Layer) -> Result<Vec<Node>, String> {
        let [many] = layer.ranks[..] else {
            return Err(format!("the form {:?} has one rank, the number of channels, not {}", self.name(), layer.ranks.len()));
        };
        let kept = cx.array(&layer.arrays, "kept", DType::I32, &[many as u64])?.to_vec::<i32>();
        let kept: Vec<u32> = kept.into_iter().filter_map(|c| u32::try_from(c).ok()).collect();
        let ascending = kept.windows(2).all(|p| p[0] < p[1]) && kept.last().is_some_and(|c| (*c as usize) < found.channels);
        if kept.len() != many || !ascending || found.groups != 1 {
            return Err(format!("its channels must be ascending and among its {}", found.channels));
        }
        cx.shift(found, layer)?;
        let less = channels::put(cx.graph, cx.ops, found, &kept);
        Ok(numbers(layer.weights).put(cx, &less, &layer.arrays)?.into_iter().collect())
    }
}

/// How many channels a density leaves: whole vectors of the target, or halves where there are few, so that the layers before fill theirs.
fn many(subject: &Subject, layer: &Weighted, density: f64) -> usize {
    let (all, lanes) = (layer.channels, (subject.group / 2).max(4));
    let step = if all >= 8 * lanes { lanes } else { (lanes / 2).max(4) };
    ((density * all as f64 / step as f64).round() as usize * step).clamp(step.min(all), all)
}

/// The layer at some densities.
fn dropped(site: &Site, densities: &[f64], known: (&Moments, &Moments), method: Method) -> Vec<compress::Pruned> {
    let Weighted { n, channels, taps, .. } = *site.layer;
    let shape = Shape::structured(n, channels, taps);
    let Method { mask, repair, damping, .. } = method;
    if let Some(order) = site.order {
        let kept: Vec<Vec<u32>> = densities.iter().map(|density| left(site.subject, site.layer, *density, order)).collect();
        return compress::keep(&site.matrix(), (known.0, Some(known.1)), &shape, &kept, repair, damping);
    }
    let densities: Vec<f64> = densities.iter().map(|d| many(site.subject, site.layer, *d) as f64 / channels as f64).collect();
    prune(&site.matrix(), known.0, Some(known.1), &shape, &densities, mask, repair, Balance::Equal, damping)
}

/// The channels that a density leaves, ascending: those that go last.
pub fn left(subject: &Subject, layer: &Weighted, density: f64, order: &[u32]) -> Vec<u32> {
    let gone = &order[..(layer.channels - many(subject, layer, density)).min(order.len())];
    (0..layer.channels as u32).filter(|c| !gone.contains(c)).collect()
}

/// The layer with some of its channels, its weights rounded for moments if there are any.
fn treated(site: &Site, kept: &[u32], weights: &Matrix, known: Option<(&Moments, Method)>, shift: &[f32], error: f64) -> Treated {
    let (less, at) = (channels::narrowed(site.layer, kept.len()), channels::positions(site.layer, kept));
    let weights = channels::columns(weights, &at);
    let factors = site.factors().map(|factors| kept.iter().map(|c| factors[*c as usize]).collect());
    let part = Part { layer: &less, weights: &weights, factors, numbers: site.numbers };
    let coded = match known {
        Some((moments, method)) => part.fitted((&moments.only(&at), None), None, method),
        None => part.rough(),
    };
    let density = kept.len() as f64 / site.layer.channels as f64;
    let mut treated = Treated::single(coded, shift, error, density);
    let kept: Vec<i32> = kept.iter().map(|c| *c as i32).collect();
    treated.arrays.push(("kept".to_string(), Tensor::from_vec(&[kept.len() as u64], kept)));
    treated.ranks = vec![treated.arrays.last().map_or(0, |a| a.1.len())];
    treated
}

#[cfg(test)]
mod tests {
    use onnxc_ir::op::OpSet;
    use onnxc_ir::{Attr, Attrs, Graph, TensorType, ValueId, interp, verify};
    use onnxc_passes::canonicalize::channels as exact;
    use onnxc_passes::compress::weighted::{layers, replace, shift};

    use super::*;
    use crate::recipe::{Activation, Arrays, Recipe, Weights, apply};

    const KEPT: [u32; 3] = [1, 2, 6];

    fn numbers_of(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    /// x [1, 3, 5, 4] -> expand (8) -> relu -> depthwise 3 by 3 -> project (6); with `shared` something else reads what is projected.
    fn graph(shared: bool) -> Graph {
        let mut graph = Graph::new("test");
        let ops = OpSet(onnxc_ops::ALL);
        let x = graph.add_input("x", TensorType::fixed(DType::F32, &[1, 3, 5, 4]));
        let constant = |graph: &mut Graph, shape: &[u64], seed| {
            graph.add_const("w", Tensor::from_vec(shape, numbers_of(shape.iter().product::<u64>() as usize, seed)))
        };
        let node = |graph: &mut Graph, op: &str, name: &str, inputs: &[ValueId], attrs: Attrs, channels: u64| {
            let y = graph.add_value(name, TensorType::fixed(DType::F32, &[1, channels, 5, 4]), None);
            let op = ops.get(op).expect("an operator");
            let inputs = inputs.iter().copied().map(Some).collect();
            graph.nodes.push(Node { op, inputs, outputs: vec![y], attrs, origins: vec![name.to_string()] });
            y
        };
        let [w, b, d, p, c] =
            [(&[8, 3, 1, 1][..], 1), (&[8][..], 2), (&[8, 1, 3, 3][..], 3), (&[6, 8, 1, 1][..], 4), (&[6][..], 5)]
                .map(|(shape, seed)| constant(&mut graph, shape, seed));
        let y = node(&mut graph, "conv", "expand", &[x, w, b], Attrs::default(), 8);
        let y = node(&mut graph, "relu", "act", &[y], Attrs::default(), 8);
        let deep = Attrs::default().with("group", Attr::Int(8)).with("pads", Attr::Ints(vec![1; 4]));
        let deep = node(&mut graph, "conv", "deep", &[y, d], deep, 8);
        let y = node(&mut graph, "conv", "project", &[deep, p, c], Attrs::default(), 6);
        graph.outputs = if shared { vec![y, deep] } else { vec![y] };
        graph
    }

    fn project(graph: &Graph) -> Weighted {
        layers(graph).into_iter().find(|l| l.name == "project").expect("a layer")
    }

    fn recipe(weights: Weights) -> (Recipe, Arrays) {
        let less = channels::narrowed(&project(&graph(false)), KEPT.len());
        let matrix = Matrix { n: 6, k: 3, values: numbers_of(18, 8) };
        let coded = numbers(weights).rough(&less, &matrix).arrays.into_iter();
        let mut arrays: Arrays = coded.map(|(what, tensor)| (format!("a.{what}"), tensor)).collect();
        arrays.push(("a.kept".to_string(), Tensor::from_vec(&[3], KEPT.map(|c| c as i32).to_vec())));
        arrays.push(("a.shift".to_string(), Tensor::from_vec(&[6], vec![0.5f32; 6])));
        let (name, form, arrays_of) = ("project".to_string(), "channels".to_string(), "a".to_string());
        let (group, unit, ranks, factors, orders) = (None, None, vec![3], None, Vec::new());
        let (density, error) = (0.375, 0.25);
        let layer = Layer { name, form, weights, density, group, unit, ranks, error, factors, orders, arrays: arrays_of };
        let activation = Activation { value: "deep".to_string(), scale: 0.06, zero: 128, bits: 8, factors: None };
        let activations = if weights == Weights::Int8 { vec![activation] } else { Vec::new() };
        let (model, version) = ("0".to_string(), crate::recipe::VERSION);
        let fingerprint = crate::recipe::fingerprint(&arrays);
        (Recipe { version, model, arrays: fingerprint, layers: vec![layer], activations, ..Recipe::default() }, arrays)
    }

    fn run(graph: &Graph) -> Vec<f32> {
        interp::run(graph, &[Tensor::from_vec(&[1, 3, 5, 4], numbers_of(60, 9))]).expect("values")[0].to_vec()
    }

    /// The whole layer with zeros for all other channels.
    fn expected() -> Vec<f32> {
        let mut graph = graph(false);
        let layer = project(&graph);
        let mut values = vec![0f32; 48];
        for (i, v) in numbers_of(18, 8).into_iter().enumerate() {
            values[i / 3 * 8 + KEPT[i % 3] as usize] = v;
        }
        shift(&mut graph, &layer, &[0.5; 6]);
        replace(&mut graph, &layer, Tensor::from_vec(&layer.shape(), layer.operand(&values)));
        run(&graph)
    }

    #[test]
    fn layers_before_compute_what_is_read_and_no_more() {
        for weights in [Weights::F32, Weights::Int8] {
            let (recipe, arrays) = recipe(weights);
            assert_eq!(Recipe::parse(&recipe.text().expect("text")).expect("a recipe"), recipe);
            let made = apply(&graph(false), &recipe, &arrays).expect("a graph");
            verify::verify(&made).unwrap_or_else(|e| panic!("{weights:?}: {e:?}"));
            let least = onnxc_egraph::rewrite(&made, OpSet(onnxc_ops::ALL), &exact::rules(), &Sizes, Default::default()).0;
            verify::verify(&least).unwrap_or_else(|e| panic!("{weights:?}: {e:?}"));
            assert!(least.nodes.iter().all(|n| n.op.name != "gather"), "{weights:?}: {:?}", least.nodes);
            let filters = |name: &str| {
                let node = least.nodes.iter().find(|n| n.origins.iter().any(|o| o == name)).expect("a layer");
                least.ty(node.inputs[1].expect("weights")).const_shape().expect("known extents")[0]
            };
            assert_eq!((filters("expand"), filters("deep")), (3, 3), "{weights:?}");
            let (want, got) = (expected(), run(&least));
            let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            let apart = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let allowed = if weights == Weights::F32 { 1e-6 } else { 0.05 };
            assert!(apart <= allowed * most, "{weights:?}: {apart} of {most}");
        }
    }

    /// Bytes of results: fewer channels are cheaper.
    struct Sizes;

    impl onnxc_egraph::CostModel for Sizes {
        fn cost(&self, _: &onnxc_ir::op::OpDef, _: &Attrs, _: &[Option<onnxc_egraph::Operand>], outputs: &[TensorType]) -> f64 {
            outputs.iter().filter_map(TensorType::least_bytes).sum::<u64>() as f64
        }
    }

    #[test]
    fn channels_that_others_need_stay() {
        let before = |shared: bool| project(&graph(shared)).before;
        assert_eq!(before(false), [0, 1, 2]);
        assert_eq!(before(true), [0usize; 0]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let (good, arrays) = recipe(Weights::F32);
        let told = |change: &dyn Fn(&mut Layer), kept: [i32; 3]| {
            let (mut recipe, mut arrays) = (good.clone(), arrays.clone());
            change(&mut recipe.layers[0]);
            arrays.iter_mut().filter(|a| a.0 == "a.kept").for_each(|a| a.1 = Tensor::from_vec(&[3], kept.to_vec()));
            apply(&graph(false), &recipe, &arrays).expect_err("a complaint").to_string()
        };
        assert!(told(&|l| l.ranks.clear(), [0, 1, 2]).contains("has one rank"), "no rank");
        assert!(told(&|l| l.ranks = vec![2], [0, 1, 2]).contains("a.kept"), "another rank");
        assert!(told(&|_| (), [0, 1, 8]).contains("ascending and among its 8"), "a channel that is not there");
        assert!(told(&|_| (), [2, 1, 3]).contains("ascending"), "another order");
        assert!(told(&|_| (), [-1, 1, 3]).contains("ascending"), "less than none");
    }
}
