//! Rows of bytes as operands of dot products.

use iced_x86::code_asm::*;
use onnxc_ir::DType;

use super::{Asm, z};
use crate::emitter::{Emitter, Lanes, Mem, Ty, V};
use crate::error::Error;

impl Asm {
    /// A row of 64 bytes, its groups of four so arranged that pairing them within 128 bits twice brings neighbouring channels into one register.
    fn load_transposed(&mut self, d: V, at: Mem, channels: u32) -> Result<(), Error> {
        let order: Vec<u8> = (0..16u32).flat_map(|i| (i % 4 * 4 + i / 4).to_le_bytes()).collect();
        let order = self.data(order);
        if channels == 64 {
            let at = self.at(at)?;
            self.a.vmovdqu32(z(d), zmmword_ptr(order))?;
            return Ok(self.a.vpermd(z(d), z(d), zmmword_ptr(at))?);
        }
        let by = self.alloc(Ty::I32)?;
        self.a.vmovdqu32(z(by), zmmword_ptr(order))?;
        self.emit_load(d, DType::I32, at, Lanes::First(channels / 4))?;
        self.a.vpermd(z(d), z(by), z(d))?;
        self.free(by);
        Ok(())
    }

    pub(super) fn emit_load_columns(&mut self, d: &[V], rows: &[Mem], channels: u32) -> Result<(), Error> {
        let mut own = Vec::new();
        while d.len() + own.len() < 6 {
            own.push(self.alloc(Ty::I32)?);
        }
        let r: Vec<V> = d.iter().chain(&own).copied().collect();
        r.iter().for_each(|v| self.writes(*v));
        for (v, at) in r.iter().zip(rows) {
            self.load_transposed(*v, *at, channels)?;
        }
        // The last row stands in for missing ones.
        let row = |i: usize| z(r[i.min(rows.len() - 1)]);
        let [d0, d1, d2, d3, low, high] = [0, 1, 2, 3, 4, 5].map(|i| z(r[i]));
        let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
        self.a.vpunpcklbw(low, r0, r1)?;
        self.a.vpunpcklbw(high, r2, r3)?;
        // Of what is left of the rows the upper halves.
        if rows.len() < 3 {
            self.a.vpunpckhbw(d3, r2, r3)?;
            self.a.vpunpckhbw(d1, r0, r1)?;
        } else {
            self.a.vpunpckhbw(d1, r0, r1)?;
            self.a.vpunpckhbw(d3, r2, r3)?;
        }
        self.a.vpunpcklwd(d2, d1, d3)?;
        self.a.vpunpckhwd(d3, d1, d3)?;
        self.a.vpunpcklwd(d0, low, high)?;
        self.a.vpunpckhwd(d1, low, high)?;
        own.into_iter().for_each(|v| self.free(v));
        Ok(())
    }
}
