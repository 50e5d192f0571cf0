//! A layer as two: which two, and the surgery that puts them in a graph.
//!
//! What   conv(x, w, b) = conv(conv(x, first), second, b), where first and second make w; the same for products of matrices.
//! When   compress, before canonicalisation.
//! Why    both together have fewer multiplications than the layer, if what is between them has few channels (the rank).
//! Class  exact but for rounding: what is lossy is the choice of the two ([`super::low_rank()`], [`super::narrow()`]).
//! Misses grouped convolutions; weights that are not constant.

use onnxc_ir::graph::Node;
use onnxc_ir::{Attr, Attrs, DType, Dim, Graph, Tensor, TensorType, ValueId};

use super::narrow::moments_of_both;
use super::weighted::{Form, Weighted, Window};
use super::{Blocks, Factors, Kernel, Matrix, Moments, Narrowed, low_rank, narrow};

/// What each of the two does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// The first does all but has few outputs; the second is 1 by 1. For matrices too.
    LowRank,
    /// The first is 1 by 1 and has few outputs; the second does all.
    Narrow,
    /// The first has the rows of the kernel, the second its columns.
    Separated,
}

/// Weights of the two.
#[derive(Clone, PartialEq, Debug)]
pub struct Pair {
    /// `[rank][k of the first]`.
    pub first: Matrix,
    /// `[n][k of the second]`.
    pub second: Matrix,
    /// `[n]`, to add to the bias of the second.
    pub bias_shift: Vec<f32>,
}

impl Split {
    /// Can this layer be split, and may that make it smaller?
    pub fn fits(self, layer: &Weighted) -> bool {
        let spatial = match &layer.form {
            Form::Conv(window) => window.kernel.iter().filter(|taps| **taps > 1).count(),
            Form::Columns | Form::Rows => 0,
            Form::State => return false,
        };
        layer.groups == 1
            && layer.n > 1
            && layer.channels > 1
            && match self {
                Split::LowRank => true,
                Split::Narrow => spatial > 0,
                Split::Separated => spatial == 2 && matches!(&layer.form, Form::Conv(window) if window.kernel.len() == 2),
            }
    }

    /// The largest rank that is of use.
    pub fn most(self, layer: &Weighted) -> usize {
        match self {
            Split::LowRank => layer.n.min(layer.k()),
            Split::Narrow => layer.channels,
            Split::Separated => layer.channels * kernel(layer).rows,
        }
    }

    /// The rank at which both together have this share of the layer's multiplications, rounded as [`Split::rounded`] does.
    pub fn rank(self, layer: &Weighted, density: f64, step: usize) -> usize {
        let [first, second] = self.parts(layer, 1);
        self.rounded(layer, density * layer.macs() as f64 / (first.macs() + second.macs()).max(1) as f64, step)
    }

    /// A rank that is a multiple of `step`, or of 4 where it is less than that.
    pub fn rounded(self, layer: &Weighted, exact: f64, step: usize) -> usize {
        let step = if exact >= step as f64 { step } else { 4 };
        let most = self.most(layer).max(1);
        (((exact / step as f64).round() as usize) * step).clamp(step.min(most), most)
    }

    /// Both, with a rank.
    pub fn parts(self, layer: &Weighted, rank: usize) -> [Weighted; 2] {
        let (n, channels) = (layer.n, layer.channels);
        let part = |n: usize, channels: usize, form: Form| {
            let (taps, rows) = match &form {
                Form::Conv(w) => (w.kernel.iter().product(), (w.batch * w.y.iter().product::<usize>()) as u64),
                Form::Columns | Form::Rows | Form::State => (1, layer.rows),
            };
            let (node, name, groups) = (layer.node, layer.name.clone(), 1);
            Weighted { node, name, n, channels, taps, groups, rows, before: Vec::new(), together: Vec::new(), form }
        };
        let Form::Conv(window) = &layer.form else {
            return [part(rank, channels, layer.form.clone()), part(n, rank, layer.form.clone())];
        };
        let between: Vec<usize> = (0..window.x.len()).map(|d| if self.first(d) { window.y[d] } else { window.x[d] }).collect();
        let half = |is_first: bool, x: &[usize], y: &[usize]| {
            let mut half = Window { x: x.to_vec(), y: y.to_vec(), ..window.clone() };
            for d in (0..x.len()).filter(|d| self.first(*d) != is_first) {
                (half.kernel[d], half.strides[d], half.dilations[d], half.begin[d]) = (1, 1, 1, 0);
            }
            Form::Conv(half)
        };
        [part(rank, channels, half(true, &window.x, &between)), part(n, rank, half(false, &between, &window.y))]
    }

    /// Does the first convolution do what the layer does along a dimension?
    fn first(self, dimension: usize) -> bool {
        match self {
            Split::LowRank => true,
            Split::Narrow => false,
            Split::Separated => dimension == 0,
        }
    }

    /// Weights of both for each of some ranks, that fit best; `None` where weights or moments are not finite. `damping` is relative to the mean of H's
    /// diagonal.
    pub fn fit(self, layer: &Weighted, w: &Matrix, h: &Moments, ranks: &[usize], damping: f64) -> Option<Vec<Pair>> {
        let Some(blocks) = self.blocks() else {
            let pair = |f: Factors| Pair { first: f.first, second: f.second, bias_shift: f.bias_shift };
            return Some(low_rank(w, h, ranks, damping)?.into_iter().map(pair).collect());
        };
        let pair = |f: Narrowed| Pair { first: f.first, second: f.second, bias_shift: f.bias_shift };
        Some(narrow(w, h, &kernel(layer), blocks, ranks, damping)?.into_iter().map(pair).collect())
    }

    /// The layer's weights that both make, `[n][k]`.
    pub fn product(self, layer: &Weighted, first: &Matrix, second: &Matrix) -> Matrix {
        let (first, second, bias_shift, error) = (first.clone(), second.clone(), Vec::new(), 0.0);
        match self.blocks() {
            None => Factors { first, second, bias_shift, error }.product(),
            Some(blocks) => {
                let moments = Moments::identity(1);
                Narrowed { first, second, bias_shift, moments, error }.product(&kernel(layer), blocks)
            }
        }
    }

    /// Moments of what each of the two multiplies, if the first has these weights; `h` are those of the layer. At the edges, where windows of the layer are
    /// cut, they are nearly right.
    pub fn moments(self, layer: &Weighted, h: &Moments, first: &Matrix) -> [Moments; 2] {
        match self.blocks() {
            None => [h.clone(), h.through(first)],
            Some(blocks) => moments_of_both(h, &kernel(layer).blocks(blocks), first),
        }
    }

    fn blocks(self) -> Option<Blocks> {
        match self {
            Split::LowRank => None,
            Split::Narrow => Some(Blocks::Taps),
            Split::Separated => Some(Blocks::Columns),
        }
    }

    /// Puts two in place of a layer, with weights of zero; the second has its bias and its results, and `name` is what the value between them is called. The
    /// first is behind all other nodes: [`settle`] puts it in its place.
    pub fn put(self, graph: &mut Graph, layer: &Weighted, rank: usize, name: &str) -> [Weighted; 2] {
        let [mut first, second] = self.parts(layer, rank);
        let node = &graph.nodes[layer.node];
        let (op, origins, old) = (node.op, node.origins.clone(), node.attrs.clone());
        let (x, weights) = (layer.x(graph), graph.value(layer.weights(graph)).name.clone());
        let between = graph.add_value(&free(graph, name), self.between(graph, layer, rank), None);
        let zeros = |part: &Weighted| Tensor::from_vec(&part.shape(), vec![0f32; part.n * part.k()]);
        let w = graph.add_const(&weights, zeros(&first));
        let v = graph.add_const(&weights, zeros(&second));
        let spatial = matches!(layer.form, Form::Conv(_));
        let attrs = |is_first| if spatial { self.attrs(&old, is_first) } else { old.clone() };
        let (of_first, of_second) = (attrs(true), attrs(false));
        graph.nodes.push(Node { op, inputs: vec![Some(x), Some(w)], outputs: vec![between], attrs: of_first, origins });
        first.node = graph.nodes.len() - 1;
        let node = &mut graph.nodes[layer.node];
        (node.inputs[0], node.inputs[1], node.attrs) = (Some(between), Some(v), of_second);
        [first, second]
    }

    fn between(self, graph: &Graph, layer: &Weighted, rank: usize) -> TensorType {
        let (x, y) = (graph.ty(layer.x(graph)), graph.ty(graph.nodes[layer.node].outputs[0]));
        let rank = Dim::Const(rank as u64);
        let mut shape = y.shape.clone();
        match layer.form {
            Form::Conv(_) => {
                shape[1] = rank;
                (2..shape.len()).filter(|d| !self.first(d - 2)).for_each(|d| shape[d] = x.shape[d].clone());
            }
            Form::Columns | Form::Rows | Form::State => {
                *shape.last_mut().expect("internal: compress: a product of matrices") = rank
            }
        }
        TensorType::new(DType::F32, shape)
    }

    /// Attributes of a convolution that does what another one does along some of its dimensions.
    fn attrs(self, old: &Attrs, is_first: bool) -> Attrs {
        let mut attrs = old.clone();
        for (name, neutral) in [("strides", 1), ("dilations", 1), ("pads", 0)] {
            let Some(list) = old.ints(name) else { continue };
            let spatial = if name == "pads" { list.len() / 2 } else { list.len() };
            let keep = |(d, v): (usize, &i64)| if self.first(d % spatial.max(1)) == is_first { *v } else { neutral };
            attrs = attrs.with(name, Attr::Ints(list.iter().enumerate().map(keep).collect()));
        }
        attrs
    }
}

/// The kernel of a layer: all its taps in one row where it has not two dimensions.
fn kernel(layer: &Weighted) -> Kernel {
    let channels = layer.channels;
    match &layer.form {
        Form::Conv(Window { kernel, .. }) if kernel.len() == 2 => Kernel { rows: kernel[0], columns: kernel[1], channels },
        _ => Kernel { rows: 1, columns: layer.taps, channels },
    }
}

/// The name, or that with a number that no value has.
fn free(graph: &Graph, name: &str) -> String {
    let taken = |name: &str| graph.values.iter().any(|v| v.name == name);
    let numbered = (1..).map(|n| format!("{name}.{n}"));
    std::iter::once(name.to_string())
        .chain(numbered)
        .find(|name| !taken(name))
        .expect("internal: compress: there are more numbers")
}

/// Moves the nodes from number `from` on in front of those that read them.
pub fn settle(graph: &mut Graph, from: usize) {
    let mut waiting: Vec<Option<Node>> = graph.nodes.split_off(from).into_iter().map(Some).collect();
    let nodes = std::mem::take(&mut graph.nodes);
    for node in nodes {
        emit(node, &mut waiting, &mut graph.nodes);
    }
}

fn emit(node: Node, waiting: &mut Vec<Option<Node>>, to: &mut Vec<Node>) {
    let reads: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
    for i in 0..waiting.len() {
        if let Some(first) = waiting[i].take_if(|n| n.outputs.iter().any(|id| reads.contains(id))) {
            emit(first, waiting, to);
        }
    }
    to.push(node);
}

#[cfg(test)]
mod tests {
    use onnxc_ir::op::OpSet;
    use onnxc_ir::{interp, verify};

    use super::super::testing::{self, Inputs, Random};
    use super::super::weighted;
    use super::*;

    const ALL: [Split; 3] = [Split::LowRank, Split::Narrow, Split::Separated];

    fn floats(random: &mut Random, shape: &[u64]) -> Tensor {
        let n: u64 = shape.iter().product();
        Tensor::from_vec(shape, (0..n).map(|_| random.normal() as f32).collect())
    }

    /// `relu(op(x, w, b))`, so that there is a node behind the layer.
    fn graph(op: &str, [x, w, y]: [&[u64]; 3], attrs: Attrs, bias: bool) -> Graph {
        let (mut random, ops) = (Random(1), OpSet(onnxc_ops::ALL));
        let mut graph = Graph::new("test");
        let input = graph.add_input("x", TensorType::fixed(DType::F32, x));
        let weights = floats(&mut random, w);
        let weights = graph.add_const("w", weights);
        let n = if op == "conv" { y[1] } else { y[y.len() - 1] };
        let bias = bias.then(|| graph.add_const("b", floats(&mut random, &[n])));
        let product = graph.add_value("y", TensorType::fixed(DType::F32, y), None);
        let positive = graph.add_value("z", TensorType::fixed(DType::F32, y), None);
        let mut push = |op: &str, inputs, output, attrs| {
            let op = ops.get(op).expect("an operator");
            graph.nodes.push(Node { op, inputs, outputs: vec![output], attrs, origins: vec!["layer".to_string()] });
        };
        push(
            op,
            if bias.is_some() { vec![Some(input), Some(weights), bias] } else { vec![Some(input), Some(weights)] },
            product,
            attrs,
        );
        push("relu", vec![Some(product)], positive, Attrs::default());
        graph.outputs.push(positive);
        verify::verify(&graph).unwrap_or_else(|e| panic!("{e:?}"));
        graph
    }

    fn ints(list: &[i64]) -> Attr {
        Attr::Ints(list.to_vec())
    }

    fn graphs() -> Vec<Graph> {
        let image =
            Attrs::default().with("strides", ints(&[2, 1])).with("dilations", ints(&[1, 2])).with("pads", ints(&[1, 0, 2, 1]));
        let series = Attrs::default().with("strides", ints(&[2])).with("pads", ints(&[1, 1]));
        vec![
            graph("conv", [&[2, 5, 9, 8], &[6, 5, 3, 2], &[2, 6, 5, 7]], image, true),
            graph("conv", [&[1, 4, 10], &[5, 4, 3], &[1, 5, 5]], series, false),
            graph("matmul", [&[2, 3, 6], &[6, 5], &[2, 3, 5]], Attrs::default(), false),
            graph("gemm", [&[3, 6], &[6, 5], &[3, 5]], Attrs::default(), true),
            graph("gemm", [&[3, 6], &[5, 6], &[3, 5]], Attrs::default().with("transB", Attr::Int(1)), true),
        ]
    }

    #[test]
    fn two_nodes_do_what_one_with_their_product_does() {
        let mut random = Random(2);
        let mut splits = 0;
        for graph in graphs() {
            let layer = weighted::layers(&graph).remove(0);
            for split in ALL.into_iter().filter(|s| s.fits(&layer)) {
                splits += 1;
                let weights = |part: &Weighted, m: &Matrix| Tensor::from_vec(&part.shape(), part.operand(&m.values));
                let mut two = graph.clone();
                let parts = split.put(&mut two, &layer, 3, "y.first");
                let [first, second] = [&parts[0], &parts[1]].map(|p| random.matrix(p.n, p.k()));
                weighted::replace(&mut two, &parts[0], weights(&parts[0], &first));
                weighted::replace(&mut two, &parts[1], weights(&parts[1], &second));
                settle(&mut two, graph.nodes.len());
                two.make_names_unique();
                verify::verify(&two).unwrap_or_else(|e| panic!("{split:?}: {e:?}"));
                let mut one = graph.clone();
                let whole = split.product(&layer, &first, &second);
                weighted::replace(&mut one, &layer, weights(&layer, &whole));

                let x = floats(&mut random, &graph.ty(graph.inputs[0]).const_shape().expect("a shape"));
                let run = |g: &Graph| interp::run(g, std::slice::from_ref(&x)).expect("values")[0].to_vec::<f32>();
                let (want, got) = (run(&one), run(&two));
                let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                let apart = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(most > 0.0 && apart < 1e-5 * most, "{split:?} of {}: {apart} of {most}", layer.name);

                // What calibration finds in the graph is what was promised.
                let found = weighted::layers(&two);
                let same = |found: &Weighted, part: &Weighted| {
                    // What would be read less is not known before both are in a graph.
                    let alone = |layer: &Weighted| Weighted { node: 0, before: Vec::new(), ..layer.clone() };
                    alone(found) == alone(part)
                };
                assert!(
                    found.len() == 2 && same(&found[0], &parts[0]) && same(&found[1], &parts[1]),
                    "{split:?}: {found:#?} {parts:#?}"
                );
                assert!(two.nodes.iter().all(|n| n.origins == ["layer"]) && two.values.iter().any(|v| v.name == "y.first"));
            }
        }
        assert_eq!(splits, 3 + 2 + 1 + 1 + 1);
    }

    #[test]
    fn ranks_make_the_share_of_multiplications() {
        let graph = graph("conv", [&[1, 64, 10, 10], &[96, 64, 3, 3], &[1, 96, 8, 8]], Attrs::default(), false);
        let layer = weighted::layers(&graph).remove(0);
        for split in ALL {
            for density in [0.65, 0.4, 0.2] {
                let rank = split.rank(&layer, density, 4);
                let share =
                    |rank: usize| split.parts(&layer, rank).iter().map(Weighted::macs).sum::<u64>() as f64 / layer.macs() as f64;
                assert!(share(rank - 2) <= density && density <= share(rank + 2), "{split:?} {density}: {rank}");
                assert_eq!(split.rank(&layer, density, 16) % if rank >= 16 { 16 } else { 4 }, 0);
            }
            assert!(split.rank(&layer, 100.0, 16) <= 192 && split.rank(&layer, 0.0, 16) == 4);
        }
    }

    /// What the search rounds with: the moments of what each of both multiplies.
    #[test]
    fn moments_of_both_are_those_of_their_rows() {
        let graph = graph("conv", [&[1, 5, 3, 4], &[6, 5, 2, 3], &[1, 6, 2, 2]], Attrs::default(), false);
        let layer = weighted::layers(&graph).remove(0);
        let mut random = Random(3);
        let rows = Inputs::new(&mut random, 6, 30).rows(&mut random, 200);
        let h = testing::moments(30, &rows);
        for split in ALL {
            let [first, _] = split.parts(&layer, 2);
            let weights = random.matrix(2, first.k());
            let blocks = split.blocks().map_or(vec![(0..30).collect()], |b| kernel(&layer).blocks(b));
            let before: Vec<f32> = rows.chunks(30).flat_map(|row| blocks.iter().flatten().map(|p| row[*p])).collect();
            let between: Vec<f32> = testing::apply(&weights, &[0.0; 2], &before).into_iter().map(|x| x as f32).collect();
            let want = [testing::moments(first.k(), &before), testing::moments(2 * blocks.len(), &between)];
            for (got, want) in split.moments(&layer, &h, &weights).iter().zip(&want) {
                let near = |a: &[f64], b: &[f64]| {
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3 * (1.0 + b.abs()))
                };
                assert!(got.k == want.k && got.rows == want.rows, "{split:?}");
                assert!(near(&got.second, &want.second) && near(&got.sum, &want.sum), "{split:?}");
            }
        }
    }
}
