//! Which products are computed in halves.

mod support;

use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, parse};
use onnxc_ops::schedule::Choice;
use onnxc_passes::winograd::GROWTH;
use onnxc_passes::{Math, choose};
use support::machine;

/// A product of so many samples of `rows` by `k`, times `k` by `columns`.
fn product(samples: u64, rows: u64, k: u64, columns: u64) -> Graph {
    let text = format!(
        "graph @f(%x: f32[{samples},{rows},{k}]) {{
  %w = const f32[{k},{columns}] blob(0000000000000001)
  %y = matmul %x, %w : f32[{samples},{rows},{columns}] @\"layer\"
  %o = tanh %y : f32[{samples},{rows},{columns}] @\"follows\"
  %v = const f32[{columns},4] blob(0000000000000002)
  %z = matmul %o, %v : f32[{samples},{rows},4] @\"last\"
  return %z
}}"
    );
    let blob = |n: u64| {
        let shape = if n == 1 { [k, columns] } else { [columns, 4] };
        Some(Tensor::from_vec(&shape, vec![0.5f32; (shape[0] * shape[1]) as usize]))
    };
    parse::parse(&text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"))
}

/// The choice for it on vectors of 16.
fn chosen(graph: &Graph, math: Math) -> String {
    let after = choose::by_costs(graph, &machine(), GROWTH, math);
    onnxc_ir::verify::verify(&after).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    after.nodes.iter().find(|n| n.op.name == "matmul").map(|n| Choice::of(&n.attrs).to_string()).expect("the product")
}

#[test]
fn large_products_of_one_sample_are_halved() {
    assert_eq!(chosen(&product(1, 128, 384, 1536), Math::Fast), "strassen");
}

#[test]
fn what_is_small_odd_strict_or_of_several_samples_is_not() {
    for (samples, rows, k, columns, math) in [
        (1, 128, 384, 1536, Math::Strict),
        (4, 128, 384, 1536, Math::Fast),
        (1, 16, 384, 1536, Math::Fast),
        (1, 128, 192, 192, Math::Fast),
        (1, 128, 385, 1536, Math::Fast),
        (1, 128, 384, 1537, Math::Fast),
    ] {
        assert_eq!(chosen(&product(samples, rows, k, columns), math), "", "{samples} x {rows} x {k} x {columns}");
    }
}

#[test]
fn sums_that_are_answers_are_direct() {
    let blob = |_: u64| Some(Tensor::from_vec(&[384, 1536], vec![0.5f32; 384 * 1536]));
    let text = "graph @f(%x: f32[1,128,384]) {
  %w = const f32[384,1536] blob(0000000000000001)
  %y = matmul %x, %w : f32[1,128,1536] @\"layer\"
  %o = softmax %y {axis = -1} : f32[1,128,1536] @\"last\"
  return %o
}";
    let graph = parse::parse(text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(chosen(&graph, Math::Fast), "");
}
