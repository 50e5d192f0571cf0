//! `one_hot`: for each index a vector along attribute `axis` (a new dimension, the last by default) with one value at the index and another
//! elsewhere. Operands indices, depth (known when compiling), values (off, on). Indices out of range give off everywhere.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType};

use crate::at_run_time::{self, or_declared};
use crate::common::axes::{axis, unknown};
use crate::common::elements::{Picker, for_coords, offset, scalars, strides};
use crate::common::nest::{self, ExprExt, dense_last, origin, over, select};
use crate::common::sample::{data, data_in, int, int_attrs, plain, sample};

/// `one_hot`
pub(crate) static ONE_HOT: OpDef = OpDef {
    name: "one_hot",
    onnx: &[
        Import {
            domain: "",
            name: "OneHot",
            opsets: (9, NEWEST),
            build: |cx| or_declared(cx, |cx| cx.forward("one_hot"), at_run_time::one_hot),
        },
        crate::composed::classic::prepare::ONE_HOT_ENCODER,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn depth(cx: &InferCx) -> OpResult<Dim> {
    let Some(tensor) = cx.constant(1) else {
        return cx.as_dims(1).and_then(|d| d.first().cloned()).ok_or_else(|| unknown("the depth"));
    };
    match scalars(tensor)?[..] {
        [n] => match n.cast(DType::I64) {
            Scalar::Int(n) if (1..1 << 40).contains(&n) => Ok(Dim::Const(n as u64)),
            _ => Err(OpError::new("the depth is not positive")),
        },
        _ => Err(OpError::new("the depth must be one number")),
    }
}

fn new_axis(attrs: &Attrs, rank: usize) -> OpResult<usize> {
    axis(attrs.int("axis").unwrap_or(-1), rank)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (index, values) = (cx.input(0)?, cx.input(2)?);
    let real = matches!(index.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    if !(real || index.dtype.is_int() && index.dtype.bits() >= 8) {
        return Err(OpError::new(format!("indices must be numbers, they are {index}")));
    }
    if values.rank() != 1 || values.shape[0].as_const().is_some_and(|n| n != 2) {
        return Err(OpError::new(format!("the values must be two, off and on; they are {values}")));
    }
    let mut shape = index.shape.clone();
    shape.insert(new_axis(cx.attrs, index.rank() + 1)?, depth(cx)?);
    Ok(vec![TensorType::new(values.dtype, shape)])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (shape, values) = (cx.out_shape(0), cx.input(2));
    let at = new_axis(cx.attrs, shape.len())?;
    let dense = strides(cx.input(0).shape());
    let index: Vec<i128> = scalars(cx.input(0))?.into_iter().map(|i| i.cast(DType::I64).int()).collect();
    let n = i128::from(shape[at]);
    let mut out = Picker::new(values.dtype());
    for_coords(&shape, |coord| {
        let from = [&coord[..at], &coord[at + 1..]].concat();
        let i = index[offset(&from, &dense)];
        let i = if i < 0 { i + n } else { i };
        out.pick(values, usize::from(i == coord[at] as i128));
    });
    Ok(vec![out.finish(&shape)])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (index, values, y) = (cx.input(0), cx.input(2), cx.output(0));
    nest::movable(y.dtype)?;
    let shape = y.view.extents();
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let at = new_axis(cx.attrs, shape.len())?;
    let n = cx.count(&shape[at]);
    let [off, on] = [0, 1].map(|i| cx.load(&values, &[Expr::Int(i)]));
    nest::fill(cx, &y, &off);
    let dims = dense_last((0..shape.len()).filter(|d| *d != at), &y.view);
    over(cx, &shape, &dims, (LoopKind::Serial, LoopKind::Serial), &mut origin(shape.len()), &mut |cx, coord| {
        let from = [&coord[..at], &coord[at + 1..]].concat();
        let raw = Expr::Var(cx.let_(cx.load(&index, &from).cast_from(index.dtype, DType::I64)));
        let negative = Expr::bin(BinOp::Lt, raw.clone(), Expr::Int(0));
        let i = Expr::Var(cx.let_(select(negative, raw.clone().add(n.clone()), raw)));
        let inside =
            Expr::bin(BinOp::And, Expr::bin(BinOp::Ge, i.clone(), Expr::Int(0)), Expr::bin(BinOp::Lt, i.clone(), n.clone()));
        let mut to = coord.clone();
        to[at] = i;
        cx.if_(inside, |cx| cx.store(&y, &to, on.clone()), |_| ());
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let index = |shape: &[u64], n: f64| data_in(DType::I64, shape, -n, n);
    let pair = |off: f32, on: f32| Some(SampleInput::Const(Tensor::from_vec(&[2], vec![off, on])));
    let on = |axis: i64| int_attrs(&[("axis", axis)]);
    vec![
        plain(vec![index(&[5], 12.0), int(10), pair(0.0, 1.0)]),
        sample(on(0), vec![index(&[2, 3], 4.0), int(4), pair(-1.0, 2.0)]),
        sample(on(1), vec![data_in(DType::I32, &[2, 3], -5.0, 5.0), int(7), data(DType::I64, &[2])]),
        sample(on(-2), vec![data_in(DType::F32, &[3, 2], -6.0, 6.0), int(5), data(DType::F16, &[2])]),
        plain(vec![index(&[], 3.0), int(3), data(DType::Bool, &[2])]),
        plain(vec![index(&[3], 3.0), int(3), data(DType::I4, &[2])]),
    ]
}
