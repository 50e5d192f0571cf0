//! Old attribute forms become operands: the graph knows the newest opset's form only.

use onnxc_ir::op::{ImportCx, OpResult};
use onnxc_ir::{Attrs, Tensor, ValueId};

/// A constant vector of i64.
pub(crate) fn ints(cx: &mut dyn ImportCx, values: &[i64]) -> ValueId {
    cx.constant(Tensor::from_vec(&[values.len() as u64], values.to_vec()))
}

/// Operand `i`, or else the list attribute `name` as a constant.
pub(crate) fn ints_input(cx: &mut dyn ImportCx, i: usize, name: &str) -> Option<ValueId> {
    if let Some(id) = cx.opt_input(i) {
        return Some(id);
    }
    let values = cx.attrs().ints(name)?.to_vec();
    Some(ints(cx, &values))
}

/// The node's attributes without `names`.
pub(crate) fn attrs_without(cx: &dyn ImportCx, names: &[&str]) -> Attrs {
    let mut attrs = cx.attrs().clone();
    attrs.0.retain(|k, _| !names.contains(&k.as_str()));
    attrs
}

/// A node with one result, under `op`, with the operands given.
pub(crate) fn one(cx: &mut dyn ImportCx, op: &str, inputs: &[Option<ValueId>], attrs: Attrs) -> OpResult<Vec<ValueId>> {
    cx.node(op, inputs, attrs)
}
