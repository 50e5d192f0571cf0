//! `shape` and `size`: extents as values.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Extent, Import, InferCx, Lower, NEWEST, OpDef, OpResult, Tolerance};
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType};

use crate::common::sample::{f32s, int_attrs, plain, sample};

/// `shape`: attributes `start`, `end` choose a part.
pub(crate) static SHAPE: OpDef = OpDef {
    name: "shape",
    onnx: &[Import { domain: "", name: "Shape", opsets: (1, NEWEST), build: |cx| cx.forward("shape") }],
    infer: |cx| {
        let n = part(cx.attrs, cx.input(0)?.rank()).len() as u64;
        Ok(vec![TensorType::fixed(DType::I64, &[n])])
    },
    infer_dims: Some(shape_dims),
    eval: |cx| Ok(vec![shape_tensor(cx.attrs, cx.input(0).shape())]),
    lower: Lower::OpenNest(|cx| {
        let shape = cx.input(0).view.extents();
        let part = part(cx.attrs, shape.len());
        write(cx, &shape[part])
    }),
    tolerance: Tolerance::EXACT,
    samples: || {
        vec![
            plain(vec![f32s(&[2, 3, 4])]),
            plain(vec![f32s(&[])]),
            sample(int_attrs(&[("start", -2), ("end", 10)]), vec![f32s(&[2, 3, 4])]),
        ]
    },
};

/// `size`: the number of elements.
pub(crate) static SIZE: OpDef = OpDef {
    name: "size",
    onnx: &[Import { domain: "", name: "Size", opsets: (1, NEWEST), build: |cx| cx.forward("size") }],
    infer: |cx| cx.input(0).map(|_| vec![TensorType::fixed(DType::I64, &[])]),
    infer_dims: Some(|cx| Some(vec![cx.input(0).ok()?.shape.iter().fold(Dim::Const(1), |a, d| a.mul(d))])),
    eval: |cx: &EvalCx| Ok(vec![Tensor::scalar(cx.input(0).len() as i64)]),
    lower: Lower::OpenNest(|cx| {
        let shape = cx.input(0).view.extents();
        write(cx, &[shape.iter().fold(Extent::from(1), |n, d| n.times(d))])
    }),
    tolerance: Tolerance::EXACT,
    samples: || vec![plain(vec![f32s(&[2, 3, 4])]), plain(vec![f32s(&[])]), plain(vec![f32s(&[0, 3])])],
};

fn part(attrs: &Attrs, rank: usize) -> std::ops::Range<usize> {
    let n = rank as i64;
    let place = |i: i64| if i < 0 { i.saturating_add(n) } else { i }.clamp(0, n);
    let start = place(attrs.int("start").unwrap_or(0));
    let end = place(attrs.int("end").unwrap_or(n));
    start as usize..end.max(start) as usize
}

fn shape_dims(cx: &InferCx) -> Option<Vec<Dim>> {
    let x = cx.input(0).ok()?;
    Some(x.shape[part(cx.attrs, x.rank())].to_vec())
}

fn shape_tensor(attrs: &Attrs, shape: &[u64]) -> Tensor {
    let values: Vec<i64> = shape[part(attrs, shape.len())].iter().map(|d| *d as i64).collect();
    Tensor::from_vec(&[values.len() as u64], values)
}

fn write(cx: &mut LowerCx, values: &[Extent]) -> OpResult<()> {
    let out = cx.output(0);
    for (i, v) in values.iter().enumerate() {
        let at: Vec<Expr> = if out.view.shape.is_empty() { vec![] } else { vec![Expr::Int(i as i64)] };
        let n = cx.count(v);
        cx.store(&out, &at, n);
    }
    Ok(())
}
