//! Random functions (loops, branches, variables, gathers, scratch, tasks) against the interpreter, with 1 and 3 threads.

mod common;

use common::{Fun, assert_same};
use onnxc_codegen::JitModel;
use onnxc_ir::DType;
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_targets::describe;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Elements of a task's part of the output.
const PART: i64 = 512;
/// Iterations of the parallel loop.
const PARTS: i64 = 8;
/// Elements of the inputs.
const N: i64 = 4096;

/// Choices come from a list of numbers, so that shrinking the list shrinks the program.
struct Gen<'a> {
    choices: &'a [u32],
    at: usize,
    f: Fun,
    /// Loop and index variables in scope, with an exclusive upper bound.
    ints: Vec<(Var, i64)>,
    floats: Vec<Var>,
    x: BufId,
    table: BufId,
    scratch: BufId,
    y: BufId,
    part: Option<Var>,
}

impl Gen<'_> {
    fn pick(&mut self, n: u32) -> u32 {
        let c = self.choices.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        c % n
    }

    /// An index below `limit` (a power of two).
    fn index(&mut self, limit: i64) -> Expr {
        let mut e = Expr::Int(i64::from(self.pick(9)));
        let mut bound = 9;
        for _ in 0..self.pick(4) {
            if self.ints.is_empty() {
                break;
            }
            let which = self.pick(self.ints.len() as u32) as usize;
            let (v, n) = self.ints[which];
            let k = i64::from(self.pick(7)) + 1;
            let var = Expr::Var(v);
            let term = match self.pick(4) {
                0 => Expr::Cast(DType::I64, Box::new(Expr::Load(self.table, Box::new(var)))).times(k),
                1 => Expr::bin(BinOp::Div, var, Expr::Int(3)).times(k),
                _ => var.times(k),
            };
            bound += n.max(8) * k;
            e = e.add(term);
        }
        if bound <= limit { e } else { Expr::bin(BinOp::And, e, Expr::Int(limit - 1)) }
    }

    fn float(&mut self, depth: u32) -> Expr {
        match self.pick(if depth == 0 { 3 } else { 8 }) {
            0 => Expr::f32(self.pick(16) as f32 * 0.25 - 2.0),
            1 if !self.floats.is_empty() => Expr::Var(self.any_float()),
            1..=2 => Expr::Load(self.x, Box::new(self.index(N))),
            3 => Expr::Load(self.scratch, Box::new(self.index(PART))),
            4 => Expr::bin(BinOp::Add, self.float(depth - 1), self.float(depth - 1)),
            5 => Expr::bin(BinOp::Max, self.float(depth - 1), Expr::un(UnOp::Neg, self.float(depth - 1))),
            6 => Expr::Select(Box::new(self.cond()), Box::new(self.float(depth - 1)), Box::new(self.float(depth - 1))),
            _ => Expr::Cast(DType::F32, Box::new(self.index(N))),
        }
    }

    fn any_float(&mut self) -> Var {
        let which = self.pick(self.floats.len() as u32) as usize;
        self.floats[which]
    }

    fn cond(&mut self) -> Expr {
        let (a, b) = (self.index(N), self.index(N));
        Expr::bin([BinOp::Lt, BinOp::Ne, BinOp::Ge][self.pick(3) as usize], a, b)
    }

    fn store(&mut self) -> Stmt {
        let (index, value) = (self.index(PART), self.float(2));
        let to_output = self.pick(2) == 0;
        match self.part {
            // Tasks write their own part of the output only.
            Some(part) if to_output => Stmt::Store(self.y, Expr::Var(part).times(PART).add(index), value),
            Some(_) => Stmt::Store(self.scratch, index, value),
            None if to_output => {
                Stmt::Store(self.y, index.add(Expr::Int(PART * i64::from(self.choices.len() as u32 % 8))), value)
            }
            None => Stmt::Store(self.scratch, index, value),
        }
    }

    fn block(&mut self, depth: u32) -> Vec<Stmt> {
        let (ints, floats) = (self.ints.len(), self.floats.len());
        let mut out = vec![];
        for _ in 0..1 + self.pick(3) {
            let stmt = match self.pick(if depth == 0 { 3 } else { 7 }) {
                0 => self.store(),
                1 => {
                    let value = self.float(2);
                    let var = self.f.var(DType::F32);
                    self.floats.push(var);
                    Stmt::Set(var, value)
                }
                2 if self.pick(2) == 0 => {
                    let value = self.index(64);
                    let var = self.f.var(DType::I64);
                    self.ints.push((var, 64));
                    Stmt::Set(var, value)
                }
                2 if !self.floats.is_empty() => {
                    let var = self.any_float();
                    Stmt::Set(var, self.float(1))
                }
                2 => self.store(),
                3 => {
                    let cond = self.cond();
                    Stmt::If(cond, self.block(depth - 1), self.block(depth - 1))
                }
                4 => {
                    // Counts down, so that it ends.
                    let n = self.f.var(DType::I64);
                    let count = i64::from(self.pick(5));
                    out.push(Stmt::Set(n, Expr::Int(count)));
                    let mut body = self.block(depth - 1);
                    body.push(Stmt::Set(n, Expr::Var(n).add(Expr::Int(-1))));
                    Stmt::While(Expr::bin(BinOp::Gt, Expr::Var(n), Expr::Int(0)), body)
                }
                _ => self.for_loop(depth - 1),
            };
            out.push(stmt);
        }
        self.ints.truncate(ints);
        self.floats.truncate(floats);
        out
    }

    fn for_loop(&mut self, depth: u32) -> Stmt {
        let (lo, step) = (i64::from(self.pick(4)), i64::from(self.pick(3)) + 1);
        let n = lo + i64::from(self.pick(7));
        let hi = if self.pick(3) == 0 {
            Expr::Cast(DType::I64, Box::new(Expr::Load(self.table, Box::new(self.index(64)))))
        } else {
            Expr::Int(n)
        };
        let var = self.f.var(DType::I64);
        self.ints.push((var, 16));
        let body = self.block(depth);
        self.ints.pop();
        let kind = if self.part.is_none() && self.pick(2) == 0 { LoopKind::Parallel } else { LoopKind::Serial };
        // A loop over shared scratch is only serial; nested parallel loops are run in order anyway.
        Stmt::For { var, lo: Expr::Int(lo), hi, step, kind: if depth < 2 { kind } else { LoopKind::Serial }, body }
    }
}

fn program(choices: &[u32]) -> Fun {
    let mut f = Fun::new("random");
    let x = f.input(DType::F32, N as u64);
    let table = f.input(DType::U8, 64);
    let y = f.output(DType::F32, (PART * PARTS) as u64);
    let (shared, own) = (f.scratch(DType::F32, PART as u64, false), f.scratch(DType::F32, PART as u64, true));
    let mut g = Gen { choices, at: 0, f, ints: vec![], floats: vec![], x, table, scratch: shared, y, part: None };
    let zero = |buf: BufId, g: &mut Gen| {
        let i = g.f.var(DType::I64);
        let body = vec![Stmt::Store(buf, Expr::Var(i), Expr::f32(0.0))];
        Stmt::For { var: i, lo: Expr::Int(0), hi: Expr::Int(PART), step: 1, kind: LoopKind::Serial, body }
    };
    let first = zero(shared, &mut g);
    g.f.push(first);
    let scale = g.f.var(DType::F32);
    let value = g.float(2);
    g.f.push(Stmt::Set(scale, value));
    g.floats.push(scale);
    for round in 0..2 {
        // A serial part whose loops are top level, then a parallel part that has enough work to be split.
        for stmt in g.block(2).into_iter().map(serial) {
            g.f.push(stmt);
        }
        let part = g.f.var(DType::I64);
        g.part = Some(part);
        g.ints.push((part, PARTS));
        g.scratch = own;
        let mut body = vec![zero(own, &mut g)];
        let i = g.f.var(DType::I64);
        let busy = Expr::Load(x, Box::new(Expr::bin(BinOp::And, Expr::Var(i).times(3).add(Expr::Var(part)), Expr::Int(N - 1))));
        let sum = g.f.var(DType::F32);
        body.push(Stmt::Set(sum, Expr::f32(0.0)));
        let add = vec![Stmt::Set(sum, Expr::bin(BinOp::Add, Expr::Var(sum), Expr::bin(BinOp::Mul, busy, Expr::Var(scale))))];
        body.push(Stmt::For { var: i, lo: Expr::Int(0), hi: Expr::Int(1500), step: 1, kind: LoopKind::Serial, body: add });
        g.floats.push(sum);
        let at = Expr::Var(part).times(PART).add(Expr::Int(round));
        body.extend(g.block(3));
        body.push(Stmt::Store(y, at, Expr::Var(sum)));
        g.floats.pop();
        g.ints.pop();
        (g.part, g.scratch) = (None, shared);
        g.f.push(Stmt::For { var: part, lo: Expr::Int(0), hi: Expr::Int(PARTS), step: 1, kind: LoopKind::Parallel, body });
        g.f.push(Stmt::Set(scale, Expr::bin(BinOp::Add, Expr::Var(scale), Expr::f32(0.5))));
    }
    // The parallel loops assign outer variables only in their own iterations: none of `floats` may be assigned inside.
    g.f
}

/// The top level of the serial part: its loops share scratch and variables, so they must stay in order.
fn serial(stmt: Stmt) -> Stmt {
    match stmt {
        Stmt::For { var, lo, hi, step, body, .. } => Stmt::For { var, lo, hi, step, kind: LoopKind::Serial, body },
        other => other,
    }
}

fn run_case(choices: &[u32]) {
    let mut f = program(choices);
    privatise(&mut f);
    let x: Vec<u8> = (0..N).flat_map(|i| (((i * 37 % 101) as f32 - 50.0) * 0.125).to_le_bytes()).collect();
    let table: Vec<u8> = (0..64).map(|i| (i * 5 % 8) as u8).collect();
    let want = f.interpret(&[x.clone(), table.clone()]);
    for threads in [1, 3] {
        let target = describe(&target_lexicon::Triple::host().to_string(), "native", threads).unwrap();
        let model = JitModel::new(&f.plan(), &target).unwrap();
        for _ in 0..2 {
            let mut out = vec![];
            model.run(&[&x, &table], &mut out, threads).unwrap();
            assert_same(DType::F32, &out[0], &want[0], &format!("{threads} threads"));
        }
    }
}

/// Variables from outside that a parallel body assigns become variables of the body (loops are independent by contract).
fn privatise(f: &mut Fun) {
    let outer_count = f.func.vars.len();
    let mut body = std::mem::take(&mut f.func.body);
    for stmt in &mut body {
        if let Stmt::For { kind: LoopKind::Parallel, body: inner, .. } = stmt {
            let mut declared = vec![];
            assigned(inner, &mut declared);
            for v in declared.into_iter().filter(|v| (v.0 as usize) < outer_count) {
                let copy = f.func.var(f.func.vars[v.0 as usize]);
                rename(inner, v, copy);
                // Starts each iteration from the outer value, which the body can then change for itself.
                inner.insert(
                    0,
                    Stmt::Set(copy, if f.func.vars[v.0 as usize] == DType::F32 { Expr::f32(1.0) } else { Expr::Int(0) }),
                );
            }
        }
    }
    f.func.body = body;
}

fn assigned(block: &[Stmt], out: &mut Vec<Var>) {
    for stmt in block {
        match stmt {
            Stmt::Set(v, _) if !out.contains(v) => out.push(*v),
            Stmt::For { body, .. } | Stmt::While(_, body) => assigned(body, out),
            Stmt::If(_, a, b) => {
                assigned(a, out);
                assigned(b, out);
            }
            _ => {}
        }
    }
}

fn rename(block: &mut [Stmt], from: Var, to: Var) {
    fn expr(e: &mut Expr, from: Var, to: Var) {
        match e {
            Expr::Var(v) if *v == from => *v = to,
            Expr::Int(_) | Expr::Const(..) | Expr::Var(_) => {}
            Expr::Load(_, a) | Expr::Un(_, a) | Expr::Cast(_, a) => expr(a, from, to),
            Expr::Bin(_, a, b) => {
                expr(a, from, to);
                expr(b, from, to);
            }
            Expr::Fma(a, b, c) | Expr::Select(a, b, c) => {
                expr(a, from, to);
                expr(b, from, to);
                expr(c, from, to);
            }
        }
    }
    for stmt in block {
        match stmt {
            Stmt::For { lo, hi, body, .. } => {
                expr(lo, from, to);
                expr(hi, from, to);
                rename(body, from, to);
            }
            Stmt::Set(v, e) => {
                if *v == from {
                    *v = to;
                }
                expr(e, from, to);
            }
            Stmt::Store(_, i, e) => {
                expr(i, from, to);
                expr(e, from, to);
            }
            Stmt::If(c, a, b) => {
                expr(c, from, to);
                rename(a, from, to);
                rename(b, from, to);
            }
            Stmt::While(c, body) => {
                expr(c, from, to);
                rename(body, from, to);
            }
            Stmt::Call(..) => {}
        }
    }
}

#[test]
fn random_functions() {
    let config = Config { cases: 200, failure_persistence: None, rng_seed: RngSeed::Fixed(20), ..Config::default() };
    let mut runner = TestRunner::new(config);
    runner
        .run(&prop::collection::vec(any::<u32>(), 20..220), |choices| {
            run_case(&choices);
            Ok(())
        })
        .unwrap();
}
