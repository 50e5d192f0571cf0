//! Samples: small applications of operators for tests.

use onnxc_ir::op::{Sample, SampleInput};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::target::SHORT_SUM;
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType};

use super::elements::for_coords;

/// Run-time data of a type, between -3 and 3 (0 and 100 for unsigned integers).
pub(crate) fn data(dtype: DType, shape: &[u64]) -> Option<SampleInput> {
    let (low, high) = match dtype {
        DType::Bool => (0.0, 1.0),
        t if t.is_unsigned_int() => (0.0, 100.0),
        t if t.is_int() => (-100.0, 100.0),
        _ => (-3.0, 3.0),
    };
    data_in(dtype, shape, low, high)
}

/// Run-time data between two bounds.
pub(crate) fn data_in(dtype: DType, shape: &[u64], low: f64, high: f64) -> Option<SampleInput> {
    Some(SampleInput::Data(TensorType::fixed(dtype, shape), low, high))
}

/// Run-time f32 data.
pub(crate) fn f32s(shape: &[u64]) -> Option<SampleInput> {
    data(DType::F32, shape)
}

/// A constant vector of i64.
pub(crate) fn ints(values: &[i64]) -> Option<SampleInput> {
    Some(SampleInput::Const(Tensor::from_vec(&[values.len() as u64], values.to_vec())))
}

/// A constant i64 scalar.
pub(crate) fn int(value: i64) -> Option<SampleInput> {
    Some(SampleInput::Const(Tensor::scalar(value)))
}

/// A constant f32 tensor with a simple pattern of values.
pub(crate) fn const_f32s(shape: &[u64]) -> Option<SampleInput> {
    let n: u64 = shape.iter().product();
    let values = (0..n).map(|i| (i * 7 % 11) as f32 * 0.25 + 0.25).collect();
    Some(SampleInput::Const(Tensor::from_vec(shape, values)))
}

/// A sample with one result.
pub(crate) fn sample(attrs: Attrs, inputs: Vec<Option<SampleInput>>) -> Sample {
    Sample { attrs, inputs, n_outputs: 1 }
}

/// A sample without attributes.
pub(crate) fn plain(inputs: Vec<Option<SampleInput>>) -> Sample {
    sample(Attrs::default(), inputs)
}

/// Attributes of integers.
pub(crate) fn int_attrs(pairs: &[(&str, i64)]) -> Attrs {
    pairs.iter().fold(Attrs::default(), |a, (k, v)| a.with(k, Attr::Int(*v)))
}

/// Attributes of lists of integers.
pub(crate) fn lists(pairs: &[(&str, &[i64])]) -> Attrs {
    pairs.iter().fold(Attrs::default(), |a, (k, v)| a.with(k, Attr::Ints(v.to_vec())))
}

/// Samples, and behind them some of them again with weights that are mostly zero, of which a schedule permits to leave them out. Weights are operand
/// `weights`, which has filters and channels along these axes; what is left is shared by each 16 filters and four channels, some of those have no kernel, and some
/// filters have nothing. Zeros of floats have the sign of what was there, as behind a mask.
pub(crate) fn and_sparse(
    mut all: Vec<Sample>,
    which: &[usize],
    weights: usize,
    (filters, channels): (usize, usize),
) -> Vec<Sample> {
    for i in which {
        let mut sample = all[*i].clone();
        if let Some(Some(SampleInput::Const(w))) = sample.inputs.get_mut(weights) {
            *w = thinned(w, filters, channels);
        }
        sample.attrs = sample.attrs.with(crate::schedule::ATTR, Attr::Str("sparse".to_string()));
        all.push(sample);
    }
    all
}

/// Samples, and behind them some of them again in products of halves.
pub(crate) fn and_strassen(mut all: Vec<Sample>, which: impl IntoIterator<Item = usize>) -> Vec<Sample> {
    for i in which {
        let attrs = all[i].attrs.clone().with(crate::schedule::ATTR, Attr::Str(crate::schedule::STRASSEN.to_string()));
        all.push(Sample { attrs, ..all[i].clone() });
    }
    all
}

/// The largest of the bytes that [`and_coded`] has for weights.
const LARGEST: f64 = 9.0;

/// Samples, and behind them some of them again with weights, operand `weights`, of signed bytes: of many values, and of so few that tiles read a table.
/// Zeros stay.
pub(crate) fn and_coded(mut all: Vec<Sample>, which: &[usize], weights: usize) -> Vec<Sample> {
    for (i, few) in which.iter().flat_map(|i| [(i, false), (i, true)]) {
        let mut sample = all[*i].clone();
        if let Some(Some(SampleInput::Const(w))) = sample.inputs.get_mut(weights) {
            let byte = |(n, x): (usize, &f32)| match n * 37 % 251 {
                _ if *x == 0.0 => 0,
                n if few => (n % 7) as i8 - 3,
                n => (n % 19) as i8 - 9,
            };
            *w = Tensor::from_vec::<i8>(w.shape(), w.to_vec::<f32>().iter().enumerate().map(byte).collect());
        }
        // Terms as large as those of other samples: what is lost where they cancel is in proportion to them.
        if let Some(Some(SampleInput::Data(_, low, high))) = sample.inputs.get_mut(0) {
            (*low, *high) = (*low / LARGEST, *high / LARGEST);
        }
        all.push(sample);
    }
    all
}

/// Samples, and behind them some of them again with weights, operand `weights`, of signed bytes that are as small as kernels want them which add up so many
/// steps in 16 bits ([`SHORT_SUM`]), whichever they are beside.
pub(crate) fn and_short(mut all: Vec<Sample>, which: &[usize], weights: usize) -> Vec<Sample> {
    for (i, steps) in which.iter().flat_map(|i| [1, 2, 4].map(|steps| (i, steps))) {
        let mut sample = all[*i].clone();
        if let Some(Some(SampleInput::Const(w))) = sample.inputs.get_mut(weights) {
            let small = |x: &i8| (i32::from(*x) * SHORT_SUM / steps / 256) as i8;
            *w = Tensor::from_vec::<i8>(w.shape(), w.to_vec::<i8>().iter().map(small).collect());
        }
        all.push(sample);
    }
    all
}

fn thinned(w: &Tensor, filters: usize, channels: usize) -> Tensor {
    // Kernels take 128 from unsigned bytes.
    let zero = if w.dtype() == DType::U8 { 128 } else { 0 };
    let sign = if w.dtype() == DType::F32 { 0x80 } else { 0 };
    let size = w.dtype().bytes() as usize;
    let (mut bytes, mut n) = (w.bytes().to_vec(), 0);
    for_coords(w.shape(), |at| {
        let block = at[filters] / 16;
        let axes = (0..at.len()).filter(|d| *d != filters);
        let place = axes.fold(0, |sum, d| 5 * sum + if d == channels { at[d] / 4 } else { at[d] });
        if block == 2 || (place + block) % 3 != 1 || (at[channels] / 4 + block) % 3 == 2 {
            let element = &mut bytes[n * size..(n + 1) * size];
            let last = zero | element[size - 1] & sign;
            element.fill(zero);
            element[size - 1] = last;
        }
        n += 1;
    });
    Tensor::from_bytes(w.dtype(), w.shape().to_vec(), Bytes::new(bytes)).expect("internal: as many bytes as before")
}

/// An epilogue `max(a0 + a1, 0)`.
pub(crate) fn add_relu() -> Attr {
    let mut p = ScalarProgram::default();
    let (a, b) = (p.arg(0, DType::F32), p.arg(1, DType::F32));
    let (sum, zero) = (p.bin(BinOp::Add, a, b), p.float(0.0, DType::F32));
    p.bin(BinOp::Max, sum, zero);
    Attr::Program(p)
}

/// Shapes that show tails, single elements and emptiness.
pub(crate) const SHAPES: &[&[u64]] = &[&[], &[1], &[7], &[3, 17], &[2, 3, 4, 5], &[2, 0, 3], &[33, 16]];
