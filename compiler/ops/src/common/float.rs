//! Element types of operators that compute with floats.

use onnxc_ir::DType;
use onnxc_ir::op::{OpError, OpResult};

/// Refuses element types other than f32, f64, f16 and bf16.
pub(crate) fn check(dtype: DType, what: &str) -> OpResult<()> {
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Ok(()),
        _ => Err(OpError::new(format!("{what} of {dtype} is not supported")).help("use a float type")),
    }
}
