//! Scales and shifts per channel fold into the weights of the convolution or matrix product before them, scales into those behind them too.
//!
//! What   `batch_normalization(conv(x, w, b))` = `conv(x, w', b')`; `conv(x, w, b) * s` and `conv(x, w, b) + t` for constants per output channel;
//!        `matmul(x, w) * s` for constants per column; `conv(x * s, w, b)`, `matmul(x * s, w)` and `gemm(x * s, w, c)` for constants per input channel; other batch
//!        normalisations become `x*a + c`.
//! When   canonicalize phase: before fusion and before anything that looks at weights.
//! Why    one pass over memory less, and weights that quantise as they are used.
//! Class  reassociates: one more rounding per weight.
//! Misses convolutions whose result others use too, products that others use too.

use onnxc_egraph::{Id, Match, Roots, Rule, RuleClass, RuleCx};
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{Attrs, DType, Tensor};

/// The rules of this file.
pub fn rules() -> Vec<Rule> {
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Reassociates, roots: Roots::Named(roots), apply };
    vec![
        rule("batch-norm-to-affine", &["batch_normalization"], batch_norm),
        rule("fold-mul-into-conv", &["mul"], fold_mul),
        rule("fold-add-into-conv", &["add"], fold_add),
        rule("fold-mul-into-matmul", &["mul"], fold_mul_matmul),
        rule("fold-mul-into-weights", &["conv", "matmul", "gemm"], fold_input),
    ]
}

fn f32s(cx: &RuleCx, id: Id) -> Option<Vec<f32>> {
    f32_tensor(cx, id).map(Tensor::to_vec)
}

fn f32_tensor<'c>(cx: &'c RuleCx, id: Id) -> Option<&'c Tensor> {
    cx.constant(id).filter(|t| t.dtype() == DType::F32)
}

/// Weights times a factor for each element. The original is not in memory then, if it is in a file: nobody reads it again soon.
fn scaled(weights: &Tensor, factor: impl Fn(usize) -> f32) -> Tensor {
    let (from, mut to) = (weights.bytes().as_chunks::<4>().0, Vec::with_capacity(weights.bytes().len()));
    for (i, w) in from.iter().enumerate() {
        to.extend((f32::from_le_bytes(*w) * factor(i)).to_le_bytes());
    }
    weights.release();
    let shape = weights.shape().to_vec();
    Tensor::from_bytes(DType::F32, shape, Bytes::new(to)).expect("internal: as many elements as before")
}

/// `x * a + c` with `a = scale / sqrt(var + eps)`, `c = bias - mean * a`, computed in f64.
fn batch_norm(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if m.attrs.int("training_mode").unwrap_or(0) != 0 {
        return None;
    }
    let x = m.input(0)?;
    let ty = cx.ty(x).clone();
    let parts: Option<Vec<Vec<f32>>> = (1..5).map(|i| f32s(cx, m.input(i)?)).collect();
    let [scale, bias, mean, var] = <[Vec<f32>; 4]>::try_from(parts?).ok()?;
    let eps = f64::from(m.attrs.float("epsilon").unwrap_or(1e-5));
    let a: Vec<f64> = scale.iter().zip(&var).map(|(s, v)| f64::from(*s) / (f64::from(*v) + eps).sqrt()).collect();
    let c = bias.iter().zip(&mean).zip(&a).map(|((b, m), a)| (f64::from(*b) - f64::from(*m) * a) as f32);
    let c: Vec<f32> = c.collect();
    let mut shape = vec![1u64; ty.rank().max(2)];
    shape[1] = scale.len() as u64;
    if ty.dtype != DType::F32 || ty.rank() < 2 {
        return None;
    }
    let a = cx.add_constant(Tensor::from_vec(&shape, a.iter().map(|a| *a as f32).collect()));
    let c = cx.add_constant(Tensor::from_vec(&shape, c));
    let scaled = cx.node_of("mul", &[x, a], Attrs::default())?;
    cx.node_of("add", &[scaled, c], Attrs::default())
}

/// The operand that is a constant per channel (`[1, C, 1, ...]`, or one element), spread to C values, and the other operand.
fn per_channel(cx: &RuleCx, m: &Match, channels: impl Fn(&RuleCx, Id) -> Option<(usize, usize)>) -> Option<(Id, Vec<f32>)> {
    for (x, s) in [(m.input(0)?, m.input(1)?), (m.input(1)?, m.input(0)?)] {
        let Some(values) = f32s(cx, s) else { continue };
        let (axis, count) = channels(cx, x)?;
        let rank = cx.ty(x).rank();
        let shape = cx.constant(s)?.shape().to_vec();
        if shape.len() > rank {
            continue;
        }
        let lead = rank - shape.len();
        let only_channels = shape.iter().enumerate().all(|(d, n)| *n == 1 || d + lead == axis);
        if only_channels && values.len() == count {
            return Some((x, values));
        }
        if values.len() == 1 {
            return Some((x, vec![values[0]; count]));
        }
    }
    None
}

/// A convolution with constant f32 weights, without epilogue, that only the matched node uses.
fn foldable_conv(cx: &RuleCx, x: Id) -> Option<Match> {
    if !cx.single_use(x) {
        return None;
    }
    let conv = cx.find(x, "conv").into_iter().next()?;
    let constant_bias = conv.input(2).is_none_or(|b| cx.constant(b).is_some());
    (conv.inputs.len() <= 3 && conv.attrs.get("epilogue").is_none() && f32_tensor(cx, conv.input(1)?).is_some() && constant_bias)
        .then_some(conv)
}

fn conv_channels(cx: &RuleCx, x: Id) -> Option<(usize, usize)> {
    let conv = foldable_conv(cx, x)?;
    Some((1, cx.constant(conv.input(1)?)?.shape()[0] as usize))
}

/// Rules look at what they have rewritten already in every round: folding again would give the same weights.
fn is_done(cx: &RuleCx, m: &Match, op: &str) -> bool {
    !cx.find(m.id, op).is_empty()
}

fn fold_mul(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if is_done(cx, m, "conv") {
        return None;
    }
    let (x, scale) = per_channel(cx, m, conv_channels)?;
    let conv = foldable_conv(cx, x)?;
    let (w, b) = (conv.input(1)?, conv.input(2));
    let weights = f32_tensor(cx, w)?;
    let per_filter = weights.shape()[1..].iter().product::<u64>() as usize;
    let w = scaled(weights, |i| scale[i / per_filter.max(1)]);
    let bias = match b {
        Some(b) => Some(f32s(cx, b)?.iter().zip(&scale).map(|(b, s)| b * s).collect::<Vec<f32>>()),
        None => None,
    };
    let w = cx.add_constant(w);
    let b = bias.map(|b| cx.add_constant(Tensor::from_vec(&[scale.len() as u64], b)));
    cx.absorb(x);
    same_type(cx, m.id, |cx| cx.node("conv", &[conv.input(0), Some(w), b], conv.attrs.clone()))
}

fn fold_add(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if is_done(cx, m, "conv") {
        return None;
    }
    let (x, shift) = per_channel(cx, m, conv_channels)?;
    let conv = foldable_conv(cx, x)?;
    let bias: Vec<f32> = match conv.input(2) {
        Some(b) => f32s(cx, b)?.iter().zip(&shift).map(|(b, s)| b + s).collect(),
        None => shift,
    };
    let b = cx.add_constant(Tensor::from_vec(&[bias.len() as u64], bias));
    cx.absorb(x);
    same_type(cx, m.id, |cx| cx.node("conv", &[conv.input(0), conv.input(1), Some(b)], conv.attrs.clone()))
}

fn fold_mul_matmul(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    if is_done(cx, m, "matmul") {
        return None;
    }
    let columns = |cx: &RuleCx, x: Id| {
        let matmul = cx.find(x, "matmul").into_iter().next().filter(|mm| mm.inputs.len() == 2 && cx.single_use(x))?;
        let w = cx.constant(matmul.input(1)?).filter(|w| w.shape().len() == 2)?;
        Some((cx.ty(x).rank().checked_sub(1)?, w.shape()[1] as usize))
    };
    let (x, scale) = per_channel(cx, m, columns)?;
    let matmul = cx.find(x, "matmul").into_iter().next()?;
    let w = scaled(f32_tensor(cx, matmul.input(1)?)?, |i| scale[i % scale.len()]);
    let w = cx.add_constant(w);
    cx.absorb(x);
    same_type(cx, m.id, |cx| cx.node_of("matmul", &[matmul.input(0)?, w], matmul.attrs.clone()))
}

/// Scales of what is multiplied, in the weights.
fn fold_input(cx: &mut RuleCx, m: &Match) -> Option<Id> {
    let product = m.input(0).filter(|x| cx.single_use(*x))?;
    let weights = f32_tensor(cx, m.input(1)?)?;
    let (shape, rank) = (weights.shape().to_vec(), cx.ty(product).rank());
    let size = |d: usize| shape.get(d).map_or(1, |n| *n as usize);
    let flag = |name: &str| m.attrs.int(name).unwrap_or(0) != 0;
    let inner: usize = (2..shape.len()).map(size).product();
    // The dimension of the operand that counts channels, how many there are, and the channel of each weight.
    let (axis, count, channel): (usize, usize, Box<dyn Fn(usize) -> usize>) = match m.op.name {
        "conv" if m.attrs.get("epilogue").is_none() && m.inputs.len() <= 3 => {
            let groups = m.attrs.int("group").unwrap_or(1).max(1) as usize;
            let (filters, channels) = ((size(0) / groups).max(1), size(1));
            (1, groups * channels, Box::new(move |i| i / (channels * inner) / filters * channels + i / inner % channels))
        }
        "matmul" if shape.len() == 2 && m.inputs.len() == 2 => {
            let columns = size(1);
            (rank.checked_sub(1)?, size(0), Box::new(move |i| i / columns))
        }
        "gemm" if !flag("transA") && m.attrs.get("epilogue").is_none() => {
            let (columns, by_rows) = (size(1), flag("transB"));
            (1, size(usize::from(by_rows)), Box::new(move |i| if by_rows { i % columns } else { i / columns }))
        }
        _ => return None,
    };
    let mul = cx.find(product, "mul").into_iter().next()?;
    let (x, factors) = per_channel(cx, &mul, |_, _| Some((axis, count)))?;
    // Not where factors make more channels of one.
    if cx.ty(x) != cx.ty(product) {
        return None;
    }
    // Folding again would give the same weights.
    if cx.find(m.id, m.op.name).iter().any(|done| done.input(0).is_some_and(|from| cx.same(from, x))) {
        return None;
    }
    let w = scaled(f32_tensor(cx, m.input(1)?)?, |i| factors[channel(i)]);
    let w = cx.add_constant(w);
    cx.absorb(product);
    let inputs: Vec<Option<Id>> = [Some(x), Some(w)].into_iter().chain(m.inputs.iter().skip(2).copied()).collect();
    same_type(cx, m.id, |cx| cx.node(m.op.name, &inputs, m.attrs.clone()))
}

/// The class that `build` makes, if it has the type of `like` (a scalar of higher rank would have widened the shape).
fn same_type(cx: &mut RuleCx, like: Id, build: impl FnOnce(&mut RuleCx) -> Option<Id>) -> Option<Id> {
    let ty = cx.ty(like).clone();
    let id = build(cx)?;
    (*cx.ty(id) == ty).then_some(id)
}
