//! Which element types an operator takes: asked of its record, by giving other types to the operands of its samples, and planning them.

use std::collections::BTreeSet;

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::op::{InferCx, Lower, OpDef, OpResult, Sample, SampleInput};
use onnxc_ir::scalar_eval::{Scalar, Writer};
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{DType, Tensor, TensorType, ValueId, interp};
use onnxc_passes::plan::plan;

/// Types under one name, in the order in which they are printed.
pub struct Group {
    /// What stands for all of them.
    pub name: &'static str,
    /// The types.
    pub types: &'static [DType],
}

use DType::*;

/// The groups, larger ones first.
pub const GROUPS: &[Group] = &[
    Group {
        name: "all",
        types: &[
            F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64, Bool, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0,
            I4, U4, I2, U2, F4E2M1,
        ],
    },
    Group { name: "numbers", types: &[F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64] },
    Group { name: "floats", types: &[F32, F64, F16, BF16] },
    Group { name: "ints", types: &[I8, I16, I32, I64, U8, U16, U32, U64] },
    Group { name: "small floats", types: &[F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0, F4E2M1] },
    Group { name: "small ints", types: &[I4, U4, I2, U2] },
];

/// The element types of an operator's operands: one set for each kind of operand, in the order of the operands.
pub fn of(op: &'static OpDef, desc: &TargetDesc) -> Vec<BTreeSet<DType>> {
    let samples = (op.samples)();
    let operands = samples.iter().map(|s| s.inputs.len()).max().unwrap_or(0);
    let mut accepted: Vec<BTreeSet<DType>> = vec![BTreeSet::new(); operands];
    for sample in &samples {
        let own: Vec<Option<DType>> = sample.inputs.iter().map(|i| i.as_ref().map(dtype)).collect();
        for from in own.iter().flatten().collect::<BTreeSet<_>>() {
            let missing = |d: &DType| own.iter().zip(&accepted).any(|(o, a)| *o == Some(*from) && !a.contains(d));
            for to in compiled().filter(missing).collect::<Vec<_>>() {
                if takes(op, sample, *from, to, desc) {
                    for (_, set) in own.iter().zip(&mut accepted).filter(|(o, _)| **o == Some(*from)) {
                        set.insert(to);
                    }
                }
            }
        }
    }
    let mut kinds: Vec<BTreeSet<DType>> = Vec::new();
    for set in accepted {
        // An operand that no sample has tells nothing.
        if !set.is_empty() && !kinds.contains(&set) {
            kinds.push(set);
        }
    }
    kinds
}

/// Types that compiled code holds at run time.
fn compiled() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|t| !matches!(t, Str | C64 | C128))
}

fn dtype(input: &SampleInput) -> DType {
    match input {
        SampleInput::Data(ty, ..) => ty.dtype,
        SampleInput::Const(t) => t.dtype(),
    }
}

/// Whether the sample compiles with type `to` wherever it has `from`: inference takes it, and there is code.
fn takes(op: &'static OpDef, sample: &Sample, from: DType, to: DType, desc: &TargetDesc) -> bool {
    let change = |d: DType| if d == from { to } else { d };
    let mut graph = Graph::new("types");
    let mut inputs = Vec::new();
    for (i, input) in sample.inputs.iter().enumerate() {
        let name = format!("x{i}");
        inputs.push(match input {
            None => None,
            Some(SampleInput::Data(ty, ..)) => {
                Some(graph.add_input(&name, TensorType { dtype: change(ty.dtype), shape: ty.shape.clone() }))
            }
            Some(SampleInput::Const(t)) => {
                let Some(t) = converted(t, change(t.dtype())) else { return false };
                Some(graph.add_const(&name, t))
            }
        });
    }
    add_node(&mut graph, op, sample, inputs).is_ok() && (matches!(op.lower, Lower::None) || plan(&graph, desc).is_ok())
}

/// The operator as the graph's only node, if its inference takes these operands.
fn add_node(graph: &mut Graph, op: &'static OpDef, sample: &Sample, inputs: Vec<Option<ValueId>>) -> OpResult<()> {
    let types: Vec<Option<TensorType>> = inputs.iter().map(|i| i.map(|id| graph.ty(id).clone())).collect();
    let constants: Vec<Option<Tensor>> = inputs.iter().map(|i| i.and_then(|id| graph.constant(id).cloned())).collect();
    let dims: Vec<_> = constants.iter().map(|c| c.as_ref().and_then(interp::as_dims)).collect();
    let (attrs, n_outputs) = (sample.attrs.clone(), sample.n_outputs);
    let cx = InferCx { attrs: &attrs, inputs: &types, constants: &constants, dims: &dims, n_outputs };
    let results = (op.infer)(&cx)?.into_iter().take(n_outputs).enumerate();
    let outputs: Vec<ValueId> = results.map(|(j, ty)| graph.add_value(&format!("y{j}"), ty, None)).collect();
    graph.outputs.clone_from(&outputs);
    graph.nodes.push(Node { op, inputs, outputs, attrs, origins: vec![op.name.to_string()] });
    Ok(())
}

/// The constant with elements of another type.
fn converted(t: &Tensor, to: DType) -> Option<Tensor> {
    if t.dtype() == to {
        return Some(t.clone());
    }
    let mut out = Writer::new(to);
    t.to_f64s()?.into_iter().for_each(|x| out.push(if to.is_float() { Scalar::Float(x) } else { Scalar::Float(x).cast(to) }));
    Some(out.finish(t.shape()))
}

/// Sets of types as text: `floats, i32 / i64`.
pub fn text(kinds: &[BTreeSet<DType>]) -> String {
    kinds.iter().map(names).collect::<Vec<_>>().join(" / ")
}

fn names(set: &BTreeSet<DType>) -> String {
    let mut left = set.clone();
    let mut words = Vec::new();
    for group in GROUPS {
        if group.types.iter().all(|t| left.contains(t)) {
            words.push(group.name.to_string());
            left.retain(|t| !group.types.contains(t));
        }
    }
    let order = GROUPS[0].types;
    for t in order {
        if left.remove(t) {
            words.push(t.to_string());
        }
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::op::OpSet;

    fn desc() -> TargetDesc {
        onnxc_targets::describe("x86_64-unknown-linux-gnu", "x86-64-v3", 1).expect("a target").desc
    }

    fn types(op: &str) -> String {
        text(&of(OpSet(onnxc_ops::ALL).get(op).expect("an operator"), &desc()))
    }

    #[test]
    fn types_are_those_that_compile() {
        assert_eq!(types("sin"), "floats");
        assert_eq!(types("and"), "bool");
        assert_eq!(types("bitwise_not"), "ints, small ints");
        assert_eq!(types("gather"), "all / ints");
        // Inference takes other types too, for constants.
        assert_eq!(types("matmul"), "numbers");
    }

    #[test]
    fn every_operator_takes_some_type() {
        let none = |op: &&&'static OpDef| {
            let has_operands = (op.samples)().iter().any(|s| !s.inputs.is_empty());
            has_operands && of(op, &desc()).is_empty()
        };
        let without: Vec<&str> = onnxc_ops::ALL.iter().filter(none).map(|op| op.name).collect();
        assert!(without.is_empty(), "{without:?}");
    }
}
