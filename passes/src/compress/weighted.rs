//! Layers with weights: which nodes of a graph multiply by constants, and their weights as matrices.
//!
//! Compression sees every such layer as `y = x W`: rows of x are the windows of a convolution (im2col) or the rows of a matrix, and W has a column for
//! each output. What methods make of W goes back to the operand in its own layout.

use std::collections::{BTreeMap, BTreeSet};

use onnxc_ir::graph::Node;
use onnxc_ir::{DType, Graph, Tensor, ValueId};

use super::{Matrix, recurrent};
use crate::canonicalize::channels::reach;
use crate::streams::Streams;

/// A node that multiplies by constant weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    /// Its number among the nodes of the graph.
    pub node: usize,
    /// The names of the ONNX nodes that it does the work of, which recipes call it by.
    pub name: String,
    /// Outputs (filters).
    pub n: usize,
    /// Input channels of a group.
    pub channels: usize,
    /// Positions of the kernel; 1 for matrices.
    pub taps: usize,
    /// Groups of a convolution.
    pub groups: usize,
    /// Rows that one inference multiplies; 0 where extents are open.
    pub rows: u64,
    /// Nodes that do less if this one reads fewer channels, those that compute them included; none where others need the channels too.
    pub before: Vec<usize>,
    /// The nodes of the layers that have to read the same channels if those before are to do less, this one among them; none where it reads them alone.
    pub together: Vec<usize>,
    pub(super) form: Form,
}

/// The operand of a node that has the weights of what it multiplies, and of a recurrent layer those of its state.
const OF_OPERAND: usize = 1;
const OF_STATE: usize = onnxc_ops::recurrent::MATRICES[1];

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// Weights `[n][channels][taps]`.
    Conv(Window),
    /// Weights `[k][n]`.
    Columns,
    /// Weights `[n][k]`.
    Rows,
    /// Weights `[1][n][k]` of what a recurrent layer makes of its state, whose products of x are there already.
    State,
}

/// The window of a convolution.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<i64>,
    pub(super) dilations: Vec<i64>,
    pub(super) begin: Vec<i64>,
    /// Extents of x and y behind batch and channels.
    pub(super) x: Vec<usize>,
    pub(super) y: Vec<usize>,
    /// Images of a batch.
    pub(super) batch: usize,
}

/// The layers of a graph in its order. Weights of other types than f32 are left out.
pub fn layers(graph: &Graph) -> Vec<Weighted> {
    let mut layers: Vec<Weighted> = graph.nodes.iter().enumerate().filter_map(|(n, node)| Weighted::of(graph, n, node)).collect();
    find_streams(graph, &mut layers);
    layers
}

/// Does a node read channels of an operand along a dimension as one of these layers? What [`Streams::find`] asks.
pub(super) fn readers<F: Fn(&Weighted) -> bool>(
    graph: &Graph,
    layers: &[Weighted],
    can: F,
) -> impl Fn(usize, usize, usize) -> bool + use<F> {
    let axes: BTreeMap<usize, usize> = layers.iter().filter(|l| can(l)).map(|l| (l.node, l.input_axis(graph))).collect();
    move |node, operand, axis| operand == 0 && axes.get(&node) == Some(&axis)
}

/// Tells layers what is before them where a value is read more than once.
fn find_streams(graph: &Graph, layers: &mut [Weighted]) {
    let can = |l: &Weighted| l.groups == 1 && l.rows > 0 && !l.is_state();
    let (streams, reads) = (Streams::new(graph), readers(graph, layers, can));
    let mut seen: BTreeSet<usize> = layers.iter().filter(|l| !l.before.is_empty()).map(|l| l.node).collect();
    for n in 0..layers.len() {
        let layer = &layers[n];
        if !can(layer) || seen.contains(&layer.node) {
            continue;
        }
        let Some(stream) = streams.find((layer.x(graph), layer.input_axis(graph)), &reads) else { continue };
        let before: Vec<usize> = stream.nodes.into_keys().collect();
        let readers: Vec<usize> = stream.readers.into_iter().collect();
        for reader in layers.iter_mut().filter(|l| readers.contains(&l.node)) {
            reader.before.clone_from(&before);
            reader.together = if readers.len() > 1 { readers.clone() } else { Vec::new() };
            seen.insert(reader.node);
        }
    }
}

impl Weighted {
    fn of(graph: &Graph, number: usize, node: &Node) -> Option<Weighted> {
        let operand = |i: usize| node.inputs.get(i).copied().flatten();
        let is_state = recurrent::is_state(node);
        // The states of all steps but the last one, and the one before the first step, are what r multiplies; results are all but that one.
        let x = if is_state { *node.outputs.first()? } else { operand(0)? };
        let w = operand(if is_state { OF_STATE } else { OF_OPERAND })?;
        let weights = graph.constant(w).filter(|t| t.dtype() == DType::F32)?;
        let known = |id: ValueId| graph.ty(id).shape.iter().map(|d| d.as_const().unwrap_or(0)).collect::<Vec<u64>>();
        let (x, w, y) = (known(x), weights.shape().to_vec(), known(*node.outputs.first()?));
        let size = |n: u64| n as usize;
        let (form, n, channels, taps, groups) = match node.op.name {
            _ if is_state => (w[0] == 1).then(|| (Form::State, size(w[1]), size(w[2]), 1, 1))?,
            "conv" => {
                let list = |name: &str, default: i64| match node.attrs.ints(name) {
                    Some(list) => list.to_vec(),
                    None => vec![default; 2 * (w.len() - 2)],
                };
                let spatial = w.len() - 2;
                let window = Window {
                    kernel: w[2..].iter().map(|n| size(*n)).collect(),
                    strides: list("strides", 1)[..spatial].to_vec(),
                    dilations: list("dilations", 1)[..spatial].to_vec(),
                    begin: list("pads", 0)[..spatial].to_vec(),
                    x: x[2..].iter().map(|n| size(*n)).collect(),
                    y: y[2..].iter().map(|n| size(*n)).collect(),
                    batch: size(x[0]),
                };
                let taps = window.kernel.iter().product();
                let groups = node.attrs.int("group").unwrap_or(1).max(1) as usize;
                (Form::Conv(window), size(w[0]), size(w[1]), taps, groups)
            }
            "matmul" if w.len() == 2 && x.len() >= 2 => (Form::Columns, size(w[1]), size(w[0]), 1, 1),
            "gemm" if node.attrs.int("transA").unwrap_or(0) == 0 && node.attrs.float("alpha").unwrap_or(1.0) == 1.0 => {
                if node.attrs.int("transB").unwrap_or(0) != 0 {
                    (Form::Rows, size(w[0]), size(w[1]), 1, 1)
                } else {
                    (Form::Columns, size(w[1]), size(w[0]), 1, 1)
                }
            }
            _ => return None,
        };
        let row = if is_state { channels } else { n } as u64;
        let rows = y.iter().product::<u64>() / row.max(1);
        let name = node.origins.join(" ");
        let axis = if matches!(form, Form::Conv(_)) { 1 } else { x.len() - 1 };
        let before = if groups == 1 && !is_state { reach(graph, operand(0)?, axis).unwrap_or_default() } else { Vec::new() };
        let together = Vec::new();
        (n > 0 && channels > 0).then_some(Weighted {
            node: number,
            name,
            n,
            channels,
            taps,
            groups,
            rows,
            before,
            together,
            form,
        })
    }

    /// The layer with so many outputs.
    pub fn with_outputs(&self, n: usize) -> Weighted {
        Weighted { n, ..self.clone() }
    }

    /// Is it a convolution with one kernel of 3 by 3 for each pair of channels, without strides and dilations?
    pub fn is_three_by_three(&self) -> bool {
        let plain = |of: &Window| of.kernel == [3, 3] && of.strides.iter().chain(&of.dilations).all(|step| *step == 1);
        self.groups == 1 && matches!(&self.form, Form::Conv(window) if plain(window))
    }

    /// Are its rows states of a recurrent layer, which no node of the graph passes on?
    pub fn is_state(&self) -> bool {
        self.form == Form::State
    }

    /// The operand of the node that has the weights.
    pub(super) fn operand_of_weights(&self) -> usize {
        if self.is_state() { OF_STATE } else { OF_OPERAND }
    }

    /// The operand of the node that has the bias.
    fn operand_of_bias(&self) -> usize {
        self.operand_of_weights() + 1
    }

    /// Inputs of each output.
    pub fn k(&self) -> usize {
        self.taps * self.channels
    }

    /// Channels of the operand, those of all groups.
    pub fn input_channels(&self) -> usize {
        self.channels * self.groups
    }

    /// The channel of the operand that input `k` of output `n` is of.
    pub fn input_channel(&self, n: usize, k: usize) -> usize {
        n / (self.n / self.groups).max(1) * self.channels + k % self.channels
    }

    /// The dimension of the operand that counts channels.
    pub fn input_axis(&self, graph: &Graph) -> usize {
        if matches!(self.form, Form::Conv(_)) { 1 } else { graph.ty(self.x(graph)).rank() - 1 }
    }

    /// The dimension of the result that counts outputs.
    pub fn output_axis(&self, graph: &Graph) -> usize {
        if matches!(self.form, Form::Conv(_)) { 1 } else { graph.ty(graph.nodes[self.node].outputs[0]).rank() - 1 }
    }

    /// Multiplications of one inference.
    pub fn macs(&self) -> u64 {
        self.rows * (self.n * self.k()) as u64
    }

    /// What is multiplied: an operand, or the states that a recurrent layer has for results.
    pub fn x(&self, graph: &Graph) -> ValueId {
        self.read_by(&graph.nodes[self.node])
    }

    fn read_by(&self, node: &Node) -> ValueId {
        if self.is_state() { node.outputs[0] } else { node.inputs[0].expect("internal: compress: a layer has an operand") }
    }

    /// The operand in a graph that was made from `graph` by putting nodes around this one.
    pub fn x_within(&self, graph: &Graph, other: &Graph) -> ValueId {
        let result = graph.nodes[self.node].outputs[0];
        let node = other.nodes.iter().find(|n| n.outputs[0] == result).expect("internal: compress: layers keep their results");
        self.read_by(node)
    }

    /// The operands of the last so many nodes of those that have taken the place of this one in a graph that was made from `graph`, the last one first.
    pub fn within(&self, graph: &Graph, other: &Graph, many: usize) -> Vec<ValueId> {
        let before = |id: &ValueId| other.nodes.iter().find(|n| n.outputs[0] == *id).and_then(|n| n.inputs[0]);
        std::iter::successors(Some(self.x_within(graph, other)), before).take(many).collect()
    }

    /// The weights.
    pub fn weights(&self, graph: &Graph) -> ValueId {
        graph.nodes[self.node].inputs[self.operand_of_weights()].expect("internal: compress: a layer has weights")
    }

    /// The dimension of the weights that counts outputs.
    pub fn axis(&self) -> usize {
        usize::from(matches!(self.form, Form::Columns | Form::State))
    }

    /// Where the weight of output `n` and input `k` is in the operand.
    fn at(&self, n: usize, k: usize) -> usize {
        match &self.form {
            Form::Conv(_) => (n * self.channels + k % self.channels) * self.taps + k / self.channels,
            Form::Columns => k * self.n + n,
            Form::Rows | Form::State => n * self.k() + k,
        }
    }

    /// The weights as a matrix.
    pub fn matrix(&self, graph: &Graph) -> Matrix {
        let values = graph.constant(self.weights(graph)).expect("internal: compress: weights are constant").to_vec::<f32>();
        let k = self.k();
        let values = (0..self.n * k).map(|i| values[self.at(i / k, i % k)]).collect();
        Matrix { n: self.n, k, values }
    }

    /// A matrix of any elements in the layout of the operand.
    pub fn operand<T: Copy + Default>(&self, values: &[T]) -> Vec<T> {
        let (k, mut out) = (self.k(), vec![T::default(); values.len()]);
        for (i, v) in values.iter().enumerate() {
            out[self.at(i / k, i % k)] = *v;
        }
        out
    }

    /// The shape of the operand.
    pub fn shape(&self) -> Vec<u64> {
        let (n, k) = (self.n as u64, self.k() as u64);
        match &self.form {
            Form::Conv(window) => {
                [n, self.channels as u64].into_iter().chain(window.kernel.iter().map(|taps| *taps as u64)).collect()
            }
            Form::Columns => vec![k, n],
            Form::Rows => vec![n, k],
            Form::State => vec![1, n, k],
        }
    }

    /// Appends some of the rows that one inference multiplies, those with these numbers: `k` values each. `x` is the operand as the caller of a model has it,
    /// row-major. For convolutions of one group.
    pub fn rows_of(&self, x: &[f32], numbers: impl Iterator<Item = u64>, out: &mut Vec<f32>) {
        let k = self.k();
        let Form::Conv(window) = &self.form else {
            return numbers.for_each(|row| out.extend_from_slice(&x[row as usize * k..][..k]));
        };
        for row in numbers {
            window.row(x, self.channels * self.groups, row as usize, out);
        }
    }
}

impl Window {
    /// The window of output position `row`, taps outermost; zeros where it reaches over the edge.
    fn row(&self, x: &[f32], channels: usize, row: usize, out: &mut Vec<f32>) {
        let places: usize = self.y.iter().product();
        let plane: usize = self.x.iter().product();
        let (image, mut place) = (row / places % self.batch.max(1), row % places);
        let mut start = vec![0i64; self.y.len()];
        for d in (0..self.y.len()).rev() {
            start[d] = (place % self.y[d]) as i64 * self.strides[d] - self.begin[d];
            place /= self.y[d];
        }
        for tap in 0..self.kernel.iter().product() {
            let (mut left, mut at, mut inside) = (tap, 0usize, true);
            let mut step = 1;
            for d in (0..self.kernel.len()).rev() {
                let i = start[d] + (left % self.kernel[d]) as i64 * self.dilations[d];
                left /= self.kernel[d];
                inside &= i >= 0 && (i as usize) < self.x[d];
                at += i.max(0) as usize * step;
                step *= self.x[d];
            }
            if inside {
                let first = image * channels * plane + at;
                out.extend((0..channels).map(|c| x[first + c * plane]));
            } else {
                out.extend(std::iter::repeat_n(0.0, channels));
            }
        }
    }
}

/// Gives a layer other weights.
pub fn replace(graph: &mut Graph, layer: &Weighted, weights: Tensor) {
    let name = graph.value(layer.weights(graph)).name.clone();
    let w = graph.add_const(&name, weights);
    graph.nodes[layer.node].inputs[layer.operand_of_weights()] = Some(w);
}

/// Adds something to each output of a layer; `matmul`, which has no bias, is left as it is and so is `gemm` with a C that is not one value per output.
pub fn shift(graph: &mut Graph, layer: &Weighted, shift: &[f32]) {
    let node = &graph.nodes[layer.node];
    let nothing = shift.iter().all(|x| *x == 0.0);
    if nothing || node.op.name == "matmul" || node.attrs.float("beta").is_some_and(|b| b != 1.0) {
        return;
    }
    let place = layer.operand_of_bias();
    let old = node.inputs.get(place).copied().flatten();
    let bias = match old.map(|id| graph.constant(id)) {
        None => vec![0.0; layer.n],
        Some(Some(t)) if t.len() == layer.n && t.dtype() == DType::F32 => t.to_vec::<f32>(),
        Some(_) => return,
    };
    let new = if layer.is_state() { vec![1, layer.n as u64] } else { vec![layer.n as u64] };
    let shape = old.and_then(|id| graph.constant(id)).map_or(new, |t| t.shape().to_vec());
    let sum: Vec<f32> = bias.iter().zip(shift).map(|(b, s)| b + s).collect();
    let name = old.map_or("bias".to_string(), |id| graph.value(id).name.clone());
    let id = graph.add_const(&name, Tensor::from_vec(&shape, sum));
    let inputs = &mut graph.nodes[layer.node].inputs;
    inputs.resize(inputs.len().max(place + 1), None);
    inputs[place] = Some(id);
}

/// Does what [`shift()`] adds reach the result of this layer?
pub fn takes_shift(graph: &Graph, layer: &Weighted) -> bool {
    let node = &graph.nodes[layer.node];
    let constant = |id: ValueId| graph.constant(id).is_some_and(|t| t.len() == layer.n && t.dtype() == DType::F32);
    let c = node.inputs.get(layer.operand_of_bias()).copied().flatten();
    node.op.name != "matmul" && node.attrs.float("beta").is_none_or(|b| b == 1.0) && c.is_none_or(constant)
}
