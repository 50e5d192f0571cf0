//! Which layers are divided among threads.

use onnxc_ir::op::OpSet;
use onnxc_ir::plan::Plan;
use onnxc_ir::target::{Level, Machine, TargetDesc};
use onnxc_ir::{Tensor, parse};
use onnxc_passes::{plan, threads};

const fn level(bytes: u64, rate: f64) -> Level {
    Level { bytes, read: rate, spilled: rate }
}

/// Cores that multiply and add a vector of 16 floats in a cycle.
fn cores(max_threads: u32) -> TargetDesc {
    TargetDesc {
        triple: "any".into(),
        cpu: "any".into(),
        lanes: 16,
        f32_tiles: vec![(14, 32)],
        table_tiles: vec![(14, 32)],
        i8_tiles: vec![(14, 32)],
        i8_unsigned_a: true,
        depthwise_columns: 0,
        l1_bytes: 1 << 15,
        byte_tables: false,
        prefetches: true,
        l2_bytes: 1 << 20,
        machine: Machine {
            ghz: 4.0,
            fma: 1.0,
            tile: (0.5, 1.0),
            vector_op: 0.6,
            vector_move: 0.3,
            step: 1000.0,
            barrier: 4000.0,
            exchange: 7.0,
            levels: [level(1 << 15, 64.0), level(1 << 20, 30.0), level(1 << 24, 5.0), level(1 << 27, 4.0)],
            visible: 0.4,
            ..Machine::default()
        },
        max_threads,
    }
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
