//! Small cases of recurrent layers: directions, states, lengths, tails of vectors.

use onnxc_ir::op::{Sample, SampleInput};
use onnxc_ir::{Attr, Attrs, DType, Tensor};

use super::SCALE;
use super::cell::Kind;
use crate::common::sample::{and_sparse, data, data_in};

/// One layer: (time, batch, inputs, hidden), direction, which of bias, lengths, initial states.
struct Case {
    size: (u64, u64, u64, u64),
    direction: &'static str,
    bias: bool,
    lengths: Option<&'static [i32]>,
    states: bool,
    constant: bool,
}

const CASES: &[Case] = &[
    Case { size: (1, 1, 5, 3), direction: "forward", bias: false, lengths: None, states: false, constant: true },
    Case { size: (3, 2, 4, 17), direction: "forward", bias: true, lengths: None, states: true, constant: true },
    Case { size: (4, 3, 6, 8), direction: "reverse", bias: true, lengths: Some(&[4, 0, 2]), states: true, constant: false },
    Case { size: (2, 1, 20, 33), direction: "bidirectional", bias: true, lengths: None, states: false, constant: true },
    Case { size: (5, 2, 3, 4), direction: "bidirectional", bias: false, lengths: Some(&[3, 5]), states: false, constant: true },
];

pub(super) fn samples(kind: Kind) -> Vec<Sample> {
    CASES.iter().map(|c| c.sample(kind)).collect()
}

/// Some samples again: without w, with r in bytes, and with zeros in either of them.
pub(super) fn variants(all: Vec<Sample>, kind: Kind) -> Vec<Sample> {
    let is_wide = |s: &Sample| matches!(s.inputs[2], Some(SampleInput::Const(_))) && extent(s, 2, 2) > 8;
    let wide: Vec<usize> = (0..all.len()).filter(|i| is_wide(&all[*i])).collect();
    let mut more: Vec<Sample> = all.iter().map(|s| without_w(s, kind)).collect();
    let coded: Vec<Sample> = wide.iter().flat_map(|i| [false, true].map(|few| bytes(&more[*i], few))).collect();
    let lists: Vec<usize> = wide.iter().copied().chain(more.len()..more.len() + coded.len()).collect();
    more.extend(coded);
    [and_sparse(all, &wide, 1, (1, 2)), and_sparse(more, &lists, 2, (1, 2))].concat()
}

/// The sample with products of x in the place of x and w.
fn without_w(sample: &Sample, kind: Kind) -> Sample {
    let mut sample = sample.clone();
    let (directions, rows) = (extent(&sample, 2, 0), extent(&sample, 2, 1));
    debug_assert_eq!(rows, kind.gates() as u64 * extent(&sample, 2, 2));
    let shape = [extent(&sample, 0, 0), extent(&sample, 0, 1), directions * rows];
    (sample.inputs[0], sample.inputs[1]) = (data(DType::F32, &shape), None);
    if sample.inputs[3].is_some() {
        sample.inputs[3] = Some(SampleInput::Const(pattern(&[directions, rows], 3)));
    }
    sample
}

/// The sample with a constant r of bytes: of many values, or of so few that tiles read a table.
fn bytes(sample: &Sample, few: bool) -> Sample {
    let mut sample = sample.clone();
    let shape = [0, 1, 2].map(|d| extent(&sample, 2, d));
    let value = |i: u64| if few { (i * 5 % 11) as i8 - 5 } else { (i * 37 % 251) as u8 as i8 };
    let values = (0..shape.iter().product()).map(value).collect();
    sample.inputs[2] = Some(SampleInput::Const(Tensor::from_vec::<i8>(&shape, values)));
    sample.inputs.resize_with(SCALE, || None);
    let scale = |i: u64| (i % 5 + 1) as f32 / if few { 64.0 } else { 1024.0 };
    let scales = (0..shape[0] * shape[1]).map(scale).collect();
    sample.inputs.push(Some(SampleInput::Const(Tensor::from_vec(&shape[..2], scales))));
    sample
}

fn extent(sample: &Sample, i: usize, d: usize) -> u64 {
    match &sample.inputs[i] {
        Some(SampleInput::Const(t)) => t.shape()[d],
        Some(SampleInput::Data(ty, ..)) => ty.shape[d].as_const().unwrap_or(1),
        None => 1,
    }
}

/// Constant peepholes for a layer.
pub(super) fn peepholes(sample: &Sample) -> SampleInput {
    SampleInput::Const(pattern(&[extent(sample, 2, 0), 3 * extent(sample, 2, 2)], 5))
}

/// Small values of both signs.
fn pattern(shape: &[u64], seed: u64) -> Tensor {
    let n: u64 = shape.iter().product();
    let values = (0..n).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 23.0 - 0.45).collect();
    Tensor::from_vec(shape, values)
}

impl Case {
    fn sample(&self, kind: Kind) -> Sample {
        let (time, batch, inputs, hidden) = self.size;
        let directions = if self.direction == "bidirectional" { 2 } else { 1 };
        let rows = kind.gates() as u64 * hidden;
        let weight = |shape: &[u64], seed: u64| {
            if self.constant { Some(SampleInput::Const(pattern(shape, seed))) } else { data_in(DType::F32, shape, -0.5, 0.5) }
        };
        let mut operands = vec![
            data(DType::F32, &[time, batch, inputs]),
            weight(&[directions, rows, inputs], 1),
            weight(&[directions, rows, hidden], 2),
            self.bias.then(|| weight(&[directions, 2 * rows], 3)).flatten(),
            self.lengths.map(|l| SampleInput::Const(Tensor::from_vec(&[batch], l.to_vec()))),
        ];
        let state = || self.states.then(|| data_in(DType::F32, &[directions, batch, hidden], -1.0, 1.0)).flatten();
        operands.push(state());
        if kind == Kind::Lstm {
            operands.push(state());
        }
        let attrs = Attrs::default()
            .with("hidden_size", Attr::Int(hidden as i64))
            .with("direction", Attr::Str(self.direction.to_string()));
        Sample { attrs, inputs: operands, n_outputs: kind.results() }
    }
}
