//! Dimensions: constants, named symbols, and arithmetic over them.
//!
//! A dimension expression is kept in a normal form good enough to see that two shapes are equal: constants are folded,
//! sums and products are flattened and ordered. It is not a decision procedure: two equal expressions may print
//! differently, and a condition that cannot tell answers "unknown".

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One extent of a shape, or a size derived from extents. Never negative.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Dim {
    /// A known extent.
    Const(u64),
    /// A named extent, as `dim_param` of ONNX; unnamed unknown extents get a generated name that starts with `?`.
    Sym(Arc<str>),
    /// An expression over other extents.
    Expr(Arc<DimExpr>),
}

/// Arithmetic over dimensions. Build it with the methods of [`Dim`], which normalise.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum DimExpr {
    /// Sum of terms with integer coefficients, plus a constant; never a single bare term.
    Sum(Vec<(Dim, i64)>, i64),
    /// Product of two or more factors, none constant.
    Product(Vec<Dim>),
    /// Floor division.
    Div(Dim, Dim),
    /// Larger of two.
    Max(Dim, Dim),
    /// Smaller of two.
    Min(Dim, Dim),
}

/// Values of symbols.
pub type DimBindings = BTreeMap<String, u64>;

/// Smallest and largest value of symbols; a symbol that is not there may be anything.
pub type DimBounds = BTreeMap<String, (u64, u64)>;

impl Dim {
    /// A named symbol.
    pub fn sym(name: &str) -> Dim {
        Dim::Sym(name.into())
    }

    /// The -1 of a shape operand, "what remains": an entry of the values that [`crate::op::InferCx::as_sizes`] gives, never the extent of a type.
    pub fn rest() -> Dim {
        Dim::Sym("-1".into())
    }

    /// True for [`Dim::rest`].
    pub fn is_rest(&self) -> bool {
        matches!(self, Dim::Sym(name) if &**name == "-1")
    }

    /// The extent if it is known.
    pub fn as_const(&self) -> Option<u64> {
        match self {
            Dim::Const(n) => Some(*n),
            _ => None,
        }
    }

    /// True when the extent is known to be 1.
    pub fn is_one(&self) -> bool {
        *self == Dim::Const(1)
    }

    fn terms(&self) -> (Vec<(Dim, i64)>, i64) {
        match self {
            Dim::Const(n) => (vec![], i64::try_from(*n).unwrap_or(i64::MAX)),
            Dim::Expr(e) => match &**e {
                DimExpr::Sum(terms, c) => (terms.clone(), *c),
                _ => (vec![(self.clone(), 1)], 0),
            },
            Dim::Sym(_) => (vec![(self.clone(), 1)], 0),
        }
    }

    fn from_terms(mut terms: Vec<(Dim, i64)>, constant: i64) -> Dim {
        terms.sort();
        let mut merged: Vec<(Dim, i64)> = Vec::new();
        for (dim, k) in terms {
            match merged.last_mut() {
                Some((last, sum)) if *last == dim => *sum = sum.saturating_add(k),
                _ => merged.push((dim, k)),
            }
        }
        merged.retain(|(_, k)| *k != 0);
        match (&merged[..], constant) {
            ([], c) => Dim::Const(c.max(0) as u64),
            ([(dim, 1)], 0) => dim.clone(),
            _ => Dim::Expr(Arc::new(DimExpr::Sum(merged, constant))),
        }
    }

    /// `self + other`.
    pub fn add(&self, other: &Dim) -> Dim {
        let ((mut a, ca), (b, cb)) = (self.terms(), other.terms());
        a.extend(b);
        Dim::from_terms(a, ca.saturating_add(cb))
    }

    /// `self + n`, for positive or negative n; a negative constant result becomes 0.
    pub fn offset(&self, n: i64) -> Dim {
        let (terms, c) = self.terms();
        Dim::from_terms(terms, c.saturating_add(n))
    }

    /// `self - other`; a negative constant result becomes 0.
    pub fn sub(&self, other: &Dim) -> Dim {
        let ((mut a, ca), (b, cb)) = (self.terms(), other.terms());
        a.extend(b.into_iter().map(|(d, k)| (d, -k)));
        Dim::from_terms(a, ca.saturating_sub(cb))
    }

    /// `self * other`; constants saturate.
    pub fn mul(&self, other: &Dim) -> Dim {
        match (self, other) {
            (Dim::Const(a), Dim::Const(b)) => Dim::Const(a.saturating_mul(*b)),
            (Dim::Const(k), d) | (d, Dim::Const(k)) => {
                let k = i64::try_from(*k).unwrap_or(i64::MAX);
                let (terms, c) = d.terms();
                Dim::from_terms(terms.into_iter().map(|(d, n)| (d, n.saturating_mul(k))).collect(), c.saturating_mul(k))
            }
            (a, b) => {
                let mut factors = a.factors();
                factors.extend(b.factors());
                factors.sort();
                Dim::Expr(Arc::new(DimExpr::Product(factors)))
            }
        }
    }

    fn factors(&self) -> Vec<Dim> {
        match self {
            Dim::Expr(e) => match &**e {
                DimExpr::Product(f) => f.clone(),
                _ => vec![self.clone()],
            },
            _ => vec![self.clone()],
        }
    }

    /// `self / other`, rounded down. A zero divisor gives 0 (callers refuse it before).
    pub fn div(&self, other: &Dim) -> Dim {
        match (self, other) {
            (_, Dim::Const(0)) => Dim::Const(0),
            (_, Dim::Const(1)) => self.clone(),
            (Dim::Const(a), Dim::Const(b)) => Dim::Const(a / b),
            (a, b) if a == b => Dim::Const(1),
            (a, b) => a.exact_div(b).unwrap_or_else(|| Dim::Expr(Arc::new(DimExpr::Div(a.clone(), b.clone())))),
        }
    }

    /// `self / other` where the normal form shows that nothing remains.
    pub fn exact_div(&self, other: &Dim) -> Option<Dim> {
        if let Dim::Const(k) = other {
            let k = i64::try_from(*k).ok().filter(|k| *k > 0)?;
            let (terms, c) = self.terms();
            if c % k != 0 || terms.iter().any(|(_, n)| n % k != 0) {
                return None;
            }
            return Some(Dim::from_terms(terms.into_iter().map(|(d, n)| (d, n / k)).collect(), c / k));
        }
        if let Some(k) = self.multiple_of(other) {
            return Some(Dim::Const(k));
        }
        let ((mut left, have), (right, want)) = (self.monomial(), other.monomial());
        if want <= 0 || have % want != 0 {
            return None;
        }
        for f in right {
            left.remove(left.iter().position(|d| *d == f)?);
        }
        let product = left.iter().fold(Dim::Const(1), |a, b| a.mul(b));
        u64::try_from(have / want).ok().map(|k| product.mul(&Dim::Const(k)))
    }

    /// How often a sum is another sum of several terms.
    fn multiple_of(&self, other: &Dim) -> Option<u64> {
        let ((mine, c), (theirs, d)) = (self.terms(), other.terms());
        let k = mine.first()?.1.checked_div(theirs.first()?.1).filter(|k| *k > 0)?;
        let times = |n: i64| n.checked_mul(k);
        let same = mine.len() == theirs.len()
            && mine.iter().zip(&theirs).all(|(a, b)| a.0 == b.0 && Some(a.1) == times(b.1))
            && Some(c) == times(d);
        same.then_some(k as u64)
    }

    /// Factors and coefficient of a single term; anything else is one factor.
    fn monomial(&self) -> (Vec<Dim>, i64) {
        match (&self.terms().0[..], self.terms().1) {
            (&[(ref d, k)], 0) => (d.factors(), k),
            _ => (self.factors(), 1),
        }
    }

    /// `self / other`, rounded up.
    pub fn div_ceil(&self, other: &Dim) -> Dim {
        self.add(&other.offset(-1)).div(other)
    }

    /// The larger of both.
    pub fn max_of(&self, other: &Dim) -> Dim {
        match (self, other) {
            (Dim::Const(a), Dim::Const(b)) => Dim::Const(*a.max(b)),
            (a, b) if a == b => a.clone(),
            (a, b) => Dim::Expr(Arc::new(DimExpr::Max(a.clone(), b.clone()))),
        }
    }

    /// The smaller of both.
    pub fn min_of(&self, other: &Dim) -> Dim {
        match (self, other) {
            (Dim::Const(a), Dim::Const(b)) => Dim::Const(*a.min(b)),
            (a, b) if a == b => a.clone(),
            (a, b) => Dim::Expr(Arc::new(DimExpr::Min(a.clone(), b.clone()))),
        }
    }

    /// The same with the symbols that `bindings` names replaced.
    pub fn bind(&self, bindings: &DimBindings) -> Dim {
        match self {
            Dim::Const(_) => self.clone(),
            Dim::Sym(name) => bindings.get(&**name).map_or_else(|| self.clone(), |n| Dim::Const(*n)),
            Dim::Expr(e) => match &**e {
                DimExpr::Sum(terms, c) => {
                    let mut all = Vec::new();
                    let mut constant = *c;
                    for (d, k) in terms {
                        let (inner, c) = d.bind(bindings).terms();
                        all.extend(inner.into_iter().map(|(d, n)| (d, n.saturating_mul(*k))));
                        constant = constant.saturating_add(c.saturating_mul(*k));
                    }
                    Dim::from_terms(all, constant)
                }
                DimExpr::Product(f) => f.iter().fold(Dim::Const(1), |a, d| a.mul(&d.bind(bindings))),
                DimExpr::Div(a, b) => a.bind(bindings).div(&b.bind(bindings)),
                DimExpr::Max(a, b) => a.bind(bindings).max_of(&b.bind(bindings)),
                DimExpr::Min(a, b) => a.bind(bindings).min_of(&b.bind(bindings)),
            },
        }
    }

    /// The smallest and the largest value for symbols within bounds, by interval arithmetic: it may be wider than what occurs.
    pub fn range(&self, bounds: &DimBounds) -> (u64, u64) {
        match self {
            Dim::Const(n) => (*n, *n),
            Dim::Sym(name) => bounds.get(&**name).copied().unwrap_or((0, u64::MAX)),
            Dim::Expr(e) => match &**e {
                DimExpr::Sum(terms, c) => sum_range(terms, *c, bounds),
                DimExpr::Product(factors) => factors
                    .iter()
                    .map(|d| d.range(bounds))
                    .fold((1u64, 1u64), |a, b| (a.0.saturating_mul(b.0), a.1.saturating_mul(b.1))),
                DimExpr::Div(a, b) => {
                    let ((low, high), (least, most)) = (a.range(bounds), b.range(bounds));
                    (low.checked_div(most).unwrap_or(0), high.checked_div(least.max(1)).unwrap_or(0))
                }
                DimExpr::Max(a, b) => {
                    let (a, b) = (a.range(bounds), b.range(bounds));
                    (a.0.max(b.0), a.1.max(b.1))
                }
                DimExpr::Min(a, b) => {
                    let (a, b) = (a.range(bounds), b.range(bounds));
                    (a.0.min(b.0), a.1.min(b.1))
                }
            },
        }
    }

    /// The same for symbols within bounds, with every `min` and `max` decided that the bounds decide, and symbols of one value replaced by it.
    pub fn within(&self, bounds: &DimBounds) -> Dim {
        let (low, high) = self.range(bounds);
        if low == high {
            return Dim::Const(low);
        }
        let Dim::Expr(e) = self else { return self.clone() };
        match &**e {
            DimExpr::Sum(terms, c) => {
                let (mut all, mut constant) = (Vec::new(), *c);
                for (d, k) in terms {
                    let (inner, c) = d.within(bounds).terms();
                    all.extend(inner.into_iter().map(|(d, n)| (d, n.saturating_mul(*k))));
                    constant = constant.saturating_add(c.saturating_mul(*k));
                }
                Dim::from_terms(all, constant)
            }
            DimExpr::Product(f) => f.iter().fold(Dim::Const(1), |a, d| a.mul(&d.within(bounds))),
            DimExpr::Div(a, b) => a.within(bounds).quotient(&b.within(bounds)),
            DimExpr::Max(a, b) | DimExpr::Min(a, b) => {
                let is_max = matches!(**e, DimExpr::Max(..));
                let (x, y) = (a.within(bounds), b.within(bounds));
                let ((x0, x1), (y0, y1)) = (x.range(bounds), y.range(bounds));
                match (x0 >= y1, y0 >= x1) {
                    (true, _) => {
                        if is_max {
                            x
                        } else {
                            y
                        }
                    }
                    (_, true) => {
                        if is_max {
                            y
                        } else {
                            x
                        }
                    }
                    _ => {
                        if is_max {
                            x.max_of(&y)
                        } else {
                            x.min_of(&y)
                        }
                    }
                }
            }
        }
    }

    /// [`Dim::div`] where all terms of a sum may be multiples of a number and only the constant is not: `(32 N - 1) / 2` is `16 N - 1`.
    fn quotient(&self, by: &Dim) -> Dim {
        let (terms, c) = self.terms();
        match by {
            Dim::Const(k) if !terms.is_empty() => match i64::try_from(*k) {
                Ok(k) if k > 1 && terms.iter().all(|(_, n)| n % k == 0) => {
                    Dim::from_terms(terms.into_iter().map(|(d, n)| (d, n / k)).collect(), c.div_euclid(k))
                }
                _ => self.div(by),
            },
            _ => self.div(by),
        }
    }

    /// Does a symbol occur?
    pub fn mentions(&self, symbol: &str) -> bool {
        let mut all = Vec::new();
        self.symbols(&mut all);
        all.iter().any(|s| **s == *symbol)
    }

    /// Adds the symbols that occur to `out`, in order of occurrence, without repeats.
    pub fn symbols(&self, out: &mut Vec<Arc<str>>) {
        match self {
            Dim::Const(_) => {}
            Dim::Sym(s) => {
                if !out.contains(s) {
                    out.push(s.clone());
                }
            }
            Dim::Expr(e) => match &**e {
                DimExpr::Sum(terms, _) => terms.iter().for_each(|(d, _)| d.symbols(out)),
                DimExpr::Product(f) => f.iter().for_each(|d| d.symbols(out)),
                DimExpr::Div(a, b) | DimExpr::Max(a, b) | DimExpr::Min(a, b) => {
                    a.symbols(out);
                    b.symbols(out);
                }
            },
        }
    }
}

fn sum_range(terms: &[(Dim, i64)], constant: i64, bounds: &DimBounds) -> (u64, u64) {
    let (mut low, mut high) = (i128::from(constant), i128::from(constant));
    for (d, k) in terms {
        let (a, b) = d.range(bounds);
        let (a, b) = (i128::from(a) * i128::from(*k), i128::from(b) * i128::from(*k));
        (low, high) = (low + a.min(b), high + a.max(b));
    }
    let clamp = |x: i128| u64::try_from(x.max(0)).unwrap_or(u64::MAX);
    (clamp(low), clamp(high))
}

impl From<u64> for Dim {
    fn from(n: u64) -> Dim {
        Dim::Const(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Const(n) => write!(f, "{n}"),
            Dim::Sym(s) if is_plain(s) => f.write_str(s),
            Dim::Sym(s) => write!(f, "{:?}", &**s),
            Dim::Expr(e) => match &**e {
                DimExpr::Sum(terms, c) => {
                    f.write_str("(")?;
                    for (i, (d, k)) in terms.iter().enumerate() {
                        let plus = if i > 0 { " + " } else { "" };
                        if *k == 1 { write!(f, "{plus}{d}")? } else { write!(f, "{plus}{k}*{d}")? }
                    }
                    if *c != 0 {
                        write!(f, " + {c}")?;
                    }
                    f.write_str(")")
                }
                DimExpr::Product(factors) => {
                    let parts: Vec<String> = factors.iter().map(|d| d.to_string()).collect();
                    write!(f, "({})", parts.join("*"))
                }
                DimExpr::Div(a, b) => write!(f, "div({a}, {b})"),
                DimExpr::Max(a, b) => write!(f, "max({a}, {b})"),
                DimExpr::Min(a, b) => write!(f, "min({a}, {b})"),
            },
        }
    }
}

/// A symbol that text IR prints without quotes.
fn is_plain(s: &str) -> bool {
    let mut chars = s.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == '?')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '?')
        && !matches!(s, "div" | "max" | "min")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_products_normalise() {
        let (n, h) = (Dim::sym("N"), Dim::sym("H"));
        assert_eq!(n.add(&h).sub(&n), h);
        assert_eq!(n.mul(&Dim::Const(2)).add(&n), n.mul(&Dim::Const(3)));
        assert_eq!(n.mul(&h).div(&h), n);
        assert_eq!(n.mul(&Dim::Const(6)).div(&Dim::Const(3)), n.mul(&Dim::Const(2)));
        assert_eq!(h.offset(2).offset(-2), h);
    }

    #[test]
    fn bounds_decide_what_they_can() {
        let (n, m) = (Dim::sym("N"), Dim::sym("M"));
        let bounds = DimBounds::from([("N".to_string(), (1, 64)), ("M".to_string(), (3, 3))]);
        let conv = n.offset(-1).div(&Dim::Const(2)).offset(1);
        assert_eq!(conv.range(&bounds), (1, 32));
        assert_eq!(n.min_of(&Dim::Const(512)).within(&bounds), n);
        assert_eq!(n.max_of(&n.min_of(&Dim::Const(512))).within(&bounds), n);
        assert_eq!(n.min_of(&Dim::Const(32)).within(&bounds), n.min_of(&Dim::Const(32)));
        assert_eq!(n.mul(&m).within(&bounds), n.mul(&Dim::Const(3)));
        assert_eq!(n.sub(&m).range(&bounds), (0, 61));
        let halved = n.mul(&Dim::Const(32)).offset(-1).div(&Dim::Const(2)).offset(1);
        assert_eq!(halved.within(&bounds), n.mul(&Dim::Const(16)));
    }

    #[test]
    fn binding_evaluates_everything() {
        let h = Dim::sym("H");
        let out = h.offset(2 - 3).div(&Dim::Const(2)).offset(1);
        let bound = out.bind(&DimBindings::from([("H".to_string(), 224)]));
        assert_eq!(bound, Dim::Const(112));
    }

    #[test]
    fn coefficients_cancel_too() {
        let (b, w) = (Dim::sym("B"), Dim::sym("W"));
        let k = |n| Dim::Const(n);
        assert_eq!(b.mul(&k(4800)).exact_div(&b.mul(&k(120))), Some(k(40)));
        assert_eq!(b.mul(&w).mul(&k(12)).div(&w.mul(&k(4))), b.mul(&k(3)));
        assert_eq!(b.mul(&k(5)).exact_div(&b.mul(&k(2))), None);
        assert_eq!(b.exact_div(&b.mul(&k(2))), None);
        assert_eq!(b.mul(&k(512)).offset(512).div(&b.offset(1)), k(512));
        assert_eq!(b.mul(&k(512)).offset(511).exact_div(&b.offset(1)), None);
    }
}
