//! Rows of bytes as operands of dot products.

use iced_x86::code_asm::*;
use onnxc_ir::DType;

use super::packs::transposition;
use super::{Asm, x, y, z};
use crate::emitter::{Emitter, Lanes, Mem, Order, Ty, V};
use crate::error::Error;

impl Asm {
    /// A row of 64 bytes, its groups of four so arranged that pairing them within 128 bits twice brings neighbouring channels into one register.
    fn load_transposed(&mut self, d: V, at: Mem, channels: u32) -> Result<(), Error> {
        if channels == 64 {
            let from = self.at(at)?;
            let by = self.transposition.map_or_else(|| self.load_transposition(d), Ok)?;
            return Ok(self.a.vpermd(z(d), z(by), zmmword_ptr(from))?);
        }
        let new = if self.transposition.is_none() { Some(self.alloc(Ty::I32)?) } else { None };
        let by = new.or(self.transposition).unwrap_or(d);
        if new.is_some() {
            self.load_transposition(by)?;
        }
        self.emit_load(d, DType::I32, at, Lanes::First(channels / 4))?;
        self.a.vpermd(z(d), z(by), z(d))?;
        new.into_iter().for_each(|v| self.free(v));
        Ok(())
    }

    fn load_transposition(&mut self, d: V) -> Result<V, Error> {
        let order = self.data(transposition());
        self.a.vmovdqu32(z(d), zmmword_ptr(order))?;
        Ok(d)
    }

    /// Keeps the permutation of columns and packs in a register.
    pub(super) fn emit_hold_order(&mut self, others: usize) -> Result<(), Error> {
        if self.zmm && self.transposition.is_none() && self.available() > others {
            let v = self.alloc(Ty::I32)?;
            self.transposition = Some(self.load_transposition(v)?);
        }
        Ok(())
    }

    /// Eight channels: words of two rows in each register.
    fn load_columns_256(&mut self, d: &[V], rows: &[Mem], channels: u32) -> Result<(), Error> {
        let t = self.alloc(Ty::I32)?;
        for (v, rows) in d.iter().zip(rows.chunks(2)) {
            self.load_bytes(*v, rows[0], channels)?;
            if let Some(second) = rows.get(1) {
                self.load_bytes(t, *second, channels)?;
                self.a.vpunpcklbw(x(*v), x(*v), x(t))?;
                self.a.vpmovzxbw(y(*v), x(*v))?;
            } else {
                self.a.vpmovzxbd(y(*v), x(*v))?;
            }
        }
        self.free(t);
        Ok(())
    }

    /// Eight bytes, or four.
    fn load_bytes(&mut self, d: V, at: Mem, n: u32) -> Result<(), Error> {
        let from = self.at(at)?;
        Ok(if n == 8 { self.a.vmovq(x(d), qword_ptr(from)) } else { self.a.vmovd(x(d), dword_ptr(from)) }?)
    }

    pub(super) fn emit_load_columns(&mut self, d: &[V], rows: &[Mem], channels: u32, order: Order) -> Result<(), Error> {
        d.iter().for_each(|v| self.writes(*v));
        if !self.zmm {
            return self.load_columns_256(d, rows, channels);
        }
        if let ([row], Order::Natural) = (rows, order) {
            // Of one row the other bytes are zero, which is as good.
            for (q, v) in (0..channels.div_ceil(16)).zip(d) {
                let left = channels - 16 * q;
                let lanes = if left >= 16 { Lanes::All } else { Lanes::First(left) };
                self.emit_load(*v, DType::U8, Mem { disp: row.disp + 16 * i64::from(q), ..*row }, lanes)?;
            }
            return Ok(());
        }
        let own: Vec<V> = (d.len()..6).map(|_| self.alloc(Ty::I32)).collect::<Result<_, _>>()?;
        let r: Vec<V> = d.iter().chain(&own).copied().collect();
        for (v, at) in r.iter().zip(rows) {
            match order {
                Order::Natural => self.load_transposed(*v, *at, channels)?,
                Order::Paired => {
                    let at = self.at(*at)?;
                    self.a.vmovdqu32(z(*v), zmmword_ptr(at))?;
                }
            }
        }
        // The last row stands in for missing ones.
        let row = |i: usize| z(r[i.min(rows.len() - 1)]);
        let [d0, d1, d2, d3, low, high] = [0, 1, 2, 3, 4, 5].map(|i| z(r[i]));
        let (r0, r1, r2, r3) = (row(0), row(1), row(2), row(3));
        self.a.vpunpcklbw(low, r0, r1)?;
        self.a.vpunpcklbw(high, r2, r3)?;
        if d.len() > 2 {
            // Of what is left of the rows the upper halves.
            if rows.len() < 3 {
                self.a.vpunpckhbw(d3, r2, r3)?;
                self.a.vpunpckhbw(d1, r0, r1)?;
            } else {
                self.a.vpunpckhbw(d1, r0, r1)?;
                self.a.vpunpckhbw(d3, r2, r3)?;
            }
            self.a.vpunpcklwd(d2, d1, d3)?;
            if d.len() > 3 {
                self.a.vpunpckhwd(d3, d1, d3)?;
            }
        }
        self.a.vpunpcklwd(d0, low, high)?;
        if d.len() > 1 {
            self.a.vpunpckhwd(d1, low, high)?;
        }
        own.into_iter().for_each(|v| self.free(v));
        Ok(())
    }
}
