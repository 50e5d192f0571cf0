//! The functions, written once for f32 and f64 over their [`Tables`].

mod sigmoid;
mod trigonometry;
mod turns;

use std::f64::consts::{LN_2, LOG2_E};

use super::tables::{self, Tables};
use crate::dtype::DType;
use crate::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram, UnOp};

/// Appends functions of one float type to a program.
pub(super) struct Builder<'p> {
    p: &'p mut ScalarProgram,
    t: DType,
    int: DType,
    tables: &'static Tables,
    /// Bits of the fraction.
    fraction: i64,
}

impl<'p> Builder<'p> {
    pub(super) fn new(p: &'p mut ScalarProgram, t: DType) -> Builder<'p> {
        let double = t == DType::F64;
        let (int, tables, fraction) = if double { (DType::I64, &tables::F64, 52) } else { (DType::I32, &tables::F32, 23) };
        Builder { p, t, int, tables, fraction }
    }

    fn double(&self) -> bool {
        self.t == DType::F64
    }

    fn c(&mut self, x: f64) -> NodeIx {
        let x = if self.double() { x } else { f64::from(x as f32) };
        self.p.float(x, self.t)
    }

    fn i(&mut self, x: i64) -> NodeIx {
        self.p.int(x, self.int)
    }

    fn bin(&mut self, op: BinOp, a: NodeIx, b: NodeIx) -> NodeIx {
        self.p.bin(op, a, b)
    }

    fn add(&mut self, a: NodeIx, b: NodeIx) -> NodeIx {
        self.bin(BinOp::Add, a, b)
    }

    fn sub(&mut self, a: NodeIx, b: NodeIx) -> NodeIx {
        self.bin(BinOp::Sub, a, b)
    }

    fn mul(&mut self, a: NodeIx, b: NodeIx) -> NodeIx {
        self.bin(BinOp::Mul, a, b)
    }

    fn div(&mut self, a: NodeIx, b: NodeIx) -> NodeIx {
        self.bin(BinOp::Div, a, b)
    }

    fn fma(&mut self, a: NodeIx, b: NodeIx, c: NodeIx) -> NodeIx {
        self.p.push(ScalarOp::Fma(a, b, c), self.t)
    }

    fn un(&mut self, op: UnOp, a: NodeIx) -> NodeIx {
        self.p.un(op, a)
    }

    fn cmp(&mut self, op: BinOp, a: NodeIx, b: f64) -> NodeIx {
        let b = self.c(b);
        self.bin(op, a, b)
    }

    fn select(&mut self, c: NodeIx, a: NodeIx, b: NodeIx) -> NodeIx {
        self.p.select(c, a, b)
    }

    fn bits(&mut self, x: NodeIx) -> NodeIx {
        self.p.push(ScalarOp::Un(UnOp::Bitcast, x), self.int)
    }

    fn float(&mut self, x: NodeIx) -> NodeIx {
        self.p.push(ScalarOp::Un(UnOp::Bitcast, x), self.t)
    }

    /// `c[0] + c[1]*x + ...` by Horner's rule.
    fn poly(&mut self, x: NodeIx, c: &[f64]) -> NodeIx {
        let (last, rest) = c.split_last().expect("internal: math: empty polynomial");
        let mut sum = self.c(*last);
        for c in rest.iter().rev() {
            let c = self.c(*c);
            sum = self.fma(sum, x, c);
        }
        sum
    }

    /// `x + x^3 * poly(x^2)`: the odd functions near 0.
    fn odd(&mut self, x: NodeIx, c: &[f64]) -> NodeIx {
        let x2 = self.mul(x, x);
        let p = self.poly(x2, c);
        let x3 = self.mul(x2, x);
        self.fma(p, x3, x)
    }

    /// `|x|` and the sign bit of x, as an integer.
    fn split_sign(&mut self, x: NodeIx) -> (NodeIx, NodeIx) {
        let magnitude = self.un(UnOp::Abs, x);
        let bits = self.bits(x);
        let top = self.top_bit();
        (magnitude, self.bin(BinOp::And, bits, top))
    }

    /// The integer of which only the highest bit is set.
    fn top_bit(&mut self) -> NodeIx {
        self.i(if self.double() { i64::MIN } else { i64::from(i32::MIN) })
    }

    /// `x` with its sign bit flipped by `sign`.
    fn flip_sign(&mut self, x: NodeIx, sign: NodeIx) -> NodeIx {
        let bits = self.bits(x);
        let bits = self.bin(BinOp::Xor, bits, sign);
        self.float(bits)
    }

    pub(super) fn unary(&mut self, op: UnOp, x: NodeIx) -> NodeIx {
        match op {
            UnOp::Sign => self.sign(x),
            UnOp::Exp => self.exp(x),
            UnOp::ExpNonPositive => self.exp_non_positive(x),
            UnOp::Log => self.log(x),
            UnOp::Sigmoid => self.sigmoid(x),
            UnOp::Tanh => self.tanh(x),
            UnOp::Erf => self.erf(x),
            UnOp::NormalCdf => self.normal_cdf(x),
            UnOp::Sin => self.sin_cos(x, 0),
            UnOp::Cos => self.sin_cos(x, 1),
            UnOp::Tan => self.tan(x),
            UnOp::Atan => self.atan(x),
            UnOp::Asin => self.asin(x),
            UnOp::Acos => self.acos(x),
            UnOp::Sinh => self.sinh(x),
            UnOp::Cosh => self.cosh(x),
            UnOp::Asinh => self.asinh(x),
            UnOp::Acosh => self.acosh(x),
            UnOp::Atanh => self.atanh(x),
            _ => unreachable!("internal: math: {op:?} is basic"),
        }
    }

    pub(super) fn binary(&mut self, op: BinOp, x: NodeIx, y: NodeIx) -> NodeIx {
        match op {
            BinOp::Pow => self.pow(x, y),
            // C's fmod: exact while the quotient has fewer bits than the fraction.
            BinOp::Rem => {
                let q = self.div(x, y);
                let q = self.un(UnOp::Trunc, q);
                let minus = self.un(UnOp::Neg, q);
                let r = self.fma(minus, y, x);
                // fmod(x, inf) = x.
                let infinite = self.un(UnOp::IsInf, y);
                self.select(infinite, x, r)
            }
            BinOp::Mod => {
                let q = self.div(x, y);
                let q = self.un(UnOp::Floor, q);
                let minus = self.un(UnOp::Neg, q);
                let r = self.fma(minus, y, x);
                // A zero has the divisor's sign too.
                let (none, (_, sign)) = (self.cmp(BinOp::Eq, r, 0.0), self.split_sign(y));
                let zero = self.c(0.0);
                let zero = self.flip_sign(zero, sign);
                let r = self.select(none, zero, r);
                // x mod inf is x where the signs agree and y otherwise; NaN for infinite x (x - x is 0 or NaN).
                let (product, zero) = (self.mul(x, y), self.c(0.0));
                let differ = self.bin(BinOp::Lt, product, zero);
                let nearest = self.select(differ, y, x);
                let nothing = self.sub(x, x);
                let limit = self.add(nearest, nothing);
                let infinite = self.un(UnOp::IsInf, y);
                self.select(infinite, limit, r)
            }
            _ => unreachable!("internal: math: {op:?} is basic"),
        }
    }

    /// -1, 0, 1; 0 and NaN stay as they are. Integers as well.
    fn sign(&mut self, x: NodeIx) -> NodeIx {
        let t = self.p.dtype(x);
        let number = |s: &mut Self, v: i64| if t.is_float() { s.p.float(v as f64, t) } else { s.p.int(v, t) };
        let (zero, one) = (number(self, 0), number(self, 1));
        let positive = self.bin(BinOp::Gt, x, zero);
        let rest = if t.is_unsigned_int() {
            x
        } else {
            let minus_one = number(self, -1);
            let negative = self.bin(BinOp::Lt, x, zero);
            self.select(negative, minus_one, x)
        };
        self.select(positive, one, rest)
    }

    /// exp(x) = 2^n * exp(r), n = round(x / ln 2). Adding 1.5 * 2^fraction rounds and leaves n in the low bits; 2^n is an addition to the
    /// exponent field. Below the smallest normal number the result is 0.
    pub(super) fn exp(&mut self, x: NodeIx) -> NodeIx {
        // Largest x with a finite result and smallest with a normal one.
        let (hi, lo) = if self.double() { (709.782712893384, -708.3964185322641) } else { (88.72283, -87.33654) };
        let magic = self.c(1.5 * (1u64 << self.fraction) as f64);
        let log2e = self.c(LOG2_E);
        let shifted = self.fma(x, log2e, magic);
        let n = self.sub(shifted, magic);
        let r = self.minus_multiple(x, n, ln2_parts(self.double()));
        let p = self.poly(r, self.tables.exp);
        let r2 = self.mul(r, r);
        let one = self.c(1.0);
        let tail = self.fma(p, r2, r);
        let e = self.add(tail, one);
        let scaled = self.times_power(e, shifted);
        let zero = self.c(0.0);
        let in_range = self.cmp(BinOp::Ge, x, lo);
        let low = self.select(in_range, scaled, zero);
        // NaN and large x take this branch: inf + x is inf or NaN.
        let fits = self.cmp(BinOp::Le, x, hi);
        let infinity = self.c(f64::INFINITY);
        let over = self.add(x, infinity);
        self.select(fits, low, over)
    }

    /// The same without the cases that only positive x have, and with the reduction in units of ln 2: y = x / ln 2, n = round(y), 2^n * 2^(y-n). What
    /// rounding y loses grows with |x| as the result shrinks, so that the error is at most an ulp of 1.
    fn exp_non_positive(&mut self, x: NodeIx) -> NodeIx {
        if self.double() {
            return self.exp(x);
        }
        let (lo, magic, log2e) = (self.c(-87.33654), self.c(1.5 * (1u64 << self.fraction) as f64), self.c(LOG2_E));
        let x = self.bin(BinOp::Max, x, lo);
        let shifted = self.fma(x, log2e, magic);
        let n = self.sub(shifted, magic);
        let back = self.c(-LOG2_E);
        let minus_r = self.fma(x, back, n);
        let p = self.poly(minus_r, tables::EXP2);
        let one = self.c(1.0);
        let e = self.fma(p, minus_r, one);
        self.times_power(e, shifted)
    }

    /// `e * 2^n`, n in the low bits of `shifted`: an addition to the exponent.
    fn times_power(&mut self, e: NodeIx, shifted: NodeIx) -> NodeIx {
        let (e, n) = (self.bits(e), self.bits(shifted));
        let fraction = self.i(self.fraction);
        let n = self.bin(BinOp::Shl, n, fraction);
        let scaled = self.bin(BinOp::Add, e, n);
        self.float(scaled)
    }

    /// `x - n*c` where c is the sum of `parts`, the first ones short enough for exact products.
    fn minus_multiple(&mut self, x: NodeIx, n: NodeIx, parts: &[f64]) -> NodeIx {
        parts.iter().fold(x, |r, part| {
            let part = self.c(-part);
            self.fma(n, part, r)
        })
    }

    /// x = 2^e * m with m around 1, for normal x: (m - 1, e as a float).
    fn split_exponent(&mut self, x: NodeIx) -> (NodeIx, NodeIx) {
        let half_root = std::f64::consts::FRAC_1_SQRT_2;
        let half_root = if self.double() { half_root.to_bits() as i64 } else { i64::from((half_root as f32).to_bits()) };
        let bits = self.bits(x);
        let (base, fraction) = (self.i(half_root), self.i(self.fraction));
        let above = self.bin(BinOp::Sub, bits, base);
        let e = self.bin(BinOp::Shr, above, fraction);
        let shifted = self.bin(BinOp::Shl, e, fraction);
        let m = self.bin(BinOp::Sub, bits, shifted);
        let m = self.float(m);
        let one = self.c(1.0);
        let f = self.sub(m, one);
        (f, self.p.cast(e, self.t))
    }

    /// log(x) = e*ln 2 + log(1+f). Subnormal x are scaled first.
    pub(super) fn log(&mut self, x: NodeIx) -> NodeIx {
        let (smallest, scale_bits) = if self.double() { (f64::MIN_POSITIVE, 54) } else { (f64::from(f32::MIN_POSITIVE), 25) };
        let small = self.cmp(BinOp::Lt, x, smallest);
        let scale = self.c((1u64 << scale_bits) as f64);
        let up = self.mul(x, scale);
        let scaled = self.select(small, up, x);
        let (f, e) = self.split_exponent(scaled);
        let (less, zero) = (self.c(-f64::from(scale_bits)), self.c(0.0));
        let correction = self.select(small, less, zero);
        let e = self.add(e, correction);
        let y = self.log_sum(f, e);
        // Infinity and NaN as they are, then negative numbers and 0.
        let finite = self.cmp(BinOp::Lt, x, f64::INFINITY);
        let y = self.select(finite, y, x);
        let negative = self.cmp(BinOp::Lt, x, 0.0);
        let nan = self.c(f64::NAN);
        let y = self.select(negative, nan, y);
        let is_zero = self.cmp(BinOp::Eq, x, 0.0);
        let minus = self.c(f64::NEG_INFINITY);
        self.select(is_zero, minus, y)
    }

    /// `e * ln 2 + log(1 + f)`, small terms first.
    fn log_sum(&mut self, f: NodeIx, e: NodeIx) -> NodeIx {
        let parts = ln2_parts(self.double());
        let f2 = self.mul(f, f);
        let f3 = self.mul(f2, f);
        let p = self.poly(f, self.tables.log);
        let y = self.mul(p, f3);
        let low = self.c(parts[1]);
        let y = self.fma(e, low, y);
        let minus_half = self.c(-0.5);
        let y = self.fma(f2, minus_half, y);
        let y = self.add(f, y);
        let high = self.c(parts[0]);
        self.fma(e, high, y)
    }

    /// log(1 + u) without losing small u: the rounding error of 1 + u is added back, divided by it.
    fn log1p(&mut self, u: NodeIx) -> NodeIx {
        let one = self.c(1.0);
        let w = self.add(u, one);
        let back = self.sub(w, one);
        let lost = self.sub(u, back);
        let fix = self.div(lost, w);
        let y = self.log(w);
        let fixed = self.add(y, fix);
        // inf - inf would spoil infinity.
        let finite = self.cmp(BinOp::Lt, u, f64::INFINITY);
        self.select(finite, fixed, y)
    }

    /// Odd polynomial near 0; 1 - 2/(exp(2|x|) + 1) elsewhere.
    fn tanh(&mut self, x: NodeIx) -> NodeIx {
        let (m, sign) = self.split_sign(x);
        let two = self.c(2.0);
        let double = self.mul(m, two);
        let e = self.exp(double);
        let one = self.c(1.0);
        let d = self.add(e, one);
        let q = self.div(two, d);
        let big = self.sub(one, q);
        let big = self.flip_sign(big, sign);
        let small = self.odd(x, self.tables.tanh);
        let near = self.cmp(BinOp::Lt, m, 0.625);
        self.select(near, small, big)
    }

    /// x * P(x^2) up to 1; 1 - exp(Q(|x|)) above.
    fn erf(&mut self, x: NodeIx) -> NodeIx {
        let (m, sign) = self.split_sign(x);
        let end = self.c(self.tables.erf_end);
        let clamped = self.bin(BinOp::Min, m, end);
        let q = self.poly(clamped, self.tables.erfc);
        let e = self.exp(q);
        let one = self.c(1.0);
        let big = self.sub(one, e);
        let big = self.flip_sign(big, sign);
        let x2 = self.mul(x, x);
        let p = self.poly(x2, self.tables.erf);
        let small = self.mul(x, p);
        let near = self.cmp(BinOp::Lt, m, 1.0);
        self.select(near, small, big)
    }

    /// `1/2 + x*P(x^2)/Q(x^2)`, the second term within 1/2; f64 by erf. One quotient for all x costs half of what erf's two branches do, and where the
    /// result is an addend or a factor, as in gelu, its relative error near 0 is nobody's concern.
    fn normal_cdf(&mut self, x: NodeIx) -> NodeIx {
        let half = self.c(0.5);
        if self.double() {
            let root = self.c(std::f64::consts::FRAC_1_SQRT_2);
            let scaled = self.mul(x, root);
            let erf = self.erf(scaled);
            return self.fma(erf, half, half);
        }
        // Beyond the end the quotient stays as it is, and with x the term only grows.
        let (square, end) = (self.mul(x, x), self.c(tables::NORMAL_CDF_END * tables::NORMAL_CDF_END));
        let square = self.bin(BinOp::Min, square, end);
        let (p, q) = (self.poly(square, tables::NORMAL_CDF.0), self.poly(square, tables::NORMAL_CDF.1));
        let p = self.mul(x, p);
        let above = self.div(p, q);
        let above = self.bin(BinOp::Min, above, half);
        let minus_half = self.c(-0.5);
        let above = self.bin(BinOp::Max, above, minus_half);
        self.add(above, half)
    }

    /// (e, 1/e)/2 of |x|, in a form that overflows only where the result does.
    fn half_exp(&mut self, m: NodeIx) -> (NodeIx, NodeIx) {
        // exp(m - ln 2) would lose bits: exp(m/2)^2 / 2 does not overflow early.
        let half = self.c(0.5);
        let x = self.mul(m, half);
        let e = self.exp(x);
        let h = self.mul(e, half);
        let big = self.mul(h, e);
        let quarter = self.c(0.25);
        (big, self.div(quarter, big))
    }

    fn sinh(&mut self, x: NodeIx) -> NodeIx {
        let (m, sign) = self.split_sign(x);
        let (e, i) = self.half_exp(m);
        let big = self.sub(e, i);
        let big = self.flip_sign(big, sign);
        let small = self.odd(x, self.tables.sinh);
        let near = self.cmp(BinOp::Lt, m, 1.0);
        self.select(near, small, big)
    }

    fn cosh(&mut self, x: NodeIx) -> NodeIx {
        let m = self.un(UnOp::Abs, x);
        let (e, i) = self.half_exp(m);
        self.add(e, i)
    }

    fn asinh(&mut self, x: NodeIx) -> NodeIx {
        let (m, sign) = self.split_sign(x);
        // m + sqrt(m^2 + 1); squares above 2^60 would be useless or infinite, there it is 2m.
        let limit = self.c((1u64 << 60) as f64);
        let clamped = self.bin(BinOp::Min, m, limit);
        let one = self.c(1.0);
        let square = self.fma(clamped, clamped, one);
        let root = self.un(UnOp::Sqrt, square);
        let sum = self.add(clamped, root);
        let large = self.bin(BinOp::Gt, m, limit);
        let inner = self.select(large, m, sum);
        let y = self.log(inner);
        let ln2 = self.c(LN_2);
        let more = self.add(y, ln2);
        let y = self.select(large, more, y);
        let y = self.flip_sign(y, sign);
        let small = self.odd(x, self.tables.asinh);
        let near = self.cmp(BinOp::Lt, m, 0.5);
        self.select(near, small, y)
    }

    /// With t = x - 1: log1p(t + sqrt(2t + t^2)).
    fn acosh(&mut self, x: NodeIx) -> NodeIx {
        let (one, two) = (self.c(1.0), self.c(2.0));
        let t = self.sub(x, one);
        let limit = self.c((1u64 << 60) as f64);
        let clamped = self.bin(BinOp::Min, t, limit);
        let more = self.add(clamped, two);
        let square = self.mul(clamped, more);
        let root = self.un(UnOp::Sqrt, square);
        let sum = self.add(clamped, root);
        let near = self.log1p(sum);
        let far = self.log(x);
        let ln2 = self.c(LN_2);
        let far = self.add(far, ln2);
        let large = self.bin(BinOp::Gt, x, limit);
        let y = self.select(large, far, near);
        let nan = self.c(f64::NAN);
        let outside = self.bin(BinOp::Lt, x, one);
        self.select(outside, nan, y)
    }

    /// log1p(2m / (1 - m)) / 2.
    fn atanh(&mut self, x: NodeIx) -> NodeIx {
        let (m, sign) = self.split_sign(x);
        let (one, half) = (self.c(1.0), self.c(0.5));
        let twice = self.add(m, m);
        let rest = self.sub(one, m);
        let u = self.div(twice, rest);
        let y = self.log1p(u);
        let y = self.mul(y, half);
        let y = self.flip_sign(y, sign);
        let small = self.odd(x, self.tables.atanh);
        let near = self.bin(BinOp::Lt, m, half);
        self.select(near, small, y)
    }

    /// Constant exponents 0, 1, 2, ... 16, their negatives and halves by multiplication and sqrt; others by [`Self::general_pow`].
    fn pow(&mut self, x: NodeIx, y: NodeIx) -> NodeIx {
        if let ScalarOp::Const(bits) = self.p.nodes[y as usize].op {
            let exponent = f64::from_bits(bits);
            let (whole, root) = (exponent.abs().floor(), exponent.abs().fract());
            if whole <= 16.0 && (root == 0.0 || (root == 0.5 && whole <= 1.0)) {
                let mut result = if whole == 0.0 { None } else { Some(self.integer_power(x, whole as u32)) };
                if root == 0.5 {
                    let r = self.un(UnOp::Sqrt, x);
                    result = Some(match result {
                        Some(p) => self.mul(p, r),
                        None => r,
                    });
                }
                let one = self.c(1.0);
                let result = result.unwrap_or(one);
                return if exponent < 0.0 { self.div(one, result) } else { result };
            }
        }
        if self.double() {
            return self.general_pow(x, y);
        }
        let (wide_x, wide_y) = (self.p.cast(x, DType::F64), self.p.cast(y, DType::F64));
        let result = Builder::new(self.p, DType::F64).general_pow(wide_x, wide_y);
        self.p.cast(result, DType::F32)
    }

    /// By squaring.
    fn integer_power(&mut self, x: NodeIx, n: u32) -> NodeIx {
        let mut power = x;
        let mut result = None;
        for bit in 0..32 - n.leading_zeros() {
            if bit > 0 {
                power = self.mul(power, power);
            }
            if n >> bit & 1 == 1 {
                result = Some(match result {
                    Some(r) => self.mul(r, power),
                    None => power,
                });
            }
        }
        result.expect("internal: math: exponent 0 is handled before")
    }

    /// exp(y * log|x|), with the sign of odd powers, and the special cases of C's `pow`.
    fn general_pow(&mut self, x: NodeIx, y: NodeIx) -> NodeIx {
        let (m, sign) = self.split_sign(x);
        let l = self.log(m);
        let product = self.mul(y, l);
        let e = self.exp(product);
        // The rounding error of the product is a factor 1 + error; it matters for large exponents.
        let minus = self.un(UnOp::Neg, product);
        let lost = self.fma(y, l, minus);
        let fixed = self.fma(e, lost, e);
        let normal = {
            let bound = self.cmp(BinOp::Lt, e, f64::INFINITY);
            let nonzero = self.cmp(BinOp::Gt, e, 0.0);
            self.bin(BinOp::And, bound, nonzero)
        };
        let e = self.select(normal, fixed, e);
        let whole = self.un(UnOp::Floor, y);
        let is_whole = self.bin(BinOp::Eq, whole, y);
        let half = self.c(0.5);
        let halved = self.mul(y, half);
        let half_floor = self.un(UnOp::Floor, halved);
        let is_even = self.bin(BinOp::Eq, half_floor, halved);
        let flipped = self.flip_sign(e, sign);
        let signed = self.select(is_even, e, flipped);
        let nan = self.c(f64::NAN);
        // A negative finite base with a fractional exponent has no real power.
        let powers = self.select(is_whole, signed, nan);
        let negative = self.cmp(BinOp::Lt, x, 0.0);
        let finite = self.cmp(BinOp::Lt, m, f64::INFINITY);
        let negative = self.bin(BinOp::And, negative, finite);
        let plain = self.select(is_whole, signed, e);
        let result = self.select(negative, powers, plain);
        let one = self.c(1.0);
        let no_exponent = self.cmp(BinOp::Eq, y, 0.0);
        let base_one = self.bin(BinOp::Eq, x, one);
        let always_one = self.bin(BinOp::Or, no_exponent, base_one);
        // pow(-1, +-inf) = 1: log|x| = 0 gave NaN.
        let base_unit = self.bin(BinOp::Eq, m, one);
        let y_infinite = self.un(UnOp::IsInf, y);
        let unit_to_infinity = self.bin(BinOp::And, base_unit, y_infinite);
        let always_one = self.bin(BinOp::Or, always_one, unit_to_infinity);
        self.select(always_one, one, result)
    }
}

/// ln 2 in two pieces; products of the first with exponents are exact.
fn ln2_parts(double: bool) -> &'static [f64] {
    if double { &[6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10] } else { &[0.693_359_375, -2.121_944_400_546_905_8e-4] }
}
