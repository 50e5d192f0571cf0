//! Products keep the integers of dequantised weights.

mod support;

use onnxc_ir::kernel::Kernel;
use onnxc_ir::lir::Stmt;
use onnxc_ir::op::OpSet;
use onnxc_ir::plan::Step;
use onnxc_ir::{DType, Graph, Tensor, interp, parse, text, verify};
use onnxc_passes::{Phase, coded, plan, run};
use support::machine;

fn graph(text: &str) -> Graph {
    // Signed bytes of many values, and of few.
    let bytes = |shape: &[u64], most: i64| {
        let n: u64 = shape.iter().product();
        Some(Tensor::from_vec::<i8>(shape, (0..n as i64).map(|i| (i * 37 % (2 * most + 1) - most) as i8).collect()))
    };
    let blob = |hash: u64| match hash {
        1 => bytes(&[20, 8, 3, 3], 100),
        2 => bytes(&[8, 20], 7),
        3 => Some(Tensor::from_vec::<u8>(&[20, 8, 3, 3], (0..1440).map(|i| (100 + i * 37 % 57) as u8).collect())),
        4 => Some(Tensor::from_vec::<f32>(&[20], (0..20).map(|i| 0.01 + i as f32 / 512.0).collect())),
        5 => bytes(&[1, 64, 16], 100),
        6 => Some(Tensor::from_vec::<f32>(&[1, 64, 8], (0..512).map(|i| (i * 37 % 23) as f32 / 64.0 - 0.2).collect())),
        7 => Some(Tensor::from_vec::<f32>(&[64], (0..64).map(|i| 0.001 + i as f32 / 65536.0).collect())),
        _ => None,
    };
    parse::parse(text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"))
}

const CONV: &str = "graph @f(%x: f32[1,8,6,6]) {
  %q = const i8[20,8,3,3] blob(0000000000000001)
  %s = const f32[20] blob(0000000000000004)
  %b = const f32[20] blob(0000000000000004)
  %w = dequantize_linear %q, %s, _ {axis = 0} : f32[20,8,3,3] @\"weights\"
  %y = conv %x, %w, %b {pads = ints[1, 1, 1, 1]} : f32[1,20,6,6] @\"layer\"
  %z = relu %y : f32[1,20,6,6] @\"activation\"
  return %z
}";

/// The graph after the phase, which must compute the same.
fn canonical(graph: &Graph) -> Graph {
    let (after, _) = run(Phase::Canonicalize, graph, &machine());
    verify::verify(&after).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    let x: Vec<Tensor> = graph.inputs.iter().map(|id| input(graph.ty(*id).const_shape().unwrap())).collect();
    let outputs = |g: &Graph| interp::run(g, &x).unwrap()[0].to_vec::<f32>();
    for (before, now) in outputs(graph).into_iter().zip(outputs(&after)) {
        assert!((before - now).abs() <= 1e-4 * (1.0 + before.abs()), "{before} {now}");
    }
    after
}

fn input(shape: Vec<u64>) -> Tensor {
    let n: u64 = shape.iter().product();
    Tensor::from_vec::<f32>(&shape, (0..n).map(|i| (i * 7 % 23) as f32 / 16.0 - 0.7).collect())
}

fn weights_of(graph: &Graph, op: &str) -> DType {
    let node = graph.nodes.iter().find(|n| n.op.name == op).unwrap_or_else(|| panic!("{}", text::print(graph)));
    graph.ty(node.inputs[1].unwrap()).dtype
}

/// Types of B of the tiles of a plan.
fn tiles(graph: &Graph) -> Vec<DType> {
    fn walk(block: &[Stmt], out: &mut Vec<DType>) {
        for stmt in block {
            match stmt {
                Stmt::Call(Kernel::Tile(k), ..) => out.push(k.b_dtype),
                Stmt::For { body, .. } | Stmt::While(_, body) => walk(body, out),
                Stmt::If(_, a, b) => [a, b].into_iter().for_each(|block| walk(block, out)),
                _ => {}
            }
        }
    }
    let (fused, _) = run(Phase::Fuse, graph, &machine());
    let plan = plan::plan(&fused, &machine()).unwrap_or_else(|e| panic!("{e:?}"));
    let mut types = Vec::new();
    for step in &plan.steps {
        if let Step::Call { func, .. } = step {
            walk(&func.body, &mut types);
        }
    }
    types.dedup();
    types
}

#[test]
fn a_convolution_has_bytes_and_a_scale_behind_it() {
    let after = canonical(&graph(CONV));
    assert_eq!(weights_of(&after, "conv"), DType::I8);
    assert_eq!(after.nodes.iter().map(|n| n.op.name).collect::<Vec<_>>(), ["conv", "mul", "add", "relu"]);
    let (fused, _) = run(Phase::Fuse, &after, &machine());
    assert_eq!(fused.nodes.iter().map(|n| n.op.name).collect::<Vec<_>>(), ["conv"], "scale and bias are its epilogue");
    assert_eq!(tiles(&after), [DType::I8]);
}

#[test]
fn zero_points_are_taken_away() {
    let unsigned = |zero: &str| {
        let text =
            CONV.replace("%q = const i8[20,8,3,3] blob(0000000000000001)", "%q = const u8[20,8,3,3] blob(0000000000000003)");
        let given = format!("%z0 = const u8[] [{zero}]\n  %t = const f32[] [0.02]\n  %s = const");
        text.replace("%s = const", &given).replace("%q, %s, _", "%q, %t, %z0")
    };
    assert_eq!(weights_of(&canonical(&graph(&unsigned("128"))), "conv"), DType::I8);
    // 156 less 20 is more than a signed byte.
    assert_eq!(weights_of(&canonical(&graph(&unsigned("20"))), "conv"), DType::F32);
}

#[test]
fn few_values_are_numbers_of_a_table() {
    let product = |op: &str| {
        format!(
            "graph @f(%x: f32[5,8]) {{
  %q = const i8[8,20] blob(0000000000000002)
  %s = const f32[20] blob(0000000000000004)
  %w = dequantize_linear %q, %s, _ {{axis = 1}} : f32[8,20] @\"weights\"
  %y = {op} : f32[5,20] @\"layer\"
  return %y
}}"
        )
    };
    for (op, text) in [("matmul", "matmul %x, %w"), ("gemm", "gemm %x, %w, %s")] {
        let after = canonical(&graph(&product(text)));
        assert_eq!((weights_of(&after, op), tiles(&after)), (DType::I8, vec![DType::U4]));
    }
    // Twice C is no addition.
    let after = canonical(&graph(&product("gemm %x, %w, %s {beta = 2.0}")));
    assert_eq!(weights_of(&after, "gemm"), DType::F32);
}

#[test]
fn recurrent_layers_keep_bytes_for_their_state() {
    let text = "graph @f(%x: f32[5,1,8]) {
  %w = const f32[1,64,8] blob(0000000000000006)
  %q = const i8[1,64,16] blob(0000000000000005)
  %s = const f32[64] blob(0000000000000007)
  %r = dequantize_linear %q, %s, _ {axis = 1} : f32[1,64,16] @\"weights\"
  %y, %h, %c = lstm %x, %w, %r : f32[5,1,1,16], f32[1,1,16], f32[1,1,16] @\"layer\"
  return %y
}";
    let after = canonical(&graph(text));
    let node = after.nodes.iter().find(|n| n.op.name == "lstm").unwrap_or_else(|| panic!("{}", text::print(&after)));
    assert_eq!(after.ty(node.inputs[2].unwrap()).dtype, DType::I8);
    assert_eq!(tiles(&after), [DType::F32, DType::I8]);
}

#[test]
fn weights_that_others_read_as_floats_stay_floats() {
    let text = CONV.replace("return %z", "%m = max %w, %w : f32[20,8,3,3] @\"other\"\n  return %z, %m");
    assert_eq!(weights_of(&canonical(&graph(&text)), "conv"), DType::F32);
    let groups = CONV.replace("%x: f32[1,8,6,6]", "%x: f32[1,16,6,6]").replace("{pads", "{group = 2, pads");
    let before = graph(&groups);
    assert_eq!(text::print(&coded::run(&before, OpSet(onnxc_ops::ALL))), text::print(&before));
}
