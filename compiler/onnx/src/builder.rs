//! The graph under construction: adds nodes, infers their types at once, folds what is constant.

use std::collections::BTreeMap;

use onnxc_ir::graph::Node;
use onnxc_ir::interp::as_dims;
use onnxc_ir::op::{EvalCx, InferCx, OpDef, OpError, OpResult, OpSet};
use onnxc_ir::tensor::{Bytes, element_count};
use onnxc_ir::{Attrs, Dim, Graph, Tensor, TensorType, ValueId};

use crate::options::Limits;

/// A graph that grows node by node.
pub struct Builder<'a> {
    /// The graph so far.
    pub graph: Graph,
    /// Integer values that were computed from shapes, where they are not constants.
    pub dims: BTreeMap<ValueId, Vec<Dim>>,
    /// Operators.
    pub ops: OpSet,
    limits: &'a Limits,
    /// Bytes that folding may still produce.
    pub fold_left: u64,
}

impl<'a> Builder<'a> {
    /// An empty graph.
    pub fn new(name: &str, ops: OpSet, limits: &'a Limits, fold_left: u64) -> Builder<'a> {
        Builder { graph: Graph::new(name), dims: BTreeMap::new(), ops, limits, fold_left }
    }

    /// Adds an operator for the ONNX node `origin`.
    pub fn add(
        &mut self,
        op: &'static OpDef,
        inputs: &[Option<ValueId>],
        attrs: Attrs,
        n_outputs: usize,
        origin: &str,
    ) -> OpResult<Vec<ValueId>> {
        let types: Vec<Option<TensorType>> = inputs.iter().map(|i| i.map(|id| self.graph.ty(id).clone())).collect();
        let constants: Vec<Option<Tensor>> = inputs.iter().map(|i| i.and_then(|id| self.graph.constant(id).cloned())).collect();
        let dims: Vec<Option<Vec<Dim>>> = inputs.iter().map(|i| i.and_then(|id| self.value_dims(id))).collect();
        let cx = InferCx { attrs: &attrs, inputs: &types, constants: &constants, dims: &dims, n_outputs };
        let outputs = (op.infer)(&cx)?;
        outputs.iter().try_for_each(|ty| self.check(ty))?;
        let shape_values = op.infer_dims.and_then(|f| f(&cx));
        if let (Some(dims), [ty]) = (&shape_values, &outputs[..])
            && let Some(tensor) = constant_dims(dims, ty)
        {
            return Ok(vec![self.graph.add_const(origin, tensor)]);
        }
        let operands: Vec<Option<&Tensor>> = constants.iter().map(Option::as_ref).collect();
        if let Some(folded) = self.fold(op, inputs, &operands, &attrs, &outputs)? {
            return Ok(folded.into_iter().map(|t| self.graph.add_const(origin, t)).collect());
        }
        let ids: Vec<ValueId> = outputs.into_iter().map(|ty| self.graph.add_value(origin, ty, None)).collect();
        if let Some(dims) = shape_values {
            self.dims.insert(ids[0], dims);
        }
        let node = Node { op, inputs: inputs.to_vec(), outputs: ids.clone(), attrs, origins: vec![origin.to_string()] };
        self.graph.nodes.push(node);
        Ok(ids)
    }

    fn fold(
        &mut self,
        op: &OpDef,
        inputs: &[Option<ValueId>],
        operands: &[Option<&Tensor>],
        attrs: &Attrs,
        outputs: &[TensorType],
    ) -> OpResult<Option<Vec<Tensor>>> {
        if !inputs.iter().zip(operands).all(|(i, t)| i.is_none() || t.is_some()) {
            return Ok(None);
        }
        let size = |ty: &TensorType| ty.const_shape().and_then(|s| element_count(&s));
        let bytes: Option<u64> = outputs.iter().map(|ty| size(ty).and_then(|n| ty.dtype.bytes_for(n))).sum();
        let written: Option<u64> = outputs.iter().map(size).sum();
        let read: u64 = operands.iter().flatten().map(|t| t.len() as u64).sum();
        let (Some(bytes), Some(written)) = (bytes, written) else { return Ok(None) };
        if reads_integers_as_floats(operands, outputs) {
            return Ok(None);
        }
        if bytes > self.fold_left || read.saturating_add(written) > self.limits.fold_elements {
            return Ok(None);
        }
        self.fold_left -= bytes;
        (op.eval)(&EvalCx { attrs, inputs: operands, outputs }).map(Some)
    }

    fn check(&self, ty: &TensorType) -> OpResult<()> {
        if ty.rank() > self.limits.rank {
            return Err(OpError::new(format!("a result has {} dimensions, the limit is {}", ty.rank(), self.limits.rank)));
        }
        match ty.least_bytes() {
            Some(b) if b <= self.limits.tensor_bytes => Ok(()),
            _ => Err(OpError::new(format!("the result {ty} is larger than the limit of {} bytes", self.limits.tensor_bytes))),
        }
    }

    /// What is known of an integer value as dimensions.
    pub fn value_dims(&self, id: ValueId) -> Option<Vec<Dim>> {
        self.graph.constant(id).and_then(as_dims).or_else(|| self.dims.get(&id).cloned())
    }
}

/// Most elements of a constant that is folded whatever its type.
const FEW: usize = 8;

/// Floats made of small integers, one for one: quantised weights. The integers are what integer arithmetic wants and a part of the bytes; passes fold
/// them where floats are needed after all.
fn reads_integers_as_floats(operands: &[Option<&Tensor>], outputs: &[TensorType]) -> bool {
    let (Some(Some(x)), [y]) = (operands.first(), outputs) else { return false };
    let small = x.dtype().is_int() && x.dtype().bits() <= 8 || x.dtype() == onnxc_ir::DType::I16;
    small && x.len() > FEW && y.dtype.is_float() && y.const_shape().as_deref() == Some(x.shape())
}

/// Integer results whose values are all known.
fn constant_dims(dims: &[Dim], ty: &TensorType) -> Option<Tensor> {
    let values: Vec<u64> = dims.iter().map(Dim::as_const).collect::<Option<_>>()?;
    let shape = ty.const_shape()?;
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()[..ty.dtype.bytes() as usize].to_vec()).collect();
    Tensor::from_bytes(ty.dtype, shape, Bytes::new(bytes))
}
