//! Functions of one 8-bit value become tables.
//!
//! What   `quantize(f(dequantize(x)))` = `lookup(x, table)`, where f is any tree of elementwise operators over the one value and constants of one element,
//!        with at least one function that targets compute by polynomials (exp, tanh, erf, ...), or with a value that several operators read and numbers of 8
//!        bits between. What was looked up or quantised is a function of the value that it came from, so that `x * sigmoid(x)` and `x * clip(x + 3) / 6` with
//!        numbers of 8 bits between are one table.
//! When   canonicalize phase.
//! Why    256 values are all there are; a table is faster than a polynomial and the same on every target, whatever their multiply-adds round.
//! Class  exact: the table holds what the interpreter computes.
//! Misses other plain arithmetic, which joins kernels as a map; functions of several values.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::op::Lower;
use onnxc_ir::scalar::ScalarOp;
use onnxc_ir::{Attrs, DType, Tensor, math};

use super::params::{Dequantized, dequantized, quantizes};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    vec![Rule { name: "quantized-function", class: RuleClass::Exact, roots: Roots::Named(&["quantize_linear"]), apply }]
}

/// Deepest tree that is searched.
const DEPTH: usize = 8;

/// Values of f at all 256 values of x, floats or integers of 8 bits.
struct Tree {
    x: Id,
    values: Tensor,
    /// Some operator in it is computed by a polynomial, or looked up.
    function: bool,
    /// Several operators read x, so that the tree joins no kernel before it.
    shared: bool,
    /// Quantisations one behind the other.
    rounded: usize,
}

fn apply(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let tree = quantized(cx, m, DEPTH).filter(|t| t.function || t.shared && t.rounded > 1)?;
    let table = cx.add_constant(tree.values);
    cx.absorb_down_to(m.input(0)?, tree.x);
    cx.node_of("lookup", &[tree.x, table], Attrs::default())
}

/// A quantisation as a function of one 8-bit value.
fn quantized(cx: &mut RuleCx, m: &Match, depth: usize) -> Option<Tree> {
    quantizes(cx, m).filter(|p| p.dtype.bits() == 8)?;
    let tree = tree(cx, m.input(0)?, depth)?;
    let mut operands = vec![tree.values];
    for id in (1..3).filter_map(|i| m.input(i)) {
        operands.push(cx.constant(id)?.clone());
    }
    let values = cx.fold("quantize_linear", &operands, &m.attrs)?;
    Some(Tree { values, rounded: tree.rounded + 1, ..tree })
}

/// The class as a function of one dequantised 8-bit value.
fn tree(cx: &mut RuleCx, id: Id, depth: usize) -> Option<Tree> {
    if let Some(leaf) = dequantized(cx, id).filter(|d| d.params.dtype.bits() == 8 && cx.constant(d.x).is_none()) {
        // What others read too is where all of them begin.
        let shared = !cx.single_use(id) || !cx.single_use(leaf.x);
        let tree = looked_through(cx, &leaf, if shared { 0 } else { depth })?;
        return Some(Tree { shared: tree.shared || shared, ..tree });
    }
    if depth == 0 || cx.ty(id).dtype != DType::F32 {
        return None;
    }
    cx.elementwise(id).into_iter().find_map(|m| node(cx, &m, depth))
}

fn node(cx: &mut RuleCx, m: &Match, depth: usize) -> Option<Tree> {
    let mut leaf: Option<Id> = None;
    let (mut operands, mut function) = (Vec::new(), is_function(cx, m)?);
    let (mut shared, mut rounded) = (false, 0);
    for input in &m.inputs {
        let input = (*input)?;
        if let Some(constant) = cx.constant(input) {
            let one = constant.clone();
            operands.push(Some(one).filter(|t| t.len() == 1)?);
            continue;
        }
        let below = tree(cx, input, depth - 1)?;
        if leaf.is_some_and(|x| !cx.same(x, below.x)) {
            return None;
        }
        function |= below.function;
        shared |= below.shared;
        rounded = rounded.max(below.rounded);
        operands.push(below.values);
        leaf = Some(below.x);
    }
    let x = leaf.filter(|x| cx.ty(*x).shape == cx.ty(m.id).shape)?;
    let operands: Option<Vec<Tensor>> = operands.into_iter().map(|t| flat(cx, t)).collect();
    let values = cx.fold(m.op.name, &operands?, &m.attrs)?;
    Some(Tree { x, values, function, shared, rounded })
}

/// Constants of one element lose their dimensions, so that they broadcast to the table.
fn flat(cx: &mut RuleCx, t: Tensor) -> Option<Tensor> {
    if t.len() != 1 {
        return Some(t);
    }
    cx.fold("reshape", &[t, Tensor::from_vec::<i64>(&[0], Vec::new())], &Attrs::default())
}

fn is_function(cx: &RuleCx, m: &Match) -> Option<bool> {
    let Lower::Elementwise(program) = m.op.lower else { return None };
    let dtypes: Option<Vec<DType>> = m.inputs.iter().map(|i| i.map(|i| cx.ty(i).dtype)).collect();
    let program = program(&m.attrs, &dtypes?).ok()?;
    Some(math::expand(&program) != program || program.nodes.iter().any(|n| matches!(n.op, ScalarOp::Fma(..))))
}

/// The dequantised integers as a function of what they come from.
fn looked_through(cx: &mut RuleCx, leaf: &Dequantized, depth: usize) -> Option<Tree> {
    let integers = integers(cx, leaf.x, depth)?;
    let mut operands = vec![integers.values, Tensor::scalar(leaf.params.scale)];
    if let Some(zero) = leaf.zero {
        operands.push(cx.constant(zero)?.clone());
    }
    let values = cx.fold("dequantize_linear", &operands, &Attrs::default())?;
    Some(Tree { values, ..integers })
}

/// Integers as a function of what they were looked up at, or, no deeper than `depth`, of what was computed and quantised, if that is one 8-bit value; otherwise
/// of themselves.
fn integers(cx: &mut RuleCx, x: Id, depth: usize) -> Option<Tree> {
    let tables = cx.find(x, "lookup").into_iter();
    if let Some((at, table)) = tables.into_iter().find_map(|m| Some((m.input(0)?, cx.constant(m.input(1)?)?.clone()))) {
        let below = integers(cx, at, depth)?;
        let values = cx.fold("lookup", &[below.values, table], &Attrs::default())?;
        return Some(Tree { values, function: true, ..below });
    }
    let quantisations = cx.find(x, "quantize_linear").into_iter().filter(|_| depth > 0);
    if let Some(tree) = quantisations.into_iter().find_map(|m| quantized(cx, &m, depth - 1)) {
        return Some(tree);
    }
    let values = match cx.ty(x).dtype {
        DType::U8 => Tensor::from_vec(&[256], (0..=255u8).collect()),
        _ => Tensor::from_vec(&[256], (-128..=127i8).collect()),
    };
    Some(Tree { x, values, function: false, shared: false, rounded: 0 })
}
