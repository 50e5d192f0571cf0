//! Operators whose result has as many elements as its operand has of a kind: `non_zero`, and ONNX `Compress`, which becomes `gather`.
//!
//! Extents are known when compiling here, so the operand that decides on them must be a constant.

use onnxc_ir::lower::Arg;
use onnxc_ir::op::{Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, SampleInput, Tolerance, View};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId};

use crate::at_run_time::{self, or_counted};
use crate::common::axes::unknown;
use crate::common::elements::{for_coords, scalars};
use crate::common::import::ints;
use crate::common::nest;
use crate::common::sample::{const_f32s, plain};

/// `non_zero`: coordinates of the elements that are not zero, one column each.
pub(crate) static NON_ZERO: OpDef = OpDef {
    name: "non_zero",
    onnx: &[Import {
        domain: "",
        name: "NonZero",
        opsets: (9, NEWEST),
        build: |cx| or_counted(cx, |cx| cx.forward("non_zero"), at_run_time::non_zero),
    }],
    infer: |cx: &InferCx| {
        cx.input(0)?;
        let x = cx.constant(0).ok_or_else(|| unknown("the data"))?;
        Ok(vec![TensorType::fixed(DType::I64, non_zero(x)?.shape())])
    },
    infer_dims: None,
    eval: |cx| Ok(vec![non_zero(cx.input(0))?]),
    lower: Lower::Nest(|cx| {
        let (x, y) = (cx.input(0), cx.output(0));
        let found = non_zero(x.constant.as_ref().ok_or_else(|| unknown("the data"))?)?;
        let buf = cx.const_buf(DType::I64, found.bytes().to_vec());
        let from = Arg { buf, dtype: DType::I64, view: View::contiguous(found.shape()), constant: None };
        nest::copy(cx, &from, &y);
        Ok(())
    }),
    tolerance: Tolerance::EXACT,
    samples: || {
        let of = |shape: &[u64], values: Vec<f32>| plain(vec![Some(SampleInput::Const(Tensor::from_vec(shape, values)))]);
        vec![
            of(&[2, 3], vec![0.0, 1.5, -0.0, 2.0, 0.0, f32::NAN]),
            of(&[4], vec![0.0; 4]),
            of(&[], vec![3.0]),
            plain(vec![const_f32s(&[2, 3, 5])]),
        ]
    },
};

/// Coordinates by column, in row-major order. A scalar counts as a vector of one element.
fn non_zero(x: &Tensor) -> OpResult<Tensor> {
    let truth: Vec<bool> = scalars(x)?.into_iter().map(|v| v.truth()).collect();
    let shape = if x.shape().is_empty() { &[1][..] } else { x.shape() };
    let count = truth.iter().filter(|t| **t).count();
    let mut found = vec![0i64; shape.len() * count];
    let (mut element, mut column) = (0, 0);
    for_coords(shape, |at| {
        if truth[element] {
            at.iter().enumerate().for_each(|(d, i)| found[d * count + column] = *i as i64);
            column += 1;
        }
        element += 1;
    });
    Ok(Tensor::from_vec(&[shape.len() as u64, count as u64], found))
}

/// ONNX `Compress`: the slices along attribute `axis` (the elements of all dimensions without it) for which a constant condition holds.
pub(super) fn compress(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, axis) = (cx.input(0)?, cx.attrs().int("axis"));
    cx.input(1)?;
    let condition = cx.const_input(1).ok_or_else(|| unknown("the condition"))?;
    if condition.dtype() != DType::Bool || condition.shape().len() != 1 {
        return Err(OpError::new("the condition must be a vector of bool"));
    }
    let taken: Vec<i64> = (0..).zip(condition.bytes()).filter(|(_, b)| **b != 0).map(|(i, _)| i).collect();
    let index = ints(cx, &taken);
    let from = match axis {
        Some(_) => x,
        None => {
            let flat = ints(cx, &[-1]);
            cx.node1("reshape", &[x, flat], Attrs::default())?
        }
    };
    let attrs = Attrs::default().with("axis", Attr::Int(axis.unwrap_or(0)));
    Ok(vec![cx.node1("gather", &[from, index], attrs)?])
}
