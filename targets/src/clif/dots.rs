//! Dot products of the emitter that makes Cranelift IR.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use onnxc_ir::DType;

use super::{Clif, flags_le};
use crate::emitter::{Dot, Emitter, Lanes, Mem, Ty, V};
use crate::error::Error;

impl Clif<'_> {
    pub(super) fn emit_dot_load_b(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        if of == Dot::Widened {
            return Err(Error::Unsupported("words by bytes".to_string()));
        }
        self.load(d[0], DType::I32, at, Lanes::All)?;
        if self.dots_by_bytes {
            self.take_apart(d);
        }
        Ok(())
    }

    pub(super) fn emit_dot_splat_a(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        match (self.dots_by_bytes, of) {
            (true, Dot::Signed) => self.splat_each(d, DType::I8, at),
            (true, Dot::Words) => self.splat_each(d, DType::I16, at),
            (true, _) => self.splat_each(d, DType::U8, at),
            (false, _) => self.splat(d[0], DType::I32, at),
        }
    }

    /// The sum of the products of a group, with one lane.
    fn dot_scalar(&mut self, acc: Value, a: Value, b: Value, of: Dot) -> Value {
        let (mut sum, bits) = (acc, if of == Dot::Words { 16 } else { 8 });
        let down = 32 - bits;
        for i in 0..32 / bits {
            let up = down - bits * i;
            let left = |s: &mut Self, x: Value| if up == 0 { x } else { s.b.ins().ishl_imm_s(x, up) };
            let (x, y) = (left(self, a), left(self, b));
            let signed = matches!(of, Dot::Signed | Dot::Words);
            let x = if signed { self.b.ins().sshr_imm_s(x, down) } else { self.b.ins().ushr_imm_s(x, down) };
            let y = self.b.ins().sshr_imm_s(y, down);
            let p = self.b.ins().imul(x, y);
            sum = self.b.ins().iadd(sum, p);
        }
        sum
    }

    /// The signed bytes or words of each lane of the first register, each in a register of its own.
    fn take_apart(&mut self, d: &[V]) {
        let all = self.get(d[0], Ty::I32);
        let bits = 32 / d.len() as i64;
        for (v, n) in d.iter().zip(1i64..) {
            let up = if n == d.len() as i64 { all } else { self.b.ins().ishl_imm_s(all, 32 - bits * n) };
            let one = self.b.ins().sshr_imm_s(up, 32 - bits);
            self.set(*v, one, Ty::I32);
        }
    }

    /// Neighbouring bytes or words, each in all lanes of a register of its own.
    fn splat_each(&mut self, d: &[V], dtype: DType, at: Mem) -> Result<(), Error> {
        let bytes = dtype.bytes() as i64;
        d.iter().zip(0i64..).try_for_each(|(v, n)| self.splat(*v, dtype, Mem { disp: at.disp + n * bytes, ..at }))
    }

    /// `acc += sum of the products` for each lane.
    pub(super) fn emit_dot(&mut self, acc: V, a: &[V], b: &[V], of: Dot) {
        let mut sum = self.get(acc, Ty::I32);
        for (x, y) in a.iter().zip(b) {
            let (x, y) = (self.get(*x, Ty::I32), self.get(*y, Ty::I32));
            sum = if self.dots_by_bytes {
                // One instruction on RISC-V, with x a number that all lanes have.
                let product = self.b.ins().imul(y, x);
                self.b.ins().iadd(sum, product)
            } else if self.vector {
                self.dot_vector(sum, x, y, of)
            } else {
                self.dot_scalar(sum, x, y, of)
            };
        }
        self.set(acc, sum, Ty::I32);
    }

    /// The tree that Cranelift fuses to `sdot`, `usdot` or `vpdpbusd` where there is one.
    fn dot_vector(&mut self, acc: Value, a: Value, b: Value, of: Dot) -> Value {
        if of == Dot::Words {
            return self.dot_of_words(acc, a, b);
        }
        let a = self.b.ins().bitcast(types::I8X16, flags_le(), a);
        let b = self.b.ins().bitcast(types::I8X16, flags_le(), b);
        if of == Dot::Short && self.x86() {
            // Two instructions: pairs add up within words, and pairs of these to double words.
            let pairs = self.b.ins().x86_pmaddubsw(b, a);
            let (low, high) = (self.b.ins().swiden_low(pairs), self.b.ins().swiden_high(pairs));
            let sums = self.b.ins().iadd_pairwise(low, high);
            return self.b.ins().iadd(sums, acc);
        }
        let (mut al, mut ah) = if of != Dot::Signed {
            (self.b.ins().uwiden_low(a), self.b.ins().uwiden_high(a))
        } else {
            (self.b.ins().swiden_low(a), self.b.ins().swiden_high(a))
        };
        let (mut bl, mut bh) = (self.b.ins().swiden_low(b), self.b.ins().swiden_high(b));
        if self.x86() {
            // vpdpbusd is matched with the signed operand first.
            std::mem::swap(&mut al, &mut bl);
            std::mem::swap(&mut ah, &mut bh);
        }
        let lo = self.b.ins().imul(al, bl);
        let hi = self.b.ins().imul(ah, bh);
        let p = |s: &mut Self, v: Value| {
            let l = s.b.ins().swiden_low(v);
            let h = s.b.ins().swiden_high(v);
            s.b.ins().iadd_pairwise(l, h)
        };
        let (pl, ph) = (p(self, lo), p(self, hi));
        let sum = self.b.ins().iadd_pairwise(pl, ph);
        self.b.ins().iadd(sum, acc)
    }

    /// One instruction and an addition on x86-64 (`pmaddwd`), widening multiplications elsewhere.
    fn dot_of_words(&mut self, acc: Value, a: Value, b: Value) -> Value {
        let [a, b] = [a, b].map(|v| self.b.ins().bitcast(types::I16X8, flags_le(), v));
        let (al, ah) = (self.b.ins().swiden_low(a), self.b.ins().swiden_high(a));
        let (bl, bh) = (self.b.ins().swiden_low(b), self.b.ins().swiden_high(b));
        let (low, high) = (self.b.ins().imul(al, bl), self.b.ins().imul(ah, bh));
        let sums = self.b.ins().iadd_pairwise(low, high);
        self.b.ins().iadd(sums, acc)
    }
}
