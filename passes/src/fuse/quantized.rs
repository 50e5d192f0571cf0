//! Quantisation and dequantisation are elementwise work: they join maps and epilogues.
//!
//! What   `quantize(x)` = `map(x)`, `dequantize(x)` = `map(x)`, for one scale and zero point; a dequantised operand of a map is dequantised inside of it.
//! When   fuse phase: the rules about quantised operators have looked at them by name.
//! Why    chains from 8 bits to 8 bits store no float tensor; they become the epilogue of the integer operator in front of them.
//! Class  exact: the same operations, each rounded once, in the same order on every target.
//! Misses parameters per axis or computed at run time; types of less than 8 or more than 16 bits, and other floats than f32.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::scalar::ScalarProgram;
use onnxc_ir::{Attr, Attrs};
use onnxc_ops::{dequantization, quantization};

use super::map::{MAX_ARGS, MAX_NODES, build_map, compose};
use crate::canonicalize::quantized::params::{dequantized, quantizes};

const INLINE: &str = "dequantize-into-map";

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Exact, roots: Roots::Named(roots), apply };
    vec![
        rule("quantize-to-map", &["quantize_linear"], quantize),
        rule("dequantize-to-map", &["dequantize_linear"], dequantize),
        rule(INLINE, &["map"], inline),
    ]
}

fn map(cx: &mut RuleCx, x: Id, program: ScalarProgram) -> Option<Id> {
    cx.node_of("map", &[x], Attrs::default().with("program", Attr::Program(program)))
}

fn quantize(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let p = quantizes(cx, m).filter(|p| p.dtype.bits() >= 8)?;
    map(cx, m.input(0)?, quantization(p.scale, p.zero, p.dtype))
}

/// The integers of a dequantisation in this class, and the program that makes floats of them.
fn program(cx: &RuleCx, id: Id) -> Option<(Id, ScalarProgram)> {
    let d = dequantized(cx, id).filter(|d| d.params.dtype.bits() >= 8)?;
    Some((d.x, dequantization(d.params.scale, d.params.zero, d.params.dtype)))
}

fn dequantize(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (x, program) = program(cx, m.id)?;
    map(cx, x, program)
}

/// However many use the floats: making them again costs less than loading them.
fn inline(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if cx.joined(INLINE, [m, m]) {
        return None;
    }
    let (position, x, inner) = dequantized_operand(cx, m)?;
    let mut args: Vec<Id> = m.inputs.iter().copied().collect::<Option<_>>()?;
    let input = args.remove(position);
    let inner_start = args.len();
    args.push(x);
    let program = compose(cx, m.attrs.program("program")?, position, &inner, inner_start, &args);
    cx.absorb(input);
    cx.join(INLINE, [m, m]);
    build_map(cx, m.id, &program, &args)
}

/// The first operand of a map that can be dequantised inside of it, its integers, and the program that makes floats of them.
pub(crate) fn dequantized_operand(cx: &RuleCx, m: &Match) -> Option<(usize, Id, ScalarProgram)> {
    let outer = m.attrs.program("program")?;
    m.inputs.iter().enumerate().find_map(|(position, input)| {
        let input = (*input).filter(|input| cx.constant(*input).is_none())?;
        let (x, inner) = program(cx, input)?;
        (m.inputs.len() <= MAX_ARGS && outer.nodes.len() + inner.nodes.len() <= MAX_NODES).then_some((position, x, inner))
    })
}
