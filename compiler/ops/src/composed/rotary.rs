//! ONNX `RotaryEmbedding`: pairs of elements of each head turned by an angle that depends on the position.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{DType, ValueId};

use super::Build;
use crate::common::sample::int_attrs;

/// ONNX `RotaryEmbedding`.
pub(crate) const ROTARY_EMBEDDING: Import = Import { domain: "", name: "RotaryEmbedding", opsets: (23, NEWEST), build };

/// ONNX Runtime's operator of the same name: positions come second, and may be one number, that of the first row.
pub(crate) const OF_ONNXRUNTIME: Import =
    Import { domain: "com.microsoft", name: "RotaryEmbedding", opsets: (1, NEWEST), build: of_onnxruntime };

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, cos, sin, positions) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.opt_input(3));
    let heads = cx.attrs().int("num_heads").unwrap_or(0);
    turn(cx, x, (cos, sin), positions, heads)
}

fn of_onnxruntime(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, mut positions, cos, sin) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let mut heads = cx.attrs().int("num_heads").unwrap_or(0);
    if cx.attrs().int("is_packed_batching").unwrap_or(0) != 0 {
        return Err(OpError::new("is_packed_batching is not supported").help("export the model without packed batches"));
    }
    let mut b = Build(cx);
    let (shape, angles) = (b.shape(x)?, b.shape(cos)?);
    if let ([_, _, hidden], [_, half], 0) = (&shape[..], &angles[..], heads) {
        heads = hidden.checked_div(half.saturating_mul(2)).unwrap_or(0) as i64;
    }
    if b.shape(positions)? == [1] && shape.len() > 2 {
        let rows = if shape.len() == 3 { shape[1] } else { shape[2] };
        let further = b.range(rows)?;
        let first = b.cast(positions, DType::I64)?;
        let all = b.op("add", &[first, further])?;
        positions = b.unsqueeze(all, &[0])?;
    }
    turn(cx, x, (cos, sin), Some(positions), heads)
}

fn turn(
    cx: &mut dyn ImportCx,
    x: ValueId,
    (mut cos, mut sin): (ValueId, ValueId),
    positions: Option<ValueId>,
    heads: i64,
) -> OpResult<Vec<ValueId>> {
    let attr = |name: &str| cx.attrs().int(name).unwrap_or(0);
    let (interleaved, part) = (attr("interleaved") != 0, attr("rotary_embedding_dim"));
    let mut b = Build(cx);
    let whole = b.shape(x)?;
    // Four dimensions are [batch, heads, positions, elements], three [batch, positions, heads * elements].
    let (value, head_axis) = match whole[..] {
        [_, _, _, _] => (x, 1),
        [n, s, hidden] if heads > 0 && hidden % heads as u64 == 0 => {
            (b.reshape(x, &[n, s, heads as u64, hidden / heads as u64])?, 2)
        }
        _ => return Err(OpError::new(format!("x is {} and num_heads {heads}: it does not divide into heads", b.ty(x)))),
    };
    let shape = b.shape(value)?;
    let size = shape[3] as i64;
    let turned = if part == 0 { size } else { part };
    if turned < 0 || turned > size || turned % 2 != 0 {
        return Err(OpError::new(format!("rotary_embedding_dim {turned} must be even and at most {size}")));
    }
    for cache in [&mut cos, &mut sin] {
        if let Some(p) = positions {
            *cache = b.with("gather", &[*cache, p], int_attrs(&[("axis", 0)]))?;
        }
        *cache = b.unsqueeze(*cache, &[head_axis])?;
    }
    let half = turned / 2;
    let (first, second) = if interleaved { ((0, turned, 2), (1, turned, 2)) } else { ((0, half, 1), (half, turned, 1)) };
    let (x1, x2) = (b.slice(value, 3, first)?, b.slice(value, 3, second)?);
    let mut product = |a, c| b.op("mul", &[a, c]);
    let (cos1, sin2, sin1, cos2) = (product(cos, x1)?, product(sin, x2)?, product(sin, x1)?, product(cos, x2)?);
    let (real, imaginary) = (b.op("sub", &[cos1, sin2])?, b.op("add", &[sin1, cos2])?);
    let mut y = if interleaved {
        let (real, imaginary) = (b.unsqueeze(real, &[4])?, b.unsqueeze(imaginary, &[4])?);
        let pairs = b.concat(&[real, imaginary], 4)?;
        b.reshape(pairs, &[shape[0], shape[1], shape[2], turned as u64])?
    } else {
        b.concat(&[real, imaginary], 3)?
    };
    if turned < size {
        let rest = b.slice(value, 3, (turned, size, 1))?;
        y = b.concat(&[y, rest], 3)?;
    }
    Ok(vec![b.reshape(y, &whole)?])
}
