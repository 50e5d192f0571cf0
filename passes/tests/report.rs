//! What `onnxc inspect` says about the nodes of a quantised model.

use onnxc_ir::op::OpSet;
use onnxc_ir::parse;
use onnxc_ir::target::TargetDesc;
use onnxc_passes::Phase;
use onnxc_passes::canonicalize::quantized::report::{Row, rows};

fn machine() -> TargetDesc {
    TargetDesc {
        triple: "any".into(),
        cpu: "any".into(),
        lanes: 8,
        f32_tiles: vec![(4, 8)],
        table_tiles: vec![(4, 8)],
        i8_tiles: vec![(4, 8)],
        i8_unsigned_a: true,
        l1_bytes: 1 << 15,
        prefetches: true,
        row_streams: 1,
        l2_bytes: 1 << 18,
        max_threads: 1,
        ..TargetDesc::default()
    }
}

fn report(body: &str) -> Vec<Row> {
    let graph = parse::parse(body, OpSet(onnxc_ops::ALL), &|_| None).unwrap_or_else(|e| panic!("{e}"));
    let canonical = onnxc_passes::run(Phase::Canonicalize, &graph, &machine()).0;
    rows(&graph, &onnxc_passes::run(Phase::Fuse, &canonical, &machine()).0)
}

/// A convolution between quantisations; the lines that define its operands `%a` and `%w`.
fn conv(x: &str, operands: &str) -> Vec<Row> {
    report(&format!(
        "graph @f(%x: {x}[1,2,4,4]) {{
  %s = const f32[] [0.05]
  %t = const f32[2] [0.05, 0.07]
  %qw = const i8[4,2,1,1] [1, -2, 33, 100, -128, 127, 5, -6]
{operands}
  %c = conv %a, %w, _ : f32[1,4,4,4] @\"conv\"
  %y = quantize_linear %c, %s, _ : u8[1,4,4,4] @\"quantize\"
  return %y
}}"
    ))
}

const X: &str = "  %a = dequantize_linear %x, %s, _ : f32[1,2,4,4] @\"x\"\n";
const W: &str = "  %w = dequantize_linear %qw, %s, _ : f32[4,2,1,1] @\"w\"\n";

#[track_caller]
fn says(rows: &[Row], node: &str, words: &str) {
    let row = rows.iter().find(|r| r.node == node).unwrap_or_else(|| panic!("no {node} in {rows:?}"));
    let why = row.floats.as_ref().unwrap_or_else(|| panic!("{node} runs in integers"));
    assert!(why.contains(words), "{why}");
}

#[test]
fn quantised_convolutions_run_in_integers() {
    for x in ["u8", "i16"] {
        assert_eq!(conv(x, &format!("{X}{W}")), [Row { node: "conv".into(), op: "conv", floats: None }]);
    }
}

#[test]
fn reasons_name_the_condition_that_is_missing() {
    let blocks = "  %sb = const f32[2,2,1,1] [0.01, 0.02, 0.03, 0.04]
  %w = dequantize_linear %qw, %sb, _ {axis = 0, block_size = 2} : f32[4,2,1,1] @\"w\"\n";
    says(&conv("u8", &format!("{X}{blocks}")), "conv", "a scale for each block");
    let floats = "  %w = const f32[4,2,1,1] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]\n";
    says(&conv("u8", &format!("{X}{floats}")), "conv", "weights w are floats");
    let channels = "  %a = dequantize_linear %x, %t, _ {axis = 1} : f32[1,2,4,4] @\"x\"\n";
    says(&conv("u8", &format!("{channels}{W}")), "conv", "2 scales");
    says(&conv("u16", &format!("{X}{W}")), "conv", "integers of 16 bits");
    let grouped = report(
        "graph @f(%x: i16[1,2,4,4]) {
  %s = const f32[] [0.05]
  %qw = const i8[2,1,1,1] [1, -2]
  %a = dequantize_linear %x, %s, _ : f32[1,2,4,4] @\"x\"
  %w = dequantize_linear %qw, %s, _ : f32[2,1,1,1] @\"w\"
  %c = conv %a, %w, _ {group = 2} : f32[1,2,4,4] @\"conv\"
  %y = quantize_linear %c, %s, _ : u8[1,2,4,4] @\"quantize\"
  return %y
}",
    );
    says(&grouped, "conv", "with groups");
    let plain = "  %a = identity %x : f32[1,2,4,4] @\"x\"\n";
    says(&conv("f32", &format!("{plain}{W}")), "conv", "is not quantised");
}

#[test]
fn operators_without_an_integer_form_are_named() {
    let rows = report(
        "graph @f(%x: u8[3,4]) {
  %s = const f32[] [0.05]
  %a = dequantize_linear %x, %s, _ : f32[3,4] @\"x\"
  %b = softmax %a {axis = 1} : f32[3,4] @\"softmax\"
  %y = quantize_linear %b, %s, _ : u8[3,4] @\"quantize\"
  return %y
}",
    );
    says(&rows, "softmax", "softmax has no integer form");
}

#[test]
fn float_models_have_no_rows() {
    let rows = report("graph @f(%x: f32[3]) {\n  %y = relu %x : f32[3] @\"relu\"\n  return %y\n}");
    assert_eq!(rows, []);
}
