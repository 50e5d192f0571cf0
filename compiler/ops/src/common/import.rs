//! Old attribute forms become operands: the graph knows the newest opset's form only.

use onnxc_ir::op::{ImportCx, OpError, OpResult};
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

/// Operators of two operands before opset 7: with `broadcast`, the second operand's dimensions lie from `axis` on (at the end without it).
pub(crate) fn broadcast_by_axis(cx: &mut dyn ImportCx, op: &str) -> OpResult<Vec<ValueId>> {
    let (a, mut b) = (cx.input(0)?, cx.input(1)?);
    let attrs = attrs_without(cx, &["axis", "broadcast", "consumed_inputs"]);
    if let Some(axis) = cx.attrs().int("axis").filter(|_| cx.attrs().int("broadcast") == Some(1)) {
        let (all, given) = (cx.ty(0)?.rank() as i64, cx.ty(1)?.rank() as i64);
        let axis = if axis < 0 { axis + all } else { axis };
        if axis < 0 || axis + given > all {
            return Err(OpError::new(format!("axis {axis} does not place {given} dimensions among {all}")));
        }
        let behind: Vec<i64> = (given..all - axis).collect();
        if !behind.is_empty() {
            let axes = ints(cx, &behind);
            b = cx.node1("unsqueeze", &[b, axes], Attrs::default())?;
        }
    }
    cx.node(op, &[Some(a), Some(b)], attrs)
}
