//! `pad`: a border round a tensor. Operands data, pads (`[2*n]` i64: before, then after, for `axes` or all dimensions; negative ones crop), value (a scalar, zero
//! without it), axes. Attribute `mode`: constant, reflect, edge or wrap (ONNX Pad-25).

use onnxc_ir::lir::{BufId, Expr};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Extent, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId};

use crate::at_run_time::{self, or_declared};
use crate::common::axes::{axes, const_ints, opt_const_ints};
use crate::common::elements::{Picker, for_coords, from_f64s, offset, strides};
use crate::common::import::ints_input;
use crate::common::nest::{self, ExprExt, select};
use crate::common::sample::{data, f32s, ints};
use crate::composed::crop_pad::CENTER_CROP_PAD;

/// `pad`
pub(crate) static PAD: OpDef = OpDef {
    name: "pad",
    onnx: &[
        Import { domain: "", name: "Pad", opsets: (2, NEWEST), build: |cx| or_declared(cx, import, at_run_time::pad) },
        CENTER_CROP_PAD,
        Import { domain: "com.microsoft", name: "Pad", opsets: (1, NEWEST), build: |cx| cx.forward("pad") },
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let mode = cx.attrs().str("mode").unwrap_or("constant").to_string();
    let x = cx.input(0)?;
    let pads = ints_input(cx, 1, "pads").ok_or_else(|| OpError::new("pads are missing"))?;
    let value = match (cx.opt_input(2), cx.attrs().float("value")) {
        (Some(id), _) => Some(id),
        (None, Some(v)) => {
            let dtype = cx.graph().ty(x).dtype;
            Some(cx.constant(from_f64s(dtype, &[], [f64::from(v)])?))
        }
        _ => None,
    };
    let mut inputs = vec![Some(x), Some(pads), value, cx.opt_input(3)];
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    cx.node("pad", &inputs, Attrs::default().with("mode", Attr::Str(mode)))
}

/// Elements before and after each dimension.
fn borders(rank: usize, pads: &[i64], given: Option<&[i64]>) -> OpResult<Vec<(i64, i64)>> {
    let all: Vec<i64> = (0..rank as i64).collect();
    let list = given.unwrap_or(&all);
    axes(list, rank)?;
    if pads.len() != 2 * list.len() {
        return Err(OpError::new(format!("pads {pads:?} must be {} numbers", 2 * list.len())));
    }
    let mut borders = vec![(0, 0); rank];
    for (i, a) in list.iter().enumerate() {
        let d = if *a < 0 { a + rank as i64 } else { *a } as usize;
        borders[d] = (pads[i], pads[i + list.len()]);
    }
    if let Some(p) = pads.iter().find(|p| p.unsigned_abs() > 1 << 30) {
        return Err(OpError::new(format!("a border of {p} elements is too large")));
    }
    Ok(borders)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let borders = borders(x.rank(), &const_ints(cx, 1, "pads")?, opt_const_ints(cx, 3, "axes")?.as_deref())?;
    let mode = cx.attrs.str("mode").unwrap_or("constant");
    let mut shape = Vec::new();
    for (d, (dim, (lo, hi))) in x.shape.iter().zip(&borders).enumerate() {
        if let Some(n) = dim.as_const() {
            let n = n as i64;
            let room = match mode {
                "constant" => i64::MAX,
                "reflect" => (n - 1).max(0),
                "edge" | "wrap" if n > 0 => i64::MAX,
                "edge" | "wrap" => 0,
                other => return Err(OpError::new(format!("mode {other:?} is unknown")).help("constant, reflect, edge or wrap")),
            };
            if n + lo + hi < 0 || *lo > room || *hi > room {
                return Err(OpError::new(format!("dimension {d} of {n} elements cannot get borders of {lo} and {hi} ({mode})")));
            }
        }
        shape.push(dim.offset(lo + hi));
    }
    if let Some(value) = cx.opt(2)
        && value.dtype != x.dtype
    {
        return Err(OpError::new(format!("the value is {value}, the data {x}")));
    }
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// The element of a dimension of `n` that position `i - lo` shows; none outside for constants.
fn source(mode: &str, i: i64, lo: i64, n: i64) -> Option<i64> {
    let p = i - lo;
    match mode {
        _ if (0..n).contains(&p) => Some(p),
        "edge" => Some(p.clamp(0, n - 1)),
        "wrap" => Some(p.rem_euclid(n)),
        "reflect" if n > 1 => {
            let q = p.rem_euclid(2 * (n - 1));
            Some(if q < n { q } else { 2 * (n - 1) - q })
        }
        "reflect" => Some(0),
        _ => None,
    }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let pads = cx.input(1).to_i64s().ok_or_else(|| OpError::new("pads must be integers"))?;
    let axes = cx.opt(3).and_then(Tensor::to_i64s);
    let borders = borders(shape.len(), &pads, axes.as_deref())?;
    let mode = cx.attrs.str("mode").unwrap_or("constant");
    let dense = strides(x.shape());
    let mut out = Picker::new(x.dtype());
    for_coords(&shape, |at| {
        let from: Option<Vec<usize>> =
            (0..at.len()).map(|d| source(mode, at[d] as i64, borders[d].0, x.shape()[d] as i64).map(|i| i as usize)).collect();
        match (from, cx.opt(2)) {
            (Some(from), _) => out.pick(x, offset(&from, &dense)),
            (None, Some(value)) => out.pick(value, 0),
            (None, None) => out.zero(),
        }
    });
    Ok(vec![out.finish(&shape)])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::movable(y.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let ints = |i: usize| cx.opt(i).and_then(|a| a.constant).and_then(|t| t.to_i64s());
    let rank = y.view.shape.len();
    let borders = borders(rank, &ints(1).unwrap_or_default(), ints(3).as_deref())?;
    let mode = cx.attrs.str("mode").unwrap_or("constant").to_string();
    if mode != "constant" {
        let tables: Vec<Option<BufId>> =
            (0..rank).map(|d| table(cx, &mode, borders[d], &x.view.extent(d), y.view.shape[d])).collect();
        cx.for_each(&y.view, &y.view.strides.clone(), |cx, at| {
            let from = (0..rank).map(|d| match tables[d] {
                Some(table) => nest::at(table, at[d].clone()),
                None if borders[d] == (0, 0) => at[d].clone(),
                None => source_code(cx, &mode, &at[d], borders[d].0, &x.view.extent(d)),
            });
            let from: Vec<Expr> = from.collect();
            let value = cx.load(&x, &from);
            cx.store(&y, at, value);
        });
        return Ok(());
    }
    let value = cx.opt(2).map_or_else(|| Expr::Const(y.dtype, 0), |v| cx.load(&v, &[]));
    if !(x.view.is_fixed() && y.view.is_fixed()) {
        lower_open(cx, &x, &y, &borders, &value);
        return Ok(());
    }
    // The border side by side, none twice; then what is left of the data.
    let (mut inner, mut from) = (y.clone(), x.clone());
    for d in 0..rank {
        let (lo, hi) = (borders[d].0.max(0), borders[d].1.max(0));
        let extent = inner.view.shape[d] as i64;
        let mut start = vec![0i64; rank];
        for (first, n) in [(0, lo), (extent - hi, hi)] {
            if n > 0 {
                start[d] = first;
                let mut side = inner.view.shape.clone();
                side[d] = n as u64;
                nest::fill(cx, &nest::part(&inner, &start, &side), &value);
            }
        }
        let kept = (extent - lo - hi).max(0) as u64;
        let (mut shape, mut crop) = (inner.view.shape.clone(), from.view.shape.clone());
        (shape[d], crop[d]) = (kept, kept);
        start[d] = lo;
        inner = nest::part(&inner, &start, &shape);
        start[d] = (-borders[d].0).max(0);
        from = nest::part(&from, &start, &crop);
    }
    cx.copy(&from, &inner);
    Ok(())
}

/// Constant borders of extents that come with the call: the value everywhere, then what is left of the data.
fn lower_open(cx: &mut LowerCx, x: &Arg, y: &Arg, borders: &[(i64, i64)], value: &Expr) {
    if borders.iter().any(|(lo, hi)| *lo > 0 || *hi > 0) {
        nest::fill(cx, y, value);
    }
    let crops = borders.iter().map(|(lo, hi)| lo.min(&0) + hi.min(&0));
    let kept: Vec<Extent> = crops.zip(x.view.extents()).map(|(crop, n)| cropped(&n, crop)).collect();
    let starts = |side: fn(i64) -> i64| borders.iter().map(|b| side(b.0).max(0)).collect::<Vec<i64>>();
    cx.copy(&nest::part(x, &starts(|lo| -lo), &kept), &nest::part(y, &starts(|lo| lo), &kept));
}

/// An extent without `-by` elements.
fn cropped(n: &Extent, by: i64) -> Extent {
    Extent { bound: n.bound.saturating_add_signed(by), open: n.open.as_ref().map(|dim| dim.offset(by)) }
}

/// [`source`] as code.
fn source_code(cx: &mut LowerCx, mode: &str, i: &Expr, lo: i64, n: &Extent) -> Expr {
    let count = cx.count(n);
    let p = Expr::Var(cx.let_(i.clone().add(Expr::Int(-lo))));
    let last = count.clone().add(Expr::Int(-1));
    // The remainder that has the divisor's sign.
    let wrapped = |cx: &mut LowerCx, by: Expr| {
        let whole = Expr::bin(BinOp::Div, p.clone(), by.clone());
        let rest = Expr::Var(cx.let_(p.clone().minus(whole.mul(by.clone()))));
        let negative = Expr::bin(BinOp::Lt, rest.clone(), Expr::Int(0));
        Expr::Var(cx.let_(select(negative, rest.clone().add(by), rest)))
    };
    match mode {
        "edge" => Expr::Var(nest::clamp(cx, p, n.clone())),
        "wrap" => wrapped(cx, count),
        _ => {
            // Of one element every reflection is that element.
            let period = Expr::bin(BinOp::Max, last.times(2), Expr::Int(1));
            let period = Expr::Var(cx.let_(period));
            let q = wrapped(cx, period.clone());
            Expr::bin(BinOp::Min, q.clone(), period.minus(q))
        }
    }
}

/// Source positions of one dimension, where they are known and not the positions themselves.
fn table(cx: &mut LowerCx, mode: &str, (lo, hi): (i64, i64), n: &Extent, out: u64) -> Option<BufId> {
    if (lo, hi) == (0, 0) || n.open.is_some() {
        return None;
    }
    let positions: Vec<i64> = (0..out as i64).map(|i| source(mode, i, lo, n.bound as i64).unwrap_or(0)).collect();
    Some(nest::table(cx, &positions))
}

fn samples() -> Vec<Sample> {
    let of =
        |mode: &str, inputs| Sample { attrs: Attrs::default().with("mode", Attr::Str(mode.to_string())), inputs, n_outputs: 1 };
    let value = |v: f32| Some(onnxc_ir::op::SampleInput::Const(Tensor::scalar(v)));
    vec![
        of("constant", vec![f32s(&[2, 3, 5]), ints(&[0, 1, 2, 0, 0, 3])]),
        of("constant", vec![f32s(&[3, 20]), ints(&[1, -2, -1, 4]), value(1.5)]),
        of("constant", vec![data(DType::I64, &[4]), ints(&[2, 1])]),
        of("constant", vec![data(DType::F4E2M1, &[5]), ints(&[2, 1])]),
        of("edge", vec![data(DType::U4, &[5]), ints(&[2, 1])]),
        of("constant", vec![f32s(&[2, 3, 4]), ints(&[1, 2]), None, ints(&[-2])]),
        of("reflect", vec![f32s(&[3, 6]), ints(&[2, 3, 1, 5])]),
        of("edge", vec![f32s(&[1, 2, 3, 17]), ints(&[0, 0, 2, 0, 0, 0, 1, 0])]),
        of("wrap", vec![data(DType::I32, &[2, 3]), ints(&[3, 4, 0, 1])]),
    ]
}
