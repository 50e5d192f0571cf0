//! ONNX operators that are imported as several of ours.
//!
//! Each is an [`onnxc_ir::op::Import`] in the list of the operator that does most of its work.

pub(crate) mod affine_grid;
pub(crate) mod attention;
pub(crate) mod causal_conv;
pub(crate) mod classic;
pub(crate) mod contrib;
pub(crate) mod crop_pad;
pub(crate) mod einsum;
pub(crate) mod flex_attention;
pub(crate) mod fourier;
pub(crate) mod loss;
pub(crate) mod optimizers;
pub(crate) mod rotary;
pub(crate) mod signal_tables;
pub(crate) mod tensor_scatter;
pub(crate) mod unique;
pub(crate) mod unpool;

use onnxc_ir::op::{ImportCx, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId};

use crate::common::elements::from_f64s;
use crate::common::sample::int_attrs;

/// Short names for the nodes that compositions need.
pub(crate) struct Build<'a, 'b>(pub &'a mut (dyn ImportCx + 'b));

impl Build<'_, '_> {
    pub(crate) fn op(&mut self, op: &str, inputs: &[ValueId]) -> OpResult<ValueId> {
        self.with(op, inputs, Attrs::default())
    }

    pub(crate) fn with(&mut self, op: &str, inputs: &[ValueId], attrs: Attrs) -> OpResult<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.0.node(op, &inputs, attrs)?[0])
    }

    pub(crate) fn ty(&self, x: ValueId) -> TensorType {
        self.0.graph().ty(x).clone()
    }

    pub(crate) fn dtype(&self, x: ValueId) -> DType {
        self.0.graph().ty(x).dtype
    }

    /// The extents, which must be known.
    pub(crate) fn shape(&self, x: ValueId) -> OpResult<Vec<u64>> {
        self.ty(x).const_shape().ok_or_else(|| {
            OpError::new(format!("an operand is {}, its extents must be known", self.ty(x)))
                .help("fix them with --dim or --shape")
        })
    }

    /// The largest extents, which must be known.
    pub(crate) fn most(&self, x: ValueId) -> OpResult<Vec<u64>> {
        let ty = self.ty(x);
        let all: Option<Vec<u64>> = ty.shape.iter().map(|d| self.0.largest(d)).collect();
        all.filter(|shape| TensorType::fixed(ty.dtype, shape).least_bytes().is_some()).ok_or_else(|| {
            OpError::new(format!("an operand is {ty}, its extents must be known, or have largest values"))
                .help("state them with --dim or --shape")
        })
    }

    /// One extent as a scalar, computed by the call where it is open.
    pub(crate) fn extent(&mut self, x: ValueId, axis: usize) -> OpResult<ValueId> {
        if let Some(n) = self.ty(x).shape[axis].as_const() {
            return Ok(self.int(n as i64));
        }
        let (all, axis) = (self.op("shape", &[x])?, self.int(axis as i64));
        self.with("gather", &[all, axis], int_attrs(&[("axis", 0)]))
    }

    /// `0, 1, ...`, as many as an extent has.
    pub(crate) fn along(&mut self, x: ValueId, axis: usize) -> OpResult<ValueId> {
        let operands = [self.int(0), self.extent(x, axis)?, self.int(1)];
        self.op("range", &operands)
    }

    /// The elements as a vector.
    pub(crate) fn flat(&mut self, x: ValueId) -> OpResult<ValueId> {
        match self.ty(x).const_shape() {
            Some(shape) => self.reshape(x, &[shape.iter().product()]),
            None if self.ty(x).rank() == 1 => Ok(x),
            None => {
                let all = self.ints(&[-1]);
                self.op("reshape", &[x, all])
            }
        }
    }

    /// One extent, which must be known.
    pub(crate) fn shape_of(&self, x: ValueId, axis: usize) -> OpResult<u64> {
        let extent = self.ty(x).shape.get(axis).and_then(onnxc_ir::Dim::as_const);
        extent.ok_or_else(|| OpError::new(format!("{} has no known extent along dimension {axis}", self.ty(x))))
    }

    pub(crate) fn scalar(&mut self, dtype: DType, value: f64) -> OpResult<ValueId> {
        Ok(self.0.constant(from_f64s(dtype, &[], [value])?))
    }

    pub(crate) fn int(&mut self, value: i64) -> ValueId {
        self.0.constant(Tensor::scalar(value))
    }

    pub(crate) fn ints(&mut self, values: &[i64]) -> ValueId {
        self.0.constant(Tensor::from_vec(&[values.len() as u64], values.to_vec()))
    }

    /// A vector that is the same integer everywhere; long ones are no constants.
    pub(crate) fn filled(&mut self, value: i64, n: u64) -> OpResult<ValueId> {
        let (value, shape) = (self.int(value), self.ints(&[n as i64]));
        self.op("expand", &[value, shape])
    }

    /// `0, 1, ..., n-1`.
    pub(crate) fn range(&mut self, n: u64) -> OpResult<ValueId> {
        let operands = [self.int(0), self.int(n as i64), self.int(1)];
        self.op("range", &operands)
    }

    /// The same elements in another shape; nothing when it has that shape already.
    pub(crate) fn reshape(&mut self, x: ValueId, shape: &[u64]) -> OpResult<ValueId> {
        if self.ty(x).const_shape().as_deref() == Some(shape) {
            return Ok(x);
        }
        let to = self.ints(&shape.iter().map(|d| *d as i64).collect::<Vec<_>>());
        self.with("reshape", &[x, to], int_attrs(&[("allowzero", 1)]))
    }

    pub(crate) fn transpose(&mut self, x: ValueId, perm: &[usize]) -> OpResult<ValueId> {
        if perm.is_sorted() {
            return Ok(x);
        }
        let perm = perm.iter().map(|d| *d as i64).collect();
        self.with("transpose", &[x], Attrs::default().with("perm", Attr::Ints(perm)))
    }

    pub(crate) fn unsqueeze(&mut self, x: ValueId, axes: &[i64]) -> OpResult<ValueId> {
        let axes = self.ints(axes);
        self.op("unsqueeze", &[x, axes])
    }

    pub(crate) fn squeeze(&mut self, x: ValueId, axes: &[i64]) -> OpResult<ValueId> {
        let axes = self.ints(axes);
        self.op("squeeze", &[x, axes])
    }

    /// The sum over some dimensions, which disappear.
    pub(crate) fn sum(&mut self, x: ValueId, axes: &[i64]) -> OpResult<ValueId> {
        if axes.is_empty() {
            return Ok(x);
        }
        let axes = self.ints(axes);
        self.with("reduce_sum", &[x, axes], int_attrs(&[("keepdims", 0)]))
    }

    pub(crate) fn concat(&mut self, parts: &[ValueId], axis: i64) -> OpResult<ValueId> {
        self.with("concat", parts, int_attrs(&[("axis", axis)]))
    }

    /// Elements `start`, `start + step`, ... before `end` along `axis`.
    pub(crate) fn slice(&mut self, x: ValueId, axis: i64, (start, end, step): (i64, i64, i64)) -> OpResult<ValueId> {
        let (start, end, axis, step) = (self.ints(&[start]), self.ints(&[end]), self.ints(&[axis]), self.ints(&[step]));
        self.op("slice", &[x, start, end, axis, step])
    }

    pub(crate) fn cast(&mut self, x: ValueId, to: DType) -> OpResult<ValueId> {
        if self.dtype(x) == to { Ok(x) } else { self.with("cast", &[x], Attrs::default().with("to", Attr::Type(to))) }
    }
}
