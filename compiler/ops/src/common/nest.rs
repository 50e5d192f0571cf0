//! Loop nests that several operators share.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, Extents, OpError, OpResult, View};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{DType, Dim};

/// Elements from which a nest is worth more than one thread.
pub(crate) const PARALLEL_ELEMENTS: u64 = 16 * 1024;

/// Type in which a float type is computed: f16 and bf16 in f32.
pub(crate) fn compute_type(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        t => t,
    }
}

/// Refuses types without code.
pub(crate) fn require(dtype: DType) -> OpResult<DType> {
    use DType::*;
    match dtype {
        F32 | F64 | F16 | BF16 | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64 | Bool => Ok(dtype),
        t => Err(OpError::new(format!("elements of type {t} are not supported in compiled code"))),
    }
}

/// Refuses types whose elements cannot be moved: strings have no size, complex numbers no register.
pub(crate) fn movable(dtype: DType) -> OpResult<()> {
    match dtype {
        DType::Str | DType::C64 | DType::C128 => require(dtype).map(|_| ()),
        _ => Ok(()),
    }
}

/// Refuses operands from `first` on that may have other extents than `to`, whose sizes come with the call: an extent must be the number 1 or that of `to`.
pub(crate) fn broadcasts(cx: &LowerCx, first: usize, to: &View) -> OpResult<()> {
    let all = to.dims();
    for (i, arg) in cx.inputs.iter().enumerate().skip(first) {
        let Some(arg) = arg else { continue };
        let lead = all.len() - arg.view.shape.len();
        same_extents(i, &arg.view.dims(), &all[lead..])?;
    }
    Ok(())
}

/// Refuses extents of operand `i` that are neither 1 nor known to be these.
pub(crate) fn same_extents(i: usize, dims: &[Dim], of: &[Dim]) -> OpResult<()> {
    dims.iter().zip(of).filter(|(n, _)| !n.is_one()).try_for_each(|(n, m)| same_extent(i, n, m))
}

/// What to do about sizes that come with the call, where they are in the way.
pub(crate) const ONE_VALUE: &str = "give the dimension one value, or a list of values: --dim N=1,2,4";

/// Refuses open extents of operand `i` along these dimensions.
pub(crate) fn fixed(cx: &LowerCx, i: usize, dims: impl IntoIterator<Item = usize>) -> OpResult<()> {
    let Some(arg) = cx.opt(i) else { return Ok(()) };
    for d in dims {
        if let Some(n) = arg.view.open(d) {
            let error = OpError::new(format!("dimension {d} of input {i} comes with the call ({n}), which has no code yet"));
            return Err(error.help(ONE_VALUE));
        }
    }
    Ok(())
}

/// Refuses extents of operand `i` that are not known to be at most these.
pub(crate) fn within(cx: &LowerCx, i: usize, dims: &[(Extent, Extent)]) -> OpResult<()> {
    let beyond = |(n, room): &&(Extent, Extent)| n.dim() != room.dim() && n.bound > cx.least(room);
    let Some((n, room)) = dims.iter().find(beyond) else { return Ok(()) };
    let (n, room) = (n.dim(), room.dim());
    let error =
        OpError::new(format!("input {i} has the extent {n} where at most {room} are allowed; it is not known that it is"));
    Err(error.help("give the dimensions one value, or the same name in --shape"))
}

/// Refuses extents of operand `i` that are not known to be these.
pub(crate) fn equal_extents(i: usize, dims: &[Dim], of: &[Dim]) -> OpResult<()> {
    dims.iter().zip(of).try_for_each(|(n, m)| same_extent(i, n, m))
}

/// Refuses an extent of operand `i` that is not known to be this one.
pub(crate) fn same_extent(i: usize, n: &Dim, m: &Dim) -> OpResult<()> {
    if n == m {
        return Ok(());
    }
    let error = OpError::new(format!("input {i} has the extent {n} where {m} is needed; it is not known that they are the same"));
    Err(error.help("give the dimensions one value, or the same name in --shape"))
}

/// Shorthands on expressions.
pub(crate) trait ExprExt: Sized {
    /// `self - other`.
    fn minus(self, other: Expr) -> Expr;
    /// `self * other`.
    fn mul(self, other: Expr) -> Expr;
    /// Conversion; none when the type is right already, which the caller says.
    fn cast_from(self, from: DType, to: DType) -> Expr;
}

impl ExprExt for Expr {
    fn minus(self, other: Expr) -> Expr {
        Expr::bin(BinOp::Sub, self, other)
    }

    fn mul(self, other: Expr) -> Expr {
        Expr::bin(BinOp::Mul, self, other)
    }

    fn cast_from(self, from: DType, to: DType) -> Expr {
        if from == to { self } else { Expr::Cast(to, Box::new(self)) }
    }
}

/// A float constant of a compute type.
pub(crate) fn float(dtype: DType, x: f64) -> Expr {
    Expr::Const(dtype, x.to_bits())
}

/// An integer or bool constant.
pub(crate) fn int(dtype: DType, x: i64) -> Expr {
    if dtype == DType::I64 { Expr::Int(x) } else { Expr::Const(dtype, x as u64) }
}

/// A number of any type.
pub(crate) fn number(dtype: DType, x: f64) -> Expr {
    if dtype.is_float() { float(dtype, x) } else { int(dtype, x as i64) }
}

/// `if cond { a } else { b }`.
pub(crate) fn select(cond: Expr, a: Expr, b: Expr) -> Expr {
    Expr::Select(Box::new(cond), Box::new(a), Box::new(b))
}

/// The element of `arg`, in its compute type.
pub(crate) fn load(cx: &LowerCx, arg: &Arg, at: &[Expr]) -> Expr {
    cx.load(arg, at).cast_from(arg.dtype, compute_type(arg.dtype))
}

/// Stores a value of the compute type.
pub(crate) fn store(cx: &mut LowerCx, arg: &Arg, at: &[Expr], value: Expr) {
    let value = value.cast_from(compute_type(arg.dtype), arg.dtype);
    cx.store(arg, at, value);
}

/// An element of a constant i64 table.
pub(crate) fn table(cx: &mut LowerCx, values: &[i64]) -> BufId {
    cx.const_buf(DType::I64, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// A constant f32 table.
pub(crate) fn f32_table(cx: &mut LowerCx, values: &[f32]) -> BufId {
    cx.const_buf(DType::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// An element of a buffer.
pub(crate) fn at(buf: BufId, index: Expr) -> Expr {
    Expr::Load(buf, Box::new(index))
}

/// The dimensions `dims`, widest stride first, so that the last one is the densest.
pub(crate) fn dense_last(dims: impl IntoIterator<Item = usize>, view: &View) -> Vec<usize> {
    let mut order: Vec<usize> = dims.into_iter().filter(|d| view.shape[*d] != 1).collect();
    order.sort_by_key(|d| (std::cmp::Reverse(view.strides[*d].unsigned_abs()), *d));
    order
}

/// Dimensions to loop over, the outermost first, and how many elements are neighbours in x and in y at each of their coordinates.
pub(crate) fn runs(x: &Arg, y: &Arg) -> (Vec<usize>, u64) {
    let extents = y.view.extents();
    let mut outer = dense_last(0..extents.len(), &y.view);
    let mut run = 1;
    let follows = |d: usize, run: u64| extents[d].open.is_none() && [x, y].iter().all(|a| a.view.strides[d] == run as i64);
    while let Some(d) = outer.pop_if(|d| follows(*d, run)) {
        run *= y.view.shape[d];
    }
    (outer, run)
}

/// Vector loops over all elements, as many as are neighbours at once; `body` gets the places of an element in x and in y.
pub(crate) fn each_run(cx: &mut LowerCx, x: &Arg, y: &Arg, body: &mut dyn FnMut(&mut LowerCx, Expr, Expr)) {
    let (outer, run) = runs(x, y);
    let last = if run == 1 { LoopKind::Vector } else { LoopKind::Serial };
    over(cx, &y.view, &outer, (LoopKind::Serial, last), &mut origin(y.view.shape.len()), &mut |cx, at| {
        let (from, to) = (x.index(at), y.index(at));
        if run == 1 {
            return body(cx, from, to);
        }
        let (from, to) = (Expr::Var(cx.let_(from)), Expr::Var(cx.let_(to)));
        cx.for_(LoopKind::Vector, run, |cx, i| body(cx, from.add(i.clone()), to.add(i)));
    });
}

/// Loops over `dims` of `shape` in the order given, setting their coordinates in `at`; `first` is the kind of the first loop, `last` of the last
/// (which wins when there is one), the others are serial.
pub(crate) fn over<S: Extents + ?Sized>(
    cx: &mut LowerCx,
    shape: &S,
    dims: &[usize],
    kinds: (LoopKind, LoopKind),
    at: &mut Vec<Expr>,
    body: &mut dyn FnMut(&mut LowerCx, &mut Vec<Expr>),
) {
    over_extents(cx, &shape.extents(), dims, kinds, at, body);
}

fn over_extents(
    cx: &mut LowerCx,
    shape: &[Extent],
    dims: &[usize],
    (first, last): (LoopKind, LoopKind),
    at: &mut Vec<Expr>,
    body: &mut dyn FnMut(&mut LowerCx, &mut Vec<Expr>),
) {
    let Some((&d, rest)) = dims.split_first() else { return body(cx, at) };
    let kind = if rest.is_empty() { last } else { first };
    cx.for_in(kind, &shape[d], |cx, i| {
        at[d] = i;
        over_extents(cx, shape, rest, (LoopKind::Serial, last), at, body);
    });
}

/// Loops over rows: `dims` in order, the first one split over threads when the work of `elements` is worth it.
pub(crate) fn rows<S: Extents + ?Sized>(
    cx: &mut LowerCx,
    shape: &S,
    dims: &[usize],
    elements: u64,
    at: &mut Vec<Expr>,
    body: &mut dyn FnMut(&mut LowerCx, &mut Vec<Expr>),
) {
    let first = if elements >= PARALLEL_ELEMENTS { LoopKind::Parallel } else { LoopKind::Serial };
    over(cx, shape, dims, (first, if dims.len() == 1 { first } else { LoopKind::Serial }), at, body);
}

/// Zero coordinates.
pub(crate) fn origin(rank: usize) -> Vec<Expr> {
    vec![Expr::Int(0); rank]
}

/// Copies elements between views of one shape.
pub(crate) fn copy(cx: &mut LowerCx, from: &Arg, to: &Arg) {
    cx.copy(from, to);
}

/// Fills a view with one value.
pub(crate) fn fill(cx: &mut LowerCx, to: &Arg, value: &Expr) {
    let shape = to.view.extents();
    if to.view.shape.contains(&0) {
        return;
    }
    // Dimensions that are neighbours in memory are one: a vector loop over four channels would be a call for each pixel.
    let mut runs: Vec<(Extent, i64)> = Vec::new();
    for d in dense_last(0..shape.len(), &to.view) {
        let (n, stride) = (shape[d].clone(), to.view.strides[d]);
        match runs.last_mut() {
            Some(outer) if n.open.is_none() && outer.1 == stride * n.bound as i64 => *outer = (outer.0.times(&n), stride),
            _ => runs.push((n, stride)),
        }
    }
    let (shape, strides): (Vec<Extent>, Vec<i64>) = runs.into_iter().unzip();
    let to = Arg { view: view(&shape, strides, to.view.offset), constant: None, ..to.clone() };
    let dims: Vec<usize> = (0..shape.len()).collect();
    over(cx, &shape, &dims, (LoopKind::Serial, LoopKind::Vector), &mut origin(shape.len()), &mut |cx, at| {
        cx.store(&to, at, value.clone());
    });
}

/// A part of an operand: offsets, extents and steps along each dimension.
pub(crate) fn part<S: Extents + ?Sized>(arg: &Arg, start: &[i64], shape: &S) -> Arg {
    let shift: i64 = start.iter().zip(&arg.view.strides).map(|(a, s)| a * s).sum();
    let view = view(&shape.extents(), arg.view.strides.clone(), arg.view.offset + shift);
    Arg { view, constant: None, ..arg.clone() }
}

/// A view with these extents.
pub(crate) fn view(extents: &[Extent], strides: Vec<i64>, offset: i64) -> View {
    let view = View { shape: bounds(extents), open: Vec::new(), strides, offset };
    view.with_open(extents.iter().map(|n| n.open.clone()).collect())
}

/// The largest extents.
pub(crate) fn bounds(extents: &[Extent]) -> Vec<u64> {
    extents.iter().map(|n| n.bound).collect()
}

/// Elements of a shape, at most.
pub(crate) fn most_elements(extents: &[Extent]) -> u64 {
    extents.iter().map(|n| n.bound).fold(1, u64::saturating_mul)
}

/// Index `i` (any integer type) as i64, negative ones counted from the end, kept inside `0..n` so that no data can lead outside the buffer.
pub(crate) fn safe_index(cx: &mut LowerCx, i: Expr, dtype: DType, n: impl Into<Extent>) -> Var {
    let n = n.into();
    let raw = cx.let_(i.cast_from(dtype, DType::I64));
    let count = cx.count(&n);
    let wrapped = select(Expr::bin(BinOp::Lt, Expr::Var(raw), Expr::Int(0)), Expr::Var(raw).add(count), Expr::Var(raw));
    clamp(cx, wrapped, n)
}

/// `i` kept inside `0..n`.
pub(crate) fn clamp(cx: &mut LowerCx, i: Expr, n: impl Into<Extent>) -> Var {
    let n = n.into();
    let Some(_) = n.open else {
        let low = Expr::bin(BinOp::Max, i, Expr::Int(0));
        return cx.let_(Expr::bin(BinOp::Min, low, Expr::Int(n.bound as i64 - 1)));
    };
    // An extent may turn out to be 0.
    let last = cx.count(&n).add(Expr::Int(-1));
    let high = Expr::bin(BinOp::Min, i, last);
    cx.let_(Expr::bin(BinOp::Max, high, Expr::Int(0)))
}

/// A row-major index as the index of a group of `n` and the index inside of it.
pub(crate) fn split(cx: &mut LowerCx, i: Expr, n: u64) -> (Expr, Expr) {
    if n == 1 {
        return (i, Expr::Int(0));
    }
    let i = Expr::Var(cx.let_(i));
    let outer = cx.let_(Expr::bin(BinOp::Div, i.clone(), Expr::Int(n as i64)));
    let inner = cx.let_(i.minus(Expr::Var(outer).times(n as i64)));
    (Expr::Var(outer), Expr::Var(inner))
}

/// The square root.
pub(crate) fn sqrt(e: Expr) -> Expr {
    Expr::un(UnOp::Sqrt, e)
}
