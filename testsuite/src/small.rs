//! Small models as text, with the inputs that `bare/main.c` and `tests/link/probe.h` give them and the interpreter's answers.

use std::fmt::Write;

use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, interp, parse};

/// Convolution with padding, epilogue, reduction, matrix product, exponential: scratch, weights and vector loops are all used.
pub const TINY: &str = r#"graph @tiny(%x: f32[1,1,12,12]) {
  %w = const f32[2,1,2,2] [0.5, -1.0, 0.25, 0.75, -0.5, 1.0, 0.125, -0.25]
  %b = const f32[2] [0.5, -0.125]
  %axes = const i64[2] [2, 3]
  %f = const f32[2,5] [1.0, -0.5, 0.25, 2.0, -1.0, 0.5, 0.75, -2.0, 1.5, -0.25]
  %r = conv %x, %w, %b {dilations = ints[1, 1], epilogue = program "f32 a0; f32 0.0; f32 max %0 %1", group = 1, pads = ints[1, 1, 1, 1], strides = ints[1, 1]} : f32[1,2,13,13]
  %p = reduce_mean %r, %axes : f32[1,2,1,1]
  %q = flatten %p : f32[1,2]
  %m = matmul %q, %f : f32[1,5]
  %y = softmax %m : f32[1,5]
  return %y
}
"#;

/// Two inputs, two outputs.
pub const PAIR: &str = r#"graph @pair(%a: f32[3,8], %b: f32[8]) {
  %s = add %a, %b : f32[3,8]
  %t = tanh %s : f32[3,8]
  %p = mul %t, %a : f32[3,8]
  return %t, %p
}
"#;

/// Two layers of products with enough work for several threads: [`WIDE_ROWS`] rows of 96 numbers.
pub fn wide() -> String {
    let constant = |name: &str, seed: usize, rows: usize, columns: usize| {
        let mut text = format!("  %{name} = const f32[{rows},{columns}] [");
        for i in 0..rows * columns {
            let value = ((i * 31 + seed * 17) % 29) as f32 / 128.0 - 0.109375;
            let _ = write!(text, "{}{value:?}", if i == 0 { "" } else { ", " });
        }
        text + "]\n"
    };
    let n = WIDE_ROWS;
    format!(
        "graph @wide(%x: f32[{n},96]) {{\n{}{}  %h = matmul %x, %w : f32[{n},160]\n  %g = tanh %h : f32[{n},160]\n  \
         %y = matmul %g, %v : f32[{n},64]\n  %z = softmax %y : f32[{n},64]\n  return %z\n}}\n",
        constant("w", 1, 96, 160),
        constant("v", 2, 160, 64)
    )
}

/// The same for any number of rows `N`.
pub fn wide_open() -> String {
    wide().replace(&format!("f32[{WIDE_ROWS},"), "f32[N,")
}

/// Rows of [`wide`].
pub const WIDE_ROWS: usize = 128;

/// The graph of a text.
///
/// # Panics
/// When the text is wrong.
pub fn graph(text: &str) -> Graph {
    parse::parse(text, OpSet(onnxc_ops::ALL), &|_| None).expect("the model's text")
}

/// ((7 i) mod 13 - 6) / 8, i counted over all inputs.
pub fn inputs(graph: &Graph) -> Vec<Tensor> {
    let mut element = 0usize;
    let mut one = |dims: Vec<u64>| {
        let count = dims.iter().product::<u64>() as usize;
        let values = (element..element + count).map(|i| ((i * 7 % 13) as f32 - 6.0) / 8.0).collect();
        element += count;
        Tensor::from_vec(&dims, values)
    };
    graph.inputs.iter().map(|v| one(graph.ty(*v).const_shape().expect("known extents"))).collect()
}

/// The interpreter's answers to [`inputs`], each output's values.
///
/// # Panics
/// When the text is wrong or the interpreter fails.
pub fn expected(text: &str) -> Vec<Vec<f32>> {
    let graph = graph(text);
    let outputs = interp::run(&graph, &inputs(&graph)).expect("interpreter");
    outputs.iter().map(Tensor::to_vec).collect()
}

/// The f32 values of a line `... HEX`.
pub fn values(hex: &str) -> Vec<f32> {
    let bytes: Vec<u8> = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect();
    bytes.chunks(4).map(|c| f32::from_le_bytes(c.try_into().expect("four bytes"))).collect()
}

/// Fails unless `said` has a line `NAME J HEX` for each output of the model, with values close to the interpreter's.
///
/// # Panics
/// When an output is missing or wrong.
#[track_caller]
pub fn check(said: &str, name: &str, text: &str) {
    for (j, want) in expected(text).iter().enumerate() {
        let start = format!("{name} {j} ");
        let line = said.lines().find_map(|l| l.strip_prefix(&start)).unwrap_or_else(|| panic!("no line {start}in {said}"));
        let got = values(line);
        assert_eq!(got.len(), want.len(), "{name} output {j}");
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= 1e-5 * w.abs().max(1e-2), "{name} output {j}[{i}]: {g}, expected {w}");
        }
    }
}
