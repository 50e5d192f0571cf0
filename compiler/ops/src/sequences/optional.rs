//! ONNX `OptionalGetElement` and `OptionalHasElement`: whether a value is there is known when compiling. What is no optional is always there.

use onnxc_ir::Tensor;
use onnxc_ir::list::{Item, ListCx};
use onnxc_ir::op::{OpError, OpResult};

pub(super) fn get(cx: &mut dyn ListCx) -> OpResult<Vec<Option<Item>>> {
    let item = cx.items().first().cloned().flatten();
    let empty = || OpError::new("the optional is empty").help("leave out --absent for the input that it comes from");
    Ok(vec![Some(item.ok_or_else(empty)?)])
}

pub(super) fn has(cx: &mut dyn ListCx) -> OpResult<Vec<Option<Item>>> {
    let there = cx.items().first().is_some_and(Option::is_some);
    Ok(vec![Some(Item::Tensor(cx.constant(Tensor::scalar(there))))])
}
