//! Weights that were multiplied by a mask have zeros of either sign: lists leave both out, and the results are those of plain zeros.

use onnxc_codegen::JitModel;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, interp, parse};
use onnxc_passes::plan::plan;
use onnxc_testsuite::samples::random;

/// Weights `[32][24][9]` times a mask that all filters share, whose zeros keep the sign or not.
fn masked(signed: bool) -> Vec<f32> {
    let left = |i: usize| (i % 216 / 9).is_multiple_of(2);
    let weight = |(i, w): (usize, f32)| w * if left(i) { 1.0 } else { 0.0 };
    let masked: Vec<f32> = random(32 * 216, 7).into_iter().enumerate().map(weight).collect();
    // The sum with 0 is the number, or the zero that has no sign.
    if signed { masked } else { masked.into_iter().map(|w| w + 0.0).collect() }
}

fn graph(text: &str, weights: Vec<f32>) -> Graph {
    let weights = Tensor::from_vec(if text.contains("matmul") { &[216, 32] } else { &[32, 24, 3, 3] }, weights);
    parse::parse(text, OpSet(onnxc_ops::ALL), &|_| Some(weights.clone())).unwrap_or_else(|e| panic!("{e}"))
}

fn conv(algorithm: &str, signed: bool) -> Graph {
    let text = format!(
        "graph @f(%x: f32[2,24,9,10]) {{
  %w = const f32[32,24,3,3] blob(0000000000000001)
  %y = conv %x, %w, _ {{{algorithm}pads = ints[1, 1, 1, 1], schedule = \"sparse\"}} : f32[2,32,9,10] @\"layer\"
  return %y
}}"
    );
    graph(&text, masked(signed))
}

fn matmul(signed: bool) -> Graph {
    let text = "graph @f(%x: f32[20,216]) {
  %w = const f32[216,32] blob(0000000000000001)
  %y = matmul %x, %w {schedule = \"sparse\"} : f32[20,32] @\"layer\"
  return %y
}";
    let by_filter = masked(signed);
    graph(text, (0..216 * 32).map(|i| by_filter[i % 32 * 216 + i / 32]).collect())
}

/// The result, and the bytes of weights and lists.
fn compiled(graph: &Graph, x: &Tensor, cpu: &str) -> (Vec<f32>, u64) {
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, 1).expect("a known machine");
    let plan = plan(graph, &target.desc).unwrap_or_else(|e| panic!("{e:?}"));
    let model = JitModel::new(&plan, &target).unwrap_or_else(|e| panic!("{e}"));
    let mut outputs = Vec::new();
    model.run(&[x.bytes()], &mut outputs, 1).unwrap_or_else(|e| panic!("{e}"));
    (outputs[0].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(), plan.weights_bytes)
}

/// A product with a zero is a zero, and adds to no sum but to one that is a zero too, of which it changes at most the sign.
#[test]
fn results_are_those_of_plain_zeros() {
    let of_conv = |algorithm: &'static str| move |signed: bool| conv(algorithm, signed);
    let [two, four] = ["algorithm = \"winograd2\", ", "algorithm = \"winograd4\", "].map(of_conv);
    for made in [&of_conv("") as &dyn Fn(bool) -> Graph, &two, &four, &matmul] {
        let (signed, plain) = (made(true), made(false));
        let shape = signed.ty(signed.inputs[0]).const_shape().expect("known extents");
        let x = Tensor::from_vec(&shape, random(shape.iter().product(), 3));
        let want = interp::run(&signed, std::slice::from_ref(&x)).expect("the interpreter").swap_remove(0).to_vec::<f32>();
        let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        for cpu in ["x86-64", "x86-64-v3", "native"] {
            let ((got, bytes), (other, of_plain)) = (compiled(&signed, &x, cpu), compiled(&plain, &x, cpu));
            assert_eq!(bytes, of_plain, "{cpu}");
            // Numbers are compared, so that both zeros are alike.
            assert!(got == other, "{cpu}: other results");
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst <= 1e-5 * largest, "{cpu}: {worst} of {largest}");
        }
    }
}
