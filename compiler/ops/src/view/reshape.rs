//! `reshape`, `flatten`, `squeeze`, `unsqueeze`: the same elements in the same order under another shape.

use onnxc_ir::op::{EvalCx, Extent, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Tolerance, View};
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::at_run_time::{self, or_counted, or_declared};
use crate::common::axes::{axes, axis, opt_const_ints, unknown};
use crate::common::broadcast::text;
use crate::common::import::ints_input;
use crate::common::sample::{data, f32s, int_attrs, ints, plain, sample};
use crate::common::views;

macro_rules! reshaping {
    ($id:ident $name:literal $onnx:literal $since:literal $build:expr, $infer:ident, $samples:expr) => {
        #[doc = concat!("`", $name, "`")]
        pub(crate) static $id: OpDef = OpDef {
            name: $name,
            onnx: &[Import { domain: "", name: $onnx, opsets: ($since, NEWEST), build: $build }],
            infer: $infer,
            infer_dims: Some(same_dims),
            eval,
            lower: Lower::View(view),
            tolerance: Tolerance::EXACT,
            samples: $samples,
        };
    };
}

reshaping!(RESHAPE "reshape" "Reshape" 5 |cx| or_counted(cx, |cx| cx.forward("reshape"), at_run_time::reshape), infer_reshape, || {
    vec![
        plain(vec![f32s(&[2, 3, 4]), ints(&[6, -1])]),
        plain(vec![f32s(&[2, 3, 4]), ints(&[0, 0, 2, 2])]),
        plain(vec![data(DType::F16, &[1]), ints(&[])]),
        plain(vec![data(DType::I4, &[3, 5]), ints(&[5, -1])]),
        sample(int_attrs(&[("allowzero", 1)]), vec![f32s(&[0, 3]), ints(&[3, 0])]),
    ]
});
reshaping!(FLATTEN "flatten" "Flatten" 1 |cx| cx.forward("flatten"), infer_flatten, || {
    [0, 1, 2, -1].iter().map(|a| sample(int_attrs(&[("axis", *a)]), vec![f32s(&[2, 3, 4])])).collect()
});
reshaping!(SQUEEZE "squeeze" "Squeeze" 1 |cx| or_declared(cx, |cx| with_axes(cx, "squeeze"), at_run_time::squeeze), infer_squeeze, || {
    vec![
        plain(vec![f32s(&[1, 3, 1]), ints(&[0])]),
        plain(vec![f32s(&[1, 3, 1]), ints(&[-1, 0])]),
        plain(vec![data(DType::I32, &[1, 3, 1])]),
    ]
});
reshaping!(UNSQUEEZE "unsqueeze" "Unsqueeze" 1 |cx| or_declared(cx, |cx| with_axes(cx, "unsqueeze"), at_run_time::unsqueeze), infer_unsqueeze, || {
    vec![
        plain(vec![f32s(&[3, 4]), ints(&[0])]),
        plain(vec![f32s(&[3, 4]), ints(&[-1, 1])]),
        plain(vec![data(DType::I64, &[]), ints(&[0])]),
    ]
});

/// `axes` was an attribute until opset 12.
fn with_axes(cx: &mut dyn ImportCx, op: &str) -> OpResult<Vec<ValueId>> {
    let (x, axes) = (cx.input(0)?, ints_input(cx, 1, "axes"));
    let inputs = if axes.is_some() { vec![Some(x), axes] } else { vec![Some(x)] };
    cx.node(op, &inputs, Attrs::default())
}

fn same_dims(cx: &InferCx) -> Option<Vec<Dim>> {
    if cx.constant(0).is_some() { None } else { cx.as_sizes(0) }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let shape = cx.out_shape(0);
    cx.input(0).reshaped(&shape).map(|t| vec![t]).ok_or_else(|| OpError::new("the number of elements changes"))
}

fn view(_: &Attrs, from: &View, to: &[Extent], _: &[Option<Tensor>]) -> Option<View> {
    views::reshape(from, to)
}

fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::Const(1), |a, d| a.mul(d))
}

fn infer_reshape(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let mismatch = |to: &[Dim]| OpError::new(format!("{} cannot be reshaped to {}", text(&x.shape), text(to)));
    let wanted = wanted_shape(cx)?;
    let copy_zero = cx.attrs.int("allowzero").unwrap_or(0) == 0;
    let mut shape = Vec::new();
    let mut open = None;
    for (d, n) in wanted.into_iter().enumerate() {
        shape.push(match n {
            Dim::Const(0) if copy_zero => x
                .shape
                .get(d)
                .cloned()
                .ok_or_else(|| OpError::new(format!("dimension {d} of the input is copied, but it has rank {}", x.rank())))?,
            n if n.is_rest() && open.is_some() => return Err(OpError::new("two dimensions of the new shape are -1")),
            n if n.is_rest() => {
                open = Some(d);
                Dim::Const(1)
            }
            n => n,
        });
    }
    let (have, known) = (product(&x.shape), product(&shape));
    if let Some(d) = open {
        // Equal factors cancel first, so that `[N, 0, -1]` works for a symbolic N.
        shape[d] = match have.as_const() {
            Some(0) if known == Dim::Const(0) => return Err(OpError::new("-1 cannot be computed: the input has no elements")),
            _ if known == Dim::Const(0) => return Err(mismatch(&shape)),
            _ => have.exact_div(&known).unwrap_or_else(|| have.div(&known)),
        };
    }
    match (have.as_const(), product(&shape).as_const()) {
        (Some(a), Some(b)) if a != b => Err(mismatch(&shape)),
        _ => Ok(vec![TensorType::new(x.dtype, shape)]),
    }
}

/// The new shape with its zeros and -1.
fn wanted_shape(cx: &InferCx) -> OpResult<Vec<Dim>> {
    let Some(wanted) = cx.constant(1) else { return cx.as_sizes(1).ok_or_else(|| unknown("the new shape")) };
    let wanted = wanted.to_i64s().ok_or_else(|| OpError::new("the new shape must be integers"))?;
    let extent = |n: &i64| match *n {
        -1 => Ok(Dim::rest()),
        n => u64::try_from(n).map(Dim::Const).map_err(|_| OpError::new(format!("the new shape has the extent {n}"))),
    };
    wanted.iter().map(extent).collect()
}

fn infer_flatten(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let at = cx.attrs.int("axis").unwrap_or(1);
    // The axis may be one past the last.
    let at = if at == x.rank() as i64 { x.rank() } else { axis(at, x.rank())? };
    Ok(vec![TensorType::new(x.dtype, vec![product(&x.shape[..at]), product(&x.shape[at..])])])
}

fn infer_squeeze(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let drop = match opt_const_ints(cx, 1, "axes")? {
        Some(list) => axes(&list, x.rank())?,
        None => (0..x.rank()).filter(|d| x.shape[*d].is_one()).collect(),
    };
    if let Some(d) = drop.iter().find(|d| x.shape[**d].as_const().is_some_and(|n| n != 1)) {
        return Err(OpError::new(format!("dimension {d} has the extent {}, only 1 can be removed", x.shape[*d])));
    }
    let kept = (0..x.rank()).filter(|d| !drop.contains(d)).map(|d| x.shape[d].clone());
    Ok(vec![TensorType::new(x.dtype, kept.collect())])
}

fn infer_unsqueeze(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let list = opt_const_ints(cx, 1, "axes")?.ok_or_else(|| OpError::new("axes are missing"))?;
    let rank = x.rank() + list.len();
    let new = axes(&list, rank)?;
    let mut old = x.shape.iter();
    let dim = |d: usize| if new.contains(&d) { Dim::Const(1) } else { old.next().cloned().unwrap_or(Dim::Const(1)) };
    Ok(vec![TensorType::new(x.dtype, (0..rank).map(dim).collect())])
}
