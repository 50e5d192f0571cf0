//! Vector loops of the loop IR as leaf functions.
//!
//! [`vectorize`] looks at a loop whose iterations are independent. When every load and store steps by 0 or 1 elements, its body becomes a
//! function that runs several iterations at once; what it needs from outside comes in a block of memory. This file is the analysis, the
//! emission is in `vector_loop`.

use std::collections::{BTreeMap, BTreeSet};

use onnxc_ir::DType;
use onnxc_ir::lir::{BufId, Expr, Func, LoopKind, Stmt, Var};
use onnxc_ir::math;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram, UnOp};

use crate::cpu::{Isa, Target};
use crate::error::Error;
use crate::kernels::KernelCode;
use crate::program::lane_type;
use crate::vector_loop;

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

/// What a slot of the block holds. Expressions mean what they mean just before the loop.
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
    /// Lanes are neighbours; otherwise all lanes see one element.
    pub neighbours: bool,
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
    pub slots: Vec<Slot>,
    /// Pointer slots: offset and bytes per iteration.
    pub pointers: Vec<(u32, i64)>,
    pub scalars: Vec<(u32, DType)>,
    pub reductions: Vec<Reduction>,
    pub n_cells: usize,
    /// Types of memory accessed lane by lane.
    pub memory: Vec<DType>,
    pub block_bytes: u32,
}

/// Inner loops of at most this many rounds are unrolled.
const UNROLL: i64 = 9;
/// Larger bodies are left to scalar code.
const MAX_NODES: usize = 600;
/// Loops known to be shorter are not worth a call.
const MIN_TRIPS: i64 = 4;

/// The loop as a vector function, or None when it has accesses, statements or types without vector form, or the target has no vectors.
pub fn vectorize(func: &Func, stmt: &Stmt, target: &Target) -> Option<VectorLoop> {
    if target.vectors == Isa::Scalar {
        return None;
    }
    let plan = analyse(func, stmt)?;
    let code = match vector_loop::emit(target, &plan) {
        Ok(code) => code,
        Err(Error::Unsupported(_) | Error::Registers(_)) => return None,
        Err(e) => panic!("internal: targets: {e}"),
    };
    Some(VectorLoop { code, block_bytes: plan.block_bytes, slots: plan.slots })
}

fn analyse(func: &Func, stmt: &Stmt) -> Option<Plan> {
    let Stmt::For { var, lo, hi, step, kind: LoopKind::Vector, body } = stmt else { return None };
    if let (Expr::Int(lo), Expr::Int(hi)) = (lo, hi)
        && (hi - lo).div_ceil_by(*step) < MIN_TRIPS
    {
        return None;
    }
    let mut assigned = BTreeSet::new();
    let mut stored = BTreeSet::new();
    collect(body, &mut assigned, &mut stored);
    if assigned.contains(var) {
        return None;
    }
    let mut a = Analysis {
        func,
        loop_var: *var,
        lo: lo.clone(),
        step: *step,
        assigned,
        stored,
        epochs: BTreeMap::new(),
        slots: vec![Slot { offset: 0, value: SlotValue::Trips }],
        block_bytes: 8,
        pointers: Vec::new(),
        scalars: Vec::new(),
        reductions: BTreeMap::new(),
        n_cells: 0,
        memory: Vec::new(),
        depth: 0,
        nodes: 0,
    };
    let mut env = Env::default();
    let mut out = Body::default();
    a.block(body, &mut env, &mut out)?;
    let mut reductions: Vec<(usize, Reduction)> = a.reductions.values().map(|r| (r.0, r.1.clone())).collect();
    reductions.sort_by_key(|r| r.0);
    Some(Plan {
        body: out,
        slots: a.slots,
        pointers: a.pointers,
        scalars: a.scalars,
        reductions: reductions.into_iter().map(|r| r.1).collect(),
        n_cells: a.n_cells,
        memory: a.memory,
        block_bytes: a.block_bytes.next_multiple_of(8),
    })
}

/// Division that rounds up, for positive divisors.
trait DivCeil {
    fn div_ceil_by(self, d: i64) -> i64;
}

impl DivCeil for i64 {
    fn div_ceil_by(self, d: i64) -> i64 {
        (self + d - 1).div_euclid(d)
    }
}

/// Variables assigned and buffers stored anywhere in a block.
fn collect(body: &[Stmt], vars: &mut BTreeSet<Var>, bufs: &mut BTreeSet<BufId>) {
    for s in body {
        match s {
            Stmt::For { var, body, .. } => {
                vars.insert(*var);
                collect(body, vars, bufs);
            }
            Stmt::Set(v, _) => {
                vars.insert(*v);
            }
            Stmt::Store(b, ..) => {
                bufs.insert(*b);
            }
            Stmt::If(_, a, b) => {
                collect(a, vars, bufs);
                collect(b, vars, bufs);
            }
            Stmt::While(_, b) => collect(b, vars, bufs),
            Stmt::Call(..) => {}
        }
    }
}

/// An i64 as `lane*i + sum of inner[d]*r_d + constant + rest`: i is the iteration, r_d the round of inner loop d.
#[derive(Clone, PartialEq, Debug)]
struct Linear {
    lane: i64,
    inner: Vec<i64>,
    constant: i64,
    rest: Expr,
}

impl Linear {
    fn constant(constant: i64) -> Linear {
        Linear { lane: 0, inner: vec![], constant, rest: Expr::Int(0) }
    }

    fn is_constant(&self) -> bool {
        self.lane == 0 && self.inner.iter().all(|c| *c == 0) && self.rest == Expr::Int(0)
    }

    /// The same in every lane and every round.
    fn is_invariant(&self) -> bool {
        self.lane == 0 && self.inner.iter().all(|c| *c == 0)
    }

    fn add(self, other: Linear) -> Linear {
        let n = self.inner.len().max(other.inner.len());
        let at = |v: &[i64], i: usize| v.get(i).copied().unwrap_or(0);
        Linear {
            lane: self.lane + other.lane,
            inner: (0..n).map(|i| at(&self.inner, i) + at(&other.inner, i)).collect(),
            constant: self.constant + other.constant,
            rest: self.rest.add(other.rest),
        }
    }

    fn times(self, k: i64) -> Linear {
        Linear {
            lane: self.lane * k,
            inner: self.inner.iter().map(|c| c * k).collect(),
            constant: self.constant * k,
            rest: self.rest.times(k),
        }
    }

    fn expr(self) -> Expr {
        self.rest.add(Expr::Int(self.constant))
    }
}

/// Values of variables that the body has set so far.
#[derive(Clone, Default)]
struct Env {
    nodes: BTreeMap<Var, NodeIx>,
    indices: BTreeMap<Var, Linear>,
    /// Values of the surrounding body that a nested loop sees: their cells.
    outer: BTreeMap<Var, usize>,
}

struct Analysis<'f> {
    func: &'f Func,
    loop_var: Var,
    lo: Expr,
    step: i64,
    assigned: BTreeSet<Var>,
    stored: BTreeSet<BufId>,
    /// Stores to a buffer so far: loads before and after are different values.
    epochs: BTreeMap<BufId, u32>,
    slots: Vec<Slot>,
    block_bytes: u32,
    pointers: Vec<(u32, i64)>,
    scalars: Vec<(u32, DType)>,
    reductions: BTreeMap<Var, (usize, Reduction)>,
    n_cells: usize,
    memory: Vec<DType>,
    depth: usize,
    nodes: usize,
}

impl Analysis<'_> {
    fn slot(&mut self, value: SlotValue) -> u32 {
        if let Some(s) = self.slots.iter().find(|s| s.value == value) {
            return s.offset;
        }
        let offset = self.block_bytes;
        self.slots.push(Slot { offset, value });
        self.block_bytes += 8;
        offset
    }

    fn block(&mut self, body: &[Stmt], env: &mut Env, out: &mut Body) -> Option<()> {
        for stmt in body {
            self.nodes = self.nodes.max(out.program.nodes.len());
            if out.program.nodes.len() > MAX_NODES {
                return None;
            }
            match stmt {
                Stmt::Set(v, e) => self.set(*v, e, env, out)?,
                Stmt::Store(buf, index, e) => {
                    let node = self.value(e, env, out)?;
                    let at = self.access(*buf, index, env)?;
                    if !at.neighbours || lane_type(at.dtype).is_err() {
                        return None;
                    }
                    let before = self.loads_of(*buf, out);
                    *self.epochs.entry(*buf).or_default() += 1;
                    self.memory.push(at.dtype);
                    out.items.push(Item::Store { at, node, before });
                }
                Stmt::For { var, lo, hi, step, body, .. } => self.inner_loop((*var, lo, hi, *step), body, env, out)?,
                Stmt::If(..) | Stmt::While(..) | Stmt::Call(..) => return None,
            }
        }
        Some(())
    }

    /// Nodes of `out` that load from a buffer.
    fn loads_of(&self, buf: BufId, out: &Body) -> Vec<NodeIx> {
        let loads = |n: &ScalarOp| {
            matches!(n, ScalarOp::Arg(a) if matches!(&out.args[*a as usize], Source::Load { at, .. } if at.buf == buf))
        };
        (0..out.program.nodes.len()).filter(|i| loads(&out.program.nodes[*i].op)).map(|i| i as NodeIx).collect()
    }

    fn set(&mut self, v: Var, e: &Expr, env: &mut Env, out: &mut Body) -> Option<()> {
        if self.func.vars[v.0 as usize] == DType::I64 {
            let value = self.index(e, env)?;
            env.indices.insert(v, value);
            return Some(());
        }
        let local = env.nodes.contains_key(&v) || env.outer.contains_key(&v);
        if !local && mentions(e, v) {
            return self.reduce(v, e, env, out);
        }
        if self.reductions.contains_key(&v) {
            return None;
        }
        let node = self.value(e, env, out)?;
        env.nodes.insert(v, node);
        Some(())
    }

    /// `v = op(v, e)` with `v` from outside.
    fn reduce(&mut self, v: Var, e: &Expr, env: &mut Env, out: &mut Body) -> Option<()> {
        let (op, other) = match e {
            Expr::Bin(op @ (BinOp::Add | BinOp::Mul | BinOp::Min | BinOp::Max), a, b) => match (&**a, &**b) {
                (Expr::Var(w), other) | (other, Expr::Var(w)) if *w == v => (*op, other.clone()),
                _ => return None,
            },
            Expr::Fma(a, b, c) if **c == Expr::Var(v) => (BinOp::Add, Expr::Bin(BinOp::Mul, a.clone(), b.clone())),
            _ => return None,
        };
        if mentions(&other, v) {
            return None;
        }
        let dtype = self.func.vars[v.0 as usize];
        if !matches!(dtype, DType::F32 | DType::I32) {
            return None;
        }
        let node = self.value(&other, env, out)?;
        let offset = self.slot(SlotValue::Result(v, dtype));
        let n = self.reductions.len();
        let entry = self.reductions.entry(v).or_insert((n, Reduction { op, dtype, offset }));
        if entry.1.op != op {
            return None;
        }
        out.items.push(Item::Reduce { reduction: entry.0, node });
        Some(())
    }

    fn inner_loop(
        &mut self,
        (var, lo, hi, step): (Var, &Expr, &Expr, i64),
        body: &[Stmt],
        env: &mut Env,
        out: &mut Body,
    ) -> Option<()> {
        let (from, to) = (self.index(lo, env)?, self.index(hi, env)?);
        let length = to.add(from.clone().times(-1));
        if length.is_constant() {
            let trips = length.constant.div_ceil_by(step).max(0);
            if trips <= UNROLL {
                for i in 0..trips {
                    env.indices.insert(var, from.clone().add(Linear::constant(i * step)));
                    self.block(body, env, out)?;
                }
                return Some(());
            }
        }
        if !length.is_invariant() || from.lane != 0 {
            return None;
        }
        let trips = if length.is_constant() {
            Trips::Const(length.constant.div_ceil_by(step) as u64)
        } else {
            let rounded = length.expr().add(Expr::Int(step - 1));
            let count = if step == 1 { rounded } else { Expr::bin(BinOp::Div, rounded, Expr::Int(step)) };
            Trips::Slot(self.slot(SlotValue::Count(count)))
        };
        let mut round = from;
        round.inner.resize(self.depth, 0);
        round.inner.push(step);
        self.nested(var, round, trips, body, env, out)
    }

    /// A loop that stays a loop. Values of the surrounding body reach it in cells; those that it sets are carried from round to round.
    fn nested(
        &mut self,
        var: Var,
        round: Linear,
        trips: Trips,
        body: &[Stmt],
        env: &mut Env,
        out: &mut Body,
    ) -> Option<()> {
        let (mut sets, mut used, mut stores) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        collect(body, &mut sets, &mut stores);
        uses(body, &mut used);
        // A store in the loop and loads of the same buffer around it could change places.
        if stores.iter().any(|b| !self.loads_of(*b, out).is_empty()) {
            return None;
        }
        let visible: BTreeSet<Var> = env.nodes.keys().chain(env.outer.keys()).copied().collect();
        let mut inner = Env { indices: env.indices.clone(), ..Env::default() };
        let mut carried = Vec::new();
        for v in visible.into_iter().filter(|v| used.contains(v) || sets.contains(v)) {
            let node = self.variable(v, env, out)?;
            let cell = self.n_cells;
            self.n_cells += 1;
            out.items.push(Item::Open { cell, node });
            inner.outer.insert(v, cell);
            if sets.contains(&v) {
                carried.push((v, cell));
            }
        }
        // An index that changes from round to round has no linear form.
        if sets.iter().any(|v| env.indices.contains_key(v)) {
            return None;
        }
        inner.indices.insert(var, round);
        self.depth += 1;
        let mut nested = Body::default();
        self.block(body, &mut inner, &mut nested)?;
        self.depth -= 1;
        let mut carry = Vec::new();
        for (v, cell) in &carried {
            let node = self.variable(*v, &mut inner, &mut nested)?;
            carry.push((*cell, node));
        }
        nested.items.push(Item::Carry(carry));
        out.items.push(Item::Loop { trips, body: nested });
        for (v, cell) in carried {
            let node = self.source(Source::Cell(cell), self.func.vars[v.0 as usize], out)?;
            env.nodes.insert(v, node);
        }
        Some(())
    }

    /// The program operand for a source.
    fn source(&mut self, source: Source, dtype: DType, out: &mut Body) -> Option<NodeIx> {
        lane_type(dtype).ok()?;
        let n = match out.args.iter().position(|s| *s == source) {
            Some(n) => n,
            None => {
                out.args.push(source);
                out.args.len() - 1
            }
        };
        Some(out.program.arg(u8::try_from(n).ok()?, dtype))
    }

    /// The value of a variable that the body has set, or sees from a surrounding body.
    fn variable(&mut self, v: Var, env: &mut Env, out: &mut Body) -> Option<NodeIx> {
        if let Some(n) = env.nodes.get(&v) {
            return Some(*n);
        }
        let cell = *env.outer.get(&v)?;
        self.source(Source::Cell(cell), self.func.vars[v.0 as usize], out)
    }

    /// The value of an expression as a node.
    fn value(&mut self, e: &Expr, env: &mut Env, out: &mut Body) -> Option<NodeIx> {
        if let Expr::Const(t, bits) = e {
            lane_type(*t).ok()?;
            return Some(out.program.push(ScalarOp::Const(*bits), *t));
        }
        if self.is_invariant(e, self.depth == 0) {
            let dtype = self.func.dtype(e);
            lane_type(dtype).ok()?;
            let offset = self.slot(SlotValue::Scalar(dtype, e.clone()));
            if !self.scalars.contains(&(offset, dtype)) {
                self.scalars.push((offset, dtype));
            }
            return self.source(Source::Scalar { offset, dtype }, dtype, out);
        }
        let dtype = self.func.dtype(e);
        let op = match e {
            Expr::Var(v) => return self.variable(*v, env, out),
            Expr::Load(buf, index) => {
                let at = self.access(*buf, index, env)?;
                self.memory.push(at.dtype);
                let epoch = self.epochs.get(buf).copied().unwrap_or(0);
                return self.source(Source::Load { at, epoch }, dtype, out);
            }
            Expr::Un(op, a) => {
                let a = self.value(a, env, out)?;
                ScalarOp::Un(*op, a)
            }
            Expr::Bin(op, a, b) => {
                let (a, b) = (self.value(a, env, out)?, self.value(b, env, out)?);
                ScalarOp::Bin(*op, a, b)
            }
            Expr::Fma(a, b, c) => {
                let (a, b, c) = (self.value(a, env, out)?, self.value(b, env, out)?, self.value(c, env, out)?);
                ScalarOp::Fma(a, b, c)
            }
            Expr::Select(c, a, b) => {
                let (c, a, b) = (self.value(c, env, out)?, self.value(a, env, out)?, self.value(b, env, out)?);
                ScalarOp::Select(c, a, b)
            }
            Expr::Cast(t, a) => {
                let a = self.value(a, env, out)?;
                if out.program.dtype(a) == *t {
                    return Some(a);
                }
                ScalarOp::Cast(a)
            }
            Expr::Int(_) | Expr::Const(..) => return None,
        };
        lane_type(dtype).ok()?;
        Some(math::push(&mut out.program, op, dtype))
    }

    /// True when the expression has the same value in every iteration and can be computed before the loop.
    fn is_invariant(&self, e: &Expr, loads: bool) -> bool {
        match e {
            Expr::Int(_) | Expr::Const(..) => true,
            Expr::Var(v) => *v != self.loop_var && !self.assigned.contains(v),
            // A load in an inner loop that runs zero times must not happen.
            Expr::Load(b, i) => loads && !self.stored.contains(b) && self.is_invariant(i, loads),
            Expr::Un(_, a) | Expr::Cast(_, a) => self.is_invariant(a, loads),
            Expr::Bin(_, a, b) => self.is_invariant(a, loads) && self.is_invariant(b, loads),
            Expr::Fma(a, b, c) | Expr::Select(a, b, c) => [a, b, c].into_iter().all(|e| self.is_invariant(e, loads)),
        }
    }

    /// The linear form of an index.
    fn index(&self, e: &Expr, env: &Env) -> Option<Linear> {
        if let Expr::Int(k) = e {
            return Some(Linear::constant(*k));
        }
        if self.is_invariant(e, true) {
            return Some(Linear { rest: e.clone(), ..Linear::constant(0) });
        }
        match e {
            Expr::Var(v) if *v == self.loop_var => {
                Some(Linear { lane: self.step, rest: self.lo.clone(), ..Linear::constant(0) })
            }
            Expr::Var(v) => env.indices.get(v).cloned(),
            Expr::Bin(BinOp::Add, a, b) => Some(self.index(a, env)?.add(self.index(b, env)?)),
            Expr::Bin(BinOp::Sub, a, b) => Some(self.index(a, env)?.add(self.index(b, env)?.times(-1))),
            Expr::Bin(BinOp::Mul, a, b) => {
                let (a, b) = (self.index(a, env)?, self.index(b, env)?);
                if a.is_constant() {
                    Some(b.times(a.constant))
                } else if b.is_constant() {
                    Some(a.times(b.constant))
                } else {
                    None
                }
            }
            // Constants of unrolled loops inside other arithmetic.
            Expr::Bin(op, a, b) => {
                let (a, b) = (self.index(a, env)?, self.index(b, env)?);
                if !(a.is_invariant() && b.is_invariant()) {
                    return None;
                }
                match (op, a.is_constant() && b.is_constant()) {
                    (BinOp::Min, true) => Some(Linear::constant(a.constant.min(b.constant))),
                    (BinOp::Max, true) => Some(Linear::constant(a.constant.max(b.constant))),
                    (BinOp::Min | BinOp::Max | BinOp::Div | BinOp::Mod | BinOp::Rem, _) => {
                        Some(Linear { rest: Expr::bin(*op, a.expr(), b.expr()), ..Linear::constant(0) })
                    }
                    _ => None,
                }
            }
            Expr::Un(UnOp::Neg, a) => Some(self.index(a, env)?.times(-1)),
            _ => None,
        }
    }

    fn access(&mut self, buf: BufId, index: &Expr, env: &Env) -> Option<Access> {
        let dtype = self.func.bufs[buf.0 as usize].dtype;
        let index = self.index(index, env)?;
        if !matches!(index.lane, 0 | 1) || dtype.bits() % 8 != 0 {
            return None;
        }
        let bytes = dtype.bytes() as i64;
        let neighbours = index.lane == 1;
        let steps: Vec<i64> = (0..self.depth).map(|d| index.inner.get(d).copied().unwrap_or(0) * bytes).collect();
        // Accesses with and without lanes advance differently; they share a slot only when equal in that.
        let offset = self.pointer_slot(buf, index.rest, if neighbours { bytes } else { 0 });
        Some(Access { buf, dtype, pointer: (offset, steps), disp: index.constant * bytes, neighbours })
    }

    fn pointer_slot(&mut self, buf: BufId, index: Expr, step: i64) -> u32 {
        let value = SlotValue::Pointer(buf, index);
        let known = self.slots.iter().find(|s| s.value == value && self.pointers.contains(&(s.offset, step)));
        if let Some(s) = known {
            return s.offset;
        }
        let offset = self.block_bytes;
        self.slots.push(Slot { offset, value });
        self.block_bytes += 8;
        self.pointers.push((offset, step));
        offset
    }
}

/// True when `e` reads `v`.
fn mentions(e: &Expr, v: Var) -> bool {
    let mut vars = BTreeSet::new();
    expr_uses(e, &mut vars);
    vars.contains(&v)
}

fn expr_uses(e: &Expr, vars: &mut BTreeSet<Var>) {
    match e {
        Expr::Int(_) | Expr::Const(..) => {}
        Expr::Var(v) => {
            vars.insert(*v);
        }
        Expr::Load(_, a) | Expr::Un(_, a) | Expr::Cast(_, a) => expr_uses(a, vars),
        Expr::Bin(_, a, b) => {
            expr_uses(a, vars);
            expr_uses(b, vars);
        }
        Expr::Fma(a, b, c) | Expr::Select(a, b, c) => [a, b, c].into_iter().for_each(|e| expr_uses(e, vars)),
    }
}

/// Variables read anywhere in a block.
fn uses(body: &[Stmt], vars: &mut BTreeSet<Var>) {
    for s in body {
        match s {
            Stmt::For { lo, hi, body, .. } => {
                expr_uses(lo, vars);
                expr_uses(hi, vars);
                uses(body, vars);
            }
            Stmt::Set(_, e) => expr_uses(e, vars),
            Stmt::Store(_, i, e) => {
                expr_uses(i, vars);
                expr_uses(e, vars);
            }
            Stmt::If(c, a, b) => {
                expr_uses(c, vars);
                uses(a, vars);
                uses(b, vars);
            }
            Stmt::While(c, b) => {
                expr_uses(c, vars);
                uses(b, vars);
            }
            Stmt::Call(_, ptrs, ints) => {
                ptrs.iter().for_each(|p| expr_uses(&p.1, vars));
                ints.iter().for_each(|e| expr_uses(e, vars));
            }
        }
    }
}
