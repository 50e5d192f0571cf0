//! The logistic function.

use std::f64::consts::LOG2_E;

use super::{Builder, ln2_parts, tables};
use crate::scalar::{BinOp, NodeIx, UnOp};

impl Builder<'_> {
    /// 1 / (1 + exp(-x)), of f32 without the cases that exp has: x is limited to where exp(-x) is no subnormal number and the sum has a reciprocal that is
    /// none, beyond which the result is 0, or nearly so, and 1.
    pub(super) fn sigmoid(&mut self, x: NodeIx) -> NodeIx {
        let one = self.c(1.0);
        if self.double() {
            let minus = self.un(UnOp::Neg, x);
            let e = self.exp(minus);
            let divisor = self.add(e, one);
            return self.div(one, divisor);
        }
        let e = self.exp_of_minus(x);
        let divisor = self.add(e, one);
        self.un(UnOp::RecipNear, divisor)
    }

    /// exp(-x) = 2^n * exp(-r), n = round(-x / ln 2), r = x + n * ln 2, for x between -87 and 87.
    fn exp_of_minus(&mut self, x: NodeIx) -> NodeIx {
        let (lo, hi) = (self.c(-87.33), self.c(87.336));
        let x = self.bin(BinOp::Max, x, lo);
        let x = self.bin(BinOp::Min, x, hi);
        let (magic, minus_log2e) = (self.c(1.5 * (1u64 << self.fraction) as f64), self.c(-LOG2_E));
        let shifted = self.fma(x, minus_log2e, magic);
        let n = self.sub(shifted, magic);
        let parts: Vec<f64> = ln2_parts(self.double()).iter().map(|part| -part).collect();
        let r = self.minus_multiple(x, n, &parts);
        let signs = [-1.0, 1.0].into_iter().cycle();
        let coefficients: Vec<f64> = tables::EXP_TERM.iter().zip(signs).map(|(c, sign)| sign * c).collect();
        let p = self.poly(r, &coefficients);
        let (r2, one) = (self.mul(r, r), self.c(1.0));
        let less = self.fma(p, r2, r);
        let e = self.sub(one, less);
        self.times_power(e, shifted)
    }
}
