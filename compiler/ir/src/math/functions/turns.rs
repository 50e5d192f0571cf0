//! The distance of an argument from the nearest multiple of pi/2.
//!
//! Two ways: subtraction of the multiple in parts (Cody and Waite 1980) while the number of quarter turns is small, and the product with
//! the digits of 2/pi that matter (Payne and Hanek 1983) for all numbers from 2 on. The second is integer arithmetic in words as wide as
//! the float type, with shifts by constants only, so that vectors can do it.

use std::f64::consts::FRAC_PI_2;

use super::Builder;
use crate::math::tables::TWO_OVER_PI;
use crate::scalar::{BinOp, NodeIx, UnOp};

/// `x = n * pi/2 + r` with |r| <= pi/4; only the two lowest bits of the integer `n` are right.
#[derive(Clone, Copy)]
pub(super) struct Turns {
    pub(super) r: NodeIx,
    pub(super) n: NodeIx,
}

/// Words of the product's second factor, which leave an error of 2^-63 (f32) or 2^-126 (f64) quarter turns.
const FACTOR: usize = 3;

/// `count` binary digits of 2/pi from number `from` on. Digit 1 is worth 1/2; those before it are zeros.
fn digits(from: i64, count: i64) -> u64 {
    let digit = |i: i64| if i < 1 { 0 } else { TWO_OVER_PI[(i - 1) as usize / 64] >> (63 - (i - 1) % 64) & 1 };
    (from..from + count).fold(0, |word, i| word << 1 | digit(i))
}

impl Builder<'_> {
    /// The largest |x| for [`Self::near_turns`].
    pub(super) fn near_limit(&self) -> f64 {
        if self.double() { 67_108_864.0 } else { 32_768.0 }
    }

    /// For |x| up to [`Self::near_limit`], with or without fused multiply-add; NaN for NaN. Adding 1.5 * 2^fraction rounds and leaves n in
    /// the low bits.
    pub(super) fn near_turns(&mut self, x: NodeIx) -> Turns {
        let scale = self.c(1.0 / FRAC_PI_2);
        let magic = self.c(1.5 * (1u64 << self.fraction) as f64);
        let shifted = self.fma(x, scale, magic);
        let n = self.sub(shifted, magic);
        // pi/2 in pieces: the products of the first two with n are exact for |n| < 2^15 (f32) and 2^26 (f64), and so is what they leave of x.
        let parts: &[f64] = if self.double() {
            &[1.570_796_310_901_641_8, 1.589_325_471_229_585_6e-8, 6.123_233_932_053_594e-17, 6.368_317_163_510_95e-25]
        } else {
            &[1.570_312_5, 4.835_128_784_179_687_5e-4, 3.139_164_732_601_784_6e-7, 5.390_302_953_474_238e-15]
        };
        let r = self.minus_multiple(x, n, parts);
        Turns { r, n: self.bits(shifted) }
    }

    /// The turns of |x| for finite |x| >= 2; anything for others. The order of the nodes keeps few values alive at once.
    pub(super) fn far_turns(&mut self, x: NodeIx) -> Turns {
        let bits = self.bits(x);
        let factor = self.digits_at(bits);
        // x = m * 2^(8k - fraction + 1) with an integer m of at most 7 bits more than the fraction has.
        let (low, unit) = (self.i((8 << self.fraction) - 1), self.i((self.bias() + self.fraction) << self.fraction));
        let m = self.bin(BinOp::And, bits, low);
        let m = self.bin(BinOp::Add, m, unit);
        let m = self.float(m);
        let m = self.p.cast(m, self.int);
        let halves = self.halves(m);
        // The product modulo 4 quarter turns: the point is behind the second bit of `high`.
        let carried = self.high_product(halves, factor[2]);
        let part = self.bin(BinOp::Mul, m, factor[1]);
        let low = self.bin(BinOp::Add, part, carried);
        let carry = self.below(low, part);
        let high = self.high_product(halves, factor[1]);
        let high = self.bin(BinOp::Add, high, carry);
        let part = self.bin(BinOp::Mul, m, factor[0]);
        let high = self.bin(BinOp::Add, high, part);
        self.nearest_turn(high, low)
    }

    /// The integer nearest to a fixed-point number of two words, with two bits before the point, and what is left as an angle.
    fn nearest_turn(&mut self, high: NodeIx, low: NodeIx) -> Turns {
        let width = self.width();
        let (half, point) = (self.i(1 << (width - 3)), self.i(width - 2));
        let n = self.bin(BinOp::Add, high, half);
        let n = self.bin(BinOp::Shr, n, point);
        let whole = self.bin(BinOp::Shl, n, point);
        let rest = self.bin(BinOp::Sub, high, whole);
        // The lower word as a signed one: what it lacks then goes to the upper.
        let last = self.i(width - 1);
        let negative = self.bin(BinOp::Shr, low, last);
        let rest = self.bin(BinOp::Sub, rest, negative);
        let (rest, low) = (self.p.cast(rest, self.t), self.p.cast(low, self.t));
        // pi/2 in two parts, times the unit of each word.
        let lost = if self.double() { 6.123_233_995_736_766e-17 } else { FRAC_PI_2 - f64::from(FRAC_PI_2 as f32) };
        let unit = 0.5f64.powi(width as i32 - 2);
        let small = FRAC_PI_2 * unit * 0.5f64.powi(width as i32);
        let (main, lost, small) = (self.c(FRAC_PI_2 * unit), self.c(lost * unit), self.c(small));
        let r = self.mul(low, small);
        let r = self.fma(rest, lost, r);
        Turns { r: self.fma(rest, main, r), n }
    }

    /// The words of 2/pi, from the one worth 2 on, for the exponent in these bits of a float: 8 digits further with each 8 of the exponent.
    /// The shift by 2^i times 8 digits happens where bit i of the exponent's part is set.
    fn digits_at(&mut self, bits: NodeIx) -> [NodeIx; FACTOR] {
        let (width, places) = (self.width(), if self.double() { 7 } else { 4 });
        let word_places = if self.double() { 3 } else { 2 };
        let count = FACTOR as i64 + (1 << (places - word_places));
        let start = -self.fraction;
        let sign_extended = |w: u64| if width == 32 { i64::from(w as u32 as i32) } else { w as i64 };
        let mut words: Vec<NodeIx> = (0..count).map(|j| self.i(sign_extended(digits(start + j * width, width)))).collect();
        for place in (0..places).rev() {
            let (mask, zero) = (self.i(8 << self.fraction << place), self.i(0));
            let bit = self.bin(BinOp::And, bits, mask);
            let stay = self.bin(BinOp::Eq, bit, zero);
            let shifted: Vec<NodeIx> = if place >= word_places {
                words[1 << (place - word_places)..].to_vec()
            } else {
                (0..words.len()).map(|j| self.funnel(&words[j..], 8 << place)).collect()
            };
            words = words.iter().zip(shifted).map(|(a, b)| self.select(stay, *a, b)).collect();
        }
        [words[0], words[1], words[2]]
    }

    /// The first of `words` shifted left by `count`, filled from the second.
    fn funnel(&mut self, words: &[NodeIx], count: i64) -> NodeIx {
        let by = self.i(count);
        let left = self.bin(BinOp::Shl, words[0], by);
        let Some(next) = words.get(1) else { return left };
        let right = self.shift_right(*next, self.width() - count);
        self.bin(BinOp::Or, left, right)
    }

    /// The upper word of the product of two unsigned words; the first is below half of its range and comes in halves.
    fn high_product(&mut self, (a_high, a_low): (NodeIx, NodeIx), b: NodeIx) -> NodeIx {
        let (b_high, b_low) = self.halves(b);
        let half = self.width() / 2;
        let low = self.bin(BinOp::Mul, a_low, b_low);
        let low = self.shift_right(low, half);
        let middle = self.bin(BinOp::Mul, a_high, b_low);
        let middle = self.bin(BinOp::Add, middle, low);
        let (carried, rest) = self.halves(middle);
        let other = self.bin(BinOp::Mul, a_low, b_high);
        let other = self.bin(BinOp::Add, other, rest);
        let other = self.shift_right(other, half);
        let high = self.bin(BinOp::Mul, a_high, b_high);
        let high = self.bin(BinOp::Add, high, carried);
        self.bin(BinOp::Add, high, other)
    }

    /// Upper and lower half of an unsigned word.
    fn halves(&mut self, x: NodeIx) -> (NodeIx, NodeIx) {
        let half = self.width() / 2;
        let mask = self.i((1 << half) - 1);
        (self.shift_right(x, half), self.bin(BinOp::And, x, mask))
    }

    /// An unsigned word shifted right. The word type is signed.
    fn shift_right(&mut self, x: NodeIx, count: i64) -> NodeIx {
        let (by, mask) = (self.i(count), self.i(((1u64 << (self.width() - count)) - 1) as i64));
        let x = self.bin(BinOp::Shr, x, by);
        self.bin(BinOp::And, x, mask)
    }

    /// 1 where `a < b` as unsigned words, else 0.
    fn below(&mut self, a: NodeIx, b: NodeIx) -> NodeIx {
        let top = self.top_bit();
        let (a, b) = (self.bin(BinOp::Xor, a, top), self.bin(BinOp::Xor, b, top));
        let less = self.bin(BinOp::Lt, a, b);
        self.p.cast(less, self.int)
    }

    /// Bits of a word.
    pub(super) fn width(&self) -> i64 {
        if self.double() { 64 } else { 32 }
    }

    fn bias(&self) -> i64 {
        if self.double() { 1023 } else { 127 }
    }

    /// `if n is odd { a } else { b }`.
    pub(super) fn pick_odd(&mut self, n: NodeIx, a: NodeIx, b: NodeIx) -> NodeIx {
        let (one, zero) = (self.i(1), self.i(0));
        let low = self.bin(BinOp::And, n, one);
        let even = self.bin(BinOp::Eq, low, zero);
        self.select(even, b, a)
    }

    /// A function of the turns of x, which `odd` says to be odd: by the first way where |x| is small, by the second elsewhere, which code
    /// generators skip where no element needs it.
    pub(super) fn of_turns(&mut self, x: NodeIx, odd: bool, curve: impl Fn(&mut Self, Turns) -> NodeIx) -> NodeIx {
        let near = self.near_turns(x);
        let near = curve(self, near);
        let far = self.far_turns(x);
        let mut far = curve(self, far);
        if odd {
            let (_, sign) = self.split_sign(x);
            far = self.flip_sign(far, sign);
        }
        // Infinity has no turns: its multiple of 0 is NaN, that of other numbers changes nothing.
        let zero = self.c(0.0);
        let nan_or_zero = self.mul(x, zero);
        let far = self.add(far, nan_or_zero);
        let magnitude = self.un(UnOp::Abs, x);
        let is_far = self.cmp(BinOp::Gt, magnitude, self.near_limit());
        self.select(is_far, far, near)
    }
}
