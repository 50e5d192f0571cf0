//! Equalisation of channels: what becomes integers gets the same range in each channel, so that one scale for all of them loses less.
//!
//! What   `conv(x, w)` = `conv(x * f, w / f)` for a factor of each channel, a power of two: not a bit of the result changes. Then `x * f` becomes integers, and the
//!        weights of those layers that read these are integers of `w / f`. Layers that stay floats read x.
//! When   compress, where a value becomes integers ([`super::pairs`]): factors are found before, and everything else is measured and fitted without them.
//! Why    a channel that is a hundred times smaller than the largest one is left with two of 256 steps, although it may count as much.
//! Class  exact.
//! Paper  Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1; Xiao et al., "SmoothQuant: Accurate and Efficient
//!        Post-Training Quantization for Large Language Models", 2023, section 4: what integers of activations gain, integers of weights lose; here the exponent that
//!        shares it out is chosen for each value by the errors that both are expected to make.

use onnxc_ir::graph::Node;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Attrs, Graph, Tensor, TensorType, ValueId};

use super::weighted::Weighted;
use super::{Matrix, Moments};

/// What was seen of each channel of a value.
#[derive(Clone, PartialEq, Debug)]
pub struct Channels {
    /// Smallest values.
    pub min: Vec<f32>,
    /// Largest values.
    pub max: Vec<f32>,
    /// Mean squares about the means.
    pub variance: Vec<f64>,
    /// Mean squares.
    pub square: Vec<f64>,
}

/// A layer that reads a value.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The layer.
    pub layer: &'a Weighted,
    /// Its weights.
    pub weights: &'a Matrix,
    /// What rounded weights make of the means of channels comes off its bias.
    pub shifted: bool,
}

/// Shares of the differences between channels that are taken from them.
const SHARES: [f64; 4] = [0.25, 0.5, 0.75, 1.0];
/// Ranges of all channels reach as many times further up than down.
const SKEWS: [f32; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];
/// Factors are 2 to the power of this at most.
const MOST: f64 = 12.0;
/// Errors that fall less than to this part are not worth a multiplication.
const WORTH: f64 = 0.7;
/// Steps of an activation's range.
const STEPS: f64 = 255.0;

/// The values whose channels can be equalised: those that layers alone read, as what they multiply. With the numbers of these layers.
pub fn values(graph: &Graph, layers: &[Weighted]) -> Vec<(ValueId, Vec<usize>)> {
    let uses = graph.uses();
    let mut found: Vec<(ValueId, Vec<usize>)> = Vec::new();
    for (n, layer) in layers.iter().enumerate().filter(|(_, layer)| !layer.is_state()) {
        let x = layer.x(graph);
        match found.iter_mut().find(|f| f.0 == x) {
            Some((_, readers)) => readers.push(n),
            None => found.push((x, vec![n])),
        }
    }
    found.retain(|(x, readers)| {
        let count = |n: usize| layers[n].input_channels();
        let alike = readers
            .iter()
            .all(|n| count(*n) == count(readers[0]) && layers[*n].input_axis(graph) == layers[readers[0]].input_axis(graph));
        alike && uses[x.0 as usize].len() == readers.len() && !graph.outputs.contains(x)
    });
    found
}

/// Factors of channels, powers of two, with which integers of 8 bits of a value and of the weights of those layers that read it lose least; `None` where they gain
/// little. What weights may become are types of integers up to the `largest` ones, which all count the same.
pub fn factors(seen: &Channels, readers: &[Reader], largest: &[f64]) -> Option<Vec<f32>> {
    let channels = seen.min.len();
    let finite = seen.min.iter().chain(&seen.max).all(|x| x.is_finite());
    if channels < 2 || !finite {
        return None;
    }
    let of = |factors: &[f32]| largest.iter().map(|most| expected(seen, readers, factors, *most)).collect::<Vec<f64>>();
    let now = of(&vec![1.0; channels]);
    // The part of the errors that is left, the mean of all types.
    let left = |factors: &[f32]| of(factors).iter().zip(&now).map(|(e, now)| e / now).sum::<f64>() / now.len().max(1) as f64;
    let tried = SHARES.iter().flat_map(|share| SKEWS.map(|skew| even(seen, *share, skew)));
    let priced = tried.map(|f| (left(&f), f));
    let best = priced.min_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 < WORTH).then_some(best.1)
}

/// Factors that take a share of the differences between channels from them.
fn even(seen: &Channels, share: f64, skew: f32) -> Vec<f32> {
    let reach: Vec<f64> = seen.min.iter().zip(&seen.max).map(|(low, high)| f64::from(high.max(-low * skew).max(0.0))).collect();
    let most = reach.iter().fold(0.0f64, |m, r| m.max(*r));
    // What is always zero may stay as it is.
    let one = |r: &f64| if *r > 0.0 { ((most / r).log2() * share).round().min(MOST).exp2() as f32 } else { 1.0 };
    reach.iter().map(one).collect()
}

/// The squared error of the results that rounding of the value and of the weights is expected to make, each over the squares of the results, about the means where
/// biases make up for these, as if channels had nothing to do with each other. `most` is the largest integer of weights.
fn expected(seen: &Channels, readers: &[Reader], factors: &[f32], most: f64) -> f64 {
    let scaled = |list: &[f32]| list.iter().zip(factors).map(|(x, f)| f64::from(x * f)).collect::<Vec<f64>>();
    let low = scaled(&seen.min).into_iter().fold(0.0f64, f64::min);
    let high = scaled(&seen.max).into_iter().fold(0.0f64, f64::max);
    // The variance of what is spread evenly over a step is a twelfth of its square.
    let of_step = |step: f64| step * step / 12.0;
    let of_value = of_step((high - low) / STEPS);
    let squares: Vec<f64> = factors.iter().map(|f| f64::from(*f).powi(2)).collect();
    let of_reader = |Reader { layer, weights: matrix, shifted }: &Reader| {
        let size = if *shifted { &seen.variance } else { &seen.square };
        let (mut error, mut energy) = (0.0, 0.0);
        for (n, row) in matrix.values.chunks_exact(matrix.k.max(1)).enumerate() {
            let (mut largest, mut spread) = (0.0f64, 0.0);
            for (k, w) in row.iter().enumerate() {
                let c = layer.input_channel(n, k);
                let (square, w) = (squares[c], f64::from(*w).powi(2));
                largest = largest.max(w / square);
                spread += size[c] * square;
                error += of_value * w / square;
                energy += w * size[c];
            }
            error += of_step(largest.sqrt() / most) * spread;
        }
        if energy > 0.0 { error / energy } else { 0.0 }
    };
    readers.iter().map(of_reader).sum()
}

/// The weights of a layer, or of a part of one that reads the same operand, for an operand whose channels are multiplied by factors.
#[must_use]
pub fn divided(layer: &Weighted, weights: &Matrix, factors: &[f32]) -> Matrix {
    let k = weights.k.max(1);
    let one = |(i, w): (usize, &f32)| w / factors[layer.input_channel(i / k, i % k)];
    Matrix { values: weights.values.iter().enumerate().map(one).collect(), ..*weights }
}

/// What calibration knows of the rows that a layer of one group multiplies, when the channels of its operand are multiplied by factors.
#[must_use]
pub fn multiplied(layer: &Weighted, moments: &Moments, factors: &[f32]) -> Moments {
    let of: Vec<f64> = (0..moments.k).map(|k| f64::from(factors[layer.input_channel(0, k)])).collect();
    moments.scaled(&of)
}

/// A value times factors of its channels, whose dimension is `axis`, and the node that computes it, which is in no place yet.
pub fn product(graph: &mut Graph, ops: OpSet, x: ValueId, axis: usize, factors: &[f32], name: &str) -> (ValueId, Node) {
    let (of, ty) = (graph.value(x).name.clone(), graph.ty(x).clone());
    let mut shape = vec![1u64; ty.shape.len()];
    shape[axis] = factors.len() as u64;
    let factors = graph.add_const(&format!("{of}.factors"), Tensor::from_vec(&shape, factors.to_vec()));
    let y = graph.add_value(name, TensorType::new(ty.dtype, ty.shape), None);
    let op = ops.get("mul").expect("internal: compress: an operator of this name");
    let computed = graph.nodes.iter().find(|n| n.outputs.contains(&x));
    let origins = computed.map(|n| n.origins.clone()).unwrap_or_default();
    (y, Node { op, inputs: vec![Some(x), Some(factors)], outputs: vec![y], attrs: Attrs::default(), origins })
}

/// Puts a multiplication by factors of channels, whose dimension is `axis`, behind a value. Nodes with the first results, `scaled`, read the product; those with the
/// others read the product divided by the factors again, so that they get what integers of it make of the value. The product; `None` if no node reads it.
pub fn multiply(
    graph: &mut Graph,
    ops: OpSet,
    (x, axis): (ValueId, usize),
    factors: &[f32],
    [scaled, restored]: [&[ValueId]; 2],
) -> Option<ValueId> {
    let among =
        |node: &Node, results: &[ValueId]| node.inputs.contains(&Some(x)) && node.outputs.iter().any(|y| results.contains(y));
    let first = graph.nodes.iter().position(|node| among(node, scaled) || among(node, restored))?;
    let name = graph.value(x).name.clone();
    let (y, node) = product(graph, ops, x, axis, factors, &format!("{name}.equalised"));
    let mut nodes = vec![node];
    let mut read = vec![(scaled, y)];
    if graph.nodes.iter().any(|node| among(node, restored)) {
        let inverse: Vec<f32> = factors.iter().map(|f| f.recip()).collect();
        let (back, node) = product(graph, ops, y, axis, &inverse, &format!("{name}.restored"));
        nodes.push(node);
        read.push((restored, back));
    }
    for (results, value) in read {
        for node in graph.nodes.iter_mut().filter(|node| among(node, results)) {
            node.inputs.iter_mut().filter(|input| **input == Some(x)).for_each(|input| *input = Some(value));
        }
    }
    graph.nodes.splice(first..first, nodes);
    Some(y)
}

#[cfg(test)]
mod tests {
    use onnxc_ir::{interp, parse, verify};

    use super::super::testing::Random;
    use super::super::weighted;
    use super::*;

    /// Values behind `relu`, behind something else, read by two layers, and read by what is no layer.
    const TEXT: &str = "
graph @f(%x: f32[1,3,5,4], %u: f32[2,6]) {
  %w1 = const f32[6,3,1,1] blob(0000000000000000)
  %b1 = const f32[6] blob(0000000000000001)
  %w2 = const f32[6,1,3,3] blob(0000000000000002)
  %w3 = const f32[4,6,1,1] blob(0000000000000003)
  %w4 = const f32[6,5] blob(0000000000000004)
  %w5 = const f32[7,6] blob(0000000000000005)
  %a = conv %x, %w1, %b1 : f32[1,6,5,4] @\"expand\"
  %b = relu %a : f32[1,6,5,4] @\"relu\"
  %c = conv %b, %w2, _ {group = 6, pads = ints[1, 1, 1, 1]} : f32[1,6,5,4] @\"deep\"
  %d = hard_swish %c : f32[1,6,5,4] @\"act\"
  %e = conv %d, %w3, _ : f32[1,4,5,4] @\"project\"
  %v = exp %u : f32[2,6] @\"exp\"
  %f = matmul %v, %w4 : f32[2,5] @\"matmul\"
  %g = gemm %v, %w5, _ {transB = 1} : f32[2,7] @\"gemm\"
  return %e, %f, %g
}
";

    fn graph() -> Graph {
        let shapes: [&[u64]; 6] = [&[6, 3, 1, 1], &[6], &[6, 1, 3, 3], &[4, 6, 1, 1], &[6, 5], &[7, 6]];
        let blob = |n: u64| {
            let shape = shapes[n as usize];
            Some(Tensor::from_vec(shape, Random(n).matrix(1, shape.iter().product::<u64>() as usize).values))
        };
        parse::parse(TEXT, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"))
    }

    fn run(graph: &Graph) -> Vec<Tensor> {
        let mut random = Random(9);
        let inputs = [[1, 3, 5, 4].as_slice(), &[2, 6]]
            .map(|shape| Tensor::from_vec(shape, random.matrix(1, shape.iter().product::<u64>() as usize).values));
        interp::run(graph, &inputs).expect("values")
    }

    #[test]
    fn results_stay_the_same_bits() {
        let (before, ops) = (graph(), OpSet(onnxc_ops::ALL));
        let layers = weighted::layers(&before);
        let factors = [1.0, 8.0, 0.5, 64.0, 2.0, 1.0];
        let can = values(&before, &layers);
        let names: Vec<&str> = can.iter().map(|(x, _)| &before.value(*x).name[..]).collect();
        assert_eq!(names, ["x", "b", "d", "v"], "what layers alone read");
        for (x, readers) in can.into_iter().skip(1) {
            let result = |n: &usize| before.nodes[layers[*n].node].outputs[0];
            let axis = layers[readers[0]].input_axis(&before);
            let results: Vec<ValueId> = readers.iter().map(result).collect();
            // All of them read the product, or the first one only, or the others what is restored from it.
            for (scaled, restored) in
                [(&results[..], &results[..0]), (&results[..1], &results[..0]), (&results[..1], &results[1..])]
            {
                let mut after = before.clone();
                for layer in readers.iter().map(|n| &layers[*n]).filter(|l| scaled.contains(&before.nodes[l.node].outputs[0])) {
                    let weights = divided(layer, &layer.matrix(&before), &factors);
                    weighted::replace(&mut after, layer, Tensor::from_vec(&layer.shape(), layer.operand(&weights.values)));
                }
                multiply(&mut after, ops, (x, axis), &factors, [scaled, restored]).expect("a product");
                after.make_names_unique();
                verify::verify(&after).expect("a valid graph");
                assert_eq!(after.nodes.len(), before.nodes.len() + 1 + usize::from(!restored.is_empty()));
                assert_eq!(run(&before), run(&after), "{}", before.value(x).name);
            }
            assert_eq!(multiply(&mut before.clone(), ops, (x, axis), &factors, [&[], &[]]), None, "nobody reads it");
        }
    }

    #[test]
    fn moments_are_those_of_the_products() {
        let (mut random, layer) =
            (Random(3), weighted::layers(&graph()).into_iter().find(|l| l.name == "project").expect("a layer"));
        let factors = [1.0, 8.0, 0.5, 64.0, 2.0, 1.0];
        let (own, dense) = (random.matrix(20, 6).values, random.matrix(20, 6).values);
        let of = |scale: &dyn Fn(usize) -> f32| {
            let rows = |x: &[f32]| x.iter().enumerate().map(|(i, x)| x * scale(i % 6)).collect::<Vec<f32>>();
            let (mut both, mut alone) = (Moments::new(6, true), Moments::new(6, false));
            both.add(&rows(&own), Some(&rows(&dense)));
            alone.add(&rows(&dense), None);
            both.beside(&alone);
            both
        };
        assert_eq!(multiplied(&layer, &of(&|_| 1.0), &factors), of(&|c| factors[c]));
    }

    /// The squared error of the layer's result with integers of its operand and weights, over the variance of the result.
    fn lost(layer: &Weighted, matrix: &Matrix, rows: &[Vec<f32>], factors: &[f32]) -> f64 {
        let scaled: Vec<Vec<f32>> = rows.iter().map(|r| r.iter().zip(factors).map(|(x, f)| x * f).collect()).collect();
        let all = scaled.iter().flatten();
        let (low, high) = all.fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x)));
        let step = (high - low) / 255.0;
        let mut error = 0.0;
        for w in matrix.values.chunks_exact(matrix.k) {
            let w: Vec<f32> = w.iter().enumerate().map(|(k, w)| w / factors[layer.input_channel(0, k)]).collect();
            let most = w.iter().fold(0f32, |m, w| m.max(w.abs())) / 127.0;
            let coded: Vec<f32> = w.iter().map(|w| (w / most).round() * most).collect();
            for row in &scaled {
                let exact: f64 = row.iter().zip(&w).map(|(x, w)| f64::from(x * w)).sum();
                let now: f64 = row.iter().zip(&coded).map(|(x, w)| f64::from((x / step).round() * step * w)).sum();
                error += (now - exact).powi(2);
            }
        }
        error
    }

    #[test]
    fn channels_of_other_sizes_lose_less() {
        let graph = graph();
        let layer = weighted::layers(&graph).into_iter().find(|l| l.name == "project").expect("a layer");
        let mut random = Random(5);
        let sizes = [40.0, 0.3, 1.0, 0.1, 0.5, 2.0];
        let rows: Vec<Vec<f32>> = (0..300).map(|_| sizes.iter().map(|s| (random.normal() * s) as f32).collect()).collect();
        // Weights are larger where values are smaller, so that all channels count.
        let matrix = Matrix { n: 4, k: 6, values: (0..24).map(|i| (random.normal() / sizes[i % 6]) as f32).collect() };
        let channel = |c: usize| rows.iter().map(move |r| r[c]);
        let seen = Channels {
            min: (0..6).map(|c| channel(c).fold(0.0, f32::min)).collect(),
            max: (0..6).map(|c| channel(c).fold(0.0, f32::max)).collect(),
            variance: sizes.iter().map(|s| s * s).collect(),
            square: sizes.iter().map(|s| s * s).collect(),
        };
        let reader = Reader { layer: &layer, weights: &matrix, shifted: true };
        let found = factors(&seen, &[reader], &[127.0]).expect("something to gain");
        assert!(found.iter().all(|f| f.log2().fract() == 0.0), "powers of two: {found:?}");
        let (before, after) = (lost(&layer, &matrix, &rows, &[1.0; 6]), lost(&layer, &matrix, &rows, &found));
        assert!(after < 0.05 * before, "{before} {after}");
        let alike = Channels { min: vec![-1.0; 6], max: vec![1.0; 6], variance: vec![0.1; 6], square: vec![0.1; 6] };
        assert_eq!(factors(&alike, &[reader], &[127.0]), None);
    }

    #[test]
    fn means_that_biases_make_up_for_cost_nothing() {
        let graph = graph();
        let layer = weighted::layers(&graph).into_iter().find(|l| l.name == "project").expect("a layer");
        let sizes = [40.0f32, 0.3, 1.0, 0.1, 0.5, 2.0];
        let squares = |of: f64| sizes.iter().map(|s| (of * f64::from(*s)).powi(2)).collect();
        let seen = Channels { min: vec![0.0; 6], max: sizes.to_vec(), variance: squares(0.01), square: squares(1.0) };
        let weights = Matrix { n: 4, k: 6, values: vec![1.0; 24] };
        let of = |shifted, most| {
            let found = factors(&seen, &[Reader { layer: &layer, weights: &weights, shifted }], &[most]);
            found.into_iter().flatten().map(|f| f.log2()).sum::<f32>()
        };
        assert!(of(false, 127.0) < 0.8 * of(true, 127.0));
        assert!(of(false, 32.0) < of(false, 127.0), "shorter weights leave less to take over");
    }
}
