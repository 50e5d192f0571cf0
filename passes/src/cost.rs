//! What an operator costs on a target, for extraction: a roofline of arithmetic and memory traffic plus a price per kernel.

use onnxc_egraph::{CostModel, Operand};
use onnxc_ir::op::OpDef;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Attrs, TensorType};

/// The analytical model. Unit: nanoseconds of one core, roughly.
pub struct TargetCost {
    /// f32 multiply-adds per nanosecond.
    macs_per_ns: f64,
    /// Bytes per nanosecond between core and second-level cache.
    bytes_per_ns: f64,
}

impl TargetCost {
    /// The model for a target: two fused multiply-adds per cycle at a nominal 3 GHz.
    pub fn new(target: &TargetDesc) -> TargetCost {
        TargetCost { macs_per_ns: 3.0 * 2.0 * f64::from(target.lanes), bytes_per_ns: 16.0 }
    }
}

/// Time to start a kernel.
const START_NS: f64 = 200.0;

impl CostModel for TargetCost {
    fn cost(&self, op: &OpDef, attrs: &Attrs, inputs: &[Option<Operand>], outputs: &[TensorType]) -> f64 {
        if op.lower.view().is_some() {
            // Most views move nothing; the price only says that none is better than one, and that narrower elements are, should they be moved.
            return 1.0 + 0.001 * outputs.first().map_or(0.0, |ty| ty.dtype.bytes() as f64);
        }
        let operands = inputs.iter().flatten();
        let bytes: f64 = operands.map(|o| bytes(o.ty)).chain(outputs.iter().map(bytes)).sum();
        let macs = macs(op.name, inputs, outputs) / products_at_once(inputs);
        let program = attrs.program("program").or(attrs.program("epilogue"));
        let scalar_ops = program.map_or(1.0, |p| p.nodes.len() as f64) * outputs.iter().map(elements).sum::<f64>();
        // The elementwise form of a normalisation joins its neighbours, which only the next phase can see.
        let passes = if op.name == "batch_normalization" { 4.0 } else { 1.0 };
        START_NS + passes * (bytes / self.bytes_per_ns).max((macs + scalar_ops / 4.0) / self.macs_per_ns)
    }
}

/// Multiply-adds of bytes and words take half the time of those of floats on machines without dot products, and less on the others.
fn products_at_once(inputs: &[Option<Operand>]) -> f64 {
    let integers = inputs.first().copied().flatten().is_some_and(|x| x.ty.dtype.is_int() && x.ty.dtype.bits() <= 16);
    if integers { 2.0 } else { 1.0 }
}

/// Multiply-adds of the operators that are more than a pass over memory.
fn macs(op: &str, inputs: &[Option<Operand>], outputs: &[TensorType]) -> f64 {
    let input = |i: usize| inputs.get(i).copied().flatten();
    let out: f64 = outputs.first().map_or(0.0, elements);
    match op {
        "conv" | "conv_integer" => input(1).map_or(0.0, |w| out * elements(w.ty) / extent(w.ty, 0)),
        "qlinear_conv" => input(3).map_or(0.0, |w| out * elements(w.ty) / extent(w.ty, 0)),
        "conv_transpose" => input(1).zip(input(0)).map_or(0.0, |(w, x)| elements(x.ty) * elements(w.ty) / extent(w.ty, 0)),
        "matmul" | "gemm" | "matmul_integer" | "qlinear_matmul" => {
            input(0).map_or(0.0, |a| out * extent(a.ty, a.ty.rank().saturating_sub(1)))
        }
        _ => 0.0,
    }
}

/// Dynamic extents count as 64: enough to rank alternatives.
fn extent(ty: &TensorType, d: usize) -> f64 {
    ty.shape.get(d).map_or(1.0, |n| n.as_const().unwrap_or(64).max(1) as f64)
}

fn elements(ty: &TensorType) -> f64 {
    (0..ty.rank()).map(|d| extent(ty, d)).product()
}

fn bytes(ty: &TensorType) -> f64 {
    elements(ty) * ty.dtype.bytes() as f64
}
