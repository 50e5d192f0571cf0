//! Which layers are divided among threads.

mod support;

use onnxc_ir::op::OpSet;
use onnxc_ir::plan::Plan;
use onnxc_ir::target::{Machine, TargetDesc};
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
    let text = format!(
        "graph @f(%x: f32[{rows},{n}]) {{
  %w = const f32[{n},{n}] blob(0000000000000001)
  %p = matmul %x, %w : f32[{rows},{n}] @\"product\"
  %r = tanh %p : f32[{rows},{n}] @\"follows\"
  return %r
}}"
    );
    let weights = |_: u64| Some(Tensor::from_vec(&[n, n], vec![0.5f32; (n * n) as usize]));
    let graph = parse::parse(&text, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut plan = plan::plan(&graph, target).unwrap_or_else(|e| panic!("{e:?}"));
    assert!(plan.has_tasks(), "the lowering divides its loops");
    threads::run(&mut plan, target);
    plan
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
fn one_thread_decides_nothing() {
    let before = planned(256, 512, &cores(2));
    let mut plan = before.clone();
    threads::run(&mut plan, &cores(1));
    assert_eq!(plan, before);
}
