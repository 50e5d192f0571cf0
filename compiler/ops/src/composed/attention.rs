//! ONNX `Attention`: softmax(q * k^T * scale + bias) * v for each head, with caches, masks, causal order and windows.
//!
//! Order of steps and the treatment of rows without any allowed key (they give zeros) are those of the ONNX operator document (Attention-25).
//! Heads of keys that several heads of queries share are broadcast, not repeated.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{Attrs, DType, ValueId};

use super::Build;
use crate::common::sample::int_attrs;

/// ONNX `Attention`.
pub(crate) const ATTENTION: Import = Import { domain: "", name: "Attention", opsets: (23, NEWEST), build };

/// Attributes and extents.
struct Form {
    causal: bool,
    /// Keys before and behind the position of a query that it sees; -1 for all.
    window: (i64, i64),
    softcap: f64,
    scale: f64,
    /// Queries, keys with those of the cache.
    queries: u64,
    keys: u64,
    /// Keys before the first query.
    past: i64,
    dtype: DType,
}

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let attrs = cx.attrs().clone();
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (mask, past) = (cx.opt_input(3), (cx.opt_input(4), cx.opt_input(5)));
    let filled = cx.opt_input(6);
    let int = |name: &str, default: i64| attrs.int(name).unwrap_or(default);
    let mut b = Build(cx);
    let rank = b.ty(q).rank();
    let q = heads(&mut b, q, int("q_num_heads", 0))?;
    let (mut k, mut v) = (heads(&mut b, k, int("kv_num_heads", 0))?, heads(&mut b, v, int("kv_num_heads", 0))?);
    let mut before = 0;
    if let (Some(pk), Some(pv)) = past {
        before = b.shape(pk)?.get(2).copied().unwrap_or(0) as i64;
        (k, v) = (b.concat(&[pk, k], 2)?, b.concat(&[pv, v], 2)?);
    }
    let (qs, ks) = (b.shape(q)?, b.shape(k)?);
    let form = Form {
        causal: int("is_causal", 0) != 0,
        window: (int("left_window_size", -1), int("right_window_size", -1)),
        softcap: f64::from(attrs.float("softcap").unwrap_or(0.0)),
        scale: attrs.float("scale").map_or_else(|| 1.0 / (qs[3] as f64).sqrt(), f64::from),
        queries: qs[2],
        keys: ks[2],
        past: before,
        dtype: b.dtype(q),
    };
    if ks[1] == 0 || qs[1] % ks[1] != 0 {
        return Err(OpError::new(format!("{} heads of queries do not divide into {} heads of keys", qs[1], ks[1])));
    }
    let scores = scores(&mut b, q, k, &form)?;
    let bias = bias(&mut b, &form, mask, filled)?;
    let biased = match &bias {
        Some((bias, _)) => b.op("add", &[scores, *bias])?,
        None => scores,
    };
    let precise = attrs.int("softmax_precision").and_then(|c| DType::from_onnx(c as i32)).unwrap_or(form.dtype);
    let wide = b.cast(biased, precise)?;
    // Without softmax_precision it is computed in the type of the queries, step by step; a sum over more keys could leave the range of f16.
    let steps = matches!(precise, DType::F16 | DType::BF16) && form.keys < 1 << 15;
    let narrow: &[(&str, i64)] = if steps { &[("narrow", 1)] } else { &[] };
    let mut weights = b.with("softmax", &[wide], int_attrs(&[&[("axis", -1)], narrow].concat()))?;
    if let Some((bias, true)) = bias {
        weights = without_keys(&mut b, weights, bias)?;
    }
    let weights = b.cast(weights, form.dtype)?;
    let shown = match int("qk_matmul_output_mode", 0) {
        // The reference shows the capped products in either case.
        0 | 1 => scores,
        2 => biased,
        3 => weights,
        other => return Err(OpError::new(format!("qk_matmul_output_mode {other} is unknown")).help("0 to 3")),
    };
    let mut y = grouped(&mut b, weights, v)?;
    if rank == 3 {
        let shape = b.shape(y)?;
        y = b.transpose(y, &[0, 2, 1, 3])?;
        y = b.reshape(y, &[shape[0], shape[2], shape[1] * shape[3]])?;
    }
    Ok(vec![y, k, v, shown])
}

/// `[batch, heads, positions, elements]` of either form of operands.
fn heads(b: &mut Build, x: ValueId, heads: i64) -> OpResult<ValueId> {
    match b.shape(x)?[..] {
        [_, _, _, _] => Ok(x),
        [n, s, hidden] if heads > 0 && hidden % heads as u64 == 0 => {
            let split = b.reshape(x, &[n, s, heads as u64, hidden / heads as u64])?;
            b.transpose(split, &[0, 2, 1, 3])
        }
        _ => Err(OpError::new(format!("an operand is {} and its number of heads {heads}: it does not divide", b.ty(x)))),
    }
}

/// `x * m` for the head of m that belongs to each head of x.
pub(super) fn grouped(b: &mut Build, x: ValueId, m: ValueId) -> OpResult<ValueId> {
    let (xs, ms) = (b.shape(x)?, b.shape(m)?);
    if xs[1] == ms[1] {
        return b.op("matmul", &[x, m]);
    }
    // Keys and values may come with different numbers of heads.
    if ms[1] == 0 || xs[1] % ms[1] != 0 {
        return Err(OpError::new(format!("{} heads cannot be shared by {}", ms[1], xs[1])));
    }
    let split = b.reshape(x, &[xs[0], ms[1], xs[1] / ms[1], xs[2], xs[3]])?;
    let shared = b.unsqueeze(m, &[2])?;
    let y = b.op("matmul", &[split, shared])?;
    b.reshape(y, &[xs[0], xs[1], xs[2], ms[3]])
}

/// Scaled products of queries and keys, capped.
fn scores(b: &mut Build, q: ValueId, k: ValueId, f: &Form) -> OpResult<ValueId> {
    let (mut q, mut k) = (q, b.transpose(k, &[0, 1, 3, 2])?);
    if matches!(f.dtype, DType::F32 | DType::F64) {
        let scale = b.scalar(f.dtype, f.scale)?;
        q = b.op("mul", &[q, scale])?;
    } else {
        // Types that round much: as the document has it, half of the scale on either side.
        let scale = b.scalar(f.dtype, f.scale.sqrt())?;
        (q, k) = (b.op("mul", &[q, scale])?, b.op("mul", &[k, scale])?);
    }
    let s = grouped(b, q, k)?;
    if f.softcap <= 0.0 {
        return Ok(s);
    }
    let cap = b.scalar(f.dtype, f.softcap)?;
    let s = b.op("div", &[s, cap])?;
    let s = b.op("tanh", &[s])?;
    b.op("mul", &[s, cap])
}

/// What is added to the scores (0 or -inf, and the mask), and whether some query may see no key.
fn bias(b: &mut Build, f: &Form, mask: Option<ValueId>, filled: Option<ValueId>) -> OpResult<Option<(ValueId, bool)>> {
    let mut parts = Vec::new();
    if let Some(m) = mask {
        parts.push(mask_bias(b, m, f)?);
    }
    let windowed = f.window.0 >= 0 || f.window.1 >= 0;
    match filled {
        Some(n) => parts.extend(filled_bias(b, n, f)?),
        None if f.causal || windowed => {
            let past = b.int(f.past);
            parts.extend(position_bias(b, past, f)?);
        }
        None => {}
    }
    let Some(mut sum) = parts.first().copied() else { return Ok(None) };
    for part in &parts[1..] {
        sum = b.op("add", &[sum, *part])?;
    }
    Ok(Some((sum, mask.is_some() || filled.is_some() || windowed)))
}

/// A mask as something to add, for all keys.
fn mask_bias(b: &mut Build, mask: ValueId, f: &Form) -> OpResult<ValueId> {
    let mut m = mask;
    if b.dtype(m) == DType::Bool {
        m = allow(b, m, f.dtype)?;
    }
    let shape = b.shape(m)?;
    let missing = shape.last().map_or(0, |n| f.keys as i64 - *n as i64);
    if missing > 0 && shape.last() != Some(&1) {
        let mut pads = vec![0; 2 * shape.len()];
        pads[2 * shape.len() - 1] = missing;
        let (pads, never) = (b.ints(&pads), b.scalar(f.dtype, f64::NEG_INFINITY)?);
        m = b.op("pad", &[m, pads, never])?;
    }
    Ok(m)
}

/// 0 where `allowed`, else -inf.
fn allow(b: &mut Build, allowed: ValueId, dtype: DType) -> OpResult<ValueId> {
    let (zero, never) = (b.scalar(dtype, 0.0)?, b.scalar(dtype, f64::NEG_INFINITY)?);
    b.op("where", &[allowed, zero, never])
}

/// Caches of fixed size of which `filled[batch]` keys are there: the others are not seen, and the queries are the last of those that are.
fn filled_bias(b: &mut Build, filled: ValueId, f: &Form) -> OpResult<Vec<ValueId>> {
    let n = b.cast(filled, DType::I64)?;
    let n = b.unsqueeze(n, &[1, 2, 3])?;
    let places = b.range(f.keys)?;
    let there = b.op("less", &[places, n])?;
    let mut parts = vec![allow(b, there, f.dtype)?];
    let count = b.int(f.queries as i64);
    let first = b.op("sub", &[n, count])?;
    parts.extend(position_bias(b, first, f)?);
    Ok(parts)
}

/// What query `first + i` may see by its position. Built from ranges and not as a table: the importer folds what is small enough.
fn position_bias(b: &mut Build, first: ValueId, f: &Form) -> OpResult<Vec<ValueId>> {
    let (queries, keys) = (b.range(f.queries)?, b.range(f.keys)?);
    let queries = b.unsqueeze(queries, &[1])?;
    let queries = b.op("add", &[queries, first])?;
    // Keys behind the position of the query (negative: before it).
    let behind = b.op("sub", &[keys, queries])?;
    let limits = [
        (f.causal, "less_or_equal", 0),
        (f.window.0 >= 0, "greater_or_equal", f.window.0.wrapping_neg()),
        (f.window.1 >= 0, "less_or_equal", f.window.1),
    ];
    let mut parts = Vec::new();
    for (_, op, at) in limits.into_iter().filter(|(there, ..)| *there) {
        let at = b.int(at);
        let seen = b.op(op, &[behind, at])?;
        parts.push(allow(b, seen, f.dtype)?);
    }
    Ok(parts)
}

/// Weights with zeros for queries whose bias is -inf everywhere.
fn without_keys(b: &mut Build, weights: ValueId, bias: ValueId) -> OpResult<ValueId> {
    let axes = b.ints(&[-1]);
    let most = b.with("reduce_max", &[bias, axes], int_attrs(&[("keepdims", 1)]))?;
    let never = b.scalar(b.dtype(bias), f64::NEG_INFINITY)?;
    let empty = b.op("equal", &[most, never])?;
    let zero = b.scalar(b.dtype(weights), 0.0)?;
    b.with("where", &[empty, zero, weights], Attrs::default())
}
