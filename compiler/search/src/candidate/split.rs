//! A layer as two or three with little between them: low rank, a narrow convolution before it, both (Tucker's decomposition), or rows and columns of its
//! kernel apart.

use onnxc_ir::graph::Node;
use onnxc_ir::{DType, Tensor};
use onnxc_passes::compress::split::Split;
use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_passes::compress::{Matrix, Moments, error};
use rayon::prelude::*;

use super::{Applied, Coded, Curve, Form, Part, Probe, Site, Treated, numbers};
use crate::assemble::Method;
use crate::recipe::{Arrays, Layer};
use crate::search::Goal;
use crate::work;

/// Shares of multiplications that are tried: of one decomposition for all ranks, and of fits in turns, which take long for each.
const DENSITIES: [&[f64]; 2] = [&[0.65, 0.5, 0.4, 0.3, 0.2], &[0.5, 0.35, 0.2]];
/// How much of the trained weights a fit keeps: what is best on data held out. Fits in turns have one.
const DAMPINGS: [&[f64]; 2] = [&[1e-4, 1e-3, 1e-2, 1e-1], &[1e-2]];
/// Layers with fewer outputs or channels are left alone.
const LEAST: usize = 8;
/// What the layers are called in arrays, and what values between them are.
const PARTS: [&str; 3] = ["first", "second", "third"];

/// A form: the first split of the layer, the next one of what is its second, and so on.
pub struct Thin(&'static str, &'static [Split]);

/// The first does all but has few outputs, the second is 1 by 1.
pub const LOW_RANK: Thin = Thin("low_rank", &[Split::LowRank]);
/// The first is 1 by 1 and has few outputs, the second does all.
pub const NARROW: Thin = Thin("narrow", &[Split::Narrow]);
/// The first and the third are 1 by 1, the second has few channels on both sides.
pub const TUCKER: Thin = Thin("tucker", &[Split::Narrow, Split::LowRank]);
/// The first has the rows of the kernel, the second its columns.
pub const SEPARATED: Thin = Thin("separated", &[Split::Separated]);

/// Weights of all parts.
#[derive(Clone)]
struct Chain {
    parts: Vec<Matrix>,
    /// Added to the bias of the last one.
    shift: Vec<f32>,
    /// The layer's weights that they make.
    product: Matrix,
    /// Relative error on data held out.
    error: f64,
}

impl Chain {
    /// All but the product, which follows.
    fn arrays(&self) -> Arrays {
        let array = |values: &Vec<f32>| Tensor::from_vec(&[values.len() as u64], values.clone());
        let parts = PARTS.iter().zip(&self.parts).map(|(name, part)| (name.to_string(), array(&part.values)));
        let rest = [("shift", array(&self.shift)), ("error", Tensor::from_vec(&[1], vec![self.error]))];
        parts.chain(rest.map(|(name, tensor)| (name.to_string(), tensor))).collect()
    }
}

impl Form for Thin {
    fn name(&self) -> &'static str {
        self.0
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.low_rank
    }

    fn densities(&self) -> &'static [f64] {
        DENSITIES[self.in_turns()]
    }

    fn parts(&self) -> usize {
        self.1.len() + 1
    }

    fn fits(&self, layer: &Weighted) -> bool {
        layer.n >= LEAST && layer.channels >= LEAST && self.1[0].fits(layer)
    }

    fn by_numbers(&self) -> bool {
        false
    }

    fn curve(&self, site: &Site, known: (&Moments, &Moments), _: Method) -> Option<Curve> {
        let densities = self.densities();
        let all = self.fit(site, densities, known)?;
        // Effects on the answers are measured in the middle, and at both ends of what is tried.
        let probes = [densities.len() / 2, 0, densities.len() - 1];
        Some(Curve {
            errors: densities.iter().zip(&all).map(|(d, chain)| (*d, chain.error)).collect(),
            probes: probes.map(|n| Probe { error: all[n].error, weights: all[n].product.clone(), shift: all[n].shift.clone() }),
        })
    }

    fn fitted(&self, site: &Site, density: f64, known: (&Moments, &Moments), method: Method) -> Treated {
        // Where the moments are not numbers, what is near the weights will do.
        let flat = Moments::identity(site.layer.k());
        let all = self.fit(site, &[density], known).or_else(|| self.fit(site, &[density], (&flat, &flat)));
        let chain =
            all.and_then(|all| all.into_iter().next()).expect("internal: search: a layer without a curve is no candidate");
        let ranks: Vec<usize> = chain.parts[..self.1.len()].iter().map(|m| m.n).collect();
        let layers = self.layers(site.layer, &ranks);
        // What each part multiplies.
        let (mut moments, mut last) = (Vec::new(), known.0.clone());
        for (i, split) in self.1.iter().enumerate() {
            let whole = if i == 0 { site.layer.clone() } else { self.layers(site.layer, &ranks[..i]).remove(i) };
            let [before, between] = split.moments(&whole, &last, &chain.parts[i]);
            moments.push(before);
            last = between;
        }
        moments.push(last);
        // The first part alone multiplies what the layer does.
        let factors = std::iter::once(site.factors()).chain(std::iter::repeat(None));
        let parts = layers.iter().zip(&chain.parts).zip(factors);
        let parts = parts.map(|((layer, weights), factors)| Part { layer, weights, factors, numbers: site.numbers });
        let coded: Vec<Coded> = parts.zip(&moments).map(|(part, h)| part.fitted((h, None), None, method)).collect();
        // Only the last part has a bias: what others should be shifted by comes out of it as a constant.
        let mut shift = coded[0].shift.clone();
        for (weights, coded) in chain.parts.iter().zip(&coded).skip(1) {
            let through = |row: &[f32]| row.iter().zip(shift.iter().cycle()).map(|(w, s)| w * s).sum::<f32>();
            shift = weights.values.chunks_exact(weights.k).zip(&coded.shift).map(|(row, own)| through(row) + own).collect();
        }
        shift.iter_mut().zip(&chain.shift).for_each(|(s, own)| *s += own);
        self.treated(site, ranks, coded, shift, chain.error)
    }

    fn rough(&self, site: &Site, density: f64) -> Treated {
        let ranks = self.ranks(site, density);
        let coded = |part: &Weighted| {
            let values = (0..part.n * part.k()).map(|i| ((i * 7919 % 1009) as f32 + 1.0) / 1009.0).collect();
            site.numbers.rough(part, &Matrix { n: part.n, k: part.k(), values })
        };
        let coded = self.layers(site.layer, &ranks).iter().map(coded).collect();
        self.treated(site, ranks, coded, Vec::new(), 0.0)
    }

    fn bytes(&self, site: &Site, density: f64) -> f64 {
        let parts = self.layers(site.layer, &self.ranks(site, density));
        parts.iter().map(|p| (p.n * p.k()) as f64 * site.numbers.bytes()).sum()
    }

    fn apply(&self, cx: &mut Applied, found: &Weighted, layer: &Layer) -> Result<Vec<Node>, String> {
        let wanted = self.1.len();
        if layer.ranks.len() != wanted {
            return Err(format!("the form {:?} has {wanted} ranks, not {}", self.name(), layer.ranks.len()));
        }
        cx.shift(found, layer)?;
        let name = cx.graph.value(cx.graph.nodes[found.node].outputs[0]).name.clone();
        let (mut parts, mut last) = (Vec::new(), found.clone());
        for ((split, rank), what) in self.1.iter().zip(&layer.ranks).zip(PARTS) {
            if !split.fits(&last) {
                return Err(format!("a layer of this kind has no form {:?}", self.name()));
            }
            let most = split.most(&last);
            if !(1..=most).contains(rank) {
                return Err(format!("its rank must be between 1 and {most}, not {rank}"));
            }
            let [part, rest] = split.put(cx.graph, &last, *rank, &format!("{name}.{what}"));
            parts.push(part);
            last = rest;
        }
        parts.push(last);
        let mut front = Vec::new();
        for (part, what) in parts.iter().zip(PARTS) {
            front.extend(numbers(layer.weights).put(cx, part, &format!("{}.{what}", layer.arrays))?);
        }
        Ok(front)
    }
}

impl Thin {
    /// 1 where the first split is fitted in turns, 0 otherwise.
    fn in_turns(&self) -> usize {
        usize::from(self.1[0] != Split::LowRank)
    }

    /// The layers that take the place of one; with fewer ranks than splits the last one is still to be split.
    fn layers(&self, layer: &Weighted, ranks: &[usize]) -> Vec<Weighted> {
        let (mut parts, mut last) = (Vec::new(), layer.clone());
        for (split, rank) in self.1.iter().zip(ranks) {
            let [part, rest] = split.parts(&last, *rank);
            parts.push(part);
            last = rest;
        }
        parts.push(last);
        parts
    }

    /// The ranks of a density: the same share of what each split could have at most, in whole vectors of the target.
    fn ranks(&self, site: &Site, density: f64) -> Vec<usize> {
        let (step, layer) = (site.subject.group / 2, site.layer);
        if let [split] = self.1 {
            return vec![split.rank(layer, density, step)];
        }
        let ranks = |share: f64, step: usize| {
            let (mut ranks, mut last) = (Vec::new(), layer.clone());
            for split in self.1 {
                let rank = split.rounded(&last, share * split.most(&last).min(last.n) as f64, step);
                last = split.parts(&last, rank)[1].clone();
                ranks.push(rank);
            }
            ranks
        };
        let shares = (1..=100).map(|percent| f64::from(percent) / 100.0);
        let left = |ranks: &[usize]| self.left(layer, ranks);
        let off = |share: &f64| (left(&ranks(*share, 1)) - density).abs();
        ranks(shares.min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(1.0), step)
    }

    /// Share of multiplications that is left.
    fn left(&self, layer: &Weighted, ranks: &[usize]) -> f64 {
        self.layers(layer, ranks).iter().map(Weighted::macs).sum::<u64>() as f64 / layer.macs().max(1) as f64
    }

    /// The weights of all parts at some densities. Those of the model's first layer are kept: what it is fed never changes, so that models are made of the fits
    /// that its curve has.
    fn fit(&self, site: &Site, densities: &[f64], known: (&Moments, &Moments)) -> Option<Vec<Chain>> {
        if site.subject.layers.first().is_none_or(|l| l.node != site.layer.node) || known.0.cross.is_some() {
            return self.fit_anew(site, densities, known);
        }
        let store = site.subject.backend.store();
        let moments = [known.0, known.1].map(|h| work::fingerprint(work::arrays_of_moments(h).iter().map(|a| &a.1)));
        let of = |d: &f64| {
            work::key("parts", &[&site.subject.known, &site.layer.name, self.0, &moments[0], &moments[1], &d.to_string()])
        };
        let keys: Vec<String> = densities.iter().map(of).collect();
        let kept = |(key, d): (&String, &f64)| self.chain(site.layer, &self.ranks(site, *d), &store.get_arrays(key)?);
        if let Some(all) = keys.iter().zip(densities).map(kept).collect() {
            return Some(all);
        }
        let all = self.fit_anew(site, densities, known)?;
        keys.iter().zip(&all).for_each(|(key, chain)| store.put_arrays(key, &chain.arrays()));
        Some(all)
    }

    /// The chain that was kept as arrays; `None` if they are others.
    fn chain(&self, layer: &Weighted, ranks: &[usize], arrays: &Arrays) -> Option<Chain> {
        let array = |name: &str, len: usize, dtype: DType| {
            let found = arrays.iter().find(|a| a.0 == name).map(|a| &a.1)?;
            (found.len() == len && found.dtype() == dtype).then_some(found)
        };
        let part = |(layer, name): (&Weighted, &str)| {
            let values = array(name, layer.n * layer.k(), DType::F32)?.to_vec();
            Some(Matrix { n: layer.n, k: layer.k(), values })
        };
        let parts = self.layers(layer, ranks).iter().zip(PARTS).map(part).collect::<Option<Vec<Matrix>>>()?;
        let shift = array("shift", layer.n, DType::F32)?.to_vec();
        let error = array("error", 1, DType::F64)?.to_vec()[0];
        Some(Chain { product: self.product(layer, ranks, &parts), parts, shift, error })
    }

    /// The layer's weights that all parts make.
    fn product(&self, layer: &Weighted, ranks: &[usize], parts: &[Matrix]) -> Matrix {
        let mut product = parts[parts.len() - 1].clone();
        for (i, split) in self.1.iter().enumerate().rev() {
            let whole = self.layers(layer, &ranks[..i]).remove(i);
            product = split.product(&whole, &parts[i], &product);
        }
        product
    }

    fn fit_anew(&self, site: &Site, densities: &[f64], known: (&Moments, &Moments)) -> Option<Vec<Chain>> {
        let ranks: Vec<Vec<usize>> = densities.iter().map(|d| self.ranks(site, *d)).collect();
        let damped = |damping: &f64| self.fit_damped(site, &ranks, known, *damping);
        let all = DAMPINGS[self.in_turns()].par_iter().map(damped).collect::<Option<Vec<_>>>()?;
        let better = |best: Vec<Chain>, all: Vec<Chain>| -> Vec<Chain> {
            best.into_iter().zip(all).map(|(a, b)| if b.error < a.error { b } else { a }).collect()
        };
        all.into_iter().reduce(better)
    }

    fn fit_damped(
        &self,
        site: &Site,
        ranks: &[Vec<usize>],
        (fit, held_out): (&Moments, &Moments),
        damping: f64,
    ) -> Option<Vec<Chain>> {
        let (w, layer, split) = (site.matrix(), site.layer, self.1[0]);
        let pairs = split.fit(layer, &w, fit, &ranks.iter().map(|r| r[0]).collect::<Vec<usize>>(), damping)?;
        let finish = |(pair, ranks): (onnxc_passes::compress::split::Pair, &Vec<usize>)| {
            let (mut parts, mut shift) = (vec![pair.first, pair.second], pair.bias_shift);
            if let [_, next] = self.1 {
                // The second part is fitted to what it is fed, and so is what takes its place.
                let part = &split.parts(layer, ranks[0])[1];
                let [_, fed] = split.moments(layer, fit, &parts[0]);
                let pair = next.fit(part, &parts[1], &fed, &ranks[1..], damping)?.remove(0);
                shift.iter_mut().zip(&pair.bias_shift).for_each(|(s, own)| *s += own);
                parts.splice(1.., [pair.first, pair.second]);
            }
            let product = self.product(layer, ranks, &parts);
            let error = error(&w, &product, &shift, held_out);
            Some(Chain { parts, shift, product, error })
        };
        pairs.into_iter().zip(ranks).map(finish).collect()
    }

    fn treated(&self, site: &Site, ranks: Vec<usize>, coded: Vec<Coded>, shift: Vec<f32>, error: f64) -> Treated {
        let error = error + coded.iter().map(|c| c.error).sum::<f64>();
        let named = PARTS.into_iter().zip(coded);
        let mut arrays: Vec<(String, Tensor)> = named
            .flat_map(|(part, coded)| coded.arrays.into_iter().map(move |(what, tensor)| (format!("{part}.{what}"), tensor)))
            .collect();
        if shift.iter().any(|x| *x != 0.0) && weighted::takes_shift(&site.subject.graph, site.layer) {
            arrays.push(("shift".to_string(), Tensor::from_vec(&[shift.len() as u64], shift)));
        }
        let density = self.left(site.layer, &ranks);
        Treated { arrays, error, density, ranks }
    }
}

#[cfg(test)]
mod tests {
    use onnxc_ir::op::OpSet;
    use onnxc_ir::{Attr, Attrs, DType, Graph, TensorType, interp};
    use onnxc_passes::compress::weighted::layers;

    use super::*;
    use crate::recipe::{Activation, Arrays, Recipe, Weights, apply};

    /// The ranks of a form.
    fn ranks_of(form: &Thin) -> Vec<usize> {
        [4, 6][..form.1.len()].to_vec()
    }

    /// y = conv(x, w, b) with a border.
    fn graph() -> Graph {
        let mut graph = Graph::new("test");
        let x = graph.add_input("x", TensorType::fixed(DType::F32, &[1, 8, 6, 5]));
        let w = graph.add_const("w", Tensor::from_vec(&[12, 8, 3, 3], vec![0f32; 12 * 72]));
        let b = graph.add_const("b", Tensor::from_vec(&[12], (0..12).map(|i| i as f32).collect()));
        let y = graph.add_value("y", TensorType::fixed(DType::F32, &[1, 12, 6, 5]), None);
        let op = OpSet(onnxc_ops::ALL).get("conv").expect("an operator");
        let attrs = Attrs::default().with("pads", Attr::Ints(vec![1; 4]));
        graph.nodes.push(Node {
            op,
            inputs: vec![Some(x), Some(w), Some(b)],
            outputs: vec![y],
            attrs,
            origins: vec!["layer".into()],
        });
        graph.outputs.push(y);
        graph
    }

    fn numbers_of(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    /// A recipe, and the weights `[n][k]` of both parts that are in its arrays.
    fn recipe(form: &Thin, weights: Weights) -> (Recipe, Arrays, Vec<Matrix>) {
        let layer = layers(&graph()).remove(0);
        let parts = form.layers(&layer, &ranks_of(form));
        let matrix = |(i, p): (usize, &Weighted)| Matrix { n: p.n, k: p.k(), values: numbers_of(p.n * p.k(), i) };
        let matrices: Vec<Matrix> = parts.iter().enumerate().map(matrix).collect();
        let mut arrays: Arrays = vec![("a.shift".to_string(), Tensor::from_vec(&[12], vec![0.5f32; 12]))];
        for ((part, matrix), what) in parts.iter().zip(&matrices).zip(PARTS) {
            let coded = numbers(weights).rough(part, matrix);
            arrays.extend(coded.arrays.into_iter().map(|(kind, tensor)| (format!("a.{what}.{kind}"), tensor)));
        }
        let layer = Layer {
            name: "layer".to_string(),
            form: form.name().to_string(),
            weights,
            density: 0.5,
            group: None,
            unit: None,
            ranks: ranks_of(form),
            error: 0.25,
            factors: None,
            orders: Vec::new(),
            arrays: "a".to_string(),
        };
        let activation = |value: &str, scale| Activation { value: value.to_string(), scale, zero: 128, bits: 8, factors: None };
        let between = PARTS[..form.1.len()].iter().map(|what| activation(&format!("y.{what}"), 0.2));
        let activations =
            if weights == Weights::Int8 { std::iter::once(activation("x", 0.01)).chain(between).collect() } else { Vec::new() };
        let recipe = Recipe {
            version: crate::recipe::VERSION,
            model: "0".to_string(),
            arrays: crate::recipe::fingerprint(&arrays),
            layers: vec![layer],
            activations,
            ..Recipe::default()
        };
        (recipe, arrays, matrices)
    }

    const ALL: [Thin; 4] = [LOW_RANK, NARROW, TUCKER, SEPARATED];

    fn run(graph: &Graph) -> Vec<f32> {
        let x = Tensor::from_vec(&[1, 8, 6, 5], numbers_of(240, 9));
        interp::run(graph, &[x]).expect("values")[0].to_vec()
    }

    /// What one layer with the weights that the parts make does.
    fn expected(form: &Thin, matrices: &[Matrix]) -> Vec<f32> {
        let mut graph = graph();
        let layer = layers(&graph).remove(0);
        weighted::shift(&mut graph, &layer, &[0.5; 12]);
        let mut product = matrices[matrices.len() - 1].clone();
        for (i, split) in form.1.iter().enumerate().rev() {
            let whole = form.layers(&layer, &ranks_of(form)[..i]).remove(i);
            product = split.product(&whole, &matrices[i], &product);
        }
        weighted::replace(&mut graph, &layer, Tensor::from_vec(&layer.shape(), layer.operand(&product.values)));
        run(&graph)
    }

    #[test]
    fn recipes_are_read_as_written_and_put_all_parts_in_the_graph() {
        for form in ALL {
            for weights in [Weights::F32, Weights::Int8] {
                let name = form.name();
                let (recipe, arrays, matrices) = recipe(&form, weights);
                let text = recipe.text().expect("text");
                let stated = [format!("form = \"{name}\""), format!("ranks = {:?}", ranks_of(&form))];
                assert!(stated.iter().all(|line| text.contains(line)) && !text.contains("group"), "{text}");
                assert_eq!(Recipe::parse(&text).expect("a recipe"), recipe);
                let made = apply(&graph(), &recipe, &arrays).expect("a graph");
                onnxc_ir::verify::verify(&made).unwrap_or_else(|e| panic!("{name}: {e:?}"));
                let pairs = made.nodes.iter().filter(|n| n.op.name == "quantize_linear").count();
                assert_eq!(pairs, recipe.activations.len(), "{name}: a pair for what each part multiplies");
                let (want, got) = (expected(&form, &matrices), run(&made));
                let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                let apart = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let allowed = if weights == Weights::F32 { 1e-5 } else { 0.1 };
                assert!(apart <= allowed * most, "{name} {weights:?}: {apart} of {most}");
                assert!(weights == Weights::F32 || apart > 1e-5 * most, "{name}: integers are no floats");
            }
        }
    }

    #[test]
    fn chains_are_read_as_they_were_kept() {
        for form in ALL {
            let layer = layers(&graph()).remove(0);
            let parts = recipe(&form, Weights::F32).2;
            let product = form.product(&layer, &ranks_of(&form), &parts);
            let chain = Chain { parts, shift: vec![0.25; 12], product, error: 0.125 };
            let read = form.chain(&layer, &ranks_of(&form), &chain.arrays()).expect("a chain");
            assert_eq!(
                (&read.parts, &read.shift, &read.product, read.error),
                (&chain.parts, &chain.shift, &chain.product, 0.125)
            );
            let others = vec![3; form.1.len()];
            assert!(form.chain(&layer, &others, &chain.arrays()).is_none(), "other ranks");
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let (good, arrays, _) = recipe(&LOW_RANK, Weights::F32);
        let told = |change: &dyn Fn(&mut Layer)| {
            let mut recipe = good.clone();
            change(&mut recipe.layers[0]);
            apply(&graph(), &recipe, &arrays).expect_err("a complaint").to_string()
        };
        assert!(told(&|l| l.ranks.clear()).contains("has 1 ranks, not 0"), "no rank");
        assert!(told(&|l| l.ranks = vec![0]).contains("must be between 1 and 12, not 0"), "no channels");
        assert!(told(&|l| l.ranks = vec![5]).contains("a.first.weights"), "another rank");
        assert!(told(&|l| l.form = "wide".into()).contains("there is no form \"wide\""), "another form");
        assert!(told(&|l| l.arrays = "b".into()).contains("b.first.weights"), "other arrays");
    }
}
