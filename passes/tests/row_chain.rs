//! Which convolutions become chains.

mod support;

use onnxc_ir::op::OpSet;
use onnxc_ir::target::{Level, Machine, TargetDesc};
use onnxc_ir::{Graph, Tensor, parse, text};
use onnxc_passes::row_chain::{CLASS, run};
use onnxc_passes::{Math, plan};

const fn level(bytes: u64, read: f64, spilled: f64) -> Level {
    Level { bytes, read, spilled }
}

/// A core that multiplies and adds a vector of 16 floats in a cycle, with caches that bring less than they do.
fn machine() -> TargetDesc {
    let base = support::machine();
    TargetDesc {
        machine: Machine {
            depthwise: [1.2, 1.6, 0.7],
            vector_op: 0.6,
            vector_move: 0.3,
            enter: 6.0,
            step: 1000.0,
            levels: [level(1 << 15, 64.0, 40.0), level(1 << 20, 30.0, 20.0), level(1 << 24, 5.0, 5.0), level(1 << 27, 4.0, 4.0)],
            visible: 0.4,
            ..base.machine
        },
        ..base
    }
}

/// An inverted residual block as MobileNetV2 has it at its largest image: `size` rows and columns, `more` statements, what it returns.
fn block_text(size: &str, out: &str, depthwise: &str, more: &str, returned: &str) -> String {
    format!(
        "graph @f(%x: f32[1,16,{size},112], %we_given: f32[96,16,1,1]) {{
  %we = const f32[96,16,1,1] blob(0000000000000001)
  %wd = const f32[96,1,3,3] blob(0000000000000002)
  %wp = const f32[24,96,1,1] blob(0000000000000003)
  %e = conv %x, %we, _ {{group = 1}} : f32[1,96,{size},112] @\"expand\"
  %d = conv %e, %wd, _ {{{depthwise}, group = 96, pads = ints[1, 1, 1, 1]}} : f32[1,96,{out}] @\"depthwise\"
  %p = conv %d, %wp, _ {{group = 1}} : f32[1,24,{out}] @\"project\"
{more}  return {returned}
}}"
    )
}

fn block(size: &str, out: &str, depthwise: &str, more: &str, returned: &str) -> Graph {
    parse_with(&block_text(size, out, depthwise, more, returned))
}

fn parse_with(text: &str) -> Graph {
    let shapes: [&[u64]; 3] = [&[96, 16, 1, 1], &[96, 1, 3, 3], &[24, 96, 1, 1]];
    let blob = |hash: u64| {
        let shape = shapes[hash as usize - 1];
        Some(Tensor::from_vec(shape, vec![0.5f32; shape.iter().product::<u64>() as usize]))
    };
    parse::parse(text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The origins of all chains.
#[track_caller]
fn chains(graph: &Graph) -> Vec<Vec<String>> {
    let after = run(graph, &machine());
    onnxc_ir::verify::verify(&after).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    after.nodes.iter().filter(|n| n.op.name == "row_chain").map(|n| n.origins.clone()).collect()
}

const STRIDE: &str = "strides = ints[2, 2]";

#[test]
fn a_large_block_is_one_chain() {
    let graph = block("112", "56,56", STRIDE, "", "%p");
    assert_eq!(chains(&graph), [["expand", "depthwise", "project"]]);
}

#[test]
fn a_chain_is_printed_and_read_again() {
    let after = run(&block("112", "56,56", STRIDE, "", "%p"), &machine());
    let blobs = text::blobs(&after);
    let blob = |hash: u64| blobs.iter().find(|(h, _)| *h == hash).map(|(_, t)| (*t).clone());
    let again = parse::parse(&text::print(&after), OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(text::print(&after), text::print(&again));
}

#[test]
fn values_that_stay_in_the_cache_are_left_alone() {
    assert!(chains(&block("16", "8,56", STRIDE, "", "%p")).is_empty());
}

#[test]
fn values_that_others_need_end_a_chain() {
    let used = "  %r = relu %d : f32[1,96,56,56] @\"relu\"\n";
    assert_eq!(chains(&block("112", "56,56", STRIDE, used, "%p, %r")), [["expand", "depthwise"]]);
    assert_eq!(chains(&block("112", "56,56", STRIDE, "", "%p, %d")), [["expand", "depthwise"]]);
    assert_eq!(chains(&block("112", "56,56", STRIDE, "", "%p, %e")), [["depthwise", "project"]]);
}

#[test]
fn windows_that_leave_rows_out_are_no_links() {
    assert!(chains(&block("112", "28,28", "strides = ints[4, 4]", "", "%p")).is_empty());
}

#[test]
fn computed_weights_and_open_extents_are_left_alone() {
    let given = block_text("112", "56,56", STRIDE, "", "%p").replace("conv %x, %we,", "conv %x, %we_given,");
    assert_eq!(chains(&parse_with(&given)), [["depthwise", "project"]]);
    let open = "graph @f(%x: f32[1,16,N,112]) where N in 1 to 400 {
  %we = const f32[96,16,1,1] blob(0000000000000001)
  %wp = const f32[24,96,1,1] blob(0000000000000003)
  %e = conv %x, %we, _ {group = 1} : f32[1,96,N,112] @\"expand\"
  %p = conv %e, %wp, _ {group = 1} : f32[1,24,N,112] @\"project\"
  return %p
}";
    assert_eq!(chains(&parse_with(open)).len(), 0);
    assert_eq!(chains(&parse_with(&open.replace("where N in 1 to 400 ", "").replace(",N,", ",112,"))).len(), 1);
}

#[test]
fn the_arena_holds_no_value_between_links() {
    let graph = block("112", "56,56", STRIDE, "", "%p");
    let bytes = |g: &Graph| {
        let plan = plan::plan(g, &machine()).unwrap_or_else(|e| panic!("{e:?}"));
        plan.arena_shared.as_const().expect("known extents")
    };
    let (before, after) = (bytes(&graph), bytes(&run(&graph, &machine())));
    assert!(before > 4 * 96 * 112 * 112 && after < 1 << 20, "{before} bytes, then {after}");
}

/// Projecting to few channels and expanding again needs the large operand and the large result at once: more than either convolution.
#[test]
fn chains_need_no_more_memory_than_their_links() {
    let text = "graph @f(%x: f32[1,16,112,112]) {
  %we = const f32[96,16,1,1] blob(0000000000000001)
  %wp = const f32[16,96,1,1] blob(0000000000000002)
  %a = conv %x, %we, _ {group = 1} : f32[1,96,112,112] @\"expand\"
  %r = relu %a : f32[1,96,112,112] @\"relu\"
  %p = conv %r, %wp, _ {group = 1} : f32[1,16,112,112] @\"project\"
  %e = conv %p, %we, _ {group = 1} : f32[1,96,112,112] @\"expand again\"
  %s = relu %e : f32[1,96,112,112] @\"relu again\"
  return %s
}";
    let blob = |hash: u64| Some(Tensor::from_vec(&if hash == 1 { [96, 16, 1, 1] } else { [16, 96, 1, 1] }, vec![0.5f32; 1536]));
    let graph = parse::parse(text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"));
    let mut machine = machine();
    // The value between is as far away as the others.
    machine.l2_bytes = 1 << 17;
    machine.machine.levels[1] = level(1 << 17, 30.0, 20.0);
    let after = run(&graph, &machine);
    assert!(after.nodes.iter().all(|n| n.op.name != "row_chain"), "{}", text::print(&after));
}

#[test]
fn strict_mathematics_allows_it() {
    assert!(Math::Strict.allows(CLASS));
}
