//! Data movement cancels, merges, and sinks below elementwise operators so that it can cancel later.
//!
//! What   `transpose(transpose x)` = one transpose; `reshape(reshape x)`, with squeeze, unsqueeze and flatten = one reshape;
//!        `op(transpose x, transpose y)` = `transpose(op(x, y))` for elementwise operators with equal permutations (or constants of one element).
//! When   canonicalize phase.
//! Class  exact.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::op::{Lower, OpDef};
use onnxc_ir::{Attr, Attrs, Tensor};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Exact, roots, apply };
    vec![
        rule("merge-transposes", Roots::Named(&["transpose"]), merge_transposes),
        rule("merge-reshapes", Roots::Named(RESHAPES), merge_reshapes),
        rule("transpose-of-ones-is-reshape", Roots::Named(&["transpose"]), transpose_of_ones),
        rule("sink-transpose", Roots::Where(is_elementwise), sink_transpose),
    ]
}

/// Operators that keep the elements in row-major order and change the shape only.
const RESHAPES: &[&str] = &["reshape", "squeeze", "unsqueeze", "flatten"];

fn is_elementwise(op: &OpDef) -> bool {
    matches!(op.lower, Lower::Elementwise(_))
}

fn transpose(cx: &mut RuleCx, x: Id, perm: Vec<i64>) -> Option<Id> {
    cx.node_of("transpose", &[x], Attrs::default().with("perm", Attr::Ints(perm)))
}

fn merge_transposes(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let outer = m.attrs.ints("perm")?;
    let inner = cx.find(m.input(0)?, "transpose").into_iter().next()?;
    let inner_perm = inner.attrs.ints("perm")?;
    let perm: Vec<i64> = outer.iter().map(|p| inner_perm[*p as usize]).collect();
    cx.absorb(inner.id);
    if perm.is_sorted() { inner.input(0) } else { transpose(cx, inner.input(0)?, perm) }
}

/// A reshape to the constant shape of class `like`.
fn reshape(cx: &mut RuleCx, x: Id, like: Id) -> Option<Id> {
    let shape = cx.ty(like).const_shape()?;
    if cx.ty(x).const_shape()? == shape {
        return Some(x);
    }
    // Extents are written out, so a zero means zero.
    let target = cx.add_constant(Tensor::from_vec(&[shape.len() as u64], shape.iter().map(|d| *d as i64).collect()));
    cx.node_of("reshape", &[x, target], Attrs::default().with("allowzero", Attr::Int(1)))
}

fn merge_reshapes(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let x = m.input(0)?;
    let inner = RESHAPES.iter().find_map(|op| cx.find(x, op).into_iter().next())?;
    cx.absorb(inner.id);
    reshape(cx, inner.input(0)?, m.id)
}

fn transpose_of_ones(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let x = m.input(0)?;
    let perm = m.attrs.ints("perm")?;
    let moved: Vec<i64> = perm.iter().copied().filter(|p| !cx.ty(x).shape[*p as usize].is_one()).collect();
    moved.is_sorted().then(|| reshape(cx, x, m.id))?
}

fn sink_transpose(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let rank = cx.ty(m.id).rank();
    let mut perm: Option<Vec<i64>> = None;
    let mut inputs = Vec::new();
    for input in &m.inputs {
        let input = (*input)?;
        if cx.constant(input).is_some_and(|t| t.len() == 1) && cx.ty(input).rank() <= rank {
            inputs.push(input);
            continue;
        }
        let inner = cx.find(input, "transpose").into_iter().next()?;
        let this = inner.attrs.ints("perm")?.to_vec();
        // Operands must have the full rank, else broadcasting would pair other dimensions.
        if this.len() != rank || perm.as_ref().is_some_and(|p| *p != this) || !cx.single_use(input) {
            return None;
        }
        perm = Some(this);
        inputs.push(inner.input(0)?);
    }
    let perm = perm?;
    let inner = cx.node_of(m.op.name, &inputs, m.attrs.clone())?;
    transpose(cx, inner, perm)
}
