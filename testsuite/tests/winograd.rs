//! Winograd's algorithm as compiled code: its error for many channels, none of integers, and the same bits for any number of threads.

use onnxc_codegen::JitModel;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, interp, parse};
use onnxc_ops::winograd::ALGORITHMS;
use onnxc_ops::winograd::points::Points;
use onnxc_passes::plan::plan;
use onnxc_passes::{Math, choose, winograd};
use onnxc_testsuite::samples::random;

/// A padded convolution at these points, images x channels x height x width to filters.
fn conv([n, c, h, w]: [u64; 4], filters: u64, (algorithm, points): (&str, &Points)) -> (Graph, Tensor) {
    let (taps, stride) = (points.taps as u64, points.stride as u64);
    let (pad, [rows, columns]) = (taps / 2, [h, w].map(|n| n.div_ceil(stride)));
    let text = format!(
        "graph @f(%x: f32[{n},{c},{h},{w}]) {{
  %w = const f32[{filters},{c},{taps},{taps}] blob(0000000000000001)
  %y = conv %x, %w, _ {{algorithm = \"{algorithm}\", pads = ints[{pad}, {pad}, {pad}, {pad}], strides = ints[{stride}, {stride}]}} : f32[{n},{filters},{rows},{columns}] @\"layer\"
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
            let (graph, x) = conv(extents, 12, (algorithm, points));
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

/// A padded convolution of bytes at the ends of their range.
fn conv_integer([n, c, h, w]: [u64; 4], filters: u64, algorithm: &str) -> (Graph, Tensor) {
    let stride = ALGORITHMS.iter().find(|a| a.0 == algorithm).map_or(1, |(_, points)| points.stride as u64);
    let [rows, columns] = [h, w].map(|n| n.div_ceil(stride));
    let text = format!(
        "graph @f(%x: u8[{n},{c},{h},{w}]) {{
  %w = const i8[{filters},{c},3,3] blob(0000000000000001)
  %y = conv_integer %x, %w, _, _ {{algorithm = \"{algorithm}\", pads = ints[1, 1, 1, 1], strides = ints[{stride}, {stride}]}} : i32[{n},{filters},{rows},{columns}] @\"layer\"
  return %y
}}"
    );
    let end = |low: i8, x: &f32| if *x < 0.25 { low } else { !low };
    let weights: Vec<i8> = random(filters * c * 9, 7).iter().map(|x| end(-128, x)).collect();
    // The first filter has all sums as large as they can be.
    let weights = weights.iter().enumerate().map(|(i, w)| if (i as u64) < c * 9 { -128 } else { *w }).collect();
    let weights = Tensor::from_vec(&[filters, c, 3, 3], weights);
    let graph = parse::parse(&text, OpSet(onnxc_ops::ALL), &|_| Some(weights.clone())).unwrap_or_else(|e| panic!("{e}"));
    // One image has no zeros.
    let image = c * h * w;
    let x =
        random(n * image, 3).iter().enumerate().map(|(i, x)| if (i as u64) < image { 255 } else { end(0, x) as u8 }).collect();
    (graph, Tensor::from_vec(&[n, c, h, w], x))
}

/// Sums of the most channels that have room in 32 bits, of more, which are computed directly, and of few; blocks in order and in parallel.
#[test]
fn integers_are_exact_at_the_ends_of_their_range() {
    for (channels, algorithm) in [(1826, "winograd2"), (1828, "winograd2"), (114, "winograd4"), (116, "winograd4")] {
        exact([2, channels, 4, 5], 3, algorithm);
    }
    for algorithm in ["winograd2", "winograd4", "winograd2_by_2"] {
        exact([2, 6, 33, 30], 37, algorithm);
        exact([2, 20, 90, 87], 24, algorithm);
    }
}

fn exact(x: [u64; 4], filters: u64, algorithm: &str) {
    let (graph, x) = conv_integer(x, filters, algorithm);
    let want = interp::run(&graph, std::slice::from_ref(&x)).expect("the interpreter").swap_remove(0);
    for cpu in ["x86-64", "x86-64-v3", "native"] {
        for threads in [1, 3] {
            let got = compiled(&graph, &x, cpu, threads);
            assert!(got == want.bytes(), "{algorithm} of {:?} on {cpu}, {threads} threads", x.shape());
        }
    }
}

/// Where words are multiplied no slower than bytes, and within the limit of weights.
#[test]
fn integers_are_computed_in_tiles_where_words_are_fast() {
    let (graph, _) = conv_integer([1, 64, 28, 28], 64, "direct");
    let mut graph = graph;
    graph.nodes[0].attrs.0.remove("algorithm");
    let algorithm = |triple, cpu, growth, math| {
        let target = onnxc_targets::describe(triple, cpu, 1).expect("a known machine");
        let after = choose::by_costs(&graph, &target.desc, growth, math);
        winograd::chosen(&after).pop().map(|chosen| (chosen.algorithm, chosen.bytes))
    };
    let x86 = "x86_64-unknown-linux-gnu";
    let tiled = Some(("winograd2".to_string(), (9 * 64 * 64, 2 * 16 * 64 * 64)));
    for math in [Math::Fast, Math::Strict] {
        assert_eq!(algorithm(x86, "x86-64-v3", 4.0, math), tiled);
    }
    let larger = Some(("winograd4".to_string(), (9 * 64 * 64, 2 * 36 * 64 * 64)));
    assert_eq!(algorithm(x86, "x86-64-v3", 9.0, Math::Fast), larger);
    assert_eq!(algorithm(x86, "x86-64-v3", 1.5, Math::Fast), None);
    assert_eq!(algorithm("riscv64gc-unknown-linux-gnu", "rv64gcv", 4.0, Math::Fast), tiled);
    assert_eq!(algorithm(x86, "sapphirerapids", 4.0, Math::Fast), None);
    assert_eq!(algorithm("aarch64-unknown-linux-gnu", "neoverse-n1", 4.0, Math::Fast), None);
}

/// Many blocks, which are tasks, and a few, whose tiles and points are.
#[test]
fn threads_change_no_bit() {
    for (algorithm, points) in ALGORITHMS {
        for (x, filters) in [([2, 20, 90, 87], 24), ([1, 96, 13, 14], 70), ([1, 40, 33, 30], 36)] {
            let (graph, x) = conv(x, filters, (algorithm, points));
            let one = compiled(&graph, &x, "x86-64-v3", 1);
            for threads in [2, 3] {
                assert!(compiled(&graph, &x, "x86-64-v3", threads) == one, "{algorithm}, {:?}, {threads} threads", x.shape());
            }
        }
    }
}
