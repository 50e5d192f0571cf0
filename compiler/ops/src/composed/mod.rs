//! ONNX operators that are imported as several of ours.
//!
//! Each is an [`onnxc_ir::op::Import`] in the list of the operator that does most of its work.

pub(crate) mod attention;
pub(crate) mod causal_conv;
pub(crate) mod classic;
pub(crate) mod contrib;
pub(crate) mod einsum;
pub(crate) mod loss;
pub(crate) mod rotary;
pub(crate) mod tensor_scatter;

use onnxc_ir::op::{ImportCx, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId};

use crate::common::elements::from_f64s;
use crate::common::sample::int_attrs;

/// Short names for the nodes that compositions need.
pub(crate) struct Build<'a, 'b>(pub &'a mut (dyn ImportCx + 'b));

impl Build<'_, '_> {
    fn op(&mut self, op: &str, inputs: &[ValueId]) -> OpResult<ValueId> {
        self.with(op, inputs, Attrs::default())
    }

    fn with(&mut self, op: &str, inputs: &[ValueId], attrs: Attrs) -> OpResult<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.0.node(op, &inputs, attrs)?[0])
    }

    fn ty(&self, x: ValueId) -> TensorType {
        self.0.graph().ty(x).clone()
    }

    fn dtype(&self, x: ValueId) -> DType {
        self.0.graph().ty(x).dtype
    }

    /// The extents, which must be known.
    fn shape(&self, x: ValueId) -> OpResult<Vec<u64>> {
        self.ty(x).const_shape().ok_or_else(|| {
            OpError::new(format!("an operand is {}, its extents must be known", self.ty(x)))
                .help("fix them with --dim or --shape")
        })
    }

    fn scalar(&mut self, dtype: DType, value: f64) -> OpResult<ValueId> {
        Ok(self.0.constant(from_f64s(dtype, &[], [value])?))
    }

    fn ints(&mut self, values: &[i64]) -> ValueId {
        self.0.constant(Tensor::from_vec(&[values.len() as u64], values.to_vec()))
    }

    /// The numbers from 0 on, as i64; no constant of the compiler's own memory when there are very many.
    fn count(&mut self, n: u64) -> OpResult<ValueId> {
        let [from, to, step] = [0, n as i64, 1].map(|v| self.0.constant(Tensor::scalar(v)));
        self.op("range", &[from, to, step])
    }

    /// The same elements in another shape; nothing when it has that shape already.
    fn reshape(&mut self, x: ValueId, shape: &[u64]) -> OpResult<ValueId> {
        if self.ty(x).const_shape().as_deref() == Some(shape) {
            return Ok(x);
        }
        let to = self.ints(&shape.iter().map(|d| *d as i64).collect::<Vec<_>>());
        self.with("reshape", &[x, to], int_attrs(&[("allowzero", 1)]))
    }

    fn transpose(&mut self, x: ValueId, perm: &[usize]) -> OpResult<ValueId> {
        if perm.is_sorted() {
            return Ok(x);
        }
        let perm = perm.iter().map(|d| *d as i64).collect();
        self.with("transpose", &[x], Attrs::default().with("perm", Attr::Ints(perm)))
    }

    fn unsqueeze(&mut self, x: ValueId, axes: &[i64]) -> OpResult<ValueId> {
        let axes = self.ints(axes);
        self.op("unsqueeze", &[x, axes])
    }

    fn squeeze(&mut self, x: ValueId, axes: &[i64]) -> OpResult<ValueId> {
        let axes = self.ints(axes);
        self.op("squeeze", &[x, axes])
    }

    /// The sum over some dimensions, which disappear.
    fn sum(&mut self, x: ValueId, axes: &[i64]) -> OpResult<ValueId> {
        if axes.is_empty() {
            return Ok(x);
        }
        let axes = self.ints(axes);
        self.with("reduce_sum", &[x, axes], int_attrs(&[("keepdims", 0)]))
    }

    fn concat(&mut self, parts: &[ValueId], axis: i64) -> OpResult<ValueId> {
        self.with("concat", parts, int_attrs(&[("axis", axis)]))
    }

    /// Elements `start`, `start + step`, ... before `end` along `axis`.
    fn slice(&mut self, x: ValueId, axis: i64, (start, end, step): (i64, i64, i64)) -> OpResult<ValueId> {
        let (start, end, axis, step) = (self.ints(&[start]), self.ints(&[end]), self.ints(&[axis]), self.ints(&[step]));
        self.op("slice", &[x, start, end, axis, step])
    }

    fn cast(&mut self, x: ValueId, to: DType) -> OpResult<ValueId> {
        if self.dtype(x) == to { Ok(x) } else { self.with("cast", &[x], Attrs::default().with("to", Attr::Type(to))) }
    }
}
