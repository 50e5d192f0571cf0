//! Trigonometric functions and their inverses.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

use super::Builder;
use crate::scalar::{BinOp, NodeIx, UnOp};

impl Builder<'_> {
    /// r = x - n*pi/2 with |r| <= pi/4, and n as an integer.
    fn quarter_turns(&mut self, x: NodeIx) -> (NodeIx, NodeIx) {
        let scale = self.c(1.0 / FRAC_PI_2);
        let n = self.mul(x, scale);
        let n = self.un(UnOp::Round, n);
        // pi/2 in pieces whose products with n are exact for |n| < 2^15 (f32) and 2^26 (f64).
        let parts: &[f64] = if self.double() {
            &[1.570_796_310_901_641_8, 1.589_325_471_229_585_6e-8, 6.123_233_932_053_594e-17, 6.368_317_163_510_95e-25]
        } else {
            &[1.570_312_5, 4.837_512_969_970_703e-4, 7.549_533_220_713_59e-8, 5.570_655_6e-15]
        };
        let r = self.minus_multiple(x, n, parts);
        (r, self.p.cast(n, self.int))
    }

    /// sin (phase 0) or cos (phase 1).
    pub(super) fn sin_cos(&mut self, x: NodeIx, phase: i64) -> NodeIx {
        let (r, n) = self.quarter_turns(x);
        let phase = self.i(phase);
        let n = self.bin(BinOp::Add, n, phase);
        let s = self.odd(r, self.tables.sin);
        let r2 = self.mul(r, r);
        let p = self.poly(r2, self.tables.cos);
        let r4 = self.mul(r2, r2);
        let (minus_half, one) = (self.c(-0.5), self.c(1.0));
        let c = self.fma(r2, minus_half, one);
        let c = self.fma(p, r4, c);
        let y = self.pick_odd(n, c, s);
        // Bit 1 of n is the sign.
        let two = self.i(2);
        let second = self.bin(BinOp::And, n, two);
        let up = self.i(self.p_bits() - 2);
        let sign = self.bin(BinOp::Shl, second, up);
        let y = self.flip_sign(y, sign);
        // Infinity has no sine; its reduction is NaN on most paths, made certain here.
        let zero = self.c(0.0);
        let nan_or_zero = self.mul(x, zero);
        self.add(y, nan_or_zero)
    }

    fn p_bits(&self) -> i64 {
        if self.double() { 64 } else { 32 }
    }

    /// `if n is odd { a } else { b }`.
    fn pick_odd(&mut self, n: NodeIx, a: NodeIx, b: NodeIx) -> NodeIx {
        let (one, zero) = (self.i(1), self.i(0));
        let low = self.bin(BinOp::And, n, one);
        let odd = self.bin(BinOp::Ne, low, zero);
        self.select(odd, a, b)
    }

    pub(super) fn tan(&mut self, x: NodeIx) -> NodeIx {
        let (r, n) = self.quarter_turns(x);
        let t = self.odd(r, self.tables.tan);
        let minus_one = self.c(-1.0);
        let cot = self.div(minus_one, t);
        let y = self.pick_odd(n, cot, t);
        let zero = self.c(0.0);
        let nan_or_zero = self.mul(x, zero);
        self.add(y, nan_or_zero)
    }

    /// Reduced to |z| <= tan(pi/8) by atan(x) = pi/2 + atan(-1/x) and pi/4 + atan((x-1)/(x+1)).
    pub(super) fn atan(&mut self, x: NodeIx) -> NodeIx {
        let (m, sign) = self.split_sign(x);
        let one = self.c(1.0);
        let minus_one = self.c(-1.0);
        let inverse = self.div(minus_one, m);
        let (less, more) = (self.sub(m, one), self.add(m, one));
        let middle = self.div(less, more);
        let is_big = self.cmp(BinOp::Gt, m, 2.414_213_562_373_095);
        let is_middle = self.cmp(BinOp::Gt, m, 0.414_213_562_373_095_03);
        let z = self.select(is_middle, middle, m);
        let z = self.select(is_big, inverse, z);
        let zero = self.c(0.0);
        let mut base = zero;
        let mut low = zero;
        for (when, angle) in [(is_middle, FRAC_PI_4), (is_big, FRAC_PI_2)] {
            let high = self.c(angle);
            base = self.select(when, high, base);
            // What the constant loses in this type.
            let lost = if self.double() {
                if angle == FRAC_PI_2 { 6.123_233_995_736_766e-17 } else { 3.061_616_997_868_383e-17 }
            } else {
                angle - f64::from(angle as f32)
            };
            let lost = self.c(lost);
            low = self.select(when, lost, low);
        }
        let y = self.odd(z, self.tables.atan);
        let y = self.add(y, low);
        let y = self.add(base, y);
        self.flip_sign(y, sign)
    }

    /// For |x| > 1/2: z = sqrt((1-|x|)/2) and asin(z); otherwise z = x.
    fn asin_core(&mut self, m: NodeIx) -> (NodeIx, NodeIx) {
        let (one, half) = (self.c(1.0), self.c(0.5));
        let rest = self.sub(one, m);
        let rest = self.mul(rest, half);
        let root = self.un(UnOp::Sqrt, rest);
        let far = self.bin(BinOp::Gt, m, half);
        let z = self.select(far, root, m);
        (self.odd(z, self.tables.asin), far)
    }

    pub(super) fn asin(&mut self, x: NodeIx) -> NodeIx {
        let (m, sign) = self.split_sign(x);
        let (a, far) = self.asin_core(m);
        let (minus_two, quarter) = (self.c(-2.0), self.c(FRAC_PI_2));
        let y = self.fma(a, minus_two, quarter);
        let y = self.select(far, y, a);
        self.flip_sign(y, sign)
    }

    pub(super) fn acos(&mut self, x: NodeIx) -> NodeIx {
        let (m, sign) = self.split_sign(x);
        let (a, far) = self.asin_core(m);
        let two = self.c(2.0);
        let twice = self.mul(a, two);
        let half_turn = self.c(PI);
        let other = self.sub(half_turn, twice);
        let negative = self.cmp(BinOp::Lt, x, 0.0);
        let outside = self.select(negative, other, twice);
        let signed = self.flip_sign(a, sign);
        let lost = if self.double() { 6.123_233_995_736_766e-17 } else { FRAC_PI_2 - f64::from(FRAC_PI_2 as f32) };
        let (quarter, lost) = (self.c(FRAC_PI_2), self.c(lost));
        let inner = self.sub(signed, lost);
        let inside = self.sub(quarter, inner);
        self.select(far, outside, inside)
    }
}
