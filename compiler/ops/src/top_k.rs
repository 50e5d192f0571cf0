//! `top_k`: the k largest (or smallest) elements along a dimension, in order, and where they are.
//!
//! Operands: x, k (one i64, constant). Attributes: `axis` (-1), `largest` (1), `sorted` (1; the result is sorted in either case). Equal elements
//! come in the order of their positions, NaN counts as larger than everything. Results: values, positions (i64).
//!
//! Lowering: each row keeps its best elements sorted in the result itself and inserts; an element that is not among them costs one comparison.

use onnxc_ir::DType::{self, Bool, I64};
use onnxc_ir::lir::{Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attrs, Dim, Tensor, TensorType, ValueId};

use crate::at_run_time::{self, or_counted};
use crate::common::axes::{axis, unknown};
use crate::common::elements::{from_scalars, scalars};
use crate::common::import::{attrs_without, ints};
use crate::common::nest::{self, ExprExt, dense_last, int, origin};
use crate::common::rows::offsets;
use crate::common::sample::{data, data_in, f32s, int_attrs, ints as const_ints};

/// The record.
pub(crate) static TOP_K: OpDef = OpDef {
    name: "top_k",
    onnx: &[
        Import { domain: "", name: "TopK", opsets: (1, 9), build: import_attribute },
        Import {
            domain: "",
            name: "TopK",
            opsets: (10, NEWEST),
            build: |cx| or_counted(cx, |cx| cx.forward("top_k"), at_run_time::top_k),
        },
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn import_attribute(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let k = cx.attrs().int("k").ok_or_else(|| OpError::new("attribute k is missing"))?;
    let (x, k, attrs) = (cx.input(0)?, ints(cx, &[k]), attrs_without(cx, &["k"]));
    cx.node("top_k", &[Some(x), Some(k)], attrs)
}

fn row_axis(attrs: &Attrs, rank: usize) -> OpResult<usize> {
    axis(attrs.int("axis").unwrap_or(-1), rank)
}

fn is_largest(attrs: &Attrs) -> bool {
    attrs.int("largest").unwrap_or(1) != 0
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let float = matches!(x.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    if !(float || x.dtype.is_int() && x.dtype.bits() >= 8) {
        return Err(OpError::new(format!("elements of type {} have no order here", x.dtype)));
    }
    let at = row_axis(cx.attrs, x.rank())?;
    let k = match cx.as_dims(1).as_deref() {
        Some([k]) => k.clone(),
        Some(_) => return Err(OpError::new("k must be one number")),
        None => return Err(unknown("k")),
    };
    if let (Dim::Const(k), Dim::Const(n)) = (&k, &x.shape[at])
        && k > n
    {
        return Err(OpError::new(format!("k is {k}, but dimension {at} has {n} elements")));
    }
    let mut shape = x.shape.clone();
    shape[at] = k;
    Ok(vec![TensorType::new(x.dtype, shape.clone()), TensorType::new(I64, shape)])
}

/// True when `a` goes before `b`, whichever is first in the row.
fn before(largest: bool, a: Scalar, b: Scalar) -> bool {
    let greater = |a: Scalar, b: Scalar| match (a, b) {
        (Scalar::Int(a), Scalar::Int(b)) => a > b,
        (a, b) => !b.float().is_nan() && (a.float().is_nan() || a.float() > b.float()),
    };
    if largest { greater(a, b) } else { greater(b, a) }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let at = row_axis(cx.attrs, shape.len())?;
    let (k, largest) = (shape[at] as usize, is_largest(cx.attrs));
    let values = scalars(x)?;
    let (starts, steps) = offsets(x.shape(), &[at]);
    let (to, to_steps) = offsets(&shape, &[at]);
    let count = shape.iter().product::<u64>() as usize;
    let (mut best, mut places) = (vec![Scalar::Int(0); count], vec![0i64; count]);
    for (start, to) in starts.into_iter().zip(to) {
        let mut order: Vec<usize> = (0..steps.len()).collect();
        // A stable sort keeps equal elements in the order of their positions.
        order.sort_by(|a, b| {
            let (a, b) = (values[start + steps[*a]], values[start + steps[*b]]);
            before(largest, b, a).cmp(&before(largest, a, b))
        });
        for (i, from) in order.into_iter().take(k).enumerate() {
            best[to + to_steps[i]] = values[start + steps[from]];
            places[to + to_steps[i]] = from as i64;
        }
    }
    Ok(vec![from_scalars(x.dtype(), &shape, best)?, Tensor::from_vec(&shape, places)])
}

/// [`before`] as code.
fn goes_before(largest: bool, t: DType, a: Expr, b: Expr) -> Expr {
    let (a, b) = if largest { (a, b) } else { (b, a) };
    let greater = Expr::bin(BinOp::Gt, a.clone(), b.clone());
    if !t.is_float() {
        return greater;
    }
    let number = Expr::bin(BinOp::Eq, b.clone(), b);
    Expr::bin(BinOp::Or, greater, Expr::bin(BinOp::And, Expr::un(UnOp::IsNan, a), number))
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let places = (cx.outputs.len() > 1).then(|| cx.output(1));
    nest::require(x.dtype)?;
    let mut shape = y.view.extents();
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let at = row_axis(cx.attrs, shape.len())?;
    let (n, k) = (x.view.extent(at), std::mem::replace(&mut shape[at], 1.into()));
    nest::within(cx, 1, &[(k.clone(), n.clone())])?;
    let k = cx.count(&k);
    let dims = dense_last((0..shape.len()).filter(|d| *d != at), &x.view);
    let largest = is_largest(cx.attrs);
    nest::rows(cx, &shape, &dims, nest::most_elements(&x.view.extents()), &mut origin(shape.len()), &mut |cx, row| {
        let one = Row { x: &x, y: &y, places: places.as_ref(), at, k: k.clone(), largest };
        let count = cx.let_(Expr::Int(0));
        let row = row.clone();
        cx.for_in(LoopKind::Serial, &n, |cx, i| one.insert(cx, &row, &i, count));
    });
    Ok(())
}

/// One row of a result.
struct Row<'a> {
    x: &'a Arg,
    y: &'a Arg,
    places: Option<&'a Arg>,
    at: usize,
    k: Expr,
    largest: bool,
}

impl Row<'_> {
    /// Element `i` of the row, after `count` others were kept.
    fn insert(&self, cx: &mut LowerCx, row: &[Expr], i: &Expr, count: onnxc_ir::lir::Var) {
        let t = nest::compute_type(self.x.dtype);
        let place = |at: Expr| {
            let mut place = row.to_vec();
            place[self.at] = at;
            place
        };
        let value = nest::load(cx, self.x, &place(i.clone()));
        let value = Expr::Var(cx.let_(value));
        let last = self.k.clone().add(Expr::Int(-1));
        let worst = nest::load(cx, self.y, &place(last.clone()));
        let beats = Expr::bin(BinOp::Lt, Expr::Var(count), self.k.clone());
        let keep = cx.let_(beats.clone());
        // The last place holds an element only when all do.
        cx.if_(beats, |_| {}, |cx| cx.set(keep, goes_before(self.largest, t, value.clone(), worst)));
        cx.if_(
            Expr::Var(keep),
            |cx| {
                let free = cx.let_(Expr::bin(BinOp::Min, Expr::Var(count), last.clone()));
                let more = Expr::bin(BinOp::Gt, Expr::Var(free), Expr::Int(0));
                let searching = cx.let_(more.clone());
                let body = cx.block(|cx| {
                    let left = Expr::Var(free).minus(Expr::Int(1));
                    let left = Expr::Var(cx.let_(left));
                    let other = nest::load(cx, self.y, &place(left.clone()));
                    let other = Expr::Var(cx.let_(other));
                    cx.if_(
                        goes_before(self.largest, t, value.clone(), other.clone()),
                        |cx| {
                            nest::store(cx, self.y, &place(Expr::Var(free)), other);
                            if let Some(places) = self.places {
                                let moved = cx.load(places, &place(left.clone()));
                                cx.store(places, &place(Expr::Var(free)), moved);
                            }
                            cx.set(free, left);
                            cx.set(searching, more);
                        },
                        |cx| cx.set(searching, int(Bool, 0)),
                    );
                });
                cx.push(Stmt::While(Expr::Var(searching), body));
                nest::store(cx, self.y, &place(Expr::Var(free)), value.clone());
                if let Some(places) = self.places {
                    cx.store(places, &place(Expr::Var(free)), i.clone());
                }
                let next = Expr::bin(BinOp::Min, Expr::Var(count).add(Expr::Int(1)), self.k.clone());
                cx.set(count, next);
            },
            |_| {},
        );
    }
}

fn samples() -> Vec<Sample> {
    let of = |axis: i64, largest: i64, x, k: i64, n_outputs: usize| Sample {
        attrs: int_attrs(&[("axis", axis), ("largest", largest)]),
        inputs: vec![x, const_ints(&[k])],
        n_outputs,
    };
    let mut all = vec![
        of(-1, 1, f32s(&[40]), 5, 2),
        of(1, 0, f32s(&[3, 17]), 17, 2),
        of(0, 1, f32s(&[9, 4]), 1, 2),
        of(1, 1, f32s(&[2, 11, 3]), 4, 1),
        of(0, 0, f32s(&[7]), 0, 2),
        // Many equal elements.
        of(1, 1, data_in(DType::I8, &[2, 9], 0.0, 2.0), 6, 2),
    ];
    let types = [DType::F64, DType::F16, DType::U8, DType::I32, DType::I64, DType::U64];
    all.extend(types.map(|t| of(-1, 1, data(t, &[3, 19]), 7, 2)));
    all
}
