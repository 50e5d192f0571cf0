//! `Attention`, `QAttention` and `MultiHeadAttention`.

use onnxc_ir::ValueId;
use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};

use super::heads::{Form, Operands, attend, with_past};
use super::qmatmul::Product;
use super::{absent, extents, import, unset};
use crate::composed::Build;

/// `Attention`: queries, keys and values from one input and one matrix of weights.
pub(crate) const ATTENTION: Import = import("Attention", |cx| {
    let (x, weights, bias) = (cx.input(0)?, cx.input(1)?, cx.opt_input(2));
    let rest = Rest { mask: cx.opt_input(3), past: cx.opt_input(4), bias: cx.opt_input(5) };
    absent(cx, 6, "past_sequence_length")?;
    let mut b = Build(cx);
    let mut all = b.op("matmul", &[x, weights])?;
    if let Some(bias) = bias {
        all = b.op("add", &[all, bias])?;
    }
    together(cx, all, &rest)
});

/// `QAttention`: the same with input and weights of 8 bits.
pub(crate) const QATTENTION: Import = import("QAttention", |cx| {
    let (x, weights, bias, x_scale, scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?, cx.input(4)?);
    let product = Product { a: (x, x_scale, cx.opt_input(6)), b: (weights, scale, cx.opt_input(7)), bias: Some(bias) };
    let all = product.real(cx)?;
    let rest = Rest { mask: cx.opt_input(5), past: cx.opt_input(8), bias: None };
    together(cx, all, &rest)
});

/// Operands of attention beside queries, keys and values.
struct Rest {
    mask: Option<ValueId>,
    past: Option<ValueId>,
    bias: Option<ValueId>,
}

/// Attention of queries, keys and values that lie beside each other.
fn together(cx: &mut dyn ImportCx, all: ValueId, rest: &Rest) -> OpResult<Vec<ValueId>> {
    unset(cx, "do_rotary")?;
    unset(cx, "past_present_share_buffer")?;
    let (form, sizes) = (Form::of(cx)?, cx.attrs().ints("qkv_hidden_sizes").map(<[i64]>::to_vec));
    let mut b = Build(cx);
    let [_, _, width] = extents(&b, all, "the projected input")?;
    let ends = parts(width, sizes.as_deref())?;
    let [q, k, v] = sliced(&mut b, all, 2, ends)?;
    let (q, mut k, mut v) = (form.split(&mut b, q, "query")?, form.split(&mut b, k, "key")?, form.split(&mut b, v, "value")?);
    if let Some(past) = rest.past {
        let _: [u64; 5] = extents(&b, past, "past")?;
        let half = |b: &mut Build, i: i64| {
            let part = b.slice(past, 0, (i, i + 1, 1))?;
            b.squeeze(part, &[0])
        };
        let (before_k, before_v) = (half(&mut b, 0)?, half(&mut b, 1)?);
        (k, v) = (b.concat(&[before_k, k], 2)?, b.concat(&[before_v, v], 2)?);
    }
    let (y, _) = attend(&mut b, &form, &Operands { q, k, v, mask: rest.mask, bias: rest.bias })?;
    if b.0.n_outputs() < 2 {
        return Ok(vec![y]);
    }
    let (k, v) = (b.unsqueeze(k, &[0])?, b.unsqueeze(v, &[0])?);
    Ok(vec![y, b.concat(&[k, v], 0)?])
}

/// Where queries, keys and values end among `width` columns.
fn parts(width: u64, sizes: Option<&[i64]>) -> OpResult<[i64; 3]> {
    let sizes = match sizes {
        None if width.is_multiple_of(3) => [width as i64 / 3; 3],
        Some([q, k, v]) if [q, k, v].iter().all(|s| (0..=width as i64).contains(*s)) && (q + k + v) as u64 == width => {
            [*q, *k, *v]
        }
        _ => return Err(OpError::new(format!("{width} columns do not divide into queries, keys and values of sizes {sizes:?}"))),
    };
    Ok([sizes[0], sizes[0] + sizes[1], width as i64])
}

/// Three parts along an axis.
fn sliced(b: &mut Build, x: ValueId, axis: i64, ends: [i64; 3]) -> OpResult<[ValueId; 3]> {
    let mut part = |from: i64, to: i64| b.slice(x, axis, (from, to, 1));
    Ok([part(0, ends[0])?, part(ends[0], ends[1])?, part(ends[1], ends[2])?])
}

/// `MultiHeadAttention`: queries, keys and values already projected, together or apart.
pub(crate) const MULTI_HEAD: Import = import("MultiHeadAttention", |cx| {
    let (bias, mask, scores_bias) = (cx.opt_input(3), cx.opt_input(4), cx.opt_input(5));
    let past = (cx.opt_input(6), cx.opt_input(7));
    absent(cx, 8, "past_sequence_length")?;
    absent(cx, 9, "cache_indirection")?;
    let form = Form::of(cx)?;
    let [q, k, v] = projected(cx, &form, bias)?;
    let mut b = Build(cx);
    let (k, v) = (with_past(&mut b, past.0, k)?, with_past(&mut b, past.1, v)?);
    let (y, scores) = attend(&mut b, &form, &Operands { q, k, v, mask, bias: scores_bias })?;
    Ok(vec![y, k, v, scores])
});

/// Queries, keys and values in heads.
fn projected(cx: &mut dyn ImportCx, form: &Form, bias: Option<ValueId>) -> OpResult<[ValueId; 3]> {
    let (query, key, value) = (cx.input(0)?, cx.opt_input(1), cx.opt_input(2));
    let mut b = Build(cx);
    let (Some(key), rank) = (key, b.ty(query).rank()) else {
        unbiased(bias)?;
        return Ok([packed(&mut b, query, 0, 3)?, packed(&mut b, query, 1, 3)?, packed(&mut b, query, 2, 3)?]);
    };
    if rank != 3 {
        return Err(OpError::new(format!("query is {}: three dimensions are needed beside a key", b.ty(query))));
    }
    let Some(value) = value else {
        unbiased(bias)?;
        let q = form.split(&mut b, query, "query")?;
        return Ok([q, packed(&mut b, key, 0, 2)?, packed(&mut b, key, 1, 2)?]);
    };
    let biases = match bias {
        Some(bias) => Some(bias_parts(&mut b, bias, form, [query, key, value])?),
        None => None,
    };
    let mut part = |x: ValueId, i: usize, what: &str| {
        // Keys and values of four dimensions come from a cache and are in heads already.
        if b.ty(x).rank() == 4 {
            return Ok(x);
        }
        let x = match biases {
            Some(biases) => b.op("add", &[x, biases[i]])?,
            None => x,
        };
        form.split(&mut b, x, what)
    };
    Ok([part(query, 0, "query")?, part(key, 1, "key")?, part(value, 2, "value")?])
}

fn unbiased(bias: Option<ValueId>) -> OpResult<()> {
    match bias {
        None => Ok(()),
        Some(_) => Err(OpError::new("a bias beside packed keys and values is not supported").help("add it before packing")),
    }
}

/// Part `i` of `[batch, positions, heads, of, elements]`, in heads.
fn packed(b: &mut Build, x: ValueId, i: i64, of: u64) -> OpResult<ValueId> {
    let [_, _, _, parts, _] = extents(b, x, "a packed operand")?;
    if parts != of {
        return Err(OpError::new(format!("a packed operand is {}, its dimension 3 must be {of}", b.ty(x))));
    }
    let part = b.slice(x, 3, (i, i + 1, 1))?;
    let part = b.squeeze(part, &[3])?;
    b.transpose(part, &[0, 2, 1, 3])
}

/// The biases of queries, keys and values.
fn bias_parts(b: &mut Build, bias: ValueId, form: &Form, of: [ValueId; 3]) -> OpResult<[ValueId; 3]> {
    let [n] = extents(b, bias, "bias")?;
    let mut ends = [0i64; 3];
    let mut end = 0u64;
    for (i, x) in of.into_iter().enumerate() {
        let size = match b.shape(x)?[..] {
            [_, _, hidden] => hidden,
            [_, heads, _, size] if heads == form.heads => heads.saturating_mul(size),
            _ => return Err(OpError::new(format!("an operand is {}: 3 dimensions, or 4 with heads, are needed", b.ty(x)))),
        };
        end = end.saturating_add(size);
        ends[i] = end as i64;
    }
    if end != n {
        return Err(OpError::new(format!("bias has {n} elements, queries, keys and values together have {end}")));
    }
    sliced(b, bias, 0, ends)
}
