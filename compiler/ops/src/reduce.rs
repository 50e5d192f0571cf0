//! `reduce_sum`, `reduce_mean`, `reduce_max`, `reduce_min`, `reduce_prod`, `reduce_l1`, `reduce_l2`, `reduce_log_sum`, `reduce_log_sum_exp`,
//! `reduce_sum_square`: one value from all elements along some axes.
//!
//! Inputs: x, axes (constant integers; absent or empty means all of them, or none with `noop_with_empty_axes`). With `keepdims` (the default) reduced
//! dimensions stay with extent 1. With no axes at all the result is the reduction of each single element: `|x|` for l1, `x*x` for sum_square.
//! Integers wrap; their mean truncates, their l2 and logarithms are computed in f64. `reduce_log_sum_exp` subtracts the largest element first.

use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use onnxc_ir::lir::Expr;

use crate::at_run_time;
use crate::common::axes::{axes, opt_const_ints};
use crate::common::elements::{from_scalars, scalars};
use crate::common::import::{attrs_without, ints, ints_input};
use crate::common::nest::{self, ExprExt, compute_type, int, number, select};
use crate::common::rows::{self, Row, Rows, spread_reduced};
use crate::common::sample::{data, data_in, f32s, int_attrs, ints as const_ints, sample};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    LogSum,
    LogSumExp,
    SumSquare,
}

macro_rules! reduction {
    ($id:ident $name:literal $onnx:literal $kind:ident $tolerance:expr $(, $global:literal)?) => {
        #[doc = concat!("`", $name, "`")]
        pub(crate) static $id: OpDef = OpDef {
            name: $name,
            onnx: &[
                Import { domain: "", name: $onnx, opsets: (1, NEWEST), build: |cx| import(cx, $name) }
                $(, Import { domain: "", name: $global, opsets: (1, NEWEST), build: |cx| import_global(cx, $name) })?
            ],
            infer: |cx| infer(cx, Kind::$kind),
            infer_dims: None,
            eval: |cx| eval(cx, Kind::$kind),
            lower: Lower::OpenNest(|cx| lower(cx, Kind::$kind)),
            tolerance: $tolerance,
            samples: || samples(Kind::$kind),
        };
    };
}

const ORDER: Tolerance = Tolerance { rel: 1e-5, abs: 1e-5, why: "order of summation, logarithm by a polynomial" };

reduction!(REDUCE_SUM "reduce_sum" "ReduceSum" Sum ORDER);
reduction!(REDUCE_MEAN "reduce_mean" "ReduceMean" Mean ORDER, "GlobalAveragePool");
reduction!(REDUCE_MAX "reduce_max" "ReduceMax" Max Tolerance::EXACT, "GlobalMaxPool");
reduction!(REDUCE_MIN "reduce_min" "ReduceMin" Min Tolerance::EXACT);
reduction!(REDUCE_PROD "reduce_prod" "ReduceProd" Prod ORDER);
reduction!(REDUCE_L1 "reduce_l1" "ReduceL1" L1 ORDER);
reduction!(REDUCE_L2 "reduce_l2" "ReduceL2" L2 ORDER);
reduction!(REDUCE_LOG_SUM "reduce_log_sum" "ReduceLogSum" LogSum ORDER);
reduction!(REDUCE_LOG_SUM_EXP "reduce_log_sum_exp" "ReduceLogSumExp" LogSumExp ORDER);
reduction!(REDUCE_SUM_SQUARE "reduce_sum_square" "ReduceSumSquare" SumSquare ORDER);

/// Axes become a constant operand, all of them written out.
fn import(cx: &mut dyn ImportCx, name: &str) -> OpResult<Vec<ValueId>> {
    let x = cx.input(0)?;
    let noop = cx.attrs().int("noop_with_empty_axes").unwrap_or(0) != 0;
    let given = ints_input(cx, 1, "axes");
    let empty = given.is_none_or(|id| cx.graph().ty(id).shape == [Dim::Const(0)]);
    let all: Vec<i64> = (0..cx.graph().ty(x).rank() as i64).collect();
    let list = if !empty { given } else { Some(ints(cx, if noop { &[] } else { &all })) };
    let attrs = attrs_without(cx, &["axes", "noop_with_empty_axes"]);
    let attrs = if empty && noop { attrs.with("noop_with_empty_axes", Attr::Int(1)) } else { attrs };
    at_run_time::or_declared(
        cx,
        |cx| cx.node(name, &[Some(x), list], attrs.clone()),
        |b, to| at_run_time::reduce(b, name, &attrs, to),
    )
}

/// A pool over all spatial dimensions.
fn import_global(cx: &mut dyn ImportCx, name: &str) -> OpResult<Vec<ValueId>> {
    let x = cx.input(0)?;
    let rank = cx.graph().ty(x).rank() as i64;
    if rank < 2 {
        return Err(OpError::new(format!("{} has no channels", cx.graph().ty(x))));
    }
    let list = ints(cx, &(2..rank).collect::<Vec<_>>());
    let attrs = if rank == 2 { Attrs::default().with("noop_with_empty_axes", Attr::Int(1)) } else { Attrs::default() };
    cx.node(name, &[Some(x), Some(list)], attrs)
}

/// The axes, sorted, from the constant operand's value.
fn chosen(attrs: &Attrs, given: Option<Vec<i64>>, rank: usize) -> OpResult<Vec<usize>> {
    match given.as_deref() {
        None | Some([]) if attrs.int("noop_with_empty_axes").unwrap_or(0) != 0 => Ok(Vec::new()),
        None | Some([]) => Ok((0..rank).collect()),
        Some(list) => axes(list, rank),
    }
}

fn keepdims(attrs: &Attrs) -> bool {
    attrs.int("keepdims").unwrap_or(1) != 0
}

fn infer(cx: &InferCx, kind: Kind) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let bits = if matches!(kind, Kind::Max | Kind::Min) { 8 } else { 32 };
    let float = matches!(x.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    let integer = (x.dtype.is_int() || x.dtype == DType::Bool) && x.dtype.bits() >= bits;
    if !float && !integer {
        return Err(OpError::new(format!("elements of type {} cannot be reduced this way", x.dtype)));
    }
    let axes = chosen(cx.attrs, opt_const_ints(cx, 1, "the axes")?, x.rank())?;
    let shape = x.shape.iter().enumerate().filter_map(|(d, n)| match (axes.contains(&d), keepdims(cx.attrs)) {
        (false, _) => Some(n.clone()),
        (true, true) => Some(Dim::Const(1)),
        (true, false) => None,
    });
    Ok(vec![TensorType::new(x.dtype, shape.collect())])
}

fn eval(cx: &EvalCx, kind: Kind) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let axes = chosen(cx.attrs, cx.opt(1).and_then(Tensor::to_i64s), x.shape().len())?;
    let (starts, steps) = rows::offsets(x.shape(), &axes);
    let values = scalars(x)?;
    let reduced = starts.into_iter().map(|start| {
        let row = steps.iter().map(|s| values[start + s]);
        if x.dtype().is_float() {
            Scalar::Float(reduce_floats(kind, row.map(Scalar::float).collect()))
        } else {
            reduce_ints(kind, x.dtype(), row.map(Scalar::int).collect())
        }
    });
    let reduced: Vec<Scalar> = reduced.collect();
    Ok(vec![from_scalars(x.dtype(), &cx.out_shape(0), reduced)?])
}

fn reduce_floats(kind: Kind, row: Vec<f64>) -> f64 {
    let sum = |f: fn(f64) -> f64| row.iter().map(|x| f(*x)).sum::<f64>();
    let pick = |init: f64, better: fn(f64, f64) -> bool| {
        row.iter().fold(init, |a, b| {
            if a.is_nan() || b.is_nan() {
                f64::NAN
            } else if better(*b, a) {
                *b
            } else {
                a
            }
        })
    };
    let max = || pick(f64::NEG_INFINITY, |b, a| b > a);
    match kind {
        Kind::Sum => sum(|x| x),
        Kind::Mean => sum(|x| x) / row.len() as f64,
        Kind::Max => max(),
        Kind::Min => pick(f64::INFINITY, |b, a| b < a),
        Kind::Prod => row.iter().product(),
        Kind::L1 => sum(f64::abs),
        Kind::L2 => sum(|x| x * x).sqrt(),
        Kind::SumSquare => sum(|x| x * x),
        Kind::LogSum => sum(|x| x).ln(),
        Kind::LogSumExp => {
            let top = max();
            let top = if top.is_infinite() { 0.0 } else { top };
            top + row.iter().map(|x| (x - top).exp()).sum::<f64>().ln()
        }
    }
}

fn reduce_ints(kind: Kind, dtype: DType, row: Vec<i128>) -> Scalar {
    let wrapped = |x: i128| Scalar::Int(x).cast(dtype).int();
    let sum = |f: fn(i128) -> i128| wrapped(row.iter().fold(0i128, |a, x| a.wrapping_add(f(*x))));
    let limits = dtype.int_range().unwrap_or((0, 1));
    let square = |x: i128| x.wrapping_mul(x);
    match kind {
        Kind::Sum => Scalar::Int(sum(|x| x)),
        Kind::Mean => Scalar::Int(sum(|x| x).checked_div(wrapped(row.len() as i128)).unwrap_or(0)),
        Kind::Max => Scalar::Int(row.iter().copied().max().unwrap_or(limits.0)),
        Kind::Min => Scalar::Int(row.iter().copied().min().unwrap_or(limits.1)),
        Kind::Prod => Scalar::Int(wrapped(row.iter().fold(1i128, |a, x| a.wrapping_mul(*x)))),
        Kind::L1 => Scalar::Int(sum(i128::abs)),
        Kind::SumSquare => Scalar::Int(sum(square)),
        Kind::L2 => Scalar::Float((sum(square) as f64).sqrt()),
        Kind::LogSum => Scalar::Float((sum(|x| x) as f64).ln()),
        Kind::LogSumExp => Scalar::Float(reduce_floats(kind, row.iter().map(|x| *x as f64).collect())),
    }
}

/// Type of the accumulator: small integers in i32, where vectors have reductions.
fn accumulator(kind: Kind, dtype: DType) -> DType {
    match dtype {
        t if t.is_int() && kind == Kind::LogSumExp => DType::F64,
        t if t.is_float() => compute_type(t),
        DType::Bool => DType::I32,
        t if t.bits() < 32 => DType::I32,
        t => t,
    }
}

fn lower(cx: &mut LowerCx, kind: Kind) -> OpResult<()> {
    let (x, out) = (cx.input(0), cx.output(0));
    nest::require(x.dtype)?;
    let shape = x.view.shape.clone();
    let given = cx.opt(1).and_then(|a| a.constant).and_then(|t| t.to_i64s());
    let axes = chosen(cx.attrs, given, shape.len())?;
    let rows = Rows::new(&x.view.extents(), &axes, vec![x.clone(), spread_reduced(&out, &shape, &axes)]);
    let t = accumulator(kind, x.dtype);
    let n = cx.count(&rows.row_len());
    let n = if let Expr::Int(n) = n { number(t, n as f64) } else { n.cast_from(DType::I64, t) };
    rows.emit(cx, &mut |row| {
        let result = reduce_row(row, kind, x.dtype, t, &n);
        row.store(1, result);
    });
    Ok(())
}

/// The value of one row in the accumulator's type, or in f64 for functions of integers.
fn reduce_row(row: &mut Row, kind: Kind, dtype: DType, t: DType, n: &Expr) -> Expr {
    let x = row.arg(0);
    let load = |cx: &mut LowerCx, at: &[Expr]| cx.load(&x, at).cast_from(dtype, t);
    let (low, high) = limits(dtype, t);
    let function = |op, sum: Expr| Expr::un(op, if t.is_float() { sum } else { sum.cast_from(t, DType::F64) });
    let zero = || number(t, 0.0);
    match kind {
        Kind::Sum => row.reduce(BinOp::Add, zero(), load),
        Kind::Mean => {
            let sum = row.reduce(BinOp::Add, zero(), load);
            Expr::bin(BinOp::Div, sum, n.clone())
        }
        Kind::Max => row.reduce(BinOp::Max, low, load),
        Kind::Min => row.reduce(BinOp::Min, high, load),
        Kind::Prod => row.reduce(BinOp::Mul, number(t, 1.0), load),
        Kind::L1 => row.reduce(BinOp::Add, zero(), |cx, at| {
            let e = load(cx, at);
            if dtype.is_unsigned_int() { e } else { Expr::un(UnOp::Abs, e) }
        }),
        Kind::L2 | Kind::SumSquare => {
            let sum = row.reduce(BinOp::Add, zero(), |cx, at| {
                let e = load(cx, at);
                let e = Expr::Var(cx.let_(e));
                e.clone().mul(e)
            });
            if kind == Kind::L2 { function(UnOp::Sqrt, sum) } else { sum }
        }
        Kind::LogSum => {
            let sum = row.reduce(BinOp::Add, zero(), load);
            function(UnOp::Log, sum)
        }
        Kind::LogSumExp => {
            let top = row.reduce(BinOp::Max, number(t, f64::NEG_INFINITY), load);
            let infinite = Expr::un(UnOp::IsInf, top.clone());
            let top = row.let_(select(infinite, number(t, 0.0), top));
            let sum = row.reduce(BinOp::Add, number(t, 0.0), |cx, at| Expr::un(UnOp::Exp, load(cx, at).minus(top.clone())));
            Expr::un(UnOp::Log, sum).add(top)
        }
    }
}

/// Starting values of the largest and the smallest element of `dtype`, in the accumulator's type.
fn limits(dtype: DType, t: DType) -> (Expr, Expr) {
    match dtype.int_range() {
        None if dtype == DType::Bool => (int(t, 0), int(t, 1)),
        None => (number(t, f64::NEG_INFINITY), number(t, f64::INFINITY)),
        // The bits of the limits; u64's largest one is all ones.
        Some((low, high)) if t.is_int() => (int(t, low as i64), int(t, high as u64 as i64)),
        Some(_) => (number(t, f64::NEG_INFINITY), number(t, f64::INFINITY)),
    }
}

fn samples(kind: Kind) -> Vec<Sample> {
    let positive = kind == Kind::LogSum;
    let input = |t: DType, shape: &[u64]| {
        let (low, high) = if t.is_float() { (-2.0, 2.0) } else { (-20.0, 20.0) };
        data_in(t, shape, if positive || t.is_unsigned_int() { 1.0 } else { low }, high)
    };
    let keep = |k: i64| int_attrs(&[("keepdims", k)]);
    let case = |k: i64, shape: &[u64], axes: &[i64]| sample(keep(k), vec![input(DType::F32, shape), const_ints(axes)]);
    let mut all = vec![
        case(1, &[7], &[0]),
        case(0, &[3, 37], &[1]),
        case(0, &[5, 19], &[0]),
        case(1, &[2, 3, 4, 5], &[1, -1]),
        case(0, &[2, 3, 4, 5], &[0, 2]),
        case(0, &[2, 3, 4, 5], &[0, 1, 2, 3]),
        case(1, &[2, 12, 20], &[1]),
        sample(keep(0), vec![input(DType::F32, &[4, 5])]),
        sample(keep(0), vec![input(DType::F32, &[])]),
        sample(int_attrs(&[("noop_with_empty_axes", 1)]), vec![input(DType::F32, &[3, 9])]),
    ];
    for t in [DType::F64, DType::F16, DType::BF16, DType::I32, DType::I64, DType::U32, DType::U64] {
        all.push(sample(keep(1), vec![input(t, &[3, 9]), const_ints(&[1])]));
    }
    if matches!(kind, Kind::Sum | Kind::Prod | Kind::Max | Kind::Min) {
        all.push(sample(keep(1), vec![f32s(&[3, 0, 4]), const_ints(&[1])]));
    }
    if matches!(kind, Kind::Max | Kind::Min) {
        for t in [DType::I8, DType::U8, DType::Bool] {
            all.push(sample(keep(1), vec![data(t, &[3, 21]), const_ints(&[1])]));
            all.push(sample(keep(0), vec![data(t, &[3, 21]), const_ints(&[0])]));
        }
    }
    all
}
