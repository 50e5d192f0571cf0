//! The tiles that a target has for what is multiplied.

use onnxc_ir::DType;
use onnxc_ir::target::TargetDesc;

/// Types of B with A of f32.
pub const FLOATS: [DType; 3] = [DType::F32, DType::I8, DType::U4];

/// The tiles of floats by such a B.
pub fn tiles(t: &TargetDesc, b: DType) -> &[(u32, u32)] {
    if b == DType::U4 { &t.table_tiles } else { &t.f32_tiles }
}

/// The tiles of bytes, the type of A, and how many steps short weights add up in 16 bits.
pub fn bytes(t: &TargetDesc) -> Vec<((u32, u32), DType, u32)> {
    let signs = t.i8_tiles.iter().flat_map(|tile| [(*tile, DType::U8, 0), (*tile, DType::I8, 0)]);
    signs.chain(short(t)).collect()
}

/// The tiles of words, and what these are multiplied by.
pub fn words(t: &TargetDesc) -> Vec<((u32, u32), DType)> {
    let widened = t.words_beat_bytes().then_some(DType::I8);
    let types = [DType::I16].into_iter().chain(widened);
    types.flat_map(|b| t.word_tiles.iter().map(move |tile| (*tile, b))).collect()
}

/// Those of them with short weights.
pub fn short(t: &TargetDesc) -> Vec<((u32, u32), DType, u32)> {
    t.short_tiles.iter().flat_map(|(steps, tiles)| tiles.iter().map(|tile| (*tile, DType::U8, *steps))).collect()
}
