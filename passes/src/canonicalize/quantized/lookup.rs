//! Functions of one 8-bit value become tables.
//!
//! What   `quantize(f(dequantize(x)))` = `lookup(x, table)`, where f is any tree of elementwise operators over the one value and constants of one element,
//!        with at least one function that targets compute by polynomials (exp, tanh, erf, ...). What was looked up is a function of the value that it was
//!        looked up at, so that `x * sigmoid(x)` with numbers of 8 bits between is one table.
//! When   canonicalize phase.
//! Why    256 values are all there are; a table is faster than a polynomial and the same on every target, whatever their multiply-adds round.
//! Class  exact: the table holds what the interpreter computes.
//! Misses plain arithmetic, which joins kernels as a map; functions of several values.

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

/// Values of f at all 256 values of x.
struct Tree {
    x: Id,
    values: Tensor,
    /// Some operator in it is computed by a polynomial, or looked up.
    function: bool,
}

fn apply(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    quantizes(cx, m).filter(|p| p.dtype.bits() == 8)?;
    let y = m.input(0)?;
    let tree = tree(cx, y, DEPTH).filter(|t| t.function)?;
    let mut operands = vec![tree.values];
    for i in 1..3 {
        if let Some(id) = m.input(i) {
            operands.push(cx.constant(id)?.clone());
        }
    }
    let table = cx.fold("quantize_linear", &operands, &m.attrs)?;
    let table = cx.add_constant(table);
    cx.absorb_down_to(y, tree.x);
    cx.node_of("lookup", &[tree.x, table], Attrs::default())
}

/// The class as a function of one dequantised 8-bit value.
fn tree(cx: &mut RuleCx, id: Id, depth: usize) -> Option<Tree> {
    if let Some(leaf) = dequantized(cx, id).filter(|d| d.params.dtype.bits() == 8 && cx.constant(d.x).is_none()) {
        return looked_through(cx, &leaf);
    }
    if depth == 0 || cx.ty(id).dtype != DType::F32 {
        return None;
    }
    cx.elementwise(id).into_iter().find_map(|m| node(cx, &m, depth))
}

fn node(cx: &mut RuleCx, m: &Match, depth: usize) -> Option<Tree> {
    let mut leaf: Option<Id> = None;
    let (mut operands, mut function) = (Vec::new(), is_function(cx, m)?);
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
        operands.push(below.values);
        leaf = Some(below.x);
    }
    let x = leaf.filter(|x| cx.ty(*x).shape == cx.ty(m.id).shape)?;
    let operands: Option<Vec<Tensor>> = operands.into_iter().map(|t| flat(cx, t)).collect();
    let values = cx.fold(m.op.name, &operands?, &m.attrs)?;
    Some(Tree { x, values, function })
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

/// The dequantised integers as a function of what they were looked up at, if they were, otherwise of themselves.
fn looked_through(cx: &mut RuleCx, leaf: &Dequantized) -> Option<Tree> {
    let mut x = leaf.x;
    let mut integers = match leaf.params.dtype {
        DType::U8 => Tensor::from_vec(&[256], (0..=255u8).collect()),
        _ => Tensor::from_vec(&[256], (-128..=127i8).collect()),
    };
    let mut function = false;
    for _ in 0..DEPTH {
        let mut found = cx.find(x, "lookup").into_iter();
        let known = found.find_map(|m| Some((m.input(0)?, cx.constant(m.input(1)?)?.clone())));
        let Some((at, table)) = known else { break };
        integers = cx.fold("lookup", &[table, integers], &Attrs::default())?;
        (x, function) = (at, true);
    }
    let mut operands = vec![integers, Tensor::scalar(leaf.params.scale)];
    if let Some(zero) = leaf.zero {
        operands.push(cx.constant(zero)?.clone());
    }
    let values = cx.fold("dequantize_linear", &operands, &Attrs::default())?;
    Some(Tree { x, values, function })
}
