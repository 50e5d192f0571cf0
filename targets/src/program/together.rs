//! Several evaluations of one program side by side.
//!
//! The operations of a function are one long chain, each waiting for the one before; a core looks only so far ahead that it finds little else to do. So
//! operations of the same node follow each other for several vectors, before those of the next node.

use onnxc_ir::DType;
use onnxc_ir::kernel::EpilogueOperand;
use onnxc_ir::scalar::{NodeIx, ScalarOp, ScalarProgram};

use super::{Eval, Held, Val};
use crate::emitter::{Emitter, V};
use crate::error::Error;

/// Registers that an operation needs for itself.
const TEMPORARY: usize = 3;

/// The order in which all evaluations go through a program.
pub(crate) struct Together {
    order: Vec<NodeIx>,
    /// Values that one evaluation has in registers at a time.
    live: usize,
    /// False for programs with branches.
    possible: bool,
}

/// Gives evaluation k the value of operand n.
pub(crate) type ArgsOf<'a> = dyn FnMut(&mut dyn Emitter, usize, u8, DType) -> Result<Val, Error> + 'a;

impl Together {
    /// `lesser`: as in [`Eval::new`].
    pub fn new(program: &ScalarProgram, operands: &[EpilogueOperand], lesser: bool) -> Together {
        let held = Held::default();
        let eval = Eval::of_epilogue(program, operands, &held, lesser);
        let mut order = Vec::with_capacity(program.nodes.len());
        visit(&eval, program.result(), &mut vec![false; program.nodes.len()], &mut order);
        let live = live(&eval, &order);
        Together { order, live, possible: eval.rare.is_empty() }
    }

    /// Registers of so many evaluations, those of operand 0 included.
    pub fn registers(&self, width: usize) -> usize {
        width * self.live + TEMPORARY
    }

    /// Registers of one evaluation beside its operand 0, when so many other operands wait in registers.
    pub fn beside(&self, held: usize) -> usize {
        if self.possible { (self.live + 1).saturating_sub(held).max(2) } else { usize::MAX }
    }

    /// How many of `n` evaluations go together when so many registers are free: as many as have room, in parts of equal size. `given`: operand 0 has a
    /// register already.
    pub fn width(&self, n: usize, free: usize, given: bool) -> usize {
        let most = free.saturating_sub(TEMPORARY) / self.live.saturating_sub(usize::from(given)).max(1);
        if !self.possible || most <= 1 { 1 } else { n.div_ceil(n.div_ceil(most)) }
    }

    /// The results of fresh evaluations of the program, and whether the caller frees them.
    pub fn run(&self, e: &mut dyn Emitter, evals: &mut [Eval], args: &mut ArgsOf) -> Result<Vec<(V, bool)>, Error> {
        if let [_, _, ..] = evals {
            for n in &self.order {
                for (k, eval) in evals.iter_mut().enumerate() {
                    eval.compute(e, *n, &mut |e, a, dtype| args(e, k, a, dtype))?;
                }
            }
        }
        let root = *self.order.last().expect("internal: targets: empty scalar program");
        let result = |(k, eval): (usize, &mut Eval)| eval.take_reg(e, root, &mut |e, a, dtype| args(e, k, a, dtype));
        evals.iter_mut().enumerate().map(result).collect()
    }
}

/// Nodes in the order in which one evaluation computes them.
fn visit(eval: &Eval, n: NodeIx, seen: &mut [bool], order: &mut Vec<NodeIx>) {
    if std::mem::replace(&mut seen[n as usize], true) {
        return;
    }
    eval.operands(n).into_iter().for_each(|o| visit(eval, o, seen, order));
    order.push(n);
}

/// The most values that are needed later, behind any operation.
fn live(eval: &Eval, order: &[NodeIx]) -> usize {
    let is_constant = |n: NodeIx| matches!(eval.program.nodes[n as usize].op, ScalarOp::Const(_));
    let mut uses = eval.uses.clone();
    let (mut live, mut most) = (0, 0);
    for n in order.iter().copied().filter(|n| !is_constant(*n)) {
        let operands = eval.operands(n);
        live += 1;
        most = most.max(live - usize::from(!operands.is_empty()));
        for o in operands.into_iter().filter(|o| !is_constant(*o)) {
            uses[o as usize] -= 1;
            live -= usize::from(uses[o as usize] == 0);
        }
        most = most.max(live);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::scalar::{BinOp, UnOp};

    #[test]
    fn registers_decide_how_many_go_together() {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, DType::F32);
        let root = p.un(UnOp::Sqrt, x);
        let abs = p.un(UnOp::Abs, root);
        let product = p.bin(BinOp::Mul, abs, x);
        let together = Together::new(&p.finish(product), &[], false);
        assert_eq!(together.live, 2, "x, and what is computed from it");
        assert_eq!(together.width(6, 3 + 2 * 6, false), 6);
        assert_eq!(together.width(6, 3 + 2 * 5, false), 3, "two parts of equal size");
        assert_eq!(together.width(6, 4, false), 1);
        assert_eq!(together.width(6, 9, true), 6);
        assert_eq!([0, 1, 4].map(|held| together.beside(held)), [3, 2, 2]);
    }

    #[test]
    fn branches_are_taken_one_by_one() {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, DType::F32);
        p.un(UnOp::Sin, x);
        let together = Together::new(&onnxc_ir::math::expand(&p), &[], false);
        assert_eq!((together.width(4, 100, true), together.beside(4)), (1, usize::MAX));
    }
}
