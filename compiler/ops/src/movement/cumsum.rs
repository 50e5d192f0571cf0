//! `cumsum` and `cumprod`: sums or products of the elements so far along one dimension. Operands data, axis (one integer). Attributes `exclusive` (an element does not
//! count in its own result) and `reverse` (from the end).
//!
//! f16 and bf16 are computed in f32.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::scalar_eval::{self, Scalar};
use onnxc_ir::{Attrs, DType, Tensor, TensorType};

use super::{index_values, require_index};
use crate::common::axes::axis;
use crate::common::elements::{from_scalars, scalars, strides};
use crate::common::nest::{self, ExprExt, compute_type, dense_last, number, origin, over, rows, safe_index};
use crate::common::sample::{data, data_in, f32s, int, int_attrs, sample};

macro_rules! running {
    ($id:ident $name:literal $onnx:literal $since:literal $op:expr) => {
        #[doc = concat!("`", $name, "`")]
        pub(crate) static $id: OpDef = OpDef {
            name: $name,
            onnx: &[Import { domain: "", name: $onnx, opsets: ($since, NEWEST), build: |cx| cx.forward($name) }],
            infer,
            infer_dims: None,
            eval: |cx| eval(cx, $op),
            lower: Lower::OpenNest(|cx| lower(cx, $op)),
            tolerance: Tolerance::EXACT,
            samples,
        };
    };
}

running!(CUMSUM "cumsum" "CumSum" 11 BinOp::Add);
running!(CUMPROD "cumprod" "CumProd" 26 BinOp::Mul);

/// What a result without elements is.
fn neutral(op: BinOp) -> f64 {
    if op == BinOp::Add { 0.0 } else { 1.0 }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let numeric = matches!(x.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    if !(numeric || x.dtype.is_int() && x.dtype.bits() >= 8) {
        return Err(OpError::new(format!("elements of type {} cannot be summed", x.dtype)));
    }
    let at = cx.input(1)?;
    require_index(at)?;
    if x.rank() == 0 {
        return Err(OpError::new("a scalar has no dimension to sum along"));
    }
    if at.shape.iter().any(|d| d.as_const().is_some_and(|n| n != 1)) {
        return Err(OpError::new(format!("the axis must be one number, it is {at}")));
    }
    order(cx.attrs, cx.constant(1), x.rank(), BinOp::Add).map(|_| vec![x.clone()])
}

/// How sums run.
#[derive(Clone, Copy)]
struct Order {
    /// The dimension, if it is known.
    at: Option<usize>,
    /// Elements do not count in their own sums.
    exclusive: bool,
    /// From the end.
    reverse: bool,
    op: BinOp,
}

fn order(attrs: &Attrs, at: Option<&Tensor>, rank: usize, op: BinOp) -> OpResult<Order> {
    let at = match at.map(index_values).transpose()?.as_deref() {
        None => None,
        Some([at]) => Some(axis(*at, rank)?),
        Some(_) => return Err(OpError::new("the axis must be one number")),
    };
    let on = |name: &str| attrs.int(name).unwrap_or(0) != 0;
    Ok(Order { at, exclusive: on("exclusive"), reverse: on("reverse"), op })
}

fn eval(cx: &EvalCx, op: BinOp) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let Order { at, exclusive, reverse, .. } = order(cx.attrs, cx.opt(1), shape.len(), op)?;
    let at = at.expect("internal: inference accepts a missing axis");
    let (t, n, step) = (compute_type(x.dtype()), shape[at] as usize, strides(&shape)[at]);
    let values = scalars(x)?;
    let mut sums = values.clone();
    for first in (0..values.len()).filter(|i| i / step % n == 0) {
        let mut sum = if t.is_float() { Scalar::Float(neutral(op)) } else { Scalar::Int(neutral(op) as i128) };
        for i in 0..n {
            let e = first + step * if reverse { n - 1 - i } else { i };
            let with = scalar_eval::bin(op, sum, values[e], t).cast(t);
            sums[e] = if exclusive { sum } else { with };
            sum = with;
        }
    }
    Ok(vec![from_scalars(x.dtype(), &shape, sums)?])
}

fn lower(cx: &mut LowerCx, op: BinOp) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::require(y.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let (rank, axis) = (y.view.shape.len(), cx.input(1));
    let order = order(cx.attrs, axis.constant.as_ref(), rank, op)?;
    match order.at {
        Some(at) => sum_along(cx, &x, &y, at, order),
        None => {
            let raw = cx.load(&axis, &origin(axis.view.shape.len()));
            let at = Expr::Var(safe_index(cx, raw, axis.dtype, rank as u64));
            for d in 0..rank {
                let this = Expr::bin(BinOp::Eq, at.clone(), Expr::Int(d as i64));
                cx.if_(this, |cx| sum_along(cx, &x, &y, d, order), |_| ());
            }
        }
    }
    Ok(())
}

/// Sums along dimension `at`, if it has elements.
fn sum_along(cx: &mut LowerCx, x: &Arg, y: &Arg, at: usize, order: Order) {
    let n = y.view.extent(at);
    if cx.least(&n) > 0 {
        return sums(cx, x, y, at, order);
    }
    let some = Expr::bin(BinOp::Gt, cx.count(&n), Expr::Int(0));
    cx.if_(some, |cx| sums(cx, x, y, at, order), |_| ());
}

fn sums(cx: &mut LowerCx, x: &Arg, y: &Arg, at: usize, Order { exclusive, reverse, op, .. }: Order) {
    let shape = y.view.extents();
    let t = compute_type(y.dtype);
    let end = cx.count(&shape[at]);
    let last = end.clone().add(Expr::Int(-1));
    let place = |i: Expr| if reverse { last.clone().minus(i) } else { i };
    // Rows that lie beside each other are summed together, in the result itself when it holds sums without rounding.
    let (outside, inside): (Vec<usize>, Vec<usize>) = (0..shape.len())
        .filter(|d| *d != at)
        .partition(|d| t != y.dtype || y.view.strides[*d].unsigned_abs() > y.view.strides[at].unsigned_abs());
    let (outside, inside) = (dense_last(outside, &y.view), dense_last(inside, &y.view));
    let elements = nest::most_elements(&shape);
    rows(cx, &shape, &outside, elements, &mut origin(shape.len()), &mut |cx, coord| {
        if inside.is_empty() {
            return one_row(cx, x, y, (at, exclusive, op), &place, coord);
        }
        let across = |cx: &mut LowerCx, coord: &mut Vec<Expr>, value: &dyn Fn(&LowerCx, &[Expr]) -> Expr| {
            over(cx, &shape, &inside, (LoopKind::Serial, LoopKind::Vector), coord, &mut |cx, coord| {
                let value = value(cx, coord);
                cx.store(y, coord, value);
            });
        };
        let with = |coord: &[Expr], i: Expr| {
            let mut coord = coord.to_vec();
            coord[at] = place(i);
            coord
        };
        coord[at] = place(Expr::Int(0));
        let zero = number(t, neutral(op));
        // The sum of one element is `0 + x`, which is +0 for -0.
        across(cx, coord, &|cx, c| if exclusive { zero.clone() } else { Expr::bin(op, zero.clone(), cx.load(x, c)) });
        cx.for_range(LoopKind::Serial, Expr::Int(1), end.clone(), 1, |cx, i| {
            let before = i.clone().minus(Expr::Int(1));
            coord[at] = place(i.clone());
            across(cx, coord, &|cx, c| {
                let (to, previous) = (with(c, i.clone()), with(c, before.clone()));
                Expr::bin(op, cx.load(y, &previous), cx.load(x, if exclusive { &previous } else { &to }))
            });
        });
    });
}

/// One row with a running sum.
fn one_row(
    cx: &mut LowerCx,
    x: &Arg,
    y: &Arg,
    (at, exclusive, op): (usize, bool, BinOp),
    place: &dyn Fn(Expr) -> Expr,
    coord: &[Expr],
) {
    let sum = cx.let_(number(compute_type(y.dtype), neutral(op)));
    let end = cx.count(&y.view.extent(at));
    cx.for_range(LoopKind::Serial, Expr::Int(0), end, 1, |cx, i| {
        let mut coord = coord.to_vec();
        coord[at] = place(i);
        let value = Expr::Var(cx.let_(nest::load(cx, x, &coord)));
        if exclusive {
            nest::store(cx, y, &coord, Expr::Var(sum));
        }
        cx.set(sum, Expr::bin(op, Expr::Var(sum), value));
        if !exclusive {
            nest::store(cx, y, &coord, Expr::Var(sum));
        }
    });
}

fn samples() -> Vec<Sample> {
    let of = |exclusive: i64, reverse: i64| int_attrs(&[("exclusive", exclusive), ("reverse", reverse)]);
    vec![
        sample(of(0, 0), vec![f32s(&[9]), int(0)]),
        sample(of(1, 0), vec![f32s(&[3, 17]), int(-1)]),
        sample(of(0, 1), vec![f32s(&[5, 19]), int(0)]),
        sample(of(1, 1), vec![f32s(&[2, 5, 3]), int(1)]),
        sample(of(1, 0), vec![data(DType::F64, &[4, 3, 9]), int(0)]),
        sample(of(0, 1), vec![data(DType::I64, &[3, 6]), int(1)]),
        sample(of(0, 0), vec![data(DType::I32, &[6, 20]), int(0)]),
        sample(of(0, 0), vec![data(DType::F16, &[6, 4]), int(0)]),
        sample(of(0, 0), vec![f32s(&[0, 3]), int(0)]),
        sample(of(0, 1), vec![f32s(&[2, 5, 3]), data_in(DType::I64, &[], -3.0, 3.0)]),
        sample(of(1, 0), vec![data(DType::I32, &[4, 3]), data_in(DType::I32, &[1], -2.0, 0.0)]),
    ]
}
