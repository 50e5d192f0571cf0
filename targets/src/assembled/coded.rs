//! Coded weights of the assembled emitter: bytes and numbers of a table's elements become floats.

use iced_x86::code_asm::*;

use super::{Asm, any_ymm, y, z};
use crate::emitter::{Emitter, Mem, P, Table, Ty, V};
use crate::error::Error;

impl Asm {
    pub(super) fn emit_load_numbers(&mut self, d: V, at: Mem, n: u32) -> Result<(), Error> {
        self.writes(d);
        let from = self.at(at)?;
        if self.zmm && n > 8 {
            self.a.vpmovsxbd(z(d), xmmword_ptr(from))?;
            return Ok(self.a.vcvtdq2ps(z(d), z(d))?);
        }
        self.a.vpmovsxbd(any_ymm(d), qword_ptr(from))?;
        Ok(self.a.vcvtdq2ps(any_ymm(d), any_ymm(d))?)
    }

    /// AVX-512 has the elements as floats, one for each number of four bits; AVX2 as bytes, the same in both halves.
    pub(super) fn emit_load_table(&mut self, from: P) -> Result<Table, Error> {
        let table = self.alloc(Ty::I32)?;
        let at = self.at(Mem { base: from, disp: 0 })?;
        if self.zmm {
            self.a.vpmovsxbd(z(table), xmmword_ptr(at))?;
            self.a.vcvtdq2ps(z(table), z(table))?;
        } else {
            self.a.vbroadcasti128(y(table), xmmword_ptr(at))?;
        }
        self.free_ptr(from);
        Ok(Table::Register(table))
    }

    pub(super) fn emit_look_up(&mut self, d: V, table: Table, at: Mem, nibble: u32) -> Result<(), Error> {
        let Table::Register(table) = table else { return Err(Error::Internal("a table in memory".to_string())) };
        self.writes(d);
        let from = self.at(at)?;
        if self.zmm {
            // Higher bits of a number do not count.
            match nibble {
                0 => self.a.vmovups(z(d), zmmword_ptr(from))?,
                _ => self.a.vpsrld(z(d), zmmword_ptr(from), 4 * nibble as i32)?,
            }
            return Ok(self.a.vpermps(z(d), z(d), z(table))?);
        }
        // The number goes to the highest byte, whose element is extended with its sign.
        self.a.vmovups(y(d), ymmword_ptr(from))?;
        match 24 - 4 * nibble as i32 {
            0 => {}
            left @ 1.. => self.a.vpslld(y(d), y(d), left)?,
            right => self.a.vpsrld(y(d), y(d), -right)?,
        }
        let low = self.data(0x0F00_0000u32.to_le_bytes().repeat(8));
        self.a.vpand(y(d), y(d), ymmword_ptr(low))?;
        self.a.vpshufb(y(d), y(table), y(d))?;
        self.a.vpsrad(y(d), y(d), 24)?;
        Ok(self.a.vcvtdq2ps(y(d), y(d))?)
    }
}
