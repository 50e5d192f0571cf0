//! Which layers are divided among threads.

mod support;

use onnxc_ir::op::OpSet;
use onnxc_ir::plan::{Plan, Step};
use onnxc_ir::target::{Machine, TargetDesc};
use onnxc_ir::workload::Work;
use onnxc_ir::{Tensor, parse};
use onnxc_passes::{plan, threads};
use support::machine;

/// So many cores that need a microsecond to meet.
fn cores(max_threads: u32) -> TargetDesc {
    let one = machine();
    let machine = Machine { vector_op: 0.6, vector_move: 0.3, step: 1000.0, barrier: 4000.0, exchange: 7.0, ..one.machine };
    TargetDesc { machine, max_threads, ..one }
}

/// The plan of a product of `rows` by `n` and what follows it.
fn planned(rows: u64, n: u64, target: &TargetDesc) -> Plan {
    let mut plan = divided(rows, (n, n), target);
    assert!(plan.has_tasks(), "the lowering divides its loops");
    threads::run(&mut plan, target);
    plan
}

/// The plan of a product of `rows` by `k`, by `k` by `n`, and what follows it, with all tasks.
fn divided(rows: u64, (k, n): (u64, u64), target: &TargetDesc) -> Plan {
    let text = format!(
        "graph @f(%x: f32[{rows},{k}]) {{
  %w = const f32[{k},{n}] blob(0000000000000001)
  %p = matmul %x, %w : f32[{rows},{n}] @\"product\"
  %r = tanh %p : f32[{rows},{n}] @\"follows\"
  return %r
}}"
    );
    let weights = |_: u64| Some(Tensor::from_vec(&[k, n], vec![0.5f32; (k * n) as usize]));
    let graph = parse::parse(&text, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}\n{text}"));
    plan::plan(&graph, target).unwrap_or_else(|e| panic!("{e:?}"))
}

#[test]
fn large_products_are_divided_and_small_ones_are_not() {
    assert!(planned(256, 512, &cores(2)).has_tasks());
    // A microsecond, and threads have to meet.
    assert!(!planned(32, 48, &cores(2)).has_tasks());
    // The same where meeting costs nothing and everything is near.
    let free = cores(2);
    let machine = Machine { barrier: 0.0, exchange: 1e9, step: 0.0, ..free.machine };
    assert!(planned(32, 48, &TargetDesc { machine, ..free }).has_tasks());
}

#[test]
fn panels_that_leave_threads_idle_have_rows_divided_too() {
    let target = cores(2);
    // Columns that stream: of an odd number of panels one of two threads had one more, of three twice as many.
    for columns in [48, 80, 96, 160] {
        let k = target.l2_bytes / (4 * columns);
        let plan = divided(200, (k, columns), &target);
        let Some(Step::Call { func, .. }) = plan.steps.first() else { panic!("a product") };
        let tasks = Work::of(func, &[]).tasks;
        assert!(tasks.is_multiple_of(2), "{tasks} tasks of {k} by {columns}");
    }
}

#[test]
fn one_thread_decides_nothing() {
    let before = planned(256, 512, &cores(2));
    let mut plan = before.clone();
    threads::run(&mut plan, &cores(1));
    assert_eq!(plan, before);
}
