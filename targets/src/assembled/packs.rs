//! Stores of the assembled emitter that pack several vectors of i32 to one of bytes.
//!
//! Packs work within 128 bits: they leave each vector's lanes four by four, those of the first 128 bits of all vectors first. One permutation brings
//! the lanes of each vector together, and a vector of bytes is a quarter of a register.

use iced_x86::code_asm::*;
use onnxc_ir::DType;

use super::memory::{any_xmm, any_ymm};
use super::{Asm, op3, x, y, z};
use crate::emitter::{Bytes, Emitter, Lanes, Mem, Opd, Order, Ty, V};
use crate::error::Error;

/// The permutation of 16 lanes that takes rows of four for columns: from the order of packs to the natural one, and from that to the order in which pairs of
/// bytes and words are made.
pub(super) fn transposition() -> Vec<u8> {
    (0..16u32).flat_map(|i| (i % 4 * 4 + i / 4).to_le_bytes()).collect()
}

impl Asm {
    pub(super) fn emit_store_bytes(&mut self, v: &[V], at: &[(Mem, Lanes)], how: &Bytes, order: Order) -> Result<(), Error> {
        v.iter().for_each(|v| self.writes(*v));
        let words = self.words(v, how.moved)?;
        let (low, high) = (words[0], words[words.len() - 1]);
        if how.dtype == DType::I8 {
            op3!(self, vpacksswb, low, low, Opd::Reg(high));
        } else {
            op3!(self, vpackuswb, low, low, Opd::Reg(high));
        }
        let packed = match &how.table {
            Some(table) => self.look_up(low, table)?,
            None => low,
        };
        if order == Order::Natural {
            self.gather_quarters(packed)?;
        }
        let lanes = self.lanes();
        let bytes = |lanes_: Lanes| match lanes_ {
            Lanes::First(n) => Ok(n),
            Lanes::All => Ok(lanes),
            Lanes::Tail => Err(Error::Internal("packs have no tail masks".to_string())),
        };
        // What is side by side in memory is stored at once.
        let mut first = 0;
        while first < at.len() {
            let mut n = 1;
            let follows = |n: usize| {
                let (before, this) = (at[first + n - 1], at[first + n]);
                before.1 == Lanes::All && before.0.base == this.0.base && before.0.disp + i64::from(lanes) == this.0.disp
            };
            while first + n < at.len() && follows(n) {
                n += 1;
            }
            let count = (n as u32 - 1) * lanes + bytes(at[first + n - 1].1)?;
            debug_assert!(order == Order::Natural || n == v.len(), "internal: targets: one group of columns");
            self.store_quarters(packed, first as u32, count, at[first].0)?;
            first += n;
        }
        if packed != low {
            self.free(packed);
        }
        Ok(())
    }

    /// Bytes of a table of 256 in a new register: each of its quarters gives those whose two upper bits are its number.
    fn look_up(&mut self, bytes: V, table: &[u8; 256]) -> Result<V, Error> {
        let labels: Vec<AsmMemoryOperand> = table.chunks(64).map(|quarter| self.data(quarter.to_vec())).collect();
        let bit = self.data([0x40; 64].to_vec());
        let (low, high) = (self.alloc(Ty::I32)?, self.alloc(Ty::I32)?);
        self.k1_holds = None;
        self.k3_holds = None;
        self.a.vptestmb(k1, z(bytes), zmmword_ptr(bit))?;
        self.a.vpmovb2m(k3, z(bytes))?;
        for (d, quarter) in [(low, 0), (high, 2)] {
            self.a.vpermb(z(d), z(bytes), zmmword_ptr(labels[quarter]))?;
            self.a.vpermb(z(d).k1(), z(bytes), zmmword_ptr(labels[quarter + 1]))?;
        }
        self.a.vmovdqu8(z(low).k3(), z(high))?;
        self.free(high);
        Ok(low)
    }

    /// Up to four vectors as one or two of words, moved.
    fn words(&mut self, v: &[V], moved: i32) -> Result<Vec<V>, Error> {
        let mut words = Vec::new();
        for pair in v.chunks(2) {
            op3!(self, vpackssdw, pair[0], pair[0], Opd::Reg(pair[pair.len() - 1]));
            words.push(pair[0]);
        }
        if moved != 0 {
            let bytes = if self.zmm { 64 } else { 32 };
            let label = self.data((moved as i16).to_le_bytes().repeat(bytes / 2));
            for w in &words {
                if self.zmm {
                    self.a.vpaddsw(z(*w), z(*w), zmmword_ptr(label))?;
                } else {
                    self.a.vpaddsw(y(*w), y(*w), ymmword_ptr(label))?;
                }
            }
        }
        Ok(words)
    }

    fn gather_quarters(&mut self, v: V) -> Result<(), Error> {
        let parts = self.lanes() / 4;
        let order: Vec<u8> = (0..4).flat_map(|q| (0..parts).flat_map(move |k| (4 * k + q).to_le_bytes())).collect();
        debug_assert!(!self.zmm || order == transposition(), "internal: targets: quarters of 512 bits");
        let order = self.data(order);
        if let Some(by) = self.transposition {
            return Ok(self.a.vpermd(z(v), z(by), z(v))?);
        }
        let by = self.alloc(Ty::I32)?;
        if self.zmm {
            self.a.vmovdqu32(z(by), zmmword_ptr(order))?;
            self.a.vpermd(z(v), z(by), z(v))?;
        } else {
            self.a.vmovdqu(y(by), ymmword_ptr(order))?;
            self.a.vpermd(y(v), y(by), y(v))?;
        }
        self.free(by);
        Ok(())
    }

    /// `count` bytes from a quarter on.
    fn store_quarters(&mut self, v: V, quarter: u32, count: u32, at: Mem) -> Result<(), Error> {
        let width = self.lanes();
        let mut at = at;
        let (mut quarter, mut left) = (quarter, count);
        while left > 0 {
            let to = self.at(at)?;
            let stored = match (quarter, self.zmm) {
                (0 | 2, true) if self.masked_at_once(quarter, left) => self.store_masked(v, quarter, left, to).map(|()| left)?,
                (0, true) if left == 64 => self.a.vmovdqu32(zmmword_ptr(to), z(v)).map(|()| 64)?,
                (0, _) if left >= 32 => self.a.vmovups(ymmword_ptr(to), any_ymm(v)).map(|()| 32)?,
                (2, true) if left >= 32 => self.a.vextracti64x4(ymmword_ptr(to), z(v), 1).map(|()| 32)?,
                (0, false) if left >= 16 => self.a.vmovups(xmmword_ptr(to), x(v)).map(|()| 16)?,
                (2, false) if left >= 16 => self.a.vextracti128(xmmword_ptr(to), y(v), 1).map(|()| 16)?,
                (_, true) if left >= 16 => self.store_16(v, quarter, to).map(|()| 16)?,
                (_, true) => self.store_rest_512(v, quarter, left, to).map(|()| left)?,
                (_, false) => self.store_rest_256(v, quarter, left.min(8), to).map(|()| left.min(8))?,
            };
            left -= stored;
            quarter += stored / width;
            at.disp += i64::from(stored);
        }
        Ok(())
    }

    /// Is one store under a mask better than several ones? For all but the first one bytes have to be brought down to the lowest ones of a register.
    fn masked_at_once(&self, quarter: u32, count: u32) -> bool {
        count == 24 || count == 48 && quarter == 0
    }

    /// A multiple of four bytes from one half on.
    fn store_masked(&mut self, v: V, quarter: u32, count: u32, to: AsmMemoryOperand) -> Result<(), Error> {
        self.lane_mask(Lanes::First(count / 4))?;
        match quarter {
            0 if count > 32 => self.a.vmovdqu32(zmmword_ptr(to).k3(), z(v))?,
            0 => self.a.vmovdqu32(ymmword_ptr(to).k3(), any_ymm(v))?,
            _ => self.a.vextracti32x8(ymmword_ptr(to).k3(), z(v), 1)?,
        }
        Ok(())
    }

    fn store_16(&mut self, v: V, quarter: u32, to: AsmMemoryOperand) -> Result<(), Error> {
        if quarter == 0 {
            return Ok(self.a.vmovups(xmmword_ptr(to), any_xmm(v))?);
        }
        Ok(self.a.vextracti32x4(xmmword_ptr(to), z(v), quarter as i32)?)
    }

    /// Fewer than 16 bytes.
    fn store_rest_512(&mut self, v: V, quarter: u32, count: u32, to: AsmMemoryOperand) -> Result<(), Error> {
        let t = self.alloc(Ty::I32)?;
        let part = if quarter == 0 { any_xmm(v) } else { any_xmm(t) };
        if quarter > 0 {
            self.a.vextracti32x4(part, z(v), quarter as i32)?;
        }
        match count {
            4 => self.a.vmovd(dword_ptr(to), part)?,
            8 => self.a.vmovq(qword_ptr(to), part)?,
            12 => {
                self.a.vmovq(qword_ptr(to), part)?;
                self.a.vpextrd(dword_ptr(to + 8), part, 2)?;
            }
            n => {
                self.lane_mask(Lanes::First(n))?;
                self.a.vmovdqu8(xmmword_ptr(to).k3(), part)?;
            }
        }
        self.free(t);
        Ok(())
    }

    /// Up to 8 bytes.
    fn store_rest_256(&mut self, v: V, quarter: u32, count: u32, to: AsmMemoryOperand) -> Result<(), Error> {
        let t = self.alloc(Ty::I32)?;
        let part = if quarter < 2 { x(v) } else { x(t) };
        if quarter >= 2 {
            self.a.vextracti128(part, y(v), 1)?;
        }
        let half = quarter as i32 % 2;
        match (count, half) {
            (8, 0) => self.a.vmovq(qword_ptr(to), part)?,
            (8, _) => self.a.vmovhps(qword_ptr(to), part)?,
            (n, _) => {
                let mut done = 0;
                if n >= 4 {
                    self.a.vpextrd(dword_ptr(to), part, 2 * half)?;
                    done = 4;
                }
                for i in done..n as i32 {
                    self.a.vpextrb(byte_ptr(to + i), part, 8 * half + i)?;
                }
            }
        }
        self.free(t);
        Ok(())
    }
}
