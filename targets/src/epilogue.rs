//! Epilogues in fewer instructions with the same results, bit for bit.
//!
//! Chains of quantised operators go to integers and back, and divide by constants where a multiplication would round otherwise:
//!
//! - integers that are made narrower and wider again, or moved to a zero point and back, are what they were where nothing wraps;
//! - a quotient by a constant that is bounded, rounded and made an integer is a multiplication ([`without_divisions`]);
//! - bytes are stored by instructions that saturate where there are some ([`narrow`]).

pub(crate) mod narrow;

use onnxc_ir::DType;
use onnxc_ir::byte_table::Tabled;
use onnxc_ir::kernel::EpilogueOperand;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram};

use crate::divisions::without_divisions;
use crate::emitter::{Bytes, Emitter, Lanes, Mem, Order, Ty, V};
use crate::error::Error;
use crate::limits::{limits, values_of};

/// An epilogue as a machine computes it.
pub(crate) struct Prepared {
    /// In basic operations.
    pub program: ScalarProgram,
    /// How its integers become bytes; none where elements are stored as they are.
    packed: Option<Bytes>,
}

/// A result: its register, whether that may change, where it goes and how much of it.
pub(crate) type Stored = (V, bool, Mem, Lanes);

/// Prepares an epilogue whose results are of type `dtype`.
pub(crate) fn prepare(program: &ScalarProgram, operands: &[EpilogueOperand], dtype: DType, e: &dyn Emitter) -> Prepared {
    let values = values_of(operands);
    let basic = |program: &ScalarProgram| {
        let program = without_detours(&onnxc_ir::math::expand(program));
        if !e.fuses() {
            return program;
        }
        let (out, at) = without_divisions(&program, &values, &[program.result()]);
        out.finish(at[0])
    };
    if dtype.bytes() > 1 || dtype == DType::Bool || !e.packs() {
        return Prepared { program: basic(program), packed: None };
    }
    let tabled = if e.looks_up() { Tabled::of(program) } else { None };
    let (front, table) = tabled.map_or((program.clone(), None), |t| (t.front, Some(t.table)));
    let dtype = front.dtype(front.result());
    let (program, moved) = narrow::without_bounds(&basic(&front), dtype, &values);
    Prepared { program, packed: Some(Bytes { dtype, moved, table }) }
}

impl Prepared {
    /// Results that are stored together.
    pub fn together(&self) -> usize {
        if self.packed.is_some() { narrow::TOGETHER } else { 1 }
    }

    /// Stores results, no more than [`Prepared::together`] (which are a whole group of columns in another order than the natural one), and gives the registers back that may change.
    pub fn store(&self, e: &mut dyn Emitter, dtype: DType, order: Order, results: &[Stored]) -> Result<(), Error> {
        match &self.packed {
            Some(bytes) => {
                let mut own = Vec::new();
                for (v, may_change, ..) in results {
                    own.push(if *may_change { *v } else { e.alloc(Ty::I32)? });
                    e.copy(Ty::I32, own[own.len() - 1], crate::emitter::Opd::Reg(*v))?;
                }
                let places: Vec<(Mem, Lanes)> = results.iter().map(|(_, _, at, lanes)| (*at, *lanes)).collect();
                e.store_bytes(&own, &places, bytes, order)?;
                own.into_iter().for_each(|v| e.free(v));
            }
            None => {
                for (v, may_change, at, lanes) in results {
                    e.store(*v, dtype, *at, *lanes)?;
                    if *may_change {
                        e.free(*v);
                    }
                }
            }
        }
        Ok(())
    }
}

/// What an integer node is: another node of i32, and a number that is added to it.
type Moved = (NodeIx, i64);

/// Additions of constants and conversions between integers joined.
fn without_detours(program: &ScalarProgram) -> ScalarProgram {
    let mut out = ScalarProgram::default();
    let mut map: Vec<NodeIx> = Vec::with_capacity(program.nodes.len());
    let mut moved: Vec<Option<Moved>> = Vec::with_capacity(program.nodes.len());
    let limits = limits(program, &[]);
    for (n, node) in program.nodes.iter().enumerate() {
        let found = moved_from(program, n as NodeIx, &moved, &limits);
        let at = match found {
            Some((base, 0)) if node.dtype == DType::I32 => map[base as usize],
            Some((base, by)) if node.dtype == DType::I32 => {
                let by = out.int(by, DType::I32);
                out.bin(BinOp::Add, map[base as usize], by)
            }
            _ => out.push(node.op.map_operands(|o| map[o as usize]), node.dtype),
        };
        map.push(at);
        moved.push(found.or((node.dtype == DType::I32).then_some((n as NodeIx, 0))));
    }
    out.finish(*map.last().expect("internal: empty scalar program"))
}

/// The node that node `n` is moved from by integer additions and conversions none of which wraps.
fn moved_from(program: &ScalarProgram, n: NodeIx, moved: &[Option<Moved>], limits: &[(f64, f64)]) -> Option<Moved> {
    let node = program.nodes[n as usize];
    let constant = |n: NodeIx| match program.nodes[n as usize].op {
        ScalarOp::Const(bits) => Some(bits as i64),
        _ => None,
    };
    let (from, by) = match node.op {
        ScalarOp::Bin(BinOp::Add, a, b) if node.dtype == DType::I32 => (a, constant(b)?),
        ScalarOp::Bin(BinOp::Sub, a, b) if node.dtype == DType::I32 => (a, -constant(b)?),
        ScalarOp::Cast(a) if program.dtype(a).is_int() && node.dtype.is_int() => (a, 0),
        _ => return None,
    };
    let (low, high) = limits[from as usize];
    let (least, most) = node.dtype.int_range()?;
    let (base, before) = moved[from as usize]?;
    (low + by as f64 >= least as f64 && high + by as f64 <= most as f64).then_some((base, before + by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::scalar::UnOp;

    #[test]
    fn integers_come_back_from_their_zero_point() {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, DType::F32);
        let (low, high) = (p.float(-132.0, DType::F32), p.float(123.0, DType::F32));
        let x = p.bin(BinOp::Max, x, low);
        let x = p.bin(BinOp::Min, x, high);
        let x = p.un(UnOp::Round, x);
        let whole = p.cast(x, DType::I32);
        let zero = p.int(132, DType::I32);
        let moved = p.bin(BinOp::Add, whole, zero);
        let byte = p.cast(moved, DType::U8);
        let wide = p.cast(byte, DType::I32);
        let back = p.bin(BinOp::Sub, wide, zero);
        let result = p.cast(back, DType::F32);
        let p = p.finish(result);
        let want = "f32 a0; f32 -132.0; f32 123.0; f32 max %0 %1; f32 min %3 %2; f32 round %4; i32 cast %5; f32 cast %6";
        assert_eq!(without_detours(&p).to_string(), want);
    }

    #[test]
    fn what_may_wrap_stays() {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, DType::I32);
        let byte = p.cast(x, DType::U8);
        let back = p.cast(byte, DType::I32);
        let one = p.int(1, DType::I32);
        let more = p.bin(BinOp::Add, back, one);
        let p = p.finish(more);
        assert_eq!(without_detours(&p), p);
    }
}
