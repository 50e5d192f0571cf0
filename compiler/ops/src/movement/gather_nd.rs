//! `gather_nd`: the last dimension of the indices holds coordinates into the data; each picks an element or a slice. Attribute `batch_dims`:
//! leading dimensions that data and indices share.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::{Attrs, DType, Tensor, TensorType};

use super::{check_coordinates, index_values, position, require_index, require_room};
use crate::common::elements::{Picker, strides};
use crate::common::nest::{self, dense_last, origin, over, rows, safe_index};
use crate::common::sample::{data, data_in, f32s, int_attrs, plain, sample};

/// `gather_nd`
pub(crate) static GATHER_ND: OpDef = OpDef {
    name: "gather_nd",
    onnx: &[
        Import { domain: "", name: "GatherND", opsets: (11, NEWEST), build: |cx| cx.forward("gather_nd") },
        Import { domain: "com.microsoft", name: "GatherND", opsets: (1, NEWEST), build: |cx| cx.forward("gather_nd") },
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn batch_dims(attrs: &Attrs) -> usize {
    attrs.int("batch_dims").and_then(|b| usize::try_from(b).ok()).unwrap_or(0)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, index) = (cx.input(0)?, cx.input(1)?);
    require_index(index)?;
    let batch = batch_dims(cx.attrs);
    let last = index.shape.last().ok_or_else(|| OpError::new("the indices have no dimension"))?;
    let width = last.as_const().ok_or_else(|| OpError::new(format!("the indices are {index}: the last extent must be known")))?;
    if batch >= index.rank() || batch as u64 + width > x.rank() as u64 {
        return Err(OpError::new(format!("indices {index} with {batch} shared dimensions do not fit data {x}")));
    }
    if let Some(d) =
        (0..batch).find(|d| matches!((x.shape[*d].as_const(), index.shape[*d].as_const()), (Some(a), Some(b)) if a != b))
    {
        return Err(OpError::new(format!("dimension {d} is shared by indices {index} and data {x}, but not of one extent")));
    }
    check_coordinates(cx.constant(1), &x.shape[batch..batch + width as usize])?;
    let kept = &x.shape[batch + width as usize..];
    let ty = TensorType::new(x.dtype, [&index.shape[..index.rank() - 1], kept].concat());
    require_room(x, &ty)?;
    Ok(vec![ty])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, index) = (cx.input(0), cx.input(1));
    let batch = batch_dims(cx.attrs);
    let (dense, n) = (strides(x.shape()), index.shape().len() - 1);
    let width = index.shape()[n] as usize;
    let run: u64 = x.shape()[batch + width..].iter().product();
    let shared: u64 = index.shape()[..batch].iter().product();
    let rows: u64 = index.shape()[..n].iter().product();
    let per_batch: u64 = x.shape()[batch..].iter().product();
    let values = index_values(index)?;
    let mut out = Picker::new(x.dtype());
    for row in 0..rows as usize {
        let mut first = row / (rows / shared) as usize * per_batch as usize;
        for (i, d) in values[row * width..(row + 1) * width].iter().zip(batch..) {
            first += position(*i, x.shape()[d])? * dense[d];
        }
        (first..first + run as usize).for_each(|e| out.pick(x, e));
    }
    Ok(vec![out.finish(&cx.out_shape(0))])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, index, y) = (cx.input(0), cx.input(1), cx.output(0));
    nest::movable(y.dtype)?;
    let shape = y.view.extents();
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let (batch, n) = (batch_dims(cx.attrs), index.view.shape.len() - 1);
    let width = index.view.shape[n] as usize;
    nest::equal_extents(1, &index.view.dims()[..batch], &x.view.dims()[..batch])?;
    let outside = dense_last(0..n, &y.view);
    let inside = dense_last(n..shape.len(), &y.view);
    rows(cx, &shape, &outside, nest::most_elements(&shape), &mut origin(shape.len()), &mut |cx, place| {
        let mut from = place[..batch].to_vec();
        for d in 0..width {
            let at = [&place[..n], &[Expr::Int(d as i64)]].concat();
            let raw = cx.load(&index, &at);
            from.push(Expr::Var(safe_index(cx, raw, index.dtype, x.view.extent(batch + d))));
        }
        over(cx, &shape, &inside, (LoopKind::Serial, LoopKind::Vector), place, &mut |cx, place| {
            let value = cx.load(&x, &[&from[..], &place[n..]].concat());
            cx.store(&y, place, value);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let index = |shape: &[u64], n: f64| data_in(DType::I64, shape, -n, n);
    let batch = |b: i64| int_attrs(&[("batch_dims", b)]);
    vec![
        plain(vec![f32s(&[4, 5]), index(&[6, 2], 4.0)]),
        plain(vec![f32s(&[3, 4, 17]), index(&[2, 3, 2], 3.0)]),
        plain(vec![data(DType::I64, &[7, 3]), index(&[5, 1], 7.0)]),
        sample(batch(1), vec![f32s(&[2, 4, 3]), index(&[2, 5, 1], 4.0)]),
        sample(batch(2), vec![data(DType::F16, &[2, 3, 4, 5]), index(&[2, 3, 2], 4.0)]),
        plain(vec![data(DType::I2, &[7, 3]), index(&[5, 1], 7.0)]),
        plain(vec![f32s(&[3]), index(&[1], 3.0)]),
        plain(vec![f32s(&[3, 2]), index(&[4, 0], 3.0)]),
        plain(vec![f32s(&[3, 2]), index(&[0, 2], 3.0)]),
    ]
}
