//! Random vector loops (types, strides, inner loops, reductions, odd trip counts) against the interpreter, on every instruction set.

mod common;

use std::cell::Cell;

use common::link::{ARM, RISCV, RISCV_V, Tool, run};
use common::{Fun, V, assert_same, write};
use onnxc_codegen::{JitModel, ObjectOptions, compile_object};
use onnxc_ir::DType;
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::plan::{Place, Plan, Step};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_targets::{describe, vectorize};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Elements of every array.
const N: i64 = 4096;
const TYPES: [DType; 6] = [DType::F32, DType::I32, DType::U8, DType::I8, DType::Bool, DType::I64];

/// One random loop. Choices come from a list of numbers, so that shrinking the list shrinks the program.
struct Gen<'a> {
    choices: &'a [u32],
    at: usize,
    f: Fun,
    inputs: Vec<(BufId, DType)>,
    /// Row, rounds of inner loops.
    outer: Vec<Var>,
    lane: Var,
    vars: Vec<(Var, DType)>,
}

impl Gen<'_> {
    fn pick(&mut self, n: u32) -> u32 {
        let c = self.choices.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        c % n
    }

    /// An index between 0 and N: the lane variable is below 100, outer variables below 8.
    fn index(&mut self) -> Expr {
        let mut e = match self.pick(8) {
            0 => Expr::Int(5),
            1 => Expr::Var(self.lane).times(2),
            2 => Expr::Var(self.lane).times(7),
            3 => Expr::Var(self.lane).times(-1).add(Expr::Int(100)),
            _ => Expr::Var(self.lane),
        };
        for (depth, v) in self.outer.clone().into_iter().enumerate() {
            let k = if depth == 0 { [0, 1, 3, 40, 128, 100] } else { [0, 1, 3, 16, 40, 1] }[self.pick(6) as usize];
            e = e.add(Expr::Var(v).times(k));
        }
        e.add(Expr::Int(i64::from(self.pick(5))))
    }

    fn value(&mut self, t: DType, depth: u32) -> Expr {
        let known: Vec<Var> = self.vars.iter().filter(|v| v.1 == t).map(|v| v.0).collect();
        match self.pick(if depth == 0 { 3 } else { 9 }) {
            0 if t == DType::F32 => Expr::f32(self.pick(9) as f32 * 0.5 - 2.0),
            0 => Expr::Const(t, u64::from(self.pick(2))),
            1 if !known.is_empty() => Expr::Var(known[self.pick(known.len() as u32) as usize]),
            1..=3 => {
                let loads: Vec<(BufId, DType)> = self.inputs.iter().copied().filter(|i| i.1 == t).collect();
                let which = self.pick(loads.len() as u32) as usize;
                let index = self.index();
                Expr::Load(loads[which].0, Box::new(index))
            }
            4 => {
                let from = TYPES[self.pick(5) as usize];
                let e = self.value(from, depth - 1);
                Expr::Cast(t, Box::new(e))
            }
            5 => {
                let c = self.value(DType::Bool, depth - 1);
                Expr::Select(Box::new(c), Box::new(self.value(t, depth - 1)), Box::new(self.value(t, depth - 1)))
            }
            6 if t == DType::F32 => {
                let op = [UnOp::Neg, UnOp::Abs, UnOp::Floor, UnOp::Round][self.pick(4) as usize];
                Expr::un(op, self.value(t, depth - 1))
            }
            _ if t == DType::Bool => {
                let of = [DType::F32, DType::I32, DType::U8][self.pick(3) as usize];
                let op = [BinOp::Lt, BinOp::Ge, BinOp::Ne][self.pick(3) as usize];
                Expr::bin(op, self.value(of, depth - 1), self.value(of, depth - 1))
            }
            _ => {
                let op = [BinOp::Add, BinOp::Sub, BinOp::Max, BinOp::Min][self.pick(4) as usize];
                Expr::bin(op, self.value(t, depth - 1), self.value(t, depth - 1))
            }
        }
    }

    /// Local variables, accumulation in inner loops.
    fn block(&mut self, depth: u32, out: &mut Vec<Stmt>) {
        for _ in 0..self.pick(3) {
            if depth > 0 && self.pick(2) == 0 {
                let t = [DType::F32, DType::I32][self.pick(2) as usize];
                let sum = self.f.var(t);
                let start = self.value(t, 1);
                out.push(Stmt::Set(sum, start));
                let round = self.f.var(DType::I64);
                let hi = i64::from([3, 12, 0, 20][self.pick(4) as usize]);
                let row = Expr::Var(self.outer[0]);
                let (lo, hi) = if self.pick(3) == 0 {
                    (Expr::bin(BinOp::Max, row.clone(), Expr::Int(1)), row.add(Expr::Int(hi)))
                } else {
                    (Expr::Int(0), Expr::Int(hi))
                };
                self.outer.push(round);
                let known = self.vars.len();
                let mut body = vec![];
                self.block(depth - 1, &mut body);
                let op = [BinOp::Add, BinOp::Max, BinOp::Min][self.pick(3) as usize];
                let e = self.value(t, 2);
                body.push(Stmt::Set(sum, Expr::bin(op, Expr::Var(sum), e)));
                self.outer.pop();
                self.vars.truncate(known);
                out.push(Stmt::For { var: round, lo, hi, step: 1, kind: LoopKind::Serial, body });
                self.vars.push((sum, t));
            } else {
                let t = TYPES[self.pick(5) as usize];
                let e = self.value(t, 2);
                let v = self.f.var(t);
                out.push(Stmt::Set(v, e));
                self.vars.push((v, t));
            }
        }
    }
}

/// A function with some rows of one vector loop.
fn program(choices: &[u32]) -> Fun {
    let mut f = Fun::new("loop");
    let mut inputs = vec![];
    for t in TYPES {
        inputs.push((f.input(t, N as u64), t));
    }
    let wide = f.output(DType::F32, N as u64);
    let ints = f.output(DType::I32, N as u64);
    let result = f.output(DType::F32, 16);
    let (row, lane) = (f.var(DType::I64), f.var(DType::I64));
    let mut g = Gen { choices, at: 0, f, inputs, outer: vec![row], lane, vars: vec![] };
    let to = TYPES[g.pick(6) as usize];
    let narrow = g.f.output(to, N as u64);
    let n = i64::from([1, 3, 7, 16, 17, 33, 64, 70, 100][g.pick(9) as usize]);
    let lo = i64::from(g.pick(2));
    let hi = if g.pick(3) == 0 { Expr::Var(row).times(9).add(Expr::Int(n / 3)) } else { Expr::Int(n) };
    let hi = Expr::bin(BinOp::Min, hi, Expr::Int(100));
    let mut body = vec![];
    g.block(2, &mut body);
    let at = Expr::Var(row).times(512);
    match g.pick(4) {
        0 => {
            let e = g.value(DType::F32, 3);
            body.push(Stmt::Store(wide, at.clone().add(Expr::Var(lane).times(i64::from(g.pick(5)) + 1)), e));
        }
        1 => {
            let e = g.value(DType::I32, 3);
            body.push(Stmt::Store(ints, at.clone().add(Expr::Var(lane)), e));
        }
        _ => {
            let e = g.value(to, 3);
            body.push(Stmt::Store(narrow, at.clone().add(Expr::Var(lane)), e));
        }
    }
    let sum = g.f.var(DType::F32);
    let mut before = vec![Stmt::Set(sum, Expr::f32(1.5))];
    let op = [BinOp::Add, BinOp::Max, BinOp::Min][g.pick(3) as usize];
    if g.pick(2) == 0 {
        let e = g.value(DType::F32, 1);
        body.push(Stmt::Set(sum, Expr::bin(op, Expr::Var(sum), e)));
    }
    before.push(Stmt::For { var: lane, lo: Expr::Int(lo), hi, step: 1, kind: LoopKind::Vector, body });
    before.push(Stmt::Store(result, Expr::Var(row), Expr::Var(sum)));
    g.f.push(Stmt::For { var: row, lo: Expr::Int(0), hi: Expr::Int(8), step: 1, kind: LoopKind::Serial, body: before });
    g.f
}

/// Small multiples of a half, so that sums are exact in any order.
fn inputs() -> Vec<Vec<u8>> {
    let number = |t: DType, i: i64| match t {
        DType::F32 => V::F(((i * 37 % 29) - 14) as f64 * 0.5),
        DType::I8 => V::I(i128::from(i * 37 % 255 - 127)),
        DType::Bool => V::I(i128::from(i * 7 % 3 == 0)),
        _ => V::I(i128::from(i * 37 % 100)),
    };
    let bytes = |t: DType| {
        let mut out = vec![0; (N * t.bytes() as i64) as usize];
        out.chunks_mut(t.bytes() as usize).enumerate().for_each(|(i, b)| write(t, number(t, i as i64), b));
        out
    };
    TYPES.iter().map(|t| bytes(*t)).collect()
}

fn compare(f: &Fun, outputs: &[Vec<u8>], want: &[Vec<u8>], what: &str) {
    let types = f.func.bufs.iter().filter(|b| matches!(b.kind, onnxc_ir::lir::BufKind::Output(_)));
    for (k, (buf, (got, want))) in types.zip(outputs.iter().zip(want)).enumerate() {
        assert_same(buf.dtype, got, want, &format!("{what}: output {k}\n{:#?}", f.func.body));
    }
}

fn the_loop(f: &Fun) -> &Stmt {
    let Stmt::For { body, .. } = &f.func.body[0] else { panic!("a loop over rows") };
    body.iter().find(|s| matches!(s, Stmt::For { .. })).unwrap()
}

#[test]
fn random_loops_in_this_process() {
    let config = Config { cases: 400, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Config::default() };
    let data = inputs();
    let views: Vec<&[u8]> = data.iter().map(|b| b.as_slice()).collect();
    let (loops, vectors) = (Cell::new(0), Cell::new(0));
    TestRunner::new(config)
        .run(&prop::collection::vec(any::<u32>(), 60..160), |choices| {
            let f = program(&choices);
            let want = f.interpret(&data);
            for cpu in ["x86-64", "x86-64-v2", "x86-64-v3", "native"] {
                let target = describe(&target_lexicon::Triple::host().to_string(), cpu, 1).unwrap();
                loops.set(loops.get() + 1);
                vectors.set(vectors.get() + u32::from(vectorize(&f.func, the_loop(&f), &target).is_some()));
                let model = JitModel::new(&f.plan(), &target).unwrap();
                let mut out = vec![];
                model.run(&views, &mut out, 1).unwrap();
                compare(&f, &out, &want, cpu);
            }
            Ok(())
        })
        .unwrap();
    let (loops, vectors) = (loops.get(), vectors.get());
    assert!(vectors * 4 > loops * 3, "only {vectors} of {loops} loops have a vector form");
}

/// A nest of two loops in which operand 0 lies across the result.
fn nest(choices: &[u32]) -> Fun {
    let mut f = Fun::new("nest");
    let mut inputs = vec![];
    for t in TYPES {
        inputs.push((f.input(t, N as u64), t));
    }
    let mut g = Gen { choices, at: 0, f, inputs, outer: vec![], lane: Var(0), vars: vec![] };
    let (row, lane) = (g.f.var(DType::I64), g.f.var(DType::I64));
    g.lane = lane;
    let across = [DType::F32, DType::F32, DType::I32, DType::U8, DType::I8, DType::Bool][g.pick(6) as usize];
    let to = TYPES[g.pick(5) as usize];
    let size = |n: u32| [2i64, 3, 4, 8, 9, 16, 17, 24, 33, 40][n as usize];
    let (rows, columns) = (size(g.pick(10)), size(g.pick(10)));
    let y = g.f.output(to, N as u64);
    let load = |t: DType, e: Expr| Expr::Load(BufId(TYPES.iter().position(|x| *x == t).unwrap() as u32), Box::new(e));
    let (r, c) = (Expr::Var(row), Expr::Var(lane));
    let x = load(across, r.clone().add(c.clone().times(rows + i64::from(g.pick(3)))).add(Expr::Int(i64::from(g.pick(3)))));
    let mut e = if across == to { x } else { Expr::Cast(to, Box::new(x)) };
    if g.pick(2) == 0 && to != DType::Bool {
        e = Expr::bin(BinOp::Max, e, load(to, r.clone().times(columns).add(c.clone())));
        e = Expr::bin(BinOp::Sub, e, load(to, r.clone().add(Expr::Int(7))));
        e = Expr::bin(BinOp::Min, e, load(to, Expr::Int(3)));
        e = Expr::bin(BinOp::Add, e, load(to, c.clone()));
    }
    let hi = if g.pick(3) == 0 { Expr::Cast(DType::I64, Box::new(load(DType::U8, Expr::Int(rows)))) } else { Expr::Int(rows) };
    let body = vec![Stmt::Store(y, r.times(columns + i64::from(g.pick(2))).add(c), e)];
    let inner = Stmt::For { var: lane, lo: Expr::Int(0), hi: Expr::Int(columns), step: 1, kind: LoopKind::Vector, body };
    let kind = [LoopKind::Serial, LoopKind::Parallel][g.pick(2) as usize];
    let hi = Expr::bin(BinOp::Min, hi, Expr::Int(rows));
    let lo = Expr::Int(i64::from(g.pick(2)));
    g.f.push(Stmt::For { var: row, lo, hi, step: 1, kind, body: vec![inner] });
    g.f
}

#[test]
fn nests_with_operands_across() {
    let config = Config { cases: 400, failure_persistence: None, rng_seed: RngSeed::Fixed(8), ..Config::default() };
    let data = inputs();
    let views: Vec<&[u8]> = data.iter().map(|b| b.as_slice()).collect();
    let (nests, vectors) = (Cell::new(0), Cell::new(0));
    TestRunner::new(config)
        .run(&prop::collection::vec(any::<u32>(), 20..30), |choices| {
            let f = nest(&choices);
            let want = f.interpret(&data);
            for cpu in ["x86-64", "x86-64-v2", "x86-64-v3", "native"] {
                let target = describe(&target_lexicon::Triple::host().to_string(), cpu, 1).unwrap();
                nests.set(nests.get() + 1);
                vectors.set(vectors.get() + u32::from(vectorize(&f.func, &f.func.body[0], &target).is_some()));
                let model = JitModel::new(&f.plan(), &target).unwrap();
                let mut out = vec![];
                model.run(&views, &mut out, 1).unwrap();
                compare(&f, &out, &want, cpu);
            }
            Ok(())
        })
        .unwrap();
    let (nests, vectors) = (nests.get(), vectors.get());
    assert!(vectors * 4 > nests * 3, "only {vectors} of {nests} nests have a vector form");
}

/// A nest that is worth several tasks, whose parts are transposed separately.
#[test]
fn tasks_transpose_their_rows() {
    let (rows, columns) = (300i64, 77i64);
    let mut f = Fun::new("tasks");
    let x = f.input(DType::F32, (rows * columns) as u64);
    let y = f.output(DType::F32, (rows * columns) as u64);
    let (row, lane) = (f.var(DType::I64), f.var(DType::I64));
    let value = Expr::Load(x, Box::new(Expr::Var(row).add(Expr::Var(lane).times(rows))));
    let body = vec![Stmt::Store(y, Expr::Var(row).times(columns).add(Expr::Var(lane)), value)];
    let inner = Stmt::For { var: lane, lo: Expr::Int(0), hi: Expr::Int(columns), step: 1, kind: LoopKind::Vector, body };
    f.push(Stmt::For { var: row, lo: Expr::Int(0), hi: Expr::Int(rows), step: 1, kind: LoopKind::Parallel, body: vec![inner] });
    let data: Vec<u8> = (0..rows * columns).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let want = f.interpret(std::slice::from_ref(&data));
    for threads in [1, 3] {
        let target = describe(&target_lexicon::Triple::host().to_string(), "native", threads).unwrap();
        let model = JitModel::new(&f.plan(), &target).unwrap();
        let mut out = vec![];
        model.run(&[&data], &mut out, threads).unwrap();
        assert_same(DType::F32, &out[0], &want[0], &format!("{threads} threads"));
    }
}

/// The functions of many programs in one plan.
fn merge(funs: &[Fun]) -> Plan {
    let mut merged = funs[0].plan();
    let n_inputs = merged.inputs.len();
    for f in &funs[1..] {
        let plan = f.plan();
        let at = merged.outputs.len() as u32;
        for step in plan.steps {
            let Step::Call { func, places, origins, op } = step else { panic!("a call") };
            let moved = places.into_iter().map(|p| if let Place::Output(k) = p { Place::Output(k + at) } else { p }).collect();
            merged.steps.push(Step::Call { func, places: moved, origins, op });
        }
        merged.outputs.extend(plan.outputs);
        assert_eq!(plan.inputs.len(), n_inputs);
    }
    for (k, step) in merged.steps.iter_mut().enumerate() {
        if let Step::Call { func, .. } = step {
            func.name = format!("loop{k}");
        }
    }
    for (k, io) in merged.outputs.iter_mut().enumerate() {
        io.name = format!("y{k}");
    }
    merged
}

fn random_loops(tool: &Tool) {
    let mut seed = 12345u32;
    let funs: Vec<Fun> = (0..90)
        .map(|k| {
            let choices: Vec<u32> = (0..120)
                .map(|_| {
                    seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
                    seed >> 8
                })
                .collect();
            if k % 3 == 0 { nest(&choices) } else { program(&choices) }
        })
        .collect();
    let (plan, data) = (merge(&funs), inputs());
    let target = describe(tool.triple, tool.cpu, 1).unwrap();
    let object = compile_object(&plan, &target, &ObjectOptions::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let outputs = run(tool, dir.path(), &plan, &object, &data);
    let mut outputs = &outputs[..];
    for f in &funs {
        let want = f.interpret(&data);
        let (got, rest) = outputs.split_at(want.len());
        compare(f, got, &want, tool.triple);
        outputs = rest;
    }
}

#[test]
fn random_loops_on_aarch64() {
    random_loops(&ARM);
}

#[test]
fn random_loops_on_riscv64() {
    random_loops(&RISCV);
}

#[test]
fn random_loops_on_riscv64_with_vectors() {
    random_loops(&RISCV_V);
}
