//! Lowering context: what an operator's `lower` sees, and helpers that build loop nests over strided views.

mod halo;
mod nested;

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::blob::Blob;
use crate::dim::{Dim, DimBounds};
use crate::dtype::DType;
use crate::graph::Attrs;
use crate::lir::{BufId, BufKind, Expr, Func, LoopKind, Stmt, Var};
use crate::op::{Extent, Extents, View};
use crate::scalar::{ScalarOp, ScalarProgram};
use crate::target::TargetDesc;
use crate::tensor::Tensor;

pub use halo::{Edge, Halo, Side};
pub use nested::Part;

/// An operand or result: a buffer seen through a view.
#[derive(Clone, Debug)]
pub struct Arg {
    /// Buffer of the function.
    pub buf: BufId,
    /// Element type.
    pub dtype: DType,
    /// Extents, strides, offset in elements.
    pub view: View,
    /// The value, when it is a constant of the graph.
    pub constant: Option<Tensor>,
}

impl Arg {
    /// Element index of a coordinate.
    pub fn index(&self, at: &[Expr]) -> Expr {
        let start = Expr::Int(self.view.offset);
        at.iter().zip(&self.view.strides).fold(start, |sum, (e, stride)| sum.add(e.clone().times(*stride)))
    }
}

/// The open sizes that the functions of a plan use: at run time a table of numbers, one for each.
#[derive(Debug, Default)]
pub struct Sizes {
    table: RefCell<Vec<Dim>>,
    bounds: DimBounds,
}

impl Sizes {
    /// No sizes yet, of symbols within bounds.
    pub fn within(bounds: DimBounds) -> Sizes {
        Sizes { table: RefCell::default(), bounds }
    }

    /// The place of a size in the table.
    pub fn place(&self, dim: &Dim) -> usize {
        let mut all = self.table.borrow_mut();
        all.iter().position(|d| d == dim).unwrap_or_else(|| {
            all.push(dim.clone());
            all.len() - 1
        })
    }

    /// The sizes of the table, in order.
    pub fn list(&self) -> Vec<Dim> {
        self.table.borrow().clone()
    }
}

/// What `Lower::Nest` functions work on. Statements go to the innermost open block.
pub struct LowerCx<'a> {
    /// Attributes of the node.
    pub attrs: &'a Attrs,
    /// Operands.
    pub inputs: Vec<Option<Arg>>,
    /// Of each operand, what is readable around it.
    pub halos: Vec<Halo>,
    /// Of each operand, whether it lives in the memory of the first result.
    pub in_place: Vec<bool>,
    /// Results.
    pub outputs: Vec<Arg>,
    /// The machine.
    pub target: &'a TargetDesc,
    /// The function being built.
    pub func: Func,
    blocks: Vec<Vec<Stmt>>,
    sizes: &'a Sizes,
    /// The table of sizes, and the sizes that are in variables.
    table: Option<BufId>,
    known: BTreeMap<Dim, Var>,
}

impl<'a> LowerCx<'a> {
    /// A context for a node; operand and result buffers are created here.
    pub fn new(
        name: &str,
        attrs: &'a Attrs,
        inputs: &[Option<(DType, View, Option<Tensor>)>],
        outputs: &[(DType, View)],
        target: &'a TargetDesc,
        sizes: &'a Sizes,
    ) -> LowerCx<'a> {
        let mut func = Func { name: name.to_string(), ..Func::default() };
        let inputs = inputs.iter().enumerate().map(|(i, input)| {
            input.clone().map(|(dtype, view, constant)| Arg {
                buf: func.buf(dtype.carrier(), BufKind::Input(i)),
                dtype,
                view,
                constant,
            })
        });
        let inputs: Vec<Option<Arg>> = inputs.collect();
        let (halos, in_place) = (vec![Halo::default(); inputs.len()], vec![false; inputs.len()]);
        let outputs = outputs.iter().enumerate();
        let outputs = outputs.map(|(i, (dtype, view))| Arg {
            buf: func.buf(dtype.carrier(), BufKind::Output(i)),
            dtype: *dtype,
            view: view.clone(),
            constant: None,
        });
        let outputs = outputs.collect();
        let (blocks, known) = (vec![Vec::new()], BTreeMap::new());
        LowerCx { attrs, inputs, halos, in_place, outputs, target, func, blocks, sizes, table: None, known }
    }

    /// A size as an i64: a number, or a variable that is set at the top level of the function, in front of what is open now.
    pub fn size(&mut self, dim: &Dim) -> Expr {
        if let Dim::Const(n) = dim {
            return Expr::Int(*n as i64);
        }
        if let Some(var) = self.known.get(dim) {
            return Expr::Var(*var);
        }
        let table = *self.table.get_or_insert_with(|| self.func.buf(DType::I64, BufKind::Sizes));
        let var = self.func.var(DType::I64);
        let value = Expr::Load(table, Box::new(Expr::Int(self.sizes.place(dim) as i64)));
        self.blocks[0].push(Stmt::Set(var, value));
        self.known.insert(dim.clone(), var);
        Expr::Var(var)
    }

    /// An extent as an i64.
    pub fn count(&mut self, extent: &Extent) -> Expr {
        match &extent.open {
            Some(dim) => self.size(&dim.clone()),
            None => Expr::Int(extent.bound as i64),
        }
    }

    /// The smallest value of an extent.
    pub fn least(&self, extent: &Extent) -> u64 {
        extent.open.as_ref().map_or(extent.bound, |dim| dim.range(&self.sizes.bounds).0)
    }

    /// Operand `i`, which inference has shown to be there.
    pub fn input(&self, i: usize) -> Arg {
        self.opt(i).expect("internal: inference accepts a missing operand")
    }

    /// Operand `i` if present.
    pub fn opt(&self, i: usize) -> Option<Arg> {
        self.inputs.get(i).cloned().flatten()
    }

    /// Result `i`.
    pub fn output(&self, i: usize) -> Arg {
        self.outputs[i].clone()
    }

    /// Appends a statement.
    pub fn push(&mut self, stmt: Stmt) {
        self.blocks.last_mut().expect("internal: no open block").push(stmt);
    }

    /// The statements that `f` appends, as a block of their own.
    pub fn block(&mut self, f: impl FnOnce(&mut Self)) -> Vec<Stmt> {
        self.blocks.push(Vec::new());
        f(self);
        self.blocks.pop().expect("internal: unbalanced blocks")
    }

    /// A new variable set to `e`.
    pub fn let_(&mut self, e: Expr) -> Var {
        let var = self.func.var(self.func.dtype(&e));
        self.push(Stmt::Set(var, e));
        var
    }

    /// Overwrites a variable.
    pub fn set(&mut self, var: Var, e: Expr) {
        self.push(Stmt::Set(var, e));
    }

    /// `for i in 0..n` with a body that gets `i`. A loop of one iteration is not a loop.
    pub fn for_(&mut self, kind: LoopKind, n: u64, body: impl FnOnce(&mut Self, Expr)) {
        if n == 1 && kind != LoopKind::Parallel {
            return body(self, Expr::Int(0));
        }
        self.for_range(kind, Expr::Int(0), Expr::Int(n as i64), 1, body);
    }

    /// `for i in 0..n` for an extent that may be open.
    pub fn for_in(&mut self, kind: LoopKind, n: &Extent, body: impl FnOnce(&mut Self, Expr)) {
        match n.open {
            None => self.for_(kind, n.bound, body),
            Some(_) => {
                let hi = self.count(n);
                self.for_range(kind, Expr::Int(0), hi, 1, body);
            }
        }
    }

    /// `for i in lo..hi step step`.
    pub fn for_range(&mut self, kind: LoopKind, lo: Expr, hi: Expr, step: i64, body: impl FnOnce(&mut Self, Expr)) {
        let var = self.func.var(DType::I64);
        let body = self.block(|cx| body(cx, Expr::Var(var)));
        self.push(Stmt::For { var, lo, hi, step, kind, body });
    }

    /// `if cond { then } else { otherwise }`.
    pub fn if_(&mut self, cond: Expr, then: impl FnOnce(&mut Self), otherwise: impl FnOnce(&mut Self)) {
        let (a, b) = (self.block(then), self.block(otherwise));
        self.push(Stmt::If(cond, a, b));
    }

    /// The element of `arg` at a coordinate.
    pub fn load(&self, arg: &Arg, at: &[Expr]) -> Expr {
        Expr::Load(arg.buf, Box::new(arg.index(at)))
    }

    /// Writes the element of `arg` at a coordinate.
    pub fn store(&mut self, arg: &Arg, at: &[Expr], value: Expr) {
        let index = arg.index(at);
        self.push(Stmt::Store(arg.buf, index, value));
    }

    /// Loops over all coordinates of `shape`, the dimension in which `order_by` is densest innermost and vectorised, the outermost one parallel
    /// when nothing is open yet; calls `body` with the coordinate in the order of `shape`.
    pub fn for_each<S: Extents + ?Sized>(&mut self, shape: &S, order_by: &[i64], body: impl FnOnce(&mut Self, &[Expr])) {
        let shape = &shape.extents();
        let mut order: Vec<usize> = (0..shape.len()).filter(|d| !shape[*d].is_one()).collect();
        order.sort_by_key(|d| std::cmp::Reverse((order_by[*d].unsigned_abs(), shape.len() - d)));
        let mut at = vec![Expr::Int(0); shape.len()];
        let outer_parallel = self.blocks.len() == 1 && order.len() > 1;
        self.nest(shape, &order, outer_parallel, &mut at, body);
    }

    /// True when the next statement goes to the top level of the function, where `Parallel` loops become tasks.
    pub fn at_top_level(&self) -> bool {
        self.blocks.len() == 1
    }

    /// Like [`LowerCx::for_each`] for bodies that are whole rows or more: nothing is vectorised, and one dimension is enough to be parallel.
    pub fn for_rows<S: Extents + ?Sized>(&mut self, shape: &S, order_by: &[i64], body: impl FnOnce(&mut Self, &[Expr])) {
        let shape = &shape.extents();
        let mut order: Vec<usize> = (0..shape.len()).filter(|d| !shape[*d].is_one()).collect();
        order.sort_by_key(|d| std::cmp::Reverse((order_by[*d].unsigned_abs(), shape.len() - d)));
        let mut at = vec![Expr::Int(0); shape.len()];
        let parallel = self.at_top_level();
        self.rows(shape, &order, parallel, &mut at, body);
    }

    /// Serial loops over all coordinates of `shape`, in its order.
    pub fn for_serial<S: Extents + ?Sized>(&mut self, shape: &S, body: impl FnOnce(&mut Self, &[Expr])) {
        let shape = &shape.extents();
        let order: Vec<usize> = (0..shape.len()).collect();
        let mut at = vec![Expr::Int(0); shape.len()];
        self.rows(shape, &order, false, &mut at, body);
    }

    fn rows(
        &mut self,
        shape: &[Extent],
        order: &[usize],
        parallel: bool,
        at: &mut Vec<Expr>,
        body: impl FnOnce(&mut Self, &[Expr]),
    ) {
        let Some((&d, rest)) = order.split_first() else { return body(self, at) };
        let kind = if parallel { LoopKind::Parallel } else { LoopKind::Serial };
        self.for_in(kind, &shape[d], |cx, i| {
            at[d] = i;
            cx.rows(shape, rest, false, at, body);
        });
    }

    fn nest(
        &mut self,
        shape: &[Extent],
        order: &[usize],
        parallel: bool,
        at: &mut Vec<Expr>,
        body: impl FnOnce(&mut Self, &[Expr]),
    ) {
        let Some((&d, rest)) = order.split_first() else { return body(self, at) };
        let kind = match (parallel, rest.is_empty()) {
            (true, _) => LoopKind::Parallel,
            (false, true) => LoopKind::Vector,
            (false, false) => LoopKind::Serial,
        };
        self.for_in(kind, &shape[d], |cx, i| {
            at[d] = i;
            cx.nest(shape, rest, false, at, body);
        });
    }

    /// Evaluates a scalar program on expressions; shared nodes become variables.
    pub fn program(&mut self, program: &ScalarProgram, args: &[Expr]) -> Expr {
        let mut values: Vec<Expr> = Vec::with_capacity(program.nodes.len());
        let mut uses = vec![0u32; program.nodes.len()];
        program.nodes.iter().for_each(|n| n.op.operands().for_each(|o| uses[o as usize] += 1));
        for (i, node) in program.nodes.iter().enumerate() {
            let get = |n: u16| Box::new(values[n as usize].clone());
            let e = match node.op {
                ScalarOp::Arg(n) => args[n as usize].clone(),
                ScalarOp::Const(bits) => Expr::Const(node.dtype, bits),
                ScalarOp::Un(op, a) => Expr::Un(op, get(a)),
                ScalarOp::Bin(op, a, b) => Expr::Bin(op, get(a), get(b)),
                ScalarOp::Fma(a, b, c) => Expr::Fma(get(a), get(b), get(c)),
                ScalarOp::Select(c, a, b) => Expr::Select(get(c), get(a), get(b)),
                ScalarOp::Cast(a) => Expr::Cast(node.dtype, get(a)),
            };
            // Registers hold elements below a byte in one; only their low bits are the result.
            let computed = matches!(node.op, ScalarOp::Un(..) | ScalarOp::Bin(..) | ScalarOp::Fma(..));
            let e = if computed && node.dtype.carrier() != node.dtype { Expr::Cast(node.dtype, Box::new(e)) } else { e };
            let simple = matches!(e, Expr::Const(..) | Expr::Var(_) | Expr::Int(_));
            values.push(if uses[i] > 1 && !simple { Expr::Var(self.let_(e)) } else { e });
        }
        values.pop().expect("internal: empty scalar program")
    }

    /// A constant table of bytes.
    pub fn const_buf(&mut self, dtype: DType, bytes: Vec<u8>) -> BufId {
        self.blob_buf(dtype, bytes.into())
    }

    /// A constant that may be made when it is written: packed weights. Equal ones are one.
    pub fn blob_buf(&mut self, dtype: DType, blob: Blob) -> BufId {
        let same = |b: &crate::lir::Buf| b.dtype == dtype && matches!(&b.kind, BufKind::Const(there) if *there == blob);
        match self.func.bufs.iter().position(same) {
            Some(n) => BufId(n as u32),
            None => self.func.buf(dtype, BufKind::Const(blob)),
        }
    }

    /// Memory for the time of the function.
    pub fn scratch(&mut self, dtype: DType, elements: u64, per_worker: bool) -> BufId {
        self.func.buf(dtype.carrier(), BufKind::Scratch { bytes: elements * dtype.bytes(), per_worker })
    }

    /// The finished function.
    pub fn finish(mut self) -> Func {
        self.func.body = self.blocks.pop().expect("internal: unbalanced blocks");
        self.func
    }
}
