//! Which convolutions get Winograd's algorithm, and what limits it.

mod support;

use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, parse};
use onnxc_passes::winograd::{CLASS, GROWTH, chosen};
use onnxc_passes::{Math, choose, plan};
use support::machine;

/// A convolution of `x` by constant weights `w`, with these attributes, beside a constant of `ballast` floats.
fn conv(x: &str, w: &[u64], attrs: &str, y: &str, ballast: u64) -> Graph {
    let dims: Vec<String> = w.iter().map(u64::to_string).collect();
    let text = format!(
        "graph @f(%x: f32[{x}], %z: f32[{ballast}]) {{
  %w = const f32[{}] blob(0000000000000001)
  %b = const f32[{ballast}] blob(0000000000000002)
  %y = conv %x, %w, _ {{{attrs}}} : f32[{y}] @\"layer\"
  %o = add %z, %b : f32[{ballast}] @\"sum\"
  return %y, %o
}}",
        dims.join(",")
    );
    let zeros = |shape: &[u64]| Some(Tensor::from_vec(shape, vec![0.5f32; shape.iter().product::<u64>() as usize]));
    let blob = |hash: u64| if hash == 1 { zeros(w) } else { zeros(&[ballast]) };
    parse::parse(&text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn algorithm(graph: &Graph, growth: f64) -> Option<String> {
    let after = choose::by_costs(graph, &machine(), growth, Math::Fast);
    onnxc_ir::verify::verify(&after).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    chosen(&after).pop().map(|c| c.algorithm)
}

const PADS: &str = "pads = ints[1, 1, 1, 1]";

#[test]
fn large_images_with_many_channels_are_computed_in_large_tiles() {
    let graph = conv("1,64,56,56", &[64, 64, 3, 3], PADS, "1,64,56,56", 1 << 20);
    assert_eq!(algorithm(&graph, GROWTH).as_deref(), Some("winograd4"));
}

#[test]
fn small_images_and_few_channels_are_not_worth_large_tiles() {
    let small = conv("1,512,7,7", &[512, 512, 3, 3], PADS, "1,512,7,7", 1 << 24);
    assert_eq!(algorithm(&small, GROWTH).as_deref(), Some("winograd2"));
    let few = conv("1,3,224,224", &[64, 3, 3, 3], PADS, "1,64,224,224", 1 << 20);
    assert_eq!(algorithm(&few, GROWTH), None);
}

#[test]
fn kernels_of_five_by_five_have_tiles_of_their_own() {
    let five = |x: &str, w: &[u64], pads: u64, ballast| {
        let pads = format!("pads = ints[{pads}, {pads}, {pads}, {pads}]");
        conv(x, w, &pads, &format!("1,{},{}", w[0], &x[x[2..].find(',').expect("a channel") + 3..]), ballast)
    };
    let large = |ballast| five("1,64,28,28", &[64, 64, 5, 5], 2, ballast);
    assert_eq!(algorithm(&large(1 << 20), GROWTH).as_deref(), Some("winograd4_of_5"));
    // 410 KB of weights become 590 or 1049 KB.
    assert_eq!(algorithm(&large(1 << 16), GROWTH).as_deref(), Some("winograd2_of_5"));
    assert_eq!(algorithm(&large(1 << 16), 1.0), None);
    // The code of its transforms is long, but a small layer takes half the time.
    assert_eq!(algorithm(&five("1,8,14,14", &[16, 8, 5, 5], 2, 1 << 14), GROWTH).as_deref(), Some("winograd4_of_5"));
    assert_eq!(algorithm(&conv("1,64,28,28", &[64, 64, 7, 7], "pads = ints[3, 3, 3, 3]", "1,64,28,28", 1 << 20), 9.0), None);
}

#[test]
fn strides_of_two_have_tiles_of_their_own() {
    let strided = conv("1,128,56,56", &[128, 128, 3, 3], "pads = ints[1, 1, 1, 1], strides = ints[2, 2]", "1,128,28,28", 1 << 20);
    assert_eq!(algorithm(&strided, GROWTH).as_deref(), Some("winograd2_by_2"));
    let weights = 9 * 128 * 128 * 4;
    let after = choose::by_costs(&strided, &machine(), GROWTH, Math::Fast);
    assert_eq!(chosen(&after)[0].bytes, (weights, weights * 16 / 9));
}

#[test]
fn growth_is_limited() {
    let graph = |ballast| conv("1,64,56,56", &[64, 64, 3, 3], PADS, "1,64,56,56", ballast);
    // 147 KB of weights become 262 or 590 KB.
    assert_eq!(algorithm(&graph(1 << 16), GROWTH).as_deref(), Some("winograd2"));
    assert_eq!(algorithm(&graph(1 << 10), GROWTH), None);
    assert_eq!(algorithm(&graph(1 << 10), 4.0).as_deref(), Some("winograd4"));
    assert_eq!(algorithm(&graph(1 << 20), 1.0), None);
}

#[test]
fn what_does_not_fit_stays_direct() {
    let direct =
        |w: &[u64], attrs: &str, y: &str| assert_eq!(algorithm(&conv("1,64,56,56", w, attrs, y, 1 << 20), 9.0), None, "{attrs}");
    direct(&[64, 64, 3, 3], "pads = ints[1, 1, 1, 1], strides = ints[2, 1]", "1,64,28,56");
    direct(&[64, 64, 5, 5], "pads = ints[2, 2, 2, 2], strides = ints[2, 2]", "1,64,28,28");
    direct(&[64, 64, 3, 3], "dilations = ints[2, 2], pads = ints[2, 2, 2, 2]", "1,64,56,56");
    direct(&[64, 32, 3, 3], "group = 2, pads = ints[1, 1, 1, 1]", "1,64,56,56");
    direct(&[64, 64, 1, 1], "", "1,64,56,56");
    assert_eq!(algorithm(&conv("1,0,56,56", &[64, 0, 3, 3], PADS, "1,64,56,56", 1 << 20), 9.0), None);
}

#[test]
fn strict_arithmetic_forbids_it() {
    assert!(!Math::Strict.allows(CLASS) && Math::Fast.allows(CLASS));
}

#[test]
fn transformed_weights_take_the_place_of_the_model_s() {
    let graph = conv("1,64,56,56", &[64, 64, 3, 3], PADS, "1,64,56,56", 1 << 20);
    let bytes = |g: &Graph| plan::plan(g, &machine()).unwrap_or_else(|e| panic!("{e:?}")).weights_bytes;
    let after = choose::by_costs(&graph, &machine(), GROWTH, Math::Fast);
    let sizes = chosen(&after)[0].bytes;
    assert_eq!(bytes(&after) - bytes(&graph), sizes.1 - sizes.0);
}
