//! `lookup`: a table of 256 entries read at every element of 8-bit integers, in the order of the elements' values (an `i8` of -128 reads entry 0).
//!
//! Passes make it of functions between a dequantisation and a quantisation: all their values are known when compiling. ONNX has no such operator.

use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType};

use super::conv_integer::byte_data;
use super::params::check_byte;
use crate::common::elements::{from_scalars, scalars};
use crate::common::nest::{self, ExprExt};
use crate::common::sample;

pub(crate) static LOOKUP: OpDef = OpDef {
    name: "lookup",
    onnx: &[],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

const ENTRIES: u64 = 256;

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, table) = (cx.input(0)?, cx.input(1)?);
    check_byte(x.dtype, "an index")?;
    check_byte(table.dtype, "a table")?;
    if table.shape != [Dim::Const(ENTRIES)] {
        return Err(OpError::new(format!("a table of type {table} must have {ENTRIES} entries")));
    }
    Ok(vec![TensorType::new(table.dtype, x.shape.clone())])
}

/// The value that reads entry 0.
fn first(dtype: DType) -> i128 {
    dtype.int_range().map_or(0, |(low, _)| low)
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, table) = (cx.input(0), scalars(cx.input(1))?);
    let first = first(x.dtype());
    let y: Vec<_> = scalars(x)?.into_iter().map(|v| table[(v.int() - first) as usize]).collect();
    Ok(vec![from_scalars(cx.outputs[0].dtype, x.shape(), y)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, table, y) = (cx.input(0), cx.input(1), cx.output(0));
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let first = first(x.dtype) as i64;
    cx.for_each(&y.view, &y.view.strides.clone(), |cx, at| {
        let entry = cx.load(&x, at).cast_from(x.dtype, DType::I64).add(Expr::Int(-first));
        let index = Expr::Int(table.view.offset).add(entry.times(table.view.strides[0]));
        cx.store(&y, at, nest::at(table.buf, index));
    });
    Ok(())
}

fn samples() -> Vec<Sample> {
    let case = |x: DType, shape: &[u64], table: Tensor| {
        sample::sample(Attrs::default(), vec![byte_data(x, shape), Some(SampleInput::Const(table))])
    };
    let bytes = || Tensor::from_vec(&[256], (0..=255u8).map(|i| i.wrapping_mul(77)).collect());
    let signed = || Tensor::from_vec(&[256], (0..=255u8).map(|i| i.wrapping_mul(91) as i8).collect());
    vec![
        case(DType::U8, &[2, 3, 17], bytes()),
        case(DType::I8, &[70], signed()),
        case(DType::U8, &[5, 1], signed()),
        case(DType::I8, &[0, 4], bytes()),
    ]
}
