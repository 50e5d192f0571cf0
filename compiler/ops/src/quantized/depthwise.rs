//! Convolutions of bytes with one filter per channel: rows of outputs by the depthwise kernel, channels in its lanes.
//!
//! The kernel multiplies in 32 bits, so that zero points of weights are simply taken off when compiling; that of x is in the first value of the sums.

use onnxc_ir::DType;
use onnxc_ir::kernel::{DepthwiseKernel, EpilogueOperand, OutputRows};
use onnxc_ir::lir::Expr;
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::target::TargetDesc;

use super::integer::{Integer, Target};
use super::words::{copy_bytes, fill_bytes};
use crate::common::depthwise::Depthwise;
use crate::common::nest::{self, ExprExt, int};
use crate::common::tile::{Dimension, broadcast_strides};
use crate::common::views::channels_last;

/// `target = program(sum over the window of (x - zero) * (w - zero), operands)`.
pub(super) fn emit(layer: &Integer, cx: &mut LowerCx, (y, program, operands): &Target) {
    let x = padded(layer, cx);
    let start = layer.start(cx, 0);
    let channels = layer.group;
    let strides: Vec<Vec<i64>> = operands.iter().map(|o| broadcast_strides(o, &y.view.shape)).collect();
    let mut dims = dimensions(layer, &x, y, &strides);
    // The row is the last dimension that is one.
    let row = dims.iter().rposition(|d| d.0.bound > 1).unwrap_or(dims.len() - 1);
    dims.truncate(row + 1);
    let (n, x_step, y_step, row_steps) = dims.pop().expect("internal: output dimensions");
    let mut taps = vec![0i64];
    for d in 0..layer.kernel.len() {
        let step = x.view.strides[d + 2] * layer.dilations[d];
        taps = taps.iter().flat_map(|t| (0..layer.kernel[d] as i64).map(move |i| t + i * step)).collect();
    }
    let columns = columns(layer, cx.target, x.dtype, row == layer.kernel.len());
    let w = match columns {
        Some(columns) => cx.const_buf(DType::I8, packed(layer, columns, cx.target.depthwise_columns as usize)),
        None => cx.const_buf(DType::I32, weights(layer)),
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
        w_step: channels as i64 * 4,
        columns: columns.unwrap_or(0) as u32,
        bias: true,
        epilogue: program.clone(),
        operands: kernel_operands,
    };
    let bias = Some((start, 0));
    Depthwise { kernel, outer: &dims, n, x: &x, w: (w, 0), y, bias, operands }.emit(cx);
}

/// Output dimensions, batch first: extent, steps in x, y and the operands.
fn dimensions(layer: &Integer, x: &Arg, y: &Arg, operands: &[Vec<i64>]) -> Vec<Dimension> {
    let dim = |d: usize, x_step: i64| (y.view.extent(d), x_step, y.view.strides[d], operands.iter().map(|s| s[d]).collect());
    let space = (0..layer.kernel.len()).map(|s| dim(s + 2, x.view.strides[s + 2] * layer.strides[s]));
    std::iter::once(dim(0, x.view.strides[0])).chain(space).collect()
}

/// Weights without their zero points: `[tap][channel]`.
fn weights(layer: &Integer) -> Vec<u8> {
    elements(layer).flat_map(|i| weight(layer, i).to_le_bytes()).collect()
}

/// The columns of taps when the target takes dot products over their rows and they can be packed for it. `inner`: outputs run along the columns.
fn columns(layer: &Integer, target: &TargetDesc, x: DType, inner: bool) -> Option<usize> {
    let [rows, columns] = layer.kernel[..] else { return None };
    // Means over whole images go through their rows by loops.
    let small = (2..=7).contains(&rows) && (2..=7).contains(&columns) && layer.strides[1] <= columns as i64;
    let small = small && layer.y.view.shape[2..].iter().any(|n| *n > 1);
    let bytes = x == DType::U8 && layer.dilations[1] == 1 && layer.group.is_multiple_of(4);
    let narrow = || elements(layer).all(|i| i8::try_from(weight(layer, i)).is_ok());
    (target.depthwise_columns > 0 && inner && small && bytes && narrow()).then_some(columns as usize)
}

fn elements(layer: &Integer) -> std::ops::Range<usize> {
    0..layer.weights.per_filter() * layer.group as usize
}

/// Weight `i` of `[tap][channel]` without its zero point.
fn weight(layer: &Integer, i: usize) -> i32 {
    let channels = layer.group as usize;
    layer.weights.get(i % channels, i / channels) - layer.w_zeros[i % channels]
}

/// Weights as `[group of channels][column][four rows][channel][row]`.
fn packed(layer: &Integer, columns: usize, group: usize) -> Vec<u8> {
    let channels = layer.group as usize;
    let rows = layer.kernel[0] as usize;
    let mut out = Vec::new();
    for first in (0..channels).step_by(group) {
        let operands = (0..columns).flat_map(|c| (0..rows.div_ceil(4)).map(move |four| (c, four)));
        for (column, four, channel) in operands.flat_map(|(c, four)| (first..first + group).map(move |ch| (c, four, ch))) {
            let at = |row: usize| {
                let row = 4 * four + row;
                let there = row < rows && channel < channels;
                if there { weight(layer, (row * columns + column) * channels + channel) as u8 } else { 0 }
            };
            out.extend((0..4).map(at));
        }
    }
    out
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
