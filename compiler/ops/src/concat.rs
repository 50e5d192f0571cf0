//! `concat`: operands joined along attribute `axis`. Operands of one type and rank that differ in that dimension only.
//!
//! The planner lets producers write their parts straight into the result; code is made only for the operands that lie elsewhere.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use crate::common::axes::axis;
use crate::common::elements::Picker;
use crate::common::nest;
use crate::common::sample::{data, f32s, int_attrs, ints};
use crate::composed::rotary;

/// `concat`
pub(crate) static CONCAT: OpDef = OpDef {
    name: "concat",
    onnx: &[
        Import {
            domain: "",
            name: "Concat",
            opsets: (4, NEWEST),
            build: |cx| {
                let at = cx.attrs().int("axis").ok_or_else(|| OpError::new("attribute axis is missing"))?;
                let inputs = cx.inputs().to_vec();
                cx.node("concat", &inputs, Attrs::default().with("axis", Attr::Int(at)))
            },
        },
        rotary::ROTARY_EMBEDDING,
        rotary::OF_ONNXRUNTIME,
        crate::composed::classic::prepare::FEATURE_VECTORIZER,
    ],
    infer,
    infer_dims: Some(dims),
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples: || {
        let of = |axis, inputs| Sample { attrs: int_attrs(&[("axis", axis)]), inputs, n_outputs: 1 };
        vec![
            of(0, vec![f32s(&[2, 3]), f32s(&[1, 3])]),
            of(-1, vec![f32s(&[4, 17]), f32s(&[4, 0]), f32s(&[4, 3]), f32s(&[4, 16])]),
            of(1, vec![data(DType::I64, &[2, 3, 5]), data(DType::I64, &[2, 1, 5])]),
            of(1, vec![data(DType::Bool, &[2, 3]), data(DType::Bool, &[2, 2])]),
            of(1, vec![data(DType::I4, &[3, 3]), data(DType::I4, &[3, 2])]),
            of(0, vec![data(DType::F8E5M2, &[3]), data(DType::F8E5M2, &[2])]),
            of(0, vec![ints(&[1, 2]), data(DType::I64, &[3])]),
            of(2, vec![data(DType::F16, &[1, 2, 3, 4])]),
        ]
    },
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let first = cx.input(0)?;
    let at = axis(cx.attrs.int("axis").unwrap_or(0), first.rank())?;
    let mut shape = first.shape.clone();
    for i in 1..cx.inputs.len() {
        let ty = cx.input(i)?;
        if ty.dtype != first.dtype || ty.rank() != first.rank() {
            return Err(OpError::new(format!("input {i} is {ty}, input 0 is {first}: types and ranks must be the same")));
        }
        for (d, (all, own)) in shape.iter_mut().zip(&ty.shape).enumerate() {
            if d == at {
                *all = all.add(own);
                continue;
            }
            match (all.as_const(), own.as_const()) {
                (Some(a), Some(b)) if a != b => {
                    return Err(OpError::new(format!("input {i} is {ty}, input 0 is {first}: they differ in dimension {d}")));
                }
                // A known extent says more than a name.
                (None, Some(b)) => *all = Dim::Const(b),
                _ => {}
            }
        }
    }
    Ok(vec![TensorType::new(first.dtype, shape)])
}

fn dims(cx: &InferCx) -> Option<Vec<Dim>> {
    if cx.opt(0)?.rank() != 1 {
        return None;
    }
    let parts: Option<Vec<Vec<Dim>>> = (0..cx.inputs.len()).map(|i| cx.as_sizes(i)).collect();
    Some(parts?.concat())
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let shape = cx.out_shape(0);
    let at = axis(cx.attrs.int("axis").unwrap_or(0), shape.len())?;
    let outer: u64 = shape[..at].iter().product();
    let mut out = Picker::new(cx.input(0).dtype());
    for o in 0..outer {
        for i in 0..cx.inputs.len() {
            let part = cx.input(i);
            let run: u64 = part.shape()[at..].iter().product();
            (o * run..(o + 1) * run).for_each(|e| out.pick(part, e as usize));
        }
    }
    Ok(vec![out.finish(&shape)])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let y = cx.output(0);
    nest::movable(y.dtype)?;
    let at = axis(cx.attrs.int("axis").unwrap_or(0), y.view.shape.len())?;
    let mut start = vec![0i64; y.view.shape.len()];
    // Where parts begin behind open ones.
    let mut behind: Option<Expr> = None;
    for i in 0..cx.inputs.len() {
        let x = cx.input(i);
        let (dims, all) = (x.view.dims(), y.view.dims());
        if let Some(d) = (0..dims.len()).find(|d| *d != at && dims[*d] != all[*d]) {
            return Err(OpError::new(format!("input {i} has {} elements along dimension {d}, others {}", dims[d], all[d])));
        }
        if let Some(first) = &behind {
            copy_behind(cx, (&x, &y), at, first);
        } else {
            let mut to = nest::part(&y, &start, &x.view.shape);
            to.view = to.view.with_open(x.view.open.clone());
            if !(cx.in_place[i] && x.view == to.view) {
                cx.copy(&x, &to);
            }
        }
        if behind.is_some() || x.view.open(at).is_some() {
            let length = cx.count(&x.view.extent(at));
            let first = behind.take().unwrap_or(Expr::Int(start[at]));
            behind = Some(Expr::Var(cx.let_(first.add(length))));
        }
        start[at] += x.view.shape[at] as i64;
    }
    Ok(())
}

/// Copies x to y from `first` along dimension `at` on.
fn copy_behind(cx: &mut LowerCx, (x, y): (&Arg, &Arg), at: usize, first: &Expr) {
    cx.for_each(&x.view, &y.view.strides.clone(), |cx, place| {
        let value = cx.load(x, place);
        let mut to = place.to_vec();
        to[at] = to[at].clone().add(first.clone());
        cx.store(y, &to, value);
    });
}
