//! Vector loops of the loop IR as leaf functions.
//!
//! [`vectorize`] looks at a loop whose iterations are independent. When every load and store steps by 0 or 1 elements, its body becomes a
//! function that runs several iterations at once; what it needs from outside comes in a block of memory. This file is the analysis, the
//! emission is in `emission`.

mod across;
mod analysis;
mod emission;
mod index;
mod uses;

use onnxc_ir::DType;
use onnxc_ir::lir::{BufId, Expr, Func, Stmt, Var};
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarProgram};

use crate::cpu::{Isa, Target};
use crate::error::Error;
use crate::kernels::KernelCode;

/// A vector loop as a function `fn(block: *mut u8)`.
///
/// The caller fills the slots of the block (8-byte aligned, `block_bytes` long), calls, and reads the results back. Nothing happens when
/// the trip count is 0.
pub struct VectorLoop {
    /// The function; one i64 parameter.
    pub code: KernelCode,
    /// Size of the block.
    pub block_bytes: u32,
    /// What is where in the block.
    pub slots: Vec<Slot>,
}

/// A place in the block.
#[derive(Clone, PartialEq, Debug)]
pub struct Slot {
    /// Bytes from the start of the block.
    pub offset: u32,
    /// What the caller puts there.
    pub value: SlotValue,
}

/// What a slot of the block holds. Expressions mean what they mean just before the loop, with the loop's variable at its first value.
#[derive(Clone, PartialEq, Debug)]
pub enum SlotValue {
    /// i64: the number of iterations, `max(0, ceil((hi - lo) / step))`.
    Trips,
    /// i64: this expression.
    Count(Expr),
    /// i64: the address of the element of the buffer at this index. Not read when the trip count is 0.
    Pointer(BufId, Expr),
    /// This expression in the memory form of the type (bool: a byte 0 or 1).
    Scalar(DType, Expr),
    /// Before the call the variable's value; afterwards its new one. Type f32 or i32.
    Result(Var, DType),
}

/// Where an operand of a body's program comes from.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Source {
    /// A slot with a scalar.
    Scalar { offset: u32, dtype: DType },
    /// An element, or neighbours.
    Load { at: Access, epoch: u32 },
    /// A register that a nested loop carries.
    Cell(usize),
}

/// A memory access of a body.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Access {
    pub buf: BufId,
    pub dtype: DType,
    /// The pointer: its slot and the bytes by which it advances per round of each enclosing inner loop.
    pub pointer: Pointer,
    /// Constant bytes from it.
    pub disp: i64,
    /// Bytes from lane to lane; 0 when all lanes see one element.
    pub stride: i64,
}

impl Access {
    /// Lanes are neighbours in memory.
    pub fn neighbours(&self) -> bool {
        self.stride == self.dtype.bytes() as i64
    }

    /// Lanes are apart in memory.
    pub fn strided(&self) -> bool {
        self.stride != 0 && !self.neighbours()
    }
}

/// An advancing pointer: offset of its slot, bytes per round of each enclosing inner loop.
pub(crate) type Pointer = (u32, Vec<i64>);

/// What a body does, in order.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Item {
    /// Writes a value, after the given loads have happened.
    Store { at: Access, node: NodeIx, before: Vec<NodeIx> },
    /// `reduction = op(reduction, node)`.
    Reduce { reduction: usize, node: NodeIx },
    /// A new cell with this value.
    Open { cell: usize, node: NodeIx },
    /// New values of cells, all at once; the last item of a loop's body.
    Carry(Vec<(usize, NodeIx)>),
    /// A loop inside the vector loop.
    Loop { trips: Trips, body: Body },
}

/// Rounds of an inner loop.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Trips {
    Const(u64),
    /// An i64 in a slot.
    Slot(u32),
}

/// A straight-line piece of work with nested loops.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Body {
    pub program: ScalarProgram,
    pub args: Vec<Source>,
    pub items: Vec<Item>,
}

impl Body {
    /// The nodes whose values items take, in order.
    pub fn roots(&self) -> Vec<NodeIx> {
        let mut items = self.items.clone();
        let mut roots = Vec::new();
        nodes_of(&mut items, &mut |n| roots.push(*n));
        roots
    }

    /// With multiplications in the place of divisions where results are the same.
    fn without_divisions(&mut self) {
        let roots = self.roots();
        let (program, at) = crate::divisions::without_divisions(&self.program, &[], &roots);
        self.program = program;
        let mut at = at.into_iter();
        nodes_of(&mut self.items, &mut |n| *n = at.next().expect("internal: targets: as many as before"));
        for item in &mut self.items {
            if let Item::Loop { body, .. } = item {
                body.without_divisions();
            }
        }
    }
}

/// Calls `f` on the nodes that items take, but not on those of loops inside.
fn nodes_of(items: &mut [Item], f: &mut dyn FnMut(&mut NodeIx)) {
    for item in items {
        match item {
            Item::Store { node, before, .. } => {
                before.iter_mut().for_each(&mut *f);
                f(node);
            }
            Item::Reduce { node, .. } | Item::Open { node, .. } => f(node),
            Item::Carry(values) => values.iter_mut().for_each(|v| f(&mut v.1)),
            Item::Loop { .. } => {}
        }
    }
}

/// A reduction into a variable from outside.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Reduction {
    pub op: BinOp,
    pub dtype: DType,
    pub offset: u32,
}

/// The whole loop after analysis.
pub(crate) struct Plan {
    pub body: Body,
    /// Iterations, where there are always as many.
    pub trips: Option<u64>,
    pub slots: Vec<Slot>,
    /// Pointer slots: offset and bytes per iteration.
    pub pointers: Vec<(u32, i64)>,
    pub scalars: Vec<(u32, DType)>,
    pub reductions: Vec<Reduction>,
    pub n_cells: usize,
    /// Types of memory that is accessed, and whether lanes are apart there.
    pub memory: Vec<(DType, bool)>,
    pub block_bytes: u32,
}

/// The loop as a vector function. None when it is neither a vector loop nor a nest of two loops with a transposed operand, when it has accesses,
/// statements or types without vector form, or when the target has no vectors.
pub fn vectorize(func: &Func, stmt: &Stmt, target: &Target) -> Option<VectorLoop> {
    if target.vectors == Isa::Scalar {
        return None;
    }
    let (plan, code) = match across::analyse(func, stmt, target.desc.lanes) {
        Some(mut nest) => {
            if target.has_fma() {
                nest.plan.body.without_divisions();
            }
            let code = across::emit(target, &nest);
            (nest.plan, code)
        }
        None => {
            let mut plan = analysis::analyse(func, stmt)?;
            if target.has_fma() {
                plan.body.without_divisions();
            }
            let code = emission::emit(target, &plan);
            (plan, code)
        }
    };
    let code = match code {
        Ok(code) => code,
        Err(Error::Unsupported(_) | Error::Registers(_)) => return None,
        Err(e) => {
            // Our mistake; the scalar form of the loop is still right.
            debug_assert!(false, "internal: targets: {e}");
            return None;
        }
    };
    Some(VectorLoop { code, block_bytes: plan.block_bytes, slots: plan.slots })
}
