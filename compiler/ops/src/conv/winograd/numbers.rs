//! What a convolution in tiles computes with.

use onnxc_ir::DType;
use onnxc_ir::target::{Factors, TargetDesc};

/// Floats, or integers of 8 bits whose transforms are words and whose sums have 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Numbers {
    /// f32 everywhere.
    Floats,
    /// Bytes, words, and sums modulo 2^32.
    Integers,
}

impl Numbers {
    /// Those of a convolution of an operand and weights of these types, if there are any.
    pub fn of(x: DType, w: DType) -> Option<Numbers> {
        let byte = |t: DType| matches!(t, DType::U8 | DType::I8);
        match (x, w) {
            (DType::F32, DType::F32) => Some(Numbers::Floats),
            (x, w) if byte(x) && byte(w) => Some(Numbers::Integers),
            _ => None,
        }
    }

    /// Type of transformed input and weights.
    pub fn factor(self) -> DType {
        if self == Numbers::Floats { DType::F32 } else { DType::I16 }
    }

    /// Type of their products, and of what transforms add.
    pub fn sum(self) -> DType {
        if self == Numbers::Floats { DType::F32 } else { DType::I32 }
    }

    /// Bytes of a weight that is not transformed.
    pub fn weight_bytes(self) -> u64 {
        if self == Numbers::Floats { DType::F32.bytes() } else { DType::I8.bytes() }
    }

    fn factors(self) -> Factors {
        if self == Numbers::Floats { Factors::Floats } else { Factors::Words }
    }

    /// The tiles of the products.
    pub fn tiles(self, target: &TargetDesc) -> &[(u32, u32)] {
        target.tiles(self.factors())
    }

    /// The best tile for so many rows and columns among those that are allowed.
    pub fn tile(self, target: &TargetDesc, rows: u64, columns: u64, allowed: impl Fn(&(u32, u32)) -> bool) -> (u32, u32) {
        crate::common::tile::choose_among(target, self.factors(), rows, columns, allowed)
    }
}
