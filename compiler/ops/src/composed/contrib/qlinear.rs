//! Operators on 8-bit numbers: dequantised, computed, quantised again.

use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, DType, ValueId};

use super::import;
use super::layout::{channels_first, channels_last};
use crate::common::import::attrs_without;
use crate::common::sample::int_attrs;
use crate::composed::Build;
use crate::quantized::params::check_byte;

pub(crate) const QLINEAR_ADD: Import = import("QLinearAdd", |cx| binary(cx, "add"));
pub(crate) const QLINEAR_MUL: Import = import("QLinearMul", |cx| binary(cx, "mul"));
pub(crate) const QLINEAR_SIGMOID: Import = import("QLinearSigmoid", |cx| unary(cx, |b, x| b.op("sigmoid", &[x])));
pub(crate) const QLINEAR_LEAKY_RELU: Import = import("QLinearLeakyRelu", |cx| {
    let alpha = Attrs::default().with("alpha", Attr::Float(cx.attrs().float("alpha").unwrap_or(0.01)));
    unary(cx, |b, x| b.with("leaky_relu", &[x], alpha))
});

/// `QLinearSoftmax`; before opset 13 a row is all dimensions from `axis` on.
pub(crate) const QLINEAR_SOFTMAX: Import = import("QLinearSoftmax", |cx| {
    let old = cx.attrs().int("opset").unwrap_or(13) < 13;
    let axis = cx.attrs().int("axis").unwrap_or(if old { 1 } else { -1 });
    let attrs = int_attrs(&[("axis", axis)]);
    let attrs = if old { attrs.with("flatten", Attr::Int(1)) } else { attrs };
    unary(cx, |b, x| b.with("softmax", &[x], attrs))
});

pub(crate) const QLINEAR_REDUCE_MEAN: Import = import("QLinearReduceMean", |cx| {
    let axes = cx.attrs().ints("axes").map(<[i64]>::to_vec);
    let attrs = int_attrs(&[("keepdims", cx.attrs().int("keepdims").unwrap_or(1))]);
    unary(cx, |b, x| {
        let axes = axes.unwrap_or_else(|| (0..b.ty(x).rank() as i64).collect());
        let axes = b.ints(&axes);
        b.with("reduce_mean", &[x, axes], attrs)
    })
});

pub(crate) const QLINEAR_AVERAGE_POOL: Import = import("QLinearAveragePool", |cx| {
    let attrs = attrs_without(cx, &["channels_last"]);
    pool(cx, |b, x| b.with("average_pool", &[x], attrs))
});

/// `QLinearGlobalAveragePool`: the mean over all dimensions behind the channels.
pub(crate) const QLINEAR_GLOBAL_AVERAGE_POOL: Import = import("QLinearGlobalAveragePool", |cx| {
    pool(cx, |b, x| {
        let axes: Vec<i64> = (2..b.ty(x).rank() as i64).collect();
        let axes = b.ints(&axes);
        b.with("reduce_mean", &[x, axes], int_attrs(&[("keepdims", 1)]))
    })
});

/// `QLinearConcat`: every operand with its own scale and zero point, the result's before them.
pub(crate) const QLINEAR_CONCAT: Import = import("QLinearConcat", |cx| {
    let (scale, zero) = (cx.input(0)?, cx.input(1)?);
    let n = cx.inputs().len() - 2;
    if n == 0 || !n.is_multiple_of(3) {
        return Err(OpError::new(format!(
            "{n} operands behind the result's scale and zero point: three for each part are needed"
        )));
    }
    let axis = cx.attrs().int("axis").unwrap_or(0);
    let parts = (0..n / 3).map(|i| Quantised::new(cx, 2 + 3 * i, 3 + 3 * i, 4 + 3 * i)?.real(&mut Build(cx)));
    let parts = parts.collect::<OpResult<Vec<_>>>()?;
    let mut b = Build(cx);
    let y = b.concat(&parts, axis)?;
    let dtype = b.dtype(zero);
    Ok(vec![quantise(&mut b, y, (scale, Some(zero)), dtype)?])
});

/// `QLinearWhere`.
pub(crate) const QLINEAR_WHERE: Import = import("QLinearWhere", |cx| {
    let (condition, x, y) = (cx.input(0)?, Quantised::new(cx, 1, 2, 3)?, Quantised::new(cx, 4, 5, 6)?);
    let to = (cx.input(7)?, cx.opt_input(8));
    let mut b = Build(cx);
    let (a, c) = (x.real(&mut b)?, y.real(&mut b)?);
    let z = b.op("where", &[condition, a, c])?;
    Ok(vec![quantise(&mut b, z, to, x.dtype)?])
});

/// A byte operand with its parameters.
struct Quantised {
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    dtype: DType,
}

impl Quantised {
    fn new(cx: &mut dyn ImportCx, x: usize, scale: usize, zero: usize) -> OpResult<Quantised> {
        let dtype = cx.ty(x)?.dtype;
        check_byte(dtype, "an operand")?;
        let (x, scale, zero) = (cx.input(x)?, cx.input(scale)?, cx.opt_input(zero));
        one(cx, scale, "a scale")?;
        if cx.graph().ty(scale).dtype != DType::F32 {
            return Err(OpError::new(format!("a scale is {}, it must be f32", cx.graph().ty(scale))));
        }
        if let Some(zero) = zero {
            one(cx, zero, "a zero point")?;
            if cx.graph().ty(zero).dtype != dtype {
                return Err(OpError::new(format!("a zero point is {}, its operand {dtype}", cx.graph().ty(zero))));
            }
        }
        Ok(Quantised { x, scale, zero, dtype })
    }

    fn real(&self, b: &mut Build) -> OpResult<ValueId> {
        let inputs: Vec<ValueId> = [self.x, self.scale].into_iter().chain(self.zero).collect();
        b.op("dequantize_linear", &inputs)
    }
}

/// Refuses parameters of more than one element.
fn one(cx: &dyn ImportCx, id: ValueId, what: &str) -> OpResult<()> {
    let ty = cx.graph().ty(id);
    if ty.rank() > 1 || ty.shape.iter().any(|d| d.as_const() != Some(1)) {
        return Err(OpError::new(format!("{what} is {ty}, it must have one element")));
    }
    Ok(())
}

/// To 8 bits; the type is the zero point's, or `like` without one.
pub(super) fn quantise(b: &mut Build, y: ValueId, (scale, zero): (ValueId, Option<ValueId>), like: DType) -> OpResult<ValueId> {
    one(b.0, scale, "the result's scale")?;
    let zero = match zero {
        Some(zero) => zero,
        None => b.scalar(like, 0.0)?,
    };
    one(b.0, zero, "the result's zero point")?;
    check_byte(b.dtype(zero), "a result")?;
    b.op("quantize_linear", &[y, scale, zero])
}

fn binary(cx: &mut dyn ImportCx, op: &str) -> OpResult<Vec<ValueId>> {
    let (x, y) = (Quantised::new(cx, 0, 1, 2)?, Quantised::new(cx, 3, 4, 5)?);
    let to = (cx.input(6)?, cx.opt_input(7));
    let mut b = Build(cx);
    let (x_real, y_real) = (x.real(&mut b)?, y.real(&mut b)?);
    let z = b.op(op, &[x_real, y_real])?;
    Ok(vec![quantise(&mut b, z, to, x.dtype)?])
}

fn unary(cx: &mut dyn ImportCx, f: impl FnOnce(&mut Build, ValueId) -> OpResult<ValueId>) -> OpResult<Vec<ValueId>> {
    let x = Quantised::new(cx, 0, 1, 2)?;
    let to = (cx.input(3)?, cx.opt_input(4));
    let mut b = Build(cx);
    let real = x.real(&mut b)?;
    let y = f(&mut b, real)?;
    Ok(vec![quantise(&mut b, y, to, x.dtype)?])
}

/// A pool, with channels last where the attribute says so.
fn pool(cx: &mut dyn ImportCx, f: impl FnOnce(&mut Build, ValueId) -> OpResult<ValueId>) -> OpResult<Vec<ValueId>> {
    let last = cx.attrs().int("channels_last").unwrap_or(0) != 0;
    if cx.ty(0)?.rank() < 3 {
        return Err(OpError::new(format!("{} has no spatial dimensions", cx.ty(0)?)));
    }
    unary(cx, |b, x| {
        if !last {
            return f(b, x);
        }
        let x = channels_first(b, x)?;
        let y = f(b, x)?;
        channels_last(b, y)
    })
}
