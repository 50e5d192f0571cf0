//! `max_roi_pool`: regions of feature maps in whole elements, pooled to one size (Girshick, "Fast R-CNN", 2015).
//!
//! Operands: x `[N, C, H, W]`, regions `[R, 5]` as batch, x1, y1, x2, y2. Attributes: `pooled_shape` (rows, columns), `spatial_scale`. Result
//! `[R, C, rows, columns]`. Corners are rounded to elements, which both belong to the region; bins without any element give zero. Rules of ONNX MaxRoiPool-22.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Extent, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use crate::common::elements::{f64s, for_coords, from_f64s};
use crate::common::nest::{self, ExprExt, clamp, compute_type, float, select};
use crate::common::sample::{data, data_in, lists, sample};
use crate::common::{broadcast, float as floats};

/// The record.
pub(crate) static MAX_ROI_POOL: OpDef = OpDef {
    name: "max_roi_pool",
    onnx: &[Import { domain: "", name: "MaxRoiPool", opsets: (1, NEWEST), build: |cx| cx.forward("max_roi_pool") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

/// Places are kept within this, so that nothing overflows whatever regions hold.
const FAR: i64 = 1 << 31;

/// Bins along both dimensions, and the scale.
fn form(attrs: &Attrs) -> OpResult<([u64; 2], f64)> {
    let bins: Vec<u64> = attrs.ints("pooled_shape").unwrap_or(&[]).iter().filter_map(|n| u64::try_from(*n).ok()).collect();
    match bins[..] {
        [rows @ 1..=0x10_0000, columns @ 1..=0x10_0000] => {
            Ok(([rows, columns], f64::from(attrs.float("spatial_scale").unwrap_or(1.0))))
        }
        _ => Err(OpError::new(format!("pooled_shape {:?} must be two positive numbers", attrs.ints("pooled_shape")))),
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, regions) = (cx.input(0)?, cx.input(1)?);
    floats::check(x.dtype, "pooling of regions")?;
    broadcast::same_dtype(cx, 0..2)?;
    let (bins, _) = form(cx.attrs)?;
    let ([_, channels, _, _], [count, five]) = (&x.shape[..], &regions.shape[..]) else {
        return Err(OpError::new(format!("x is {x} and regions {regions}: [N, C, H, W] and [R, 5] are needed")));
    };
    if five.as_const().is_some_and(|n| n != 5) || x.shape.contains(&Dim::Const(0)) {
        return Err(OpError::new(format!("x is {x} and regions {regions}: [N, C, H, W] with elements and [R, 5] are needed")));
    }
    let shape = vec![count.clone(), channels.clone(), Dim::Const(bins[0]), Dim::Const(bins[1])];
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// Elements of bin `b` of a region from `low` to `high`, among `n`.
fn bin(low: f64, high: f64, (b, bins): (usize, u64), n: u64) -> std::ops::Range<usize> {
    let place = |v: f64| (v.round() as i64).clamp(-FAR, FAR);
    let (start, extent, bins) = (place(low), (place(high) - place(low) + 1).max(1), bins as i64);
    let first = start + b as i64 * extent / bins;
    let end = start + ((b as i64 + 1) * extent + bins - 1) / bins;
    first.clamp(0, n as i64) as usize..end.clamp(0, n as i64) as usize
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape, (_, scale)) = (cx.input(0), cx.out_shape(0), form(cx.attrs)?);
    let (values, regions) = (f64s(x)?, f64s(cx.input(1))?);
    let [n, channels, h, w] = x.shape()[..] else { return Err(OpError::new("x has not 4 dimensions")) };
    let mut out = Vec::new();
    for_coords(&shape, |at| {
        let region = &regions[5 * at[0]..][..5];
        let batch = (region[0] as i64).clamp(0, n as i64 - 1) as u64;
        let plane = &values[((batch * channels + at[1] as u64) * h * w) as usize..][..(h * w) as usize];
        let rows = bin(region[2] * scale, region[4] * scale, (at[2], shape[2]), h);
        let columns = bin(region[1] * scale, region[3] * scale, (at[3], shape[3]), w);
        let inside = rows.flat_map(|i| columns.clone().map(move |j| plane[i * w as usize + j]));
        // A NaN wins, as in other pools.
        out.push(inside.reduce(|a, b| if a.is_nan() || a >= b { a } else { b }).unwrap_or(0.0));
    });
    Ok(vec![from_f64s(x.dtype(), &shape, out)?])
}

/// [`bin`] as code: first element, and the one behind the last.
fn bin_code(cx: &mut LowerCx, t: DType, low: Expr, high: Expr, (b, bins): (&Expr, u64), n: &Extent) -> (Var, Var) {
    let mut place = |v: Expr| {
        let v = Expr::Var(cx.let_(v));
        let up = Expr::un(UnOp::Floor, v.clone().add(float(t, 0.5)));
        let down = Expr::un(UnOp::Ceil, v.clone().minus(float(t, 0.5)));
        let rounded = select(Expr::bin(BinOp::Lt, v, float(t, 0.0)), down, up);
        let kept = Expr::bin(BinOp::Max, rounded.cast_from(t, DType::I64), Expr::Int(-FAR));
        Expr::Var(cx.let_(Expr::bin(BinOp::Min, kept, Expr::Int(FAR))))
    };
    let (start, last) = (place(low), place(high));
    let extent = Expr::bin(BinOp::Max, last.minus(start.clone()).add(Expr::Int(1)), Expr::Int(1));
    let extent = Expr::Var(cx.let_(extent));
    let part = |e: Expr| Expr::bin(BinOp::Div, e, Expr::Int(bins as i64));
    let before = Expr::bin(BinOp::Mul, b.clone(), extent.clone());
    let before = Expr::Var(cx.let_(before));
    let first = start.clone().add(part(before.clone()));
    let end = start.add(part(before.add(extent).add(Expr::Int(bins as i64 - 1))));
    let places = Extent { bound: n.bound + 1, open: n.open.as_ref().map(|n| n.offset(1)) };
    (clamp(cx, first, places.clone()), clamp(cx, end, places))
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, regions, y, (bins, scale)) = (cx.input(0), cx.input(1), cx.output(0), form(cx.attrs)?);
    nest::require(y.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    nest::equal_extents(1, &regions.view.dims()[..1], &y.view.dims()[..1])?;
    let (t, channels) = (compute_type(y.dtype), x.view.extent(1));
    let best: BufId = cx.scratch(t, channels.bound, true);
    let mut shape = y.view.extents();
    shape[1] = 1.into();
    // Regions are the outermost loop whatever the result's layout is.
    cx.for_rows(&shape, &[3, 0, 2, 1], |cx, at| {
        let field = |cx: &LowerCx, i: i64| nest::load(cx, &regions, &[at[0].clone(), Expr::Int(i)]);
        let corner = |cx: &LowerCx, i: i64| field(cx, i).mul(float(t, scale));
        let (low, high) = (corner(cx, 2), corner(cx, 4));
        let rows = bin_code(cx, t, low, high, (&at[2], bins[0]), &x.view.extent(2));
        let (low, high) = (corner(cx, 1), corner(cx, 3));
        let columns = bin_code(cx, t, low, high, (&at[3], bins[1]), &x.view.extent(3));
        let batch = field(cx, 0).cast_from(t, DType::I64);
        let batch = Expr::Var(clamp(cx, batch, x.view.extent(0)));
        cx.for_in(LoopKind::Vector, &channels, |cx, c| cx.push(Stmt::Store(best, c, float(t, f64::NEG_INFINITY))));
        cx.for_range(LoopKind::Serial, Expr::Var(rows.0), Expr::Var(rows.1), 1, |cx, i| {
            cx.for_range(LoopKind::Serial, Expr::Var(columns.0), Expr::Var(columns.1), 1, |cx, j| {
                cx.for_in(LoopKind::Vector, &channels, |cx, c| {
                    let value = nest::load(cx, &x, &[batch, c.clone(), i, j]);
                    let value = Expr::bin(BinOp::Max, nest::at(best, c.clone()), value);
                    cx.push(Stmt::Store(best, c, value));
                });
            });
        });
        let some = |r: (Var, Var)| Expr::bin(BinOp::Lt, Expr::Var(r.0), Expr::Var(r.1));
        let some = Expr::Var(cx.let_(Expr::bin(BinOp::And, some(rows), some(columns))));
        let at = at.to_vec();
        cx.for_in(LoopKind::Vector, &channels, |cx, c| {
            let value = select(some, nest::at(best, c.clone()), float(t, 0.0));
            nest::store(cx, &y, &[at[0].clone(), c, at[2].clone(), at[3].clone()], value);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let case = |dtype, channels, scale| {
        let attrs = lists(&[("pooled_shape", &[3, 2])]).with("spatial_scale", Attr::Float(scale));
        sample(attrs, vec![data(dtype, &[2, channels, 9, 7]), data_in(dtype, &[6, 5], -2.0, 12.0)])
    };
    vec![
        case(DType::F32, 19, 1.0),
        case(DType::F32, 1, 0.5),
        case(DType::F64, 4, 0.75),
        case(DType::F16, 8, 1.0),
        sample(lists(&[("pooled_shape", &[1, 1])]), vec![data(DType::F32, &[1, 1, 1, 1]), data(DType::F32, &[0, 5])]),
    ]
}
