//! Which products leave out weights that are zero.

mod support;

use onnxc_ir::kernel::Kernel;
use onnxc_ir::lir::Stmt;
use onnxc_ir::op::OpSet;
use onnxc_ir::plan::{Plan, Step};
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Graph, Tensor, parse};
use onnxc_ops::schedule::Choice;
use onnxc_passes::layer::layers;
use onnxc_passes::sparsity::{choices, pattern};
use onnxc_passes::winograd::GROWTH;
use onnxc_passes::{Math, choose, plan};
use support::machine;

const SHAPE: [u64; 4] = [64, 64, 3, 3];

/// Weights of which the positions (filter, channel, tap) that `left` names are not zero.
fn weights(left: impl Fn(u64, u64, u64) -> bool) -> Vec<i8> {
    let coordinates = (0..64).flat_map(|f| (0..64).flat_map(move |c| (0..9).map(move |t| (f, c, t))));
    coordinates.map(|(f, c, t)| if left(f, c, t) { 1 + ((f + 3 * c + t) % 9) as i8 } else { 0 }).collect()
}

/// Half of the channels, and 4 of 9 positions of those, the same for 32 filters and four channels.
fn grouped(f: u64, c: u64, t: u64) -> bool {
    let (group, channels) = (f / 32, c / 4);
    (channels + group) % 2 == 0 && (t + channels + group) % 9 < 4
}

fn graph(text: &str, w: &Tensor) -> Graph {
    let ballast = || Tensor::from_vec(&[1 << 16], vec![0.5f32; 1 << 16]);
    let blob = |hash: u64| Some(if hash == 1 { w.clone() } else { ballast() });
    parse::parse(text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"))
}

/// A product of matrices by the same weights, of which the rows are channels and positions.
fn matmul(w: &Tensor) -> Graph {
    let text = "graph @f(%x: f32[49,576]) {
  %w = const f32[576,64] blob(0000000000000001)
  %y = matmul %x, %w : f32[49,64] @\"layer\"
  return %y
}";
    let (from, k) = (w.to_vec::<f32>(), 576);
    graph(text, &Tensor::from_vec(&[576, 64], (0..k * 64).map(|i| from[i % 64 * k + i / 64]).collect::<Vec<f32>>()))
}

fn conv(left: impl Fn(u64, u64, u64) -> bool) -> Graph {
    conv_by(&Tensor::from_vec(&SHAPE, weights(left).into_iter().map(f32::from).collect()))
}

fn conv_by(w: &Tensor) -> Graph {
    let text = "graph @f(%x: f32[1,64,28,28], %z: f32[65536]) {
  %w = const f32[64,64,3,3] blob(0000000000000001)
  %b = const f32[65536] blob(0000000000000002)
  %y = conv %x, %w, _ {pads = ints[1, 1, 1, 1]} : f32[1,64,28,28] @\"layer\"
  %o = add %z, %b : f32[65536] @\"sum\"
  return %y, %o
}";
    graph(text, w)
}

/// Weights of either sign times a mask, which makes zeros of either sign, and the same with the zeros that have no sign.
fn masked(left: impl Fn(u64, u64, u64) -> bool) -> [Tensor; 2] {
    let signed = |(i, w): (usize, i8)| f32::from(w) * if i % 2 == 0 { 0.5 } else { -0.5 };
    let trained: Vec<f32> = weights(|_, _, _| true).into_iter().enumerate().map(signed).collect();
    let mask = weights(left).into_iter().map(|w| if w == 0 { 0.0 } else { 1.0 });
    let masked: Vec<f32> = trained.into_iter().zip(mask).map(|(w, m)| w * m).collect();
    let plain = masked.iter().map(|w| w + 0.0).collect();
    [Tensor::from_vec(&SHAPE, masked), Tensor::from_vec(&SHAPE, plain)]
}

fn conv_integer(left: impl Fn(u64, u64, u64) -> bool) -> Graph {
    let text = "graph @f(%x: u8[1,64,28,28]) {
  %w = const i8[64,64,3,3] blob(0000000000000001)
  %y = conv_integer %x, %w, _, _ {pads = ints[1, 1, 1, 1]} : i32[1,64,28,28] @\"layer\"
  return %y
}";
    graph(text, &Tensor::from_vec(&SHAPE, weights(left)))
}

/// The choice for the first node, and the plan.
fn chosen(graph: &Graph, math: Math) -> (String, Plan) {
    let after = choose::by_costs(graph, &machine(), GROWTH, math);
    onnxc_ir::verify::verify(&after).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    let plan = plan::plan(&after, &machine()).unwrap_or_else(|e| panic!("{e:?}"));
    (Choice::of(&after.nodes[0].attrs).to_string(), plan)
}

fn lists(plan: &Plan) -> usize {
    fn of(block: &[Stmt]) -> usize {
        let count = |s: &Stmt| match s {
            Stmt::For { body, .. } | Stmt::While(_, body) => of(body),
            Stmt::If(_, a, b) => of(a) + of(b),
            Stmt::Call(Kernel::Tile(k), ..) => usize::from(k.list),
            _ => 0,
        };
        block.iter().map(count).sum()
    }
    plan.steps.iter().map(|s| if let Step::Call { func, .. } = s { of(&func.body) } else { 0 }).sum()
}

#[test]
fn zeros_that_filters_share_are_left_out() {
    let (choice, plan) = chosen(&conv(grouped), Math::Fast);
    assert_eq!(choice, "14x32 sparse");
    assert!(lists(&plan) > 0);
    let (_, dense) = chosen(&conv(|_, _, _| true), Math::Strict);
    // 147 KB of weights become 33 KB, beside 256 KB of other constants.
    let shrunk = dense.weights_bytes - plan.weights_bytes;
    assert!((105_000..120_000).contains(&shrunk), "{shrunk} bytes");
}

#[test]
fn what_filters_do_not_share_is_not_worth_a_list() {
    let scattered = |f: u64, c: u64, t: u64| (f * 31 + c * 17 + t * 7).is_multiple_of(2);
    for left in [&scattered as &dyn Fn(u64, u64, u64) -> bool, &|_, _, _| true, &|_, _, _| false] {
        let (choice, plan) = chosen(&conv(left), Math::Fast);
        assert!(choice.starts_with("winograd"), "{choice}");
        assert_eq!(lists(&plan), 0);
    }
    // A few channels less do not make up for four times fewer multiplications.
    assert!(chosen(&conv(|_, c, _| c < 60), Math::Fast).0.starts_with("winograd"));
}

#[test]
fn kernels_that_are_whole_are_left_out_of_winograd_s_products() {
    let half = |f: u64, c: u64, _| (c + f / 32).is_multiple_of(2);
    let (choice, plan) = chosen(&conv(half), Math::Fast);
    assert!(choice.starts_with("winograd") && choice.ends_with("14x32 sparse"), "{choice}");
    assert!(lists(&plan) > 0);
}

/// Their transforms keep eight vectors a line in registers.
#[test]
fn tiles_of_eight_points_need_registers_with_zeros_too() {
    let graph = conv(grouped);
    let layer = layers(&graph).remove(0).expect("a layer");
    let few = TargetDesc { lanes: 8, f32_tiles: vec![(6, 16)], ..machine() };
    let largest = |target: &TargetDesc| choices(&layer, target, Math::Fast).iter().filter_map(|c| c.algorithm).max();
    assert_eq!((largest(&machine()), largest(&few)), (Some("winograd6"), Some("winograd4")));
}

#[test]
fn zeros_behind_a_mask_are_zeros_of_either_sign() {
    let half = |f: u64, c: u64, _| (c + f / 32).is_multiple_of(2);
    for (left, choice) in [(&grouped as &dyn Fn(u64, u64, u64) -> bool, "14x32 sparse"), (&half, "winograd2 14x32 sparse")] {
        let [signed, plain] = masked(left);
        assert!(signed.bytes() != plain.bytes() && pattern(&signed).is_some());
        assert_eq!(pattern(&signed), pattern(&plain));
        let both = [&signed, &plain].map(|w| chosen(&conv_by(w), Math::Fast));
        assert!(both.iter().all(|(found, plan)| found == choice && lists(plan) > 0), "{} and {}", both[0].0, both[1].0);
        assert_eq!(both[0].1.weights_bytes, both[1].1.weights_bytes);
        let both = [&signed, &plain].map(|w| chosen(&matmul(w), Math::Fast));
        assert!(both.iter().all(|(found, plan)| found.ends_with("sparse") && lists(plan) > 0), "{} and {}", both[0].0, both[1].0);
        assert_eq!((&both[0].0, both[0].1.weights_bytes), (&both[1].0, both[1].1.weights_bytes));
    }
}

#[test]
fn strict_arithmetic_forbids_it_for_floats_only() {
    let (choice, plan) = chosen(&conv(grouped), Math::Strict);
    assert_eq!((choice.as_str(), lists(&plan)), ("", 0));
    for math in [Math::Strict, Math::Fast] {
        let (choice, plan) = chosen(&conv_integer(grouped), math);
        assert_eq!(choice, "14x32 sparse");
        assert!(lists(&plan) > 0);
    }
    assert_eq!(chosen(&conv_integer(|_, _, _| true), Math::Fast).0, "");
}

#[test]
fn zeros_of_recurrent_layers_are_left_out() {
    let (text, width, k) = (
        "graph @f(%x: f32[4,1,64]) {
  %w = const f32[1,512,64] blob(0000000000000001)
  %r = const f32[1,512,128] blob(0000000000000002)
  %y, %h, %c = lstm %x, %w, %r : f32[4,1,1,128], f32[1,1,128], f32[1,1,128] @\"layer\"
  return %y
}",
        512,
        128,
    );
    let matrix = |k: usize, every: usize| {
        let kept = |row: usize, column: usize| (column + row / 32).is_multiple_of(every);
        let value = |i: usize| if kept(i / k, i % k) { 0.25 } else { 0.0 };
        Tensor::from_vec(&[1, width as u64, k as u64], (0..width * k).map(value).collect::<Vec<f32>>())
    };
    let chosen_for = |of_w: usize, of_r: usize| {
        let blob = |hash: u64| Some(if hash == 1 { matrix(64, of_w) } else { matrix(k, of_r) });
        let graph = parse::parse(text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"));
        let (choice, plan) = chosen(&graph, Math::Fast);
        (choice.ends_with("sparse"), lists(&plan))
    };
    assert_eq!(chosen_for(1, 1), (false, 0));
    // Each product has a list if it leaves anything out.
    assert_eq!(chosen_for(1, 3), (true, 1));
    assert_eq!(chosen_for(3, 3), (true, 2));
}

#[test]
fn measured_layers_differ_by_their_zeros() {
    let of = |left: &dyn Fn(u64, u64, u64) -> bool| pattern(&Tensor::from_vec(&SHAPE, weights(left)));
    assert_eq!(of(&|_, _, _| true), None);
    assert!(of(&grouped).is_some() && of(&grouped) == of(&grouped));
    assert_ne!(of(&grouped), of(&|f, c, t| grouped(f, c + 4, t)));
}
