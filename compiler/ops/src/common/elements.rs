//! Elements of tensors for `eval`: coordinates, picking, computing in f64.

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::scalar_eval::{Scalar, Writer};
use onnxc_ir::{DType, Tensor};

/// Row-major strides in elements.
pub(crate) fn strides(shape: &[u64]) -> Vec<usize> {
    let mut out = vec![1usize; shape.len()];
    for d in (1..shape.len()).rev() {
        // Only a tensor without elements has extents whose product overflows.
        out[d - 1] = out[d].wrapping_mul(shape[d] as usize);
    }
    out
}

/// Calls `f` with every coordinate of `shape` in row-major order.
pub(crate) fn for_coords(shape: &[u64], mut f: impl FnMut(&[usize])) {
    let total: u64 = shape.iter().product();
    let mut at = vec![0usize; shape.len()];
    for _ in 0..total {
        f(&at);
        for d in (0..shape.len()).rev() {
            at[d] += 1;
            if at[d] < shape[d] as usize {
                break;
            }
            at[d] = 0;
        }
    }
}

/// Index of a coordinate under strides.
pub(crate) fn offset(at: &[usize], strides: &[usize]) -> usize {
    at.iter().zip(strides).map(|(i, s)| i * s).sum()
}

/// A tensor made of elements of others, moved and never converted: strings and packed types too.
pub(crate) struct Picker {
    dtype: DType,
    picked: Picked,
    count: usize,
}

enum Picked {
    Bytes(Vec<u8>),
    Values(Writer),
    Strings(Vec<Vec<u8>>),
}

impl Picker {
    /// For elements of type `dtype`.
    pub(crate) fn new(dtype: DType) -> Picker {
        let picked = match dtype {
            DType::Str => Picked::Strings(Vec::new()),
            _ if dtype.bits() < 8 => Picked::Values(Writer::new(dtype)),
            _ => Picked::Bytes(Vec::new()),
        };
        Picker { dtype, picked, count: 0 }
    }

    /// Appends element `i` of `from`, which has the picker's type.
    pub(crate) fn pick(&mut self, from: &Tensor, i: usize) {
        self.count += 1;
        match &mut self.picked {
            Picked::Bytes(out) => {
                let n = self.dtype.bytes() as usize;
                out.extend_from_slice(&from.bytes()[i * n..(i + 1) * n]);
            }
            Picked::Values(out) => out.push(Scalar::read(self.dtype, from.bytes(), i).expect("internal: a packed type")),
            Picked::Strings(out) => out.push(from.strings().map_or_else(Vec::new, |s| s[i].clone())),
        }
    }

    /// How many there are so far.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Appends an element of zero bits (an empty string).
    pub(crate) fn zero(&mut self) {
        self.count += 1;
        match &mut self.picked {
            Picked::Bytes(out) => out.extend(std::iter::repeat_n(0u8, self.dtype.bytes() as usize)),
            Picked::Values(out) => out.push(Scalar::Int(0)),
            Picked::Strings(out) => out.push(Vec::new()),
        }
    }

    /// The tensor. Panics when the number of elements is not the shape's (a broken invariant of the caller).
    pub(crate) fn finish(self, shape: &[u64]) -> Tensor {
        match self.picked {
            Picked::Bytes(bytes) => Tensor::from_bytes(self.dtype, shape.to_vec(), onnxc_ir::tensor::Bytes::new(bytes)),
            Picked::Values(writer) => Some(writer.finish(shape)),
            Picked::Strings(strings) => Tensor::from_strings(shape, strings),
        }
        .expect("internal: element count is the shape's")
    }
}

/// The elements as scalars; an error for strings and complex numbers.
pub(crate) fn scalars(t: &Tensor) -> OpResult<Vec<Scalar>> {
    (0..t.len()).map(|i| Scalar::read(t.dtype(), t.bytes(), i)).collect::<Option<_>>().ok_or_else(|| not_numeric(t.dtype()))
}

/// The error for types without arithmetic.
pub(crate) fn not_numeric(dtype: DType) -> OpError {
    OpError::new(format!("elements of type {dtype} cannot be computed with"))
}

/// The elements of a real tensor as f64.
pub(crate) fn f64s(t: &Tensor) -> OpResult<Vec<f64>> {
    t.to_f64s().ok_or_else(|| not_numeric(t.dtype()))
}

/// A tensor of `dtype` from f64 values, rounded.
pub(crate) fn from_f64s(dtype: DType, shape: &[u64], values: impl IntoIterator<Item = f64>) -> OpResult<Tensor> {
    from_scalars(dtype, shape, values.into_iter().map(Scalar::Float))
}

/// A tensor of `dtype` from scalars, rounded; an error for strings and complex numbers.
pub(crate) fn from_scalars(dtype: DType, shape: &[u64], values: impl IntoIterator<Item = Scalar>) -> OpResult<Tensor> {
    if matches!(dtype, DType::Str | DType::C64 | DType::C128) {
        return Err(not_numeric(dtype));
    }
    let mut out = Writer::new(dtype);
    values.into_iter().for_each(|v| out.push(v.cast(dtype)));
    Ok(out.finish(shape))
}
