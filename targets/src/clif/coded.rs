//! Coded weights of the emitter that makes Cranelift IR: numbers of a table's elements become floats.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use onnxc_ir::DType;

use super::{Clif, flags, flags_le};
use crate::emitter::{Emitter, Lanes, Mem, P, Table, Ty, V};
use crate::error::Error;

impl Clif<'_> {
    /// Signed bytes as floats.
    pub(super) fn emit_load_numbers(&mut self, d: V, at: Mem) -> Result<(), Error> {
        self.load(d, DType::I8, at, Lanes::All)?;
        let x = self.get(d, Ty::I32);
        let ty = self.ty(Ty::F32);
        let value = self.b.ins().fcvt_from_sint(ty, x);
        self.set(d, value, Ty::F32);
        Ok(())
    }

    /// The elements as bytes of a register; in memory where nothing looks them up there.
    pub(super) fn emit_load_table(&mut self, from: P) -> Result<Table, Error> {
        // What rounds (SSE4.1) also shuffles bytes (SSSE3).
        if !self.vector || (self.x86() && !self.has_round) {
            return Ok(Table::Memory(from));
        }
        let table = self.alloc(Ty::I32)?;
        self.load(table, DType::I32, Mem { base: from, disp: 0 }, Lanes::All)?;
        Ok(Table::Register(table))
    }

    pub(super) fn emit_look_up(&mut self, d: V, table: Table, at: Mem, nibble: u32) -> Result<(), Error> {
        let (base, disp) = self.at(at);
        let float = self.ty(Ty::F32);
        let element = match table {
            Table::Memory(from) if self.vector => {
                let mut all = self.constant(Ty::I32, 0);
                for lane in 0..4 {
                    let element = self.element(from, (base, disp + 4 * lane), nibble);
                    all = self.b.ins().insertlane(all, element, lane as u8);
                }
                all
            }
            Table::Memory(from) => self.element(from, (base, disp), nibble),
            Table::Register(table) => {
                // The number goes to the highest byte, whose element is extended with its sign.
                let words = self.b.ins().load(types::I32X4, flags(), base, disp);
                let numbers = match 24 - 4 * i64::from(nibble) {
                    left @ 0.. => self.b.ins().ishl_imm_s(words, left),
                    right => self.b.ins().ushr_imm_s(words, -right),
                };
                let low = self.constant(Ty::I32, 0x0F00_0000);
                let numbers = self.b.ins().band(numbers, low);
                let numbers = self.b.ins().bitcast(types::I8X16, flags_le(), numbers);
                let table = self.get(table, Ty::I32);
                let table = self.b.ins().bitcast(types::I8X16, flags_le(), table);
                let elements = self.b.ins().swizzle(table, numbers);
                let elements = self.b.ins().bitcast(types::I32X4, flags_le(), elements);
                self.b.ins().sshr_imm_s(elements, 24)
            }
        };
        let value = self.b.ins().fcvt_from_sint(float, element);
        self.set(d, value, Ty::F32);
        Ok(())
    }

    /// An element of a table in memory, whose number is in a word.
    fn element(&mut self, table: P, (base, disp): (Value, i32), nibble: u32) -> Value {
        let word = self.b.ins().uload32(flags(), base, disp);
        let number = self.b.ins().ushr_imm_s(word, i64::from(4 * nibble));
        let number = self.b.ins().band_imm_s(number, 15);
        let from = self.ptr(table);
        let from = self.b.ins().iadd(from, number);
        self.b.ins().sload8(types::I32, flags(), from, 0)
    }
}
