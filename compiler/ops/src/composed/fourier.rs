//! ONNX `DFT` and `STFT`: discrete Fourier transforms as products with tables of cosines and sines.
//!
//! O(n^2) per transform, which is the faster way for the lengths of audio frames. Deliberately absent: a fast transform for very long signals.

use std::f64::consts::TAU;

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, DType, ValueId};

use super::{Build, signal_tables};
use crate::at_run_time::{Guess, assume, or_declared};
use crate::common::axes::axis;
use crate::common::elements::from_f64s;
use crate::common::float;

/// ONNX `DFT`.
pub(crate) const DFT: Import = Import { domain: "", name: "DFT", opsets: (17, NEWEST), build: import };

/// ONNX `STFT`.
pub(crate) const STFT: Import = Import { domain: "", name: "STFT", opsets: (17, NEWEST), build: import_frames };

/// What is not constant of the length and the axis follows from the declared shape, up to a few cases.
fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    or_declared(cx, transform, |b, to| {
        let rank = to.len().saturating_sub(1);
        let open = |i: usize| b.0.opt_input(i).is_some() && b.0.const_input(i).is_none();
        let axes: Vec<Option<u64>> = if b.0.opset() >= 20 && open(2) { (0..rank as u64).map(Some).collect() } else { vec![None] };
        let mut cases = Vec::new();
        for axis in axes {
            let axis = axis.map(|a| Guess { modulus: Some(to.len() as i64), ..Guess::new(2, [a]) });
            let mut lengths = vec![None];
            if open(1) {
                // The result has all bins, or the half of them that a transform of either of two lengths has.
                let bins: Vec<u64> = (0..rank).map(|d| to[d]).filter(|n| *n > 0).collect();
                let mut all: Vec<u64> = bins.iter().flat_map(|n| [*n, 2 * (n - 1), 2 * (n - 1) + 1]).collect();
                all.sort_unstable();
                all.dedup();
                lengths = all.into_iter().map(|n| Some(Guess::new(1, [n]))).collect();
            }
            cases.extend(lengths.into_iter().map(|length| axis.clone().into_iter().chain(length).collect()));
        }
        assume(b, transform, to, cases)
    })
}

/// The steps with which a signal has as many frames as declared.
fn import_frames(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    or_declared(cx, short_time, |b, to| {
        let open = |i: usize| b.0.opt_input(i).is_some() && b.0.const_input(i).is_none();
        let signal = b.0.input(0)?;
        let samples = b.shape(signal)?.get(1).copied().unwrap_or(0);
        let (frames, bins) = (to.get(1).copied().unwrap_or(0), to.get(2).copied().unwrap_or(0));
        let onesided = b.0.attrs().int("onesided").unwrap_or(1) != 0;
        let window = b.0.opt_input(2).and_then(|w| b.ty(w).shape.first().and_then(onnxc_ir::Dim::as_const));
        let lengths = match (window, b.0.const_input(3).and_then(|t| t.to_i64s())) {
            (_, Some(n)) => n.iter().map(|n| n.unsigned_abs()).collect(),
            (Some(n), None) => vec![n],
            (None, None) if onesided => vec![2 * bins.saturating_sub(1), 2 * bins.saturating_sub(1) + 1],
            (None, None) => vec![bins],
        };
        let mut cases = Vec::new();
        for length in lengths.into_iter().filter(|n| *n > 0 && *n <= samples && frames > 0) {
            let room = samples - length;
            // floor(room / step) + 1 == frames
            let steps = if frames == 1 { room + 1..room + 2 } else { room / frames + 1..room / (frames - 1) + 1 };
            let frame = open(3).then(|| Guess::new(3, [length]));
            if !open(1) {
                cases.push(frame.into_iter().collect());
                continue;
            }
            cases.extend(steps.take(64).map(|s| frame.clone().into_iter().chain([Guess::new(1, [s])]).collect()));
        }
        assume(b, short_time, to, cases)
    })
}

/// Entries of a table up to which models do not grow beyond reason.
const LARGEST: u64 = 1 << 24;

/// The only integer of operand `i`, when the operand is there.
fn integer(cx: &dyn ImportCx, i: usize, what: &str) -> OpResult<Option<i64>> {
    if cx.inputs().get(i).copied().flatten().is_none() { Ok(None) } else { Ok(Some(signal_tables::number(cx, i, what)? as i64)) }
}

/// `scale(row) * f(TAU * row * column / length)` as a constant matrix.
fn table(
    b: &mut Build,
    dtype: DType,
    (rows, columns, length): (u64, u64, u64),
    f: impl Fn(f64) -> f64,
    scale: impl Fn(u64) -> f64,
) -> OpResult<ValueId> {
    if rows.saturating_mul(columns) > LARGEST {
        let reason = format!("a transform of {length} elements is not supported");
        return Err(OpError::new(reason).help("split the signal into frames"));
    }
    let entries = (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c)));
    // The product modulo the length keeps the angle exact.
    let values = entries.map(|(r, c)| scale(r) * f(TAU * ((r * c) % length) as f64 / length as f64));
    Ok(b.0.constant(from_f64s(dtype, &[rows, columns], values)?))
}

/// What a `DFT` node asks for.
struct Form {
    inverse: bool,
    /// The inverse of a half spectrum: a real signal.
    half: bool,
    /// Elements of the transform, of the operand that it reads, and of its result.
    length: u64,
    taken: u64,
    columns: u64,
    /// Dimension that is transformed.
    at: usize,
    /// Values of an element of the operand: 1 or 2.
    parts: u64,
}

impl Form {
    fn of(cx: &mut dyn ImportCx) -> OpResult<Form> {
        let flag = |name: &str| cx.attrs().int(name).unwrap_or(0) != 0;
        let (inverse, onesided) = (flag("inverse"), flag("onesided"));
        let at = if cx.opset() < 20 { cx.attrs().int("axis").or(Some(1)) } else { integer(cx, 2, "the axis")? }.unwrap_or(-2);
        let wanted = integer(cx, 1, "dft_length")?;
        let x = cx.input(0)?;
        let b = Build(cx);
        let (shape, ty) = (b.shape(x)?, b.ty(x));
        float::check(ty.dtype, "a Fourier transform")?;
        let (rank, at) = (shape.len(), axis(at, shape.len())?);
        if at + 1 == rank || !(1..=2).contains(&shape[rank - 1]) {
            return Err(OpError::new(format!("x is {ty}: its last dimension must be 1 or 2, and another transformed")));
        }
        let half = inverse && onesided;
        let default = if half { 2 * (shape[at] as i64 - 1) } else { shape[at] as i64 };
        let length = u64::try_from(wanted.unwrap_or(default)).ok().filter(|n| (1..=LARGEST).contains(n));
        let length = length.ok_or_else(|| OpError::new(format!("a transform of {} elements", wanted.unwrap_or(default))))?;
        let taken = if half { length / 2 + 1 } else { length };
        let columns = if half || !onesided { length } else { length / 2 + 1 };
        Ok(Form { inverse, half, length, taken, columns, at, parts: shape[rank - 1] })
    }
}

fn transform(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let f = Form::of(cx)?;
    let (x, last) = (cx.input(0)?, cx.ty(0)?.rank() as i64 - 1);
    let mut b = Build(cx);
    // The transformed dimension last, one tensor for each part.
    let mut perm: Vec<usize> = (0..last as usize).filter(|d| *d != f.at).collect();
    perm.push(f.at);
    let part = |b: &mut Build, i: i64| -> OpResult<ValueId> {
        let one = b.slice(x, last, (i, i + 1, 1))?;
        let one = b.squeeze(one, &[last])?;
        let one = b.transpose(one, &perm)?;
        resized(b, one, f.taken)
    };
    let real = part(&mut b, 0)?;
    let imaginary = if f.parts == 2 { Some(part(&mut b, 1)?) } else { None };
    let results = products(&mut b, &f, real, imaginary)?;
    let back: Vec<usize> = (0..last as usize).map(|d| perm.iter().position(|p| *p == d).unwrap_or(d)).collect();
    let mut stacked = Vec::new();
    for r in results {
        let r = b.transpose(r, &back)?;
        stacked.push(b.unsqueeze(r, &[last])?);
    }
    Ok(vec![if stacked.len() == 1 { stacked[0] } else { b.concat(&stacked, last)? }])
}

/// The transform of the last dimension: its real part, and its imaginary part unless that is known to be zero.
fn products(b: &mut Build, f: &Form, real: ValueId, imaginary: Option<ValueId>) -> OpResult<Vec<ValueId>> {
    let norm = if f.inverse { 1.0 / f.length as f64 } else { 1.0 };
    // In a half spectrum all but the first and the middle stand for their mirror images as well.
    let scale = |r: u64| if f.half && r != 0 && 2 * r != f.length { 2.0 * norm } else { norm };
    let sign = if f.inverse { -1.0 } else { 1.0 };
    let (size, dtype) = ((f.taken, f.columns, f.length), b.dtype(real));
    let cosines = table(b, dtype, size, f64::cos, scale)?;
    let sines = table(b, dtype, size, |a| sign * a.sin(), scale)?;
    let mut y = b.op("matmul", &[real, cosines])?;
    if let Some(i) = imaginary {
        let more = b.op("matmul", &[i, sines])?;
        y = b.op("add", &[y, more])?;
    }
    if f.half {
        return Ok(vec![y]);
    }
    let turned = b.op("matmul", &[real, sines])?;
    let z = match imaginary {
        Some(i) => {
            let straight = b.op("matmul", &[i, cosines])?;
            b.op("sub", &[straight, turned])?
        }
        None => b.op("neg", &[turned])?,
    };
    Ok(vec![y, z])
}

/// The last dimension cut, or filled with zeros.
fn resized(b: &mut Build, x: ValueId, to: u64) -> OpResult<ValueId> {
    let shape = b.shape(x)?;
    let (last, from) = (shape.len() - 1, shape[shape.len() - 1]);
    if to <= from {
        return if to == from { Ok(x) } else { b.slice(x, last as i64, (0, to as i64, 1)) };
    }
    let mut pads = vec![0i64; 2 * shape.len()];
    pads[2 * last + 1] = (to - from) as i64;
    let pads = b.ints(&pads);
    b.op("pad", &[x, pads])
}

/// Frames of a signal, each multiplied with the window and transformed: a convolution whose filters are the windowed waves.
fn short_time(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (signal, window) = (cx.input(0)?, cx.opt_input(2));
    let step = integer(cx, 1, "frame_step")?.unwrap_or(0);
    let given = integer(cx, 3, "frame_length")?;
    let onesided = cx.attrs().int("onesided").unwrap_or(1) != 0;
    let mut b = Build(cx);
    let (dtype, shape) = (b.dtype(signal), b.shape(signal)?);
    float::check(dtype, "a Fourier transform")?;
    let (batch, samples, parts) = match shape[..] {
        [n, s] => (n, s, 1),
        [n, s, p @ 1..=2] => (n, s, p),
        _ => return Err(OpError::new(format!("the signal is {}, not [batch, samples, 1 or 2]", b.ty(signal)))),
    };
    let frame = match (given, window) {
        (Some(n), _) => n,
        (None, Some(w)) => b.shape(w)?.first().copied().unwrap_or(0) as i64,
        (None, None) => return Err(OpError::new("neither window nor frame_length is given")),
    };
    let frame = u64::try_from(frame).ok().filter(|n| (1..=samples).contains(n));
    let (Some(frame), 1..=0x7fff_ffff) = (frame, step) else {
        let reason = format!("frames every {step} samples do not fit {samples} samples");
        return Err(
            OpError::new(reason).help("frame_step and the frame's length must be positive, frames at most as long as the signal")
        );
    };
    let bins = if onesided { frame / 2 + 1 } else { frame };
    let waves = waves(&mut b, dtype, (bins, frame), window, parts)?;
    let rows = b.reshape(signal, &[batch, samples, parts])?;
    let rows = b.transpose(rows, &[0, 2, 1])?;
    let list = |v: &[i64]| Attr::Ints(v.to_vec());
    let attrs = Attrs::default()
        .with("group", Attr::Int(1))
        .with("strides", list(&[step]))
        .with("dilations", list(&[1]))
        .with("pads", list(&[0, 0]));
    let y = b.0.node("conv", &[Some(rows), Some(waves), None], attrs)?[0];
    let y = b.reshape(y, &[batch, 2, bins, (samples - frame) / step as u64 + 1])?;
    Ok(vec![b.transpose(y, &[0, 3, 2, 1])?])
}

/// Filters `[2 * bins, parts, frame]`: the real parts of all bins, then the imaginary ones.
fn waves(b: &mut Build, dtype: DType, (bins, frame): (u64, u64), window: Option<ValueId>, parts: u64) -> OpResult<ValueId> {
    let size = (bins, frame, frame);
    let cosines = table(b, dtype, size, f64::cos, |_| 1.0)?;
    let sines = table(b, dtype, size, f64::sin, |_| 1.0)?;
    let minus = b.op("neg", &[sines])?;
    let of_real = b.concat(&[cosines, minus], 0)?;
    let mut all = b.unsqueeze(of_real, &[1])?;
    if parts == 2 {
        let of_imaginary = b.concat(&[sines, cosines], 0)?;
        let of_imaginary = b.unsqueeze(of_imaginary, &[1])?;
        all = b.concat(&[all, of_imaginary], 1)?;
    }
    match window {
        Some(w) if b.shape(w)? == [frame] => b.op("mul", &[all, w]),
        Some(w) => Err(OpError::new(format!("the window is {}, frames have {frame} samples", b.ty(w)))),
        None => Ok(all),
    }
}
