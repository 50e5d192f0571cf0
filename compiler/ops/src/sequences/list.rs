//! ONNX's operators on sequences.
//!
//! Lengths and positions are constants. A part of a tensor is a slice of it, hence a view, and what `ConcatFromSequence` joins is written into its
//! place: lists cost nothing at run time.

use onnxc_ir::list::{Item, List, ListCx};
use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{DType, Tensor, ValueId};

use super::{sequence, tensor};
use crate::common::axes::{axis, unknown};
use crate::composed::Build;

type Items = OpResult<Vec<Option<Item>>>;

fn one(item: Item) -> Items {
    Ok(vec![Some(item)])
}

/// Operand `i`, one constant integer; `None` when it is absent.
fn position(cx: &dyn ListCx, i: usize) -> OpResult<Option<i64>> {
    if !matches!(cx.items().get(i), Some(Some(_))) {
        return Ok(None);
    }
    let id = tensor(cx, i)?;
    let ty = cx.graph().ty(id);
    if !matches!(ty.dtype, DType::I32 | DType::I64) {
        return Err(OpError::new(format!("the position must be i32 or i64, it is {ty}")));
    }
    let Some(constant) = cx.graph().constant(id) else {
        let error = OpError::new("the position in the sequence is not known when compiling");
        return Err(error.help("make it a constant; --const does so for an input of the model"));
    };
    match constant.to_i64s().as_deref() {
        Some([at]) => Ok(Some(*at)),
        _ => Err(OpError::new(format!("the position must be one number, it is {ty}"))),
    }
}

/// A position counted from the front; `end` is one past the last that is allowed.
fn place(at: i64, n: usize, end: usize) -> OpResult<usize> {
    let from_front = if at < 0 { at.saturating_add(n as i64) } else { at };
    let found = usize::try_from(from_front).ok().filter(|p| *p < end);
    found.ok_or_else(|| OpError::new(format!("position {at} does not exist in a sequence of {n} elements")))
}

fn same_type(list: &List, dtype: DType) -> OpResult<()> {
    if list.dtype == dtype {
        return Ok(());
    }
    Err(OpError::new(format!("the tensor is {dtype}, the elements of the sequence are {}", list.dtype)))
}

pub(super) fn empty(cx: &mut dyn ListCx) -> Items {
    let code = cx.attrs().int("dtype").unwrap_or_else(|| DType::F32.onnx_code().into());
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
    let dtype = dtype.ok_or_else(|| OpError::new(format!("element type {code} is unknown")))?;
    one(cx.list(dtype, Vec::new())?)
}

pub(super) fn construct(cx: &mut dyn ListCx) -> Items {
    let elements = (0..cx.items().len()).map(|i| tensor(cx, i)).collect::<OpResult<Vec<ValueId>>>()?;
    let dtype = cx.graph().ty(elements[0]).dtype;
    for (i, id) in elements.iter().enumerate() {
        let other = cx.graph().ty(*id).dtype;
        if other != dtype {
            return Err(OpError::new(format!("input {i} is {other}, input 0 is {dtype}: element types must be the same")));
        }
    }
    one(cx.list(dtype, elements.into_iter().map(Some).collect())?)
}

pub(super) fn insert(cx: &mut dyn ListCx) -> Items {
    let (list, new) = (sequence(cx, 0)?, tensor(cx, 1)?);
    same_type(&list, cx.graph().ty(new).dtype)?;
    let n = list.elements.len();
    let at = position(cx, 2)?.map_or(Ok(n), |at| place(at, n, n + 1))?;
    let mut elements = list.elements.clone();
    elements.insert(at, Some(new));
    one(cx.list(list.dtype, elements)?)
}

pub(super) fn erase(cx: &mut dyn ListCx) -> Items {
    let list = sequence(cx, 0)?;
    let n = list.elements.len();
    let at = place(position(cx, 1)?.unwrap_or(-1), n, n)?;
    let mut elements = list.elements.clone();
    elements.remove(at);
    one(cx.list(list.dtype, elements)?)
}

pub(super) fn at(cx: &mut dyn ListCx) -> Items {
    let list = sequence(cx, 0)?;
    let at = position(cx, 1)?.ok_or_else(|| OpError::new("input 1 is missing"))?;
    one(Item::Tensor(list.element(place(at, list.elements.len(), list.elements.len())?)?))
}

pub(super) fn length(cx: &mut dyn ListCx) -> Items {
    let n = sequence(cx, 0)?.elements.len();
    one(Item::Tensor(cx.constant(Tensor::scalar(n as i64))))
}

pub(super) fn concat(cx: &mut dyn ListCx) -> Items {
    let list = sequence(cx, 0)?;
    let at = cx.attrs().int("axis").ok_or_else(|| OpError::new("attribute axis is missing"))?;
    let stack = cx.attrs().int("new_axis").unwrap_or(0) != 0;
    let mut parts = list.all()?;
    if parts.is_empty() {
        return Err(OpError::new("the sequence is empty: there is nothing to join"));
    }
    let mut b = Build(cx);
    if stack {
        parts = parts.into_iter().map(|part| b.unsqueeze(part, &[at])).collect::<OpResult<_>>()?;
    }
    one(Item::Tensor(b.concat(&parts, at)?))
}

pub(super) fn split(cx: &mut dyn ListCx) -> Items {
    let x = tensor(cx, 0)?;
    let ty = cx.graph().ty(x).clone();
    let d = axis(cx.attrs().int("axis").unwrap_or(0), ty.rank())?;
    let parts = if matches!(cx.items().get(1), Some(Some(_))) { Some(tensor(cx, 1)?) } else { None };
    // Sizes that only the run knows still have a number.
    if let Some(parts) = parts.filter(|id| cx.graph().constant(*id).is_none()) {
        let shape = cx.graph().ty(parts).const_shape();
        let Some([n]) = shape.as_deref() else { return Err(unknown("split")) };
        cx.fits(*n)?;
        return one(cx.list(ty.dtype, vec![None; *n as usize])?);
    }
    let extent = ty.shape[d].as_const().ok_or_else(|| {
        OpError::new(format!("the length of {ty} along axis {d} is not known when compiling"))
            .help("fix it with --dim or --shape")
    })?;
    let sizes = sizes(cx, parts, extent)?;
    let keep = parts.is_some() || cx.attrs().int("keepdims").unwrap_or(1) != 0;
    let (mut start, mut elements) = (0i64, Vec::new());
    for size in sizes {
        let mut b = Build(&mut *cx);
        let part = b.slice(x, d as i64, (start, start + size, 1))?;
        elements.push(Some(if keep { part } else { b.squeeze(part, &[d as i64])? }));
        start += size;
    }
    one(cx.list(ty.dtype, elements)?)
}

/// Lengths of the parts of an extent: one each, as many as the operand says, or those that it lists.
fn sizes(cx: &dyn ListCx, parts: Option<ValueId>, extent: u64) -> OpResult<Vec<i64>> {
    let equal = |size: u64| -> OpResult<Vec<i64>> {
        let n = extent.div_ceil(size);
        cx.fits(n)?;
        Ok((0..n).map(|i| size.min(extent - i * size) as i64).collect())
    };
    let Some(parts) = parts else { return equal(1) };
    let ty = cx.graph().ty(parts);
    let values = cx.graph().constant(parts).and_then(Tensor::to_i64s);
    let values = values.filter(|_| matches!(ty.dtype, DType::I32 | DType::I64) && ty.rank() <= 1);
    let values = values.ok_or_else(|| OpError::new(format!("split must be a scalar or a vector of i32 or i64, it is {ty}")))?;
    if ty.rank() == 0 {
        let size = values.first().and_then(|n| u64::try_from(*n).ok()).filter(|n| *n > 0);
        return equal(size.ok_or_else(|| OpError::new(format!("split must be positive, it is {values:?}")))?);
    }
    let total = values.iter().try_fold(0i64, |sum, n| sum.checked_add(*n).filter(|_| *n >= 0));
    if total.and_then(|t| u64::try_from(t).ok()) != Some(extent) {
        let n = values.len();
        return Err(OpError::new(format!("the {n} parts of split do not add up to the length {extent} of the axis")));
    }
    cx.fits(values.len() as u64)?;
    Ok(values)
}

pub(super) fn map(cx: &mut dyn ListCx) -> Items {
    let operands = cx.items().to_vec();
    let n = sequence(cx, 0)?.elements.len();
    if n == 0 {
        return Err(OpError::new("the sequence is empty: nothing tells the types of the results"));
    }
    let mut results: Vec<Vec<ValueId>> = Vec::new();
    for k in 0..n {
        let mut given = Vec::new();
        for (i, operand) in operands.iter().enumerate() {
            given.push(match operand {
                Some(Item::List(list)) if list.elements.len() != n => {
                    let m = list.elements.len();
                    return Err(OpError::new(format!("input {i} is a sequence of {m} elements, input 0 one of {n}")));
                }
                Some(Item::List(list)) => Some(Item::Tensor(list.element(k)?)),
                other => other.clone(),
            });
        }
        let made = cx.body_items("body", &given)?;
        results.resize(made.len(), Vec::new());
        for (i, item) in made.into_iter().enumerate() {
            let Some(Item::Tensor(id)) = item else {
                return Err(OpError::new(format!(
                    "output {i} of the body is no tensor: sequences in sequences are not supported"
                )));
            };
            results[i].push(id);
        }
    }
    results.into_iter().map(|elements| joined(cx, elements).map(Some)).collect()
}

/// A list of what the body gave for each element.
fn joined(cx: &mut dyn ListCx, elements: Vec<ValueId>) -> OpResult<Item> {
    let dtype = cx.graph().ty(elements[0]).dtype;
    if let Some(other) = elements.iter().map(|id| cx.graph().ty(*id).dtype).find(|t| *t != dtype) {
        return Err(OpError::new(format!("the body gives {dtype} for one element and {other} for another")));
    }
    cx.list(dtype, elements.into_iter().map(Some).collect())
}
