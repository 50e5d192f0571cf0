//! Epilogues: the scalar program that a kernel applies to its raw result, with further operands broadcast to it.

use onnxc_ir::op::{EvalCx, OpError, OpResult};
use onnxc_ir::scalar::{ScalarOp, ScalarProgram};
use onnxc_ir::{Attrs, DType, Tensor, scalar_eval};

/// Type of the result behind the epilogue, if there is one.
pub(crate) fn result_dtype(attrs: &Attrs, raw: DType) -> DType {
    attrs.program("epilogue").map_or(raw, |p| p.dtype(p.result()))
}

/// The epilogue, or the identity on `raw`.
pub(crate) fn program(attrs: &Attrs, raw: DType) -> ScalarProgram {
    attrs.program("epilogue").cloned().unwrap_or_else(|| {
        let mut identity = ScalarProgram::default();
        identity.arg(0, raw);
        identity
    })
}

/// The program over what `first` makes of new arguments: its own argument 0 is that, and the others are `shift` places further.
pub(crate) fn behind(program: &ScalarProgram, shift: u8, first: impl FnOnce(&mut ScalarProgram) -> u16) -> ScalarProgram {
    let mut out = ScalarProgram::default();
    let first = first(&mut out);
    let mut map: Vec<u16> = Vec::new();
    for node in &program.nodes {
        let new = match node.op {
            ScalarOp::Arg(0) => first,
            ScalarOp::Arg(n) => out.push(ScalarOp::Arg(n + shift), node.dtype),
            op => out.push(op.map_operands(|o| map[o as usize]), node.dtype),
        };
        map.push(new);
    }
    let result = map.last().copied().unwrap_or(first);
    out.finish(result)
}

/// Applies the epilogue of a node with `own` operands of its own to its raw result.
pub(crate) fn apply(cx: &EvalCx, raw: Tensor, own: usize) -> OpResult<Tensor> {
    let Some(program) = cx.attrs.program("epilogue") else { return Ok(raw) };
    let mut operands = vec![&raw];
    operands.extend(cx.inputs.iter().skip(own).flatten().copied());
    scalar_eval::run_tensors(program, &operands, raw.shape())
        .ok_or_else(|| OpError::new("an operand of the epilogue does not broadcast to the result"))
}
