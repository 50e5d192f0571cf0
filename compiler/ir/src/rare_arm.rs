//! Arms of selections that code generators jump over.
//!
//! A scalar program computes both arms of a [`ScalarOp::Select`]. Where the first arm is long and nothing else needs its nodes (the
//! reduction of huge angles, for example), a branch that no lane takes is cheaper: the arm is computed only when the condition holds
//! somewhere.

use crate::scalar::{NodeIx, ScalarOp, ScalarProgram};

/// Nodes, constants not counted, that an arm must have to be worth a branch: more than any function needs that all elements go through.
const LONG: usize = 64;

/// A selection whose first arm is worth a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RareArm {
    /// The selection.
    pub select: NodeIx,
    /// The nodes that only its first arm needs, in evaluation order. Operands of the program are not among them.
    pub nodes: Vec<NodeIx>,
}

impl RareArm {
    /// True when only this arm needs the node.
    pub fn contains(&self, n: NodeIx) -> bool {
        self.nodes.binary_search(&n).is_ok()
    }

    /// What the arm takes from the rest of the program.
    pub fn inputs<'a>(&'a self, program: &'a ScalarProgram) -> impl Iterator<Item = NodeIx> + 'a {
        let operands = self.nodes.iter().flat_map(|n| program.nodes[*n as usize].op.operands());
        operands.filter(|o| !self.contains(*o))
    }
}

/// How often each node is used, by nodes that `roots` need and by `roots` themselves.
pub fn uses(program: &ScalarProgram, roots: &[NodeIx]) -> Vec<u32> {
    let mut uses = vec![0; program.nodes.len()];
    roots.iter().for_each(|r| uses[*r as usize] += 1);
    for i in (0..program.nodes.len()).rev() {
        if uses[i] > 0 {
            program.nodes[i].op.operands().for_each(|o| uses[o as usize] += 1);
        }
    }
    uses
}

/// The rare arms of a program with these [`uses`].
pub fn rare_arms(program: &ScalarProgram, uses: &[u32]) -> Vec<RareArm> {
    (0..program.nodes.len()).filter(|i| uses[*i] > 0).filter_map(|i| arm(program, uses, i as NodeIx)).collect()
}

fn arm(program: &ScalarProgram, uses: &[u32], select: NodeIx) -> Option<RareArm> {
    let ScalarOp::Select(_, first, _) = program.nodes[select as usize].op else { return None };
    // Uses by the arm so far, from its result down; a node belongs to it when that is all of them.
    let mut inside = vec![0; first as usize + 1];
    inside[first as usize] = 1;
    let (mut nodes, mut length) = (Vec::new(), 0);
    for i in (0..=first as usize).rev() {
        let op = program.nodes[i].op;
        if inside[i] == 0 || inside[i] < uses[i] || matches!(op, ScalarOp::Arg(_)) {
            continue;
        }
        op.operands().for_each(|o| inside[o as usize] += 1);
        length += usize::from(!matches!(op, ScalarOp::Const(_)));
        nodes.push(i as NodeIx);
    }
    nodes.reverse();
    (length >= LONG).then_some(RareArm { select, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType::F32;
    use crate::math;
    use crate::scalar::{BinOp, UnOp};

    fn arms_of(op: UnOp) -> (ScalarProgram, Vec<RareArm>) {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, F32);
        p.un(op, x);
        let p = math::expand(&p);
        let arms = rare_arms(&p, &uses(&p, &[p.result()]));
        (p, arms)
    }

    #[test]
    fn functions_of_angles_have_one_and_others_none() {
        for op in [UnOp::Sin, UnOp::Cos, UnOp::Tan] {
            let (p, arms) = arms_of(op);
            let [arm] = &arms[..] else { panic!("{op:?}: {arms:?}") };
            assert_eq!(arm.select, p.result());
            assert!(
                p.nodes.len() - arm.nodes.len() < 60,
                "{op:?}: {} nodes are always computed",
                p.nodes.len() - arm.nodes.len()
            );
        }
        for op in [UnOp::Exp, UnOp::Log, UnOp::Erf, UnOp::Tanh, UnOp::Asin, UnOp::Asinh, UnOp::Acosh, UnOp::Atan] {
            assert!(arms_of(op).1.is_empty(), "{op:?}");
        }
    }

    #[test]
    fn nodes_of_others_stay_outside() {
        let mut p = ScalarProgram::default();
        let x = p.arg(0, F32);
        let zero = p.float(0.0, F32);
        let mut chain = vec![x];
        for _ in 0..100 {
            let square = p.bin(BinOp::Mul, chain[chain.len() - 1], x);
            chain.push(square);
        }
        let (shared, last) = (chain[20], chain[100]);
        let positive = p.bin(BinOp::Gt, x, zero);
        let chosen = p.select(positive, last, zero);
        let sum = p.bin(BinOp::Add, chosen, shared);
        let arms = rare_arms(&p, &uses(&p, &[sum]));
        assert_eq!(arms.len(), 1);
        assert_eq!(arms[0].nodes, chain[21..]);
        assert!(arms[0].inputs(&p).all(|n| n == shared || n == x));
    }
}
