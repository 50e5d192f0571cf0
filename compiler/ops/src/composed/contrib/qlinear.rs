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
    let parts = (0..n / 3).map(|i| {
        let part = Quantised::new(cx, 2 + 3 * i, 3 + 3 * i, 4 + 3 * i)?;
        part.as_result(&mut Build(cx), (scale, zero))
    });
    let parts = parts.collect::<OpResult<Vec<_>>>()?;
    Ok(vec![Build(cx).concat(&parts, axis)?])
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

    /// `(x - zero) * scale`, elementwise, so that it fuses with what follows.
    fn real(&self, b: &mut Build) -> OpResult<ValueId> {
        let mut y = b.cast(self.x, DType::F32)?;
        if let Some(zero) = self.zero {
            let zero = scalar(b, zero)?;
            y = b.op("sub", &[y, zero])?;
        }
        let scale = scalar(b, self.scale)?;
        b.op("mul", &[y, scale])
    }

    /// The same number in the parameters of the result: its bytes where those are equal already.
    fn as_result(&self, b: &mut Build, to: (ValueId, ValueId)) -> OpResult<ValueId> {
        let graph = b.0.graph();
        let same = |x: ValueId, y: ValueId| {
            let (x, y) = (graph.constant(x), graph.constant(y));
            x.zip(y).is_some_and(|(x, y)| x.dtype() == y.dtype() && x.bytes() == y.bytes())
        };
        if same(self.scale, to.0) && self.zero.is_some_and(|zero| same(zero, to.1)) {
            return Ok(self.x);
        }
        let y = self.real(b)?;
        quantise(b, y, (to.0, Some(to.1)), self.dtype)
    }
}

/// A parameter of one element as an f32 without dimensions.
fn scalar(b: &mut Build, x: ValueId) -> OpResult<ValueId> {
    let x = b.cast(x, DType::F32)?;
    b.reshape(x, &[])
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
    let dtype = b.dtype(zero);
    check_byte(dtype, "a result")?;
    let (low, high) = dtype.int_range().unwrap_or((0, 255));
    let (scale, zero) = (scalar(b, scale)?, scalar(b, zero)?);
    let ratio = b.op("div", &[y, scale])?;
    let whole = b.op("round", &[ratio])?;
    let moved = b.op("add", &[whole, zero])?;
    let (low, high) = (b.scalar(DType::F32, low as f64)?, b.scalar(DType::F32, high as f64)?);
    let inside = b.op("clip", &[moved, low, high])?;
    b.cast(inside, dtype)
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
