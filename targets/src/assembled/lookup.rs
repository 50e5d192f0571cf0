//! Tables of 256 bytes of the assembled emitter.

use iced_x86::code_asm::*;

use super::{Asm, y, z};
use crate::emitter::{ByteTable, Emitter, Mem, P, Ty, V, alloc_many};
use crate::error::Error;

/// Bytes that are looked up together: a vector of AVX-512, two of AVX2.
const TOGETHER: i64 = 64;
/// Bytes of a vector of AVX2.
const VECTOR: i64 = 32;
/// Entries that a shuffle of AVX2 has.
const PART: u8 = 16;
/// Added to numbers of entries by sums that saturate, it leaves the highest bit clear in those that a part has: of others a shuffle makes zero.
const OTHERS: u8 = 0x80 - PART;

impl Asm {
    pub(super) fn emit_load_byte_table(&mut self, memory: P, signed: bool) -> Result<ByteTable, Error> {
        if self.vbmi {
            let registers = alloc_many(self, Ty::I32, 4)?;
            for (n, v) in registers.iter().enumerate() {
                // Signed bytes as unsigned ones read the halves in the other order.
                let part = if signed { n ^ 2 } else { n };
                let at = self.at(Mem { base: memory, disp: TOGETHER * part as i64 })?;
                self.a.vmovdqu8(z(*v), zmmword_ptr(at))?;
            }
            return Ok(ByteTable { registers, memory, signed, at_once: 4 });
        }
        if self.zmm {
            return Err(Error::Unsupported("tables of bytes".to_string()));
        }
        let registers = alloc_many(self, Ty::I32, 2)?;
        for (v, byte) in registers.iter().zip([PART, OTHERS]) {
            let from = self.data(vec![byte; VECTOR as usize]);
            self.a.vmovdqu(y(*v), ymmword_ptr(from))?;
        }
        Ok(ByteTable { registers, memory, signed, at_once: 2 })
    }

    pub(super) fn emit_look_up_bytes(&mut self, at: &[(Mem, Mem)], table: &ByteTable) -> Result<(), Error> {
        if self.zmm {
            return at.iter().try_for_each(|(to, from)| self.look_up_64(*to, *from, &table.registers));
        }
        let halves = |m: Mem| [m, Mem { disp: m.disp + VECTOR, ..m }];
        let places: Vec<(Mem, Mem)> = at.iter().flat_map(|(to, from)| halves(*to).into_iter().zip(halves(*from))).collect();
        self.look_up_32(&places, table)
    }

    /// A shuffle has seven bits of an index; the highest one, the sign, chooses between the results of both halves.
    fn look_up_64(&mut self, to: Mem, from: Mem, table: &[V]) -> Result<(), Error> {
        let (low, high) = (self.alloc(Ty::I32)?, self.alloc(Ty::I32)?);
        let at = self.at(from)?;
        self.a.vmovdqu8(z(low), zmmword_ptr(at))?;
        self.forget_masks();
        self.a.vpmovb2m(k1, z(low))?;
        self.a.vmovdqa64(z(high), z(low))?;
        self.a.vpermi2b(z(low), z(table[0]), z(table[1]))?;
        self.a.vpermi2b(z(high), z(table[2]), z(table[3]))?;
        self.a.vmovdqu8(z(low).k1(), z(high))?;
        let at = self.at(to)?;
        self.a.vmovdqu8(zmmword_ptr(at), z(low))?;
        self.free(low);
        self.free(high);
        Ok(())
    }

    /// A shuffle has four bits of an index: the parts of the table go by, each for the bytes that are in it.
    fn look_up_32(&mut self, places: &[(Mem, Mem)], table: &ByteTable) -> Result<(), Error> {
        let (sixteen, others) = (table.registers[0], table.registers[1]);
        let [numbers, found] = [0, 1].map(|_| alloc_many(self, Ty::I32, places.len()));
        let (numbers, found, part, chosen) = (numbers?, found?, self.alloc(Ty::I32)?, self.alloc(Ty::I32)?);
        for (v, (_, from)) in numbers.iter().zip(places) {
            let at = self.at(*from)?;
            self.a.vmovdqu(y(*v), ymmword_ptr(at))?;
        }
        let parts = 256 / i64::from(PART);
        for n in 0..parts {
            // Bytes from -128 on are those from 128 on without a sign.
            let entries = if table.signed { n ^ (parts / 2) } else { n };
            let at = self.at(Mem { base: table.memory, disp: i64::from(PART) * entries })?;
            self.a.vbroadcasti128(y(part), xmmword_ptr(at))?;
            for (number, found) in numbers.iter().zip(&found) {
                let to = if n == 0 { *found } else { chosen };
                self.a.vpaddusb(y(to), y(*number), y(others))?;
                self.a.vpshufb(y(to), y(part), y(to))?;
                if n > 0 {
                    self.a.vpor(y(*found), y(*found), y(chosen))?;
                }
                if n + 1 < parts {
                    self.a.vpsubb(y(*number), y(*number), y(sixteen))?;
                }
            }
        }
        for (v, (to, _)) in found.iter().zip(places) {
            let at = self.at(*to)?;
            self.a.vmovdqu(ymmword_ptr(at), y(*v))?;
        }
        numbers.into_iter().chain(found).chain([part, chosen]).for_each(|v| self.free(v));
        Ok(())
    }
}
