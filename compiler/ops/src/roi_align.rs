//! `roi_align`: regions of feature maps, pooled to one size (He et al., "Mask R-CNN", 2017).
//!
//! Operands: x `[N, C, H, W]`, regions `[R, 4]` as x1, y1, x2, y2, and the batch of each, `[R]`. Attributes: `mode` (avg, max), `output_height`,
//! `output_width`, `sampling_ratio` (0: as many points as the region has elements), `spatial_scale`, `coordinate_transformation_mode`. Result
//! `[R, C, output_height, output_width]`. Rules of ONNX RoiAlign-22, where `max` takes the largest of the four weighted neighbours of each point.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Extent, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::common::elements::{f64s, for_coords, from_f64s};
use crate::common::nest::{self, ExprExt, clamp, compute_type, float, select};
use crate::common::sample::{data, data_in, sample};
use crate::common::{broadcast, float as floats};

/// The record.
pub(crate) static ROI_ALIGN: OpDef = OpDef {
    name: "roi_align",
    onnx: &[Import { domain: "", name: "RoiAlign", opsets: (10, NEWEST), build: import }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

/// Opset 10 had no half pixels.
fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let mut attrs = cx.attrs().clone();
    if cx.opset() < 16 {
        attrs = attrs.with("coordinate_transformation_mode", Attr::Str("output_half_pixel".into()));
    }
    let inputs = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    Ok(vec![cx.node1("roi_align", &inputs, attrs)?])
}

/// Points along one side of a bin beyond which regions are taken for nonsense: whatever they hold, the loops end.
const MOST_POINTS: i64 = 1 << 12;

#[derive(Clone, Copy)]
struct Rules {
    max: bool,
    half_pixel: bool,
    /// Points along a side of a bin; 0 if regions decide.
    points: i64,
    scale: f64,
    /// Bins: rows, columns.
    bins: [u64; 2],
}

impl Rules {
    fn of(attrs: &Attrs) -> OpResult<Rules> {
        let max = match attrs.str("mode").unwrap_or("avg") {
            "avg" => false,
            "max" => true,
            other => return Err(OpError::new(format!("mode {other:?} is unknown")).help("avg or max")),
        };
        let half_pixel = match attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel") {
            "half_pixel" => true,
            "output_half_pixel" => false,
            other => {
                let error = OpError::new(format!("coordinate_transformation_mode {other:?} is unknown"));
                return Err(error.help("half_pixel or output_half_pixel"));
            }
        };
        let within = |name: &str, default: i64, low: i64, high: i64| {
            let n = attrs.int(name).unwrap_or(default);
            if (low..=high).contains(&n) {
                Ok(n)
            } else {
                Err(OpError::new(format!("{name} {n} is not within {low} and {high}")))
            }
        };
        let side = |name: &str| within(name, 1, 1, 1 << 20).map(|n| n as u64);
        Ok(Rules {
            max,
            half_pixel,
            points: within("sampling_ratio", 0, 0, MOST_POINTS)?,
            scale: f64::from(attrs.float("spatial_scale").unwrap_or(1.0)),
            bins: [side("output_height")?, side("output_width")?],
        })
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, regions, batches) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    floats::check(x.dtype, "pooling of regions")?;
    broadcast::same_dtype(cx, 0..2)?;
    let rules = Rules::of(cx.attrs)?;
    let ([_, channels, ..], [count, four], [batch_count]) = (&x.shape[..], &regions.shape[..], &batches.shape[..]) else {
        return Err(OpError::new(format!("x is {x}, regions {regions} and batches {batches}: ranks 4, 2 and 1 are needed")));
    };
    let mismatch = matches!((count.as_const(), batch_count.as_const()), (Some(a), Some(b)) if a != b);
    if x.rank() != 4 || four.as_const().is_some_and(|n| n != 4) || mismatch || batches.dtype != DType::I64 {
        return Err(OpError::new(format!(
            "x is {x}, regions {regions} and batches {batches}: [N, C, H, W], [R, 4] and i64[R] are needed"
        )));
    }
    if x.shape.contains(&Dim::Const(0)) {
        return Err(OpError::new(format!("x is {x}: there is nothing to read")));
    }
    let shape = vec![count.clone(), channels.clone(), Dim::Const(rules.bins[0]), Dim::Const(rules.bins[1])];
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// One side of a region.
#[derive(Clone, Copy)]
struct Span {
    start: f64,
    /// Extent of a bin.
    bin: f64,
    points: i64,
}

impl Span {
    fn new(rules: &Rules, (low, high): (f64, f64), bins: u64) -> Span {
        let shift = if rules.half_pixel { 0.5 } else { 0.0 };
        let (start, end) = (low * rules.scale - shift, high * rules.scale - shift);
        let extent = if rules.half_pixel { end - start } else { (end - start).max(1.0) };
        let bin = extent / bins as f64;
        let points = if rules.points > 0 { rules.points } else { (bin.ceil() as i64).clamp(0, MOST_POINTS) };
        Span { start, bin, points }
    }

    /// Point `i` of bin `b` between elements 0 and `n`: the two elements beside it and how near the second one is; none when it is outside.
    fn between(&self, b: usize, i: usize, n: u64) -> Option<(usize, usize, f64)> {
        let at = self.start + b as f64 * self.bin + (i as f64 + 0.5) * self.bin / self.points as f64;
        if !(-1.0..=n as f64).contains(&at) {
            return None;
        }
        let (at, last) = (at.max(0.0), n as usize - 1);
        if at as usize >= last { Some((last, last, 0.0)) } else { Some((at as usize, at as usize + 1, at - at.floor())) }
    }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, rules, shape) = (cx.input(0), Rules::of(cx.attrs)?, cx.out_shape(0));
    let (values, regions) = (f64s(x)?, f64s(cx.input(1))?);
    let batches = cx.input(2).to_i64s().unwrap_or_default();
    let [n, channels, h, w] = x.shape()[..] else { return Err(OpError::new("x has not 4 dimensions")) };
    let mut out = Vec::new();
    for_coords(&shape, |at| {
        let region = &regions[4 * at[0]..][..4];
        let rows = Span::new(&rules, (region[1], region[3]), shape[2]);
        let columns = Span::new(&rules, (region[0], region[2]), shape[3]);
        let batch = batches[at[0]].clamp(0, n as i64 - 1) as u64;
        let plane = &values[((batch * channels + at[1] as u64) * h * w) as usize..][..(h * w) as usize];
        let mut points = Vec::new();
        for (i, j) in (0..rows.points as usize).flat_map(|i| (0..columns.points as usize).map(move |j| (i, j))) {
            let (Some((y0, y1, fy)), Some((x0, x1, fx))) = (rows.between(at[2], i, h), columns.between(at[3], j, w)) else {
                points.push([0.0; 4]);
                continue;
            };
            let value = |y: usize, x: usize| plane[y * w as usize + x];
            let near = [(1.0 - fy) * (1.0 - fx) * value(y0, x0), (1.0 - fy) * fx * value(y0, x1)];
            points.push([near[0], near[1], fy * (1.0 - fx) * value(y1, x0), fy * fx * value(y1, x1)]);
        }
        out.push(match points.len() {
            0 => 0.0,
            _ if rules.max => points.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max),
            count => points.iter().flatten().sum::<f64>() / count as f64,
        });
    });
    Ok(vec![from_f64s(x.dtype(), &shape, out)?])
}

/// [`Span`] as code.
#[derive(Clone, Copy)]
struct SpanCode {
    start: Var,
    bin: Var,
    points: Var,
}

/// The two elements beside a point as code, with their weights, and whether the point lies in x.
struct Beside {
    elements: [Var; 2],
    weights: [Var; 2],
    inside: Var,
}

/// What all bins share while they are lowered.
struct Pool {
    rules: Rules,
    t: DType,
    /// Height and width of x.
    sides: [Side; 2],
    x: Arg,
    /// `[C]`: sums or maxima of one bin.
    sums: BufId,
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, regions, y, rules) = (cx.input(0), cx.input(1), cx.output(0), Rules::of(cx.attrs)?);
    nest::require(y.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let t = compute_type(y.dtype);
    for i in [1, 2] {
        nest::equal_extents(i, &cx.input(i).view.dims()[..1], &y.view.dims()[..1])?;
    }
    let channels = x.view.extent(1);
    let sides = [2, 3].map(|d| Side::of(cx, t, x.view.extent(d)));
    let pool = Pool { rules, t, sums: cx.scratch(t, channels.bound, true), sides, x };
    let mut shape = y.view.extents();
    shape[1] = 1.into();
    // Regions are the outermost loop whatever the result's layout is.
    let order = [3, 0, 2, 1];
    cx.for_rows(&shape, &order, |cx, at| {
        let corner = |cx: &LowerCx, i: i64| nest::load(cx, &regions, &[at[0].clone(), Expr::Int(i)]);
        let (low, high) = (corner(cx, 1), corner(cx, 3));
        let rows = pool.span(cx, low, high, 0);
        let (low, high) = (corner(cx, 0), corner(cx, 2));
        let columns = pool.span(cx, low, high, 1);
        let batch = cx.load(&cx.input(2), &at[..1]);
        let batch = clamp(cx, batch, pool.x.view.extent(0));
        let start = Expr::Int(pool.x.view.offset).add(Expr::Var(batch).times(pool.x.view.strides[0]));
        let start = Expr::Var(cx.let_(start));
        let first = float(t, if rules.max { f64::NEG_INFINITY } else { 0.0 });
        cx.for_in(LoopKind::Vector, &channels, |cx, c| cx.push(Stmt::Store(pool.sums, c, first)));
        cx.for_range(LoopKind::Serial, Expr::Int(0), Expr::Var(rows.points), 1, |cx, i| {
            let row = pool.beside(cx, &rows, &at[2], &i, 0);
            cx.for_range(LoopKind::Serial, Expr::Int(0), Expr::Var(columns.points), 1, |cx, j| {
                let column = pool.beside(cx, &columns, &at[3], &j, 1);
                pool.point(cx, &start, &row, &column);
            });
        });
        let count = cx.let_(Expr::bin(BinOp::Mul, Expr::Var(rows.points), Expr::Var(columns.points)));
        let none = cx.let_(Expr::bin(BinOp::Eq, Expr::Var(count), Expr::Int(0)));
        let divisor = if rules.max { float(t, 1.0) } else { Expr::Var(count).cast_from(DType::I64, t) };
        let divisor = Expr::Var(cx.let_(divisor));
        let at = at.to_vec();
        cx.for_in(LoopKind::Vector, &channels, |cx, c| {
            let value = Expr::bin(BinOp::Div, nest::at(pool.sums, c.clone()), divisor);
            let value = select(Expr::Var(none), float(t, 0.0), value);
            nest::store(cx, &y, &[at[0].clone(), c, at[2].clone(), at[3].clone()], value);
        });
    });
    Ok(())
}

/// A side of x: its extent, as a number of the type of positions too, and the last position.
struct Side {
    extent: Extent,
    n: Expr,
    last: Expr,
}

impl Side {
    fn of(cx: &mut LowerCx, t: DType, extent: Extent) -> Side {
        let number = |n: Expr| if let Expr::Int(n) = n { float(t, n as f64) } else { n.cast_from(DType::I64, t) };
        let n = cx.count(&extent);
        Side { extent, n: number(n.clone()), last: number(n.add(Expr::Int(-1))) }
    }
}

impl Pool {
    fn span(&self, cx: &mut LowerCx, low: Expr, high: Expr, side: usize) -> SpanCode {
        let (t, rules) = (self.t, &self.rules);
        let shift = float(t, if rules.half_pixel { 0.5 } else { 0.0 });
        let start = cx.let_(low.mul(float(t, rules.scale)).minus(shift.clone()));
        let end = high.mul(float(t, rules.scale)).minus(shift);
        let mut extent = end.minus(Expr::Var(start));
        if !rules.half_pixel {
            extent = Expr::bin(BinOp::Max, extent, float(t, 1.0));
        }
        let bin = cx.let_(Expr::bin(BinOp::Div, extent, float(t, rules.bins[side] as f64)));
        let points = if rules.points > 0 {
            cx.let_(Expr::Int(rules.points))
        } else {
            let wanted = Expr::un(UnOp::Ceil, Expr::Var(bin)).cast_from(t, DType::I64);
            clamp(cx, wanted, MOST_POINTS as u64 + 1)
        };
        SpanCode { start, bin, points }
    }

    /// [`Span::between`] as code, along one of the sides of x.
    fn beside(&self, cx: &mut LowerCx, span: &SpanCode, b: &Expr, i: &Expr, side: usize) -> Beside {
        let (t, Side { extent, n, last }) = (self.t, &self.sides[side]);
        let number = |e: &Expr| e.clone().cast_from(DType::I64, t);
        let bin = Expr::Var(span.bin);
        let step = number(i).add(float(t, 0.5)).mul(bin.clone());
        let step = Expr::bin(BinOp::Div, step, Expr::Var(span.points).cast_from(DType::I64, t));
        let at = Expr::Var(cx.let_(Expr::Var(span.start).add(number(b).mul(bin)).add(step)));
        let (low, high) = (Expr::bin(BinOp::Ge, at.clone(), float(t, -1.0)), Expr::bin(BinOp::Le, at.clone(), n.clone()));
        let inside = cx.let_(Expr::bin(BinOp::And, low, high));
        let kept = Expr::bin(BinOp::Min, Expr::bin(BinOp::Max, at, float(t, 0.0)), last.clone());
        let kept = Expr::Var(cx.let_(kept));
        let base = Expr::Var(cx.let_(Expr::un(UnOp::Floor, kept.clone())));
        let far = cx.let_(kept.minus(base.clone()));
        let near = cx.let_(float(t, 1.0).minus(Expr::Var(far)));
        let first = clamp(cx, base.cast_from(t, DType::I64), extent.clone());
        let second = clamp(cx, Expr::Var(first).add(Expr::Int(1)), extent.clone());
        Beside { elements: [first, second], weights: [near, far], inside }
    }

    /// Adds one point to the sums of all channels.
    fn point(&self, cx: &mut LowerCx, start: &Expr, row: &Beside, column: &Beside) {
        let (view, t) = (&self.x.view, self.t);
        let inside = cx.let_(Expr::bin(BinOp::And, Expr::Var(row.inside), Expr::Var(column.inside)));
        let mut corners = Vec::new();
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let from =
                Expr::Var(row.elements[i]).times(view.strides[2]).add(Expr::Var(column.elements[j]).times(view.strides[3]));
            let from = cx.let_(start.clone().add(from));
            corners.push((from, cx.let_(Expr::Var(row.weights[i]).mul(Expr::Var(column.weights[j])))));
        }
        let (op, sums, channels) = (if self.rules.max { BinOp::Max } else { BinOp::Add }, self.sums, view.extent(1));
        cx.for_in(LoopKind::Vector, &channels, |cx, c| {
            let each = corners.iter().map(|(from, weight)| {
                let i = Expr::Var(*from).add(c.clone().times(view.strides[1]));
                nest::at(self.x.buf, i).cast_from(self.x.dtype, t).mul(Expr::Var(*weight))
            });
            let value = each.reduce(|a, b| Expr::bin(op, a, b)).unwrap_or(float(t, 0.0));
            let value = select(Expr::Var(inside), value, float(t, 0.0));
            let value = Expr::bin(op, nest::at(sums, c.clone()), value);
            cx.push(Stmt::Store(sums, c, value));
        });
    }
}

fn samples() -> Vec<Sample> {
    let case = |mode: &str, transformation: &str, ratio: i64, dtype, channels| {
        let text = |s: &str| Attr::Str(s.to_string());
        let attrs = Attrs::default()
            .with("mode", text(mode))
            .with("coordinate_transformation_mode", text(transformation))
            .with("sampling_ratio", Attr::Int(ratio))
            .with("spatial_scale", Attr::Float(0.75))
            .with("output_height", Attr::Int(3))
            .with("output_width", Attr::Int(2));
        let regions = data_in(dtype, &[5, 4], -2.0, 14.0);
        sample(attrs, vec![data(dtype, &[2, channels, 9, 7]), regions, data_in(DType::I64, &[5], 0.0, 1.0)])
    };
    let mut all = Vec::new();
    for mode in ["avg", "max"] {
        for transformation in ["half_pixel", "output_half_pixel"] {
            for ratio in [0, 2] {
                all.push(case(mode, transformation, ratio, DType::F32, 19));
            }
        }
    }
    all.push(case("avg", "half_pixel", 0, DType::F64, 1));
    all.push(case("max", "half_pixel", 3, DType::F64, 4));
    all.push(sample(
        Attrs::default(),
        vec![data(DType::F32, &[1, 1, 1, 1]), data(DType::F32, &[3, 4]), data_in(DType::I64, &[3], 0.0, 0.0)],
    ));
    all
}
