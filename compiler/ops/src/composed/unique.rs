//! ONNX `Unique` (11): the distinct elements, or slices along an axis, where each is first, which of them each element is, and how many of each there are.
//!
//! Sorted rows that equal the one before them repeat it ([`crate::sort_rows`], which is stable: the first of equal rows stood first). Rows are counted
//! through; how many differ is known when the model runs, so results have as many rows as there are elements, cut to those.

use onnxc_ir::op::{Import, NEWEST, OpError, OpResult};
use onnxc_ir::{Attr, DType, Tensor, ValueId};

use super::Build;
use crate::at_run_time::{Sized, cut, or_counted, places};
use crate::common::axes::{axis, unknown};
use crate::common::sample::int_attrs;

/// ONNX `Unique`.
pub(crate) const UNIQUE: Import = Import {
    domain: "",
    name: "Unique",
    opsets: (11, NEWEST),
    build: |cx| or_counted(cx, |_| Err(unknown("the number of distinct elements")), unique),
};

fn unique(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
    let mut x = b.0.input(0)?;
    let shape = b.shape(x)?;
    let along = b.0.attrs().int("axis").map(|a| axis(a, shape.len())).transpose()?;
    if along.is_none() {
        x = b.reshape(x, &[shape.iter().product()])?;
    }
    let (shape, along) = (b.shape(x)?, along.unwrap_or(0));
    let n = shape[along];
    if n == 0 {
        return Err(OpError::new(format!("dimension {along} of {} is empty: nothing in it is distinct", b.ty(x))));
    }
    let most = size.or(shape.clone())?;
    let bound = most[along];
    if bound > n {
        return Err(OpError::new(format!("{bound} distinct elements are declared, there are {n} in all")));
    }
    let groups = Groups::of(b, x, along)?;
    let (first, inverse) =
        if b.0.attrs().int("sorted").unwrap_or(1) != 0 { (groups.first, groups.inverse) } else { groups.by_occurrence(b, n)? };
    let first = b.slice(first, 0, (0, bound as i64, 1))?;
    let y = b.with("gather", &[x, first], int_attrs(&[("axis", along as i64)]))?;
    let counts = add_up(b, inverse, n)?;
    let counts = b.slice(counts, 0, (0, bound as i64, 1))?;
    let cut = cut(b, size, (0, along), vec![(y, along), (first, 0), (counts, 0)], groups.number)?;
    let results = [cut[0], cut[1], inverse, cut[2]];
    Ok(results[..b.0.n_outputs().clamp(1, 4)].to_vec())
}

/// Equal rows together, in the order of their values.
struct Groups {
    /// Where the first row of each group is.
    first: ValueId,
    /// The group of each row.
    inverse: ValueId,
    /// How many there are.
    number: ValueId,
}

impl Groups {
    fn of(b: &mut Build, x: ValueId, along: usize) -> OpResult<Groups> {
        let shape = b.shape(x)?;
        let n = shape[along];
        let perm: Vec<usize> = std::iter::once(along).chain((0..shape.len()).filter(|d| *d != along)).collect();
        let rows = b.transpose(x, &perm)?;
        let rows = b.reshape(rows, &[n, shape.iter().product::<u64>() / n])?;
        let order = b.op("sort_rows", &[rows])?;
        let sorted = b.op("gather", &[rows, order])?;
        let differs = differs(b, sorted, n)?;
        let one = b.0.constant(Tensor::from_vec(&[1], vec![true]));
        let new = if n > 1 { b.concat(&[one, differs], 0)? } else { one };
        let (starts, number) = places(b, new, n)?;
        let first = b.op("gather", &[order, starts])?;
        let group = running(b, new)?;
        let none = b.filled(0, n)?;
        let inverse = b.with("scatter_elements", &[none, order, group], int_attrs(&[("axis", 0)]))?;
        Ok(Groups { first, inverse, number })
    }

    /// First rows and groups of rows, where groups are numbered as their first rows come.
    fn by_occurrence(&self, b: &mut Build, n: u64) -> OpResult<(ValueId, ValueId)> {
        // Behind the last group stand first rows of other groups, which are marked anyway.
        let (none, ones) = (b.filled(0, n)?, b.filled(1, n)?);
        let marks = b.with("scatter_elements", &[none, self.first, ones], int_attrs(&[("axis", 0)]))?;
        let marks = b.cast(marks, DType::Bool)?;
        let (first, _) = places(b, marks, n)?;
        let rank = running(b, marks)?;
        let number = b.op("gather", &[rank, self.first])?;
        Ok((first, b.op("gather", &[number, self.inverse])?))
    }
}

/// Whether each row but the first differs from the one before it. NaN is equal to itself.
fn differs(b: &mut Build, rows: ValueId, n: u64) -> OpResult<ValueId> {
    let (before, behind) = (b.slice(rows, 0, (0, n as i64 - 1, 1))?, b.slice(rows, 0, (1, n as i64, 1))?);
    let same = b.op("equal", &[before, behind])?;
    let mut other = b.op("not", &[same])?;
    if b.dtype(rows).is_float() {
        let nan = [before, behind].map(|x| b.op("is_nan", &[x]));
        let [p, q] = nan;
        let both = b.op("and", &[p?, q?])?;
        let number = b.op("not", &[both])?;
        other = b.op("and", &[other, number])?;
    }
    let other = b.cast(other, DType::I64)?;
    let axes = b.ints(&[1]);
    let any = b.with("reduce_sum", &[other, axes], int_attrs(&[("keepdims", 0)]))?;
    b.cast(any, DType::Bool)
}

/// How many flags before each are set, its own included, less one.
fn running(b: &mut Build, flags: ValueId) -> OpResult<ValueId> {
    let (number, zero, one) = (b.cast(flags, DType::I64)?, b.int(0), b.int(1));
    let sum = b.op("cumsum", &[number, zero])?;
    b.op("sub", &[sum, one])
}

/// How often each of `0..n` occurs.
fn add_up(b: &mut Build, numbers: ValueId, n: u64) -> OpResult<ValueId> {
    let (none, ones) = (b.filled(0, n)?, b.filled(1, n)?);
    let attrs = int_attrs(&[("axis", 0)]).with("reduction", Attr::Str("add".to_string()));
    b.with("scatter_elements", &[none, numbers, ones], attrs)
}
