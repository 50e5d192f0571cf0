//! `dynamic_quantize_lstm`: an LSTM whose matrices are 8-bit integers and whose operands are quantised while it runs (com.microsoft DynamicQuantizeLSTM).
//!
//! Operands: those of `lstm`, but w `[D, I, 4*H]` and r `[D, H, 4*H]` are transposed and i8 or u8, then w_scale, w_zero_point, r_scale, r_zero_point,
//! `[D]` or `[D, 4*H]`. All six must be constants.
//!
//! As in ONNX Runtime, all of x is quantised to u8 at once and the state of the whole batch before each step: with `low = min(0, smallest)` and
//! `high = max(0, largest)` the scale is `(high - low) / 255` (1 if they are equal), the zero point `round(-low / scale)`, and an element becomes
//! `clamp(round(v / scale) + zero, 0, 255)`. Products are exact sums of integers, scaled in f32 by the product of both scales. With sequence_lens the last
//! state of an ended sequence still counts for the range, where ONNX Runtime takes zeros: scales of the other sequences may differ slightly.

use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId};

use super::cell::{Cell, Kind};
use super::eval::lstm_unit;
use super::{KEPT, infer as infer_float, quantized_lower};
use crate::common::elements::{f64s, from_f64s};
use crate::common::sample::{f32s, ints};
use crate::quantized::params::range_with_zero;
use onnxc_ir::op::ImportCx;

/// The record.
pub(crate) static DYNAMIC_QUANTIZE_LSTM: OpDef = OpDef {
    name: "dynamic_quantize_lstm",
    onnx: &[Import { domain: "com.microsoft", name: "DynamicQuantizeLSTM", opsets: (1, NEWEST), build: import }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(quantized_lower::lower),
    tolerance: Tolerance { rel: 1e-4, abs: 5e-3, why: "an element may round to the neighbouring step of its dynamic scale" },
    samples,
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let given = cx.attrs().clone();
    let kept = KEPT.iter().filter_map(|name| given.get(name).map(|value| (*name, value.clone())));
    let attrs = kept.fold(Attrs::default(), |attrs, (name, value)| attrs.with(name, value));
    let inputs: Vec<Option<ValueId>> = (0..12).map(|i| cx.opt_input(i)).collect();
    cx.node("dynamic_quantize_lstm", &inputs, attrs)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let mut inputs: Vec<Option<TensorType>> = (0..8).map(|i| cx.opt(i).cloned()).collect();
    for (i, what) in [(1, "w"), (2, "r")] {
        let ty = cx.input(i)?;
        if !matches!(ty.dtype, DType::I8 | DType::U8) || ty.rank() != 3 {
            return Err(OpError::new(format!("{what} is {ty}; it should have three dimensions and elements of i8 or u8")));
        }
        let shape = [0, 2, 1].map(|d| ty.shape[d].clone());
        inputs[i] = Some(TensorType::new(DType::F32, shape.to_vec()));
    }
    let float = InferCx { inputs: &inputs, ..InferCx { attrs: cx.attrs, n_outputs: cx.n_outputs, ..*cx } };
    let results = infer_float(&float, Kind::Lstm)?;
    let operand = |i: usize| {
        cx.constant(i).ok_or_else(|| {
            OpError::new(format!("operand {i} is not known when compiling"))
                .help("weights, scales and zero points must be constants")
        })
    };
    for (matrix, scale, zero) in [(1, 8, 9), (2, 10, 11)] {
        let zero = if cx.opt(zero).is_some() { Some(operand(zero)?) } else { None };
        Matrix::new(operand(matrix)?, operand(scale)?, zero)?;
    }
    Ok(results)
}

/// An integer matrix `[D, k, n]` with its scales and zero points, elements and zero points moved to the range of i8.
pub(super) struct Matrix {
    pub values: Vec<i8>,
    /// `[D, n]`
    pub scales: Vec<f32>,
    /// `[D, n]`
    pub zeros: Vec<i32>,
    pub k: usize,
    pub n: usize,
}

impl Matrix {
    pub fn new(values: &Tensor, scales: &Tensor, zeros: Option<&Tensor>) -> OpResult<Matrix> {
        let [directions, k, n] =
            <[u64; 3]>::try_from(values.shape()).map_err(|_| OpError::new("a matrix needs three dimensions"))?;
        if directions > 2 {
            return Err(OpError::new(format!("{directions} directions: there are at most 2")));
        }
        let fits = |t: &Tensor| t.shape() == [directions] || t.shape() == [directions, n];
        if let Some(wrong) = [Some(scales), zeros].into_iter().flatten().find(|t| !fits(t)) {
            let shape = wrong.shape();
            return Err(OpError::new(format!(
                "a scale or zero point has extents {shape:?}, expected [{directions}] or [{directions}, {n}]"
            )));
        }
        let floats = f64s(scales)?;
        let moved = if values.dtype() == DType::U8 { 128 } else { 0 };
        let integers = |t: &Tensor| t.to_i64s().ok_or_else(|| OpError::new(format!("a zero point cannot be {}", t.dtype())));
        let zeros = zeros.map(integers).transpose()?.unwrap_or_else(|| vec![0; directions as usize]);
        // One for each column, whatever was given.
        let spread = |i: usize, len: usize| if len == directions as usize { i / n as usize } else { i };
        let columns = (directions * n) as usize;
        Ok(Matrix {
            values: integers(values)?.into_iter().map(|v| (v - moved) as i8).collect(),
            scales: (0..columns).map(|i| floats[spread(i, floats.len())] as f32).collect(),
            zeros: (0..columns).map(|i| (zeros[spread(i, zeros.len())] - moved) as i32).collect(),
            k: k as usize,
            n: n as usize,
        })
    }

    /// Both matrices of a node from its operands.
    pub fn both(operand: impl Fn(usize) -> Option<Tensor>) -> OpResult<[Matrix; 2]> {
        let get = |i: usize| operand(i).ok_or_else(|| OpError::new(format!("operand {i} must be a constant")));
        let matrix = |at: [usize; 3]| Matrix::new(&get(at[0])?, &get(at[1])?, operand(at[2]).as_ref());
        Ok([matrix([1, 8, 9])?, matrix([2, 10, 11])?])
    }

    /// Rows of f32 times direction `d`, with the rows quantised together.
    fn product(&self, d: usize, rows: &[f32]) -> Vec<f32> {
        let (low, high) = range_with_zero(rows);
        let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
        let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
        let quantized: Vec<i64> =
            rows.iter().map(|v| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0) as i64 - zero as i64).collect();
        let matrix = &self.values[d * self.k * self.n..];
        let mut out = Vec::new();
        for row in quantized.chunks(self.k.max(1)) {
            for j in 0..self.n {
                let at = d * self.n + j;
                let zero = i64::from(self.zeros[at]);
                let sum: i64 = row.iter().enumerate().map(|(i, a)| a * (i64::from(matrix[i * self.n + j]) - zero)).sum();
                out.push(sum as f32 * (scale * self.scales[at]));
            }
        }
        out
    }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let (time, batch) = (x.shape()[0] as usize, x.shape()[1] as usize);
    let [w, r] = Matrix::both(|i| cx.opt(i).cloned())?;
    let hidden = r.k;
    let cell = Cell::of(Kind::Lstm, cx.attrs, hidden as u64)?;
    let directions = cell.directions.len();
    let optional = |i: usize| cx.opt(i).map(f64s).transpose();
    let (bias, lens, h0, c0, peepholes) = (optional(3)?, optional(4)?, optional(5)?, optional(6)?, optional(7)?);
    let xs: Vec<f32> = f64s(x)?.into_iter().map(|v| v as f32).collect();
    let zeros = || vec![0.0; directions * batch * hidden];
    let (mut h, mut c) = (h0.unwrap_or_else(zeros), c0.unwrap_or_else(zeros));
    let mut y = vec![0.0; time * directions * batch * hidden];
    for (d, direction) in cell.directions.iter().enumerate() {
        let from_x = w.product(d, &xs);
        let states = d * batch * hidden..(d + 1) * batch * hidden;
        for step in 0..time {
            let before: Vec<f32> = h[states.clone()].iter().map(|v| *v as f32).collect();
            let from_h = r.product(d, &before);
            for b in 0..batch {
                let length = lens.as_ref().map_or(time, |l| l[b].clamp(0.0, time as f64) as usize);
                if step >= length {
                    continue;
                }
                let t = if direction.reverse { length - 1 - step } else { step };
                for j in 0..hidden {
                    let sums = [0, 1, 2, 3].map(|gate| {
                        let column = gate * hidden + j;
                        let shift = |half: usize| bias.as_ref().map_or(0.0, |v| v[(d * 2 + half) * 4 * hidden + column]);
                        let sum = from_x[(t * batch + b) * w.n + column] + from_h[b * r.n + column];
                        f64::from(sum) + shift(0) + shift(1)
                    });
                    let peep = [0, 1, 2].map(|gate| peepholes.as_ref().map_or(0.0, |p| p[(d * 3 + gate) * hidden + j]));
                    let at = states.start + b * hidden + j;
                    h[at] = lstm_unit(&cell, &direction.activations, sums, peep, &mut c[at]);
                    y[((t * directions + d) * batch + b) * hidden + j] = h[at];
                }
            }
        }
    }
    let all = [y, h, c].into_iter().zip(cx.outputs).enumerate();
    all.map(|(i, (v, ty))| from_f64s(ty.dtype, &cx.out_shape(i), v)).collect()
}

fn samples() -> Vec<Sample> {
    let matrix = |shape: [u64; 3], signed: bool| {
        let n: u64 = shape.iter().product();
        let value = |i: u64| ((i * 7919 + i / 13) % 255) as i64;
        let tensor = if signed {
            Tensor::from_vec(&shape, (0..n).map(|i| (value(i) - 127) as i8).collect())
        } else {
            Tensor::from_vec(&shape, (0..n).map(|i| value(i) as u8).collect())
        };
        Some(SampleInput::Const(tensor))
    };
    let scales = |shape: &[u64]| {
        let n: u64 = shape.iter().product();
        Some(SampleInput::Const(Tensor::from_vec(shape, (0..n).map(|i| 0.002 + 0.0001 * (i % 5) as f32).collect())))
    };
    let zeros = |shape: &[u64], signed: bool, zero: i64| {
        let n = shape.iter().product::<u64>() as usize;
        let signed_zeros = Tensor::from_vec(shape, vec![zero as i8; n]);
        Some(SampleInput::Const(if signed { signed_zeros } else { Tensor::from_vec(shape, vec![zero as u8; n]) }))
    };
    let attrs = |direction: &str| Attrs::default().with("direction", Attr::Str(direction.into()));
    // Time, batch, inputs, hidden units.
    let case = |direction: &str, [t, b, i, h]: [u64; 4], signed: bool, zero: i64, per_column: bool, more: bool| {
        let d = if direction == "bidirectional" { 2 } else { 1 };
        let columns = if per_column { vec![d, 4 * h] } else { vec![d] };
        let optional = |shape: &[u64]| if more { f32s(shape) } else { None };
        let inputs = vec![
            f32s(&[t, b, i]),
            matrix([d, i, 4 * h], signed),
            matrix([d, h, 4 * h], signed),
            optional(&[d, 8 * h]),
            None,
            optional(&[d, b, h]),
            optional(&[d, b, h]),
            optional(&[d, 3 * h]),
            scales(&columns),
            zeros(&columns, signed, zero),
            scales(&columns),
            zeros(&columns, signed, zero),
        ];
        Sample { attrs: attrs(direction), inputs, n_outputs: 3 }
    };
    let mut lengths = case("reverse", [4, 2, 8, 4], true, 0, false, false);
    lengths.inputs[4] = ints(&[3, 4]).map(|_| SampleInput::Const(Tensor::from_vec(&[2], vec![3i32, 4])));
    vec![
        case("forward", [3, 1, 8, 16], true, 0, false, true),
        case("bidirectional", [3, 2, 5, 7], true, 0, false, true),
        case("reverse", [2, 3, 6, 5], false, 121, false, false),
        case("forward", [2, 2, 9, 8], true, 3, true, true),
        lengths,
    ]
}
