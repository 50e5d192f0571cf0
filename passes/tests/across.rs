//! Which convolutions compute several outputs of a row as filters of one.

mod support;

use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, parse};
use onnxc_ops::schedule::Choice;
use onnxc_passes::winograd::GROWTH;
use onnxc_passes::{Math, choose};
use support::machine;

/// A convolution of so many filters of 5 by 5 over a row of `width` pixels.
fn conv(filters: u64, width: u64) -> Graph {
    let text = format!(
        "graph @f(%x: f32[1,1,28,{width}]) {{
  %w = const f32[{filters},1,5,5] blob(0000000000000001)
  %y = conv %x, %w, _ {{pads = ints[2, 2, 2, 2]}} : f32[1,{filters},28,{width}] @\"layer\"
  %o = tanh %y : f32[1,{filters},28,{width}] @\"follows\"
  return %o
}}"
    );
    let blob = |_: u64| Some(Tensor::from_vec(&[filters, 1, 5, 5], vec![0.5f32; 25 * filters as usize]));
    parse::parse(&text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"))
}

/// The choice for it on vectors of 16.
fn chosen(graph: &Graph, math: Math) -> String {
    let after = choose::by_costs(graph, &machine(), GROWTH, math);
    onnxc_ir::verify::verify(&after).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    after.nodes.iter().find(|n| n.op.name == "conv").map(|n| Choice::of(&n.attrs).to_string()).expect("the convolution")
}

#[test]
fn vectors_are_filled_with_neighbours() {
    assert_eq!(chosen(&conv(8, 28), Math::Fast), "across=2");
}

#[test]
fn full_vectors_odd_rows_and_strict_arithmetic_stay_as_they_are() {
    for (filters, width, math) in [(16, 28, Math::Fast), (8, 27, Math::Fast), (8, 28, Math::Strict)] {
        let choice = chosen(&conv(filters, width), math);
        assert!(!choice.contains("across"), "{filters} filters, {width} columns: {choice}");
        assert!(math == Math::Fast || choice.is_empty(), "strict: {choice}");
    }
}
