//! Loops over a tensor with the scale and zero point of every element.

use onnxc_ir::DType;
use onnxc_ir::lir::Expr;
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{OpResult, View};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Dim, TensorType};

use super::params::Spread;
use crate::common::nest::{self, ExprExt};

/// Calls `body` with each coordinate of `y`, its scale (f32) and its zero point (f32 for a float type, else i32; if there is one): operands 1
/// and 2 of the node.
pub(super) fn over_parameters(
    cx: &mut LowerCx,
    x: &Arg,
    y: &Arg,
    body: impl Fn(&mut LowerCx, &[Expr], Expr, Option<Expr>),
) -> OpResult<()> {
    let (scale, zero) = (cx.input(1), cx.opt(2));
    let ty = |a: &Arg| TensorType::new(a.dtype, a.view.dims());
    let spread = Spread::new(cx.attrs, &ty(x), &ty(&scale), zero.as_ref().map(ty).as_ref())?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    if scale.dtype != DType::F8E8M0 {
        nest::require(scale.dtype)?;
    }
    for (i, arg) in [(1, Some(&scale)), (2, zero.as_ref())] {
        arg.map_or(Ok(()), |arg| covers(i, arg, &y.view, &spread))?;
    }
    let at_parameter = |cx: &LowerCx, arg: &Arg, at: &[Expr]| {
        let index = match &spread {
            Spread::Tensor => vec![Expr::Int(0); arg.view.shape.len()],
            Spread::Axis(d) => vec![at[*d].clone()],
            Spread::Block(axis, n) => (0..at.len())
                .map(|d| if d == *axis { Expr::bin(BinOp::Div, at[d].clone(), Expr::Int(*n as i64)) } else { at[d].clone() })
                .collect(),
        };
        cx.load(arg, &index)
    };
    cx.for_each(&y.view, &y.view.strides.clone(), |cx, at| {
        let s = at_parameter(cx, &scale, at).cast_from(scale.dtype, DType::F32);
        let z = zero.as_ref().map(|z| at_parameter(cx, z, at).cast_from(z.dtype, zero_type(z.dtype)));
        body(cx, at, s, z);
    });
    Ok(())
}

/// Refuses parameters that are not known to be there for all elements of `y`.
fn covers(i: usize, arg: &Arg, y: &View, spread: &Spread) -> OpResult<()> {
    let (own, all) = (arg.view.dims(), y.dims());
    if arg.view.is_fixed() && y.is_fixed() {
        return Ok(());
    }
    match spread {
        Spread::Tensor => Ok(()),
        Spread::Axis(d) => nest::equal_extents(i, &own, &all[*d..=*d]),
        Spread::Block(axis, n) => (0..own.len()).try_for_each(|d| {
            let blocks = if d == *axis { all[d].div_ceil(&Dim::Const(*n)) } else { all[d].clone() };
            nest::same_extent(i, &own[d], &blocks)
        }),
    }
}

fn zero_type(zero: DType) -> DType {
    if zero.is_float() { DType::F32 } else { DType::I32 }
}

/// A constant vector as an operand that runs along dimension `d` of `rank`; readable a panel beyond its end.
pub(super) fn along(cx: &mut LowerCx, dtype: DType, bytes: Vec<u8>, d: usize, rank: usize) -> Arg {
    let n = bytes.len() as u64 / dtype.bytes();
    let mut bytes = bytes;
    bytes.resize(bytes.len().next_multiple_of(64) + 256, 0);
    let buf = cx.const_buf(dtype, bytes);
    Arg { buf, dtype, view: vector_view(n, d, rank), constant: None }
}

/// The view of a vector of `n` that runs along dimension `d` of `rank`.
pub(super) fn vector_view(n: u64, d: usize, rank: usize) -> View {
    let mut view = View { shape: vec![1; rank], open: Vec::new(), strides: vec![0; rank], offset: 0 };
    (view.shape[d], view.strides[d]) = (n, 1);
    view
}
