//! From a loop's statements to a plan of what its vector form does.

use std::collections::{BTreeMap, BTreeSet};

use onnxc_ir::DType;
use onnxc_ir::lir::{BufId, Expr, Func, LoopKind, Stmt, Var};
use onnxc_ir::math;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp};

use super::index::{DivCeil, Linear};
use super::uses::{collect, mentions, uses};
use super::{Access, Body, Item, Plan, Reduction, Slot, SlotValue, Source, Trips};
use crate::program::lane_type;

/// Inner loops of at most this many rounds are unrolled.
const UNROLL: i64 = 9;
/// Lanes further apart than this many elements are left to scalar code.
const MAX_STRIDE: u64 = 1 << 23;
/// Larger bodies are left to scalar code.
const MAX_NODES: usize = 2000;
/// Loops known to be shorter are not worth a call.
const MIN_TRIPS: i64 = 4;

pub(super) fn analyse(func: &Func, stmt: &Stmt) -> Option<Plan> {
    let Stmt::For { var, lo, hi, step, kind: LoopKind::Vector, body } = stmt else { return None };
    let trips = match (lo, hi) {
        (Expr::Int(lo), Expr::Int(hi)) => Some((hi - lo).div_ceil_by(*step)),
        _ => None,
    };
    if trips.is_some_and(|n| n < MIN_TRIPS) {
        return None;
    }
    let mut a = Analysis::new(func, *var, lo.clone(), *step, body);
    if a.assigned.contains(var) {
        return None;
    }
    let mut env = Env::default();
    let mut out = Body::default();
    a.block(body, &mut env, &mut out)?;
    Some(Plan { trips: trips.map(|n| n as u64), ..a.finish(out) })
}

pub(super) struct Analysis<'f> {
    pub(super) func: &'f Func,
    pub(super) loop_var: Var,
    pub(super) lo: Expr,
    pub(super) step: i64,
    pub(super) assigned: BTreeSet<Var>,
    pub(super) stored: BTreeSet<BufId>,
    /// Stores to a buffer so far: loads before and after are different values.
    epochs: BTreeMap<BufId, u32>,
    slots: Vec<Slot>,
    block_bytes: u32,
    pointers: Vec<(u32, i64)>,
    scalars: Vec<(u32, DType)>,
    reductions: BTreeMap<Var, (usize, Reduction)>,
    n_cells: usize,
    memory: Vec<(DType, bool)>,
    pub(super) depth: usize,
    nodes: usize,
}

/// Values of variables that the body has set so far.
#[derive(Clone, Default)]
pub(super) struct Env {
    nodes: BTreeMap<Var, NodeIx>,
    pub(super) indices: BTreeMap<Var, Linear>,
    /// Values of the surrounding body that a nested loop sees: their cells.
    outer: BTreeMap<Var, usize>,
}

impl<'f> Analysis<'f> {
    /// Nothing analysed yet of a loop over `loop_var` from `lo` with `body`.
    pub(super) fn new(func: &'f Func, loop_var: Var, lo: Expr, step: i64, body: &[Stmt]) -> Analysis<'f> {
        let (mut assigned, mut stored) = (BTreeSet::new(), BTreeSet::new());
        collect(body, &mut assigned, &mut stored);
        Analysis {
            func,
            loop_var,
            lo,
            step,
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
        }
    }

    /// The plan of the whole, whose body is `out`.
    pub(super) fn finish(self, out: Body) -> Plan {
        let mut reductions: Vec<(usize, Reduction)> = self.reductions.values().map(|r| (r.0, r.1.clone())).collect();
        reductions.sort_by_key(|r| r.0);
        Plan {
            body: out,
            trips: None,
            slots: self.slots,
            pointers: self.pointers,
            scalars: self.scalars,
            reductions: reductions.into_iter().map(|r| r.1).collect(),
            n_cells: self.n_cells,
            memory: self.memory,
            block_bytes: self.block_bytes.next_multiple_of(8),
        }
    }

    fn slot(&mut self, value: SlotValue) -> u32 {
        if let Some(s) = self.slots.iter().find(|s| s.value == value) {
            return s.offset;
        }
        let offset = self.block_bytes;
        self.slots.push(Slot { offset, value });
        self.block_bytes += 8;
        offset
    }

    pub(super) fn block(&mut self, body: &[Stmt], env: &mut Env, out: &mut Body) -> Option<()> {
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
                    if at.stride == 0 || lane_type(at.dtype).is_err() {
                        return None;
                    }
                    let before = self.loads_of(*buf, out);
                    *self.epochs.entry(*buf).or_default() += 1;
                    self.memory.push((at.dtype, at.strided()));
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
        let loads = |n: &ScalarOp| matches!(n, ScalarOp::Arg(a) if matches!(&out.args[*a as usize], Source::Load { at, .. } if at.buf == buf));
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
    fn nested(&mut self, var: Var, round: Linear, trips: Trips, body: &[Stmt], env: &mut Env, out: &mut Body) -> Option<()> {
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
                self.memory.push((at.dtype, at.strided()));
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

    fn access(&mut self, buf: BufId, index: &Expr, env: &Env) -> Option<Access> {
        let dtype = self.func.bufs[buf.0 as usize].dtype;
        let index = self.index(index, env)?;
        let bytes = dtype.bytes() as i64;
        // Offsets of lanes are 32-bit numbers.
        if index.lane.unsigned_abs() > MAX_STRIDE || !dtype.bits().is_multiple_of(8) {
            return None;
        }
        let stride = index.lane * bytes;
        let steps: Vec<i64> = (0..self.depth).map(|d| index.inner.get(d).copied().unwrap_or(0) * bytes).collect();
        // Accesses with and without lanes advance differently; they share a slot only when equal in that.
        let offset = self.pointer_slot(buf, index.rest, stride);
        Some(Access { buf, dtype, pointer: (offset, steps), disp: index.constant * bytes, stride })
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
