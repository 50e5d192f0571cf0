//! Biased activations and normalisations of transformers.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, DType, ValueId};

use super::{extents, import};
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// `BiasGelu`: the exact function of `A + B`.
pub(crate) const BIAS_GELU: Import = import("BiasGelu", |cx| {
    let (a, bias) = (cx.input(0)?, cx.input(1)?);
    let mut b = Build(cx);
    let x = b.op("add", &[a, bias])?;
    Ok(vec![b.op("gelu", &[x])?])
});

/// `FastGelu`: the approximation by tanh, of `X + bias` when there is one.
pub(crate) const FAST_GELU: Import = import("FastGelu", |cx| {
    let (mut x, bias) = (cx.input(0)?, cx.opt_input(1));
    let mut b = Build(cx);
    if let Some(bias) = bias {
        x = b.op("add", &[x, bias])?;
    }
    Ok(vec![b.with("gelu", &[x], Attrs::default().with("approximate", Attr::Str("tanh".into())))?])
});

/// `BiasAdd`: `X + bias + skip`.
pub(crate) const BIAS_ADD: Import = import("BiasAdd", |cx| {
    let (x, bias, skip) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let mut b = Build(cx);
    let sum = b.op("add", &[x, bias])?;
    Ok(vec![b.op("add", &[sum, skip])?])
});

/// `SkipLayerNormalization`: of `input + skip + bias`.
pub(crate) const SKIP_LAYER_NORMALIZATION: Import = import("SkipLayerNormalization", |cx| {
    let (gamma, beta, bias) = (cx.input(2)?, cx.opt_input(3), cx.opt_input(4));
    let attrs = epsilon(cx, 1e-12);
    let sum = skipped(cx, bias)?;
    let mut all = cx.node("layer_normalization", &[Some(sum), Some(gamma), beta], attrs)?;
    all.resize(3, sum);
    all.push(sum);
    // Statistics that were not asked for were not made; nothing refers to what stands in their places.
    Ok(all)
});

/// `SkipSimplifiedLayerNormalization`: the same without mean and offset.
pub(crate) const SKIP_SIMPLIFIED: Import = import("SkipSimplifiedLayerNormalization", |cx| {
    let (gamma, bias) = (cx.input(2)?, cx.opt_input(3));
    let attrs = epsilon(cx, 1e-12);
    let sum = skipped(cx, bias)?;
    let y = cx.node1("rms_normalization", &[sum, gamma], attrs.clone())?;
    if cx.n_outputs() < 2 {
        return Ok(vec![y]);
    }
    let inverse = inverse_root(cx, sum, &attrs)?;
    let mut b = Build(cx);
    let axes = b.ints(&[-1]);
    let mean = b.with("reduce_mean", &[sum, axes], int_attrs(&[("keepdims", 1)]))?;
    Ok(vec![y, mean, inverse, sum])
});

/// `SimplifiedLayerNormalization`, which ONNX Runtime adds to ONNX's own domain.
pub(crate) const SIMPLIFIED: Import = Import {
    domain: "",
    name: "SimplifiedLayerNormalization",
    opsets: (1, NEWEST),
    build: |cx| {
        let (x, scale) = (cx.input(0)?, cx.input(1)?);
        let axis = cx.attrs().int("axis").unwrap_or(-1);
        let attrs = epsilon(cx, 1e-5).with("axis", Attr::Int(axis));
        let y = cx.node1("rms_normalization", &[x, scale], attrs.clone())?;
        if cx.n_outputs() < 2 {
            return Ok(vec![y]);
        }
        let inverse = inverse_root(cx, x, &attrs)?;
        Ok(vec![y, inverse])
    },
};

fn epsilon(cx: &dyn ImportCx, default: f32) -> Attrs {
    Attrs::default().with("epsilon", Attr::Float(cx.attrs().float("epsilon").unwrap_or(default)))
}

/// The sum that is normalised. The skip may lack the batch; the sum has the shape of the input.
fn skipped(cx: &mut dyn ImportCx, bias: Option<ValueId>) -> OpResult<ValueId> {
    let (x, skip) = (cx.input(0)?, cx.input(1)?);
    let mut b = Build(cx);
    let mut sum = b.op("add", &[x, skip])?;
    if let Some(bias) = bias {
        sum = b.op("add", &[sum, bias])?;
    }
    if b.ty(sum).rank() != b.ty(x).rank() {
        return Err(OpError::new(format!("input is {} and skip {}: skip must broadcast to input", b.ty(x), b.ty(skip))));
    }
    Ok(sum)
}

/// `1 / sqrt(mean(x*x) + epsilon)` over the dimensions from `axis` on.
fn inverse_root(cx: &mut dyn ImportCx, x: ValueId, attrs: &Attrs) -> OpResult<ValueId> {
    let rank = cx.graph().ty(x).rank();
    let from = crate::common::axes::axis(attrs.int("axis").unwrap_or(-1), rank)?;
    let epsilon = f64::from(attrs.float("epsilon").unwrap_or(1e-5));
    let mut b = Build(cx);
    let axes = b.ints(&(from as i64..rank as i64).collect::<Vec<_>>());
    let squares = b.op("mul", &[x, x])?;
    let mean = b.with("reduce_mean", &[squares, axes], int_attrs(&[("keepdims", 1)]))?;
    let epsilon = b.scalar(b.dtype(x), epsilon)?;
    let sum = b.op("add", &[mean, epsilon])?;
    let root = b.op("sqrt", &[sum])?;
    b.op("reciprocal", &[root])
}

/// `EmbedLayerNormalization`: the sum of the embeddings of words, positions and segments, normalised; and the number of words that the mask shows.
pub(crate) const EMBED: Import = import("EmbedLayerNormalization", |cx| {
    let (ids, segments, words, places) = (cx.input(0)?, cx.opt_input(1), cx.input(2)?, cx.input(3)?);
    let (table, gamma, beta) = (cx.opt_input(4), cx.input(5)?, cx.input(6)?);
    let (mask, positions) = (cx.opt_input(7), cx.opt_input(8));
    let (attrs, n_outputs) = (epsilon(cx, 1e-12), cx.n_outputs());
    let mut b = Build(cx);
    let [batch, length] = extents(&b, ids, "input_ids")?;
    let [known, _] = extents(&b, places, "position_embedding")?;
    let place = match positions {
        Some(at) => rows(&mut b, places, at)?,
        None if known < length => {
            return Err(OpError::new(format!("position_embedding has {known} rows for {length} positions")));
        }
        None => b.slice(places, 0, (0, length as i64, 1))?,
    };
    let word = rows(&mut b, words, ids)?;
    let mut sum = b.op("add", &[word, place])?;
    if let (Some(table), Some(segments)) = (table, segments) {
        let segment = rows(&mut b, table, segments)?;
        sum = b.op("add", &[sum, segment])?;
    }
    let y = b.0.node("layer_normalization", &[Some(sum), Some(gamma), Some(beta)], attrs)?[0];
    if n_outputs < 2 {
        return Ok(vec![y]);
    }
    let count = match mask {
        Some(mask) => shown(&mut b, mask)?,
        None => {
            let (zero, rows) = (b.scalar(DType::I32, 0.0)?, b.ints(&[batch as i64]));
            b.op("expand", &[zero, rows])?
        }
    };
    Ok(vec![y, count, sum])
});

fn rows(b: &mut Build, table: ValueId, at: ValueId) -> OpResult<ValueId> {
    b.with("gather", &[table, at], int_attrs(&[("axis", 0)]))
}

/// Words of each row whose mask is 1.
fn shown(b: &mut Build, mask: ValueId) -> OpResult<ValueId> {
    let _: [u64; 2] = extents(b, mask, "mask")?;
    let one = b.scalar(b.dtype(mask), 1.0)?;
    let is = b.op("equal", &[mask, one])?;
    let is = b.cast(is, DType::I32)?;
    b.sum(is, &[1])
}
