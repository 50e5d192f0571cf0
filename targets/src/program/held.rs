//! Constants and operands that wait in registers while a program is evaluated again and again: read from memory, each of them is a load.

use onnxc_ir::DType;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram};

use super::{Val, const_bits};
use crate::emitter::{Emitter, Opd, Ty, V};
use crate::error::Error;

/// What is in registers.
#[derive(Default)]
pub(crate) struct Held {
    /// f32 constants.
    constants: Vec<(u32, V)>,
    /// Operands that are the same for all rows, by their number: a vector for each vector of a row, or one.
    operands: Vec<(usize, Vec<V>)>,
}

/// Gives operand n for vector j of any row.
pub(crate) type Operands<'a> = dyn FnMut(&mut dyn Emitter, usize, usize) -> Result<Val, Error> + 'a;

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
            held.constants.push((bits, v));
        }
        Ok(held)
    }

    /// The register of a constant.
    pub(super) fn find(&self, bits: u32) -> Option<V> {
        self.constants.iter().find(|(b, _)| *b == bits).map(|(_, v)| *v)
    }

    /// Loads operands, each with the number of its vectors, once there are registers for all of them and `others`.
    pub fn load_operands(
        &mut self,
        e: &mut dyn Emitter,
        wanted: &[(usize, usize)],
        others: usize,
        load: &mut Operands,
    ) -> Result<(), Error> {
        let vectors: usize = wanted.iter().map(|(_, vectors)| vectors).sum();
        if !self.operands.is_empty() || e.available().saturating_sub(others) < vectors {
            return Ok(());
        }
        for (n, vectors) in wanted {
            let mut registers = Vec::new();
            for j in 0..*vectors {
                let Val::Own(v) = load(e, *n, j)? else { return Err(Error::Internal("an operand without a register".into())) };
                registers.push(v);
            }
            self.operands.push((*n, registers));
        }
        Ok(())
    }

    /// Operand n for vector j of a row.
    pub fn operand(&self, n: usize, j: usize) -> Option<Val> {
        let (_, registers) = self.operands.iter().find(|(of, _)| *of == n)?;
        registers.get(j).or(registers.first()).map(|v| Val::Lent(*v))
    }

    /// Gives the registers back.
    pub fn free(self, e: &mut dyn Emitter) {
        let operands = self.operands.into_iter().flat_map(|(_, registers)| registers);
        self.constants.into_iter().map(|(_, v)| v).chain(operands).for_each(|v| e.free(v));
    }

    /// Operands of an operation, constants in their registers where there are some.
    pub(super) fn replace(&self, op: ScalarOp, program: &ScalarProgram, vals: &mut [Val]) {
        if self.constants.is_empty() || !may_hold(op, program) {
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
