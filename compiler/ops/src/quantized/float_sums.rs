//! Layers whose sums are floats as they are, where the target wants that: see [`onnxc_ir::float_sums`].

use onnxc_ir::DType;
use onnxc_ir::float_sums::{Begin, POSITIVE, SIGNED, scaled};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram, UnOp};

use super::integer::Integer;
use super::spread::along;
use crate::common::tile;

impl Integer {
    /// Lets sums begin higher, so that their bits are floats, if nothing but a conversion and a product with a constant reads them, and all of them are small
    /// enough.
    pub(super) fn make_floats(&mut self, cx: &mut LowerCx) {
        if !cx.target.float_sums || !self.in_place() || self.w_zeros.iter().any(|z| *z != 0) && !self.is_depthwise() {
            return;
        }
        let Some(read) = scaled(&self.program) else { return };
        let Some(by) = self.operands.get(usize::from(read.scale) - 1).cloned() else { return };
        let begin = if read.positive { POSITIVE } else { SIGNED };
        let offsets =
            tile::constants(cx, &by).and_then(|all| all.into_iter().map(|s| begin.offset(s)).collect::<Option<Vec<f32>>>());
        let new = self.operands.len() as u8 + 1;
        if let Some(offsets) = offsets.filter(|_| self.operands.len() < usize::from(u8::MAX) && self.sums_are_in(begin)) {
            let bytes = offsets.into_iter().flat_map(f32::to_le_bytes).collect();
            let buf = along(cx, DType::F32, bytes, 0, 1).buf;
            self.operands.push(Arg { buf, constant: None, ..by });
            self.program = of_floats(&self.program, read.real, new);
            self.begin = begin.bits;
        }
    }

    /// True when all sums that filters can have are such that floats have their bits.
    fn sums_are_in(&self, begin: Begin) -> bool {
        let Some(zero) = self.known_x_zero().map(i64::from) else { return false };
        let (least, most) = self.x.dtype.int_range().expect("internal: ops: integers");
        let (least, most) = (least as i64 - zero, most as i64 - zero);
        let per_filter = self.weights.per_filter();
        (0..self.y.view.shape[1] as usize).all(|f| {
            let (mut low, mut high) = (self.bias.as_ref().map_or(0, |b| i64::from(b[f])), 0);
            high += low;
            for i in 0..per_filter {
                let w = i64::from(self.weights.get(f, i) - self.w_zeros[f]);
                low += (w * least).min(w * most);
                high += (w * least).max(w * most);
            }
            begin.limits.0 <= low && high <= begin.limits.1
        })
    }
}

/// The program with sums that are floats; `offset` is the operand that scaling takes off.
fn of_floats(program: &ScalarProgram, real: NodeIx, offset: u8) -> ScalarProgram {
    let mut out = ScalarProgram::default();
    let mut map: Vec<NodeIx> = Vec::with_capacity(program.nodes.len());
    for (n, node) in program.nodes.iter().enumerate() {
        let get = |o: NodeIx| map[o as usize];
        map.push(match node.op {
            ScalarOp::Cast(sum) if n == real as usize => out.push(ScalarOp::Un(UnOp::Bitcast, get(sum)), DType::F32),
            ScalarOp::Bin(BinOp::Mul, a, b) if a == real || b == real => {
                let by = out.arg(offset, DType::F32);
                out.push(ScalarOp::Fma(get(real), get(if a == real { b } else { a }), by), DType::F32)
            }
            op => out.push(op.map_operands(get), node.dtype),
        });
    }
    out.finish(map[program.result() as usize])
}
