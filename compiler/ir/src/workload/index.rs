//! Values of index expressions while a loop nest is walked: linear in the rounds of loops where possible, with bounds otherwise.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::lir::{BufId, BufKind, Expr, Func, Var};
use crate::scalar::{BinOp, UnOp};

/// `base + sum of coefficient * round of a loop + rest`.
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct Index {
    pub base: i64,
    /// Coefficients, none of them zero, of loops that are walked once for all their rounds.
    pub terms: BTreeMap<Var, i64>,
    /// Loops that the part depends on that is not linear.
    pub free: BTreeSet<Var>,
    /// Smallest and largest value of that part; None: not known.
    pub rest: Option<(i64, i64)>,
}

impl Index {
    pub fn of(base: i64) -> Index {
        Index { base, rest: Some((0, 0)), ..Index::default() }
    }

    /// Round `var` of a loop, times `step`.
    pub fn round(var: Var, step: i64) -> Index {
        Index { terms: BTreeMap::from([(var, step)]), ..Index::of(0) }
    }

    fn unknown(free: BTreeSet<Var>, rest: Option<(i64, i64)>) -> Index {
        Index { base: 0, terms: BTreeMap::new(), free, rest }
    }

    fn truth(holds: bool) -> Index {
        Index::of(i64::from(holds))
    }

    /// Loops that it depends on.
    pub fn loops(&self) -> BTreeSet<Var> {
        self.terms.keys().copied().chain(self.free.iter().copied()).collect()
    }

    pub fn constant(&self) -> Option<i64> {
        (self.terms.is_empty() && self.free.is_empty() && self.rest == Some((0, 0))).then_some(self.base)
    }

    pub fn scaled(mut self, k: i64) -> Index {
        if k == 0 {
            return Index::of(0);
        }
        self.base = self.base.saturating_mul(k);
        self.terms.values_mut().for_each(|c| *c = c.saturating_mul(k));
        let ends =
            |(a, b): (i64, i64)| (a.saturating_mul(k).min(b.saturating_mul(k)), a.saturating_mul(k).max(b.saturating_mul(k)));
        self.rest = self.rest.map(ends);
        self
    }

    pub fn plus(mut self, other: Index) -> Index {
        self.base = self.base.saturating_add(other.base);
        for (v, k) in other.terms {
            *self.terms.entry(v).or_default() += k;
        }
        self.terms.retain(|_, k| *k != 0);
        self.free.extend(other.free);
        self.rest = self.rest.zip(other.rest).map(|(a, b)| (a.0.saturating_add(b.0), a.1.saturating_add(b.1)));
        self
    }
}

/// An entry of a table of constants.
fn tabled(table: &[[u8; 8]], index: &Index) -> Index {
    let number = |entry: &[u8; 8]| i64::from_le_bytes(*entry);
    if let Some(entry) = index.constant().and_then(|i| table.get(usize::try_from(i).ok()?)) {
        return Index::of(number(entry));
    }
    let numbers = || table.iter().map(number);
    Index::unknown(index.loops(), numbers().min().zip(numbers().max()))
}

/// What is known of variables at a place in a function.
pub(super) struct Scope<'a> {
    pub func: &'a Func,
    /// Smallest and largest values in the table of sizes.
    pub sizes: &'a [(u64, u64)],
    /// Rounds of the loops around that are walked once for all their rounds.
    pub rounds: HashMap<Var, u64>,
    pub values: HashMap<Var, Index>,
}

impl Scope<'_> {
    /// Smallest and largest value.
    pub fn range(&self, index: &Index) -> Option<(i64, i64)> {
        let (mut low, mut high) = index.rest?;
        for (v, k) in &index.terms {
            let last = k.saturating_mul(self.rounds.get(v).map_or(0, |n| n.saturating_sub(1) as i64));
            (low, high) = (low.saturating_add(last.min(0)), high.saturating_add(last.max(0)));
        }
        Some((low.saturating_add(index.base), high.saturating_add(index.base)))
    }

    pub fn eval(&self, e: &Expr) -> Index {
        match e {
            Expr::Int(k) => Index::of(*k),
            Expr::Const(t, bits) if !t.is_float() => Index::of(*bits as i64),
            Expr::Var(v) => self.values.get(v).cloned().unwrap_or_else(|| self.anything(None)),
            Expr::Cast(t, a) if t.is_int() => self.eval(a),
            Expr::Load(b, i) => self.loaded(*b, &self.eval(i)),
            Expr::Bin(op, a, b) => self.binary(*op, self.eval(a), self.eval(b)),
            Expr::Un(UnOp::Not, a) if self.func.dtype(a) == crate::DType::Bool => match self.eval(a) {
                a if a.constant().is_some() => Index::truth(a.base == 0),
                a => Index::unknown(a.loops(), a.rest.and(Some((0, 1)))),
            },
            Expr::Select(c, a, b) => match self.eval(c) {
                c if c.constant().is_some() => self.eval(if c.base != 0 { a } else { b }),
                c => {
                    let (a, b) = (self.eval(a), self.eval(b));
                    let hull = self.range(&a).zip(self.range(&b)).map(|(a, b)| (a.0.min(b.0), a.1.max(b.1)));
                    Index::unknown(c.loops().into_iter().chain(a.loops()).chain(b.loops()).collect(), hull)
                }
            },
            Expr::Un(..) | Expr::Fma(..) | Expr::Cast(..) | Expr::Const(..) => self.anything(None),
        }
    }

    /// Something that all loops around may decide on.
    fn anything(&self, rest: Option<(i64, i64)>) -> Index {
        Index::unknown(self.rounds.keys().copied().collect(), rest)
    }

    fn loaded(&self, buf: BufId, index: &Index) -> Index {
        let buffer = &self.func.bufs[buf.0 as usize];
        if let (BufKind::Const(blob), crate::DType::I64) = (&buffer.kind, buffer.dtype)
            && let Some(bytes) = blob.ready()
        {
            return tabled(bytes.as_chunks().0, index);
        }
        let size = match (&buffer.kind, index.constant()) {
            (BufKind::Sizes, Some(i)) => usize::try_from(i).ok().and_then(|i| self.sizes.get(i)),
            _ => None,
        };
        match size {
            Some((low, high)) => {
                let limit = |n: &u64| i64::try_from(*n).unwrap_or(i64::MAX);
                Index { rest: Some((0, limit(high) - limit(low))), ..Index::of(limit(low)) }
            }
            None => Index::unknown(index.loops(), None),
        }
    }

    fn binary(&self, op: BinOp, a: Index, b: Index) -> Index {
        let known = a.constant().zip(b.constant());
        match (op, known, b.constant()) {
            (BinOp::Add, ..) => a.plus(b),
            (BinOp::Sub, ..) => a.plus(b.scaled(-1)),
            (BinOp::Mul, _, Some(k)) => a.scaled(k),
            (BinOp::Mul, ..) if a.constant().is_some() => b.scaled(a.base),
            (BinOp::Shl, _, Some(k @ 0..63)) => a.scaled(1 << k),
            (BinOp::Div, Some((x, y)), _) => Index::of(x.checked_div(y).unwrap_or(0)),
            (BinOp::Mod, Some((x, y)), _) => Index::of(x.checked_rem_euclid(y).unwrap_or(0)),
            (BinOp::Rem, Some((x, y)), _) => Index::of(x.checked_rem(y).unwrap_or(0)),
            (BinOp::Div, _, Some(k @ 1..)) => {
                let range = self.range(&a).map(|(low, high)| (low / k, high / k));
                Index::unknown(a.loops(), range)
            }
            (BinOp::Mod | BinOp::Rem, _, Some(k @ 1..)) => match self.range(&a) {
                Some((0.., high)) if high < k => a,
                Some((0.., _)) => Index::unknown(a.loops(), Some((0, k - 1))),
                _ => Index::unknown(a.loops(), None),
            },
            (BinOp::Min | BinOp::Max, ..) => self.extreme(op == BinOp::Min, a, b),
            (BinOp::And | BinOp::Or, ..) => self.logic(op == BinOp::And, a, b),
            _ if op.is_comparison() => self.compare(op, &a, &b),
            _ => Index::unknown(a.loops().into_iter().chain(b.loops()).collect(), None),
        }
    }

    fn extreme(&self, min: bool, a: Index, b: Index) -> Index {
        let difference = self.range(&a.clone().plus(b.clone().scaled(-1)));
        match difference {
            Some((_, ..=0)) => return if min { a } else { b },
            Some((0.., _)) => return if min { b } else { a },
            _ => {}
        }
        let pick = |x: i64, y: i64| if min { x.min(y) } else { x.max(y) };
        let range = self.range(&a).zip(self.range(&b)).map(|(a, b)| (pick(a.0, b.0), pick(a.1, b.1)));
        Index::unknown(a.loops().into_iter().chain(b.loops()).collect(), range)
    }

    /// Of truth values; bits of integers are not followed.
    fn logic(&self, and: bool, a: Index, b: Index) -> Index {
        let truth = |i: &Index| self.range(i).filter(|r| r.0 >= 0 && r.1 <= 1);
        match (truth(&a), truth(&b)) {
            (Some((x, y)), _) if x == y && (x == 0) == and => a,
            (_, Some((x, y))) if x == y && (x == 0) == and => b,
            (Some((x, y)), Some(_)) if x == y => b,
            (Some(_), Some((x, y))) if x == y => a,
            (x, y) => Index::unknown(a.loops().into_iter().chain(b.loops()).collect(), x.and(y).and(Some((0, 1)))),
        }
    }

    fn compare(&self, op: BinOp, a: &Index, b: &Index) -> Index {
        let loops = || a.loops().into_iter().chain(b.loops()).collect();
        let Some((low, high)) = self.range(&a.clone().plus(b.clone().scaled(-1))) else {
            return Index::unknown(loops(), None);
        };
        // (always, never) of a - b against zero.
        let (always, never) = match op {
            BinOp::Lt => (high < 0, low >= 0),
            BinOp::Le => (high <= 0, low > 0),
            BinOp::Gt => (low > 0, high <= 0),
            BinOp::Ge => (low >= 0, high < 0),
            BinOp::Eq => (low == 0 && high == 0, low > 0 || high < 0),
            _ => (low > 0 || high < 0, low == 0 && high == 0),
        };
        if always || never { Index::truth(always) } else { Index::unknown(loops(), Some((0, 1))) }
    }
}
