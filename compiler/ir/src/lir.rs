//! The loop IR between graph and machine code: functions of nested loops over typed buffers.
//!
//! Buffers are abstract here (operands, results, scratch); the planner gives them addresses. Indices are in elements, of type
//! i64. Top-level `Parallel` loops of a function are split into tasks; everything between two of them is a barrier.

use crate::blob::Blob;
use crate::dtype::DType;
use crate::kernel::Kernel;
use crate::scalar::{BinOp, UnOp};

/// A variable of a function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Var(pub u32);

/// A buffer of a function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BufId(pub u32);

/// What a buffer is.
#[derive(Clone, PartialEq, Debug)]
pub enum BufKind {
    /// Operand n of the node.
    Input(usize),
    /// Result n of the node.
    Output(usize),
    /// A constant that lowering made (packed weights, tables): little-endian bytes, 64-byte aligned.
    Const(Blob),
    /// The table of sizes that come with the call: i64, only read.
    Sizes,
    /// Memory that lives only during the function, 64-byte aligned, contents undefined.
    Scratch {
        /// Size.
        bytes: u64,
        /// One per thread instead of one for all.
        per_worker: bool,
    },
    /// The memory of an earlier buffer, as elements of another type.
    Same(BufId),
}

/// A buffer with its element type.
#[derive(Clone, PartialEq, Debug)]
pub struct Buf {
    /// Element type of loads and stores.
    pub dtype: DType,
    /// What it is.
    pub kind: BufKind,
}

/// An expression. Arithmetic on both operands' common type; see [`crate::scalar`] for the meaning of the operations.
#[derive(Clone, PartialEq, Debug)]
pub enum Expr {
    /// An i64.
    Int(i64),
    /// A constant of a type: bits as in `ScalarOp::Const`.
    Const(DType, u64),
    /// A variable.
    Var(Var),
    /// The element at an index. Storage types f16/bf16 load as such; cast them to compute.
    Load(BufId, Box<Expr>),
    /// One operand. The type is the operand's, bool for tests; `Bitcast` swaps f32 and i32, f64 and i64.
    Un(UnOp, Box<Expr>),
    /// Two operands of one type.
    Bin(BinOp, Box<Expr>, Box<Expr>),
    /// `a*b + c`.
    Fma(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `if cond { a } else { b }`, both evaluated.
    Select(Box<Expr>, Box<Expr>, Box<Expr>),
    /// Conversion, as `ScalarOp::Cast`.
    Cast(DType, Box<Expr>),
}

/// How a loop's iterations relate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoopKind {
    /// In order.
    Serial,
    /// Independent; at top level of a function it is split into tasks.
    Parallel,
    /// Independent, or reductions of the form `set v = op(v, e)` (add, mul, min, max) into variables from outside: the code generator may run
    /// several at once in vector registers; loads and stores that step by 1 or 0 elements are the fast ones. A nest of two loops whose inner one is
    /// a vector loop may be transposed in blocks.
    Vector,
}

/// A statement.
#[derive(Clone, PartialEq, Debug)]
pub enum Stmt {
    /// `for var in lo..hi step step`.
    For {
        /// Loop variable, i64.
        var: Var,
        /// First value.
        lo: Expr,
        /// Bound (exclusive).
        hi: Expr,
        /// Step, positive.
        step: i64,
        /// Relation of iterations.
        kind: LoopKind,
        /// Body.
        body: Vec<Stmt>,
    },
    /// Declares or overwrites a variable. The first assignment in program order dominates all uses.
    Set(Var, Expr),
    /// Writes an element.
    Store(BufId, Expr, Expr),
    /// Branch on a bool.
    If(Expr, Vec<Stmt>, Vec<Stmt>),
    /// Loop while a bool holds.
    While(Expr, Vec<Stmt>),
    /// A microkernel call: pointers as (buffer, element index), then i64 arguments, as its [`Kernel`] documents.
    Call(Kernel, Vec<(BufId, Expr)>, Vec<Expr>),
}

/// A function: the code of one node.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Func {
    /// Name, unique in the module; from the node.
    pub name: String,
    /// Buffers.
    pub bufs: Vec<Buf>,
    /// Types of the variables.
    pub vars: Vec<DType>,
    /// Body.
    pub body: Vec<Stmt>,
}

impl Func {
    /// A new variable.
    pub fn var(&mut self, dtype: DType) -> Var {
        self.vars.push(dtype);
        Var((self.vars.len() - 1) as u32)
    }

    /// A new buffer.
    pub fn buf(&mut self, dtype: DType, kind: BufKind) -> BufId {
        self.bufs.push(Buf { dtype, kind });
        BufId((self.bufs.len() - 1) as u32)
    }

    /// Type of an expression.
    pub fn dtype(&self, e: &Expr) -> DType {
        match e {
            Expr::Int(_) => DType::I64,
            Expr::Const(t, _) | Expr::Cast(t, _) => *t,
            Expr::Var(v) => self.vars[v.0 as usize],
            Expr::Load(b, _) => self.bufs[b.0 as usize].dtype,
            Expr::Un(UnOp::IsNan | UnOp::IsInf, _) => DType::Bool,
            Expr::Un(UnOp::Bitcast, a) => match self.dtype(a) {
                DType::F32 => DType::I32,
                DType::F64 => DType::I64,
                DType::I64 => DType::F64,
                _ => DType::F32,
            },
            Expr::Bin(op, ..) if op.is_comparison() => DType::Bool,
            Expr::Un(_, a) | Expr::Bin(_, a, _) | Expr::Fma(a, ..) | Expr::Select(_, a, _) => self.dtype(a),
        }
    }
}

/// Shorthands for index arithmetic, with the obvious simplifications.
impl Expr {
    /// `self + other`.
    #[expect(clippy::should_implement_trait, reason = "builds an expression, by value, beside other builders")]
    pub fn add(self, other: Expr) -> Expr {
        match (self, other) {
            (Expr::Int(a), Expr::Int(b)) => Expr::Int(a + b),
            (e, Expr::Int(0)) | (Expr::Int(0), e) => e,
            (a, b) => Expr::Bin(BinOp::Add, Box::new(a), Box::new(b)),
        }
    }

    /// `self * k`.
    pub fn times(self, k: i64) -> Expr {
        match (self, k) {
            (_, 0) => Expr::Int(0),
            (e, 1) => e,
            (Expr::Int(a), k) => Expr::Int(a * k),
            (e, k) => Expr::Bin(BinOp::Mul, Box::new(e), Box::new(Expr::Int(k))),
        }
    }

    /// Any two-operand operation.
    pub fn bin(op: BinOp, a: Expr, b: Expr) -> Expr {
        Expr::Bin(op, Box::new(a), Box::new(b))
    }

    /// Any one-operand operation.
    pub fn un(op: UnOp, a: Expr) -> Expr {
        Expr::Un(op, Box::new(a))
    }

    /// An f32 constant.
    pub fn f32(x: f32) -> Expr {
        Expr::Const(DType::F32, f64::from(x).to_bits())
    }
}
