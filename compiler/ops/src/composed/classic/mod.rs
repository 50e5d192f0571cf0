//! ai.onnx.ml: models and preparations of classical machine learning as tensor operators, as ONNX Runtime computes them.

pub(crate) mod linear;
pub(crate) mod prepare;
pub(crate) mod scores;
pub(crate) mod svm;
pub(crate) mod trees;

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{DType, Tensor, ValueId};

use super::Build;

/// An operator of ai.onnx.ml.
const fn import(name: &'static str, build: fn(&mut dyn ImportCx) -> OpResult<Vec<ValueId>>) -> Import {
    Import { domain: "ai.onnx.ml", name, opsets: (1, NEWEST), build }
}

/// Operand 0 as rows of f32; one row may come without its dimension.
fn rows(cx: &mut dyn ImportCx) -> OpResult<ValueId> {
    let (x, ty) = (cx.input(0)?, cx.ty(0)?);
    if !matches!(ty.dtype, DType::F32 | DType::F64 | DType::I32 | DType::I64) || !(1..=2).contains(&ty.rank()) {
        return Err(OpError::new(format!("x is {ty}: rows of f32, f64, i32 or i64 are needed")));
    }
    let mut b = Build(cx);
    let x = b.cast(x, DType::F32)?;
    if ty.rank() == 1 { b.unsqueeze(x, &[0]) } else { Ok(x) }
}

/// The known number of features of rows.
fn features(b: &Build, x: ValueId) -> OpResult<u64> {
    let ty = b.ty(x);
    ty.shape.last().and_then(|d| d.as_const()).ok_or_else(|| {
        OpError::new(format!("x is {ty}: the number of features must be known")).help("fix it with --dim or --shape")
    })
}

/// A list of floats as a constant of this shape.
fn table(b: &mut Build, shape: &[u64], values: &[f32]) -> OpResult<ValueId> {
    let n = onnxc_ir::tensor::element_count(shape);
    if n != Some(values.len() as u64) {
        return Err(OpError::new(format!("a list of {} numbers does not have the shape {shape:?}", values.len())));
    }
    Ok(b.0.constant(Tensor::from_vec(shape, values.to_vec())))
}

/// An attribute that is a list of floats.
fn floats(cx: &dyn ImportCx, name: &str) -> Vec<f32> {
    cx.attrs().floats(name).unwrap_or_default().to_vec()
}
