//! What the attention operators of com.microsoft share: heads, masks, and the products.

use onnxc_ir::op::{ImportCx, OpError, OpResult};
use onnxc_ir::{DType, Tensor, ValueId};

use super::extents;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// Attributes that both operators have.
pub(super) struct Form {
    pub heads: u64,
    pub scale: Option<f64>,
    /// What is added to the scores of keys that are masked.
    pub fill: f64,
    pub causal: bool,
}

impl Form {
    pub(super) fn of(cx: &dyn ImportCx) -> OpResult<Form> {
        let attrs = cx.attrs();
        let heads = attrs.int("num_heads").unwrap_or(0);
        if heads < 1 {
            return Err(OpError::new(format!("num_heads is {heads}, it must be at least 1")));
        }
        let scale = attrs.float("scale").filter(|s| *s != 0.0).map(f64::from);
        let fill = f64::from(attrs.float("mask_filter_value").unwrap_or(-10000.0));
        Ok(Form { heads: heads as u64, scale, fill, causal: attrs.int("unidirectional").unwrap_or(0) != 0 })
    }

    /// `[batch, heads, positions, elements]` of `[batch, positions, heads * elements]`.
    pub(super) fn split(&self, b: &mut Build, x: ValueId, what: &str) -> OpResult<ValueId> {
        let [n, s, hidden] = extents(b, x, what)?;
        if !hidden.is_multiple_of(self.heads) {
            return Err(OpError::new(format!("{what} has {hidden} elements, which do not divide into {} heads", self.heads)));
        }
        let split = b.reshape(x, &[n, s, self.heads, hidden / self.heads])?;
        b.transpose(split, &[0, 2, 1, 3])
    }
}

/// Keys and values with those of a cache before them.
pub(super) fn with_past(b: &mut Build, past: Option<ValueId>, x: ValueId) -> OpResult<ValueId> {
    match past {
        Some(past) => b.concat(&[past, x], 2),
        None => Ok(x),
    }
}

/// Queries, keys and values as `[batch, heads, positions, elements]`, with what is added to the scores.
pub(super) struct Operands {
    pub q: ValueId,
    pub k: ValueId,
    pub v: ValueId,
    pub mask: Option<ValueId>,
    pub bias: Option<ValueId>,
}

/// `[batch, positions, heads * elements]`, and the scores before the softmax.
pub(super) fn attend(b: &mut Build, form: &Form, o: &Operands) -> OpResult<(ValueId, ValueId)> {
    let ([n, heads, queries, size], [kn, kh, keys, ks]) = (extents(b, o.q, "query")?, extents(b, o.k, "key")?);
    let [vn, vh, values, width] = extents(b, o.v, "value")?;
    if [kn, kh, ks] != [n, heads, size] || [vn, vh, values] != [n, heads, keys] {
        let (q, k, v) = (b.ty(o.q), b.ty(o.k), b.ty(o.v));
        return Err(OpError::new(format!("query, key and value are {q}, {k} and {v} in heads: they do not fit together")));
    }
    let dtype = b.dtype(o.q);
    let scale = b.scalar(dtype, form.scale.unwrap_or_else(|| 1.0 / (size.max(1) as f64).sqrt()))?;
    let (q, k) = (b.op("mul", &[o.q, scale])?, b.transpose(o.k, &[0, 1, 3, 2])?);
    let mut scores = b.op("matmul", &[q, k])?;
    let mut parts = Vec::new();
    if let Some(mask) = o.mask {
        parts.push(padding(b, mask, form.fill, [n, queries, keys], dtype)?);
    }
    if form.causal {
        parts.push(order(b, queries, keys, dtype)?);
    }
    parts.extend(o.bias);
    for part in parts {
        scores = b.op("add", &[scores, part])?;
        if b.shape(scores)? != [n, heads, queries, keys] {
            return Err(OpError::new(format!(
                "a mask or bias of type {} does not fit {queries} queries and {keys} keys",
                b.ty(part)
            )));
        }
    }
    let weights = b.with("softmax", &[scores], int_attrs(&[("axis", -1)]))?;
    let y = b.op("matmul", &[weights, o.v])?;
    let y = b.transpose(y, &[0, 2, 1, 3])?;
    Ok((b.reshape(y, &[n, queries, heads * width])?, scores))
}

/// The lowest number for keys behind the query, the last of which is beside the last key.
fn order(b: &mut Build, queries: u64, keys: u64, dtype: DType) -> OpResult<ValueId> {
    let never = if dtype == DType::F16 { -65504.0 } else { f64::from(f32::MIN) };
    let (query, key) = (b.range(queries)?, b.range(keys)?);
    let past = b.0.constant(Tensor::scalar(keys as i64 - queries as i64));
    let last = b.op("add", &[query, past])?;
    let last = b.unsqueeze(last, &[1])?;
    let seen = b.op("less_or_equal", &[key, last])?;
    let (nothing, never) = (b.scalar(dtype, 0.0)?, b.scalar(dtype, never)?);
    b.op("where", &[seen, nothing, never])
}

/// A mask in one of its forms as something to add: `[batch]` ends of the keys, `[2 * batch]` ends then starts, `[batch, keys]` or
/// `[batch, queries, keys]` flags.
fn padding(b: &mut Build, mask: ValueId, fill: f64, [n, queries, keys]: [u64; 3], dtype: DType) -> OpResult<ValueId> {
    if !b.dtype(mask).is_int() {
        return Err(OpError::new(format!("a mask of type {} is not supported", b.ty(mask))).help("masks are of type i32"));
    }
    let zero = b.scalar(b.dtype(mask), 0.0)?;
    let shape = b.shape(mask)?;
    let (seen, axes): (ValueId, &[i64]) = match shape[..] {
        [count] if count == n || count == 2 * n => (span(b, mask, n, keys, count > n)?, &[1, 2]),
        [batch, k] if batch == n && k == keys => (b.op("greater", &[mask, zero])?, &[1, 2]),
        [batch, q, k] if batch == n && q == queries && k == keys => (b.op("greater", &[mask, zero])?, &[1]),
        _ => {
            let reason =
                format!("a mask of type {} for {n} rows of {queries} queries and {keys} keys is not supported", b.ty(mask));
            return Err(OpError::new(reason).help("use [batch], [2 * batch], [batch, keys] or [batch, queries, keys]"));
        }
    };
    let (nothing, fill) = (b.scalar(dtype, 0.0)?, b.scalar(dtype, fill)?);
    let add = b.op("where", &[seen, nothing, fill])?;
    b.unsqueeze(add, axes)
}

/// Which keys lie before the end of their row, and not before its start.
fn span(b: &mut Build, mask: ValueId, n: u64, keys: u64, starts: bool) -> OpResult<ValueId> {
    let places = b.range(keys)?;
    let mask = b.cast(mask, DType::I64)?;
    let bound = |b: &mut Build, from: u64| {
        let part = b.slice(mask, 0, (from as i64, (from + n) as i64, 1))?;
        b.unsqueeze(part, &[1])
    };
    let end = bound(b, 0)?;
    let before = b.op("less", &[places, end])?;
    if !starts {
        return Ok(before);
    }
    let start = bound(b, n)?;
    let behind = b.op("greater_or_equal", &[places, start])?;
    b.op("and", &[before, behind])
}
