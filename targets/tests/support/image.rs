//! Elements of the memory of a test.

use onnxc_ir::DType;
use onnxc_ir::math::Scalar;

/// An element.
pub fn read(image: &[u8], at: usize, dtype: DType) -> Scalar {
    let word = |n: usize| &image[at..at + n];
    match dtype {
        DType::F32 => Scalar::F(f32::from_le_bytes(word(4).try_into().unwrap()).into()),
        DType::I32 => Scalar::I(i32::from_le_bytes(word(4).try_into().unwrap()).into()),
        DType::U8 => Scalar::I(image[at].into()),
        DType::I8 => Scalar::I((image[at] as i8).into()),
        DType::I16 => Scalar::I(i16::from_le_bytes(word(2).try_into().unwrap()).into()),
        other => panic!("{other}"),
    }
}

/// Puts one there.
pub fn write(image: &mut [u8], at: usize, dtype: DType, value: Scalar) {
    match dtype {
        DType::F32 => image[at..at + 4].copy_from_slice(&(value.f() as f32).to_le_bytes()),
        DType::I32 => image[at..at + 4].copy_from_slice(&(value.i() as i32).to_le_bytes()),
        DType::I16 => image[at..at + 2].copy_from_slice(&(value.i() as i16).to_le_bytes()),
        _ => image[at] = value.i() as u8,
    }
}

/// Appends `bytes` at the next multiple of 64, behind a gap that must stay as it is, and gives their place.
pub fn place(image: &mut Vec<u8>, bytes: &[u8]) -> usize {
    image.resize((image.len() + 64).next_multiple_of(64), 0xA5);
    let at = image.len();
    image.extend(bytes);
    at
}
