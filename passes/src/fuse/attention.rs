//! Scores between two matrix products stay in a block: `softmax(q * k) * v` is one operator.
//!
//! What   `matmul(softmax(matmul(q, k, ..){epilogue = p}), v)` = `attention(q, k, v, ..){scores = p}`.
//! When   fuse phase: scale and mask are in the epilogue of the first product.
//! Why    scores are neither written to memory nor read from it, and their arena is gone.
//! Class  reassociates: the division by the sum of exponentials comes last.
//! Paper  Rabe and Staats, "Self-attention does not need O(n^2) memory", 2021.
//! Misses scores that others use too; extents that come with the call; few queries, as when a decoder computes one token: there k and v stream through once
//!        whatever is done; other types than f32.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::{Attr, Attrs, DType, TensorType};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    vec![Rule { name: "fuse-attention", class: RuleClass::Reassociates, roots: Roots::Named(&["matmul"]), apply }]
}

/// Operands of a product before those of its epilogue.
const OWN: usize = 2;
/// Queries from which blocks of them fill tiles.
const FEWEST_QUERIES: u64 = 16;

fn apply(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let (weights, v) = (m.input(0)?, m.input(1)?);
    if m.attrs.program("epilogue").is_some() || !fits(cx.ty(m.id)) || !fits(cx.ty(v)) || !cx.single_use(weights) {
        return None;
    }
    let rank = cx.ty(weights).rank();
    let softmax = cx.find(weights, "softmax").into_iter().find(|s| {
        let axis = s.attrs.int("axis").unwrap_or(-1);
        axis == -1 || axis == rank as i64 - 1
    })?;
    let scores = softmax.input(0)?;
    if !fits(cx.ty(scores)) || !cx.single_use(scores) {
        return None;
    }
    let product = cx.find(scores, "matmul").into_iter().next()?;
    let (q, k) = (product.input(0)?, product.input(1)?);
    if !fits(cx.ty(q)) || !fits(cx.ty(k)) || !many_queries(cx.ty(q)) {
        return None;
    }
    let mut inputs = vec![Some(q), Some(k), Some(v)];
    inputs.extend(product.inputs.iter().skip(OWN).copied());
    let mut attrs = Attrs::default();
    if let Some(program) = product.attrs.program("epilogue") {
        attrs = attrs.with("scores", Attr::Program(program.clone()));
    }
    cx.absorb(weights);
    cx.absorb(scores);
    let id = cx.node("attention", &inputs, attrs)?;
    (*cx.ty(id) == *cx.ty(m.id)).then_some(id)
}

/// Matrices of f32 whose extents are numbers, and not 0.
fn fits(ty: &TensorType) -> bool {
    ty.dtype == DType::F32 && ty.rank() >= 2 && ty.const_shape().is_some_and(|s| !s.contains(&0))
}

fn many_queries(q: &TensorType) -> bool {
    q.shape[q.rank() - 2].as_const().is_some_and(|n| n >= FEWEST_QUERIES)
}
