//! Bounds at equal distances: `clamp(x + c, 0, 2 * c)` = `c + x'`, where `x'` is x or, if that is nearer to zero, c with its sign. The bits are the same; hard
//! swish is an operation shorter.

use onnxc_ir::DType;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarNode, ScalarOp};

use super::{Args, Eval, Val};
use crate::emitter::{Emitter, Opd, Ty};
use crate::error::Error;
use crate::limits::Known;

/// Such a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Centred {
    pub x: NodeIx,
    /// The bits of c.
    pub c: u32,
    /// The nodes between, which nobody else needs.
    between: [NodeIx; 2],
}

impl Eval<'_> {
    /// What node `n` is, if it is such bounds, and if a NaN comes to the same.
    pub(super) fn centred(&self, n: NodeIx) -> Option<Centred> {
        if !self.lesser || self.program.dtype(n) != DType::F32 {
            return None;
        }
        let (outer, bounded, last) = self.with_constant(n)?;
        let (inner, sum, first) = self.with_constant(bounded)?;
        let (low, high) = match (outer, inner) {
            (BinOp::Min, BinOp::Max) => (first, last),
            (BinOp::Max, BinOp::Min) => (last, first),
            _ => return None,
        };
        let (BinOp::Add, x, c) = self.with_constant(sum)? else { return None };
        let fits =
            low.to_bits() == 0 && c.is_normal() && c > 0.0 && high == 2.0 * c && self.is_fresh(bounded) && self.is_fresh(sum);
        (fits && self.nan_is_seen(n, x)).then_some(Centred { x, c: c.to_bits(), between: [bounded, sum] })
    }

    /// The operation of a node with a constant on any side, its other operand, and the constant: all operations here commute.
    fn with_constant(&self, n: NodeIx) -> Option<(BinOp, NodeIx, f32)> {
        let ScalarOp::Bin(op, a, b) = self.program.nodes[n as usize].op else { return None };
        let number = |n: NodeIx| match self.program.nodes[n as usize] {
            ScalarNode { op: ScalarOp::Const(bits), dtype: DType::F32 } => Some(f64::from_bits(bits) as f32),
            _ => None,
        };
        number(b).map(|c| (op, a, c)).or_else(|| Some((op, b, number(a)?)))
    }

    /// True when x is never NaN, or all that reads the bounds is multiplied with x.
    fn nan_is_seen(&self, n: NodeIx, x: NodeIx) -> bool {
        let product = |op: ScalarOp| matches!(op, ScalarOp::Bin(BinOp::Mul, a, b) if (a, b) == (n, x) || (a, b) == (x, n));
        let nodes = &self.program.nodes;
        let only_products = nodes.iter().all(|node| product(node.op) || node.op.operands().all(|o| o != n));
        // What is asked for has one use more than there are readers.
        let products = nodes.iter().zip(&self.uses).filter(|(node, uses)| **uses > 0 && product(node.op)).count();
        self.known[x as usize] >= Known::Number || only_products && self.uses[n as usize] as usize == products
    }

    /// Computes node `n` as what it is.
    pub(super) fn center(&mut self, e: &mut dyn Emitter, n: NodeIx, of: Centred, args: &mut Args) -> Result<(), Error> {
        of.between.into_iter().for_each(|n| self.forgo(n));
        let (x, own) = self.take_reg(e, of.x, args)?;
        let d = if own { x } else { e.alloc(Ty::F32)? };
        let c = self.held.and_then(|h| h.find(of.c)).map_or(Opd::Const(of.c), Opd::Reg);
        e.lesser(d, x, c)?;
        e.bin(BinOp::Add, Ty::F32, d, Opd::Reg(d), c)?;
        self.vals[n as usize] = Some(Val::Own(d));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::scalar::ScalarProgram;

    /// What is seen in `clamp(x + 1.5, low, high)` that is combined with x, or with the sum.
    fn centred((low, high): (f64, f64), (end, with_sum): (BinOp, bool), lesser: bool) -> Option<u32> {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, DType::F32);
        let [c, low, high] = [1.5, low, high].map(|c| p.float(c, DType::F32));
        let sum = p.bin(BinOp::Add, x, c);
        let bounded = p.bin(BinOp::Max, sum, low);
        let clamped = p.bin(BinOp::Min, bounded, high);
        let result = p.bin(end, if with_sum { sum } else { x }, clamped);
        let p = p.finish(result);
        assert_eq!(Eval::new(&p, &[clamped, result], lesser).centred(clamped), None, "a NaN would be seen as a number");
        Eval::new(&p, &[result], lesser).centred(clamped).map(|found| found.c)
    }

    #[test]
    fn bounds_must_lie_evenly_and_be_read_by_nobody_else() {
        let product = (BinOp::Mul, false);
        assert_eq!(centred((0.0, 3.0), product, true), Some(1.5f32.to_bits()));
        assert_eq!(centred((0.0, 3.0), product, false), None, "not on every machine");
        assert_eq!(centred((0.0, 3.0), (BinOp::Add, false), true), None, "a NaN would be lost");
        assert_eq!(centred((0.0, 4.0), product, true), None);
        assert_eq!(centred((1.0, 3.0), product, true), None);
        assert_eq!(centred((0.0, 3.0), (BinOp::Mul, true), true), None, "the sum has another reader");
    }
}
