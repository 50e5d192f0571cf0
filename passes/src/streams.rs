//! Values whose channels can only be chosen together: a residual stream, or what squeeze and excitation scales.
//!
//! What   a sum and its operands, elementwise work, pools and depthwise convolutions have the same channels. Who chooses some of them for one of these values chooses
//!        them for all, if everything that reads one of them can do with these channels.
//! When   compression asks which layers read a stream ([`super::compress::weighted`]); [`narrow`] is a part of canonicalisation.
//! Why    the rule `raise-channels` takes a choice on through values that have one reader. Streams have several, which have to agree.
//! Class  exact: every element that is left is computed as before.
//! Misses what [`Site::chosen`] does not know, outputs of the graph, a reader that needs all channels: then nothing becomes narrower.

use std::collections::{BTreeMap, BTreeSet};

use onnxc_ir::{Attrs, Dim, Graph, Tensor, ValueId};

use crate::channels::{Part, Site};

/// A graph whose streams are looked for.
pub(crate) struct Streams<'a> {
    graph: &'a Graph,
    users: Vec<Vec<(usize, usize)>>,
    makers: BTreeMap<ValueId, usize>,
}

/// Values with the same channels.
#[derive(Default)]
pub(crate) struct Stream {
    /// The nodes that compute them, each with the dimension of its result that counts channels.
    pub(crate) nodes: BTreeMap<usize, usize>,
    /// The nodes that read them and have other channels.
    pub(crate) readers: BTreeSet<usize>,
    /// Is one of the values read more than once?
    pub(crate) shared: bool,
}

impl<'a> Streams<'a> {
    pub(crate) fn new(graph: &'a Graph) -> Streams<'a> {
        let results = graph.nodes.iter().enumerate().flat_map(|(n, node)| node.outputs.iter().map(move |id| (*id, n)));
        Streams { graph, users: graph.uses(), makers: results.collect() }
    }

    /// The stream that a value with this dimension of channels belongs to. `reads` says of a node and the number of its operand, which has its channels along a
    /// dimension, whether it is a reader that can do with a part of them. `None` where somebody needs all channels, or may.
    pub(crate) fn find(&self, from: (ValueId, usize), reads: impl Fn(usize, usize, usize) -> bool) -> Option<Stream> {
        let (mut axes, mut open, mut stream) = (BTreeMap::new(), vec![from], Stream::default());
        while let Some((value, axis)) = open.pop() {
            match axes.insert(value, axis) {
                Some(other) if other == axis => continue,
                Some(_) => return None,
                None => {}
            }
            let number = *self.makers.get(&value).filter(|_| !self.graph.outputs.contains(&value))?;
            stream.nodes.insert(number, axis);
            open.extend(self.above(number, axis)?);
            let users = &self.users[value.0 as usize];
            stream.shared |= users.len() > 1;
            for (node, operand) in users {
                if reads(*node, *operand, axis) {
                    stream.readers.insert(*node);
                } else {
                    open.push(self.below(*node, *operand, axis)?);
                }
            }
        }
        Some(stream)
    }

    /// The operands of a node that have the channels of its result.
    fn above(&self, number: usize, axis: usize) -> Option<Vec<(ValueId, usize)>> {
        let node = &self.graph.nodes[number];
        if node.outputs.len() != 1 {
            return None;
        }
        let (parts, _) = Site::of(self.graph, node).chosen(axis, 1)?;
        let chosen = |(id, part): (&Option<ValueId>, Part)| match (id, part) {
            (Some(id), Part::Chosen(axis)) if self.graph.constant(*id).is_none() => Some((*id, axis)),
            _ => None,
        };
        Some(node.inputs.iter().zip(parts).filter_map(chosen).collect())
    }

    /// The result of a node that has the channels of an operand.
    fn below(&self, number: usize, operand: usize, axis: usize) -> Option<(ValueId, usize)> {
        let node = &self.graph.nodes[number];
        let [result] = node.outputs[..] else { return None };
        let site = Site::of(self.graph, node);
        let same = |of: &usize| site.chosen(*of, 1).is_some_and(|(parts, _)| parts.get(operand) == Some(&Part::Chosen(axis)));
        (0..self.graph.ty(result).rank()).find(same).map(|of| (result, of))
    }
}

/// Some channels, ascending, along a dimension.
#[derive(Clone, PartialEq)]
struct Choice {
    from: ValueId,
    axis: usize,
    channels: Vec<usize>,
}

/// The graph in which streams have the channels only that all their readers choose.
pub(crate) fn narrow(graph: &Graph) -> Option<Graph> {
    let mut out: Option<Graph> = None;
    while let Some(next) = narrow_one(out.as_ref().unwrap_or(graph)) {
        out = Some(next);
    }
    out.iter_mut().for_each(Graph::make_names_unique);
    out
}

fn narrow_one(graph: &Graph) -> Option<Graph> {
    let choices: BTreeMap<usize, Choice> = (0..graph.nodes.len()).filter_map(|n| Some((n, choice(graph, n)?))).collect();
    if choices.is_empty() {
        return None;
    }
    let streams = Streams::new(graph);
    choices.values().find_map(|wanted| {
        let agrees = |other: &Choice| other.axis == wanted.axis && other.channels == wanted.channels;
        let reads = |node: usize, operand: usize, axis: usize| {
            operand == 0 && choices.get(&node).is_some_and(|other| other.axis == axis && agrees(other))
        };
        let stream = streams.find((wanted.from, wanted.axis), reads).filter(|stream| stream.shared)?;
        narrowed(graph, &stream, &wanted.channels)
    })
}

/// What a node chooses of its operand.
fn choice(graph: &Graph, number: usize) -> Option<Choice> {
    let node = &graph.nodes[number];
    if node.op.name != "gather" || graph.outputs.contains(&node.outputs[0]) {
        return None;
    }
    let (from, indices) = (node.inputs[0]?, graph.constant(node.inputs[1]?).filter(|t| t.shape().len() == 1)?);
    let axis = node.attrs.int("axis").unwrap_or(0);
    let axis = usize::try_from(if axis < 0 { axis + graph.ty(from).rank() as i64 } else { axis }).ok()?;
    let all = graph.ty(from).shape.get(axis)?.as_const()?;
    let channels = indices.to_i64s()?.into_iter().map(|c| usize::try_from(c).ok()).collect::<Option<Vec<usize>>>()?;
    let ascending = channels.windows(2).all(|p| p[0] < p[1]) && channels.last().is_some_and(|c| (*c as u64) < all);
    ascending.then_some(Choice { from, axis, channels })
}

/// A node with other operands: numbers of constants to come stand for them.
struct Narrowed {
    node: usize,
    attrs: Attrs,
    constants: Vec<(usize, Tensor)>,
}

/// The graph in which the values of a stream have these channels in this order. Readers are as they were.
pub(crate) fn with_channels(graph: &Graph, stream: &Stream, channels: &[usize]) -> Option<Graph> {
    let of = |(node, axis): (&usize, &usize)| narrowed_node(graph, *node, *axis, channels);
    let changes = stream.nodes.iter().map(of).collect::<Option<Vec<Narrowed>>>()?;
    let mut out = graph.clone();
    for Narrowed { node, attrs, constants } in changes {
        for (operand, tensor) in constants {
            let old = out.nodes[node].inputs[operand].map(|id| out.value(id).name.clone()).unwrap_or_default();
            out.nodes[node].inputs[operand] = Some(out.add_const(&old, tensor));
        }
        let result = out.nodes[node].outputs[0];
        out.values[result.0 as usize].ty.shape[stream.nodes[&node]] = Dim::Const(channels.len() as u64);
        out.nodes[node].attrs = attrs;
    }
    Some(out)
}

fn narrowed(graph: &Graph, stream: &Stream, channels: &[usize]) -> Option<Graph> {
    let mut out = with_channels(graph, stream, channels)?;
    let instead = |n: &usize| Some((out.nodes[*n].outputs[0], out.nodes[*n].inputs[0]?));
    let renamed: BTreeMap<ValueId, ValueId> = stream.readers.iter().filter_map(instead).collect();
    for input in out.nodes.iter_mut().flat_map(|n| n.inputs.iter_mut().flatten()) {
        *input = renamed.get(input).copied().unwrap_or(*input);
    }
    let mut number = 0..;
    out.nodes.retain(|_| number.next().is_none_or(|n| !stream.readers.contains(&n)));
    Some(out)
}

/// A node that computes some channels of a dimension; `None` for constants of types that are no whole bytes.
fn narrowed_node(graph: &Graph, number: usize, axis: usize, channels: &[usize]) -> Option<Narrowed> {
    let node = &graph.nodes[number];
    let (parts, attrs) = Site::of(graph, node).chosen(axis, channels.len() as u64)?;
    let mut constants = Vec::new();
    for (operand, (id, part)) in node.inputs.iter().zip(parts).enumerate() {
        match (part, id.and_then(|id| graph.constant(id))) {
            (Part::Ints(list), _) => constants.push((operand, Tensor::from_vec(&[list.len() as u64], list))),
            (Part::Chosen(axis), Some(tensor)) => constants.push((operand, taken(tensor, axis, channels)?)),
            _ => {}
        }
    }
    Some(Narrowed { node: number, attrs, constants })
}

/// Some channels of a tensor.
fn taken(tensor: &Tensor, axis: usize, channels: &[usize]) -> Option<Tensor> {
    let mut shape = tensor.shape().to_vec();
    if tensor.strings().is_some() || !tensor.dtype().bits().is_multiple_of(8) {
        return None;
    }
    let (all, inner) = (shape[axis] as usize, shape[axis + 1..].iter().product::<u64>() * tensor.dtype().bytes());
    shape[axis] = channels.len() as u64;
    let rows = tensor.bytes().chunks_exact((all * inner as usize).max(1));
    let some =
        |row: &[u8]| channels.iter().flat_map(|c| row[c * inner as usize..][..inner as usize].to_vec()).collect::<Vec<u8>>();
    Tensor::from_bytes(tensor.dtype(), shape, onnxc_ir::tensor::Bytes::new(rows.flat_map(some).collect()))
}

#[cfg(test)]
mod tests {
    use onnxc_ir::op::OpSet;
    use onnxc_ir::{DType, interp, parse, text, verify};

    use super::*;
    use crate::compress::weighted::layers;

    /// Two layers add up what four others read: `%fourth` of the sum, `%second` of what it begins with.
    const RESIDUAL: &str = "graph @f(%x: f32[1,3,4,4]) {
  %u = const f32[4,3,1,1] blob(0000000000000001)
  %v = const f32[5,4,3,3] blob(0000000000000002)
  %w = const f32[4,5,1,1] blob(0000000000000003)
  %z = const f32[2,4,1,1] blob(0000000000000004)
  %b = const f32[4] [0.5, -1, 2, 0.25]
  %kept = const i64[2] [1, 3]
  %first = conv %x, %u, %b {group = 1} : f32[1,4,4,4] @\"first\"
  %begin = relu %first : f32[1,4,4,4]
  %some = gather %begin, %kept {axis = 1} : f32[1,2,4,4]
  %v2 = const f32[5,2,3,3] blob(0000000000000005)
  %second = conv %some, %v2 {pads = ints[1, 1, 1, 1]} : f32[1,5,4,4] @\"second\"
  %third = conv %second, %w, %b {group = 1} : f32[1,4,4,4] @\"third\"
  %sum = add %begin, %third : f32[1,4,4,4]
  %end = relu %sum : f32[1,4,4,4]
  %same = gather %end, %kept {axis = 1} : f32[1,2,4,4]
  %z2 = const f32[2,2,1,1] blob(0000000000000006)
  %y = conv %same, %z2 {group = 1} : f32[1,2,4,4] @\"fourth\"
  return %y
}
";

    /// Squeeze and excitation of a depthwise layer's result.
    const SCALED: &str = "graph @f(%x: f32[1,3,4,4]) {
  %u = const f32[4,3,1,1] blob(0000000000000001)
  %d = const f32[4,1,3,3] blob(0000000000000002)
  %s = const f32[2,2,1,1] blob(0000000000000003)
  %e = const f32[4,2,1,1] blob(0000000000000004)
  %z = const f32[2,2,1,1] blob(0000000000000005)
  %axes = const i64[2] [2, 3]
  %kept = const i64[2] [0, 3]
  %first = conv %x, %u {group = 1} : f32[1,4,4,4] @\"first\"
  %deep = conv %first, %d {group = 4, pads = ints[1, 1, 1, 1]} : f32[1,4,4,4] @\"deep\"
  %mean = reduce_mean %deep, %axes {keepdims = 1} : f32[1,4,1,1]
  %means = gather %mean, %kept {axis = 1} : f32[1,2,1,1]
  %few = conv %means, %s {group = 1} : f32[1,2,1,1] @\"squeeze\"
  %all = conv %few, %e {group = 1} : f32[1,4,1,1] @\"excite\"
  %gate = sigmoid %all : f32[1,4,1,1]
  %scaled = mul %deep, %gate : f32[1,4,4,4]
  %some = gather %scaled, %kept {axis = 1} : f32[1,2,4,4]
  %y = conv %some, %z {group = 1} : f32[1,2,4,4] @\"project\"
  return %y
}
";

    fn numbers(shape: &[u64], seed: u64) -> Tensor {
        let value = |i: u64| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0;
        Tensor::from_vec(shape, (0..shape.iter().product()).map(value).collect())
    }

    /// A graph whose blobs have the shapes that its text states.
    fn graph(source: &str) -> Graph {
        let shape = |blob: u64| {
            let line = source.lines().find(|l| l.contains(&format!("blob({blob:016x})"))).expect("a line");
            let list = line.split_once("f32[").expect("a type").1.split_once(']').expect("a shape").0;
            list.split(',').map(|n| n.parse().expect("an extent")).collect::<Vec<u64>>()
        };
        let graph = parse::parse(source, OpSet(onnxc_ops::ALL), &|blob| Some(numbers(&shape(blob), blob)));
        graph.unwrap_or_else(|e| panic!("{e}"))
    }

    fn filters(graph: &Graph, name: &str) -> u64 {
        let node = graph.nodes.iter().find(|n| n.origins.iter().any(|o| o == name)).expect("a layer");
        graph.constant(node.inputs[1].expect("weights")).expect("constant weights").shape()[0]
    }

    fn run(graph: &Graph) -> Vec<f32> {
        interp::run(graph, &[numbers(&[1, 3, 4, 4], 9)]).expect("values")[0].to_vec()
    }

    #[test]
    fn streams_whose_readers_agree_become_narrow() {
        for (source, layers) in [(RESIDUAL, ["first", "third"]), (SCALED, ["first", "excite"])] {
            let before = graph(source);
            let after = narrow(&before).expect("a stream");
            verify::verify(&after).unwrap_or_else(|e| panic!("{e:?}\n{}", text::print(&after)));
            assert!(after.nodes.iter().all(|n| n.op.name != "gather"), "{}", text::print(&after));
            assert_eq!(layers.map(|name| filters(&after, name)), [2, 2]);
            assert_eq!(run(&before), run(&after));
            assert!(narrow(&after).is_none());
        }
    }

    #[test]
    fn streams_stay_whole_where_somebody_needs_them() {
        let other = RESIDUAL.replace("%same = gather %end, %kept", "%other = const i64[2] [0, 3]\n  %same = gather %end, %other");
        let whole = RESIDUAL
            .replace("%same = gather %end, %kept {axis = 1} : f32[1,2,4,4]\n", "")
            .replace("%z2 = const f32[2,2,1,1] blob(0000000000000006)\n", "")
            .replace("conv %same, %z2", "conv %end, %z");
        let output = RESIDUAL.replace("return %y", "return %y, %sum");
        let normal = RESIDUAL.replace("%end = relu %sum", "%end = softmax %sum {axis = 1}");
        for source in [other, whole, output, normal] {
            assert_ne!(source, RESIDUAL);
            assert!(narrow(&graph(&source)).is_none(), "{source}");
        }
    }

    /// The same graphs as they are before anything is chosen.
    fn unchosen(source: &str) -> String {
        let lines = source.lines().filter(|l| !l.contains("gather") && !l.contains("%kept"));
        let text: String = lines.map(|l| format!("{l}\n")).collect();
        let text =
            text.replace("%v2 = const f32[5,2", "%v2 = const f32[5,4").replace("%z2 = const f32[2,2", "%z2 = const f32[2,4");
        let text = text.replace("%s = const f32[2,2", "%s = const f32[2,4").replace("conv %some, %v2", "conv %begin, %v2");
        let text = text.replace("conv %same", "conv %end").replace("conv %means", "conv %mean");
        text.replace("%z = const f32[2,2", "%z = const f32[2,4").replace("conv %some, %z", "conv %scaled, %z")
    }

    #[test]
    fn layers_know_who_reads_the_same_channels() {
        let of = |source: &str, name: &str| {
            let graph = graph(source);
            let names = |nodes: &[usize]| {
                let of = |n: &usize| graph.nodes[*n].origins.first().cloned().unwrap_or(graph.nodes[*n].op.name.to_string());
                nodes.iter().map(of).collect::<Vec<String>>().join(" ")
            };
            let layer = layers(&graph).into_iter().find(|l| l.name == name).expect("a layer");
            (names(&layer.together), names(&layer.before))
        };
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        let residual = unchosen(RESIDUAL);
        for name in ["second", "fourth"] {
            assert_eq!(of(&residual, name), pair("second fourth", "first relu third add relu"));
        }
        assert_eq!(of(&residual, "third"), pair("", "second"));
        let scaled = unchosen(SCALED);
        for name in ["squeeze", "project"] {
            assert_eq!(of(&scaled, name), pair("squeeze project", "first deep reduce_mean excite sigmoid mul"));
        }
        // Somebody else needs the channels, or may.
        for other in
            [residual.replace("return %y", "return %y, %sum"), residual.replace("= relu %sum", "= softmax %sum {axis = 1}")]
        {
            assert_ne!(other, residual);
            assert_eq!(of(&other, "second"), pair("", ""));
            assert_eq!(of(&other, "fourth"), pair("", ""));
        }
    }

    #[test]
    fn channels_of_a_tensor_are_taken_along_any_dimension() {
        let tensor = Tensor::from_vec(&[2, 3, 2], (0..12).collect::<Vec<i32>>());
        assert_eq!(taken(&tensor, 1, &[0, 2]).expect("a tensor").to_vec::<i32>(), [0, 1, 4, 5, 6, 7, 10, 11]);
        assert_eq!(taken(&tensor, 2, &[1]).expect("a tensor").shape(), [2, 3, 1]);
        assert_eq!(taken(&Tensor::zeros(DType::I4, &[4]).expect("a tensor"), 0, &[1]), None);
    }
}
