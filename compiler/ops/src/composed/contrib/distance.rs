//! `CDist`: distances between all rows of two matrices.

use onnxc_ir::ValueId;
use onnxc_ir::op::{Import, OpError, OpResult};

use super::import;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// `CDist`, by `|a|^2 + |b|^2 - 2ab`, as ONNX Runtime computes it: one product instead of a difference for every pair.
pub(crate) const CDIST: Import = import("CDist", |cx| {
    let (x, y) = (cx.input(0)?, cx.input(1)?);
    let metric = cx.attrs().str("metric").unwrap_or("sqeuclidean").to_string();
    let mut b = Build(cx);
    if b.ty(x).rank() != 2 || b.ty(y).rank() != 2 {
        return Err(OpError::new(format!("operands are {} and {}: two matrices are needed", b.ty(x), b.ty(y))));
    }
    let other = b.transpose(y, &[1, 0])?;
    let product = b.op("matmul", &[x, other])?;
    let minus_two = b.scalar(b.dtype(x), -2.0)?;
    let product = b.op("mul", &[product, minus_two])?;
    let (xs, ys) = (squares(&mut b, x)?, squares(&mut b, y)?);
    let ys = b.transpose(ys, &[1, 0])?;
    let sum = b.op("add", &[product, xs])?;
    let sum = b.op("add", &[sum, ys])?;
    // Rounding may have made the distance of equal rows negative.
    let zero = b.scalar(b.dtype(x), 0.0)?;
    let square = b.op("max", &[sum, zero])?;
    match metric.as_str() {
        "sqeuclidean" => Ok(vec![square]),
        "euclidean" => Ok(vec![b.op("sqrt", &[square])?]),
        other => Err(OpError::new(format!("metric {other:?} is unknown")).help("euclidean or sqeuclidean")),
    }
});

/// The sum of squares of every row, as a column.
fn squares(b: &mut Build, x: ValueId) -> OpResult<ValueId> {
    let axes = b.ints(&[1]);
    b.with("reduce_sum_square", &[x, axes], int_attrs(&[("keepdims", 1)]))
}
