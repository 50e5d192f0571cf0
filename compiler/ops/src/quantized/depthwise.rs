//! Convolutions of bytes with one filter per channel: rows of outputs by the depthwise kernel, channels in its lanes.
//!
//! The kernel multiplies in 32 bits, so that zero points of weights are simply taken off when compiling; that of x is in the first value of the sums.

use onnxc_ir::DType;
use onnxc_ir::kernel::{DepthwiseKernel, EpilogueOperand, OutputRows, PAIRED, paired_channel, rows_of_operand};
use onnxc_ir::lir::{BufId, Expr};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::target::TargetDesc;

use super::integer::{Integer, Target};
use super::spread::along;
use super::words::{copy_bytes, fill_bytes};
use crate::common::depthwise::Depthwise;
use crate::common::nest::{self, ExprExt, int};
use crate::common::tile::{self, Dimension, broadcast_strides};
use crate::common::views::channels_last;

/// `target = program(sum over the window of (x - zero) * (w - zero), operands)`.
pub(super) fn emit(layer: &Integer, cx: &mut LowerCx, (y, program, operands): &Target) {
    let x = padded(layer, cx);
    let channels = layer.group;
    let steps = |operands: &[Arg]| -> Vec<Vec<i64>> { operands.iter().map(|o| broadcast_strides(o, &y.view.shape)).collect() };
    // The row is the last dimension that is one.
    let dims = dimensions(layer, &x, y, &steps(operands));
    let row = dims.iter().rposition(|d| d.0.bound > 1).unwrap_or(dims.len() - 1);
    let packed = Packed::of(layer, cx.target, &x, row == layer.kernel.len());
    let ordered = packed.as_ref().and_then(|p| p.ordered(layer, cx, y, operands));
    let paired = ordered.is_some();
    let (start, operands) = ordered.unwrap_or_else(|| (layer.start(cx, 0), operands.clone()));
    let strides = steps(&operands);
    let mut dims = dimensions(layer, &x, y, &strides);
    dims.truncate(row + 1);
    let (n, x_step, y_step, row_steps) = dims.pop().expect("internal: output dimensions");
    let mut taps = vec![0i64];
    for d in 0..layer.kernel.len() {
        let step = x.view.strides[d + 2] * layer.dilations[d];
        taps = taps.iter().flat_map(|t| (0..layer.kernel[d] as i64).map(move |i| t + i * step)).collect();
    }
    let below = n.open.is_none() && packed.as_ref().is_some_and(Packed::below);
    // Means have one weight for all taps of a channel.
    let uniform = packed.is_none()
        && (channels as usize..elements(layer).end).all(|i| weight(layer, i) == weight(layer, i % channels as usize));
    let w = match &packed {
        Some(packed) => cx.const_buf(if packed.words { DType::I16 } else { DType::I8 }, packed.weights(paired, below)),
        None => cx.const_buf(DType::I32, weights(layer, if uniform { 1 } else { taps.len() })),
    };
    let kernel_operands =
        operands.iter().zip(strides.iter().zip(&row_steps)).enumerate().map(|(n, (o, (s, row)))| EpilogueOperand {
            dtype: o.dtype,
            row: row * o.dtype.bytes() as i64,
            per_column: s[1] == 1,
            values: layer.values(cx, n, o),
        });
    let kernel_operands: Vec<EpilogueOperand> = kernel_operands.collect();
    let kernel = DepthwiseKernel {
        x_dtype: x.dtype,
        y_dtype: y.dtype,
        channels: channels as u32,
        outputs: if n.open.is_none() { n.bound as u32 } else { 0 },
        rows: OutputRows { count: 1, x: 0, y: 0, operands: vec![0; operands.len()] },
        taps,
        outside: Vec::new(),
        x_step,
        y_step: y_step * y.dtype.bytes() as i64,
        w_step: if uniform { 0 } else { channels as i64 * 4 },
        columns: packed.as_ref().map_or(0, |p| p.columns as u32),
        below,
        words: packed.as_ref().is_some_and(|p| p.words),
        paired,
        bias: true,
        epilogue: program.clone(),
        operands: kernel_operands,
    };
    let bias = Some((start, 0));
    Depthwise { kernel, outer: &dims, n, x: &x, w: (w, 0), y, bias, operands: &operands }.emit(cx);
}

/// Output dimensions, batch first: extent, steps in x, y and the operands.
fn dimensions(layer: &Integer, x: &Arg, y: &Arg, operands: &[Vec<i64>]) -> Vec<Dimension> {
    let dim = |d: usize, x_step: i64| (y.view.extent(d), x_step, y.view.strides[d], operands.iter().map(|s| s[d]).collect());
    let space = (0..layer.kernel.len()).map(|s| dim(s + 2, x.view.strides[s + 2] * layer.strides[s]));
    std::iter::once(dim(0, x.view.strides[0])).chain(space).collect()
}

/// Weights of the first taps without their zero points: `[tap][channel]`.
fn weights(layer: &Integer, taps: usize) -> Vec<u8> {
    (0..taps * layer.group as usize).flat_map(|i| weight(layer, i).to_le_bytes()).collect()
}

fn elements(layer: &Integer) -> std::ops::Range<usize> {
    0..layer.weights.per_filter() * layer.group as usize
}

/// Weight `i` of `[tap][channel]` without its zero point.
fn weight(layer: &Integer, i: usize) -> i32 {
    let channels = layer.group as usize;
    layer.weights.get(i % channels, i / channels) - layer.w_zeros[i % channels]
}

/// Weights for dot products over the rows of the columns of a window.
struct Packed<'a> {
    layer: &'a Integer,
    columns: usize,
    /// Channels of a group.
    group: usize,
    /// Weights are words.
    words: bool,
}

impl<'a> Packed<'a> {
    /// Where the target takes such products and weights can be packed for them. `inner`: outputs run along the columns.
    fn of(layer: &'a Integer, target: &TargetDesc, x: &Arg, inner: bool) -> Option<Packed<'a>> {
        let [rows, columns] = layer.kernel[..] else { return None };
        // Means over whole images go through their rows by loops.
        let small = (2..=7).contains(&rows) && (2..=7).contains(&columns) && layer.strides[1] <= columns as i64;
        let small = small && layer.y.view.shape[2..].iter().any(|n| *n > 1);
        let bytes = x.dtype == DType::U8 && layer.dilations[1] == 1 && layer.group.is_multiple_of(4);
        let words = target.depthwise_words;
        let narrow = || words || elements(layer).all(|i| i8::try_from(weight(layer, i)).is_ok());
        let fits = target.depthwise_columns > 0 && inner && small && bytes && narrow();
        fits.then_some(Packed { layer, columns: columns as usize, group: target.depthwise_columns as usize, words })
    }

    fn rows(&self) -> usize {
        self.layer.kernel[0] as usize
    }

    /// True when outputs of two neighbouring rows read the same columns of four rows. Groups must be large: of small ones weights for both rows have no
    /// registers.
    fn below(&self) -> bool {
        let layer = self.layer;
        self.group == PAIRED as usize && self.rows() < 4 && layer.strides[0] == 1 && layer.dilations[0] == 1
    }

    /// The channel at a place: groups that are whole can be in the order of pairs.
    fn channel(&self, place: usize, paired: bool) -> usize {
        let (first, inside) = (place - place % self.group, place % self.group);
        let whole = first + self.group <= self.layer.group as usize;
        first + if paired && whole { paired_channel(inside) } else { inside }
    }

    /// What sums start with and the operands in the order of pairs, if results are bytes and all that has an element for each channel is constant.
    fn ordered(&self, layer: &Integer, cx: &mut LowerCx, y: &Arg, operands: &[Arg]) -> Option<(BufId, Vec<Arg>)> {
        let (channels, rank) = (layer.group as usize, y.view.shape.len());
        if self.group != PAIRED as usize || channels < self.group || y.dtype.bytes() > 1 || !y.dtype.is_int() {
            return None;
        }
        let order: Vec<usize> = (0..channels).map(|place| self.channel(place, true)).collect();
        let first = layer.first_values(0)?;
        let mut vectors: Vec<Option<Vec<f32>>> = Vec::new();
        for o in operands {
            let strides = broadcast_strides(o, &y.view.shape);
            vectors.push(match strides[1] {
                0 => None,
                1 if strides.iter().sum::<i64>() == 1 => {
                    let all = tile::constants(cx, o)?;
                    let at = |c: &usize| all.get(o.view.offset as usize + c).copied();
                    Some(order.iter().map(at).collect::<Option<_>>()?)
                }
                _ => return None,
            });
        }
        let start = order.iter().flat_map(|c| first[*c].to_le_bytes()).collect();
        let start = along(cx, DType::I32, start, 0, 1).buf;
        let ordered = operands.iter().zip(vectors).map(|(o, values)| match values {
            Some(values) => along(cx, DType::F32, values.into_iter().flat_map(f32::to_le_bytes).collect(), 1, rank),
            None => o.clone(),
        });
        Some((start, ordered.collect()))
    }

    /// Weights as `[group of channels][row of outputs][column][rows of an operand][channel][row]`.
    fn weights(&self, paired: bool, below: bool) -> Vec<u8> {
        let (channels, rows) = (self.layer.group as usize, self.rows());
        let together = rows_of_operand(self.words);
        let mut out = Vec::new();
        for first in (0..channels).step_by(self.group) {
            for down in 0..=usize::from(below) {
                let operands = (0..self.columns).flat_map(|c| (0..rows.div_ceil(together)).map(move |some| (c, some)));
                for ((column, some), place) in operands.flat_map(|o| (first..first + self.group).map(move |p| (o, p))) {
                    let channel = self.channel(place, paired);
                    let at = |row: usize| match (together * some + row)
                        .checked_sub(down)
                        .filter(|row| *row < rows && channel < channels)
                    {
                        Some(row) => weight(self.layer, (row * self.columns + column) * channels + channel),
                        None => 0,
                    };
                    for w in (0..together).map(at) {
                        let bytes = (w as i16).to_le_bytes();
                        out.extend(if self.words { &bytes[..] } else { &bytes[..1] });
                    }
                }
            }
        }
        out
    }
}

/// x with its padding and neighbouring channels beside each other: in place, or a copy with zero points around.
fn padded(layer: &Integer, cx: &mut LowerCx) -> Arg {
    let x = &layer.x;
    if x.view.strides[1] == 1 {
        let in_place = if layer.is_padded() { layer.bordered(cx) } else { Some(x.clone()) };
        if let Some(x) = in_place {
            return x;
        }
    }
    let mut shape = x.view.shape.clone();
    let mut first = vec![0i64; shape.len()];
    for d in 0..layer.kernel.len() {
        shape[d + 2] += layer.pads.0[d] + layer.pads.1[d];
        first[d + 2] = layer.pads.0[d] as i64;
    }
    let buf = cx.scratch(x.dtype, shape.iter().product(), false);
    let all = Arg { buf, dtype: x.dtype, view: channels_last(&shape), constant: None };
    if layer.is_padded() {
        let given =
            layer.x_zero.as_ref().map(|z| cx.load(z, &vec![Expr::Int(0); z.view.shape.len()]).cast_from(z.dtype, x.dtype));
        fill_bytes(cx, &all, given.unwrap_or_else(|| int(x.dtype, 0)));
    }
    let inner = nest::part(&all, &first, &x.view);
    if !copy_bytes(cx, x, &inner, false) {
        nest::copy(cx, x, &inner);
    }
    all
}
