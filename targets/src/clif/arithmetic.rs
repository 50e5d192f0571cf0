//! Arithmetic of the emitter that makes Cranelift IR, where it is more than one instruction.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{ConstantData, InstBuilder, Value, types};
use target_lexicon::Architecture;

use super::{Clif, flags_le};
use crate::emitter::{Ty, V, VUn};

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
}
