//! A tensor as it lies in a file: ONNX type code, dims, little-endian bytes in row-major order.

/// ONNX element type codes (`TensorProto.DataType`) that the helpers name.
pub mod code {
    #![allow(missing_docs)] // the names are the documentation
    pub const F32: i32 = 1;
    pub const U8: i32 = 2;
    pub const I8: i32 = 3;
    pub const U16: i32 = 4;
    pub const I16: i32 = 5;
    pub const I32: i32 = 6;
    pub const I64: i32 = 7;
    pub const STRING: i32 = 8;
    pub const BOOL: i32 = 9;
    pub const F16: i32 = 10;
    pub const F64: i32 = 11;
    pub const U32: i32 = 12;
    pub const U64: i32 = 13;
    pub const C64: i32 = 14;
    pub const C128: i32 = 15;
    pub const BF16: i32 = 16;
}

/// One tensor, detached from any model.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// ONNX type code, see [`code`].
    pub elem_type: i32,
    /// Extents, outermost first; empty for a scalar.
    pub dims: Vec<usize>,
    /// Elements in row-major order, little-endian; two (four) per byte for the 4-bit (2-bit) types, low bits first.
    pub bytes: Vec<u8>,
}

/// Bits of one element, or `None` for strings and unknown codes.
pub fn elem_bits(elem_type: i32) -> Option<usize> {
    Some(match elem_type {
        code::C128 => 128,
        code::F64 | code::I64 | code::U64 | code::C64 => 64,
        code::F32 | code::I32 | code::U32 => 32,
        code::F16 | code::BF16 | code::I16 | code::U16 => 16,
        code::I8 | code::U8 | code::BOOL | 17..=20 | 24 => 8,
        21..=23 => 4,
        25 | 26 => 2,
        _ => return None,
    })
}

impl Tensor {
    /// An `f32` tensor; panics when the number of values is not the product of the dims.
    pub fn f32(dims: &[usize], values: &[f32]) -> Self {
        Self::from_le(code::F32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// An `i64` tensor; panics when the number of values is not the product of the dims.
    pub fn i64(dims: &[usize], values: &[i64]) -> Self {
        Self::from_le(code::I64, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn from_le(elem_type: i32, dims: &[usize], bytes: Vec<u8>) -> Self {
        let t = Self { elem_type, dims: dims.to_vec(), bytes };
        assert_eq!(Some(t.bytes.len()), t.expected_bytes(), "number of values against dims {dims:?}");
        t
    }

    /// Number of elements; `usize::MAX` for dims that no memory holds (what is no tensor may look like one).
    pub fn len(&self) -> usize {
        self.dims.iter().fold(1, |n: usize, d| n.saturating_mul(*d))
    }

    /// True when a dim is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that dims and type ask for; `None` when the type has no fixed width.
    pub fn expected_bytes(&self) -> Option<usize> {
        Some(self.len().saturating_mul(elem_bits(self.elem_type)?).div_ceil(8))
    }

    /// The elements as `f64`: exact for all but 64-bit integers beyond 2^53.  `None` for strings, complex and 8-bit floats.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        fn each<const N: usize>(b: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            b.as_chunks::<N>().0.iter().map(|c| f(*c)).collect()
        }
        let b = self.bytes.as_slice();
        Some(match self.elem_type {
            code::F32 => each(b, |c| f32::from_le_bytes(c).into()),
            code::F64 => each(b, f64::from_le_bytes),
            code::F16 => each(b, |c| half::f16::from_le_bytes(c).into()),
            code::BF16 => each(b, |c| half::bf16::from_le_bytes(c).into()),
            code::I8 => each(b, |c| i8::from_le_bytes(c).into()),
            code::U8 | code::BOOL => each(b, |[c]: [u8; 1]| c.into()),
            code::I16 => each(b, |c| i16::from_le_bytes(c).into()),
            code::U16 => each(b, |c| u16::from_le_bytes(c).into()),
            code::I32 => each(b, |c| i32::from_le_bytes(c).into()),
            code::U32 => each(b, |c| u32::from_le_bytes(c).into()),
            code::I64 => each(b, |c| i64::from_le_bytes(c) as f64),
            code::U64 => each(b, |c| u64::from_le_bytes(c) as f64),
            21 | 22 => {
                self.nibbles().map(|n| if self.elem_type == 22 && n > 7 { f64::from(n) - 16.0 } else { f64::from(n) }).collect()
            }
            _ => return None,
        })
    }

    fn nibbles(&self) -> impl Iterator<Item = u8> + '_ {
        self.bytes.iter().flat_map(|b| [b & 15, b >> 4]).take(self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_out_as_they_went_in() {
        assert_eq!(Tensor::f32(&[3], &[1.5, -0.0, 7.0]).to_f64().unwrap(), [1.5, 0.0, 7.0]);
        assert_eq!(Tensor::i64(&[], &[-9]).to_f64().unwrap(), [-9.0]);
        let int4 = Tensor { elem_type: 22, dims: vec![3], bytes: vec![0xf1, 0x08] };
        assert_eq!(int4.expected_bytes(), Some(2));
        assert_eq!(int4.to_f64().unwrap(), [1.0, -1.0, -8.0]);
    }
}
