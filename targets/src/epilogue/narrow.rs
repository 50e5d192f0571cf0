//! Bytes at the end of an epilogue: several vectors become one by packs that saturate, so that the bounds of the type take no operation of their own.

use onnxc_ir::DType;
use onnxc_ir::kernel::Values;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram, UnOp};

use crate::limits::limits;

/// Vectors that are packed together.
pub(crate) const TOGETHER: usize = 4;

/// A zero point, with room in 16 bits.
const MOST_MOVED: i64 = 1 << 12;

/// Integers within this are added and packed without loss by way of 16 bits that saturate, and rounded from floats by one conversion.
const FAR: f64 = 4_194_304.0;

/// A program that ends in bytes of type `dtype` without its last steps, and what is to be added to its integers before they saturate in that type.
/// The same program and 0 where its last steps are others.
pub(crate) fn without_bounds(program: &ScalarProgram, dtype: DType, values: &[Values]) -> (ScalarProgram, i32) {
    shortened(program, dtype, values).unwrap_or_else(|| (program.clone(), 0))
}

fn shortened(program: &ScalarProgram, dtype: DType, values: &[Values]) -> Option<(ScalarProgram, i32)> {
    let op = |n: NodeIx| program.nodes[n as usize].op;
    let (least, most) = dtype.int_range().map(|(low, high)| (low as i64 as f64, high as i64 as f64))?;
    let limits = limits(program, values);
    let ScalarOp::Cast(sum) = op(program.result()) else { return None };
    // What wraps is not what saturates.
    let inside = |n: NodeIx| limits[n as usize].0 >= least && limits[n as usize].1 <= most;
    if program.dtype(sum) != DType::I32 || !inside(sum) {
        return None;
    }
    let (whole, moved) = moved(program, sum);
    let ScalarOp::Cast(rounded) = op(whole) else { return None };
    let ScalarOp::Un(UnOp::Round, bounded) = op(rounded) else { return None };
    if program.dtype(bounded) != DType::F32 || moved.abs() > MOST_MOVED {
        return None;
    }
    let x = unbounded(program, bounded, (least - moved as f64, most - moved as f64));
    let (low, high) = limits[x as usize];
    if !(low >= -FAR && high <= FAR) {
        return None;
    }
    let mut out = program.finish(x);
    let rounded = out.un(UnOp::Round, out.result());
    let whole = out.cast(rounded, DType::I32);
    Some((out.finish(whole), moved as i32))
}

/// The integer that a sum is moved from by a constant.
fn moved(program: &ScalarProgram, sum: NodeIx) -> (NodeIx, i64) {
    let op = |n: NodeIx| program.nodes[n as usize].op;
    let ScalarOp::Bin(BinOp::Add, a, b) = op(sum) else { return (sum, 0) };
    match (op(a), op(b)) {
        (_, ScalarOp::Const(bits)) => (a, bits as i64),
        (ScalarOp::Const(bits), _) => (b, bits as i64),
        _ => (sum, 0),
    }
}

/// What a node is without bounds that are no tighter than these.
fn unbounded(program: &ScalarProgram, mut n: NodeIx, (low, high): (f64, f64)) -> NodeIx {
    let op = |n: NodeIx| program.nodes[n as usize].op;
    loop {
        let (bound, a, b) = match op(n) {
            ScalarOp::Bin(bound @ (BinOp::Min | BinOp::Max), a, b) => (bound, a, b),
            _ => return n,
        };
        let (x, limit) = match (op(a), op(b)) {
            (_, ScalarOp::Const(bits)) => (a, f64::from_bits(bits)),
            (ScalarOp::Const(bits), _) => (b, f64::from_bits(bits)),
            _ => return n,
        };
        let loose = if bound == BinOp::Min { limit >= high } else { limit <= low };
        if !loose {
            return n;
        }
        n = x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `u8(i32(round(max(min(f32(a0) * a1, high), low))) + zero)`
    fn requantised(low: f64, high: f64, zero: i64) -> ScalarProgram {
        let mut p = ScalarProgram::default();
        let (sum, scale) = (p.arg(0, DType::I32), p.arg(1, DType::F32));
        let sum = p.cast(sum, DType::F32);
        let x = p.bin(BinOp::Mul, sum, scale);
        let (low, high) = (p.float(low, DType::F32), p.float(high, DType::F32));
        let x = p.bin(BinOp::Min, x, high);
        let x = p.bin(BinOp::Max, x, low);
        let x = p.un(UnOp::Round, x);
        let whole = p.cast(x, DType::I32);
        let zero = p.int(zero, DType::I32);
        let moved = p.bin(BinOp::Add, whole, zero);
        let byte = p.cast(moved, DType::U8);
        p.finish(byte)
    }

    #[test]
    fn bounds_of_the_type_are_left_to_the_store() {
        let p = requantised(-100.0, 155.0, 100);
        let scale = [Values::Any, Values::Scale(16)];
        let (short, moved) = without_bounds(&p, DType::U8, &scale);
        assert_eq!(
            (short.to_string().as_str(), moved),
            ("i32 a0; f32 a1; f32 cast %0; f32 mul %2 %1; f32 round %3; i32 cast %4", 100)
        );
        assert_eq!(without_bounds(&p, DType::U8, &[Values::Any, Values::Finite]), (p, 0), "sums may be large");
    }

    #[test]
    fn tighter_bounds_stay() {
        let scale = [Values::Any, Values::Scale(16)];
        let (short, moved) = without_bounds(&requantised(0.0, 155.0, 100), DType::U8, &scale);
        assert!(moved == 100 && short.to_string().ends_with("f32 max %6 %4; f32 round %7; i32 cast %8"), "{short}");
        let wraps = requantised(-101.0, 155.0, 100);
        assert_eq!(without_bounds(&wraps, DType::U8, &scale), (wraps, 0));
    }
}
