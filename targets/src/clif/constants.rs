//! Constants of the emitter that makes Cranelift IR.

use cranelift_codegen::ir::immediates::Ieee32;
use cranelift_codegen::ir::{ConstantData, InstBuilder, Type, Value, types};

use super::Clif;
use crate::emitter::Ty;

impl Clif<'_> {
    /// The number with these bits, in every lane.
    pub(super) fn constant(&mut self, ty: Ty, bits: u32) -> Value {
        match (self.vector, ty) {
            (true, _) => {
                let ty = self.ty(ty);
                self.vector_constant(ty, &bits.to_le_bytes().repeat(4))
            }
            (false, Ty::F32) => self.b.ins().f32const(Ieee32::with_bits(bits)),
            (false, _) => self.b.ins().iconst(types::I32, i64::from(bits)),
        }
    }

    /// A constant, made once in each block: nothing behind this emitter finds equal ones.
    pub(super) fn vector_constant(&mut self, ty: Type, bytes: &[u8]) -> Value {
        if let Some((.., value)) = self.constants.iter().find(|c| c.0 == ty && c.1 == bytes) {
            return *value;
        }
        let handle = self.b.func.dfg.constants.insert(ConstantData::from(bytes));
        let value = self.b.ins().vconst(ty, handle);
        self.constants.push((ty, bytes.to_vec(), value));
        value
    }
}
