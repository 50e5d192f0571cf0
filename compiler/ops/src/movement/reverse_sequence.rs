//! `reverse_sequence`: the first elements of each sequence in reverse order, as many as operand 1 says (i64, one for each sequence). Attributes
//! `time_axis` (0) and `batch_axis` (1): dimensions 0 and 1 in some order.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attrs, DType, Tensor, TensorType};

use super::{index_values, require_index};
use crate::common::elements::{Picker, for_coords, offset, strides};
use crate::common::nest::{self, ExprExt, dense_last, origin, over, rows, select};
use crate::common::sample::{data, data_in, f32s, int_attrs, ints, plain, sample};

/// `reverse_sequence`
pub(crate) static REVERSE_SEQUENCE: OpDef = OpDef {
    name: "reverse_sequence",
    onnx: &[Import { domain: "", name: "ReverseSequence", opsets: (10, NEWEST), build: |cx| cx.forward("reverse_sequence") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

/// The dimensions of time and of sequences.
fn axes(attrs: &Attrs) -> OpResult<(usize, usize)> {
    match (attrs.int("time_axis").unwrap_or(0), attrs.int("batch_axis").unwrap_or(1)) {
        (0, 1) => Ok((0, 1)),
        (1, 0) => Ok((1, 0)),
        (t, b) => Err(OpError::new(format!("time_axis {t} and batch_axis {b} must be 0 and 1 in some order"))),
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, lengths) = (cx.input(0)?, cx.input(1)?);
    let (time, batch) = axes(cx.attrs)?;
    require_index(lengths)?;
    let fits = x.rank() >= 2 && lengths.rank() == 1;
    let differs = |a: Option<u64>, b: Option<u64>| a.zip(b).is_some_and(|(a, b)| a != b);
    if !fits || differs(x.shape[batch].as_const(), lengths.shape[0].as_const()) {
        return Err(OpError::new(format!("lengths {lengths} do not fit data {x}")));
    }
    if let (Some(lengths), Some(n)) = (cx.constant(1), x.shape[time].as_const())
        && let Some(l) = index_values(lengths)?.iter().find(|l| !(0..=n as i64).contains(*l))
    {
        return Err(OpError::new(format!("a length of {l} is outside of a dimension of {n} elements")));
    }
    Ok(vec![x.clone()])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let (time, batch) = axes(cx.attrs)?;
    let (dense, lengths) = (strides(&shape), index_values(cx.input(1))?);
    let mut out = Picker::new(x.dtype());
    for_coords(&shape, |at| {
        let mut from = at.to_vec();
        let n = lengths[at[batch]] as usize;
        if at[time] < n {
            from[time] = n - 1 - at[time];
        }
        out.pick(x, offset(&from, &dense));
    });
    Ok(vec![out.finish(&shape)])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, lengths, y) = (cx.input(0), cx.input(1), cx.output(0));
    nest::movable(y.dtype)?;
    let shape = y.view.extents();
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let (time, batch) = axes(cx.attrs)?;
    nest::equal_extents(1, &lengths.view.dims(), &[shape[batch].dim()])?;
    let steps = cx.count(&shape[time]);
    let (outside, inside) = (dense_last(0..2, &y.view), dense_last(2..shape.len(), &y.view));
    rows(cx, &shape, &outside, nest::most_elements(&shape), &mut origin(shape.len()), &mut |cx, at| {
        let n = cx.load(&lengths, &at[batch..=batch]).cast_from(lengths.dtype, DType::I64);
        // Lengths of run time may be anything; none may lead out of the data.
        let n = Expr::Var(cx.let_(Expr::bin(BinOp::Min, n, steps.clone())));
        let back = n.clone().minus(Expr::Int(1)).minus(at[time].clone());
        let reversed = Expr::bin(BinOp::Lt, at[time].clone(), n);
        let from = Expr::Var(cx.let_(select(reversed, back, at[time].clone())));
        over(cx, &shape, &inside, (LoopKind::Serial, LoopKind::Vector), at, &mut |cx, at| {
            let mut source = at.clone();
            source[time] = from.clone();
            let value = cx.load(&x, &source);
            cx.store(&y, at, value);
        });
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let by_batch = int_attrs(&[("time_axis", 1), ("batch_axis", 0)]);
    vec![
        plain(vec![f32s(&[4, 3]), data_in(DType::I64, &[3], 0.0, 5.0)]),
        sample(by_batch.clone(), vec![f32s(&[3, 5, 17]), data_in(DType::I64, &[3], 0.0, 6.0)]),
        sample(by_batch, vec![data(DType::I64, &[2, 4]), ints(&[4, 1])]),
        plain(vec![data(DType::F16, &[1, 2, 3]), ints(&[1, 0])]),
        plain(vec![data(DType::F4E2M1, &[3, 2, 3]), ints(&[3, 2])]),
    ]
}
