//! Products of 8-bit matrices whose results or left operands are floats.

use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};
use onnxc_ir::{DType, ValueId};

use super::import;
use super::qlinear::quantise;
use crate::composed::Build;

/// `DynamicQuantizeMatMul`: the left operand is quantised as `DynamicQuantizeLinear` does it.
pub(crate) const DYNAMIC_QUANTIZE_MATMUL: Import = import("DynamicQuantizeMatMul", |cx| {
    let (a, right, scale, zero, bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.opt_input(3), cx.opt_input(4));
    let quantised = cx.node("dynamic_quantize_linear", &[Some(a)], Default::default())?;
    let &[bytes, a_scale, a_zero] = &quantised[..] else { return Err(OpError::new("internal: three results are expected")) };
    Ok(vec![Product { a: (bytes, a_scale, Some(a_zero)), b: (right, scale, zero), bias }.real(cx)?])
});

/// `MatMulIntegerToFloat`.
pub(crate) const MATMUL_INTEGER_TO_FLOAT: Import = import("MatMulIntegerToFloat", |cx| {
    let (a, right, a_scale, b_scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (a_zero, b_zero, bias) = (cx.opt_input(4), cx.opt_input(5), cx.opt_input(6));
    Ok(vec![Product { a: (a, a_scale, a_zero), b: (right, b_scale, b_zero), bias }.real(cx)?])
});

/// Operands with scale and zero point.
pub(super) struct Product {
    pub a: (ValueId, ValueId, Option<ValueId>),
    pub b: (ValueId, ValueId, Option<ValueId>),
    pub bias: Option<ValueId>,
}

impl Product {
    /// The product as floats.
    pub(super) fn real(&self, cx: &mut dyn ImportCx) -> OpResult<ValueId> {
        let sums = cx.node("matmul_integer", &[Some(self.a.0), Some(self.b.0), self.a.2, self.b.2], Default::default())?[0];
        let mut b = Build(cx);
        let shape = b.ty(sums).shape;
        let sums = b.cast(sums, DType::F32)?;
        let scale = b.op("mul", &[self.a.1, self.b.1])?;
        let mut y = b.op("mul", &[sums, scale])?;
        if let Some(bias) = self.bias {
            y = b.op("add", &[y, bias])?;
        }
        if b.ty(y).shape != shape {
            let reason = format!("scales or a bias widen the product to {}", b.ty(y));
            return Err(OpError::new(reason).help("one element, or one per column"));
        }
        Ok(y)
    }
}

/// `QGemm`: `alpha * scale_a * scale_b * (A * B + C)` in integers up to the scale; 8 bits where the result has a scale, else floats.
pub(crate) const QGEMM: Import = import("QGemm", |cx| {
    let (a, a_scale, a_zero) = (cx.input(0)?, cx.input(1)?, cx.opt_input(2));
    let (right, b_scale, b_zero) = (cx.input(3)?, cx.input(4)?, cx.opt_input(5));
    let (c, y_scale, y_zero) = (cx.opt_input(6), cx.opt_input(7), cx.opt_input(8));
    let alpha = f64::from(cx.attrs().float("alpha").unwrap_or(1.0));
    let flag = |name: &str| cx.attrs().int(name).unwrap_or(0) != 0;
    let turned = (flag("transA"), flag("transB"));
    let dtype = cx.ty(0)?.dtype;
    let mut b = Build(cx);
    let (a, right) = (matrix(&mut b, a, turned.0)?, matrix(&mut b, right, turned.1)?);
    let mut sums = b.0.node("matmul_integer", &[Some(a), Some(right), a_zero, b_zero], Default::default())?[0];
    let shape = b.ty(sums).shape;
    if let Some(c) = c {
        sums = b.op("add", &[sums, c])?;
    }
    let real = b.cast(sums, DType::F32)?;
    let mut scale = b.op("mul", &[a_scale, b_scale])?;
    if alpha != 1.0 {
        let alpha = b.scalar(DType::F32, alpha)?;
        scale = b.op("mul", &[scale, alpha])?;
    }
    let y = b.op("mul", &[real, scale])?;
    if b.ty(y).shape != shape {
        return Err(OpError::new(format!("scales or C widen the product to {}", b.ty(y))));
    }
    match y_scale {
        Some(scale) => Ok(vec![quantise(&mut b, y, (scale, y_zero), dtype)?]),
        None => Ok(vec![y]),
    }
});

/// An operand of two dimensions, transposed or not.
fn matrix(b: &mut Build, x: ValueId, turned: bool) -> OpResult<ValueId> {
    if b.ty(x).rank() != 2 {
        return Err(OpError::new(format!("an operand is {}, a matrix is needed", b.ty(x))));
    }
    if turned { b.transpose(x, &[1, 0]) } else { Ok(x) }
}
