//! What the entry checks, in C on every target: null pointers, alignment, overlap, hooks, branches, weights from a file.

mod common;

use common::Fun;
use common::link::{ARM, RISCV, Tool, X86, sh};
use onnxc_codegen::{JitModel, ObjectOptions, Weights, compile_object};
use onnxc_ir::DType;
use onnxc_ir::lir::{Expr, LoopKind, Stmt};
use onnxc_ir::plan::{Place, Plan, Step};
use onnxc_ir::scalar::BinOp;
use onnxc_targets::describe;
use std::process::Command;

/// Elements of input and output: enough work for tasks.
const N: i64 = 64;

/// `y[i] = (sum over j < 1000 of x[i]) * w[0]` as a parallel loop, then a branch on `x2[0]` that adds 1 or 2 to `y[0]`.
fn plan() -> Plan {
    let mut f = Fun::new("rows");
    let (x, flag, y) = (f.input(DType::F32, N as u64), f.input(DType::Bool, 1), f.output(DType::F32, N as u64));
    let w = f.constant(DType::F32, 0.5f32.to_le_bytes().to_vec());
    f.scratch(DType::F32, 100, false);
    let own = f.scratch(DType::F32, 10, true);
    let (i, j, sum) = (f.var(DType::I64), f.var(DType::I64), f.var(DType::F32));
    let load = |b, at: Expr| Expr::Load(b, Box::new(at));
    let add = Stmt::Set(sum, Expr::bin(BinOp::Add, Expr::Var(sum), load(x, Expr::Var(i))));
    let inner = Stmt::For { var: j, lo: Expr::Int(0), hi: Expr::Int(1000), step: 1, kind: LoopKind::Serial, body: vec![add] };
    let product = Expr::bin(BinOp::Mul, load(own, Expr::Int(9)), load(w, Expr::Int(0)));
    let body = vec![
        Stmt::Set(sum, Expr::f32(0.0)),
        inner,
        Stmt::Store(own, Expr::Int(9), Expr::Var(sum)),
        Stmt::Store(y, Expr::Var(i), product),
    ];
    f.push(Stmt::For { var: i, lo: Expr::Int(0), hi: Expr::Int(N), step: 1, kind: LoopKind::Parallel, body });
    let mut plan = f.plan();
    let bump = |by: f32| {
        let mut g = Fun::new("bump");
        let y = g.output(DType::F32, N as u64);
        g.push(Stmt::Store(y, Expr::Int(0), Expr::bin(BinOp::Add, load(y, Expr::Int(0)), Expr::f32(by))));
        Step::Call { func: g.func, places: vec![Place::Output(0)], origins: vec![], op: "bump".into() }
    };
    let _ = flag;
    plan.steps.push(Step::If { cond: Place::Input(1), then: vec![bump(1.0)], otherwise: vec![bump(2.0)] });
    plan
}

const MAIN: &str = r#"
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
typedef struct { void *ctx; int32_t (*parallel_for)(void *, uint32_t, void (*)(void *, uint32_t, uint32_t), void *); void (*profile)(void *, uint32_t, uint32_t); } onnxc_hooks;
typedef struct { const void *const *inputs; void *const *outputs; void *arena; const void *weights; const onnxc_hooks *hooks; } onnxc_call;
int32_t model_run(const onnxc_call *call);
static int tasks_run, begun, ended, fail;
static int32_t run_all(void *ctx, uint32_t n, void (*task)(void *, uint32_t, uint32_t), void *arg) {
  if (fail) return -1;
  for (uint32_t i = n; i-- > 0;) { task(arg, i, i & 1); tasks_run++; }
  return *(int *)ctx != 42;
}
static void prof(void *ctx, uint32_t step, uint32_t phase) { (void)ctx; if (phase) ended += step + 1; else begun += step + 1; }
#define CHECK(c, want) do { int got = (c); if (got != (want)) { fprintf(stderr, "%s: %d, not %d\n", #c, got, want); return 1; } } while (0)
static float x[64], y[65];
static _Alignas(64) unsigned char arena[ARENA + 64], weights[64];
int main(void) {
  unsigned char flag = 1;
  for (int i = 0; i < 64; i++) x[i] = i;
  float half = 0.5f; memcpy(weights, &half, 4);
  const void *in[2] = { x, &flag }; void *out[1] = { y };
  int forty_two = 42;
  onnxc_hooks hooks = { &forty_two, run_all, prof };
  onnxc_call c = { in, out, arena, weights, 0 };
  CHECK(model_run(0), 1);
  c.arena = 0; CHECK(model_run(&c), 1); c.arena = arena + 4; CHECK(model_run(&c), 2); c.arena = arena;
  c.inputs = 0; CHECK(model_run(&c), 1); c.inputs = in;
  in[0] = 0; CHECK(model_run(&c), 1); in[0] = x;
  out[0] = 0; CHECK(model_run(&c), 1);
  out[0] = x + 63; CHECK(model_run(&c), 4); out[0] = arena; CHECK(model_run(&c), 4);
  out[0] = y; in[1] = (unsigned char *)y + 255; CHECK(model_run(&c), 4); in[1] = (unsigned char *)y + 256; CHECK(model_run(&c), 0);
  in[1] = &flag;
  c.weights = 0; CHECK(model_run(&c), 5); c.weights = weights;
  for (int round = 0; round < 4; round++) {
    flag = round & 1; c.hooks = round < 2 ? 0 : &hooks; memset(y, 0, sizeof y);
    CHECK(model_run(&c), 0);
    for (int i = 0; i < 64; i++) if (y[i] != 500.0f * i + (i ? 0 : flag ? 1 : 2)) { fprintf(stderr, "round %d y[%d] = %g\n", round, i, y[i]); return 1; }
  }
  CHECK(tasks_run > 2, 1);
  CHECK(begun, 1 + 3 + 1 + 2); CHECK(ended, begun);
  fail = 1; CHECK(model_run(&c), 6);
  return 0;
}
"#;

fn check(tool: &Tool) {
    let plan = plan();
    let target = describe(tool.triple, tool.cpu, 2).unwrap();
    let options = ObjectOptions { weights: Weights::File, ..ObjectOptions::default() };
    let object = compile_object(&plan, &target, &options).unwrap();
    assert_eq!(object.weights_file.as_ref().map(onnxc_codegen::WeightBlob::bytes), Some(64));
    let dir = tempfile::tempdir().unwrap();
    let (o, c, exe) = (dir.path().join("m.o"), dir.path().join("m.c"), dir.path().join("m"));
    std::fs::write(&o, object.bytes()).unwrap();
    std::fs::write(&c, MAIN.replace("ARENA", &object.arena_bytes.to_string())).unwrap();
    sh(Command::new(tool.cc).args(["-O1", "-Wall", "-Werror", "-o"]).arg(&exe).arg(&c).arg(&o).args(tool.link));
    let mut command = match tool.run {
        [] => Command::new(&exe),
        [emulator, args @ ..] => {
            let mut command = Command::new(emulator);
            command.args(args).arg(&exe);
            command
        }
    };
    sh(&mut command);
}

#[test]
fn entry_on_x86_64() {
    check(&X86);
}

#[test]
fn entry_on_aarch64() {
    check(&ARM);
}

#[test]
fn entry_on_riscv64() {
    check(&RISCV);
}

#[test]
fn jit_runs_branches_and_profiles() {
    let target = describe(&target_lexicon::Triple::host().to_string(), "native", 2).unwrap();
    let model = JitModel::new(&plan(), &target).unwrap();
    let x: Vec<u8> = (0..N).flat_map(|i| (i as f32).to_le_bytes()).collect();
    for (flag, first) in [(0u8, 2.0f32), (1, 1.0)] {
        let mut out = vec![];
        let profile = model.run_profiled(&[&x, &[flag]], &mut out, 2).unwrap();
        assert_eq!((profile.ns.len(), profile.calls[0]), (3, 1));
        let skipped = 1 + usize::from(flag);
        assert!(profile.ns[0] > 0 && profile.ns[skipped] == 0 && profile.calls[skipped] == 0, "{profile:?}");
        assert_eq!(out[0][..4], first.to_le_bytes());
        assert_eq!(out[0][4..8], 500f32.to_le_bytes());
    }
    assert!(model.run(&[&x], &mut vec![], 1).is_err());
    assert!(model.run(&[&x[1..], &[0]], &mut vec![], 1).is_err());
}

#[test]
fn weights_can_be_in_the_object_or_in_a_section() {
    let plan = plan();
    let target = describe(X86.triple, X86.cpu, 1).unwrap();
    for (weights, section) in [(Weights::Embed, ".rodata"), (Weights::Section(".model_weights".into()), ".model_weights")] {
        let object = compile_object(&plan, &target, &ObjectOptions { weights, ..ObjectOptions::default() }).unwrap();
        assert!(object.weights_file.is_none());
        let dir = tempfile::tempdir().unwrap();
        let o = dir.path().join("m.o");
        std::fs::write(&o, object.bytes()).unwrap();
        let symbols = String::from_utf8(sh(Command::new("objdump").arg("-t").arg(&o))).unwrap();
        let line = symbols.lines().find(|l| l.ends_with("model_weights") && !l.contains(" d ")).unwrap();
        assert!(line.contains(section), "{line}");
    }
}
