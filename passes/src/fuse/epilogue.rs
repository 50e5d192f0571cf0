//! A map after a kernel becomes the kernel's epilogue: bias, activation, residual addition while the result is in registers.
//!
//! What   `map(conv(x, w, b), r){p}` = `conv(x, w, b, r){epilogue = p}`; a second map is appended to the first epilogue.
//! When   fuse phase, after maps have merged.
//! Why    saves writing and reading the result once per map.
//! Class  exact.
//! Misses kernels whose result others use too; dequantisations of quantised results; operands that would broadcast the kernel's result up.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::scalar::ScalarProgram;
use onnxc_ir::{Attr, DType};

use super::map::{MAX_ARGS, MAX_NODES, simplify};

/// Operators with an epilogue: name and number of operands of their own, before the epilogue's.
pub(crate) const KERNELS: &[(&str, usize)] = &[
    ("conv", 3),
    ("matmul", 2),
    ("gemm", 3),
    ("conv_transpose", 3),
    ("conv_integer", 4),
    ("matmul_integer", 4),
    ("qlinear_conv", 9),
    ("qlinear_matmul", 8),
];

const RULE: &str = "map-into-epilogue";
/// What it has refused.
const REFUSED: &str = "no map-into-epilogue";

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    vec![Rule { name: RULE, class: RuleClass::Exact, roots: Roots::Named(&["map"]), apply }]
}

fn apply(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let program = m.attrs.program("program")?.clone();
    let ty = cx.ty(m.id).clone();
    for (position, input) in m.inputs.iter().enumerate() {
        let input = (*input)?;
        if !cx.single_use(input) || cx.ty(input).shape != ty.shape || cx.constant(input).is_some() {
            continue;
        }
        for (name, own) in KERNELS {
            let Some(kernel) = cx.find(input, name).into_iter().next() else { continue };
            if cx.joined(RULE, [m, &kernel]) {
                return None;
            }
            if cx.joined(REFUSED, [m, &kernel]) {
                continue;
            }
            let others: Vec<Id> = m.inputs.iter().copied().collect::<Option<_>>()?;
            if let Some(id) = absorb(cx, &kernel, *own, &program, position, &others) {
                cx.join(RULE, [m, &kernel]);
                return (*cx.ty(id) == ty).then_some(id);
            }
            cx.join(REFUSED, [m, &kernel]);
        }
    }
    None
}

/// The kernel with `program` (whose operand `position` is the kernel's result) behind its own epilogue.
fn absorb(cx: &mut RuleCx, kernel: &Match, own: usize, program: &ScalarProgram, position: usize, operands: &[Id]) -> Option<Id> {
    // Operands of the new program: the kernel's raw result first, then those of its present epilogue, then the map's others.
    let old: Vec<Id> = kernel.inputs.iter().skip(own).copied().collect::<Option<_>>()?;
    let mut out = ScalarProgram::default();
    let raw_dtype = match kernel.attrs.program("epilogue") {
        Some(p) => p.nodes.iter().find(|n| n.op == onnxc_ir::scalar::ScalarOp::Arg(0)).map(|n| n.dtype)?,
        None => cx.ty(kernel.id).dtype,
    };
    let raw = out.arg(0, raw_dtype);
    let mut extra = old.clone();
    let mut nodes = vec![raw];
    nodes.extend(old.iter().enumerate().map(|(i, id)| out.arg((i + 1) as u8, cx.ty(*id).dtype)).collect::<Vec<_>>());
    let result = match kernel.attrs.program("epilogue") {
        Some(p) => out.inline(&p.clone(), &nodes),
        None => raw,
    };
    let mut args = Vec::new();
    for (i, id) in operands.iter().enumerate() {
        // The kernel's result may come in more than once (x * sigmoid(x)); every such operand is the accumulator.
        if i == position || cx.same(*id, kernel.id) {
            args.push(result);
        } else {
            extra.push(*id);
            args.push(out.arg(extra.len() as u8, cx.ty(*id).dtype));
        }
    }
    let result = out.inline(program, &args);
    let program = out.finish(result);
    // Operand 0 stands for the accumulator while operands are simplified.
    let mut all = vec![kernel.id];
    all.extend(extra);
    let (program, all) = simplify(cx, &program, &all, 1);
    if program.nodes.len() > MAX_NODES || all.len() > MAX_ARGS / 2 + 1 {
        return None;
    }
    // Tiles compute epilogues in lanes of 32 bits; not every target can store f16 from there, and none can round to it on the way.
    let lanes = |t: DType| t == DType::F32 || t == DType::Bool || (t.is_int() && (8..=32).contains(&t.bits()));
    if (raw_dtype.bits() == 32 || raw_dtype.is_int()) && !program.nodes.iter().all(|n| lanes(n.dtype)) {
        return None;
    }
    // What is quantised stays so: floats would be four times the bytes, and every user can make them again.
    if raw_dtype.is_int() && raw_dtype.bits() == 8 && program.dtype(program.result()).is_float() {
        return None;
    }
    let mut inputs: Vec<Option<Id>> = (0..own).map(|i| kernel.input(i)).collect();
    inputs.extend(all[1..].iter().copied().map(Some));
    cx.absorb(kernel.id);
    cx.node(kernel.op.name, &inputs, kernel.attrs.clone().with("epilogue", Attr::Program(program)))
}
