//! What matrix products share: numpy's shape rules and reference evaluation.

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{Dim, TensorType};

use crate::common::broadcast::broadcast;
use crate::common::elements::for_coords;

/// The extents of a product of stacks of matrices, by numpy's rules; a vector is a row on the left and a column on the right.
pub(crate) fn infer_shape(a: &TensorType, b: &TensorType) -> OpResult<Vec<Dim>> {
    let (sa, sb) = (&a.shape, &b.shape);
    if sa.is_empty() || sb.is_empty() {
        return Err(OpError::new("an operand is a scalar").help("use Mul"));
    }
    let k = (&sa[sa.len() - 1], &sb[sb.len().saturating_sub(2)]);
    if let (Some(x), Some(y)) = (k.0.as_const(), k.1.as_const())
        && x != y
    {
        return Err(OpError::new(format!("{a} by {b}: {x} columns meet {y} rows")));
    }
    let (stack_a, stack_b) = (&sa[..sa.len().saturating_sub(2)], &sb[..sb.len().saturating_sub(2)]);
    let mut shape = broadcast(&[stack_a, stack_b])?;
    if sa.len() > 1 {
        shape.push(sa[sa.len() - 2].clone());
    }
    if sb.len() > 1 {
        shape.push(sb[sb.len() - 1].clone());
    }
    Ok(shape)
}

/// Shapes with both operands as stacks of matrices of the same rank, and that of the result: `(a, b, y)`.
pub(crate) fn stacked(a: &[u64], b: &[u64]) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    let mut sa = a.to_vec();
    let mut sb = b.to_vec();
    if sa.len() == 1 {
        sa.insert(0, 1);
    }
    if sb.len() == 1 {
        sb.push(1);
    }
    let rank = sa.len().max(sb.len());
    for s in [&mut sa, &mut sb] {
        while s.len() < rank {
            s.insert(0, 1);
        }
    }
    let mut y: Vec<u64> = sa.iter().zip(&sb).map(|(a, b)| if *a == 1 { *b } else { *a }).collect();
    y[rank - 2] = sa[rank - 2];
    y[rank - 1] = sb[rank - 1];
    (sa, sb, y)
}

/// Calls `mac(y, a, b)` with the flat indices of every product.
pub(crate) fn products(a: &[u64], b: &[u64], mut mac: impl FnMut(usize, usize, usize)) {
    let (sa, sb, sy) = stacked(a, b);
    let rank = sy.len();
    let strides = |s: &[u64]| {
        let dense = crate::common::elements::strides(s);
        dense.iter().zip(s).map(|(d, n)| if *n == 1 { 0 } else { *d }).collect::<Vec<usize>>()
    };
    let (ta, tb) = (strides(&sa), strides(&sb));
    let mut at = 0;
    for_coords(&sy, |o| {
        let mut i: usize = o[..rank - 1].iter().zip(&ta).map(|(o, s)| o * s).sum();
        let mut j: usize = o[..rank - 2].iter().zip(&tb).map(|(o, s)| o * s).sum::<usize>() + o[rank - 1] * tb[rank - 1];
        for _ in 0..sa[rank - 1] {
            mac(at, i, j);
            i += ta[rank - 1];
            j += tb[rank - 2];
        }
        at += 1;
    });
}
