//! Trigonometric functions and their inverses.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

use super::Builder;
use super::turns::Turns;
use crate::scalar::{BinOp, NodeIx, UnOp};

impl Builder<'_> {
    /// sin (phase 0) or cos (phase 1).
    pub(super) fn sin_cos(&mut self, x: NodeIx, phase: i64) -> NodeIx {
        self.of_turns(x, phase == 0, |b, turns| b.wave(turns, phase))
    }

    fn wave(&mut self, Turns { r, n }: Turns, phase: i64) -> NodeIx {
        let n = if phase == 0 {
            n
        } else {
            let phase = self.i(phase);
            self.bin(BinOp::Add, n, phase)
        };
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
        let up = self.i(self.width() - 2);
        let sign = self.bin(BinOp::Shl, second, up);
        self.flip_sign(y, sign)
    }

    pub(super) fn tan(&mut self, x: NodeIx) -> NodeIx {
        self.of_turns(x, true, |b, Turns { r, n }| {
            let t = b.odd(r, b.tables.tan);
            let minus_one = b.c(-1.0);
            let cot = b.div(minus_one, t);
            b.pick_odd(n, cot, t)
        })
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
