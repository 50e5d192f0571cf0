//! Filters in another order; whoever reads them reads them where they are.
//!
//! What   an order p of the filters of a layer: the weights of all layers whose results belong to its stream ([`crate::streams`]), and constants that meet it, are
//!        moved alike, and the inputs of the layers that read the stream are put in the order p.
//! When   compression asks for it, before layers are looked at.
//! Why    a panel of neighbouring filters shares the positions that it leaves out: those that need the same ones should be neighbours ([`super::order()`]).
//! Class  reassociates: readers add up the same products in another order.
//! Misses streams with an output of the graph, or that something reads which is neither elementwise nor a layer of one group.

use std::collections::BTreeMap;

use onnxc_ir::{Graph, Tensor, ValueId};

use super::weighted::{self, Weighted};
use crate::streams::{self, Streams};

/// The numbers of the layers of a graph whose filters can be put in another order: of those whose results are of one stream the one with most multiplications.
pub fn movable(graph: &Graph, layers: &[Weighted]) -> Vec<usize> {
    let (streams, reads) = (Streams::new(graph), weighted::readers(graph, layers, can_move));
    let mut found: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    for (n, layer) in layers.iter().enumerate().filter(|(_, l)| can_move(l)) {
        let Some(stream) = streams.find(result(graph, layer), &reads) else { continue };
        let largest = found.entry(stream.nodes.into_keys().collect()).or_insert(n);
        if layer.macs() > layers[*largest].macs() {
            *largest = n;
        }
    }
    let mut found: Vec<usize> = found.into_values().collect();
    found.sort_unstable();
    found
}

/// The graph in which filter `order[i]` of a layer is filter i, and the names of all layers whose filters or inputs that moves; `None` where the filters cannot be
/// moved, or this is no order of them.
pub fn reorder(graph: &Graph, name: &str, order: &[u32]) -> Option<(Graph, Vec<String>)> {
    let layers = weighted::layers(graph);
    let layer = layers.iter().find(|l| l.name == name && can_move(l))?;
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..layer.n as u32) {
        return None;
    }
    let reads = weighted::readers(graph, &layers, can_move);
    let stream = Streams::new(graph).find(result(graph, layer), reads)?;
    let channels: Vec<usize> = order.iter().map(|c| *c as usize).collect();
    let mut out = streams::with_channels(graph, &stream, &channels)?;
    // A layer that adds to what it reads has other filters by now.
    for reader in weighted::layers(&out).iter().filter(|l| stream.readers.contains(&l.node)) {
        let (matrix, k) = (reader.matrix(&out), reader.k().max(1));
        let from = |j: usize| j / reader.channels * reader.channels + channels[j % reader.channels];
        let values: Vec<f32> = (0..matrix.values.len()).map(|i| matrix.values[i / k * k + from(i % k)]).collect();
        weighted::replace(&mut out, reader, Tensor::from_vec(&reader.shape(), reader.operand(&values)));
    }
    out.make_names_unique();
    let touched = |l: &&Weighted| stream.nodes.contains_key(&l.node) || stream.readers.contains(&l.node);
    Some((out, layers.iter().filter(touched).map(|l| l.name.clone()).collect()))
}

fn can_move(layer: &Weighted) -> bool {
    layer.groups == 1 && !layer.is_state()
}

/// The result of a layer, and its dimension of channels.
fn result(graph: &Graph, layer: &Weighted) -> (ValueId, usize) {
    (graph.nodes[layer.node].outputs[0], layer.output_axis(graph))
}

#[cfg(test)]
mod tests {
    use onnxc_ir::op::OpSet;
    use onnxc_ir::{interp, parse, text, verify};

    use super::*;

    /// A residual sum that a depthwise layer and a pool read, each before a layer; the second layer adds to what it reads.
    const TEXT: &str = "graph @f(%x: f32[1,3,6,6]) {
  %u = const f32[5,3,1,1] blob(0000000000000001)
  %v = const f32[5,5,3,3] blob(0000000000000002)
  %d = const f32[5,1,3,3] blob(0000000000000003)
  %w = const f32[4,5,1,1] blob(0000000000000004)
  %m = const f32[5,7] blob(0000000000000005)
  %b = const f32[5] [0.5, -1, 2, 0.25, 1]
  %axes = const i64[2] [2, 3]
  %first = conv %x, %u, %b : f32[1,5,6,6] @\"first\"
  %begin = relu %first : f32[1,5,6,6]
  %second = conv %begin, %v, %b {pads = ints[1, 1, 1, 1]} : f32[1,5,6,6] @\"second\"
  %sum = add %begin, %second : f32[1,5,6,6]
  %deep = conv %sum, %d {group = 5, pads = ints[1, 1, 1, 1]} : f32[1,5,6,6] @\"deep\"
  %third = conv %deep, %w : f32[1,4,6,6] @\"third\"
  %mean = reduce_mean %sum, %axes {keepdims = 0} : f32[1,5]
  %y = matmul %mean, %m : f32[1,7] @\"fourth\"
  return %y, %third
}
";

    fn numbers(shape: &[u64], seed: u64) -> Tensor {
        let value = |i: u64| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0;
        Tensor::from_vec(shape, (0..shape.iter().product()).map(value).collect())
    }

    fn graph(source: &str) -> Graph {
        let shapes: [&[u64]; 5] = [&[5, 3, 1, 1], &[5, 5, 3, 3], &[5, 1, 3, 3], &[4, 5, 1, 1], &[5, 7]];
        let graph = parse::parse(source, OpSet(onnxc_ops::ALL), &|blob| Some(numbers(shapes[blob as usize - 1], blob)));
        graph.unwrap_or_else(|e| panic!("{e}"))
    }

    fn names(graph: &Graph) -> Vec<String> {
        let layers = weighted::layers(graph);
        movable(graph, &layers).into_iter().map(|n| layers[n].name.clone()).collect()
    }

    #[test]
    fn filters_move_with_all_that_meets_them() {
        let before = graph(TEXT);
        assert_eq!(names(&before), ["second"]);
        for name in ["first", "second"] {
            let (after, touched) = reorder(&before, name, &[3, 0, 4, 2, 1]).expect("a graph");
            assert_eq!(touched, ["first", "second", "deep", "third", "fourth"]);
            verify::verify(&after).unwrap_or_else(|e| panic!("{e:?}\n{}", text::print(&after)));
            let x = [numbers(&[1, 3, 6, 6], 9)];
            let (was, is) = (interp::run(&before, &x).expect("values"), interp::run(&after, &x).expect("values"));
            for (was, is) in was.iter().zip(&is) {
                let (was, is) = (was.to_vec::<f32>(), is.to_vec::<f32>());
                assert!(was.iter().zip(&is).all(|(a, b)| (a - b).abs() < 1e-4), "{was:?} {is:?}");
            }
            let moved = weighted::layers(&after);
            let (old, new) = (weighted::layers(&before)[0].matrix(&before), moved[0].matrix(&after));
            assert_eq!(new.values[..3], old.values[9..12]);
        }
    }

    #[test]
    fn filters_stay_where_somebody_needs_them_in_their_order() {
        let before = graph(TEXT);
        // An output, filters that are not there, twice the same, and too few.
        for (name, order) in [("third", &[3u32, 0, 2, 1][..]), ("none", &[0]), ("first", &[0, 0, 1, 2, 3]), ("first", &[1, 0])] {
            assert!(reorder(&before, name, order).is_none(), "{name} {order:?}");
        }
        for other in [TEXT.replace("return %y", "return %y, %begin"), TEXT.replace("relu %first", "softmax %first {axis = 1}")] {
            assert_ne!(other, TEXT);
            assert!(!names(&graph(&other)).contains(&"first".to_string()), "{other}");
            assert!(reorder(&graph(&other), "first", &[3, 0, 4, 2, 1]).is_none(), "{other}");
        }
    }
}
