//! Every rule on a graph where it fires: the text of the result is a snapshot, and both graphs compute the same on random inputs.
//!
//! A case is `rules/<rule name>.nir`; `rules/<rule name>.<why>.nir` are graphs that the rule must leave alone. Adding one needs no Rust.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use onnxc_egraph::{CostModel, Limits, Operand, Rule, RuleClass};
use onnxc_ir::graph::Graph;
use onnxc_ir::op::{OpDef, OpSet};
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{Attrs, DType, DimBindings, Tensor, TensorType, interp, parse, text, verify};
use onnxc_passes::Phase;

/// Every operator costs the same, fused ones too: a rule that removes a node wins, and one that only changes it wins by a hair when the
/// new operator is the simpler one.
struct CountNodes;

impl CostModel for CountNodes {
    fn cost(&self, op: &OpDef, _: &Attrs, inputs: &[Option<Operand>], outputs: &[TensorType]) -> f64 {
        let elements: u64 = outputs.iter().filter_map(TensorType::const_shape).flatten().product();
        let apart = match op.name {
            "map" => -0.008,
            "mul" => -0.005,
            "add" => -0.005 + 0.06 * elements as f64,
            // Its second operand is the constant shape.
            "reshape" => -0.015,
            // Two operators take its place.
            "batch_normalization" => 3.0,
            // What rules put in their place has more operands, or is several operators on fewer bytes.
            "quantize_linear" | "dequantize_linear" => 1.0,
            "concat" | "relu" | "clip" => outputs.iter().map(|ty| ty.dtype.bytes() as f64).sum(),
            "max" | "min" => -0.5,
            // Few elements in the place of many.
            "matmul" => 12.0,
            "gelu" => 0.1 * elements as f64,
            // The work of the conversions around it is in it.
            "conv_integer" | "matmul_integer" => -0.5,
            _ => 0.0,
        };
        let width: f64 = outputs.iter().map(|ty| 0.005 * ty.dtype.bytes() as f64).sum();
        1.0 + 0.01 * inputs.len() as f64 + apart + width + 1e-4 * elements as f64
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let entries = std::fs::read_dir(folder).expect("the folder of cases exists");
    let mut files: Vec<PathBuf> =
        entries.map(|e| e.expect("readable").path()).filter(|p| p.extension().is_some_and(|e| e == "nir")).collect();
    files.sort();
    files
}

fn rules() -> Vec<Rule> {
    [Phase::Canonicalize, Phase::Fuse].into_iter().flat_map(Phase::rules).collect()
}

fn rule_of(case: &Path) -> (Rule, bool) {
    let stem = case.file_stem().expect("a case has a name").to_str().expect("UTF-8").to_string();
    let name = stem.split('.').next().expect("a name");
    let rule = rules().into_iter().find(|r| r.name == name);
    (rule.unwrap_or_else(|| panic!("{stem}.nir names no rule")), !stem.contains('.'))
}

fn load(case: &Path) -> Graph {
    let source = std::fs::read_to_string(case).expect("readable");
    let graph = parse::parse(&source, OpSet(onnxc_ops::ALL), &|_| None).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
    verify::verify(&graph).unwrap_or_else(|e| panic!("{}: {}", case.display(), e.join("; ")));
    graph
}

#[test]
fn every_rule_has_a_case_where_it_fires() {
    let covered: BTreeSet<&str> = cases().iter().map(|c| rule_of(c)).filter(|(_, fires)| *fires).map(|(r, _)| r.name).collect();
    let missing: Vec<&str> = rules().iter().map(|r| r.name).filter(|n| !covered.contains(n)).collect();
    assert!(missing.is_empty(), "rules without a case: {missing:?}");
}

#[test]
fn rule_names_are_unique() {
    let names: BTreeSet<&str> = rules().iter().map(|r| r.name).collect();
    assert_eq!(names.len(), rules().len());
}

#[test]
fn cases_before_and_after() {
    // All cases are tried, so that one change of a rule shows all its effects at once.
    let wrong: Vec<PathBuf> = cases().into_iter().filter(|c| std::panic::catch_unwind(|| before_and_after(c)).is_err()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Steps between floats that go through bytes, and read what they began with again: as quantizers leave activations that are written out.
fn quantised_chain(x: &str, steps: usize, lines: &mut String) -> String {
    let mut line = |name: &str, what: String| lines.push_str(&format!("  {name} = {what} @\"{}\"\n", &name[1..]));
    let (mut last, at) = (format!("{x}d"), &x[1..]);
    line(&last, format!("dequantize_linear {x}, %s, %z : f32[2,5]"));
    for step in 0..steps {
        let [op, q, d] = ["o", "q", "d"].map(|kind| format!("%{kind}{at}{step}"));
        let program = ["mul", "add"][step % 2];
        line(&op, format!("map {x}d, {last} {{program = program \"f32 a0; f32 a1; f32 {program} %0 %1\"}} : f32[2,5]"));
        line(&q, format!("quantize_linear {op}, %s, %z : u8[2,5]"));
        line(&d, format!("dequantize_linear {q}, %s, %z : f32[2,5]"));
        last = d;
    }
    last
}

#[test]
fn quantised_chains_merge_in_one_order() {
    let mut lines = "  %s = const f32[] [0.0123]\n  %z = const u8[] [110]\n".to_string();
    let [a, b] = ["%x", "%v"].map(|x| quantised_chain(x, 5, &mut lines));
    let sum = format!("map {a}, {b} {{program = program \"f32 a0; f32 a1; f32 add %0 %1\"}} : f32[2,5] @\"sum\"");
    let source = format!("graph @f(%x: u8[2,5], %v: u8[2,5]) {{\n{lines}  %y = {sum}\n  return %y\n}}\n");
    let before = parse::parse(&source, OpSet(onnxc_ops::ALL), &|_| None).unwrap_or_else(|e| panic!("{e}\n{source}"));
    let rules = Phase::Fuse.rules();
    let (after, outcome) = onnxc_egraph::rewrite(&before, OpSet(onnxc_ops::ALL), &rules, &CountNodes, Limits::default());
    let ops: Vec<&str> = after.nodes.iter().map(|n| n.op.name).collect();
    assert!(outcome.saturated && outcome.nodes < 800, "{outcome:?}");
    assert!(ops.iter().all(|op| *op == "map") && ops.len() <= 5, "{ops:?}");
}

fn before_and_after(case: &Path) {
    let (rule, fires) = rule_of(case);
    let before = load(case);
    let (after, outcome) = onnxc_egraph::rewrite(&before, OpSet(onnxc_ops::ALL), &[rule], &CountNodes, Limits::default());
    verify::verify(&after).unwrap_or_else(|e| panic!("{}: after: {}\n{}", case.display(), e.join("; "), text::print(&after)));
    assert!(outcome.cost.1 <= outcome.cost.0, "{}: extraction made the graph dearer", case.display());
    let (a, b) = (text::print(&before), text::print(&after));
    if fires {
        assert_ne!(a, b, "{} did not fire", case.display());
        let stem = case.file_stem().expect("a name").to_str().expect("UTF-8").to_string();
        insta::with_settings!({ snapshot_path => case.parent().expect("a folder"), prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(stem, b);
        });
    } else {
        let nodes = |g: &Graph| g.nodes.iter().map(|n| n.op.name).collect::<Vec<_>>();
        assert_eq!(nodes(&before), nodes(&after), "{} fired", case.display());
    }
    same_results(case, rule, &before, &after);
}

/// Both graphs on random inputs: bit for bit for exact rules; otherwise within a few ulp of the largest result, or one step of integers.
fn same_results(case: &Path, rule: Rule, before: &Graph, after: &Graph) {
    for seed in 0..20 {
        let mut random = Random(seed * 77 + 1);
        let exact = rule.class == RuleClass::Exact;
        let sizes = sizes(before, seed);
        let inputs: Vec<Tensor> = before.inputs.iter().map(|id| random.tensor(&bound(before.ty(*id), &sizes), exact)).collect();
        let a = interp::run(before, &inputs).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
        let b = interp::run(after, &inputs).unwrap_or_else(|e| panic!("{}: after: {e}", case.display()));
        for (a, b) in a.iter().zip(&b) {
            assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "{}", case.display());
            if exact {
                assert_eq!(a, b, "{}: seed {seed}", case.display());
            } else {
                let (a, b) = (a.to_f64s().expect("real numbers"), b.to_f64s().expect("real numbers"));
                let largest = a.iter().fold(1e-6f64, |m, x| m.max(x.abs()));
                let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
                let whole = before.ty(before.outputs[0]).dtype.is_int() && rule.class == RuleClass::Bounded;
                let allowed = if whole { 1.0 } else { 1e-5 * largest };
                assert!(worst <= allowed, "{}: seed {seed}: {worst} of {largest}", case.display());
            }
        }
    }
}

/// Values for the open dimensions, others for each seed.
fn sizes(graph: &Graph, seed: u64) -> DimBindings {
    let mut symbols = Vec::new();
    graph.inputs.iter().flat_map(|id| &graph.ty(*id).shape).for_each(|d| d.symbols(&mut symbols));
    (0..).zip(symbols).map(|(i, s)| (s.to_string(), 1 + (seed + 2 * i) % 5)).collect()
}

fn bound(ty: &TensorType, sizes: &DimBindings) -> TensorType {
    TensorType::new(ty.dtype, ty.shape.iter().map(|d| d.bind(sizes)).collect())
}

/// A linear congruential generator (Knuth's MMIX constants): the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64 * 4.0 - 2.0
    }

    /// Values between -2 and 2; with `edges` also those that exact rules must respect.
    fn tensor(&mut self, ty: &TensorType, edges: bool) -> Tensor {
        const EDGES: [f32; 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, f32::MAX, -1.0];
        let shape = ty.const_shape().expect("cases have known extents");
        let count = shape.iter().product::<u64>();
        let bytes: Vec<u8> = match ty.dtype {
            DType::F32 => {
                let one = |x: f64| if edges && x.abs() < 0.5 { EDGES[((x + 0.5) * 8.0) as usize] } else { x as f32 };
                (0..count).flat_map(|_| one(self.next()).to_le_bytes()).collect()
            }
            DType::I64 => (0..count).flat_map(|_| ((self.next() * 50.0) as i64).to_le_bytes()).collect(),
            DType::I32 => (0..count).flat_map(|_| ((self.next() * 2.5) as i32).to_le_bytes()).collect(),
            DType::U8 => (0..count).map(|_| ((self.next() + 2.0) * 64.0) as u8).collect(),
            DType::I8 => (0..count).map(|_| (self.next() * 64.0) as i8 as u8).collect(),
            other => panic!("cases have no {other} inputs"),
        };
        Tensor::from_bytes(ty.dtype, shape, Bytes::new(bytes)).expect("sized")
    }
}
