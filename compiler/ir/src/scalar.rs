//! Scalar programs: what one element of an elementwise chain or of a kernel's epilogue computes.
//!
//! A program is a list of nodes in evaluation order (a DAG: operands refer to earlier nodes); the last node is the
//! result. Every node has a type. Integer arithmetic wraps; integer division by zero gives 0; float arithmetic is IEEE.

use std::fmt;

use crate::dtype::DType;

/// Index of a node inside its program.
pub type NodeIx = u16;

/// One-operand operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the names are the functions")]
pub enum UnOp {
    Neg,
    Abs,
    Sqrt,
    Recip,
    /// 1/x for x from 1 to 2^126, within 1 ulp.
    RecipNear,
    Exp,
    /// e^x for x <= 0, as softmax needs it: 1 for 0, and below the smallest normal number anything from 0 to 1.2e-38.
    ExpNonPositive,
    Log,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Tanh,
    Asinh,
    Acosh,
    Atanh,
    Erf,
    /// Normal distribution function, `(1 + erf(x / sqrt 2)) / 2`.
    NormalCdf,
    Sigmoid,
    Floor,
    Ceil,
    Trunc,
    /// To nearest, ties to even.
    Round,
    /// -1, 0 or 1; NaN stays NaN.
    Sign,
    /// Logical not of bool, bitwise not of integers.
    Not,
    IsNan,
    IsInf,
    /// The bits of an f32 as i32 and back (the node's type says which).
    Bitcast,
}

/// Two-operand operations. Comparisons give bool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the names are the functions")]
pub enum BinOp {
    Add,
    Sub,
    Mul,
    /// Integers truncate toward zero.
    Div,
    /// Remainder with the sign of the divisor (Python's, ONNX `Mod` with fmod=0).
    Mod,
    /// Remainder with the sign of the dividend (C's).
    Rem,
    Pow,
    /// NaN if either operand is NaN.
    Min,
    /// NaN if either operand is NaN.
    Max,
    /// And, or, xor: logical on bool, bitwise on integers.
    And,
    Or,
    Xor,
    Shl,
    /// Arithmetic for signed types, logical for unsigned ones.
    Shr,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl BinOp {
    /// True for the operations whose result is bool.
    pub fn is_comparison(self) -> bool {
        matches!(self, BinOp::Eq | BinOp::Ne | BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge)
    }
}

impl UnOp {
    /// Every operation.
    pub const ALL: &[UnOp] = &[
        UnOp::Neg,
        UnOp::Abs,
        UnOp::Sqrt,
        UnOp::Recip,
        UnOp::RecipNear,
        UnOp::Exp,
        UnOp::ExpNonPositive,
        UnOp::Log,
        UnOp::Sin,
        UnOp::Cos,
        UnOp::Tan,
        UnOp::Asin,
        UnOp::Acos,
        UnOp::Atan,
        UnOp::Sinh,
        UnOp::Cosh,
        UnOp::Tanh,
        UnOp::Asinh,
        UnOp::Acosh,
        UnOp::Atanh,
        UnOp::Erf,
        UnOp::NormalCdf,
        UnOp::Sigmoid,
        UnOp::Floor,
        UnOp::Ceil,
        UnOp::Trunc,
        UnOp::Round,
        UnOp::Sign,
        UnOp::Not,
        UnOp::IsNan,
        UnOp::IsInf,
        UnOp::Bitcast,
    ];

    /// The name in text IR: lower case.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The operation with this name.
    pub fn from_name(name: &str) -> Option<UnOp> {
        Self::ALL.iter().copied().find(|op| op.name() == name)
    }
}

impl BinOp {
    /// Every operation.
    pub const ALL: &[BinOp] = &[
        BinOp::Add,
        BinOp::Sub,
        BinOp::Mul,
        BinOp::Div,
        BinOp::Mod,
        BinOp::Rem,
        BinOp::Pow,
        BinOp::Min,
        BinOp::Max,
        BinOp::And,
        BinOp::Or,
        BinOp::Xor,
        BinOp::Shl,
        BinOp::Shr,
        BinOp::Eq,
        BinOp::Ne,
        BinOp::Lt,
        BinOp::Le,
        BinOp::Gt,
        BinOp::Ge,
    ];

    /// The name in text IR: lower case.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The operation with this name.
    pub fn from_name(name: &str) -> Option<BinOp> {
        Self::ALL.iter().copied().find(|op| op.name() == name)
    }
}

/// The operation of a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ScalarOp {
    /// Operand number n of the program.
    Arg(u8),
    /// A constant: the bits of an f64 for float types, the sign-extended i64 for integers and bool.
    Const(u64),
    /// One operand.
    Un(UnOp, NodeIx),
    /// Two operands.
    Bin(BinOp, NodeIx, NodeIx),
    /// `a*b + c`, rounded once where the target can, twice elsewhere.
    Fma(NodeIx, NodeIx, NodeIx),
    /// `if cond { a } else { b }`, cond is bool.
    Select(NodeIx, NodeIx, NodeIx),
    /// Conversion to the node's type: float to int truncates and saturates (NaN gives 0; types below a byte take the low bits of an i32), int to
    /// int wraps, to bool is `!= 0`. 8-bit and 4-bit floats saturate.
    Cast(NodeIx),
}

/// A typed node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ScalarNode {
    /// Operation.
    pub op: ScalarOp,
    /// Result type.
    pub dtype: DType,
}

/// A scalar program over `n_args` operands.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ScalarProgram {
    /// Nodes, operands before users; the last one is the result.
    pub nodes: Vec<ScalarNode>,
}

impl ScalarOp {
    /// Operand nodes, in order.
    pub fn operands(self) -> impl Iterator<Item = NodeIx> {
        let (list, n) = match self {
            ScalarOp::Arg(_) | ScalarOp::Const(_) => ([0; 3], 0),
            ScalarOp::Un(_, a) | ScalarOp::Cast(a) => ([a, 0, 0], 1),
            ScalarOp::Bin(_, a, b) => ([a, b, 0], 2),
            ScalarOp::Fma(a, b, c) | ScalarOp::Select(a, b, c) => ([a, b, c], 3),
        };
        list.into_iter().take(n)
    }

    /// The same with its operands renumbered.
    pub fn map_operands(self, f: impl Fn(NodeIx) -> NodeIx) -> ScalarOp {
        match self {
            ScalarOp::Arg(_) | ScalarOp::Const(_) => self,
            ScalarOp::Un(o, a) => ScalarOp::Un(o, f(a)),
            ScalarOp::Cast(a) => ScalarOp::Cast(f(a)),
            ScalarOp::Bin(o, a, b) => ScalarOp::Bin(o, f(a), f(b)),
            ScalarOp::Fma(a, b, c) => ScalarOp::Fma(f(a), f(b), f(c)),
            ScalarOp::Select(a, b, c) => ScalarOp::Select(f(a), f(b), f(c)),
        }
    }
}

impl ScalarProgram {
    /// Appends a node, or finds an equal one, and returns its index.
    pub fn push(&mut self, op: ScalarOp, dtype: DType) -> NodeIx {
        let node = ScalarNode { op, dtype };
        if let Some(at) = self.nodes.iter().position(|n| *n == node) {
            return at as NodeIx;
        }
        self.nodes.push(node);
        (self.nodes.len() - 1) as NodeIx
    }

    /// Operand `n` of type `dtype`.
    pub fn arg(&mut self, n: u8, dtype: DType) -> NodeIx {
        self.push(ScalarOp::Arg(n), dtype)
    }

    /// A float constant.
    pub fn float(&mut self, value: f64, dtype: DType) -> NodeIx {
        self.push(ScalarOp::Const(value.to_bits()), dtype)
    }

    /// An integer or bool constant.
    pub fn int(&mut self, value: i64, dtype: DType) -> NodeIx {
        self.push(ScalarOp::Const(value as u64), dtype)
    }

    /// One operand, same type.
    pub fn un(&mut self, op: UnOp, a: NodeIx) -> NodeIx {
        let dtype = if matches!(op, UnOp::IsNan | UnOp::IsInf) { DType::Bool } else { self.dtype(a) };
        self.push(ScalarOp::Un(op, a), dtype)
    }

    /// Two operands of one type.
    pub fn bin(&mut self, op: BinOp, a: NodeIx, b: NodeIx) -> NodeIx {
        let dtype = if op.is_comparison() { DType::Bool } else { self.dtype(a) };
        self.push(ScalarOp::Bin(op, a, b), dtype)
    }

    /// `if cond { a } else { b }`.
    pub fn select(&mut self, cond: NodeIx, a: NodeIx, b: NodeIx) -> NodeIx {
        let dtype = self.dtype(a);
        self.push(ScalarOp::Select(cond, a, b), dtype)
    }

    /// Conversion.
    pub fn cast(&mut self, a: NodeIx, dtype: DType) -> NodeIx {
        if self.dtype(a) == dtype { a } else { self.push(ScalarOp::Cast(a), dtype) }
    }

    /// Type of a node.
    pub fn dtype(&self, n: NodeIx) -> DType {
        self.nodes[n as usize].dtype
    }

    /// The result node.
    pub fn result(&self) -> NodeIx {
        (self.nodes.len() - 1) as NodeIx
    }

    /// One more than the highest operand number.
    pub fn n_args(&self) -> usize {
        let highest = self.nodes.iter().filter_map(|n| match n.op {
            ScalarOp::Arg(a) => Some(a as usize + 1),
            _ => None,
        });
        highest.max().unwrap_or(0)
    }

    /// Appends `inner`'s nodes with its operand `n` replaced by this program's node `args[n]`; returns its result.
    pub fn inline(&mut self, inner: &ScalarProgram, args: &[NodeIx]) -> NodeIx {
        let mut map: Vec<NodeIx> = Vec::with_capacity(inner.nodes.len());
        for node in &inner.nodes {
            let at = match node.op {
                ScalarOp::Arg(n) => args[n as usize],
                op => self.push(op.map_operands(|i| map[i as usize]), node.dtype),
            };
            map.push(at);
        }
        *map.last().expect("internal: empty scalar program")
    }

    /// Moves `result` to the end and drops nodes that it does not need.
    pub fn finish(&self, result: NodeIx) -> ScalarProgram {
        let mut live = vec![false; self.nodes.len()];
        live[result as usize] = true;
        for i in (0..=result as usize).rev() {
            if live[i] {
                self.nodes[i].op.operands().for_each(|o| live[o as usize] = true);
            }
        }
        let mut map = vec![0; self.nodes.len()];
        let mut out = ScalarProgram::default();
        for i in 0..=result as usize {
            if live[i] {
                out.nodes.push(ScalarNode { op: self.nodes[i].op.map_operands(|o| map[o as usize]), ..self.nodes[i] });
                map[i] = (out.nodes.len() - 1) as NodeIx;
            }
        }
        out
    }

    /// What `result` needs, in the order in which it is needed, operands from left to right: programs of the same operations become equal.
    pub fn in_order(&self, result: NodeIx) -> ScalarProgram {
        let mut map: Vec<Option<NodeIx>> = vec![None; self.nodes.len()];
        let mut out = ScalarProgram::default();
        let mut waiting = vec![(result, false)];
        while let Some((i, operands_are_there)) = waiting.pop() {
            let node = self.nodes[i as usize];
            if map[i as usize].is_some() {
                continue;
            }
            if operands_are_there {
                let placed = |o: NodeIx| map[o as usize].expect("internal: operands of a scalar node come before it");
                let at = out.push(node.op.map_operands(placed), node.dtype);
                map[i as usize] = Some(at);
            } else {
                waiting.push((i, true));
                let first = waiting.len();
                waiting.extend(node.op.operands().map(|o| (o, false)));
                waiting[first..].reverse();
            }
        }
        out
    }

    /// True when the program is only its operand 0.
    pub fn is_identity(&self) -> bool {
        matches!(self.nodes[..], [ScalarNode { op: ScalarOp::Arg(0), .. }])
    }
}

impl fmt::Display for ScalarProgram {
    /// `f32 a0; f32 2.0; f32 mul %0 %1`: what the text IR prints inside quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            let semi = if i > 0 { "; " } else { "" };
            write!(f, "{semi}{} ", node.dtype)?;
            match node.op {
                ScalarOp::Arg(n) => write!(f, "a{n}")?,
                ScalarOp::Const(bits) if node.dtype.is_float() => write!(f, "{:?}", f64::from_bits(bits))?,
                ScalarOp::Const(bits) => write!(f, "{}", bits as i64)?,
                ScalarOp::Un(o, a) => write!(f, "{} %{a}", o.name())?,
                ScalarOp::Bin(o, a, b) => write!(f, "{} %{a} %{b}", o.name())?,
                ScalarOp::Fma(a, b, c) => write!(f, "fma %{a} %{b} %{c}")?,
                ScalarOp::Select(c, a, b) => write!(f, "select %{c} %{a} %{b}")?,
                ScalarOp::Cast(a) => write!(f, "cast %{a}")?,
            }
        }
        Ok(())
    }
}
