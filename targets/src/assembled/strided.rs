//! Loads and stores of the assembled emitter whose lanes are apart in memory.

use iced_x86::code_asm::*;
use onnxc_ir::DType;

use super::memory::{any_xmm, any_ymm};
use super::{Asm, gpr, op_imm, x, y, z};
use crate::emitter::{Emitter, Lanes, Mem, Ty, V};
use crate::error::Error;

impl Asm {
    pub(super) fn emit_gather(&mut self, d: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        self.writes(d);
        if dtype.bytes() == 4 {
            return if self.zmm { self.gather_512(d, at, stride, lanes) } else { self.gather_256(d, at, stride, lanes) };
        }
        let n = match lanes {
            Lanes::All => self.lanes(),
            Lanes::First(n) => n,
            Lanes::Tail => return Err(Error::Internal(format!("no strided tail masks for {dtype}"))),
        };
        let (low, high) = (self.alloc(Ty::I32)?, self.alloc(Ty::I32)?);
        for half in [low, high] {
            if self.zmm {
                self.a.vpxord(z(half), z(half), z(half))?;
            } else {
                self.a.vpxor(y(half), y(half), y(half))?;
            }
        }
        for i in 0..n {
            let from = self.at(Mem { disp: at.disp + i64::from(i) * stride, ..at })?;
            match dtype.bytes() {
                1 => self.a.vpinsrb(any_xmm(low), any_xmm(low), byte_ptr(from), i as i32)?,
                _ => {
                    let half = if i < 8 { low } else { high };
                    self.a.vpinsrw(any_xmm(half), any_xmm(half), word_ptr(from), i as i32 % 8)?;
                }
            }
        }
        self.widen(d, dtype, low, high)?;
        self.free(low);
        self.free(high);
        self.byte_to_mask(d, dtype)
    }

    /// Packed bytes in `low`, or words in `low` and `high`, to 32-bit lanes.
    fn widen(&mut self, d: V, dtype: DType, low: V, high: V) -> Result<(), Error> {
        if dtype.bytes() == 2 && self.zmm {
            let words = any_ymm(low);
            self.a.vinserti32x4(words, words, any_xmm(high), 1)?;
            match dtype {
                DType::U16 => self.a.vpmovzxwd(z(d), words)?,
                _ => self.a.vpmovsxwd(z(d), words)?,
            }
            return Ok(());
        }
        match (dtype, self.zmm) {
            (DType::U8 | DType::Bool, true) => self.a.vpmovzxbd(z(d), any_xmm(low))?,
            (DType::U8 | DType::Bool, false) => self.a.vpmovzxbd(y(d), x(low))?,
            (DType::I8, true) => self.a.vpmovsxbd(z(d), any_xmm(low))?,
            (DType::I8, false) => self.a.vpmovsxbd(y(d), x(low))?,
            (DType::U16, _) => self.a.vpmovzxwd(y(d), x(low))?,
            (DType::I16, _) => self.a.vpmovsxwd(y(d), x(low))?,
            _ => return Err(Error::Unsupported(format!("strided vectors of {dtype}"))),
        }
        Ok(())
    }

    /// Byte offsets of the lanes, in a new register.
    fn offsets(&mut self, stride: i64) -> Result<V, Error> {
        let lanes = i64::from(self.lanes());
        let offset = |i: i64| i32::try_from(i * stride).map_err(|_| Error::Unsupported("lanes 2 GiB apart".to_string()));
        let mut bytes = Vec::new();
        for i in 0..lanes {
            bytes.extend(offset(i)?.to_le_bytes());
        }
        let label = self.data(bytes);
        let v = self.alloc(Ty::I32)?;
        if self.zmm {
            self.a.vmovups(z(v), zmmword_ptr(label))?
        } else {
            self.a.vmovups(y(v), ymmword_ptr(label))?
        }
        Ok(v)
    }

    fn gather_512(&mut self, d: V, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        let index = self.offsets(stride)?;
        self.gather_mask(lanes)?;
        let disp = self.disp(at)?;
        self.a.vpxord(z(d), z(d), z(d))?;
        self.a.vgatherdps(z(d).k1(), dword_ptr(gpr(at.base) + z(index) * 1 + disp))?;
        self.free(index);
        Ok(())
    }

    /// The mask of lanes in `k1`, which a gather or scatter clears.
    fn gather_mask(&mut self, lanes: Lanes) -> Result<(), Error> {
        self.k1_holds = None;
        if lanes == Lanes::All {
            return Ok(self.a.kxnorw(k1, k1, k1)?);
        }
        let mask = self.lane_mask(lanes)?;
        Ok(self.a.kmovw(k1, mask)?)
    }

    fn gather_256(&mut self, d: V, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        let index = self.offsets(stride)?;
        let mask = self.alloc(Ty::Mask)?;
        if lanes == Lanes::All {
            self.a.vpcmpeqd(y(mask), y(mask), y(mask))?;
        } else {
            let (lanes, temp) = self.lane_mask_avx2(lanes)?;
            self.a.vmovaps(y(mask), y(lanes))?;
            temp.into_iter().for_each(|t| self.free(t));
        }
        let disp = self.disp(at)?;
        self.a.vxorps(y(d), y(d), y(d))?;
        self.a.vgatherdps_3(y(d), dword_ptr(gpr(at.base) + y(index) * 1 + disp), y(mask))?;
        self.free(mask);
        self.free(index);
        Ok(())
    }

    pub(super) fn emit_interleave(&mut self, d: V, a: V, b: V, unit: u32, high: bool) -> Result<(), Error> {
        self.writes(d);
        match (self.zmm, unit, high) {
            (true, 1, false) => self.a.vunpcklps(z(d), z(a), z(b))?,
            (true, 1, true) => self.a.vunpckhps(z(d), z(a), z(b))?,
            (true, 2, false) => self.a.vunpcklpd(z(d), z(a), z(b))?,
            (true, 2, true) => self.a.vunpckhpd(z(d), z(a), z(b))?,
            (true, ..) => self.a.vshuff32x4(z(d), z(a), z(b), if high { 0xDD } else { 0x88 })?,
            (false, 1, false) => self.a.vunpcklps(y(d), y(a), y(b))?,
            (false, 1, true) => self.a.vunpckhps(y(d), y(a), y(b))?,
            (false, 2, false) => self.a.vunpcklpd(y(d), y(a), y(b))?,
            (false, 2, true) => self.a.vunpckhpd(y(d), y(a), y(b))?,
            (false, ..) => self.a.vperm2f128(y(d), y(a), y(b), if high { 0x31 } else { 0x20 })?,
        }
        Ok(())
    }

    fn disp(&self, at: Mem) -> Result<i32, Error> {
        i32::try_from(at.disp).map_err(|_| Error::Unsupported("a distance of 2 GiB inside a tile".to_string()))
    }

    pub(super) fn emit_scatter(&mut self, v: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        if dtype == DType::Bool {
            let t = self.alloc(Ty::I32)?;
            op_imm!(self, vpsrld, t, v, 31);
            self.emit_scatter(t, DType::U8, at, stride, lanes)?;
            self.free(t);
            return Ok(());
        }
        let n = match lanes {
            Lanes::All => self.lanes(),
            Lanes::First(n) => n,
            Lanes::Tail if self.zmm && dtype.bytes() == 4 => {
                let index = self.offsets(stride)?;
                self.gather_mask(lanes)?;
                let disp = self.disp(at)?;
                self.a.vscatterdps(dword_ptr(gpr(at.base) + z(index) * 1 + disp).k1(), z(v))?;
                self.free(index);
                return Ok(());
            }
            Lanes::Tail => return Err(Error::Internal(format!("no strided tail masks for {dtype}"))),
        };
        // Elements leave from 128 bits at a time.
        let t = self.alloc(Ty::I32)?;
        for i in 0..n {
            if i % 4 == 0 {
                match (self.zmm, i / 4) {
                    (true, q) => self.a.vextractf32x4(any_xmm(t), z(v), q as i32)?,
                    (false, q) => self.a.vextractf128(x(t), y(v), q as i32)?,
                }
            }
            let to = self.at(Mem { disp: at.disp + i64::from(i) * stride, ..at })?;
            let lane = i as i32 % 4;
            match dtype.bytes() {
                4 => self.a.vextractps(dword_ptr(to), any_xmm(t), lane)?,
                2 => self.a.vpextrw(word_ptr(to), any_xmm(t), 2 * lane)?,
                _ => self.a.vpextrb(byte_ptr(to), any_xmm(t), 4 * lane)?,
            }
        }
        self.free(t);
        Ok(())
    }
}
