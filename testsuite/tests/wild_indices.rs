//! Indices of run time that lie outside of the data: compiled code must stay inside its buffers, whatever they are.
//!
//! The interpreter refuses such indices, so there is nothing to compare with; each element of a result must be one of the operands' elements.

use onnxc_codegen::JitModel;
use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::InferCx;
use onnxc_ir::{Attr, Attrs, Tensor, TensorType};

const WILD: [i64; 8] = [0, -1, 7, -9, 1 << 40, -(1 << 40), i64::MAX, i64::MIN];

/// Compiles one node, whose operands are all passed at run time, and runs it.
fn run(name: &str, attrs: Attrs, inputs: &[Tensor]) -> Vec<u8> {
    let op = onnxc_ops::ALL.iter().find(|op| op.name == name).expect("an operator");
    let mut graph = Graph::new("wild");
    let types: Vec<Option<TensorType>> = inputs.iter().map(|t| Some(TensorType::fixed(t.dtype(), t.shape()))).collect();
    let ids: Vec<_> = types.iter().flatten().enumerate().map(|(i, ty)| graph.add_input(&format!("x{i}"), ty.clone())).collect();
    let (constants, dims) = (vec![None; inputs.len()], vec![None; inputs.len()]);
    let cx = InferCx { attrs: &attrs, inputs: &types, constants: &constants, dims: &dims, n_outputs: 1 };
    let ty = (op.infer)(&cx).expect("valid types").remove(0);
    let y = graph.add_value("y", ty, None);
    let inputs_of_node = ids.into_iter().map(Some).collect();
    graph.nodes.push(Node { op, inputs: inputs_of_node, outputs: vec![y], attrs, origins: vec!["wild".into()] });
    graph.outputs = vec![y];
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", "native", 1).expect("this machine");
    let plan = onnxc_passes::plan::plan(&graph, &target.desc).expect("a plan");
    let model = JitModel::new(&plan, &target).expect("code");
    let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
    let mut outputs = Vec::new();
    model.run(&bytes, &mut outputs, 1).expect("a run");
    outputs.remove(0)
}

/// Elements `first`, `first + 1`, ... so that every element says where it comes from.
fn numbered(shape: &[u64], first: i64) -> Tensor {
    let n: u64 = shape.iter().product();
    Tensor::from_vec(shape, (first..first + n as i64).collect())
}

fn elements(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes"))).collect()
}

fn with_axis(axis: i64) -> Attrs {
    Attrs::default().with("axis", Attr::Int(axis))
}

#[test]
fn gathering_stays_inside_the_data() {
    let index = |shape: &[u64]| Tensor::from_vec(shape, WILD.to_vec());
    let data = numbered(&[5, 7], 1000);
    let cases = [
        ("gather", with_axis(0), index(&[8])),
        ("gather", with_axis(1), index(&[2, 4])),
        ("gather_elements", with_axis(1), index(&[4, 2])),
        ("gather_elements", with_axis(0), index(&[2, 4])),
        ("gather_nd", Attrs::default(), index(&[8, 1])),
        ("gather_nd", Attrs::default(), index(&[4, 2])),
        ("reverse_sequence", Attrs::default(), Tensor::from_vec(&[7], WILD[1..].to_vec())),
    ];
    for (name, attrs, index) in cases {
        let got = elements(&run(name, attrs, &[data.clone(), index]));
        assert!(got.iter().all(|e| (1000..1035).contains(e)), "{name}: {got:?}");
    }
}

#[test]
fn scattering_stays_inside_the_result() {
    let data = numbered(&[5, 7], 1000);
    let index = |shape: &[u64]| Tensor::from_vec(shape, WILD.to_vec());
    let cases = [
        ("scatter_elements", with_axis(0), index(&[2, 4]), numbered(&[2, 4], 2000)),
        ("scatter_elements", with_axis(1), index(&[4, 2]), numbered(&[4, 2], 2000)),
        ("scatter_nd", Attrs::default(), index(&[8, 1]), numbered(&[8, 7], 2000)),
        ("scatter_nd", Attrs::default(), index(&[4, 2]), numbered(&[4], 2000)),
    ];
    for (name, attrs, index, updates) in cases {
        let got = elements(&run(name, attrs, &[data.clone(), index, updates.clone()]));
        let known = |(i, e): (usize, &i64)| *e == 1000 + i as i64 || (2000..2000 + updates.len() as i64).contains(e);
        assert!(got.iter().enumerate().all(known), "{name}: {got:?}");
    }
}

#[test]
fn other_operands_stay_in_range() {
    for wild in WILD {
        let axis = Tensor::from_vec(&[1], vec![wild]);
        let sums = elements(&run("cumsum", Attrs::default(), &[numbered(&[2, 3], 1), axis.clone()]));
        assert!([vec![1, 2, 3, 5, 7, 9], vec![1, 3, 6, 4, 9, 15]].contains(&sums), "axis {wild}: {sums:?}");
        let kept = elements(&run("trilu", Attrs::default(), &[numbered(&[2, 3], 1), axis]));
        assert!(kept.iter().enumerate().all(|(i, e)| *e == 0 || *e == i as i64 + 1), "k {wild}: {kept:?}");
    }
}
