//! `gather`: slices of the data along attribute `axis`, one for each index. `gather_elements`: one element for each index.
//!
//! Indices below 0 count from the end. Compiled code keeps indices of run time inside the data, whatever they are; those known when compiling
//! are checked. A single constant index becomes a slice on import, which moves nothing.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType, ValueId};

use super::{check_known, index_values, position, require_index, require_room};
use crate::at_run_time::{self, or_counted};
use crate::common::axes::axis;
use crate::common::elements::{Picker, for_coords, offset, strides};
use crate::common::import;
use crate::common::nest::{self, dense_last, origin, over, rows, safe_index};
use crate::common::sample::{data, data_in, f32s, int, int_attrs, ints, sample};
use crate::composed::loss::{CROSS_ENTROPY, NEGATIVE_LOG_LIKELIHOOD};
use crate::ml::ARRAY_FEATURE_EXTRACTOR;

/// `gather`
pub(crate) static GATHER: OpDef = OpDef {
    name: "gather",
    onnx: &[
        Import { domain: "", name: "Gather", opsets: (1, NEWEST), build },
        Import {
            domain: "",
            name: "Compress",
            opsets: (9, NEWEST),
            build: |cx| or_counted(cx, super::selection::compress, at_run_time::compress),
        },
        ARRAY_FEATURE_EXTRACTOR,
    ],
    infer,
    infer_dims: Some(dims),
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

/// `gather_elements`
pub(crate) static GATHER_ELEMENTS: OpDef = OpDef {
    name: "gather_elements",
    onnx: &[
        Import { domain: "", name: "GatherElements", opsets: (11, NEWEST), build: |cx| cx.forward("gather_elements") },
        NEGATIVE_LOG_LIKELIHOOD,
        CROSS_ENTROPY,
    ],
    infer: infer_elements,
    infer_dims: None,
    eval: eval_elements,
    lower: Lower::OpenNest(lower_elements),
    tolerance: Tolerance::EXACT,
    samples: samples_elements,
};

fn axis_of(attrs: &Attrs, rank: usize) -> OpResult<usize> {
    axis(attrs.int("axis").unwrap_or(0), rank)
}

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let ty = cx.ty(0)?;
    let at = axis_of(cx.attrs(), ty.rank())?;
    let index = cx.const_input(1).filter(|t| t.shape().len() <= 1 && t.len() == 1);
    let (Some(index), Some(n)) = (index, ty.shape[at].as_const().map(|n| n as i64)) else { return cx.forward("gather") };
    let i = index_values(&index)?[0];
    // Shapes stay a gather, which computes with dimensions; a wrong index stays for inference to report.
    if ty.rank() == 1 && ty.dtype.is_int() || !(-n..n).contains(&i) {
        return cx.forward("gather");
    }
    let i = if i < 0 { i + n } else { i };
    let [start, end, axes] = [i, i + 1, at as i64].map(|v| import::ints(cx, &[v]));
    let x = cx.input(0)?;
    let part = cx.node1("slice", &[x, start, end, axes], Attrs::default())?;
    if index.shape().is_empty() { cx.node1("squeeze", &[part, axes], Attrs::default()).map(|y| vec![y]) } else { Ok(vec![part]) }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, index) = (cx.input(0)?, cx.input(1)?);
    let at = axis_of(cx.attrs, x.rank())?;
    require_index(index)?;
    check_known(cx.constant(1), &x.shape[at])?;
    let shape = [&x.shape[..at], &index.shape, &x.shape[at + 1..]].concat();
    let ty = TensorType::new(x.dtype, shape);
    require_room(x, &ty)?;
    Ok(vec![ty])
}

fn dims(cx: &InferCx) -> Option<Vec<Dim>> {
    if cx.opt(0)?.rank() != 1 || cx.opt(1)?.rank() > 1 {
        return None;
    }
    let list = cx.as_sizes(0)?;
    let index = cx.constant(1)?.to_i64s()?;
    index.iter().map(|i| position(*i, list.len() as u64).ok().map(|p| list[p].clone())).collect()
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let at = axis_of(cx.attrs, x.shape().len())?;
    let index = index_values(cx.input(1))?;
    let outer: u64 = x.shape()[..at].iter().product();
    let run: usize = x.shape()[at + 1..].iter().product::<u64>() as usize;
    let n = x.shape()[at];
    let mut out = Picker::new(x.dtype());
    for o in 0..outer as usize {
        for i in &index {
            let first = (o * n as usize + position(*i, n)?) * run;
            (first..first + run).for_each(|e| out.pick(x, e));
        }
    }
    Ok(vec![out.finish(&cx.out_shape(0))])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, index, y) = (cx.input(0), cx.input(1), cx.output(0));
    nest::movable(y.dtype)?;
    let shape = y.view.shape.clone();
    if shape.contains(&0) {
        return Ok(());
    }
    let at = axis_of(cx.attrs, x.view.shape.len())?;
    let (n, width) = (x.view.extent(at), index.view.shape.len());
    let by_index = at..at + width;
    // Indices are read once for each run of what lies denser in the result than they do.
    let stride = |d: usize| y.view.strides[d].unsigned_abs();
    let widest = by_index.clone().filter(|d| shape[*d] != 1).map(stride).max().unwrap_or(u64::MAX);
    let (before, after): (Vec<usize>, Vec<usize>) =
        (0..shape.len()).filter(|d| !by_index.contains(d)).partition(|d| stride(*d) > widest);
    let mut outside = dense_last(before, &y.view);
    outside.extend(dense_last(by_index.clone(), &y.view));
    let inside = dense_last(after, &y.view);
    let elements = shape.iter().product();
    let extents = y.view.extents();
    rows(cx, &extents, &outside, elements, &mut origin(shape.len()), &mut |cx, place| {
        let raw = cx.load(&index, &place[by_index.clone()]);
        let i = Expr::Var(safe_index(cx, raw, index.dtype, n.clone()));
        over(cx, &extents, &inside, (LoopKind::Serial, LoopKind::Vector), place, &mut |cx, place| {
            let from = [&place[..at], std::slice::from_ref(&i), &place[at + width..]].concat();
            let value = cx.load(&x, &from);
            cx.store(&y, place, value);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let on = |axis: i64| int_attrs(&[("axis", axis)]);
    let index = |shape: &[u64], n: f64| data_in(DType::I64, shape, -n, n);
    vec![
        sample(Attrs::default(), vec![f32s(&[7, 33]), index(&[5], 7.0)]),
        sample(on(1), vec![f32s(&[2, 5, 3, 4]), index(&[2, 3], 5.0)]),
        sample(on(-1), vec![f32s(&[3, 9]), data_in(DType::I32, &[4], -9.0, 9.0)]),
        sample(on(1), vec![f32s(&[3, 9, 17]), index(&[], 9.0)]),
        sample(on(0), vec![data(DType::I64, &[6]), ints(&[5, -1, 0])]),
        sample(on(1), vec![data(DType::F16, &[4, 6]), int(-2)]),
        sample(on(0), vec![data(DType::U4, &[9, 3]), index(&[5], 9.0)]),
        sample(on(0), vec![data(DType::Bool, &[4, 3]), index(&[2, 2], 4.0)]),
        sample(on(0), vec![f32s(&[4, 3]), index(&[0], 4.0)]),
        sample(on(0), vec![f32s(&[100, 256]), index(&[64], 100.0)]),
    ]
}

fn infer_elements(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, index) = (cx.input(0)?, cx.input(1)?);
    let at = axis_of(cx.attrs, x.rank())?;
    require_index(index)?;
    check_known(cx.constant(1), &x.shape[at])?;
    if index.rank() != x.rank() {
        return Err(OpError::new(format!("the indices are {index}, the data {x}: ranks must be the same")));
    }
    for d in (0..x.rank()).filter(|d| *d != at) {
        if let (Some(i), Some(n)) = (index.shape[d].as_const(), x.shape[d].as_const())
            && i > n
        {
            return Err(OpError::new(format!("the indices are {index}, the data {x}: dimension {d} has too few elements")));
        }
    }
    let ty = TensorType::new(x.dtype, index.shape.clone());
    require_room(x, &ty)?;
    Ok(vec![ty])
}

fn eval_elements(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let at = axis_of(cx.attrs, x.shape().len())?;
    let index = index_values(cx.input(1))?;
    let index = index.iter().map(|i| position(*i, x.shape()[at])).collect::<OpResult<Vec<_>>>()?;
    let (shape, dense) = (cx.out_shape(0), strides(x.shape()));
    let mut out = Picker::new(x.dtype());
    let mut index = index.into_iter();
    for_coords(&shape, |place| {
        let mut from = place.to_vec();
        from[at] = index.next().expect("internal: one index per result");
        out.pick(x, offset(&from, &dense));
    });
    Ok(vec![out.finish(&shape)])
}

fn lower_elements(cx: &mut LowerCx) -> OpResult<()> {
    let (x, index, y) = (cx.input(0), cx.input(1), cx.output(0));
    nest::movable(y.dtype)?;
    let shape = y.view.extents();
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let at = axis_of(cx.attrs, shape.len())?;
    let others: Vec<_> = (0..shape.len()).filter(|d| *d != at).map(|d| (shape[d].clone(), x.view.extent(d))).collect();
    nest::within(cx, 1, &others)?;
    let dims = dense_last(0..shape.len(), &y.view);
    rows(cx, &shape, &dims, nest::most_elements(&shape), &mut origin(shape.len()), &mut |cx, place| {
        let raw = cx.load(&index, place);
        let mut from = place.clone();
        from[at] = Expr::Var(safe_index(cx, raw, index.dtype, x.view.extent(at)));
        let value = cx.load(&x, &from);
        cx.store(&y, place, value);
    });
    Ok(())
}

fn samples_elements() -> Vec<Sample> {
    let on = |axis: i64| int_attrs(&[("axis", axis)]);
    vec![
        sample(on(1), vec![f32s(&[3, 7]), data_in(DType::I64, &[3, 5], -7.0, 7.0)]),
        sample(on(0), vec![f32s(&[3, 7]), data_in(DType::I32, &[9, 6], -3.0, 3.0)]),
        sample(on(-1), vec![data(DType::U8, &[2, 3, 4]), data_in(DType::I64, &[1, 2, 8], -4.0, 4.0)]),
        sample(on(0), vec![data(DType::F16, &[6]), ints(&[0, -1, 5, 2])]),
        sample(on(1), vec![data(DType::I2, &[3, 7]), data_in(DType::I64, &[3, 5], -7.0, 7.0)]),
    ]
}
