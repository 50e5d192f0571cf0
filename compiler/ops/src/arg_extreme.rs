//! `arg_max` and `arg_min`: position of the largest or smallest element along one dimension, as i64.
//!
//! Attributes: `axis` (0), `keepdims` (1), `select_last_index` (0: the first of equal ones). NaN counts as the extreme, as in NumPy.
//! Two passes over a row, both reductions: the extreme, then the smallest (largest) position of an element equal to it.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance, View};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType};

use crate::common::axes::axis;
use crate::common::elements::scalars;
use crate::common::nest::{self, ExprExt, compute_type, dense_last, int, origin, over, select};
use crate::common::rows::{Row, Rows, offsets, position, positions, spread_reduced};
use crate::common::sample::{data, f32s, int_attrs, sample};

macro_rules! arg_extreme {
    ($id:ident $name:literal $onnx:literal $max:literal) => {
        #[doc = concat!("`", $name, "`")]
        pub(crate) static $id: OpDef = OpDef {
            name: $name,
            onnx: &[Import { domain: "", name: $onnx, opsets: (1, NEWEST), build: |cx| cx.forward($name) }],
            infer,
            infer_dims: None,
            eval: |cx| eval(cx, $max),
            lower: Lower::OpenNest(|cx| lower(cx, $max)),
            tolerance: Tolerance::EXACT,
            samples,
        };
    };
}

arg_extreme!(ARG_MAX "arg_max" "ArgMax" true);
arg_extreme!(ARG_MIN "arg_min" "ArgMin" false);

fn row_axis(attrs: &Attrs, rank: usize) -> OpResult<usize> {
    axis(attrs.int("axis").unwrap_or(0), rank)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let float = matches!(x.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    if !(float || x.dtype.is_int() && x.dtype.bits() >= 8) {
        return Err(OpError::new(format!("elements of type {} have no order here", x.dtype)));
    }
    let at = row_axis(cx.attrs, x.rank())?;
    if x.shape[at] == Dim::Const(0) {
        return Err(OpError::new(format!("dimension {at} of x is empty: there is no element to choose")));
    }
    let mut shape = x.shape.clone();
    if cx.attrs.int("keepdims").unwrap_or(1) != 0 {
        shape[at] = Dim::Const(1);
    } else {
        shape.remove(at);
    }
    Ok(vec![TensorType::new(DType::I64, shape)])
}

/// True when `a` goes before `b`.
fn better(max: bool, a: Scalar, b: Scalar) -> bool {
    match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => {
            if max {
                a > b
            } else {
                a < b
            }
        }
        (a, b) => {
            let (a, b) = (a.float(), b.float());
            !b.is_nan() && (a.is_nan() || if max { a > b } else { a < b })
        }
    }
}

/// Position of the extreme of a row.
pub(crate) fn find(max: bool, last: bool, row: impl Iterator<Item = Scalar>) -> usize {
    let mut best: Option<(usize, Scalar)> = None;
    for (i, v) in row.enumerate() {
        if best.is_none_or(|(_, b)| better(max, v, b) || last && !better(max, b, v)) {
            best = Some((i, v));
        }
    }
    best.map_or(0, |b| b.0)
}

fn is_last(attrs: &Attrs) -> bool {
    attrs.int("select_last_index").unwrap_or(0) != 0
}

fn eval(cx: &EvalCx, max: bool) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let values = scalars(x)?;
    let (starts, steps) = offsets(x.shape(), &[row_axis(cx.attrs, x.shape().len())?]);
    let found = starts.into_iter().map(|s| find(max, is_last(cx.attrs), steps.iter().map(|i| values[s + i])) as i64);
    Ok(vec![Tensor::from_vec(&cx.out_shape(0), found.collect())])
}

/// Type of comparisons: small integers in i32, where vectors have reductions.
pub(crate) fn compare_type(dtype: DType) -> DType {
    if dtype.is_int() && dtype.bits() < 32 { DType::I32 } else { compute_type(dtype) }
}

/// Position of the extreme of a row of view 0, of which view `places` holds the positions.
pub(crate) fn find_in_row(row: &mut Row, places: usize, max: bool, last: bool) -> Expr {
    let (x, places) = (row.arg(0), row.arg(places));
    let t = compare_type(x.dtype);
    let value = |cx: &LowerCx, at: &[Expr]| cx.load(&x, at).cast_from(x.dtype, t);
    let op = if max { BinOp::Max } else { BinOp::Min };
    let start = match t.int_range() {
        None => nest::float(t, if max { f64::NEG_INFINITY } else { f64::INFINITY }),
        Some((low, high)) => int(t, if max { low as i64 } else { high as u64 as i64 }),
    };
    let best = row.reduce(op, start, |cx, at| value(cx, at));
    let wide = places.dtype;
    let most = if wide == DType::I64 { i64::MAX } else { i64::from(i32::MAX) };
    let (op, none) = if last { (BinOp::Max, 0) } else { (BinOp::Min, most) };
    row.reduce(op, int(wide, none), |cx, at| {
        let e = Expr::Var(cx.let_(value(cx, at)));
        let mut equal = Expr::bin(BinOp::Eq, e.clone(), best.clone());
        if t.is_float() {
            equal = Expr::bin(BinOp::Or, equal, Expr::un(UnOp::IsNan, e));
        }
        select(equal, position(cx, &places, at), int(wide, none))
    })
}

fn lower(cx: &mut LowerCx, max: bool) -> OpResult<()> {
    let (x, out) = (cx.input(0), cx.output(0));
    nest::require(x.dtype)?;
    let shape = x.view.shape.clone();
    let axis = row_axis(cx.attrs, shape.len())?;
    let last = is_last(cx.attrs);
    let places = positions(cx, &shape, &[axis]);
    let (extents, wide) = (x.view.extents(), places.dtype);
    let rows =
        |result: &Arg| Rows::new(&extents, &[axis], vec![x.clone(), spread_reduced(result, &shape, &[axis]), places.clone()]);
    // Vector loops hold 32-bit integers: neighbouring rows go through scratch memory of that width.
    let narrow = (rows(&out).is_across() && wide == DType::I32).then(|| {
        let shape = out.view.shape.clone();
        let buf = cx.scratch(DType::I32, shape.iter().product(), false);
        Arg { buf, dtype: DType::I32, view: View::contiguous(&shape), constant: None }
    });
    let rows = rows(narrow.as_ref().unwrap_or(&out));
    rows.emit(cx, &mut |row| {
        let index = find_in_row(row, 2, max, last);
        row.store(1, index);
    });
    if let Some(narrow) = &narrow {
        let dims = dense_last(0..out.view.shape.len(), &out.view);
        over(cx, &out.view, &dims, (LoopKind::Serial, LoopKind::Serial), &mut origin(out.view.shape.len()), &mut |cx, at| {
            let e = cx.load(narrow, at).cast_from(DType::I32, DType::I64);
            cx.store(&out, at, e);
        });
    }
    Ok(())
}

fn samples() -> Vec<Sample> {
    let at = |axis: i64, keep: i64, last: i64| int_attrs(&[("axis", axis), ("keepdims", keep), ("select_last_index", last)]);
    let mut all = vec![
        sample(Attrs::default(), vec![f32s(&[7])]),
        sample(at(-1, 0, 0), vec![f32s(&[3, 37])]),
        sample(at(0, 1, 0), vec![f32s(&[5, 21])]),
        sample(at(1, 0, 0), vec![f32s(&[2, 11, 4, 9])]),
        sample(at(1, 0, 1), vec![data(DType::U8, &[6, 40])]),
        sample(at(0, 1, 1), vec![data(DType::I32, &[9, 18])]),
        sample(at(1, 1, 0), vec![f32s(&[2, 1, 3])]),
    ];
    all.extend(
        [DType::F64, DType::F16, DType::BF16, DType::I8, DType::U8, DType::I64, DType::U32, DType::U64]
            .map(|t| sample(at(1, 1, 0), vec![data(t, &[3, 19])])),
    );
    all
}
