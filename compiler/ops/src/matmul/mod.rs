//! Products of matrices.

mod gemm;
#[expect(clippy::module_inception, reason = "the operator has the family's name")]
mod matmul;
pub(crate) mod product;
pub(crate) mod shapes;

pub(crate) use gemm::GEMM;
pub(crate) use matmul::MATMUL;
