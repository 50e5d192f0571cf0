//! The choice: the model as an e-graph in which every layer has its candidates, and what is extracted from it within a limit of error.
//!
//! Each kind of candidate ([`crate::candidate::kinds`]) is a lossy rule (`onnxc_egraph::lossy`): it adds a form to the class of every layer that can be of it, with
//! its measured error and what it takes. A kind that reads some channels only needs the layers before in part: parts are classes of their own, with the same
//! candidates at a share of the price. Where several layers read the channels of others, a stream, they have to choose alike: what is read of streams is tried from
//! outside, at the price of error that the limit makes, and all other choices are made within it. The rest of the graph, as it was planned and measured, is exact e-nodes
//! whose share no choice changes. Extraction (`onnxc_egraph::constrained`) is by one price, to which caps add theirs with multipliers ([`crate::budget`]).

use onnxc_egraph::Id;
use onnxc_egraph::constrained::Problem;
use onnxc_egraph::convert::{Converted, to_egraph};
use onnxc_egraph::lossy::{self, Form, Layer, LossyRule, Measured, Priced};
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, ValueId};
use onnxc_passes::compress::weighted::Weighted;

use crate::price::{Objective, Prices};
use crate::{Error, Result};

/// A choice.
#[derive(Clone, PartialEq, Debug)]
pub struct Chosen {
    /// For each layer the number of its kind of candidate.
    pub picks: Vec<usize>,
    /// Sum of prices.
    pub price: f64,
    /// Sum of errors.
    pub error: f64,
    /// No choice within the limit that has as much of every stream is cheaper than `price * (1 - gap)`.
    pub gap: f64,
    /// What error costs at the limit: among candidates of a layer the one with the least `price + weight * error` is chosen, but for what single steps of
    /// error decide.
    pub weight: f64,
}

/// What layers can be.
#[derive(Default)]
pub struct Choices {
    problem: Problem,
    /// For each layer its class, and those of its parts.
    classes: Vec<Vec<Id>>,
    streams: Vec<Stream>,
    /// For each layer the streams that it reads, and that it is before.
    reads: Vec<Option<usize>>,
    before: Vec<Option<usize>>,
    /// For each layer and kind the share of the channels that it reads.
    left: Vec<Vec<f64>>,
}

/// Values that several layers read.
struct Stream {
    /// The shares of their channels that all these layers can read, below 1.
    shares: Vec<f64>,
}

/// What is read of each stream: one of its shares, or all.
type Read = Vec<Option<f64>>;

/// Prices of error at which streams are looked at, in those of the choice that leaves them whole.
const PRICES: [f64; 3] = [1.0, 0.25, 4.0];
/// How often what is read of each stream is looked at again when that of others has changed.
const SWEEPS: usize = 2;

/// A kind of candidate as a rule: what was measured of all layers in it.
struct Kind<'a> {
    number: usize,
    /// What panels of filters share is lost when some of them go.
    panels: bool,
    errors: &'a [Vec<f64>],
    prices: &'a Prices,
    /// Shares of channels that are read, below 1.
    shares: &'a [f64],
    /// The streams that layers read.
    streams: &'a [Option<usize>],
}

impl LossyRule for Kind<'_> {
    fn measured(&self, layer: usize, part: Option<usize>) -> Option<Measured> {
        let error = self.errors[layer][self.number];
        if !error.is_finite() || (self.panels && part.is_some()) {
            return None;
        }
        let left = self.prices.left(layer, self.number);
        let alone = self.streams[layer].is_none();
        let reads = self.shares.iter().position(|share| *share == left && alone);
        let takes = self.prices.takes(layer, self.number, part.map_or(1.0, |part| self.shares[part]));
        Some(Measured { error, takes, reads })
    }
}

/// The kind of a form: layers as they are are of the first one.
fn kind(priced: &Priced) -> usize {
    match &priced.form {
        Form::Exact(_) => 0,
        Form::Lossy(lossy) => lossy.rule,
    }
}

impl Choices {
    /// The choices that a graph has when errors `[layer][kind]` and prices are these; an infinite error says that a layer cannot be of a kind. `panels` says of
    /// each kind whether panels of filters share something.
    ///
    /// # Errors
    /// None but ours.
    pub fn new(graph: &Graph, layers: &[Weighted], errors: &[Vec<f64>], prices: &Prices, panels: &[bool]) -> Result<Choices> {
        let mut converted = to_egraph(graph, OpSet(onnxc_ops::ALL));
        let Streams { streams, reads, before } = Streams::of(layers, prices, panels.len());
        // The layer behind others, if it is one: what is read of streams is no part of the e-graph.
        let alone = |above: &Option<usize>| above.filter(|above| layers[*above].together.is_empty());
        let behind: Vec<Option<usize>> = prices.behind().iter().map(alone).collect();
        let all: Vec<Layer> = (0..layers.len()).map(|n| site(graph, &converted, layers, &behind, n)).collect();
        let left: Vec<Vec<f64>> =
            (0..layers.len()).map(|layer| (0..panels.len()).map(|kind| prices.left(layer, kind)).collect()).collect();
        let shares = below_one(left.iter().zip(layers).filter(|(_, l)| l.together.is_empty()).flat_map(|(left, _)| left));
        let rule =
            |(number, panels): (usize, &bool)| Kind { number, panels: *panels, errors, prices, shares: &shares, streams: &reads };
        let kinds: Vec<Kind> = panels.iter().enumerate().map(rule).collect();
        let rules: Vec<&dyn LossyRule> = kinds.iter().map(|k| k as &dyn LossyRule).collect();
        let classes = lossy::apply(&mut converted.egraph, &all, &rules);
        let problem = Problem::new(&converted.egraph, &converted.roots, &converted.original)
            .ok_or_else(|| Error::Internal("the model's own form is no choice".to_string()))?;
        Ok(Choices { problem, classes, streams, reads, before, left })
    }

    /// The choice with the least sum of prices by these weights whose errors sum up to `limit` at most, without candidates whose steps need more of the arena
    /// than `ceiling`; `None` when there is none. Which part of streams is read is the best that was found: by single changes, at some prices of error.
    pub fn cheapest(&self, limit: f64, weights: &[(Objective, f64)], ceiling: f64) -> Option<Chosen> {
        let prices = (weights, ceiling);
        let mut tried: Vec<Read> = vec![vec![None; self.streams.len()]];
        let mut best = self.cheapest_of(&tried[0], limit, prices)?;
        for price in PRICES.map(|price| price * best.weight) {
            let read = self.read_at(price, prices);
            if !tried.contains(&read) {
                best = self.cheapest_of(&read, limit, prices).filter(|found| found.price < best.price).unwrap_or(best);
                tried.push(read);
            }
        }
        Some(best)
    }

    /// The cheapest choice that reads so much of streams.
    fn cheapest_of(&self, read: &Read, limit: f64, prices: (&[(Objective, f64)], f64)) -> Option<Chosen> {
        let extracted = self.problem.cheapest(limit, |priced| self.price(priced, read, prices))?;
        let form = |class: &Id| self.problem.forms(*class).nth(*extracted.forms.get(class)?).map(kind);
        // What nothing needs stays as it is.
        let picks = self.classes.iter().map(|classes| classes.iter().find_map(form).unwrap_or(0)).collect();
        let (price, error) = (extracted.price, extracted.error);
        Some(Chosen { picks, price, error, gap: extracted.gap, weight: extracted.weight })
    }

    /// What is best read of streams where error has a price: by single changes.
    fn read_at(&self, price: f64, prices: (&[(Objective, f64)], f64)) -> Read {
        let least = |read: &Read| self.problem.least(price, |priced| self.price(priced, read, prices));
        let mut best: Read = vec![None; self.streams.len()];
        let mut value = if self.streams.is_empty() { 0.0 } else { least(&best) };
        for _ in 0..SWEEPS {
            let before = best.clone();
            for (n, stream) in self.streams.iter().enumerate() {
                for share in std::iter::once(None).chain(stream.shares.iter().copied().map(Some)) {
                    let mut read = best.clone();
                    read[n] = share;
                    let other = least(&read);
                    if other < value {
                        (best, value) = (read, other);
                    }
                }
            }
            if best == before {
                break;
            }
        }
        best
    }

    /// What a form costs where so much of streams is read; `None` where it cannot be chosen then.
    fn price(&self, priced: &Priced, read: &Read, (weights, ceiling): (&[(Objective, f64)], f64)) -> Option<f64> {
        let (layer, kind) = priced.of?;
        let share = self.before[layer].and_then(|stream| read[stream]);
        let wanted = self.reads[layer].map(|stream| read[stream].unwrap_or(1.0));
        if wanted.is_some_and(|wanted| wanted != self.left[layer][kind]) {
            return None;
        }
        let scale = |of: Objective| if of == Objective::Ram { 1.0 } else { share.unwrap_or(1.0) };
        let sum = || weights.iter().map(|(of, weight)| weight * priced.takes[*of as usize] * scale(*of)).sum::<f64>();
        (priced.takes[Objective::Ram as usize] <= ceiling).then(sum)
    }

    /// The error of a layer in a kind; infinite where it cannot be of it.
    pub fn error(&self, layer: usize, wanted: usize) -> f64 {
        let mut forms = self.problem.forms(self.classes[layer][0]);
        forms.find(|priced| kind(priced) == wanted).map_or(f64::INFINITY, |priced| priced.error)
    }

    /// The kinds that a layer can be of whatever others are, as it is among them, ascending.
    pub fn kinds(&self, layer: usize) -> impl Iterator<Item = usize> {
        let alone = move |kind: &usize| self.reads[layer].is_none() || self.left[layer][*kind] == 1.0;
        self.problem.forms(self.classes[layer][0]).map(kind).filter(alone)
    }

    /// The largest sum of errors that a choice can have.
    pub fn most_error(&self) -> f64 {
        let worst = |classes: &Vec<Id>| self.problem.forms(classes[0]).map(|priced| priced.error).fold(0.0, f64::max);
        self.classes.iter().map(worst).sum()
    }
}

/// The streams of a model.
struct Streams {
    streams: Vec<Stream>,
    reads: Vec<Option<usize>>,
    before: Vec<Option<usize>>,
}

impl Streams {
    fn of(layers: &[Weighted], prices: &Prices, kinds: usize) -> Streams {
        let none = || vec![None; layers.len()];
        let mut found = Streams { streams: Vec::new(), reads: none(), before: none() };
        for first in 0..layers.len() {
            let Weighted { together, before, .. } = &layers[first];
            if together.is_empty() || found.reads[first].is_some() {
                continue;
            }
            let stream = found.streams.len();
            let of = |nodes: &[usize]| (0..layers.len()).filter(|n| nodes.contains(&layers[*n].node)).collect::<Vec<usize>>();
            of(together).into_iter().for_each(|n| found.reads[n] = Some(stream));
            of(before).into_iter().for_each(|n| found.before[n] = Some(stream));
            let lefts: Vec<f64> = (0..kinds).map(|kind| prices.left(first, kind)).collect();
            found.streams.push(Stream { shares: below_one(lefts.iter()) });
        }
        found
    }
}

/// Shares below 1, ascending.
fn below_one<'a>(shares: impl Iterator<Item = &'a f64>) -> Vec<f64> {
    let mut shares: Vec<f64> = shares.copied().filter(|share| *share < 1.0).collect();
    shares.sort_by(f64::total_cmp);
    shares.dedup();
    shares
}

/// A layer as rules see it. `behind` are the layers that read the channels of others alone.
fn site(graph: &Graph, converted: &Converted, layers: &[Weighted], behind: &[Option<usize>], n: usize) -> Layer {
    let class_of =
        |value: ValueId| converted.values[value.0 as usize].expect("internal: search: a value that is read has a class");
    let varying = |value: &ValueId| graph.constant(*value).is_none();
    // Operands of a node, but for results of these nodes.
    let outside = |node: usize, nodes: &[usize]| -> Vec<Id> {
        let inside = |value: &ValueId| nodes.iter().any(|other| graph.nodes[*other].outputs.contains(value));
        let operands = graph.nodes[node].inputs.iter().flatten().copied();
        operands.filter(|value| varying(value) && !inside(value)).map(class_of).collect()
    };
    let layer = &layers[n];
    let class = class_of(graph.nodes[layer.node].outputs[0]);
    let before: Vec<usize> = (0..layers.len()).filter(|other| behind[*other] == Some(n)).collect();
    let is_layer = |node: &usize| before.iter().any(|other| layers[*other].node == *node);
    let between = layer.before.iter().filter(|node| !is_layer(node)).flat_map(|node| outside(*node, &layer.before)).collect();
    let around = behind[n].map_or(&[][..], |above| &layers[above].before);
    Layer { class, node: converted.original.0[&class].clone(), before, between, own: outside(layer.node, around) }
}

#[cfg(test)]
mod tests {
    use onnxc_ir::parse;
    use onnxc_passes::compress::weighted::layers;
    use serde_json::json;

    use super::*;

    /// Layers `a` and `b` have the same weights and operand, `c` has another operand.
    const GRAPH: &str = "graph @g(%x: f32[2,4]) {
  %w = const f32[4,4] [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7]
  %a = matmul %x, %w : f32[2,4] @\"a\"
  %b = matmul %x, %w : f32[2,4] @\"b\"
  %s = add %a, %b : f32[2,4]
  %c = matmul %s, %w : f32[2,4] @\"c\"
  %d = relu %c : f32[2,4]
  return %d
}";

    /// Three kinds: as it is, one with half the price, and one with a tenth that `c` cannot be of. `links` are the layers behind, and the shares of
    /// channels that the second kind of each layer leaves.
    fn choices(links: Option<(Vec<Option<usize>>, [f64; 3])>) -> Choices {
        let graph = parse::parse(GRAPH, OpSet(onnxc_ops::ALL), &|_| None).unwrap_or_else(|e| panic!("{e}"));
        let none = f64::INFINITY;
        let errors = [vec![0.0, 0.1, 0.3], vec![0.0, 0.1, 0.3], vec![0.0, 0.1, none]];
        let table = |scale: f64| {
            let of: Vec<Vec<f64>> = vec![[1.0, 0.5, 0.1].map(|x| x * scale).to_vec(); 3];
            json!({ "of": of, "rest": 7.0 })
        };
        let tables =
            json!({ "latency": table(1.0), "size": table(8.0), "ram": table(16.0), "energy": table(2.0), "macs": table(4.0) });
        let prices: Prices = serde_json::from_value(tables).expect("prices");
        let mut layers = layers(&graph);
        let (behind, left) = links.unwrap_or((vec![None; 3], [1.0; 3]));
        for layer in &mut layers {
            layer.before.clear();
        }
        // The sum between `a`, `b` and `c` is a node of what `c` may read in part.
        if behind[0] == Some(2) {
            layers[2].before = vec![0, 1, 2];
        }
        let prices = prices.with_links(behind, left.iter().map(|left| vec![1.0, *left, 1.0]).collect());
        Choices::new(&graph, &layers, &errors, &prices, &[false, false, true]).expect("choices")
    }

    const TIME: [(Objective, f64); 1] = [(Objective::Latency, 1.0)];

    #[test]
    fn layers_choose_the_cheapest_within_the_limit_and_shared_ones_once() {
        let choices = choices(None);
        let of = |limit: f64| choices.cheapest(limit, &TIME, f64::INFINITY).expect("a choice");
        let exact = of(0.0);
        assert_eq!((exact.picks, exact.price, exact.error), (vec![0, 0, 0], 2.0, 0.0));
        assert_eq!(of(0.15).price, 1.5);
        let (two, all) = (of(0.25), of(0.5));
        assert_eq!((two.picks, two.price, two.error), (vec![1, 1, 1], 1.0, 0.2));
        assert_eq!((all.picks, all.price, all.error), (vec![2, 2, 1], 0.6, 0.4));
        assert!(all.gap < 1e-9 && exact.gap == 0.0, "{}", all.gap);
        assert_eq!((choices.error(2, 2), choices.kinds(2).count(), choices.kinds(0).count()), (f64::INFINITY, 2, 3));
    }

    #[test]
    fn layers_before_cost_their_part_whatever_they_become() {
        // Half of what `a` and `b` compute is read when `c` is of the second kind.
        let choices = choices(Some((vec![Some(2), Some(2), None], [1.0, 1.0, 0.5])));
        let of = |limit: f64| choices.cheapest(limit, &TIME, f64::INFINITY).expect("a choice");
        let one = of(0.15);
        assert_eq!((one.picks, one.price, one.error), (vec![0, 0, 1], 0.5 + 0.5, 0.1));
        // The third kind has panels: it is not there in part, where the second one costs a half.
        let two = of(0.5);
        assert_eq!((two.picks, two.price, two.error), (vec![1, 1, 1], 0.5 + 0.25, 0.2));
    }

    /// `%s` is read by `c` and by `d`, and made of `a` and `b`.
    #[test]
    fn layers_that_read_a_stream_choose_together() {
        let text = GRAPH.replace("%d = relu %c : f32[2,4]", "%d = matmul %s, %v : f32[2,4] @\"d\"\n  %e = add %c, %d : f32[2,4]");
        let text = text.replace("return %d", "return %e").replace("%b = matmul %x, %w", "%b = matmul %x, %v");
        let text = text.replace("  %a =", "  %v = const f32[4,4] [2, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 8]\n  %a =");
        let graph = parse::parse(&text, OpSet(onnxc_ops::ALL), &|_| None).unwrap_or_else(|e| panic!("{e}"));
        let layers = layers(&graph);
        assert_eq!((&layers[2].together, &layers[3].together), (&vec![3, 4], &vec![3, 4]));
        // As they are, narrow readers, and a kind with panels that only `a` and `b` can be of.
        let none = f64::INFINITY;
        let errors = [[0.0, none, 0.1], [0.0, none, 0.1], [0.0, 0.3, none], [0.0, 0.0, none]].map(Vec::from);
        let table = |scale: f64| json!({ "of": vec![[1.0, 0.5, 0.25].map(|x| x * scale); 4], "rest": 7.0 });
        let tables =
            json!({ "latency": table(1.0), "size": table(8.0), "ram": table(16.0), "energy": table(2.0), "macs": table(4.0) });
        let prices: Prices = serde_json::from_value(tables).expect("prices");
        let prices = prices.with_links(vec![Some(2), Some(2), None, None], vec![vec![1.0, 0.5, 1.0]; 4]);
        let choices = Choices::new(&graph, &layers, &errors, &prices, &[false, false, true]).expect("choices");
        let of = |limit: f64| choices.cheapest(limit, &TIME, f64::INFINITY).expect("a choice");
        // Half of what `c` reads would be nothing that `d` reads less of.
        assert_eq!((&of(0.15).picks[2..], of(0.15).price), (&[0, 0][..], 3.25));
        assert_eq!((of(0.25).picks, of(0.25).price), (vec![2, 2, 0, 0], 2.5));
        let narrow = of(0.35);
        assert_eq!((narrow.picks.clone(), narrow.price), (vec![0, 0, 1, 1], 2.0));
        assert_eq!(prices.total(Objective::Latency, &narrow.picks), 7.0 + 2.0);
        assert_eq!((of(0.5).picks, of(0.5).price), (vec![2, 2, 1, 1], 1.25));
        assert_eq!(choices.kinds(2).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn ceilings_take_candidates_away_and_weights_add_up() {
        let choices = choices(None);
        // Steps of layers as they are need 16 bytes.
        assert_eq!(choices.cheapest(0.1, &TIME, 10.0), None);
        assert_eq!(choices.cheapest(0.21, &TIME, 10.0).expect("a choice").picks, [1, 1, 1]);
        let both = choices.cheapest(0.21, &[(Objective::Latency, 1.0), (Objective::Size, 0.25)], f64::INFINITY);
        assert_eq!(both.expect("a choice").price, 2.0 * (0.5 + 0.25 * 4.0));
    }
}
