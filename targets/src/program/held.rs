//! Constants that wait in registers while loops evaluate a program again and again: read from memory, each of them is a load.

use onnxc_ir::DType;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram};

use super::{Val, const_bits};
use crate::emitter::{Emitter, Opd, Ty, V};
use crate::error::Error;

/// f32 constants with their registers.
#[derive(Default)]
pub(crate) struct Held(Vec<(u32, V)>);

impl Held {
    /// Puts constants of a program into registers, the most frequent first, as long as `others` are left.
    pub fn load(e: &mut dyn Emitter, program: &ScalarProgram, others: usize) -> Result<Held, Error> {
        let mut frequent: Vec<(u32, usize)> = Vec::new();
        for node in program.nodes.iter().filter(|n| may_hold(n.op, program)) {
            for bits in node.op.operands().filter_map(|o| constant(program, o)) {
                match frequent.iter_mut().find(|(b, _)| *b == bits) {
                    Some((_, uses)) => *uses += 1,
                    None => frequent.push((bits, 1)),
                }
            }
        }
        frequent.sort_by_key(|(_, uses)| std::cmp::Reverse(*uses));
        frequent.truncate(e.available().saturating_sub(others));
        let mut held = Held::default();
        for (bits, _) in frequent {
            let v = e.alloc(Ty::F32)?;
            e.copy(Ty::F32, v, Opd::Const(bits))?;
            held.0.push((bits, v));
        }
        Ok(held)
    }

    /// The register of a constant.
    pub(super) fn find(&self, bits: u32) -> Option<V> {
        self.0.iter().find(|(b, _)| *b == bits).map(|(_, v)| *v)
    }

    /// Gives the registers back.
    pub fn free(self, e: &mut dyn Emitter) {
        self.0.into_iter().for_each(|(_, v)| e.free(v));
    }

    /// Operands of an operation, constants in their registers where there are some.
    pub(super) fn replace(&self, op: ScalarOp, program: &ScalarProgram, vals: &mut [Val]) {
        if self.0.is_empty() || !may_hold(op, program) {
            return;
        }
        for val in vals {
            let Val::Const(bits) = *val else { continue };
            if let Some(v) = self.find(bits) {
                *val = Val::Lent(v);
            }
        }
    }
}

/// Operations of floats to which it is all the same where a constant comes from. Minimum and maximum want to know that it is one.
fn may_hold(op: ScalarOp, program: &ScalarProgram) -> bool {
    let plain = match op {
        ScalarOp::Fma(..) => true,
        ScalarOp::Bin(op, ..) => matches!(op, BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::Div) || op.is_comparison(),
        _ => false,
    };
    plain && op.operands().all(|o| program.dtype(o) == DType::F32)
}

fn constant(program: &ScalarProgram, n: NodeIx) -> Option<u32> {
    match program.nodes[n as usize].op {
        ScalarOp::Const(bits) => const_bits(DType::F32, bits).ok(),
        _ => None,
    }
}
