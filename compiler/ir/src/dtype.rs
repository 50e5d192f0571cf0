//! Element types of tensors, with the codes that ONNX's `TensorProto.DataType` gives them.

use std::fmt;

/// The element type of a tensor. The discriminants are ONNX's `TensorProto.DataType` codes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum DType {
    F32 = 1,
    U8 = 2,
    I8 = 3,
    U16 = 4,
    I16 = 5,
    I32 = 6,
    I64 = 7,
    Str = 8,
    Bool = 9,
    F16 = 10,
    F64 = 11,
    U32 = 12,
    U64 = 13,
    C64 = 14,
    C128 = 15,
    BF16 = 16,
    F8E4M3FN = 17,
    F8E4M3FNUZ = 18,
    F8E5M2 = 19,
    F8E5M2FNUZ = 20,
    U4 = 21,
    I4 = 22,
    F4E2M1 = 23,
    F8E8M0 = 24,
    U2 = 25,
    I2 = 26,
}

use DType::*;

impl DType {
    /// Every type, in the order of the codes.
    pub const ALL: [DType; 26] = [
        F32, U8, I8, U16, I16, I32, I64, Str, Bool, F16, F64, U32, U64, C64, C128, BF16, F8E4M3FN, F8E4M3FNUZ, F8E5M2,
        F8E5M2FNUZ, U4, I4, F4E2M1, F8E8M0, U2, I2,
    ];

    /// The type with this ONNX code, if there is one.
    pub fn from_onnx(code: i32) -> Option<DType> {
        Self::ALL.into_iter().find(|t| *t as i32 == code)
    }

    /// ONNX's `TensorProto.DataType` code.
    pub fn onnx_code(self) -> i32 {
        self as i32
    }

    /// Bits that one element takes in memory; strings have no fixed size and answer 0.
    pub fn bits(self) -> u64 {
        match self {
            Str => 0,
            U2 | I2 => 2,
            U4 | I4 | F4E2M1 => 4,
            U8 | I8 | Bool | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 => 8,
            U16 | I16 | F16 | BF16 => 16,
            F32 | I32 | U32 => 32,
            F64 | I64 | U64 | C64 => 64,
            C128 => 128,
        }
    }

    /// Bytes that `elements` elements take, sub-byte types packed; `None` on overflow.
    pub fn bytes_for(self, elements: u64) -> Option<u64> {
        elements.checked_mul(self.bits()).map(|bits| bits.div_ceil(8))
    }

    /// Bytes of one element. Sub-byte types answer 1: they are packed only in constants and in a model's inputs and outputs.
    pub fn bytes(self) -> u64 {
        self.bits().div_ceil(8)
    }

    /// Types of which several elements share a byte.
    pub fn is_packed(self) -> bool {
        matches!(self, U2 | I2 | U4 | I4 | F4E2M1)
    }

    /// The type as which memory inside compiled code holds elements: integers below a byte have one of their own there.
    pub fn carrier(self) -> DType {
        match self {
            U2 | U4 => U8,
            I2 | I4 => I8,
            t => t,
        }
    }

    /// f16, bf16, f32, f64 and the small float storage types.
    pub fn is_float(self) -> bool {
        matches!(self, F32 | F64 | F16 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F4E2M1 | F8E8M0)
    }

    /// Integers, signed and unsigned; bool is none.
    pub fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }

    /// Signed integers.
    pub fn is_signed_int(self) -> bool {
        matches!(self, I2 | I4 | I8 | I16 | I32 | I64)
    }

    /// Unsigned integers.
    pub fn is_unsigned_int(self) -> bool {
        matches!(self, U2 | U4 | U8 | U16 | U32 | U64)
    }

    /// Smallest and largest value of an integer type (`i128` holds all of them).
    pub fn int_range(self) -> Option<(i128, i128)> {
        let bits = self.bits() as u32;
        if self.is_signed_int() {
            Some((-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1))
        } else if self.is_unsigned_int() {
            Some((0, (1i128 << bits) - 1))
        } else {
            None
        }
    }

    /// Has it two zeros, of which one has the bit of the sign and no other?
    fn has_signed_zeros(self) -> bool {
        matches!(self, F32 | F64 | F16 | BF16 | F8E4M3FN | F8E5M2)
    }

    /// Are all of these elements zero, of either sign? Weights that were multiplied by a mask have both zeros. For types whose elements are whole bytes.
    pub fn all_zero(self, elements: &[u8]) -> bool {
        match self {
            // Weights: the bits but the sign's, so that a vector has many of them.
            F32 => elements.as_chunks::<4>().0.iter().all(|e| u32::from_le_bytes(*e) << 1 == 0),
            _ if self.has_signed_zeros() => {
                let zero = |e: &[u8]| e.split_last().is_none_or(|(last, rest)| last << 1 == 0 && rest.iter().all(|b| *b == 0));
                elements.chunks(self.bytes() as usize).all(zero)
            }
            _ => elements.iter().all(|b| *b == 0),
        }
    }

    /// The name in text IR: `f32`, `i64`, `bool`, ...
    pub fn name(self) -> &'static str {
        match self {
            F32 => "f32",
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            I32 => "i32",
            I64 => "i64",
            Str => "str",
            Bool => "bool",
            F16 => "f16",
            F64 => "f64",
            U32 => "u32",
            U64 => "u64",
            C64 => "c64",
            C128 => "c128",
            BF16 => "bf16",
            F8E4M3FN => "f8e4m3fn",
            F8E4M3FNUZ => "f8e4m3fnuz",
            F8E5M2 => "f8e5m2",
            F8E5M2FNUZ => "f8e5m2fnuz",
            U4 => "u4",
            I4 => "i4",
            F4E2M1 => "f4e2m1",
            F8E8M0 => "f8e8m0",
            U2 => "u2",
            I2 => "i2",
        }
    }

    /// The type with this text IR name.
    pub fn from_name(name: &str) -> Option<DType> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_have_two_zeros() {
        let floats = |values: [f32; 3]| values.map(f32::to_le_bytes).concat();
        assert!(F32.all_zero(&floats([0.0, -0.0, 0.0])));
        // The smallest number, not a number, and one whose last byte alone is not zero.
        for other in [f32::from_bits(1), f32::NAN, 2.0] {
            assert!(!F32.all_zero(&floats([0.0, -0.0, other])), "{other}");
        }
        let halves = [half::f16::NEG_ZERO, half::f16::from_bits(0x8001)].map(half::f16::to_le_bytes);
        assert!(F16.all_zero(&halves[0]) && !F16.all_zero(&halves.concat()));
        assert!(F64.all_zero(&(-0f64).to_le_bytes()) && !F64.all_zero(&(-1f64).to_le_bytes()));
        // 0x80 is a number of integers, and none at all where there is one zero.
        assert!(F8E5M2.all_zero(&[0x80, 0]));
        assert!([I8, U8, F8E4M3FNUZ, F8E8M0].into_iter().all(|t| !t.all_zero(&[0, 0x80])));
        assert!(DType::ALL.into_iter().all(|t| t.all_zero(&[])));
    }
}
