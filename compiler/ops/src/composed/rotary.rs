//! ONNX `RotaryEmbedding`: pairs of elements of each head turned by an angle that depends on the position.

use onnxc_ir::ValueId;
use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};

use super::Build;
use crate::common::sample::int_attrs;

/// ONNX `RotaryEmbedding`.
pub(crate) const ROTARY_EMBEDDING: Import = Import { domain: "", name: "RotaryEmbedding", opsets: (23, NEWEST), build };

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, mut cos, mut sin, positions) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.opt_input(3));
    let attr = |name: &str| cx.attrs().int(name).unwrap_or(0);
    let (interleaved, heads, part) = (attr("interleaved") != 0, attr("num_heads"), attr("rotary_embedding_dim"));
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
