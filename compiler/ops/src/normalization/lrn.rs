//! `lrn`: local response normalisation, `x / (bias + alpha / size * sum of squares of neighbouring channels)^beta`.
//!
//! Attributes: `size` (channels `c - (size-1)/2 ..= c + size/2`, as far as they exist), `alpha` (1e-4), `beta` (0.75), `bias` (1).
//!
//! Two forms of loops: where space is denser than channels, a vector loop over space with the window inside; where channels are densest, squares of a
//! pixel go to a scratch row with zeros around, and the window slides over it.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType};

use super::{TOLERANCE, float_type};
use crate::common::elements::{f64s, for_coords, from_f64s, offset, strides};
use crate::common::nest::{
    ExprExt, at as element, compute_type, dense_last, float, load, most_elements, origin, over, rows, sqrt, store,
};
use crate::common::rows::accumulate;
use crate::common::sample::{data, f32s, int_attrs, sample};

/// The record.
pub(crate) static LRN: OpDef = OpDef {
    name: "lrn",
    onnx: &[Import { domain: "", name: "LRN", opsets: (1, NEWEST), build: |cx| cx.forward("lrn") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: TOLERANCE,
    samples,
};

struct Window {
    before: u64,
    after: u64,
    alpha: f64,
    beta: f64,
    bias: f64,
}

fn window(attrs: &Attrs) -> OpResult<Window> {
    let size = attrs.int("size").unwrap_or(0);
    if !(1..=1 << 20).contains(&size) {
        return Err(OpError::new(format!("size is {size}, a positive number is needed")));
    }
    let float = |name: &str, default: f32| f64::from(attrs.float(name).unwrap_or(default));
    Ok(Window {
        before: (size as u64 - 1) / 2,
        after: size as u64 / 2,
        alpha: float("alpha", 1e-4) / size as f64,
        beta: float("beta", 0.75),
        bias: float("bias", 1.0),
    })
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    float_type(x)?;
    window(cx.attrs)?;
    if x.rank() < 2 { Err(OpError::new(format!("x is {x}; it needs a dimension of channels"))) } else { Ok(vec![x.clone()]) }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let x = cx.input(0);
    let w = window(cx.attrs)?;
    let (values, steps) = (f64s(x)?, strides(x.shape()));
    let mut out = Vec::with_capacity(values.len());
    for_coords(x.shape(), |at| {
        let last = (at[1] + w.after as usize).min(x.shape()[1] as usize - 1);
        let mut near = at.to_vec();
        let mut squares = 0.0;
        for c in at[1].saturating_sub(w.before as usize)..=last {
            near[1] = c;
            squares += values[offset(&near, &steps)].powi(2);
        }
        out.push(values[offset(at, &steps)] / (w.bias + w.alpha * squares).powf(w.beta));
    });
    Ok(vec![from_f64s(x.dtype(), x.shape(), out)?])
}

/// `x * (bias + alpha * squares)^-beta`, with roots for the exponents that models use.
fn scaled(cx: &mut LowerCx, w: &Window, t: DType, x: Expr, squares: Expr) -> Expr {
    let base = Expr::Fma(Box::new(squares), Box::new(float(t, w.alpha)), Box::new(float(t, w.bias)));
    let one = float(t, 1.0);
    let factor = if w.beta == 0.75 {
        let r = Expr::Var(cx.let_(Expr::bin(BinOp::Div, one, sqrt(base))));
        r.clone().mul(sqrt(r))
    } else if w.beta == 0.5 {
        Expr::bin(BinOp::Div, one, sqrt(base))
    } else {
        Expr::un(UnOp::Exp, Expr::un(UnOp::Log, base).mul(float(t, -w.beta)))
    };
    x.mul(factor)
}

fn square(cx: &mut LowerCx, e: Expr) -> Expr {
    let e = Expr::Var(cx.let_(e));
    e.clone().mul(e)
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let w = window(cx.attrs)?;
    let shape = &x.view.shape;
    if shape.contains(&0) {
        return Ok(());
    }
    match dense_last(0..shape.len(), &x.view).last() {
        Some(1) | None => by_pixel(cx, &x, &y, &w),
        Some(_) => by_plane(cx, &x, &y, &w),
    }
    Ok(())
}

/// Channels outside, space inside.
fn by_plane(cx: &mut LowerCx, x: &Arg, y: &Arg, w: &Window) {
    let shape = x.view.extents();
    let t = compute_type(x.dtype);
    let mut dims = dense_last((0..shape.len()).filter(|d| *d != 1), &x.view);
    let inner = dims.pop().into_iter().collect::<Vec<_>>();
    dims.push(1);
    let elements = most_elements(&shape) * (w.before + w.after + 1);
    let end = cx.count(&shape[1]);
    rows(cx, &shape, &dims, elements, &mut origin(shape.len()), &mut |cx, at| {
        let c = at[1].clone();
        let low = Expr::bin(BinOp::Max, c.clone().add(Expr::Int(-(w.before as i64))), Expr::Int(0));
        let high = Expr::bin(BinOp::Min, c.add(Expr::Int(w.after as i64 + 1)), end.clone());
        let (low, high) = (cx.let_(low), cx.let_(high));
        over(cx, &shape, &inner, (LoopKind::Serial, LoopKind::Vector), at, &mut |cx, at| {
            let sum = cx.let_(float(t, 0.0));
            cx.for_range(LoopKind::Serial, Expr::Var(low), Expr::Var(high), 1, |cx, i| {
                let mut near = at.clone();
                near[1] = i;
                let e = load(cx, x, &near);
                let e = square(cx, e);
                accumulate(cx, sum, BinOp::Add, e);
            });
            let e = load(cx, x, at);
            let e = scaled(cx, w, t, e, Expr::Var(sum));
            store(cx, y, at, e);
        });
    });
}

/// Pixels outside, channels inside.
fn by_pixel(cx: &mut LowerCx, x: &Arg, y: &Arg, w: &Window) {
    let shape = x.view.extents();
    let t = compute_type(x.dtype);
    let channels = cx.count(&shape[1]);
    let squares = cx.scratch(t, shape[1].bound + w.before + w.after, true);
    let dims = dense_last((0..shape.len()).filter(|d| *d != 1), &x.view);
    let elements = most_elements(&shape) * (w.before + w.after + 1);
    rows(cx, &shape, &dims, elements, &mut origin(shape.len()), &mut |cx, at| {
        for (from, n) in [(Expr::Int(0), w.before), (channels.clone().add(Expr::Int(w.before as i64)), w.after)] {
            cx.for_(LoopKind::Serial, n, |cx, i| {
                cx.push(onnxc_ir::lir::Stmt::Store(squares, i.add(from), float(t, 0.0)));
            });
        }
        over(cx, &shape, &[1], (LoopKind::Serial, LoopKind::Vector), at, &mut |cx, at| {
            let e = load(cx, x, at);
            let e = square(cx, e);
            let to = at[1].clone().add(Expr::Int(w.before as i64));
            cx.push(onnxc_ir::lir::Stmt::Store(squares, to, e));
        });
        over(cx, &shape, &[1], (LoopKind::Serial, LoopKind::Vector), at, &mut |cx, at| {
            let sum = cx.let_(float(t, 0.0));
            cx.for_(LoopKind::Serial, w.before + w.after + 1, |cx, i| {
                let e = element(squares, at[1].clone().add(i));
                accumulate(cx, sum, BinOp::Add, e);
            });
            let e = load(cx, x, at);
            let e = scaled(cx, w, t, e, Expr::Var(sum));
            store(cx, y, at, e);
        });
    });
}

fn samples() -> Vec<Sample> {
    let attrs = |size: i64| int_attrs(&[("size", size)]).with("alpha", Attr::Float(0.5));
    vec![
        sample(attrs(3), vec![f32s(&[2, 5, 4, 9])]),
        sample(attrs(4).with("beta", Attr::Float(0.5)), vec![f32s(&[1, 3, 17])]),
        sample(attrs(5).with("beta", Attr::Float(1.25)).with("bias", Attr::Float(2.0)), vec![f32s(&[1, 7, 3, 3])]),
        sample(attrs(3), vec![f32s(&[2, 19])]),
        sample(attrs(11), vec![f32s(&[1, 4, 2, 2])]),
        sample(attrs(3), vec![data(DType::F16, &[1, 4, 9])]),
        sample(attrs(2), vec![data(DType::F64, &[3, 8])]),
    ]
}
