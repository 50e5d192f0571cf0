//! Chains of convolutions as compiled code: the same bits as the convolutions one after the other, for any number of threads.

use std::fmt::Write;

use onnxc_codegen::JitModel;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, interp, parse, verify};
use onnxc_passes::plan::plan;
use onnxc_passes::row_chain;
use onnxc_testsuite::samples::cases;

/// Random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn floats(&mut self, shape: &[u64]) -> Tensor {
        let n: u64 = shape.iter().product();
        Tensor::from_vec(shape, (0..n).map(|_| (self.next() % 2001) as f32 / 1000.0 - 1.0).collect())
    }
}

/// Convolutions one behind the other, of one element or of one channel each, the last one with a residual behind it.
fn network(r: &mut Random) -> (Graph, Vec<Tensor>) {
    let (images, mut c) = (r.within(1, 2), r.within(9, 20));
    let (mut h, mut w) = (r.within(60, 140), r.within(6, 40));
    let input = [images, c, h, w];
    let (mut body, mut blobs, mut x) = (String::new(), Vec::new(), "x".to_string());
    let mut depthwise = r.within(0, 1) == 1;
    for link in 0..r.within(2, 4) {
        let (k, stride) = if depthwise { (3 + 2 * r.within(0, 1), r.within(1, 2)) } else { (1, 1) };
        let pads: Vec<u64> = (0..4).map(|_| if depthwise { r.within(0, k / 2) } else { 0 }).collect();
        let m = if depthwise { c } else { r.within(9, 24) };
        let (group, per_group) = if depthwise { (c, 1) } else { (1, c) };
        let extent = |n: u64, pads: u64| (n + pads - k) / stride + 1;
        if h + pads[0] + pads[2] < k || w + pads[1] + pads[3] < k {
            break;
        }
        (c, h, w) = (m, extent(h, pads[0] + pads[2]), extent(w, pads[1] + pads[3]));
        blobs.push(r.floats(&[m, per_group, k, k]));
        blobs.push(r.floats(&[m]));
        let blob = 2 * link + 1;
        let _ = write!(
            body,
            "  %w{link} = const f32[{m},{per_group},{k},{k}] blob({blob:016x})\n  %b{link} = const f32[{m}] blob({:016x})
  %y{link} = conv %{x}, %w{link}, %b{link}, %r{link} {{epilogue = program \"f32 a0; f32 a1; f32 add %0 %1; f32 0.0; f32 max %2 %3\", \
             group = {group}, pads = ints[{}, {}, {}, {}], strides = ints[{stride}, {stride}]}} : f32[{images},{m},{h},{w}] @\"link{link}\"\n",
            blob + 1,
            pads[0],
            pads[1],
            pads[2],
            pads[3]
        );
        x = format!("y{link}");
        depthwise = !depthwise;
    }
    // What is added to each result: one value for each image, row, column, or all of them.
    let links = blobs.len() / 2;
    let mut operands = vec![r.floats(&input)];
    let mut inputs = format!("%x: f32[{images},{},{},{}]", input[1], input[2], input[3]);
    let shapes: Vec<[u64; 4]> = body.lines().filter_map(result_shape).collect();
    for (link, full) in shapes.iter().enumerate().take(links) {
        let shape: Vec<u64> = full.iter().map(|n| if r.within(0, 1) == 1 { *n } else { 1 }).collect();
        let _ = write!(inputs, ", %r{link}: f32[{},{},{},{}]", shape[0], shape[1], shape[2], shape[3]);
        operands.push(r.floats(&shape));
    }
    let text = format!("graph @f({inputs}) {{\n{body}  return %{x}\n}}");
    let graph = parse::parse(&text, OpSet(onnxc_ops::ALL), &|hash| blobs.get(hash as usize - 1).cloned());
    (graph.unwrap_or_else(|e| panic!("{e}\n{text}")), operands)
}

/// The shape of a line's result, if it is a convolution.
fn result_shape(line: &str) -> Option<[u64; 4]> {
    let (_, ty) = line.split_once("} : f32[")?;
    let numbers: Vec<u64> = ty.split(']').next()?.split(',').filter_map(|n| n.parse().ok()).collect();
    numbers.try_into().ok()
}

fn compiled(graph: &Graph, inputs: &[Tensor], target: &onnxc_targets::Target) -> Vec<u8> {
    let plan = plan(graph, &target.desc).unwrap_or_else(|e| panic!("{e:?}"));
    let model = JitModel::new(&plan, target).unwrap_or_else(|e| panic!("{e}"));
    let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
    let mut outputs = Vec::new();
    model.run(&bytes, &mut outputs, target.desc.max_threads).unwrap_or_else(|e| panic!("{e}"));
    outputs.swap_remove(0)
}

fn target(cpu: &str, threads: u32) -> onnxc_targets::Target {
    onnxc_targets::describe("x86_64-unknown-linux-gnu", cpu, threads).expect("a known machine")
}

/// Gives a machine a second-level cache so small that values of these networks are large beside it, and steps short, and memory behind it that is so slow
/// that every chain is worth it.
fn with_small_cache(machine: &mut onnxc_targets::Target, bytes: u64) {
    let desc = &mut machine.desc;
    desc.l2_bytes = bytes;
    desc.machine.levels[1].bytes = bytes;
    for (n, level) in desc.machine.levels.iter_mut().enumerate().skip(2) {
        (level.bytes, level.spilled) = (bytes << n, 0.01);
    }
}

#[test]
fn random_chains_have_the_bits_of_their_links() {
    let mut chains = 0;
    for seed in 1..=80 {
        let mut r = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let (graph, inputs) = network(&mut r);
        let (cpu, threads) = (["native", "x86-64-v3", "x86-64"][seed as usize % 3], 1 + seed as u32 % 3);
        let mut machine = target(cpu, threads);
        let want = compiled(&graph, &inputs, &machine);
        with_small_cache(&mut machine, r.within(24, 96) << 10);
        let chained = row_chain::run(&graph, &machine.desc);
        verify::verify(&chained).unwrap_or_else(|e| panic!("seed {seed}: {}", e.join("\n")));
        chains += chained.nodes.iter().filter(|n| n.op.name == "row_chain").count();
        let got = compiled(&chained, &inputs, &machine);
        assert!(got == want, "seed {seed}, {cpu}, {threads} threads:\n{}", onnxc_ir::text::print(&chained));
    }
    assert!(chains >= 30, "only {chains} chains");
}

#[test]
fn samples_have_the_same_bits_with_any_number_of_threads() {
    let (cases, failures) = cases("row_chain");
    assert!(failures.is_empty() && !cases.is_empty(), "{failures:?}");
    for case in &cases {
        let one = compiled(&case.graph, &case.inputs, &target("native", 1));
        for threads in [2, 3, 8] {
            let more = compiled(&case.graph, &case.inputs, &target("native", threads));
            assert!(more == one, "{threads} threads:\n{}", onnxc_ir::text::print(&case.graph));
        }
    }
}

#[test]
fn bytes_that_are_copied_as_signed_ones_have_the_same_bits() {
    let (cases, failures) = cases("row_chain");
    assert!(failures.is_empty(), "{failures:?}");
    let (machine, mut signed) = (target("native", 1), target("native", 1));
    signed.desc.i8_unsigned_a = !machine.desc.i8_unsigned_a;
    for case in cases.iter().filter(|c| c.inputs[0].dtype().bytes() == 1) {
        assert!(
            compiled(&case.graph, &case.inputs, &signed) == compiled(&case.graph, &case.inputs, &machine),
            "{}",
            onnxc_ir::text::print(&case.graph)
        );
    }
}

#[test]
fn the_interpreter_means_the_links() {
    let mut r = Random(5);
    let (graph, inputs) = network(&mut r);
    let mut machine = target("x86-64-v3", 1);
    with_small_cache(&mut machine, 48 << 10);
    let chained = row_chain::run(&graph, &machine.desc);
    assert_ne!(graph, chained);
    assert_eq!(interp::run(&graph, &inputs), interp::run(&chained, &inputs));
}
