//! The walk over a function that counts its work.

mod kernels;

use std::collections::{BTreeSet, HashMap};

use super::footprint::{Access, Footprint};
use super::index::{Index, Scope};
use super::{LoopWork, Ops, Touched, Work};
use crate::DType;
use crate::kernel::Kernel;
use crate::lir::{BufId, BufKind, Expr, Func, LoopKind, Stmt, Var};
use crate::scalar::{BinOp, ScalarOp, ScalarProgram, UnOp};
use kernels::program;

/// Statements after which loops are no longer walked round by round.
const PATIENCE: u64 = 1 << 18;

/// Counts the work of a function.
pub(super) fn count(func: &Func, sizes: &[(u64, u64)]) -> Work {
    let mut one_by_one = BTreeSet::new();
    loop {
        let mut walk = Walk::new(func, sizes, one_by_one);
        walk.block(&func.body, 1);
        one_by_one = std::mem::take(&mut walk.one_by_one);
        let known = one_by_one.len();
        one_by_one.append(&mut walk.wanted);
        if one_by_one.len() == known {
            return walk.finish();
        }
    }
}

struct Walk<'a> {
    scope: Scope<'a>,
    /// Loops that are walked round by round, and those that should be next time because branches or trip counts depend on them.
    one_by_one: BTreeSet<Var>,
    wanted: BTreeSet<Var>,
    /// Variables with one assignment, whose value is known where they are used.
    once: HashMap<Var, usize>,
    /// Basic operations of functions.
    costs: HashMap<(ScalarOp, DType, Option<u64>), Ops>,
    reads: Vec<Footprint>,
    writes: Vec<Footprint>,
    work: Work,
    visited: u64,
    /// The loops around, outermost first.
    around: Vec<Around>,
    /// Loops that a variable depends on.
    origin: HashMap<Var, BTreeSet<Var>>,
}

/// A loop around a statement.
struct Around {
    var: Var,
    rounds: u64,
    vector: bool,
}

impl<'a> Walk<'a> {
    fn new(func: &'a Func, sizes: &'a [(u64, u64)], one_by_one: BTreeSet<Var>) -> Walk<'a> {
        let mut once = HashMap::new();
        assignments(&func.body, &mut once);
        let mut origin = HashMap::new();
        origins(&func.body, &mut origin);
        let none = || func.bufs.iter().map(|_| Footprint::default()).collect();
        Walk {
            scope: Scope { func, sizes, rounds: HashMap::new(), values: HashMap::new() },
            one_by_one,
            wanted: BTreeSet::new(),
            once,
            costs: HashMap::new(),
            reads: none(),
            writes: none(),
            work: Work { exact: true, ..Work::default() },
            visited: 0,
            around: Vec::new(),
            origin,
        }
    }

    fn finish(mut self) -> Work {
        let size = |kind: &BufKind| match kind {
            BufKind::Const(blob) => blob.bytes(),
            BufKind::Scratch { bytes, .. } => *bytes,
            _ => u64::MAX,
        };
        let touched = self.reads.iter().zip(&self.writes).zip(&self.scope.func.bufs).map(|((r, w), buf)| {
            let limit = size(&buf.kind);
            Touched { read: r.bytes().min(limit), written: w.bytes().min(limit) }
        });
        self.work.bufs = touched.collect();
        self.work
    }

    fn block(&mut self, block: &[Stmt], times: u64) {
        block.iter().for_each(|s| self.stmt(s, times));
    }

    fn stmt(&mut self, stmt: &Stmt, times: u64) {
        self.visited += 1;
        match stmt {
            Stmt::For { var, lo, hi, step, kind, body } => {
                self.expr(lo, 0);
                self.expr(hi, 0);
                self.work.vector_loops |= *kind == LoopKind::Vector;
                self.counted(*var, (lo, hi, *step), (body, *kind), times);
            }
            Stmt::Set(v, e) => {
                // Integers of 64 bits are indices more often than data.
                self.expr(e, if self.scope.func.dtype(e) == DType::I64 { 0 } else { times });
                let value = self.scope.eval(e);
                if self.once.get(v) == Some(&1) {
                    self.scope.values.insert(*v, value);
                }
            }
            Stmt::Store(b, i, e) => {
                self.expr(i, 0);
                self.expr(e, times);
                self.work.stores = self.work.stores.saturating_add(times);
                self.element(*b, i, true, times);
            }
            Stmt::If(c, a, b) => self.branch(c, a, b, times),
            Stmt::While(c, body) => {
                self.work.exact = false;
                self.expr(c, 0);
                self.block(body, times);
            }
            Stmt::Call(kernel, pointers, ints) => {
                pointers.iter().for_each(|(_, e)| self.expr(e, 0));
                ints.iter().for_each(|e| self.expr(e, 0));
                match kernel {
                    Kernel::Tile(k) => self.tile(k, pointers, ints, times),
                    Kernel::Depthwise(k) => self.depthwise(k, pointers, ints, times),
                    Kernel::Lookup(k) => self.lookup(k, pointers, times),
                    // Neither arithmetic nor bytes: what is fetched counts where it is used.
                    Kernel::Fetch(_) => {}
                }
            }
        }
    }

    fn counted(&mut self, var: Var, (lo, hi, step): (&Expr, &Expr, i64), (body, kind): (&[Stmt], LoopKind), times: u64) {
        let (vector, parallel) = (kind == LoopKind::Vector, kind == LoopKind::Parallel);
        let (first, step) = (self.scope.eval(lo), step.max(1));
        let length = self.scope.eval(hi).plus(first.clone().scaled(-1));
        let Some((least, most)) = self.scope.range(&length) else {
            self.work.exact = false;
            self.around.push(Around { var, rounds: 1, vector });
            self.rounds(var, &first, step, 1, body, times);
            return self.leave(times);
        };
        let trips = |n: i64| if n <= 0 { 0 } else { (n as u64).div_ceil(step as u64) };
        if trips(least) != trips(most) {
            self.undecided(&length);
        }
        self.around.push(Around { var, rounds: trips(most), vector });
        if parallel && self.around.len() == 1 {
            self.work.tasks = self.work.tasks.max(trips(most));
        }
        match (first.constant(), trips(most)) {
            (_, 0) => {}
            (Some(lo), n) if self.one_by_one.contains(&var) && trips(least) == n && self.visited + n < PATIENCE => {
                for i in 0..n {
                    self.scope.values.insert(var, Index::of(lo + step * i as i64));
                    self.block(body, times);
                }
            }
            (_, n) => self.rounds(var, &first, step, n, body, times),
        }
        self.leave(times);
    }

    /// Behind a loop that is entered so many times.
    fn leave(&mut self, times: u64) {
        let Some(Around { var, rounds, .. }) = self.around.pop() else { return };
        if let Some(body) = self.work.loops.get_mut(&var) {
            body.entered = body.entered.saturating_add(times);
            body.rounds = body.rounds.saturating_add(times.saturating_mul(rounds));
        }
    }

    /// What the innermost loop does beside its inner loops.
    fn body(&mut self) -> Option<&mut LoopWork> {
        let inner = self.around.last()?.var;
        let vector = self.around.iter().rev().find(|a| a.vector).map(|a| a.rounds);
        let body = self.work.loops.entry(inner).or_default();
        body.vector = vector.or(body.vector);
        Some(body)
    }

    /// All rounds of a loop at once.
    fn rounds(&mut self, var: Var, first: &Index, step: i64, n: u64, body: &[Stmt], times: u64) {
        self.scope.rounds.insert(var, n);
        self.scope.values.insert(var, first.clone().plus(Index::round(var, step)));
        self.block(body, times.saturating_mul(n));
        self.scope.rounds.remove(&var);
    }

    /// Asks for the loops that a value depends on to be walked round by round, if that can decide it.
    fn undecided(&mut self, value: &Index) {
        let loops = value.loops();
        if value.rest.is_some() && loops.iter().any(|v| !self.one_by_one.contains(v)) {
            self.wanted.extend(loops);
        }
        self.work.exact = false;
    }

    fn branch(&mut self, c: &Expr, a: &[Stmt], b: &[Stmt], times: u64) {
        self.expr(c, 0);
        let cond = self.scope.eval(c);
        match cond.constant() {
            Some(0) => self.block(b, times),
            Some(_) => self.block(a, times),
            None => {
                self.undecided(&cond);
                let before = self.work.ops;
                self.block(a, times);
                let first = std::mem::replace(&mut self.work.ops, before);
                self.block(b, times);
                if first.all() > self.work.ops.all() {
                    self.work.ops = first;
                }
            }
        }
    }

    /// Counts the operations of an expression and notes what it loads.
    fn expr(&mut self, e: &Expr, times: u64) {
        match e {
            Expr::Int(_) | Expr::Const(..) | Expr::Var(_) => {}
            Expr::Load(b, i) => {
                self.expr(i, 0);
                self.element(*b, i, false, times);
            }
            Expr::Cast(_, a) => {
                self.expr(a, times);
                self.conversion(times);
            }
            Expr::Un(op, a) => {
                self.expr(a, times);
                self.operation(ScalarOp::Un(*op, 0), self.scope.func.dtype(a), None, times);
            }
            Expr::Bin(op, a, b) => {
                self.expr(a, times);
                self.expr(b, times);
                // A square is less work than a power.
                let constant = if let Expr::Const(_, bits) = **b { Some(bits) } else { None };
                self.operation(ScalarOp::Bin(*op, 0, 1), self.scope.func.dtype(a), constant, times);
            }
            Expr::Fma(a, b, c) => {
                [a, b, c].into_iter().for_each(|e| self.expr(e, times));
                self.operation(ScalarOp::Fma(0, 1, 2), self.scope.func.dtype(a), None, times);
            }
            Expr::Select(a, b, c) => {
                [a, b, c].into_iter().for_each(|e| self.expr(e, times));
                self.conversion(times);
            }
        }
    }

    /// What takes time and is no arithmetic.
    fn conversion(&mut self, times: u64) {
        if let Some(body) = self.body().filter(|_| times > 0) {
            body.ops = body.ops.saturating_add(times);
        }
    }

    fn operation(&mut self, op: ScalarOp, dtype: DType, constant: Option<u64>, times: u64) {
        if times > 0 {
            let ops = *self.costs.entry((op, dtype, constant)).or_insert_with(|| basic(op, dtype, constant));
            self.work.ops.add(ops, times);
            if let Some(body) = self.body() {
                body.ops = body.ops.saturating_add(ops.all().saturating_mul(times));
            }
        }
    }

    /// A load or store of one element.
    fn element(&mut self, buf: BufId, index: &Expr, write: bool, times: u64) {
        let vector = self.around.iter().rev().find(|a| a.vector).map(|a| a.var);
        let at = self.scope.eval(index);
        let near = vector.is_none_or(|v| !at.free.contains(&v) && at.terms.get(&v).is_none_or(|k| *k == 1));
        if let Some(body) = self.body().filter(|_| times > 0) {
            let moves = if near { &mut body.moves } else { &mut body.scattered };
            *moves = moves.saturating_add(times);
        }
        let bytes = self.scope.func.bufs[buf.0 as usize].dtype.bytes();
        self.touch((buf, index), &[(bytes, 1)], write);
    }

    /// Accesses at an element of a buffer and at `dims` (count, bytes between them) from there on.
    fn touch(&mut self, (buf, index): (BufId, &Expr), dims: &[(u64, i64)], write: bool) {
        let b = buf.0 as usize;
        let at = self.scope.eval(index).scaled(self.scope.func.bufs[b].dtype.bytes() as i64);
        let rounds = |v: &Var| self.scope.rounds.get(v).copied().unwrap_or(1);
        let mut dims = dims.to_vec();
        dims.extend(at.terms.iter().filter(|(v, _)| !at.free.contains(v)).map(|(v, k)| (rounds(v), *k)));
        let scattered = at.free.iter().fold(1u64, |n, v| n.saturating_mul(rounds(v)));
        let list = if write { &mut self.writes } else { &mut self.reads };
        list[b].add(Access::new(at.base, &dims, scattered, at.rest));
    }

    /// The largest value of an integer argument of a kernel.
    fn most(&mut self, e: Option<&Expr>, otherwise: u64) -> u64 {
        let value = e.map(|e| self.scope.eval(e)).unwrap_or_default();
        let range = self.scope.range(&value);
        if let Some((low, high)) = range
            && low != high
        {
            self.undecided(&value);
        }
        self.work.exact &= range.is_some();
        range.map_or(otherwise, |(_, high)| high.max(0) as u64)
    }
}

/// How often each variable is assigned; one that is computed from its own old value counts as assigned twice.
fn assignments(block: &[Stmt], out: &mut HashMap<Var, usize>) {
    for stmt in block {
        match stmt {
            Stmt::Set(v, e) => *out.entry(*v).or_default() += 1 + usize::from(mentions(e, *v)),
            Stmt::For { body, .. } | Stmt::While(_, body) => assignments(body, out),
            Stmt::If(_, a, b) => [a, b].into_iter().for_each(|block| assignments(block, out)),
            Stmt::Store(..) | Stmt::Call(..) => {}
        }
    }
}

/// The loops that each variable depends on.
fn origins(block: &[Stmt], out: &mut HashMap<Var, BTreeSet<Var>>) {
    for stmt in block {
        match stmt {
            Stmt::Set(v, e) => {
                let mut on = out.get(v).cloned().unwrap_or_default();
                loops_of(e, out, &mut on);
                out.insert(*v, on);
            }
            Stmt::For { var, body, .. } => {
                out.entry(*var).or_default().insert(*var);
                origins(body, out);
            }
            Stmt::While(_, body) => origins(body, out),
            Stmt::If(_, a, b) => [a, b].into_iter().for_each(|block| origins(block, out)),
            Stmt::Store(..) | Stmt::Call(..) => {}
        }
    }
}

fn loops_of(e: &Expr, origin: &HashMap<Var, BTreeSet<Var>>, out: &mut BTreeSet<Var>) {
    match e {
        Expr::Int(_) | Expr::Const(..) => {}
        Expr::Var(v) => out.extend(origin.get(v).into_iter().flatten()),
        Expr::Load(_, a) | Expr::Un(_, a) | Expr::Cast(_, a) => loops_of(a, origin, out),
        Expr::Bin(_, a, b) => [a, b].into_iter().for_each(|e| loops_of(e, origin, out)),
        Expr::Fma(a, b, c) | Expr::Select(a, b, c) => [a, b, c].into_iter().for_each(|e| loops_of(e, origin, out)),
    }
}

fn mentions(e: &Expr, v: Var) -> bool {
    match e {
        Expr::Int(_) | Expr::Const(..) => false,
        Expr::Var(x) => *x == v,
        Expr::Load(_, a) | Expr::Un(_, a) | Expr::Cast(_, a) => mentions(a, v),
        Expr::Bin(_, a, b) => mentions(a, v) || mentions(b, v),
        Expr::Fma(a, b, c) | Expr::Select(a, b, c) => mentions(a, v) || mentions(b, v) || mentions(c, v),
    }
}

/// Basic operations of an operation on operands of a type, the second of which may be a constant.
fn basic(op: ScalarOp, dtype: DType, constant: Option<u64>) -> Ops {
    let mut p = ScalarProgram::default();
    let mut args: Vec<u16> = (0..3).map(|n| p.arg(n, dtype)).collect();
    if let Some(bits) = constant {
        args[1] = p.push(ScalarOp::Const(bits), dtype);
    }
    let result = match op {
        ScalarOp::Un(UnOp::Bitcast, _) => return Ops::default(),
        ScalarOp::Un(op, _) => p.un(op, args[0]),
        // Whether two values are compared or subtracted is the same to a machine.
        ScalarOp::Bin(op, ..) if op.is_comparison() => p.bin(BinOp::Sub, args[0], args[1]),
        ScalarOp::Bin(op, ..) => p.bin(op, args[0], args[1]),
        op => p.push(op, dtype),
    };
    program(&p.finish(result))
}
