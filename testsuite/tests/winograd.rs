//! Winograd's algorithm as compiled code: its error for many channels, and the same bits for any number of threads.

use onnxc_codegen::JitModel;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, interp, parse};
use onnxc_ops::winograd::ALGORITHMS;
use onnxc_passes::plan::plan;
use onnxc_testsuite::samples::random;

/// A padded convolution of this many taps, images x channels x height x width to filters.
fn conv([n, c, h, w]: [u64; 4], (filters, taps): (u64, u64), algorithm: &str) -> (Graph, Tensor) {
    let pad = taps / 2;
    let text = format!(
        "graph @f(%x: f32[{n},{c},{h},{w}]) {{
  %w = const f32[{filters},{c},{taps},{taps}] blob(0000000000000001)
  %y = conv %x, %w, _ {{algorithm = \"{algorithm}\", pads = ints[{pad}, {pad}, {pad}, {pad}]}} : f32[{n},{filters},{h},{w}] @\"layer\"
  return %y
}}"
    );
    let weights = Tensor::from_vec(&[filters, c, taps, taps], random(filters * c * taps * taps, 7));
    let graph = parse::parse(&text, OpSet(onnxc_ops::ALL), &|_| Some(weights.clone())).unwrap_or_else(|e| panic!("{e}"));
    (graph, Tensor::from_vec(&[n, c, h, w], random(n * c * h * w, 3)))
}

fn compiled(graph: &Graph, x: &Tensor, cpu: &str, threads: u32) -> Vec<u8> {
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, threads).expect("a known machine");
    let plan = plan(graph, &target.desc).unwrap_or_else(|e| panic!("{e:?}"));
    let model = JitModel::new(&plan, &target).unwrap_or_else(|e| panic!("{e}"));
    let mut outputs = Vec::new();
    model.run(&[x.bytes()], &mut outputs, threads).unwrap_or_else(|e| panic!("{e}"));
    outputs.swap_remove(0)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Far below what whole models are allowed, 1e-3 of the largest output. Tiles of eight points lose a digit more. The second image is larger than the
/// second-level cache, so that tiles fetch those to come.
#[test]
fn the_error_is_small_for_many_channels_and_large_images() {
    for extents in [[1, 512, 9, 8], [1, 20, 93, 170]] {
        for (algorithm, points) in ALGORITHMS {
            let (graph, x) = conv(extents, (12, points.taps as u64), algorithm);
            let want = interp::run(&graph, std::slice::from_ref(&x)).expect("the interpreter").swap_remove(0).to_vec::<f32>();
            let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            for cpu in ["x86-64", "x86-64-v3", "native"] {
                let got = floats(&compiled(&graph, &x, cpu, 1));
                let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                let allowed = if points.is_rough() { 3e-5 } else { 1e-5 };
                assert!(worst <= allowed * largest, "{algorithm} of {extents:?} on {cpu}: {worst} of {largest}");
            }
        }
    }
}

/// Many blocks, which are tasks, and a few, whose tiles and points are.
#[test]
fn threads_change_no_bit() {
    for (algorithm, points) in ALGORITHMS {
        for (x, filters) in [([2, 20, 90, 87], 24), ([1, 96, 13, 14], 70), ([1, 40, 33, 30], 36)] {
            let (graph, x) = conv(x, (filters, points.taps as u64), algorithm);
            let one = compiled(&graph, &x, "x86-64-v3", 1);
            for threads in [2, 3] {
                assert!(compiled(&graph, &x, "x86-64-v3", threads) == one, "{algorithm}, {:?}, {threads} threads", x.shape());
            }
        }
    }
}
