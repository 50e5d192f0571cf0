//! Reductions along axes that are computed.

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{Attrs, ValueId};

use super::{axis_counts, everywhere, flags, impossible, integers, require, vector};
use crate::composed::Build;

/// Most sets of axes that are tried.
const MOST_SETS: usize = 32;

/// Reduction `op` of operand 0 along the axes in operand 1. The declared shape leaves one set of axes, or a few; all of those are computed and the
/// right one is taken.
pub(crate) fn reduce(b: &mut Build, op: &str, attrs: &Attrs, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let (x, axes) = (b.0.input(0)?, b.0.input(1)?);
    let from = b.shape(x)?;
    let (axes, n) = integers(b, axes)?;
    let keep = attrs.int("keepdims").unwrap_or(1) != 0;
    let sets = fitting(&from, to, n as usize, keep);
    if sets.is_empty() {
        return Err(impossible(b, x, to));
    }
    if sets.len() > MOST_SETS {
        return Err(OpError::new(format!("{} sets of axes lead to the declared shape {to:?}", sets.len()))
            .help("make the axes a constant in the model"));
    }
    let (counts, valid) = axis_counts(b, axes, from.len())?;
    let one = b.int(1);
    let once = b.op("less_or_equal", &[counts, one])?;
    let (mut result, mut any): (Option<ValueId>, Option<ValueId>) = (None, None);
    for set in &sets {
        let wanted = vector(b, (0..from.len()).map(|d| u64::from(set.contains(&d))));
        let mut same = b.op("equal", &[counts, wanted])?;
        if keep {
            // Whether a dimension of extent 1 is reduced makes no difference then.
            let unit = flags(b, from.iter().map(|n| *n == 1));
            same = b.op("or", &[same, unit])?;
        }
        let same = everywhere(b, same)?;
        let list = vector(b, set.iter().map(|d| *d as u64));
        let y = b.with(op, &[x, list], attrs.clone())?;
        result = Some(match result {
            None => y,
            Some(others) => b.op("where", &[same, y, others])?,
        });
        any = Some(match any {
            None => same,
            Some(others) => b.op("or", &[others, same])?,
        });
    }
    let (y, any) = (result.expect("internal: a set of axes"), any.expect("internal: a set of axes"));
    Ok(vec![require(b, y, &[valid, once, any])?])
}

/// The sets of `n` axes that make shape `to`; with `keep`, one for all that differ in dimensions of extent 1.
fn fitting(from: &[u64], to: &[u64], n: usize, keep: bool) -> Vec<Vec<usize>> {
    if keep {
        let fits = from.len() == to.len() && from.iter().zip(to).all(|(f, t)| f == t || *t == 1);
        let needed: Vec<usize> = (0..from.len().min(to.len())).filter(|d| from[*d] != to[*d]).collect();
        let units: Vec<usize> = (0..from.len()).filter(|d| from[*d] == 1).collect();
        let Some(more) = n.checked_sub(needed.len()).filter(|m| fits && *m <= units.len()) else { return Vec::new() };
        let mut set = [needed, units[..more].to_vec()].concat();
        set.sort_unstable();
        return vec![set];
    }
    let mut sets = Vec::new();
    if from.len() == to.len() + n && from.len() <= 16 {
        grow(from, to, &mut Vec::new(), &mut sets);
    }
    sets
}

/// Extends the set of removed dimensions, dimension by dimension, keeping what can still become `to`.
fn grow(from: &[u64], to: &[u64], removed: &mut Vec<usize>, sets: &mut Vec<Vec<usize>>) {
    fn step(from: &[u64], to: &[u64], d: usize, removed: &mut Vec<usize>, sets: &mut Vec<Vec<usize>>) {
        if sets.len() > MOST_SETS {
            return;
        }
        let kept = d - removed.len();
        if d == from.len() {
            sets.push(removed.clone());
            return;
        }
        if removed.len() < from.len() - to.len() {
            removed.push(d);
            step(from, to, d + 1, removed, sets);
            removed.pop();
        }
        if to.get(kept) == Some(&from[d]) {
            step(from, to, d + 1, removed, sets);
        }
    }
    step(from, to, 0, removed, sets);
}
