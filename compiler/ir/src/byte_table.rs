//! Programs that end in a function of one byte: chains of quantised operators compute a byte, and from it alone another one. What lies between takes
//! a table of 256 bytes on machines that look up many at once.

use crate::DType;
use crate::scalar::{NodeIx, ScalarOp, ScalarProgram, UnOp};
use crate::scalar_eval::{self, Scalar};

/// Operations behind a byte that are worth a table.
const LEAST: usize = 4;

/// A program as another one that gives a byte, and what becomes of that.
#[derive(Clone, PartialEq, Debug)]
pub struct Tabled {
    /// The program of the first byte.
    pub front: ScalarProgram,
    /// The result for each byte, those of i8 by their bits.
    pub table: [u8; 256],
}

impl Tabled {
    /// The program that ends in the longest function of a byte; none where it has fewer operations than a table is worth, or others than the correctly
    /// rounded ones, of which code and table have the same bits.
    pub fn of(program: &ScalarProgram) -> Option<Tabled> {
        if !is_byte(program.dtype(program.result())) {
            return None;
        }
        let (byte, behind) = (0..program.result()).find_map(|n| Some((n, behind(program, n)?)))?;
        let operations = behind.iter().filter(|n| !matches!(program.nodes[**n as usize].op, ScalarOp::Const(_))).count();
        (operations >= LEAST).then(|| Tabled { front: program.finish(byte), table: table(program, byte, &behind) })
    }
}

fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8)
}

/// The nodes that make the result of byte `byte`, in order; none where they need something else, or it is no computed byte.
fn behind(program: &ScalarProgram, byte: NodeIx) -> Option<Vec<NodeIx>> {
    let node = program.nodes[byte as usize];
    if !is_byte(node.dtype) || matches!(node.op, ScalarOp::Arg(_) | ScalarOp::Const(_)) {
        return None;
    }
    let mut needed = vec![false; program.nodes.len()];
    *needed.last_mut()? = true;
    let mut nodes = Vec::new();
    for n in (0..program.nodes.len()).rev().filter(|n| *n != byte as usize) {
        if needed[n] {
            let op = program.nodes[n].op;
            if !is_exact(op) {
                return None;
            }
            op.operands().for_each(|o| needed[o as usize] = true);
            nodes.push(n as NodeIx);
        }
    }
    nodes.reverse();
    needed[byte as usize].then_some(nodes)
}

/// Operations that are rounded correctly everywhere.
fn is_exact(op: ScalarOp) -> bool {
    use crate::scalar::BinOp::*;
    match op {
        ScalarOp::Const(_) | ScalarOp::Cast(_) | ScalarOp::Select(..) => true,
        ScalarOp::Un(op, _) => matches!(op, UnOp::Neg | UnOp::Abs | UnOp::Floor | UnOp::Ceil | UnOp::Trunc | UnOp::Round),
        ScalarOp::Bin(op, ..) => matches!(op, Add | Sub | Mul | Div | Min | Max | Lt | Le | Gt | Ge | Eq | Ne),
        ScalarOp::Arg(_) | ScalarOp::Fma(..) => false,
    }
}

fn table(program: &ScalarProgram, byte: NodeIx, behind: &[NodeIx]) -> [u8; 256] {
    let mut suffix = ScalarProgram::default();
    let dtype = program.dtype(byte);
    let mut map = vec![0; program.nodes.len()];
    map[byte as usize] = suffix.arg(0, dtype);
    for n in behind {
        let node = program.nodes[*n as usize];
        map[*n as usize] = suffix.push(node.op.map_operands(|o| map[o as usize]), node.dtype);
    }
    let suffix = suffix.finish(map[program.nodes.len() - 1]);
    let mut values = Vec::new();
    std::array::from_fn(|bits| {
        let bits = bits as u8;
        let value = if dtype == DType::I8 { i128::from(bits as i8) } else { i128::from(bits) };
        scalar_eval::run(&suffix, &[Scalar::Int(value)], &mut values).int() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::BinOp;

    /// `u8(round(max(f32(i32(b) - 100) * 0.5, 0)))` of a byte `b = u8(a0)`, and what it is added to.
    fn chain(other: bool) -> ScalarProgram {
        let mut p = ScalarProgram::default();
        let sum = p.arg(0, DType::I32);
        let byte = p.cast(sum, DType::U8);
        let wide = p.cast(byte, DType::I32);
        let zero = p.int(100, DType::I32);
        let moved = p.bin(BinOp::Sub, wide, zero);
        let x = p.cast(moved, DType::F32);
        let (half, zero) = (p.float(0.5, DType::F32), p.float(0.0, DType::F32));
        let x = p.bin(BinOp::Mul, x, half);
        let mut x = p.bin(BinOp::Max, x, zero);
        if other {
            let y = p.arg(1, DType::F32);
            x = p.bin(BinOp::Add, x, y);
        }
        let x = p.un(UnOp::Round, x);
        let whole = p.cast(x, DType::I32);
        let result = p.cast(whole, DType::U8);
        p.finish(result)
    }

    #[test]
    fn what_follows_a_byte_is_a_table() {
        let tabled = Tabled::of(&chain(false)).unwrap();
        assert_eq!(tabled.front.to_string(), "i32 a0; u8 cast %0");
        assert_eq!([0, 100, 101, 103, 255].map(|b| tabled.table[b]), [0, 0, 0, 2, 78]);
        assert_eq!(Tabled::of(&chain(true)), None, "it needs another operand");
        assert_eq!(Tabled::of(&tabled.front), None);
    }
}
