//! The transforms of F(m x m, r x r) by their points.
//!
//! A tile of m by m outputs is a polynomial product, evaluated at n = m + r - 1 points in each direction (Toom and Cook; Winograd, "Arithmetic Complexity of
//! Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015): `Y = At [(G g Gt) * (Bt d B)] A`.
//! The points are 0, pairs `a` and `-a`, and infinity. A pair shares its even and odd halves, so that transforms take few operations.
//!
//! Lavin and Gray use 1 and 2 for six points. Points whose products are near 1 lose less (Barabasz, Anderson, Soodhalter and Gregg, "Error Analysis and Improving
//! the Accuracy of Winograd Convolution for Deep Neural Networks", 2020): with 3/4 and 3/2 the error is less than a third, and every coefficient of the
//! transforms is exact in f32, so that no rounding of coefficients adds to it. Those for eight points are the best of eighths from 3/8 to 19/8, exact too.
//! The points alone make the transform of the input; kernels of more taps have fewer outputs at the same points.
//!
//! With strides of two, two outputs of three taps are those of two taps by the even inputs and of one tap by the odd ones: F(2, 2) at 0, 1 and infinity, and two
//! products, five in the place of six, 25 of 36 in both directions. No coefficient needs a multiplication.

use onnxc_ir::DType;
use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::scalar::BinOp;

use crate::common::nest::{ExprExt, int};

/// The points of one m and r.
pub struct Points {
    /// Outputs of a tile in each direction.
    pub m: usize,
    /// Taps of the kernels in each direction, r.
    pub taps: usize,
    /// Inputs from one output to the next.
    pub stride: usize,
    /// The pairs: each number stands for itself and its negative. None with strides of two, whose transforms have a form of their own.
    pairs: &'static [f64],
    /// What results are multiplied by in each direction, if all numbers are whole.
    multiple: Option<u32>,
}

/// F(2x2, 3x3).
pub static TWO: Points = Points { m: 2, taps: 3, stride: 1, pairs: &[1.0], multiple: None };
/// F(4x4, 3x3).
pub static FOUR: Points = Points { m: 4, taps: 3, stride: 1, pairs: SIX_POINTS, multiple: None };
/// F(6x6, 3x3).
pub static SIX: Points = Points { m: 6, taps: 3, stride: 1, pairs: EIGHT_POINTS, multiple: None };
/// F(2x2, 5x5).
pub static TWO_OF_FIVE: Points = Points { m: 2, taps: 5, stride: 1, pairs: SIX_POINTS, multiple: None };
/// F(4x4, 5x5).
pub static FOUR_OF_FIVE: Points = Points { m: 4, taps: 5, stride: 1, pairs: EIGHT_POINTS, multiple: None };
/// F(2x2, 3x3) with strides of two.
pub static TWO_BY_TWO: Points = Points { m: 2, taps: 3, stride: 2, pairs: &[], multiple: None };

/// F(2x2, 3x3) of integers.
static TWO_WHOLE: Points = Points { m: 2, taps: 3, stride: 1, pairs: &[1.0], multiple: Some(2) };
/// F(4x4, 3x3) of integers, at the points of Lavin and Gray. Transformed bytes are a hundred times as large at most, which words have room for.
static FOUR_WHOLE: Points = Points { m: 4, taps: 3, stride: 1, pairs: &[1.0, 2.0], multiple: Some(24) };

/// F(2x2, 3x3) of integers with strides of two.
static TWO_BY_TWO_WHOLE: Points = Points { m: 2, taps: 3, stride: 2, pairs: &[], multiple: Some(1) };

/// What the taps of a kernel are multiplied by at a whole point adds up to no more than this in each direction: `15 * 15 * 128 < 2^15`.
const MOST_OF_ROW: f64 = 15.0;
/// Points in each direction from which on rounding is larger.
const ROUGH: usize = 8;
const SIX_POINTS: &[f64] = &[0.75, 1.5];
const EIGHT_POINTS: &[f64] = &[0.5, 1.0, 2.125];

/// Neighbouring points of a direction: the first one and its kernel, how many they are, and what is between their kernels: 1, or 0 where all have the same.
pub(super) struct Run {
    pub first: usize,
    pub points: usize,
    pub kernel: usize,
    pub step: usize,
}

/// Coefficients of `product of (x - b^2)` over the pairs but number `without`, the lowest power first.
fn even_powers(pairs: &[f64], without: Option<usize>) -> Vec<f64> {
    let mut poly = vec![1.0];
    for (_, b) in pairs.iter().enumerate().filter(|(i, _)| Some(*i) != without) {
        let mut next = vec![0.0; poly.len() + 1];
        for (i, c) in poly.iter().enumerate() {
            next[i + 1] += c;
            next[i] -= c * b * b;
        }
        poly = next;
    }
    poly
}

/// The coefficients of transforms as variables that are set in front of the loops: they stay in registers there.
#[derive(Clone, Default)]
pub struct Coefficients {
    known: Vec<(f32, Expr)>,
    /// Of whole numbers: in the operations themselves.
    whole: bool,
}

impl Coefficients {
    /// Those of whole numbers.
    pub fn whole() -> Coefficients {
        Coefficients { known: Vec::new(), whole: true }
    }

    /// Sets a variable to each coefficient that is not 1 or -1 of a transform. `transform` is one of a [`Points`].
    pub fn set(cx: &mut LowerCx, transform: impl Fn(&mut Coefficients, &mut LowerCx)) -> Coefficients {
        let mut all = Coefficients::default();
        // What the transform computes here goes nowhere: only the coefficients that it asks for matter.
        cx.block(|cx| transform(&mut all, cx));
        for (value, e) in &mut all.known {
            *e = Expr::Var(cx.let_(Expr::f32(*value)));
        }
        all
    }

    fn get(&mut self, value: f64) -> Expr {
        let value = value as f32;
        if let Some((_, e)) = self.known.iter().find(|(v, _)| *v == value) {
            return e.clone();
        }
        self.known.push((value, Expr::f32(value)));
        Expr::f32(value)
    }

    fn times(&mut self, c: f64, x: Expr) -> Expr {
        if !self.whole {
            return Expr::bin(BinOp::Mul, self.get(c), x);
        }
        let number = c as i64;
        match u64::try_from(number) {
            Ok(n) if n.is_power_of_two() => Expr::bin(BinOp::Shl, x, int(DType::I32, n.trailing_zeros().into())),
            _ => x.mul(int(DType::I32, number)),
        }
    }

    /// `sum of c * x`, whose coefficients of one cost no multiplication. Coefficients of zero are left out.
    fn sum(&mut self, terms: impl IntoIterator<Item = (f64, Expr)>) -> Expr {
        let mut terms: Vec<(f64, Expr)> = terms.into_iter().filter(|(c, _)| *c != 0.0).collect();
        // The first term starts the sum: one that needs no multiplication, if there is one.
        let first = terms.iter().position(|(c, _)| *c == 1.0).unwrap_or(0);
        let (c, x) = terms.remove(first);
        let start = if c == 1.0 { x } else { self.times(c, x) };
        terms.into_iter().fold(start, |sum, (c, x)| match c {
            1.0 => Expr::bin(BinOp::Add, sum, x),
            -1.0 => Expr::bin(BinOp::Sub, sum, x),
            c if self.whole && c < 0.0 => Expr::bin(BinOp::Sub, sum, self.times(-c, x)),
            c if self.whole => Expr::bin(BinOp::Add, sum, self.times(c, x)),
            c => Expr::Fma(Box::new(self.get(c)), Box::new(x), Box::new(sum)),
        })
    }
}

impl Points {
    /// Do results lose a digit more than sums in another order do?
    pub fn is_rough(&self) -> bool {
        self.n() >= ROUGH
    }

    /// The same tiles with whole numbers throughout, for integers.
    pub fn whole(&self) -> Option<&'static Points> {
        match (self.m, self.taps, self.stride) {
            (2, 3, 1) => Some(&TWO_WHOLE),
            (4, 3, 1) => Some(&FOUR_WHOLE),
            (2, 3, 2) => Some(&TWO_BY_TWO_WHOLE),
            _ => None,
        }
    }

    /// How often a result of whole numbers has been taken, both directions together: so many times a power of two, and that, in bits.
    pub fn multiple(&self) -> (u32, u32) {
        let multiple = self.multiple.unwrap_or(1).pow(2);
        (multiple >> multiple.trailing_zeros(), multiple.trailing_zeros())
    }

    /// What the weights at infinity have not been multiplied by, for words have no room: a power of two.
    fn left_at_infinity(&self) -> f64 {
        let multiple = f64::from(self.multiple.unwrap_or(1));
        (0..).map(|bits| f64::from(1 << bits)).find(|left| multiple / left <= MOST_OF_ROW).unwrap_or(1.0)
    }

    /// Inputs of a tile, and points, in each direction.
    pub fn n(&self) -> usize {
        (self.m - 1) * self.stride + self.taps
    }

    /// The points of a direction, in runs.
    pub(super) fn runs(&self) -> Vec<Run> {
        let own = |points| Run { first: 0, points, kernel: 0, step: 1 };
        if self.stride == 1 {
            return vec![own(self.n())];
        }
        vec![own(self.taps), Run { first: self.taps, points: self.m, kernel: self.taps, step: 0 }]
    }

    /// Different kernels in each direction.
    pub fn kernels(&self) -> usize {
        self.runs().iter().map(|run| if run.step == 0 { 1 } else { run.points }).sum()
    }

    /// `Bt d`: n inputs to n values.
    pub fn input(&self, cx: &mut LowerCx, k: &mut Coefficients, d: &[Expr]) -> Vec<Expr> {
        if let ([], [a, b, c, d, e]) = (self.pairs, d) {
            let ends = [a, e].map(|end| Expr::bin(BinOp::Sub, end.clone(), c.clone()));
            let [first, last] = ends;
            return vec![first, c.clone(), last, b.clone(), d.clone()];
        }
        let all = even_powers(self.pairs, None);
        let every_other = |k: &mut Coefficients, coefficients: &[f64], start: usize| {
            k.sum(coefficients.iter().enumerate().map(|(j, c)| (*c, d[start + 2 * j].clone())))
        };
        let mut out = vec![every_other(k, &all, 0)];
        for (i, a) in self.pairs.iter().enumerate() {
            let others = even_powers(self.pairs, Some(i));
            let even = Expr::Var(cx.let_(every_other(k, &others, 2)));
            let odd = Expr::Var(cx.let_(every_other(k, &others, 1)));
            out.push(k.sum([(1.0, even.clone()), (*a, odd.clone())]));
            out.push(k.sum([(1.0, even), (-*a, odd)]));
        }
        out.push(every_other(k, &all, 1));
        out
    }

    /// `At p`: n products to m outputs.
    pub fn output(&self, cx: &mut LowerCx, k: &mut Coefficients, p: &[Expr]) -> Vec<Expr> {
        if let ([], [first, middle, last, b, d]) = (self.pairs, p) {
            let mut sum = |end: &Expr, odd: &Expr| k.sum([end, middle, odd].map(|e| (1.0, e.clone())));
            return [(first, b), (last, d)].map(|(end, odd)| sum(end, odd)).to_vec();
        }
        let mut halves = Vec::new();
        for i in 0..self.pairs.len() {
            let (plus, minus) = (&p[1 + 2 * i], &p[2 + 2 * i]);
            let even = Expr::Var(cx.let_(Expr::bin(BinOp::Add, plus.clone(), minus.clone())));
            let odd = Expr::Var(cx.let_(Expr::bin(BinOp::Sub, plus.clone(), minus.clone())));
            halves.push([even, odd]);
        }
        let mut row = |r: usize| {
            let pairs = self.pairs.iter().zip(&halves).map(|(a, h)| (a.powi(r as i32), h[r % 2].clone()));
            let zero = (r == 0).then(|| (1.0, p[0].clone()));
            let infinity = (r + 1 == self.m).then(|| (self.left_at_infinity(), p[self.n() - 1].clone()));
            k.sum(zero.into_iter().chain(infinity).chain(pairs))
        };
        (0..self.m).map(&mut row).collect()
    }

    /// G: rows that make a kernel's taps the values at the points, or so many times these that they are whole.
    pub(super) fn kernel_rows(&self) -> Vec<Vec<f64>> {
        let all = even_powers(self.pairs, None);
        if self.pairs.is_empty() {
            return [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]].map(|row| row.to_vec()).to_vec();
        }
        let alone = |tap: usize, value: f64| (0..self.taps).map(|t| if t == tap { value } else { 0.0 }).collect::<Vec<f64>>();
        let mut rows = vec![alone(0, 1.0 / all[0])];
        for (i, a) in self.pairs.iter().enumerate() {
            let others = even_powers(self.pairs, Some(i));
            let others = others.iter().rev().fold(0.0, |value, c| value * a * a + c);
            // The derivative of `x * product of (x^2 - b^2)` at a, and at -a.
            let slope = 2.0 * a * a * others;
            rows.extend([*a, -*a].map(|x| (0..self.taps as i32).map(|t| x.powi(t) / slope).collect()));
        }
        rows.push(alone(self.taps - 1, 1.0 / self.left_at_infinity()));
        let multiple = f64::from(self.multiple.unwrap_or(1));
        rows.iter_mut().flatten().for_each(|x| *x *= multiple);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_points_have_whole_rows_that_words_have_room_for() {
        for points in [&TWO, &FOUR, &TWO_BY_TWO].map(|p| p.whole().expect("points")) {
            let rows = points.kernel_rows();
            assert_eq!(rows.len(), points.kernels());
            // Division by three is not exact, its product is.
            assert!(rows.iter().flatten().all(|x| (x - x.round()).abs() < 1e-12), "{rows:?}");
            let size = |row: &Vec<f64>| row.iter().map(|x| x.abs()).sum::<f64>();
            assert!(rows.iter().all(|row| size(row) <= MOST_OF_ROW), "{rows:?}");
        }
        assert_eq!([&TWO, &FOUR, &TWO_BY_TWO].map(|p| p.whole().expect("points").multiple()), [(1, 2), (9, 6), (1, 0)]);
        assert!(SIX.whole().is_none() && TWO_OF_FIVE.whole().is_none());
    }
}
