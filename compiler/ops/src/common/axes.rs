//! Axis numbers, and operands that must be known when compiling.

use onnxc_ir::op::{InferCx, OpError, OpResult};

/// An axis from `-rank..rank` as an index.
pub(crate) fn axis(axis: i64, rank: usize) -> OpResult<usize> {
    let n = rank as i64;
    let at = if axis < 0 { axis.checked_add(n) } else { Some(axis) };
    at.filter(|a| (0..n).contains(a))
        .map(|a| a as usize)
        .ok_or_else(|| OpError::new(format!("axis {axis} does not exist in a tensor of rank {rank}")))
}

/// Several axes, sorted; repeated ones are refused.
pub(crate) fn axes(list: &[i64], rank: usize) -> OpResult<Vec<usize>> {
    let mut out = list.iter().map(|a| axis(*a, rank)).collect::<OpResult<Vec<_>>>()?;
    out.sort_unstable();
    if out.windows(2).any(|w| w[0] == w[1]) {
        return Err(OpError::new(format!("axes {list:?} name one dimension twice")));
    }
    Ok(out)
}

/// The constant integers of operand `i`, called `what` in the error.
pub(crate) fn const_ints(cx: &InferCx, i: usize, what: &str) -> OpResult<Vec<i64>> {
    let tensor = cx.constant(i).ok_or_else(|| unknown(what))?;
    tensor.to_i64s().ok_or_else(|| OpError::new(format!("{what} must be integers, not {}", tensor.dtype())))
}

/// The same, `None` when the operand is absent.
pub(crate) fn opt_const_ints(cx: &InferCx, i: usize, what: &str) -> OpResult<Option<Vec<i64>>> {
    if cx.opt(i).is_none() { Ok(None) } else { const_ints(cx, i, what).map(Some) }
}

/// The error for a value that must be known when compiling.
pub(crate) fn unknown(what: &str) -> OpError {
    let error = OpError::new(format!("{what} is not known when compiling: the shape of the result would depend on data"))
        .help("fix the dimensions with --dim or --shape, or make this operand a constant in the model (--const for an input), or declare the result's shape");
    OpError { unknown_size: true, ..error }
}
