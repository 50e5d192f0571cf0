//! What quantised operators share: requantisation, zero points, parameters per tensor, axis or block.

use onnxc_ir::op::{InferCx, OpError, OpResult};
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType};

/// u8 or i8.
pub(crate) fn check_byte(dtype: DType, what: &str) -> OpResult<()> {
    match dtype {
        DType::U8 | DType::I8 => Ok(()),
        _ => Err(OpError::new(format!("{what} of type {dtype} is not supported")).help("use u8 or i8")),
    }
}

/// Operands that are multiplied: bytes by bytes, or signed words by signed words.
pub(crate) fn check_factors(a: DType, b: DType) -> OpResult<()> {
    match (a, b) {
        (DType::I16, DType::I16) => Ok(()),
        _ => check_byte(a, "an operand").and_then(|()| check_byte(b, "what it is multiplied by")),
    }
}

/// What sums are requantised to: u8, i8 or i16.
pub(crate) fn check_result(dtype: DType) -> OpResult<()> {
    if dtype == DType::I16 { Ok(()) } else { check_byte(dtype, "a result") }
}

/// `round(acc * multiplier) + zero` inside the range of `dtype`; one rounding to nearest even, the zero point added in integers.
pub(crate) fn requantize(acc: i32, multiplier: f32, zero: i64, dtype: DType) -> i64 {
    round_clamp(acc as f32 * multiplier, zero, dtype)
}

/// `round(x) + zero` inside the range of an integer type of at most 16 bits.
pub(crate) fn round_clamp(x: f32, zero: i64, dtype: DType) -> i64 {
    let (low, high) = dtype.int_range().expect("internal: an integer type");
    // The limits are far beyond the range of 16 bits with any zero point; NaN becomes 0.
    let rounded = x.clamp(-1e6, 1e6).round_ties_even() as i64;
    (rounded + zero).clamp(low as i64, high as i64)
}

/// Smallest and largest element, or 0 if that is beyond; NaN where there is one, as `BinOp::Min` and `BinOp::Max` have it.
pub(crate) fn range_with_zero(values: &[f32]) -> (f32, f32) {
    let end = |beyond: fn(f32, f32) -> bool| {
        values.iter().fold(0f32, |a, b| if !a.is_nan() && (b.is_nan() || beyond(*b, a)) { *b } else { a })
    };
    (end(|b, a| b < a), end(|b, a| b > a))
}

/// How the elements of a scale or zero point spread over a tensor of rank `rank`.
pub(crate) enum Spread {
    /// One for all.
    Tensor,
    /// One per index along an axis.
    Axis(usize),
    /// One per block of this many elements along an axis, and per index of the other dimensions.
    Block(usize, u64),
}

impl Spread {
    /// From the shape of the scale, which a zero point must have too, and the attributes `axis` and `block_size`.
    pub(crate) fn new(attrs: &Attrs, x: &TensorType, scale: &TensorType, zero: Option<&TensorType>) -> OpResult<Spread> {
        let one = |ty: &TensorType| ty.shape.iter().all(Dim::is_one);
        if let Some(zero) = zero.filter(|z| !(alike(z, scale) || one(z) && one(scale))) {
            return Err(OpError::new(format!("zero points are {zero} and scales {scale}: they must have one shape")));
        }
        let axis = || crate::common::axes::axis(attrs.int("axis").unwrap_or(1), x.rank());
        let block = attrs.int("block_size").unwrap_or(0);
        let count = scale.shape.iter().try_fold(1u64, |n, d| d.as_const().map(|d| n.saturating_mul(d)));
        if block > 0 {
            let axis = axis()?;
            if scale.rank() != x.rank() {
                return Err(OpError::new(format!("block-wise scales of type {scale} for a tensor {x}")));
            }
            let size = Dim::Const(block as u64);
            let blocks = |d: usize| if d == axis { x.shape[d].div_ceil(&size) } else { x.shape[d].clone() };
            let wanted = TensorType::new(scale.dtype, (0..x.rank()).map(blocks).collect());
            if !alike(scale, &wanted) {
                return Err(OpError::new(format!(
                    "scales are {scale}: blocks of {block} along axis {axis} of {x} need {wanted}"
                )));
            }
            return Ok(Spread::Block(axis, block as u64));
        }
        match (scale.rank(), count) {
            (0, _) => Ok(Spread::Tensor),
            (1, Some(1)) if x.rank() != 1 || x.shape[0].as_const() == Some(1) => Ok(Spread::Tensor),
            (1, Some(1)) => Ok(Spread::Tensor),
            (1, _) => {
                let axis = axis()?;
                match (x.shape[axis].as_const(), count) {
                    (Some(n), Some(m)) if n != m => Err(OpError::new(format!("{m} scales for {n} elements along axis {axis}"))),
                    _ => Ok(Spread::Axis(axis)),
                }
            }
            _ => {
                Err(OpError::new(format!("scales of type {scale} need block_size"))
                    .help("export with per-tensor or per-axis scales"))
            }
        }
    }

    /// Row-major index of the parameter for a coordinate.
    pub(crate) fn index(&self, at: &[usize], scale: &[u64]) -> usize {
        match self {
            Spread::Tensor => 0,
            Spread::Axis(d) => at[*d],
            Spread::Block(axis, n) => {
                let coordinate = |d: usize| if d == *axis { at[d] / *n as usize } else { at[d] };
                scale.iter().enumerate().fold(0, |i, (d, extent)| i * *extent as usize + coordinate(d))
            }
        }
    }
}

/// No two extents that are known to differ.
fn alike(a: &TensorType, b: &TensorType) -> bool {
    let same = |(m, n): (&Dim, &Dim)| m.as_const().zip(n.as_const()).is_none_or(|(m, n)| m == n);
    a.rank() == b.rank() && a.shape.iter().zip(&b.shape).all(same)
}

/// One f32 scale.
pub(crate) fn scalar_f32(t: &Tensor) -> OpResult<f32> {
    let values = t.to_f64s().filter(|v| v.len() == 1);
    values.map(|v| v[0] as f32).ok_or_else(|| OpError::new("a scale must have one element"))
}

/// One zero point; 0 when it is absent.
pub(crate) fn scalar_zero(t: Option<&Tensor>) -> OpResult<i64> {
    let Some(t) = t else { return Ok(0) };
    let values = t.to_i64s().filter(|v| v.len() == 1);
    values.map(|v| v[0]).ok_or_else(|| OpError::new("this zero point must have one element"))
}

/// Refuses a zero point or scale `i` that does not have one element.
pub(crate) fn check_scalar(cx: &InferCx, i: usize, what: &str) -> OpResult<()> {
    let Some(ty) = cx.opt(i) else { return Ok(()) };
    if ty.rank() > 1 || ty.shape.iter().any(|d| d.as_const().is_some_and(|n| n != 1)) {
        return Err(OpError::new(format!("{what} of type {ty} must have one element")));
    }
    Ok(())
}

/// Refuses a parameter `i` that has neither one element nor `n`.
pub(crate) fn check_per_channel(cx: &InferCx, i: usize, n: Option<u64>, what: &str) -> OpResult<()> {
    let Some(ty) = cx.opt(i) else { return Ok(()) };
    let count = ty.const_shape().map(|s| s.iter().product::<u64>());
    if ty.rank() > 1 || count.zip(n).is_some_and(|(c, n)| c != 1 && c != n) {
        return Err(OpError::new(format!("{what} of type {ty} needs 1 or {} elements", n.unwrap_or(0))));
    }
    Ok(())
}
