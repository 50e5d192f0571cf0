//! `grid_sample`: x read at positions that a grid gives, with interpolation.
//!
//! Operands: x `[N, C, spatial...]`, grid `[N, out..., dims]` whose last dimension holds a position between -1 and 1 along each spatial dimension, the
//! last one first. Attributes: `mode` (linear, nearest, cubic), `padding_mode` (zeros, border, reflection), `align_corners`.
//! Result `[N, C, out...]`. Rules of ONNX GridSample-22; cubic weights with a = -0.75 (Keys, "Cubic convolution interpolation", 1981).

use onnxc_ir::lir::{Expr, LoopKind, Var};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Extent, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::common::elements::{f64s, for_coords, from_f64s, offset, strides};
use crate::common::nest::{self, ExprExt, clamp, compute_type, float, origin, rows, select};
use crate::common::sample::{data, data_in, sample};
use crate::common::{broadcast, float as floats};
use crate::composed::affine_grid::AFFINE_GRID;

/// The record.
pub(crate) static GRID_SAMPLE: OpDef = OpDef {
    name: "grid_sample",
    onnx: &[Import { domain: "", name: "GridSample", opsets: (16, NEWEST), build: import }, AFFINE_GRID],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

/// Names of opset 16 become those of opset 20.
fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let mut attrs = cx.attrs().clone();
    let mode = match attrs.str("mode") {
        Some("bilinear") => "linear",
        Some("bicubic") => "cubic",
        other => other.unwrap_or("linear"),
    };
    attrs = attrs.clone().with("mode", Attr::Str(mode.to_string()));
    let inputs = [Some(cx.input(0)?), Some(cx.input(1)?)];
    cx.node("grid_sample", &inputs, attrs)
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

#[derive(Clone, Copy)]
struct Rules {
    mode: Mode,
    padding: Padding,
    corners: bool,
}

impl Rules {
    fn of(attrs: &Attrs) -> OpResult<Rules> {
        let mode = match attrs.str("mode").unwrap_or("linear") {
            "nearest" => Mode::Nearest,
            "linear" => Mode::Linear,
            "cubic" => Mode::Cubic,
            other => return Err(OpError::new(format!("mode {other:?} is unknown")).help("linear, nearest or cubic")),
        };
        let padding = match attrs.str("padding_mode").unwrap_or("zeros") {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            other => return Err(OpError::new(format!("padding_mode {other:?} is unknown")).help("zeros, border or reflection")),
        };
        Ok(Rules { mode, padding, corners: attrs.int("align_corners").unwrap_or(0) != 0 })
    }

    /// Outermost positions along `n` elements.
    fn border(self, n: u64) -> (f64, f64) {
        let last = n as f64 - 1.0;
        if self.corners { (0.0, last) } else { (-0.5, last + 0.5) }
    }

    /// Elements that one position reads along a dimension, relative to the one at or before it.
    fn taps(self) -> std::ops::Range<i64> {
        match self.mode {
            Mode::Nearest => 0..1,
            Mode::Linear => 0..2,
            Mode::Cubic => -1..3,
        }
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, grid) = (cx.input(0)?, cx.input(1)?);
    floats::check(x.dtype, "sampling")?;
    broadcast::same_dtype(cx, 0..2)?;
    Rules::of(cx.attrs)?;
    let spatial = x.rank().saturating_sub(2);
    if spatial == 0 || grid.rank() != x.rank() || grid.shape[spatial + 1].as_const().is_some_and(|n| n != spatial as u64) {
        return Err(OpError::new(format!("x is {x} and grid {grid}: positions along {spatial} dimensions are needed")));
    }
    if let (Some(m), Some(n)) = (x.shape[0].as_const(), grid.shape[0].as_const())
        && m != n
    {
        return Err(OpError::new(format!("x is {x} and grid {grid}: they must have one batch")));
    }
    if x.shape[2..].contains(&Dim::Const(0)) {
        return Err(OpError::new(format!("x is {x}: there is nothing to read")));
    }
    let mut shape = x.shape[..2].to_vec();
    shape.extend_from_slice(&grid.shape[1..=spatial]);
    Ok(vec![TensorType::new(x.dtype, shape)])
}

fn reflect(v: f64, (low, high): (f64, f64)) -> f64 {
    if (low..=high).contains(&v) || low == high {
        return v.clamp(low, high);
    }
    let beyond = if v < low { low - v } else { v - high };
    let times = (beyond / (high - low)).floor();
    let rest = beyond - times * (high - low);
    if (v < low) == (times % 2.0 == 0.0) { low + rest } else { high - rest }
}

/// Keys' weights of the elements at -1, 0, 1 and 2 for a position `t` behind element 0.
fn cubic(tap: i64, t: f64) -> f64 {
    let a = -0.75;
    let d = (tap as f64 - t).abs();
    if d <= 1.0 { ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0 } else { ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a }
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, grid, rules, shape) = (cx.input(0), cx.input(1), Rules::of(cx.attrs)?, cx.out_shape(0));
    let (xs, gs) = (f64s(x)?, f64s(grid)?);
    let (x_steps, g_steps) = (strides(x.shape()), strides(grid.shape()));
    let spatial = shape.len() - 2;
    let mut out = Vec::new();
    for_coords(&shape, |at| {
        let first = at[0] * g_steps[0] + offset(&at[2..], &g_steps[1..=spatial]);
        // (element or none, weight) of each tap along each dimension.
        let along = |d: usize| -> Vec<(Option<usize>, f64)> {
            let n = x.shape()[d + 2];
            let (raw, last, border) = (gs[first + spatial - 1 - d], n as f64 - 1.0, rules.border(n));
            let mut v = if rules.corners { (raw + 1.0) / 2.0 * last } else { ((raw + 1.0) * n as f64 - 1.0) / 2.0 };
            if rules.mode == Mode::Nearest {
                v = v.round_ties_even();
            }
            match rules.padding {
                Padding::Border if v < border.0 || v > border.1 => v = v.clamp(0.0, last),
                Padding::Reflection => v = reflect(v, border),
                _ => {}
            }
            let base = if rules.mode == Mode::Nearest { v.trunc() } else { v.floor() };
            let element = |tap: i64| {
                let i = base + tap as f64;
                match rules.padding {
                    Padding::Zeros => (0.0..=last).contains(&i).then_some(i as usize),
                    Padding::Border => Some(i.clamp(0.0, last) as usize),
                    Padding::Reflection => Some(reflect(i, border).clamp(0.0, last) as usize),
                }
            };
            let weight = |tap: i64| match rules.mode {
                Mode::Nearest => 1.0,
                Mode::Linear if tap == 0 => 1.0 - (v - base),
                Mode::Linear => v - base,
                Mode::Cubic => cubic(tap, v - base),
            };
            rules.taps().map(|tap| (element(tap), weight(tap))).collect()
        };
        let taps: Vec<Vec<(Option<usize>, f64)>> = (0..spatial).map(along).collect();
        let counts: Vec<u64> = taps.iter().map(|t| t.len() as u64).collect();
        let mut sum = 0.0;
        for_coords(&counts, |k| {
            let chosen = k.iter().zip(&taps).map(|(k, t)| t[*k]);
            let (mut from, mut weight, mut inside) = (at[0] * x_steps[0] + at[1] * x_steps[1], 1.0, true);
            for (d, (element, w)) in chosen.enumerate() {
                inside &= element.is_some();
                from += element.unwrap_or(0) * x_steps[d + 2];
                weight *= w;
            }
            sum += if inside { xs[from] * weight } else { 0.0 };
        });
        out.push(sum);
    });
    Ok(vec![from_f64s(x.dtype(), &shape, out)?])
}

/// A tap along one dimension, as code.
#[derive(Clone)]
struct Tap {
    element: Var,
    weight: Var,
    /// Whether it lies in x, where that is not sure.
    inside: Option<Var>,
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, grid, y, rules) = (cx.input(0), cx.input(1), cx.output(0), Rules::of(cx.attrs)?);
    nest::require(y.dtype)?;
    let t = compute_type(y.dtype);
    let mut shape = y.view.extents();
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    nest::equal_extents(1, &grid.view.dims()[..1], &x.view.dims()[..1])?;
    let channels = std::mem::replace(&mut shape[1], 1.into());
    let (spatial, rank) = (shape.len() - 2, shape.len());
    let sides: Vec<Side> = (0..spatial).map(|d| Side::of(cx, rules, t, x.view.extent(d + 2))).collect();
    let dims: Vec<usize> = (0..rank).filter(|d| *d != 1 && !shape[*d].is_one()).collect();
    let elements = y.view.shape.iter().product();
    rows(cx, &shape, &dims, elements, &mut origin(rank), &mut |cx, at| {
        let along = |cx: &mut LowerCx, d: usize| {
            let mut place = vec![at[0].clone()];
            place.extend_from_slice(&at[2..]);
            place.push(Expr::Int((spatial - 1 - d) as i64));
            let raw = nest::load(cx, &grid, &place);
            taps(cx, rules, t, raw, &sides[d])
        };
        let mut all: Vec<Vec<Tap>> = vec![Vec::new()];
        for d in 0..spatial {
            let list = along(cx, d);
            all = all.iter().flat_map(|c| list.iter().map(|tap| [&c[..], std::slice::from_ref(tap)].concat())).collect();
        }
        // The place and the weight of each combination are the same for all channels.
        let start = Expr::Int(x.view.offset).add(at[0].clone().times(x.view.strides[0]));
        let reads: Vec<(Var, Var, Option<Var>)> = all
            .iter()
            .map(|combination| {
                let (mut from, mut weight, mut inside) = (start.clone(), None::<Expr>, None::<Expr>);
                for (d, tap) in combination.iter().enumerate() {
                    from = from.add(Expr::Var(tap.element).times(x.view.strides[d + 2]));
                    let w = Expr::Var(tap.weight);
                    weight = Some(weight.map_or(w.clone(), |e| e.mul(w)));
                    if let Some(i) = tap.inside {
                        inside = Some(inside.map_or(Expr::Var(i), |e| Expr::bin(BinOp::And, e, Expr::Var(i))));
                    }
                }
                let weight = weight.unwrap_or_else(|| float(t, 1.0));
                (cx.let_(from), cx.let_(weight), inside.map(|e| cx.let_(e)))
            })
            .collect();
        let at = at.clone();
        cx.for_in(LoopKind::Vector, &channels, |cx, c| {
            let mut sum: Option<Expr> = None;
            for (from, weight, inside) in &reads {
                let i = Expr::Var(*from).add(c.clone().times(x.view.strides[1]));
                let value = nest::at(x.buf, i).cast_from(x.dtype, t);
                let product = value.mul(Expr::Var(*weight));
                // A weight of zero would not hide infinities.
                let product = match inside {
                    Some(inside) => select(Expr::Var(*inside), product, float(t, 0.0)),
                    None => product,
                };
                sum = Some(sum.map_or(product.clone(), |s| s.add(product)));
            }
            let mut to = at.clone();
            to[1] = c;
            nest::store(cx, &y, &to, sum.unwrap_or_else(|| float(t, 0.0)));
        });
    });
    Ok(())
}

/// A side of x as numbers of the type of positions.
struct Side {
    extent: Extent,
    n: Expr,
    /// The last position, and half of it.
    last: Expr,
    half: Expr,
    /// The outermost positions, and how far they are apart.
    low: f64,
    high: Expr,
    span: Expr,
}

impl Side {
    fn of(cx: &mut LowerCx, rules: Rules, t: DType, extent: Extent) -> Side {
        let c = |v: f64| float(t, v);
        let (low, _) = rules.border(1);
        if extent.open.is_none() {
            let (last, (_, high)) = (extent.bound as f64 - 1.0, rules.border(extent.bound));
            let (n, span) = (c(extent.bound as f64), c(high - low));
            return Side { extent, n, last: c(last), half: c(last / 2.0), low, high: c(high), span };
        }
        let n = cx.count(&extent).cast_from(DType::I64, t);
        let n = Expr::Var(cx.let_(n));
        let last = Expr::Var(cx.let_(n.clone().minus(c(1.0))));
        let half = last.clone().mul(c(0.5));
        let high = Expr::Var(cx.let_(last.clone().minus(c(low))));
        let span = Expr::Var(cx.let_(high.clone().minus(c(low))));
        Side { extent, n, last, half, low, high, span }
    }
}

/// [`reflect`] as code.
fn reflected(cx: &mut LowerCx, t: DType, v: Expr, side: &Side) -> Expr {
    let c = |v: f64| float(t, v);
    let (low, high, span) = (side.low, side.high.clone(), side.span.clone());
    if span == c(0.0) {
        return c(low);
    }
    let v = Expr::Var(cx.let_(v));
    let below = Expr::Var(cx.let_(Expr::bin(BinOp::Lt, v.clone(), c(low))));
    let beyond = select(below.clone(), c(low).minus(v.clone()), v.clone().minus(high.clone()));
    let beyond = Expr::Var(cx.let_(beyond));
    let times = Expr::un(UnOp::Floor, Expr::bin(BinOp::Div, beyond.clone(), span.clone()));
    let times = Expr::Var(cx.let_(times));
    let rest = Expr::Var(cx.let_(beyond.minus(times.clone().mul(span.clone()))));
    let half = Expr::un(UnOp::Floor, times.clone().mul(c(0.5))).mul(c(2.0));
    let even = Expr::bin(BinOp::Eq, times, half);
    let up = Expr::bin(BinOp::Eq, below, even);
    let folded = select(up, c(low).add(rest.clone()), high.clone().minus(rest));
    let inside = Expr::bin(BinOp::And, Expr::bin(BinOp::Ge, v.clone(), c(low)), Expr::bin(BinOp::Le, v.clone(), high));
    let mut e = select(inside, v, folded);
    if side.extent.open.is_some() {
        e = select(Expr::bin(BinOp::Eq, span, c(0.0)), c(low), e);
    }
    Expr::Var(cx.let_(e))
}

/// What position `raw` reads along a side of x.
fn taps(cx: &mut LowerCx, rules: Rules, t: DType, raw: Expr, side: &Side) -> Vec<Tap> {
    let c = |v: f64| float(t, v);
    let last = &side.last;
    let shifted = raw.add(c(1.0));
    let v = if rules.corners { shifted.mul(side.half.clone()) } else { shifted.mul(side.n.clone()).minus(c(1.0)).mul(c(0.5)) };
    let mut v = Expr::Var(cx.let_(v));
    if rules.mode == Mode::Nearest {
        v = Expr::Var(cx.let_(Expr::un(UnOp::Round, v)));
    }
    match rules.padding {
        Padding::Border => {
            let outside = Expr::bin(
                BinOp::Or,
                Expr::bin(BinOp::Lt, v.clone(), c(side.low)),
                Expr::bin(BinOp::Gt, v.clone(), side.high.clone()),
            );
            let kept = Expr::bin(BinOp::Min, Expr::bin(BinOp::Max, v.clone(), c(0.0)), last.clone());
            v = Expr::Var(cx.let_(select(outside, kept, v)));
        }
        Padding::Reflection => v = reflected(cx, t, v, side),
        Padding::Zeros => {}
    }
    let down = if rules.mode == Mode::Nearest { UnOp::Trunc } else { UnOp::Floor };
    let base = Expr::Var(cx.let_(Expr::un(down, v.clone())));
    let fraction = Expr::Var(cx.let_(v.minus(base.clone())));
    let mut all = Vec::new();
    for tap in rules.taps() {
        let mut place = base.clone().add(c(tap as f64));
        if rules.padding == Padding::Reflection {
            place = reflected(cx, t, place, side);
        }
        let place = Expr::Var(cx.let_(place));
        let inside = (rules.padding == Padding::Zeros).then(|| {
            let inside = Expr::bin(
                BinOp::And,
                Expr::bin(BinOp::Ge, place.clone(), c(0.0)),
                Expr::bin(BinOp::Le, place.clone(), last.clone()),
            );
            cx.let_(inside)
        });
        // Whatever the grid holds, nothing outside of x is read.
        let element = clamp(cx, place.cast_from(t, DType::I64), side.extent.clone());
        let weight = match (rules.mode, tap) {
            (Mode::Nearest, _) => c(1.0),
            (Mode::Linear, 0) => c(1.0).minus(fraction.clone()),
            (Mode::Linear, _) => fraction.clone(),
            (Mode::Cubic, _) => cubic_code(t, tap, fraction.clone()),
        };
        all.push(Tap { element, weight: cx.let_(weight), inside });
    }
    all
}

/// [`cubic`] as code, for `t` between 0 and 1.
fn cubic_code(dtype: DType, tap: i64, t: Expr) -> Expr {
    let c = |v: f64| float(dtype, v);
    let a = -0.75;
    let d = if tap <= 0 { t.minus(c(tap as f64)) } else { c(tap as f64).minus(t) };
    if tap == 0 || tap == 1 {
        c(a + 2.0).mul(d.clone()).minus(c(a + 3.0)).mul(d.clone()).mul(d).add(c(1.0))
    } else {
        c(a).mul(d.clone()).minus(c(5.0 * a)).mul(d.clone()).add(c(8.0 * a)).mul(d).minus(c(4.0 * a))
    }
}

fn samples() -> Vec<Sample> {
    let of = |mode: &str, padding: &str, corners: i64| {
        let text = |s: &str| Attr::Str(s.to_string());
        Attrs::default().with("mode", text(mode)).with("padding_mode", text(padding)).with("align_corners", Attr::Int(corners))
    };
    let mut all = Vec::new();
    for mode in ["linear", "nearest", "cubic"] {
        for padding in ["zeros", "border", "reflection"] {
            for corners in [0, 1] {
                let operands = vec![data(DType::F32, &[2, 3, 5, 4]), data_in(DType::F32, &[2, 3, 7, 2], -1.4, 1.4)];
                all.push(sample(of(mode, padding, corners), operands));
            }
        }
    }
    let f64s = vec![data(DType::F64, &[1, 2, 3, 4]), data_in(DType::F64, &[1, 3, 2, 2], -3.0, 3.0)];
    all.push(sample(of("linear", "reflection", 0), f64s));
    let volume = vec![data(DType::F32, &[1, 9, 3, 4, 2]), data_in(DType::F32, &[1, 2, 3, 2, 3], -1.2, 1.2)];
    all.push(sample(of("linear", "zeros", 0), volume));
    all
}
