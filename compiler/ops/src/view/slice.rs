//! `slice`: every step-th element between start and end along some dimensions; steps may be negative.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{Extent, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Tolerance, View};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::at_run_time::{self, or_counted};
use crate::common::axes::{axis, unknown};
use crate::common::import::ints_input;
use crate::common::nest::{self, ExprExt, select};
use crate::common::sample::{data, f32s, ints, plain};
use crate::common::views::eval_view;

/// `slice`: operands data, starts, ends, axes (optional), steps (optional).
pub(crate) static SLICE: OpDef = OpDef {
    name: "slice",
    onnx: &[Import { domain: "", name: "Slice", opsets: (1, NEWEST), build: |cx| or_counted(cx, import, at_run_time::slice) }],
    infer,
    infer_dims: Some(dims),
    eval: |cx| {
        let x = cx.input(0);
        let operands: Vec<Option<Tensor>> = cx.inputs.iter().map(|t| t.cloned()).collect();
        let ranges = ranges(&operands, x.shape().len())?;
        Ok(vec![eval_view(x, &sliced(&View::contiguous(x.shape()), &ranges))])
    },
    lower: Lower::ViewOrNest(view, lower),
    tolerance: Tolerance::EXACT,
    samples: || {
        vec![
            plain(vec![f32s(&[5, 17]), ints(&[1, -9]), ints(&[4, 100])]),
            plain(vec![f32s(&[5, 17]), ints(&[-1]), ints(&[i64::MIN]), ints(&[1]), ints(&[-2])]),
            plain(vec![f32s(&[5, 7, 3]), ints(&[1]), ints(&[i64::MAX]), ints(&[-2]), ints(&[3])]),
            plain(vec![data(DType::I64, &[9]), ints(&[4]), ints(&[4])]),
            plain(vec![data(DType::I4, &[3, 7]), ints(&[0, 1]), ints(&[3, 6])]),
            plain(vec![data(DType::F16, &[9]), ints(&[20]), ints(&[0]), ints(&[0]), ints(&[-1])]),
        ]
    },
};

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    if cx.opset() >= 10 {
        return cx.forward("slice");
    }
    let x = cx.input(0)?;
    let inputs = [Some(x), ints_input(cx, 1, "starts"), ints_input(cx, 2, "ends"), ints_input(cx, 3, "axes")];
    let last = if inputs[3].is_some() { 4 } else { 3 };
    cx.node("slice", &inputs[..last], Attrs::default())
}

/// Start, end and step along one dimension, as the model gives them.
struct Range {
    axis: usize,
    start: i64,
    end: i64,
    step: i64,
}

fn list(operands: &[Option<Tensor>], i: usize) -> OpResult<Option<Vec<i64>>> {
    match operands.get(i).and_then(Option::as_ref) {
        None => Ok(None),
        Some(t) => t.to_i64s().map(Some).ok_or_else(|| OpError::new("starts, ends, axes and steps must be integers")),
    }
}

fn ranges(operands: &[Option<Tensor>], rank: usize) -> OpResult<Vec<Range>> {
    let starts = list(operands, 1)?.ok_or_else(|| unknown("starts"))?;
    let ends = list(operands, 2)?.ok_or_else(|| unknown("ends"))?;
    let axes = list(operands, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(operands, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|n| *n != starts.len()) {
        return Err(OpError::new("starts, ends, axes and steps differ in length"));
    }
    if steps.contains(&0) {
        return Err(OpError::new("a step is 0"));
    }
    let range = |i: usize| Ok(Range { axis: axis(axes[i], rank)?, start: starts[i], end: ends[i], step: steps[i] });
    let out: Vec<Range> = (0..starts.len()).map(range).collect::<OpResult<_>>()?;
    crate::common::axes::axes(&axes, rank)?;
    Ok(out)
}

impl Range {
    /// First element and count in a dimension of `n`.
    fn within(&self, n: u64) -> (i64, u64) {
        let n = n as i64;
        let wrap = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
        let (low, high) = if self.step > 0 { (0, n) } else { (-1, n - 1) };
        let start = wrap(self.start).clamp(if self.step > 0 { 0 } else { 0.min(high) }, high.max(0));
        let end = wrap(self.end).clamp(low, high.max(low));
        let span = if self.step > 0 { i128::from(end) - i128::from(start) } else { i128::from(start) - i128::from(end) };
        let step = i128::from(self.step.unsigned_abs());
        let count = if n == 0 || span <= 0 { 0 } else { (span + step - 1) / step };
        (if count == 0 { 0 } else { start }, count as u64)
    }

    /// The count in a symbolic dimension: forward steps with bounds on the near side of each end.
    fn symbolic(&self, n: &Dim) -> Option<Dim> {
        if self.step <= 0 {
            let full = self.start == -1 && self.end < -(1 << 30);
            return full.then(|| n.div_ceil(&Dim::Const(self.step.unsigned_abs())));
        }
        let far = 1i64 << 30;
        let from_start = |i: i64| if i >= 0 { Dim::Const(i as u64).min_of(n) } else { n.offset(i) };
        let start = if self.start <= -far { Dim::Const(0) } else { from_start(self.start) };
        let end = if self.end >= far { n.clone() } else { from_start(self.end) };
        let known_start = self.start >= 0 && self.end >= far;
        let span = if known_start { n.offset(-self.start) } else { end.sub(&start) };
        Some(span.div_ceil(&Dim::Const(self.step as u64)))
    }
}

fn sliced(view: &View, ranges: &[Range]) -> View {
    let mut out = view.clone();
    for r in ranges {
        let (start, count) = r.within(view.shape[r.axis]);
        out.offset += start * view.strides[r.axis];
        out.shape[r.axis] = count;
        out.strides[r.axis] = view.strides[r.axis].wrapping_mul(r.step);
        if count <= 1 {
            out.strides[r.axis] = view.strides[r.axis];
        }
    }
    out
}

fn view(_: &Attrs, view: &View, to: &[Extent], constants: &[Option<Tensor>]) -> Option<View> {
    let rank = view.shape.len();
    if let (true, Ok(ranges)) = (view.is_fixed(), ranges(constants, rank)) {
        return Some(sliced(view, &ranges));
    }
    // Sizes come with the call: what begins at a number and goes forwards begins at the same place for all of them. Other dimensions are as always.
    let mut operands = constants.to_vec();
    let starts = list(&operands, 1).ok()??;
    operands.get_mut(2)?.get_or_insert_with(|| Tensor::from_vec(&[starts.len() as u64], vec![i64::MAX; starts.len()]));
    let mut out = view.clone();
    let mut open: Vec<Option<Dim>> = (0..rank).map(|d| view.open(d).cloned()).collect();
    let ends_are_known = list(constants, 2).ok()?.is_some();
    for r in ranges(&operands, rank).ok()? {
        if view.open(r.axis).is_none() && ends_are_known && to[r.axis].open.is_none() {
            out = sliced(&out, std::slice::from_ref(&r));
            continue;
        }
        if r.start < 0 || r.step < 1 {
            return None;
        }
        out.offset += r.start * view.strides[r.axis];
        out.strides[r.axis] = view.strides[r.axis].checked_mul(r.step)?;
        out.shape[r.axis] = to[r.axis].bound;
        open[r.axis].clone_from(&to[r.axis].open);
    }
    Some(out.with_open(open))
}

/// Elements from places on that follow from sizes that come with the call. As many as there are is said by the result's extents.
fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::movable(y.dtype)?;
    let rank = x.view.shape.len();
    let constant = |i: usize| cx.opt(i).and_then(|a| a.constant).and_then(|t| t.to_i64s());
    let starts = cx.input(1);
    let count = starts.view.shape.iter().product::<u64>() as usize;
    let axes = constant(3).unwrap_or_else(|| (0..count as i64).collect());
    let steps = constant(4).unwrap_or_else(|| vec![1; count]);
    let mut lines = vec![(Expr::Int(0), 1); rank];
    for (i, (a, step)) in axes.iter().zip(&steps).enumerate() {
        let d = axis(*a, rank)?;
        let raw = cx.load(&starts, &[Expr::Int(i as i64)]).cast_from(starts.dtype, DType::I64);
        let raw = Expr::Var(cx.let_(raw));
        let n = cx.count(&x.view.extent(d));
        // From the end where it is negative, and inside: steps forwards may begin behind the last element, as nothing follows then.
        let negative = Expr::bin(BinOp::Lt, raw.clone(), Expr::Int(0));
        let start = select(negative, raw.clone().add(n.clone()), raw);
        let high = if *step > 0 { n } else { n.add(Expr::Int(-1)) };
        let start = Expr::bin(BinOp::Max, Expr::bin(BinOp::Min, start, high), Expr::Int(0));
        lines[d] = (Expr::Var(cx.let_(start)), *step);
    }
    cx.for_each(&y.view, &y.view.strides.clone(), |cx, at| {
        let from: Vec<Expr> = at.iter().zip(&lines).map(|(i, (start, step))| start.clone().add(i.clone().times(*step))).collect();
        let value = cx.load(&x, &from);
        cx.store(&y, at, value);
    });
    Ok(())
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let mut shape = x.shape.clone();
    if cx.constant(1).is_none() || cx.constant(2).is_none() {
        return by_dims(cx);
    }
    for i in [3, 4] {
        if cx.opt(i).is_some() && cx.constant(i).is_none() {
            return Err(unknown("axes or steps"));
        }
    }
    for r in ranges(cx.constants, x.rank())? {
        let dim = &mut shape[r.axis];
        *dim = match dim.as_const() {
            Some(n) => Dim::Const(r.within(n).1),
            None => r.symbolic(dim).ok_or_else(|| unknown("the extent of a dimension that is sliced backwards"))?,
        };
    }
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// Bounds that were computed from shapes: forward steps of 1 only, bounds assumed inside.
fn by_dims(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let bounds = |i: usize| -> OpResult<Vec<(Dim, bool)>> {
        if let Some(v) = cx.constant(i).and_then(|t| t.to_i64s()) {
            return Ok(v.iter().map(|n| (Dim::Const(n.unsigned_abs()), *n < 0)).collect());
        }
        let dims = cx.as_dims(i).ok_or_else(|| unknown("starts or ends"))?;
        Ok(dims.into_iter().map(|d| (d, false)).collect())
    };
    let (starts, ends) = (bounds(1)?, bounds(2)?);
    let axes = match cx.opt(3) {
        Some(_) => cx.constant(3).and_then(|t| t.to_i64s()).ok_or_else(|| unknown("axes"))?,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = match cx.opt(4) {
        Some(_) => cx.constant(4).and_then(|t| t.to_i64s()).ok_or_else(|| unknown("steps"))?,
        None => vec![1; starts.len()],
    };
    if starts.len() != axes.len() || ends.len() != axes.len() || steps.iter().any(|s| *s != 1) {
        return Err(unknown("the extent of a slice with steps"));
    }
    let mut shape = x.shape.clone();
    for (i, a) in axes.iter().enumerate() {
        let d = axis(*a, x.rank())?;
        let place = |(bound, negative): &(Dim, bool)| if *negative { shape[d].sub(bound) } else { bound.min_of(&shape[d]) };
        shape[d] = place(&ends[i]).sub(&place(&starts[i]));
    }
    Ok(vec![TensorType::new(x.dtype, shape)])
}

fn dims(cx: &InferCx) -> Option<Vec<Dim>> {
    let values = cx.as_sizes(0)?;
    if cx.constant(0).is_some() || cx.input(0).ok()?.rank() != 1 {
        return None;
    }
    let [range] = &ranges(cx.constants, 1).ok()?[..] else { return None };
    let (start, count) = range.within(values.len() as u64);
    (0..count as i64).map(|i| values.get(usize::try_from(start + i * range.step).ok()?).cloned()).collect()
}
