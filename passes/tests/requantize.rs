//! Epilogues without their division: shorter, and within one step of what they were.

use onnxc_ir::op::OpSet;
use onnxc_ir::{Attr, Graph, Tensor, interp, parse};
use onnxc_passes::requantize;

const SUMS: u64 = 4096;
const CHANNELS: u64 = 8;

/// `u8(clamp(round(…)) + 12)` of what `front` makes of sums `a0` (i32), scales `a1` and offsets `a2`.
fn graph(front: &str, last: u32, scale: f32) -> Graph {
    let end = format!(
        "f32 {scale:?}; f32 div %{last} %{}; f32 243.0; f32 min %{} %{}; f32 -12.0; f32 max %{} %{}; f32 round %{}; i32 cast %{}; i32 12; i32 add %{} %{}; u8 cast %{}",
        last + 1,
        last + 2,
        last + 3,
        last + 4,
        last + 5,
        last + 6,
        last + 7,
        last + 8,
        last + 9,
        last + 10
    );
    let (factors, operand) = if front.contains("a3") {
        (format!("  %f = const f32[1,{CHANNELS}] blob(0000000000000003)\n"), ", %f")
    } else {
        (String::new(), "")
    };
    let text = format!(
        "graph @f(%x: i32[{SUMS},{CHANNELS}]) {{
  %w = const f32[{CHANNELS}] blob(0000000000000001)
  %b = const f32[{CHANNELS}] blob(0000000000000002)
{factors}  %y = map %x, %w, %b{operand} {{program = program \"{front}; {end}\"}} : u8[{SUMS},{CHANNELS}] @\"layer\"
  return %y
}}"
    );
    let value = |blob: u64, i: u64| match blob {
        1 => 1e-4 * (1 + i) as f32,
        2 => 0.3 * i as f32 - 1.0,
        _ => [0.5, 1.0, 0.25, 2.0][i as usize % 4],
    };
    let constant = |blob: u64| {
        let shape = if blob == 3 { vec![1, CHANNELS] } else { vec![CHANNELS] };
        Some(Tensor::from_vec(&shape, (0..CHANNELS).map(|i| value(blob, i)).collect::<Vec<f32>>()))
    };
    parse::parse(&text, OpSet(onnxc_ops::ALL), &constant).unwrap_or_else(|e| panic!("{e}"))
}

const SUM: &str = "i32 a0; f32 a1; f32 a2; f32 cast %0; f32 mul %3 %1; f32 add %4 %2";
const SWISH: &str =
    "f32 0.16666667; f32 mul %5 %6; f32 0.5; f32 add %7 %8; f32 0.0; f32 max %9 %10; f32 1.0; f32 min %11 %12; f32 mul %5 %13";

fn program(graph: &Graph) -> String {
    match graph.nodes[0].attrs.0.get("program") {
        Some(Attr::Program(p)) => p.to_string(),
        _ => panic!("a map has a program"),
    }
}

fn operations(program: &str) -> usize {
    let is_operand = |node: &&str| {
        node.split(' ').nth(1).is_some_and(|op| op.starts_with('a') && op[1..].parse::<u8>().is_ok() || op.parse::<f64>().is_ok())
    };
    program.split("; ").filter(|node| !is_operand(node)).count()
}

/// Results of both graphs for sums of all sizes.
fn results(before: &Graph, after: &Graph) -> (Vec<u8>, Vec<u8>) {
    let sums: Vec<i32> = (0..(SUMS * CHANNELS) as i32).map(|i| (i.wrapping_mul(7919) % 200_000) - 100_000).collect();
    let x = [Tensor::from_vec(&[SUMS, CHANNELS], sums)];
    let run = |graph: &Graph| interp::run(graph, &x).unwrap_or_else(|e| panic!("{e:?}"))[0].bytes().to_vec();
    (run(before), run(after))
}

#[track_caller]
fn check(front: &str, last: u32, fewer: usize) {
    let before = graph(front, last, 0.03);
    let after = requantize::run(&before);
    onnxc_ir::verify::verify(&after).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    let (long, short) = (program(&before), program(&after));
    assert_eq!(operations(&long) - operations(&short), fewer, "{short}");
    assert!(!short.contains("div"), "{short}");
    let (want, got) = results(&before, &after);
    assert!(want.iter().any(|x| *x > 0) && want.iter().any(|x| *x < 255), "results of all sizes");
    let steps: Vec<u8> = want.iter().zip(&got).map(|(a, b)| a.abs_diff(*b)).collect();
    assert!(steps.iter().all(|s| *s <= 1), "one step at most");
    let moved = steps.iter().filter(|s| **s > 0).count();
    assert!(moved * 1000 < steps.len(), "next to halves only: {moved}");
}

#[test]
fn scales_and_offsets_take_the_factor() {
    check(SUM, 5, 1);
}

#[test]
fn bounds_take_the_factor() {
    check(&format!("{SUM}; f32 0.0; f32 max %5 %6; f32 6.0; f32 min %7 %8"), 9, 1);
}

#[test]
fn hard_swish_needs_no_factors_of_its_own() {
    check(&format!("{SUM}; {SWISH}"), 14, 2);
}

#[test]
fn hard_swish_of_what_is_no_constant_keeps_one() {
    let front = format!("i32 a0; f32 a1; f32 a2; f32 cast %0; f32 mul %3 %1; f32 sin %4; {SWISH}");
    check(&front, 14, 1);
}

#[test]
fn factors_of_channels_pass_bounds_of_zero() {
    check(&format!("{SUM}; f32 0.0; f32 max %5 %6; f32 a3; f32 mul %7 %8"), 9, 2);
    check(&format!("{SUM}; f32 a3; f32 mul %5 %6"), 7, 2);
}

#[test]
fn factors_of_channels_stay_where_they_cannot_pass() {
    // The division is in the bounded sum then, or in the factors.
    check(&format!("{SUM}; f32 6.0; f32 min %5 %6; f32 a3; f32 mul %7 %8"), 9, 1);
    check("i32 a0; f32 a1; f32 a2; f32 cast %0; f32 sin %3; f32 a3; f32 mul %4 %5", 6, 1);
    check(&format!("{SUM}; {SWISH}; f32 a3; f32 mul %14 %15"), 16, 2);
}

#[test]
fn steps_may_share_constants() {
    let mut before = graph(SUM, 5, 0.03);
    let (node, y) = (before.nodes[0].clone(), before.outputs[0]);
    let other = before.add_value("other", before.ty(y).clone(), None);
    before.nodes.push(onnxc_ir::graph::Node { outputs: vec![other], ..node });
    before.outputs.push(other);
    let after = requantize::run(&before);
    onnxc_ir::verify::verify(&after).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    assert_eq!(after.nodes[0].attrs, after.nodes[1].attrs);
}

#[test]
fn quotients_of_no_constants_stay_exact() {
    let before = graph("i32 a0; f32 a1; f32 a2; f32 cast %0; f32 sin %3; f32 cos %4", 5, 0.03);
    assert_eq!(program(&requantize::run(&before)), program(&before));
}

/// What an integer convolution makes of its sums.
#[test]
fn sums_begin_with_their_offsets() {
    let text = "graph @f(%x: u8[1,4,9,9]) {
  %v = const i8[8,4,1,1] blob(0000000000000001)
  %z = const u8[] [3]
  %w = const f32[8,1,1] blob(0000000000000002)
  %b = const f32[8,1,1] blob(0000000000000003)
  %y = conv_integer %x, %v, %z, _, %w, %b {epilogue = program \"i32 a0; f32 a1; f32 a2; f32 cast %0; f32 mul %3 %1; f32 add %4 %2; f32 sigmoid %5\"} : f32[1,8,9,9] @\"layer\"
  return %y
}";
    let constant = |blob: u64| {
        Some(match blob {
            1 => Tensor::from_vec(&[8, 4, 1, 1], (0..32).map(|i| (i * 7 % 255) as i8).collect::<Vec<i8>>()),
            _ => Tensor::from_vec(
                &[8, 1, 1],
                (1..=8).map(|i| if blob == 2 { 1e-3 * i as f32 } else { 0.2 * i as f32 - 1.0 }).collect::<Vec<f32>>(),
            ),
        })
    };
    let before = parse::parse(text, OpSet(onnxc_ops::ALL), &constant).unwrap_or_else(|e| panic!("{e}"));
    let after = requantize::run(&before);
    onnxc_ir::verify::verify(&after).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    let epilogue = after.nodes[0].attrs.program("epilogue").expect("an epilogue").to_string();
    assert_eq!(epilogue, "i32 a2; i32 a0; i32 add %1 %0; f32 cast %2; f32 a1; f32 mul %3 %4; f32 sigmoid %5");
    let x = [Tensor::from_vec(&[1, 4, 9, 9], (0..4 * 81).map(|i| (i * 31 % 256) as u8).collect::<Vec<u8>>())];
    let run = |graph: &Graph| interp::run(graph, &x).unwrap_or_else(|e| panic!("{e:?}"))[0].to_vec::<f32>();
    // Half a step of the sum is at most 0.004 here.
    assert!(run(&before).iter().zip(run(&after)).all(|(a, b)| (a - b).abs() < 0.002), "within half a step");
}
