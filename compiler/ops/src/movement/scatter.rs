//! `scatter_elements` and `scatter_nd`: the data with some elements (or slices) replaced by updates, or combined with them (attribute
//! `reduction`: none, add, mul, max, min). Operands data, indices, updates. Of several updates of one element the later wins, in row-major order.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance, View};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::scalar_eval::{self, Scalar};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use super::{check_coordinates, check_known, index_values, position, require_index};
use crate::common::axes::axis;
use crate::common::elements::{Picker, for_coords, from_scalars, offset, scalars, strides};
use crate::common::nest::{self, dense_last, origin, over, rows, safe_index};
use crate::common::sample::{data, data_in, f32s, ints};
use crate::composed::{tensor_scatter::TENSOR_SCATTER, unpool::MAX_UNPOOL};

/// `scatter_elements`: one index along attribute `axis` for each update.
pub(crate) static SCATTER_ELEMENTS: OpDef = OpDef {
    name: "scatter_elements",
    onnx: &[
        Import { domain: "", name: "ScatterElements", opsets: (11, NEWEST), build: |cx| cx.forward("scatter_elements") },
        Import { domain: "", name: "Scatter", opsets: (9, 10), build: |cx| cx.forward("scatter_elements") },
        TENSOR_SCATTER,
        MAX_UNPOOL,
    ],
    infer: infer_elements,
    infer_dims: None,
    eval: eval_elements,
    lower: Lower::OpenNest(lower_elements),
    tolerance: Tolerance::EXACT,
    samples: samples_elements,
};

/// `scatter_nd`: the last dimension of the indices holds coordinates of the elements or slices that the updates replace.
pub(crate) static SCATTER_ND: OpDef = OpDef {
    name: "scatter_nd",
    onnx: &[Import { domain: "", name: "ScatterND", opsets: (11, NEWEST), build: |cx| cx.forward("scatter_nd") }],
    infer: infer_nd,
    infer_dims: None,
    eval: eval_nd,
    lower: Lower::OpenNest(lower_nd),
    tolerance: Tolerance::EXACT,
    samples: samples_nd,
};

/// How an update meets the element; `None` replaces it.
fn reduction(attrs: &Attrs) -> OpResult<Option<BinOp>> {
    Ok(Some(match attrs.str("reduction") {
        None | Some("none") => return Ok(None),
        Some("add") => BinOp::Add,
        Some("mul") => BinOp::Mul,
        Some("max") => BinOp::Max,
        Some("min") => BinOp::Min,
        Some(other) => return Err(OpError::new(format!("reduction {other:?} is unknown")).help("none, add, mul, max or min")),
    }))
}

/// Elements of any type can be replaced, not all be combined.
fn check_type(dtype: DType, op: Option<BinOp>) -> OpResult<()> {
    if op.is_some() { nest::require(dtype).map(|_| ()) } else { nest::movable(dtype) }
}

/// Checks what both operators share; the result has the type of the data.
fn common(cx: &InferCx) -> OpResult<TensorType> {
    let (x, updates) = (cx.input(0)?, cx.input(2)?);
    require_index(cx.input(1)?)?;
    if updates.dtype != x.dtype {
        return Err(OpError::new(format!("the updates are {updates}, the data {x}: types must be the same")));
    }
    if reduction(cx.attrs)?.is_some() && (x.dtype == DType::Bool || x.dtype == DType::Str) {
        return Err(OpError::new(format!("elements of type {} cannot be combined", x.dtype)));
    }
    Ok(x.clone())
}

/// The data as a mutable list; updates are made through [`Updated::put`].
struct Updated<'a> {
    from: Vec<Place>,
    numbers: Option<(Vec<Scalar>, Vec<Scalar>, BinOp)>,
    data: &'a Tensor,
    updates: &'a Tensor,
}

/// Where an element of the result comes from.
#[derive(Clone, Copy)]
enum Place {
    Data(usize),
    Update(usize),
}

impl<'a> Updated<'a> {
    fn new(cx: &EvalCx<'a>) -> OpResult<Updated<'a>> {
        let get = |i: usize| cx.inputs[i].expect("internal: inference accepts a missing operand");
        let (data, updates) = (get(0), get(2));
        let numbers = match reduction(cx.attrs)? {
            None => None,
            Some(op) => Some((scalars(data)?, scalars(updates)?, op)),
        };
        Ok(Updated { from: (0..data.len()).map(Place::Data).collect(), numbers, data, updates })
    }

    fn put(&mut self, to: usize, update: usize) {
        match &mut self.numbers {
            None => self.from[to] = Place::Update(update),
            Some((data, updates, op)) => {
                data[to] = scalar_eval::bin(*op, data[to], updates[update], self.data.dtype()).cast(self.data.dtype());
            }
        }
    }

    fn finish(self) -> OpResult<Tensor> {
        if let Some((data, ..)) = self.numbers {
            return from_scalars(self.data.dtype(), self.data.shape(), data);
        }
        let mut out = Picker::new(self.data.dtype());
        for place in &self.from {
            match place {
                Place::Data(i) => out.pick(self.data, *i),
                Place::Update(i) => out.pick(self.updates, *i),
            }
        }
        Ok(out.finish(self.data.shape()))
    }
}

/// The result starts as the data.
fn start(cx: &mut LowerCx) -> (Arg, Arg) {
    let (x, y) = (cx.input(0), cx.output(0));
    if !(cx.in_place[0] && x.view == y.view) {
        nest::copy(cx, &x, &y);
    }
    (y, cx.input(2))
}

/// Writes one update.
fn put(cx: &mut LowerCx, y: &Arg, to: &[Expr], updates: &Arg, from: &[Expr], op: Option<BinOp>) {
    match op {
        None => {
            let value = cx.load(updates, from);
            cx.store(y, to, value);
        }
        Some(op) => {
            let value = Expr::bin(op, nest::load(cx, y, to), nest::load(cx, updates, from));
            nest::store(cx, y, to, value);
        }
    }
}

fn infer_elements(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = common(cx)?;
    let (index, updates) = (cx.input(1)?, cx.input(2)?);
    let at = axis(cx.attrs.int("axis").unwrap_or(0), x.rank())?;
    check_known(cx.constant(1), &x.shape[at])?;
    if index.rank() != x.rank() || differ(&index.shape, &updates.shape) {
        return Err(OpError::new(format!("indices {index} and updates {updates} do not fit data {x}")));
    }
    for d in (0..x.rank()).filter(|d| *d != at) {
        if let (Some(i), Some(n)) = (index.shape[d].as_const(), x.shape[d].as_const())
            && i > n
        {
            return Err(OpError::new(format!("the indices are {index}, the data {x}: dimension {d} has too few elements")));
        }
    }
    Ok(vec![x])
}

/// True when two shapes cannot be the same.
fn differ(a: &[Dim], b: &[Dim]) -> bool {
    a.len() != b.len() || a.iter().zip(b).any(|(a, b)| matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b))
}

fn eval_elements(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, index) = (cx.input(0), cx.input(1));
    let at = axis(cx.attrs.int("axis").unwrap_or(0), x.shape().len())?;
    let dense = strides(x.shape());
    let places = index_values(index)?.iter().map(|i| position(*i, x.shape()[at])).collect::<OpResult<Vec<_>>>()?;
    let mut out = Updated::new(cx)?;
    let mut update = 0;
    for_coords(index.shape(), |coord| {
        let mut to = coord.to_vec();
        to[at] = places[update];
        out.put(offset(&to, &dense), update);
        update += 1;
    });
    Ok(vec![out.finish()?])
}

fn lower_elements(cx: &mut LowerCx) -> OpResult<()> {
    let op = reduction(cx.attrs)?;
    check_type(cx.output(0).dtype, op)?;
    let (y, updates) = start(cx);
    let index = cx.input(1);
    let shape = index.view.extents();
    if index.view.shape.contains(&0) || y.view.shape.contains(&0) {
        return Ok(());
    }
    let at = axis(cx.attrs.int("axis").unwrap_or(0), shape.len())?;
    nest::equal_extents(2, &updates.view.dims(), &index.view.dims())?;
    let fits: Vec<_> = (0..shape.len()).filter(|d| *d != at).map(|d| (shape[d].clone(), y.view.extent(d))).collect();
    nest::within(cx, 1, &fits)?;
    // Only updates along the axis can meet in one element; they are made in order.
    let others = dense_last((0..shape.len()).filter(|d| *d != at), &y.view);
    rows(cx, &shape, &others, nest::most_elements(&shape), &mut origin(shape.len()), &mut |cx, place| {
        over(cx, &shape, &[at], (LoopKind::Serial, LoopKind::Serial), place, &mut |cx, place| {
            let raw = cx.load(&index, place);
            let mut to = place.clone();
            to[at] = Expr::Var(safe_index(cx, raw, index.dtype, y.view.extent(at)));
            put(cx, &y, &to, &updates, place, op);
        });
    });
    Ok(())
}

fn infer_nd(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = common(cx)?;
    let (index, updates) = (cx.input(1)?, cx.input(2)?);
    let last = index.shape.last().ok_or_else(|| OpError::new("the indices have no dimension"))?;
    let width = last.as_const().ok_or_else(|| OpError::new(format!("the indices are {index}: the last extent must be known")))?;
    if width > x.rank() as u64 {
        return Err(OpError::new(format!("indices {index} have more coordinates than data {x}")));
    }
    let want = [&index.shape[..index.rank() - 1], &x.shape[width as usize..]].concat();
    if differ(&updates.shape, &want) {
        let want = TensorType::new(x.dtype, want);
        return Err(OpError::new(format!("the updates are {updates}, they must be {want} for indices {index} and data {x}")));
    }
    check_coordinates(cx.constant(1), &x.shape[..width as usize])?;
    Ok(vec![x])
}

fn eval_nd(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, index) = (cx.input(0), cx.input(1));
    let dense = strides(x.shape());
    let (rows, width) = index.shape().split_at(index.shape().len() - 1);
    let (rows, width) = (rows.iter().product::<u64>() as usize, width[0] as usize);
    let run = x.shape()[width..].iter().product::<u64>() as usize;
    let values = index_values(index)?;
    let mut out = Updated::new(cx)?;
    for row in 0..rows {
        let mut first = 0;
        for d in 0..width {
            first += position(values[row * width + d], x.shape()[d])? * dense[d];
        }
        (0..run).for_each(|i| out.put(first + i, row * run + i));
    }
    Ok(vec![out.finish()?])
}

fn lower_nd(cx: &mut LowerCx) -> OpResult<()> {
    let op = reduction(cx.attrs)?;
    check_type(cx.output(0).dtype, op)?;
    let (y, updates) = start(cx);
    let index = cx.input(1);
    let shape = updates.view.extents();
    if updates.view.shape.contains(&0) || y.view.shape.contains(&0) {
        return Ok(());
    }
    let n = index.view.shape.len() - 1;
    let width = index.view.shape[n] as usize;
    nest::equal_extents(2, &updates.view.dims(), &[&index.view.dims()[..n], &y.view.dims()[width..]].concat())?;
    let serial = (LoopKind::Serial, LoopKind::Serial);
    // Updates may meet, so that their order counts; within a slice they are apart. The dimensions of the slice lie densest as in the result.
    let slice =
        View { shape: y.view.shape[width..].to_vec(), open: Vec::new(), strides: y.view.strides[width..].to_vec(), offset: 0 };
    let inside: Vec<usize> = dense_last(0..slice.shape.len(), &slice).into_iter().map(|d| d + n).collect();
    let outside: Vec<usize> = (0..n).collect();
    over(cx, &shape, &outside, serial, &mut origin(shape.len()), &mut |cx, place| {
        let mut first = Vec::new();
        for d in 0..width {
            let at = [&place[..n], &[Expr::Int(d as i64)]].concat();
            let raw = cx.load(&index, &at);
            first.push(Expr::Var(safe_index(cx, raw, index.dtype, y.view.extent(d))));
        }
        over(cx, &shape, &inside, (LoopKind::Serial, LoopKind::Vector), place, &mut |cx, place| {
            put(cx, &y, &[&first[..], &place[n..]].concat(), &updates, place, op);
        });
    });
    Ok(())
}

fn with(axis: i64, reduction: &str) -> Attrs {
    Attrs::default().with("axis", Attr::Int(axis)).with("reduction", Attr::Str(reduction.to_string()))
}

fn samples_elements() -> Vec<Sample> {
    let index = |shape: &[u64], n: f64| data_in(DType::I64, shape, -n, n);
    let of = |axis, reduction: &str, inputs| Sample { attrs: with(axis, reduction), inputs, n_outputs: 1 };
    vec![
        of(0, "none", vec![f32s(&[5, 7]), index(&[3, 7], 5.0), f32s(&[3, 7])]),
        of(1, "none", vec![data(DType::I64, &[3, 17]), index(&[2, 4], 17.0), data(DType::I64, &[2, 4])]),
        of(-1, "add", vec![f32s(&[3, 5]), index(&[3, 9], 5.0), f32s(&[3, 9])]),
        of(1, "mul", vec![f32s(&[2, 4, 3]), index(&[2, 6, 3], 4.0), f32s(&[2, 6, 3])]),
        of(0, "max", vec![data(DType::I8, &[6]), index(&[8], 6.0), data(DType::I8, &[8])]),
        of(0, "min", vec![data(DType::F16, &[6, 2]), index(&[4, 2], 6.0), data(DType::F16, &[4, 2])]),
        of(0, "none", vec![data(DType::Bool, &[6]), ints(&[0, -1]), data(DType::Bool, &[2])]),
        of(0, "none", vec![data(DType::I4, &[7]), ints(&[0, -1]), data(DType::I4, &[2])]),
    ]
}

fn samples_nd() -> Vec<Sample> {
    let index = |shape: &[u64], n: f64| data_in(DType::I64, shape, -n, n);
    let of = |reduction: &str, inputs| {
        let attrs = Attrs::default().with("reduction", Attr::Str(reduction.to_string()));
        Sample { attrs, inputs, n_outputs: 1 }
    };
    vec![
        of("none", vec![f32s(&[8]), index(&[4, 1], 8.0), f32s(&[4])]),
        of("none", vec![f32s(&[4, 5, 17]), index(&[2, 3, 1], 4.0), f32s(&[2, 3, 5, 17])]),
        of("add", vec![f32s(&[4, 5]), index(&[9, 2], 4.0), f32s(&[9])]),
        of("mul", vec![data(DType::I32, &[4, 6]), index(&[7, 1], 4.0), data(DType::I32, &[7, 6])]),
        of("max", vec![f32s(&[4, 3]), index(&[5, 1], 4.0), f32s(&[5, 3])]),
        of("min", vec![data(DType::BF16, &[4, 3]), index(&[5, 1], 4.0), data(DType::BF16, &[5, 3])]),
        of("none", vec![data(DType::Bool, &[3, 2]), index(&[2, 2], 2.0), data(DType::Bool, &[2])]),
        of("none", vec![data(DType::F4E2M1, &[3, 3]), index(&[2, 1], 2.0), data(DType::F4E2M1, &[2, 3])]),
        of("none", vec![f32s(&[4]), index(&[0, 1], 4.0), f32s(&[0])]),
    ]
}
