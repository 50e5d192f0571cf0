//! Arithmetic of the emitter that makes Cranelift IR, where it is more than one instruction.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{ConstantData, InstBuilder, Value, types};
use onnxc_ir::DType;
use target_lexicon::Architecture;

use super::{Clif, flags_le};
use crate::emitter::{Dot, Emitter, Mem, Ty, V, VUn};
use crate::error::Error;

impl Clif<'_> {
    /// The nearest integer, ties to even, of magnitudes below 2^22: adding 1.5 * 2^23 leaves it in the low bits. NaN gives 0, unless it `is_number`.
    pub(super) fn nearest_int_of(&mut self, x: Value, is_number: bool) -> Value {
        if self.vector && matches!(self.isa.triple().architecture, Architecture::Aarch64(_)) {
            // Two instructions, without constants.
            let rounded = self.b.ins().nearest(x);
            return self.b.ins().fcvt_to_sint_sat(types::I32X4, rounded);
        }
        const BIG: u32 = 12_582_912f32.to_bits();
        let big = self.constant(Ty::F32, BIG);
        let moved = self.b.ins().fadd(x, big);
        let bits = self.cast(moved, Ty::F32, Ty::I32);
        let bias = self.constant(Ty::I32, BIG);
        let whole = self.b.ins().isub(bits, bias);
        if is_number {
            return whole;
        }
        let number = self.fcmp(FloatCC::Ordered, x, x);
        let zero = self.constant(Ty::I32, 0);
        self.choose(Ty::I32, number, whole, zero)
    }

    /// Rounding without SSE4.1: values of 2^23 and above are integers already; below, adding and subtracting 2^23 rounds to nearest even.
    pub(super) fn round_by_hand(&mut self, op: VUn, x: Value) -> Value {
        let sign_bit = self.constant(Ty::I32, 0x8000_0000);
        let xi = self.cast(x, Ty::F32, Ty::I32);
        let sign = self.b.ins().band(xi, sign_bit);
        let magnitude = self.b.ins().bxor(xi, sign);
        let m = self.cast(magnitude, Ty::I32, Ty::F32);
        let big = self.constant(Ty::F32, 8_388_608f32.to_bits());
        let up = self.b.ins().fadd(m, big);
        let r = self.b.ins().fsub(up, big);
        let one = self.constant(Ty::F32, 1f32.to_bits());
        let r = if op == VUn::Trunc {
            let over = self.fcmp(FloatCC::GreaterThan, r, m);
            let less = self.b.ins().fsub(r, one);
            self.choose(Ty::F32, over, less, r)
        } else {
            r
        };
        let ri = self.cast(r, Ty::F32, Ty::I32);
        let ri = self.b.ins().bor(ri, sign);
        let mut r = self.cast(ri, Ty::I32, Ty::F32);
        if op == VUn::Floor || op == VUn::Ceil {
            let (cc, step) = if op == VUn::Floor { (FloatCC::GreaterThan, -1f32) } else { (FloatCC::LessThan, 1f32) };
            let over = self.fcmp(cc, r, x);
            let step = self.constant(Ty::F32, step.to_bits());
            let moved = self.b.ins().fadd(r, step);
            r = self.choose(Ty::F32, over, moved, r);
            // -0.3 has ceiling -0.0.
            let ri = self.cast(r, Ty::F32, Ty::I32);
            let ri = self.b.ins().bor(ri, sign);
            let signed = self.cast(ri, Ty::I32, Ty::F32);
            if op == VUn::Ceil {
                r = signed;
            }
        }
        let small = self.fcmp(FloatCC::LessThan, m, big);
        self.choose(Ty::F32, small, r, x)
    }

    pub(super) fn mul_add(&mut self, a: Value, b: Value, c: Value) -> Value {
        if self.has_fma {
            return self.b.ins().fma(a, b, c);
        }
        let product = self.b.ins().fmul(a, b);
        self.b.ins().fadd(product, c)
    }

    /// Units of 1 or 2 lanes of two registers in turn.
    pub(super) fn interleaved(&mut self, ty: Ty, a: V, b: V, unit: usize, high: bool) -> Value {
        let (x, y) = (self.get(a, ty), self.get(b, ty));
        let (x, y) = (self.b.ins().bitcast(types::I8X16, flags_le(), x), self.b.ins().bitcast(types::I8X16, flags_le(), y));
        let bytes: [u8; 16] = std::array::from_fn(|i| {
            let (u, inside) = (i / (4 * unit), i % (4 * unit));
            let start = if high { 8 } else { 0 } + u / 2 * 4 * unit;
            (16 * (u % 2) + start + inside) as u8
        });
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(&bytes[..]));
        let value = self.b.ins().shuffle(x, y, mask);
        let ty = self.ty(ty);
        self.b.ins().bitcast(ty, flags_le(), value)
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
    pub(super) fn take_apart(&mut self, d: &[V]) {
        let all = self.get(d[0], Ty::I32);
        let bits = 32 / d.len() as i64;
        for (v, n) in d.iter().zip(1i64..) {
            let up = if n == d.len() as i64 { all } else { self.b.ins().ishl_imm_s(all, 32 - bits * n) };
            let one = self.b.ins().sshr_imm_s(up, 32 - bits);
            self.set(*v, one, Ty::I32);
        }
    }

    /// Neighbouring bytes or words, each in all lanes of a register of its own.
    pub(super) fn splat_each(&mut self, d: &[V], dtype: DType, at: Mem) -> Result<(), Error> {
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
