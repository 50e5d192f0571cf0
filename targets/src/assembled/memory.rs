//! Loads and stores of the assembled emitter.

use iced_x86::code_asm::*;
use onnxc_ir::DType;
use onnxc_ir::scalar::BinOp;

use super::{Asm, gpr, gpr32, op_imm, x, y, z};
use crate::emitter::{Emitter, Lanes, Mem, Opd, P, Ty, V};
use crate::error::Error;

impl Asm {
    /// The mask register of these lanes (not for `All`).
    pub(super) fn lane_mask(&mut self, lanes: Lanes) -> Result<AsmRegisterK, Error> {
        let Lanes::First(n) = lanes else { return Ok(k2) };
        if self.k3_holds != Some(n) {
            self.a.mov(r11d, (1u32 << n) - 1)?;
            self.a.kmovw(k3, r11d)?;
            self.k3_holds = Some(n);
        }
        Ok(k3)
    }

    pub(super) fn emit_set_tail(&mut self, count: P) -> Result<(), Error> {
        if self.zmm {
            self.a.mov(r11d, -1)?;
            self.a.bzhi(r11d, r11d, gpr32(count))?;
            self.a.kmovw(k2, r11d)?;
            return Ok(());
        }
        let mut table = vec![0xFF; 32];
        table.resize(64, 0);
        let table = self.data(table);
        let mask = match self.tail {
            Some(v) => v,
            None => self.alloc(Ty::Mask)?,
        };
        self.tail = Some(mask);
        // Loads from 8 - count elements after the start.
        self.a.lea(r11, table)?;
        self.a.neg(gpr(count))?;
        self.a.vmovups(y(mask), ymmword_ptr(r11 + gpr(count) * 4 + 32))?;
        self.a.neg(gpr(count))?;
        Ok(())
    }

    /// A vector of ones in these lanes, and the register to free if it is a new one.
    pub(super) fn lane_mask_avx2(&mut self, lanes: Lanes) -> Result<(V, Option<V>), Error> {
        let Lanes::First(n) = lanes else {
            return Ok((self.tail.ok_or(Error::Internal("no tail is set".to_string()))?, None));
        };
        let label = self.data((0..8u32).flat_map(|i| if i < n { u32::MAX } else { 0 }.to_le_bytes()).collect());
        let t = self.alloc(Ty::Mask)?;
        self.a.vmovups(y(t), ymmword_ptr(label))?;
        Ok((t, Some(t)))
    }

    pub(super) fn emit_load(&mut self, d: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        self.writes(d);
        if self.zmm {
            self.load_512(d, dtype, at, lanes)?
        } else {
            self.load_256(d, dtype, at, lanes)?
        }
        self.byte_to_mask(d, dtype)
    }

    /// Bool bytes become masks: 0 - x.
    pub(super) fn byte_to_mask(&mut self, d: V, dtype: DType) -> Result<(), Error> {
        if dtype == DType::Bool {
            self.cmp(BinOp::Ne, Ty::I32, d, Opd::Reg(d), Opd::Const(0))?;
        }
        Ok(())
    }

    fn load_512(&mut self, d: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        let from = self.at(at)?;
        match lanes {
            // The other lanes become zero without a mask.
            Lanes::First(1) if dtype.bytes() == 4 => return Ok(self.a.vmovss(any_xmm(d), dword_ptr(from))?),
            Lanes::First(2) if dtype.bytes() == 4 => return Ok(self.a.vmovq(any_xmm(d), qword_ptr(from))?),
            Lanes::First(4) if dtype.bytes() == 4 => return Ok(self.a.vmovups(any_xmm(d), xmmword_ptr(from))?),
            Lanes::First(8) if dtype.bytes() == 4 => return Ok(self.a.vmovups(any_ymm(d), ymmword_ptr(from))?),
            _ => {}
        }
        let register = match (lanes, self.k3_holds) {
            (Lanes::All, _) => z(d),
            _ => match self.lane_mask(lanes)? {
                k if k == k2 => z(d).k2().z(),
                _ => z(d).k3().z(),
            },
        };
        match dtype {
            DType::F32 | DType::I32 | DType::U32 => self.a.vmovups(register, zmmword_ptr(from))?,
            DType::U8 | DType::Bool => self.a.vpmovzxbd(register, xmmword_ptr(from))?,
            DType::I8 => self.a.vpmovsxbd(register, xmmword_ptr(from))?,
            DType::U16 => self.a.vpmovzxwd(register, ymmword_ptr(from))?,
            DType::I16 => self.a.vpmovsxwd(register, ymmword_ptr(from))?,
            DType::F16 => self.a.vcvtph2ps(register, ymmword_ptr(from))?,
            _ => return Err(Error::Unsupported(format!("vectors of {dtype}"))),
        }
        Ok(())
    }

    fn load_256(&mut self, d: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        let from = self.at(at)?;
        if dtype.bytes() == 4 {
            match lanes {
                Lanes::All => self.a.vmovups(y(d), ymmword_ptr(from))?,
                Lanes::First(1) => self.a.vmovss(x(d), dword_ptr(from))?,
                Lanes::First(2) => self.a.vmovq(x(d), qword_ptr(from))?,
                Lanes::First(4) => self.a.vmovups(x(d), xmmword_ptr(from))?,
                _ => {
                    let (mask, temp) = self.lane_mask_avx2(lanes)?;
                    self.a.vmaskmovps(y(d), y(mask), ymmword_ptr(from))?;
                    temp.into_iter().for_each(|t| self.free(t));
                }
            }
            return Ok(());
        }
        if lanes == Lanes::All {
            match dtype {
                DType::U8 | DType::Bool => self.a.vpmovzxbd(y(d), qword_ptr(from))?,
                DType::I8 => self.a.vpmovsxbd(y(d), qword_ptr(from))?,
                DType::U16 => self.a.vpmovzxwd(y(d), xmmword_ptr(from))?,
                DType::I16 => self.a.vpmovsxwd(y(d), xmmword_ptr(from))?,
                DType::F16 => self.a.vcvtph2ps(y(d), xmmword_ptr(from))?,
                _ => return Err(Error::Unsupported(format!("vectors of {dtype}"))),
            }
            return Ok(());
        }
        let Lanes::First(n) = lanes else { return Err(Error::Internal(format!("no tail masks for {dtype}"))) };
        self.a.vpxor(x(d), x(d), x(d))?;
        for i in 0..n as i32 {
            if dtype.bytes() == 1 {
                self.a.vpinsrb(x(d), x(d), byte_ptr(from + i), i)?;
            } else {
                self.a.vpinsrw(x(d), x(d), word_ptr(from + 2 * i), i)?;
            }
        }
        match dtype {
            DType::U8 | DType::Bool => self.a.vpmovzxbd(y(d), x(d))?,
            DType::I8 => self.a.vpmovsxbd(y(d), x(d))?,
            DType::U16 => self.a.vpmovzxwd(y(d), x(d))?,
            DType::I16 => self.a.vpmovsxwd(y(d), x(d))?,
            DType::F16 => self.a.vcvtph2ps(y(d), x(d))?,
            _ => return Err(Error::Unsupported(format!("vectors of {dtype}"))),
        }
        Ok(())
    }

    pub(super) fn emit_splat(&mut self, d: V, dtype: DType, at: Mem) -> Result<(), Error> {
        self.writes(d);
        let from = self.at(at)?;
        match dtype {
            DType::F32 => {
                if self.zmm {
                    self.a.vbroadcastss(z(d), dword_ptr(from))?;
                } else {
                    self.a.vbroadcastss(y(d), dword_ptr(from))?;
                }
                return Ok(());
            }
            DType::I32 | DType::U32 => {
                if self.zmm {
                    self.a.vpbroadcastd(z(d), dword_ptr(from))?;
                } else {
                    self.a.vpbroadcastd(y(d), dword_ptr(from))?;
                }
                return Ok(());
            }
            DType::U8 | DType::Bool => self.a.movzx(r11d, byte_ptr(from))?,
            DType::I8 => self.a.movsx(r11d, byte_ptr(from))?,
            DType::U16 | DType::F16 => self.a.movzx(r11d, word_ptr(from))?,
            DType::I16 => self.a.movsx(r11d, word_ptr(from))?,
            _ => return Err(Error::Unsupported(format!("vectors of {dtype}"))),
        }
        if self.zmm {
            self.a.vpbroadcastd(z(d), r11d)?;
            if dtype == DType::F16 {
                // All words hold the f16 in their low half; the low 256 bits as words alternate with zeros, so convert from the packed form.
                let t = self.alloc(Ty::I32)?;
                self.a.vpmovdw(any_ymm(t), z(d))?;
                self.a.vcvtph2ps(z(d), any_ymm(t))?;
                self.free(t);
            }
        } else {
            self.a.vmovd(x(d), r11d)?;
            if dtype == DType::F16 {
                self.a.vcvtph2ps(x(d), x(d))?;
            }
            self.a.vpbroadcastd(y(d), x(d))?;
        }
        self.byte_to_mask(d, dtype)
    }

    pub(super) fn emit_store(&mut self, v: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        if dtype == DType::Bool {
            let t = self.alloc(Ty::I32)?;
            op_imm!(self, vpsrld, t, v, 31);
            self.emit_store(t, DType::U8, at, lanes)?;
            self.free(t);
            return Ok(());
        }
        if self.zmm { self.store_512(v, dtype, at, lanes) } else { self.store_256(v, dtype, at, lanes) }
    }

    fn store_512(&mut self, v: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        let mut to = self.at(at)?;
        match lanes {
            // Cheaper than a mask, which costs several cycles on some machines.
            Lanes::First(n @ (1..=4 | 8)) if dtype.bytes() == 4 => return self.store_first(v, to, n),
            Lanes::All => {}
            Lanes::First(_) => {
                self.lane_mask(lanes)?;
                to = to.k3();
            }
            Lanes::Tail => to = to.k2(),
        }
        match dtype.bytes() {
            4 => self.a.vmovups(zmmword_ptr(to), z(v))?,
            1 => self.a.vpmovdb(xmmword_ptr(to), z(v))?,
            _ if dtype == DType::F16 => self.a.vcvtps2ph(ymmword_ptr(to), z(v), 0)?,
            _ => self.a.vpmovdw(ymmword_ptr(to), z(v))?,
        }
        Ok(())
    }

    /// One to four lanes of 32 bits, or eight.
    fn store_first(&mut self, v: V, to: AsmMemoryOperand, n: u32) -> Result<(), Error> {
        match n {
            1 => self.a.vmovss(dword_ptr(to), any_xmm(v))?,
            2 | 3 => self.a.vmovq(qword_ptr(to), any_xmm(v))?,
            4 => self.a.vmovups(xmmword_ptr(to), any_xmm(v))?,
            _ => self.a.vmovups(ymmword_ptr(to), any_ymm(v))?,
        }
        if n == 3 {
            self.a.vextractps(dword_ptr(to + 8), any_xmm(v), 2)?;
        }
        Ok(())
    }

    fn store_256(&mut self, v: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        let to = self.at(at)?;
        if dtype.bytes() == 4 {
            match lanes {
                Lanes::All => self.a.vmovups(ymmword_ptr(to), y(v))?,
                // Masked stores take tens of cycles on some machines.
                Lanes::First(n @ 1..=4) => self.store_first(v, to, n)?,
                Lanes::First(n) => {
                    self.a.vmovups(xmmword_ptr(to), x(v))?;
                    let t = self.alloc(Ty::I32)?;
                    self.a.vextractf128(x(t), y(v), 1)?;
                    self.store_first(t, to + 16, n - 4)?;
                    self.free(t);
                }
                Lanes::Tail => {
                    let (mask, _) = self.lane_mask_avx2(lanes)?;
                    self.a.vmaskmovps(ymmword_ptr(to), y(mask), y(v))?;
                }
            }
            return Ok(());
        }
        let t = self.alloc(Ty::I32)?;
        if dtype == DType::F16 {
            self.a.vcvtps2ph(x(t), y(v), 0)?;
        } else {
            self.narrow_avx2(t, v, dtype.bytes(), matches!(dtype, DType::I8 | DType::I16))?;
        }
        match (lanes, dtype.bytes()) {
            (Lanes::All, 1) => self.a.vmovq(qword_ptr(to), x(t))?,
            (Lanes::All, _) => self.a.vmovups(xmmword_ptr(to), x(t))?,
            (Lanes::First(n), 1) => {
                for i in 0..n as i32 {
                    self.a.vpextrb(byte_ptr(to + i), x(t), i)?;
                }
            }
            (Lanes::First(n), _) => {
                for i in 0..n as i32 {
                    self.a.vpextrw(word_ptr(to + 2 * i), x(t), i)?;
                }
            }
            (Lanes::Tail, _) => return Err(Error::Internal(format!("no tail masks for {dtype}"))),
        }
        self.free(t);
        Ok(())
    }
}

/// Any xmm register; `x` names the first 16.
pub(super) fn any_xmm(v: V) -> AsmRegisterXmm {
    get_xmm(iced_x86::Register::XMM0 + u32::from(v.0)).expect("internal: targets: there are 32 vector registers")
}

/// The low half of any zmm register.
pub(super) fn any_ymm(v: V) -> AsmRegisterYmm {
    get_ymm(iced_x86::Register::YMM0 + u32::from(v.0)).expect("internal: targets: there are 32 vector registers")
}
