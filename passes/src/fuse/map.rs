//! Elementwise operators become `map`, and maps that feed maps become one.
//!
//! What   `op(x, y)` = `map(x, y){program of op}`; `map(map(x), y)` = `map(x, y)` with the programs inlined; operands that are constants of one
//!        element move into the program; equal operands are passed once.
//! When   fuse phase: recognition of named patterns has happened, nothing looks at elementwise operators by name afterwards.
//! Why    one pass over memory per chain instead of one per operator.
//! Class  exact: the same operations in the same order.
//! Misses an inner map that others use too, or whose shape is smaller (it would be computed again and again).

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::op::{Lower, OpDef};
use onnxc_ir::scalar::{NodeIx, ScalarOp, ScalarProgram};
use onnxc_ir::{Attr, Attrs, DType};

use super::quantized::dequantized_operand;

/// Longest program: keeps compile time and register pressure bounded.
pub(crate) const MAX_NODES: usize = 96;
/// Most operands of one fused program.
pub(crate) const MAX_ARGS: usize = 8;

const MERGE: &str = "merge-maps";

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    vec![
        Rule { name: "elementwise-to-map", class: RuleClass::Exact, roots: Roots::Where(is_elementwise), apply: to_map },
        Rule { name: MERGE, class: RuleClass::Exact, roots: Roots::Named(&["map"]), apply: merge },
    ]
}

fn is_elementwise(op: &OpDef) -> bool {
    matches!(op.lower, Lower::Elementwise(_)) && op.name != "map"
}

fn to_map(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let Lower::Elementwise(program) = m.op.lower else { return None };
    let inputs: Option<Vec<Id>> = m.inputs.iter().copied().collect();
    let inputs = inputs?;
    let dtypes: Vec<DType> = inputs.iter().map(|id| cx.ty(*id).dtype).collect();
    let program = program(&m.attrs, &dtypes).ok()?;
    build_map(cx, m.id, &program, &inputs)
}

fn merge(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    // One order of merging is enough: operands are dequantised first.
    if dequantized_operand(cx, m).is_some() {
        return None;
    }
    let outer = m.attrs.program("program")?.clone();
    let shape = cx.ty(m.id).shape.clone();
    for (position, input) in m.inputs.iter().enumerate() {
        let input = (*input)?;
        if cx.constant(input).is_some() || !cx.single_use(input) || cx.ty(input).shape != shape {
            continue;
        }
        let Some(inner) = cx.find(input, "map").into_iter().next() else { continue };
        if cx.joined(MERGE, [m, &inner]) {
            return None;
        }
        let inner_program = inner.attrs.program("program")?.clone();
        let mut args: Vec<Id> = m.inputs.iter().copied().collect::<Option<_>>()?;
        args.remove(position);
        let inner_start = args.len();
        args.extend(inner.inputs.iter().copied().collect::<Option<Vec<Id>>>()?);
        if args.len() > MAX_ARGS || outer.nodes.len() + inner_program.nodes.len() > MAX_NODES {
            continue;
        }
        let program = compose(cx, &outer, position, &inner_program, inner_start, &args);
        cx.absorb(input);
        cx.join(MERGE, [m, &inner]);
        return build_map(cx, m.id, &program, &args);
    }
    None
}

/// `outer` with its operand `position` replaced by `inner`; the other operands of `outer` come first among `args`, `inner`'s after `inner_start`.
pub(crate) fn compose(
    cx: &RuleCx,
    outer: &ScalarProgram,
    position: usize,
    inner: &ScalarProgram,
    inner_start: usize,
    args: &[Id],
) -> ScalarProgram {
    let mut out = ScalarProgram::default();
    let nodes: Vec<NodeIx> = args.iter().enumerate().map(|(i, id)| out.arg(i as u8, cx.ty(*id).dtype)).collect();
    let inner_result = out.inline(inner, &nodes[inner_start..]);
    let mut outer_args: Vec<NodeIx> = nodes[..inner_start].to_vec();
    outer_args.insert(position, inner_result);
    let result = out.inline(outer, &outer_args);
    out.finish(result)
}

/// A map over `args` without repeated operands and one-element constants, if it has the type of class `like`.
pub(crate) fn build_map(cx: &mut RuleCx, like: Id, program: &ScalarProgram, args: &[Id]) -> Option<Id> {
    let (program, args) = simplify(cx, program, args, 0);
    if args.is_empty() || args.len() > MAX_ARGS {
        return None;
    }
    let ty = cx.ty(like).clone();
    let id = cx.node_of("map", &args, Attrs::default().with("program", Attr::Program(program)))?;
    (*cx.ty(id) == ty).then_some(id)
}

/// Moves constants of one element into the program and passes equal operands once. The first `fixed` operands stay as they are.
pub(crate) fn simplify(cx: &RuleCx, program: &ScalarProgram, args: &[Id], fixed: usize) -> (ScalarProgram, Vec<Id>) {
    let mut out = ScalarProgram::default();
    let mut kept: Vec<Id> = Vec::new();
    let mut nodes: Vec<NodeIx> = Vec::new();
    for (i, id) in args.iter().enumerate() {
        // The program knows the type: the accumulator of a kernel that has an epilogue already is not of the kernel's result type.
        let read = program.nodes.iter().find(|n| n.op == ScalarOp::Arg(i as u8));
        let dtype = read.map_or_else(|| cx.ty(*id).dtype, |n| n.dtype);
        let node = if i < fixed {
            kept.push(*id);
            out.arg((kept.len() - 1) as u8, dtype)
        } else if let Some(bits) = constant_bits(cx, *id) {
            out.push(ScalarOp::Const(bits), dtype)
        } else if let Some(at) = kept[fixed.min(kept.len())..].iter().position(|k| cx.same(*k, *id)) {
            out.arg((at + fixed) as u8, dtype)
        } else {
            kept.push(*id);
            out.arg((kept.len() - 1) as u8, dtype)
        };
        nodes.push(node);
    }
    let result = out.inline(program, &nodes);
    in_order(&out.in_order(result), &kept, fixed)
}

/// Operands in the order in which they are read; those that no node reads disappear. In whichever order maps merge, the same operations become one e-node,
/// where there would be as many as there are orders.
fn in_order(program: &ScalarProgram, args: &[Id], fixed: usize) -> (ScalarProgram, Vec<Id>) {
    let mut keep: Vec<usize> = (0..fixed).collect();
    for node in &program.nodes {
        match node.op {
            ScalarOp::Arg(n) if !keep.contains(&(n as usize)) => keep.push(n as usize),
            _ => {}
        }
    }
    let mut program = program.clone();
    for node in &mut program.nodes {
        if let ScalarOp::Arg(n) = &mut node.op {
            *n = keep.iter().position(|k| *k == *n as usize).expect("internal: used operand is kept") as u8;
        }
    }
    (program, keep.into_iter().map(|i| args[i]).collect())
}

fn constant_bits(cx: &RuleCx, id: Id) -> Option<u64> {
    let dtype = cx.ty(id).dtype;
    let tensor = cx.constant(id).filter(|t| t.len() == 1)?;
    if dtype.is_float() {
        return tensor.to_f64s().map(|v| v[0].to_bits());
    }
    tensor.to_i64s().map(|v| v[0] as u64)
}
