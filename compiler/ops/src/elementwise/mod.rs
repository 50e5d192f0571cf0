//! Elementwise operators: one scalar program per result element, operands broadcast together.
//!
//! Inference and code come from the program; `eval` runs it too where it is a single operation, and has a formula of its own in f64 where it is a
//! composition, so that a mistake in the program shows.

mod activation;
mod binary;
mod cast;
mod clip;
mod logic;
mod map;
mod unary;
mod variadic;

pub(crate) use activation::*;
pub(crate) use binary::*;
pub(crate) use cast::CAST;
pub(crate) use clip::CLIP;
pub(crate) use logic::*;
pub(crate) use map::MAP;
pub(crate) use unary::*;
pub(crate) use variadic::*;

use onnxc_ir::op::{EvalCx, InferCx, OpError, OpResult};
use onnxc_ir::scalar::{NodeIx, ScalarProgram};
use onnxc_ir::scalar_eval::{Scalar, Writer, broadcast_strides, run_tensors};
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType};

use crate::common::broadcast::infer_broadcast;
use crate::common::elements::{for_coords, not_numeric, offset};
use crate::common::nest::compute_type;

/// What makes a program from attributes and operand types.
pub(crate) type ProgramFn = fn(&Attrs, &[DType]) -> OpResult<ScalarProgram>;

/// An elementwise operator's record.
macro_rules! elementwise {
    ($id:ident, $name:literal, [$($import:expr),* $(,)?], $program:expr, eval: $eval:expr, dims: $dims:expr, $tolerance:expr, $samples:expr) => {
        #[doc = concat!("`", $name, "`")]
        pub(crate) static $id: onnxc_ir::op::OpDef = onnxc_ir::op::OpDef {
            name: $name,
            onnx: &[$($import),*],
            infer: |cx| $crate::elementwise::infer(cx, $program),
            infer_dims: $dims,
            eval: $eval,
            lower: onnxc_ir::op::Lower::Elementwise($program),
            tolerance: $tolerance,
            samples: $samples,
        };
    };
}
pub(crate) use elementwise;

/// An import that takes operands and attributes as they are.
macro_rules! same {
    ($onnx:literal, $since:literal, $name:literal) => {
        onnxc_ir::op::Import { domain: "", name: $onnx, opsets: ($since, onnxc_ir::op::NEWEST), build: |cx| cx.forward($name) }
    };
}
pub(crate) use same;

/// An import of opset 6 and older, where operands were broadcast by attributes.
macro_rules! by_axis {
    ($onnx:literal, $name:literal) => {
        onnxc_ir::op::Import {
            domain: "",
            name: $onnx,
            opsets: (1, 6),
            build: |cx| $crate::common::import::broadcast_by_axis(cx, $name),
        }
    };
}
pub(crate) use by_axis;

/// Result type: operands broadcast together, element type of the program's result.
pub(crate) fn infer(cx: &InferCx, program: ProgramFn) -> OpResult<Vec<TensorType>> {
    let dtypes = (0..cx.inputs.len()).map(|i| cx.input(i).map(|t| t.dtype)).collect::<OpResult<Vec<_>>>()?;
    let program = program(cx.attrs, &dtypes)?;
    let ty = infer_broadcast(cx)?;
    Ok(vec![TensorType::new(program.dtype(program.result()), ty.shape)])
}

/// Runs the program on every element.
pub(crate) fn eval(cx: &EvalCx, program: ProgramFn) -> OpResult<Vec<Tensor>> {
    let inputs: Vec<&Tensor> = cx.inputs.iter().copied().flatten().collect();
    let dtypes: Vec<DType> = inputs.iter().map(|t| t.dtype()).collect();
    let program = program(cx.attrs, &dtypes)?;
    run_tensors(&program, &inputs, &cx.out_shape(0)).map(|t| vec![t]).ok_or_else(|| not_numeric(dtypes[0]))
}

/// Applies a formula in f64 on every element and rounds to the result's type.
pub(crate) fn eval_f64(cx: &EvalCx, formula: impl Fn(&[f64]) -> f64) -> OpResult<Vec<Tensor>> {
    let shape = cx.out_shape(0);
    let inputs: Vec<&Tensor> = cx.inputs.iter().copied().flatten().collect();
    let strides = inputs.iter().map(|t| {
        let strides = broadcast_strides(t.shape(), &shape).expect("internal: inference broadcasts");
        strides.into_iter().map(|s| s as usize).collect::<Vec<_>>()
    });
    let strides: Vec<Vec<usize>> = strides.collect();
    let mut out = Writer::new(cx.outputs[0].dtype);
    let mut bad = None;
    let mut args = Vec::new();
    for_coords(&shape, |at| {
        args.clear();
        for (t, s) in inputs.iter().zip(&strides) {
            let value = Scalar::read(t.dtype(), t.bytes(), offset(at, s));
            bad = bad.or(if value.is_none() { Some(t.dtype()) } else { None });
            args.push(value.map_or(f64::NAN, Scalar::float));
        }
        out.push(Scalar::Float(formula(&args)));
    });
    bad.map_or_else(|| Ok(vec![out.finish(&shape)]), |t| Err(not_numeric(t)))
}

/// A program over float operands of one type, computed in f32 when the type is f16 or bf16.
pub(crate) fn float_program(dtypes: &[DType], body: impl Fn(&mut ScalarProgram, &[NodeIx]) -> NodeIx) -> OpResult<ScalarProgram> {
    match dtypes.iter().find(|t| !is_computable_float(**t)) {
        Some(t) => Err(OpError::new(format!("elements of type {t} are not allowed: floats are needed"))),
        None => numeric_program(dtypes, body),
    }
}

/// The same for floats and integers.
pub(crate) fn numeric_program(
    dtypes: &[DType],
    body: impl Fn(&mut ScalarProgram, &[NodeIx]) -> NodeIx,
) -> OpResult<ScalarProgram> {
    let dtype = *dtypes.first().ok_or_else(|| OpError::new("has no operands"))?;
    if let Some(other) = dtypes.iter().find(|t| **t != dtype) {
        return Err(OpError::new(format!("operands have different types: {dtype} and {other}")).help("insert a Cast"));
    }
    if !is_computable_float(dtype) && !dtype.is_int() {
        return Err(OpError::new(format!("elements of type {dtype} are not allowed: numbers are needed")));
    }
    let mut p = ScalarProgram::default();
    let args: Vec<NodeIx> = (0..dtypes.len())
        .map(|i| {
            let arg = p.arg(i as u8, dtype);
            p.cast(arg, compute_type(dtype))
        })
        .collect();
    let mut result = body(&mut p, &args);
    if p.dtype(result) == compute_type(dtype) {
        result = p.cast(result, dtype);
    }
    Ok(p.finish(result))
}

/// f16, bf16, f32, f64.
pub(crate) fn is_computable_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
}

/// A constant of the type of `like`.
pub(crate) fn like(p: &mut ScalarProgram, node: NodeIx, value: f64) -> NodeIx {
    let dtype = p.dtype(node);
    if dtype.is_float() { p.float(value, dtype) } else { p.int(value as i64, dtype) }
}

/// Combines shape values element by element; `None` when some pair has no dimension as its result.
pub(crate) fn combine_dims(cx: &InferCx, combine: impl Fn(&Dim, &Dim) -> Option<Dim>) -> Option<Vec<Dim>> {
    let (a, b) = (cx.as_dims(0)?, cx.as_dims(1)?);
    // Both constant: `eval` does it, in the arithmetic of the element type.
    if cx.constant(0).is_some() && cx.constant(1).is_some() || cx.input(0).ok()?.rank() > 1 || cx.input(1).ok()?.rank() > 1 {
        return None;
    }
    let n = a.len().max(b.len());
    let fits = |v: &[Dim]| v.len() == n || v.len() == 1;
    if !fits(&a) || !fits(&b) {
        return None;
    }
    let get = |v: &[Dim], i: usize| v[if v.len() == 1 { 0 } else { i }].clone();
    (0..n).map(|i| combine(&get(&a, i), &get(&b, i))).collect()
}
