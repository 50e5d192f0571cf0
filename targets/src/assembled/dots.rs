//! Dot products of bytes and of words.

use iced_x86::code_asm::*;
use onnxc_ir::DType;

use super::{Asm, op_imm, op3, y, z};
use crate::emitter::{Dot, Emitter, Lanes, Mem, Opd, Ty, V, alloc_many};
use crate::error::Error;

impl Asm {
    /// Splits groups of four signed bytes in the last register of `d` into sign-extended even and odd bytes.
    fn split_signed(&mut self, d: &[V]) -> Result<(), Error> {
        if let [even, odd] = *d {
            op_imm!(self, vpsllw, even, odd, 8);
            op_imm!(self, vpsraw, even, even, 8);
            op_imm!(self, vpsraw, odd, odd, 8);
        }
        Ok(())
    }

    /// Are operands of such a product one register each, as they are in memory?
    pub(super) fn whole_dot(&self, of: Dot) -> bool {
        self.vnni && of != Dot::Signed || !self.zmm && of == Dot::Short || matches!(of, Dot::Words | Dot::Widened)
    }

    /// The same for unsigned bytes.
    fn split_unsigned(&mut self, d: &[V]) -> Result<(), Error> {
        if let [even, odd] = *d {
            op3!(self, vpandd / vpand, even, odd, Opd::Const(0x00FF_00FF));
            op_imm!(self, vpsrlw, odd, odd, 8);
        }
        Ok(())
    }

    pub(super) fn emit_dot_load_b(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        if of == Dot::Widened {
            let at = self.at(at)?;
            if self.zmm {
                self.a.vpmovsxbw(z(d[0]), ymmword_ptr(at))?;
            } else {
                self.a.vpmovsxbw(y(d[0]), xmmword_ptr(at))?;
            }
            return Ok(());
        }
        self.load(*d.last().expect("internal: targets: no register"), DType::I32, at, Lanes::All)?;
        self.split_signed(d)
    }

    pub(super) fn emit_dot_splat_a(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        self.splat(*d.last().expect("internal: targets: no register"), DType::I32, at)?;
        if of == Dot::Signed { self.split_signed(d) } else { self.split_unsigned(d) }
    }

    pub(super) fn emit_dot_memory(&mut self, acc: V, a: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        if self.vnni && !matches!(of, Dot::Signed | Dot::Widened) {
            let at = self.at(at)?;
            match of {
                Dot::Words => self.a.vpdpwssd(z(acc), z(a[0]), zmmword_ptr(at))?,
                _ => self.a.vpdpbusd(z(acc), z(a[0]), zmmword_ptr(at))?,
            }
            return Ok(());
        }
        if of == Dot::Words && !self.zmm {
            let (t, at) = (self.alloc(Ty::I32)?, self.at(at)?);
            self.a.vpmaddwd(y(t), y(a[0]), ymmword_ptr(at))?;
            self.a.vpaddd(y(acc), y(acc), y(t))?;
            self.free(t);
            return Ok(());
        }
        let b = alloc_many(self, Ty::I32, a.len())?;
        self.dot_load_b(&b, at, of)?;
        self.dot(acc, a, &b, of)?;
        b.into_iter().for_each(|v| self.free(v));
        Ok(())
    }

    pub(super) fn emit_dot(&mut self, acc: V, a: &[V], b: &[V], of: Dot) -> Result<(), Error> {
        if self.vnni && of != Dot::Signed {
            match of {
                Dot::Words | Dot::Widened => self.a.vpdpwssd(z(acc), z(a[0]), z(b[0]))?,
                _ => self.a.vpdpbusd(z(acc), z(a[0]), z(b[0]))?,
            }
            return Ok(());
        }
        let t = self.alloc(Ty::I32)?;
        if of == Dot::Short && self.whole_dot(of) {
            self.dot_words(t, a[0], b[0])?;
            self.add_pairs(acc, t)?;
            self.free(t);
            return Ok(());
        }
        for (p, q) in a.iter().zip(b) {
            op3!(self, vpmaddwd, t, *p, Opd::Reg(*q));
            op3!(self, vpaddd, acc, acc, Opd::Reg(t));
        }
        self.free(t);
        Ok(())
    }
}
