//! ONNX `Adagrad`, `Adam` and `Momentum`: one step of an optimizer, for any number of tensors.
//!
//! Formulas are those of the documents of ai.onnx.preview.training 1.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{Attrs, DType, ValueId};

use super::Build;
use crate::common::float;

const DOMAIN: &str = "ai.onnx.preview.training";

/// ONNX `Adagrad`.
pub(crate) const ADAGRAD: Import =
    Import { domain: DOMAIN, name: "Adagrad", opsets: (1, NEWEST), build: |cx| each(cx, 3, adagrad) };

/// ONNX `Adam`.
pub(crate) const ADAM: Import = Import { domain: DOMAIN, name: "Adam", opsets: (1, NEWEST), build: |cx| each(cx, 4, adam) };

/// ONNX `Momentum`.
pub(crate) const MOMENTUM: Import =
    Import { domain: DOMAIN, name: "Momentum", opsets: (1, NEWEST), build: |cx| each(cx, 3, momentum) };

/// A step for one tensor: its learning rate, the number of steps before, and the tensor with its gradient and history.
struct Step<'a, 'b, 'c> {
    b: &'a mut Build<'b, 'c>,
    attrs: &'a Attrs,
    dtype: DType,
    rate: ValueId,
    time: ValueId,
    of: Vec<ValueId>,
}

/// Builds the step of each tensor; operands and results come by kind, then by tensor.
fn each(cx: &mut dyn ImportCx, kinds: usize, step: fn(&mut Step) -> OpResult<Vec<ValueId>>) -> OpResult<Vec<ValueId>> {
    let (rate, time) = (cx.input(0)?, cx.input(1)?);
    let tensors: Vec<ValueId> = (2..cx.inputs().len()).map(|i| cx.input(i)).collect::<OpResult<_>>()?;
    let attrs = cx.attrs().clone();
    if tensors.is_empty() || !tensors.len().is_multiple_of(kinds) {
        return Err(OpError::new(format!("{} tensors are given, {kinds} belong together", tensors.len())));
    }
    let count = tensors.len() / kinds;
    let mut b = Build(cx);
    let mut all: Vec<Vec<ValueId>> = Vec::new();
    for i in 0..count {
        let of: Vec<ValueId> = (0..kinds).map(|k| tensors[k * count + i]).collect();
        let ty = b.ty(of[0]);
        float::check(ty.dtype, "an optimizer")?;
        if let Some(other) = of.iter().find(|o| b.ty(**o) != ty) {
            return Err(OpError::new(format!("a tensor is {ty}, its gradient or history {}", b.ty(*other))));
        }
        let (rate, time) = (scalar(&mut b, rate, ty.dtype)?, scalar(&mut b, time, ty.dtype)?);
        all.push(step(&mut Step { b: &mut b, attrs: &attrs, dtype: ty.dtype, rate, time, of })?);
    }
    Ok((0..kinds - 1).flat_map(|k| all.iter().map(move |results| results[k])).collect())
}

/// The one element of `x`, as a scalar of another type.
fn scalar(b: &mut Build, x: ValueId, dtype: DType) -> OpResult<ValueId> {
    let one = b.reshape(x, &[])?;
    b.cast(one, dtype)
}

impl Step<'_, '_, '_> {
    fn attr(&mut self, name: &str, default: f32) -> OpResult<ValueId> {
        let value = self.attrs.float(name).unwrap_or(default);
        self.b.scalar(self.dtype, f64::from(value))
    }

    fn op(&mut self, op: &str, x: ValueId, y: ValueId) -> OpResult<ValueId> {
        self.b.op(op, &[x, y])
    }

    fn one(&mut self) -> OpResult<ValueId> {
        self.b.scalar(self.dtype, 1.0)
    }

    /// The gradient with that of the tensor's norm.
    fn gradient(&mut self) -> OpResult<ValueId> {
        let weight = self.attr("norm_coefficient", 0.0)?;
        let of_norm = self.op("mul", weight, self.of[0])?;
        self.op("add", of_norm, self.of[1])
    }

    /// `a` after the first step, `b` in it.
    fn later(&mut self, a: ValueId, b: ValueId) -> OpResult<ValueId> {
        let zero = self.b.scalar(self.dtype, 0.0)?;
        let later = self.op("greater", self.time, zero)?;
        self.b.op("where", &[later, a, b])
    }

    /// `weight * old + (1 - weight) * new`.
    fn average(&mut self, weight: ValueId, old: ValueId, new: ValueId) -> OpResult<ValueId> {
        let (one, old) = (self.one()?, self.op("mul", weight, old)?);
        let rest = self.op("sub", one, weight)?;
        let new = self.op("mul", rest, new)?;
        self.op("add", old, new)
    }

    /// The root of `squares` and a little more.
    fn root(&mut self, squares: ValueId) -> OpResult<ValueId> {
        let (epsilon, root) = (self.attr("epsilon", 1e-6)?, self.b.op("sqrt", &[squares])?);
        self.op("add", root, epsilon)
    }
}

/// Results: the tensor, the sum of squared gradients.
fn adagrad(s: &mut Step) -> OpResult<Vec<ValueId>> {
    let (one, decay) = (s.one()?, s.attr("decay_factor", 0.0)?);
    let slower = s.op("mul", s.time, decay)?;
    let slower = s.op("add", one, slower)?;
    let (rate, gradient) = (s.op("div", s.rate, slower)?, s.gradient()?);
    let square = s.op("mul", gradient, gradient)?;
    let squares = s.op("add", s.of[2], square)?;
    let (root, step) = (s.root(squares)?, s.op("mul", rate, gradient)?);
    let step = s.op("div", step, root)?;
    Ok(vec![s.op("sub", s.of[0], step)?, squares])
}

/// Results: the tensor, the average of gradients, the average of their squares.
fn adam(s: &mut Step) -> OpResult<Vec<ValueId>> {
    let (alpha, beta) = (s.attr("alpha", 0.9)?, s.attr("beta", 0.999)?);
    let gradient = s.gradient()?;
    let square = s.op("mul", gradient, gradient)?;
    let (mean, squares) = (s.average(alpha, s.of[2], gradient)?, s.average(beta, s.of[3], square)?);
    let mut unbiased = |weight: ValueId| -> OpResult<ValueId> {
        let (one, left) = (s.one()?, s.op("pow", weight, s.time)?);
        s.op("sub", one, left)
    };
    let (of_mean, of_squares) = (unbiased(alpha)?, unbiased(beta)?);
    let root = s.b.op("sqrt", &[of_squares])?;
    let rate = s.op("mul", s.rate, root)?;
    let rate = s.op("div", rate, of_mean)?;
    let rate = s.later(rate, s.rate)?;
    let (root, step) = (s.root(squares)?, s.op("mul", rate, mean)?);
    let step = s.op("div", step, root)?;
    let x = s.op("sub", s.of[0], step)?;
    let (one, post) = (s.one()?, s.attr("norm_coefficient_post", 0.0)?);
    let kept = s.op("sub", one, post)?;
    Ok(vec![s.op("mul", kept, x)?, mean, squares])
}

/// Results: the tensor, its momentum.
fn momentum(s: &mut Step) -> OpResult<Vec<ValueId>> {
    let nesterov = match s.attrs.str("mode") {
        Some("standard") => false,
        Some("nesterov") => true,
        other => return Err(OpError::new(format!("mode {other:?} is unknown")).help("standard or nesterov")),
    };
    let (alpha, beta, one) = (s.attr("alpha", 0.0)?, s.attr("beta", 1.0)?, s.one()?);
    let (gradient, beta) = (s.gradient()?, s.later(beta, one)?);
    let (kept, new) = (s.op("mul", alpha, s.of[2])?, s.op("mul", beta, gradient)?);
    let moved = s.op("add", kept, new)?;
    let mut step = moved;
    if nesterov {
        let ahead = s.op("mul", alpha, moved)?;
        step = s.op("add", gradient, ahead)?;
    }
    let step = s.op("mul", s.rate, step)?;
    Ok(vec![s.op("sub", s.of[0], step)?, moved])
}
