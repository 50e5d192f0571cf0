//! Operators whose shape operands (a new shape, axes, counts, bounds) are only known at run time, while the model declares the shape of the result.
//!
//! Each becomes nodes whose shapes are the declared ones and which compute with the operands' values, and a `require` that ends the inference when
//! those values would have led to another shape.
//!
//! Where the model declares no shape, some operators compute as many elements as there can be, and cut them to those that turn up ([`counted`]).

mod assume;
mod bounded;
mod counted;
mod reduce;
mod selection;
mod shapes;
mod windows;

pub(crate) use assume::{Guess, assume};
pub(crate) use counted::{Sized, cut, or_counted};
pub(crate) use reduce::reduce;
pub(crate) use selection::{compress, non_zero, places};
pub(crate) use shapes::{one_hot, split, squeeze, unsqueeze};
pub(crate) use windows::{pad, slice};

use onnxc_ir::op::{ImportCx, OpError, OpResult};
use onnxc_ir::{DType, Tensor, TensorType, ValueId};

use crate::common::sample::int_attrs;
use crate::composed::Build;

/// The import `usual`; where it fails for a size that depends on data and the first result has a declared shape, `form`.
pub(crate) fn or_declared(
    cx: &mut dyn ImportCx,
    usual: impl FnOnce(&mut dyn ImportCx) -> OpResult<Vec<ValueId>>,
    form: impl FnOnce(&mut Build, &[u64]) -> OpResult<Vec<ValueId>>,
) -> OpResult<Vec<ValueId>> {
    let unknown = match usual(cx) {
        Err(error) if error.unknown_size => error,
        other => return other,
    };
    let Some(shape) = cx.declared(0).map(<[u64]>::to_vec) else { return Err(unknown) };
    if TensorType::fixed(DType::U8, &shape).least_bytes().is_none() {
        return Err(OpError::new(format!("the declared shape {shape:?} is too large")));
    }
    form(&mut Build(cx), &shape)
}

/// Operators with a form for a declared shape, and one for a bound.
macro_rules! sized {
    ($($name:ident)*) => {$(
        #[doc = concat!("`", stringify!($name), "` with a shape operand that is known at run time.")]
        pub(crate) fn $name(b: &mut Build, size: &Sized) -> OpResult<Vec<ValueId>> {
            match size {
                Sized::Declared(to) => shapes::$name(b, to),
                _ => bounded::$name(b, size),
            }
        }
    )*};
}

sized!(constant_of_shape expand range reshape tile top_k);

/// The error for a declared shape that no value of the operands could lead to.
fn impossible(b: &Build, x: ValueId, declared: &[u64]) -> OpError {
    OpError::new(format!("no value of the operands makes the declared shape {declared:?} out of {}", b.ty(x)))
        .help("correct the declared shape in the model, or make the operand a constant")
}

/// The integers of a vector (or scalar) operand as i64, and how many there are.
pub(crate) fn integers(b: &mut Build, x: ValueId) -> OpResult<(ValueId, u64)> {
    let ty = b.ty(x);
    if !ty.dtype.is_int() || ty.rank() > 1 {
        return Err(OpError::new(format!("{ty} is no vector of integers")));
    }
    let n = b.shape(x)?.first().copied().unwrap_or(1);
    let x = b.reshape(x, &[n])?;
    Ok((b.cast(x, DType::I64)?, n))
}

/// A constant vector.
pub(crate) fn vector(b: &mut Build, values: impl IntoIterator<Item = u64>) -> ValueId {
    b.ints(&values.into_iter().map(|v| v as i64).collect::<Vec<_>>())
}

/// A constant vector of bools.
fn flags(b: &mut Build, values: impl IntoIterator<Item = bool>) -> ValueId {
    let values: Vec<bool> = values.into_iter().collect();
    b.0.constant(Tensor::from_vec(&[values.len() as u64], values))
}

/// Whether a vector of bools holds everywhere, as a scalar.
fn everywhere(b: &mut Build, cond: ValueId) -> OpResult<ValueId> {
    if b.shape(cond)?.contains(&0) {
        return Ok(b.0.constant(Tensor::scalar(true)));
    }
    let axes = b.ints(&(0..b.ty(cond).rank() as i64).collect::<Vec<_>>());
    let number = b.cast(cond, DType::I32)?;
    let least =
        if b.ty(cond).rank() == 0 { number } else { b.with("reduce_min", &[number, axes], int_attrs(&[("keepdims", 0)]))? };
    b.cast(least, DType::Bool)
}

/// `x`, required that all conditions hold everywhere.
pub(crate) fn require(b: &mut Build, x: ValueId, conditions: &[ValueId]) -> OpResult<ValueId> {
    let mut all = None;
    for cond in conditions {
        let holds = everywhere(b, *cond)?;
        all = Some(match all {
            None => holds,
            Some(others) => b.op("and", &[others, holds])?,
        });
    }
    all.map_or(Ok(x), |ok| b.op("require", &[x, ok]))
}

/// Axis numbers as `0..rank`, and the condition that they were in `-rank..rank`.
fn axis_numbers(b: &mut Build, axes: ValueId, rank: usize) -> OpResult<(ValueId, ValueId)> {
    let rank = rank as i64;
    let (low, high) = (b.int(-rank), b.int(rank));
    let (above, below) = (b.op("greater_or_equal", &[axes, low])?, b.op("less", &[axes, high])?);
    let valid = b.op("and", &[above, below])?;
    let modulus = b.int(rank.max(1));
    Ok((b.op("mod", &[axes, modulus])?, valid))
}

/// How often each dimension of `0..rank` is among `axes`: a vector, and the condition that axes are valid.
fn axis_counts(b: &mut Build, axes: ValueId, rank: usize) -> OpResult<(ValueId, ValueId)> {
    let (axes, valid) = axis_numbers(b, axes, rank)?;
    let (column, row) = (b.unsqueeze(axes, &[1])?, b.range(rank as u64)?);
    let hit = b.op("equal", &[column, row])?;
    let hit = b.cast(hit, DType::I64)?;
    Ok((b.sum(hit, &[0])?, valid))
}
