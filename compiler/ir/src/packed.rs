//! Packed tensors at the borders of a model: several elements a byte there, as ONNX stores them, one byte an element inside.
//!
//! So nothing inside ever writes a part of a byte: views, concatenations and parallel loops work for these types as for all others.

use crate::dtype::DType;
use crate::graph::Attrs;
use crate::lir::{Expr, Func, LoopKind};
use crate::lower::{LowerCx, Sizes};
use crate::op::{Extent, View};
use crate::scalar::BinOp;
use crate::target::TargetDesc;

/// Bytes of one task.
const CHUNK: u64 = 16 * 1024;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Border {
    /// From the caller's packed bytes to a byte an element, sign-extended where the type has a sign.
    Unpack,
    /// Back.
    Pack,
}

/// The function that carries `elements` elements of type `dtype` over a border; operand and result are dense.
pub fn cross(border: Border, name: &str, dtype: DType, elements: &Extent, target: &TargetDesc, sizes: &Sizes) -> Func {
    // Codes of floats are moved, never converted.
    let code = if dtype.is_signed_int() { DType::I8 } else { DType::U8 };
    let (bits, per_byte) = (dtype.bits() as i64, 8 / dtype.bits());
    let bytes = elements.bound.div_ceil(per_byte);
    let (from, to) = if border == Border::Unpack { (bytes, elements.bound) } else { (elements.bound, bytes) };
    let (attrs, view) = (Attrs::default(), |n| (code, View::contiguous(&[n])));
    let input = Some((code, view(from).1, None));
    let mut cx = LowerCx::new(name, &attrs, &[input], &[view(to)], target, sizes);
    let step = if border == Border::Unpack { unpack_byte } else { pack_byte };
    if elements.open.is_some() {
        let n = cx.count(elements);
        let whole = Expr::Var(cx.let_(Expr::bin(BinOp::Div, n.clone(), Expr::Int(per_byte as i64))));
        cx.for_range(LoopKind::Vector, Expr::Int(0), whole.clone(), 1, |cx, i| step(cx, &i, per_byte as i64, bits, code));
        let rest = Expr::Var(cx.let_(Expr::bin(BinOp::Sub, n, whole.clone().times(per_byte as i64))));
        for count in 1..per_byte as i64 {
            let these = Expr::bin(BinOp::Eq, rest.clone(), Expr::Int(count));
            cx.if_(these, |cx| step(cx, &whole, count, bits, code), |_| {});
        }
        return cx.finish();
    }
    let elements = elements.bound;
    let whole = elements / per_byte;
    over_bytes(&mut cx, whole, |cx, i| step(cx, &i, per_byte as i64, bits, code));
    if whole < bytes {
        step(&mut cx, &Expr::Int(whole as i64), (elements % per_byte) as i64, bits, code);
    }
    cx.finish()
}

/// Calls `body` for each of `n` bytes; many are split over threads.
fn over_bytes(cx: &mut LowerCx, n: u64, body: impl FnOnce(&mut LowerCx, Expr)) {
    if n <= CHUNK {
        return if n > 0 {
            cx.for_(LoopKind::Vector, n, body)
        };
    }
    cx.for_(LoopKind::Parallel, n.div_ceil(CHUNK), |cx, chunk| {
        let lo = cx.let_(chunk.times(CHUNK as i64));
        let hi = cx.let_(Expr::bin(BinOp::Min, Expr::Var(lo).add(Expr::Int(CHUNK as i64)), Expr::Int(n as i64)));
        cx.for_range(LoopKind::Vector, Expr::Var(lo), Expr::Var(hi), 1, body);
    });
}

fn number(dtype: DType, x: i64) -> Expr {
    Expr::Const(dtype, x as u64)
}

/// The first `count` elements of byte `i`, lowest bits first.
fn unpack_byte(cx: &mut LowerCx, i: &Expr, count: i64, bits: i64, code: DType) {
    let (x, y) = (cx.input(0), cx.output(0));
    let byte = cx.load(&x, std::slice::from_ref(i));
    let byte = Expr::Var(cx.let_(byte));
    for k in 0..count {
        // To the top, so that the shift back extends the sign.
        let top = Expr::bin(BinOp::Shl, byte.clone(), number(code, 8 - bits * (k + 1)));
        let value = Expr::bin(BinOp::Shr, top, number(code, 8 - bits));
        cx.store(&y, &[i.clone().times(8 / bits).add(Expr::Int(k))], value);
    }
}

/// Byte `i` from its `count` elements; bits without an element are zero.
fn pack_byte(cx: &mut LowerCx, i: &Expr, count: i64, bits: i64, code: DType) {
    let (x, y) = (cx.input(0), cx.output(0));
    let element = |cx: &LowerCx, k: i64| {
        let value = cx.load(&x, &[i.clone().times(8 / bits).add(Expr::Int(k))]);
        let low = Expr::bin(BinOp::And, value, number(code, (1 << bits) - 1));
        if k == 0 { low } else { Expr::bin(BinOp::Shl, low, number(code, bits * k)) }
    };
    let first = element(cx, 0);
    let byte = (1..count).fold(first, |byte, k| Expr::bin(BinOp::Or, byte, element(cx, k)));
    cx.store(&y, std::slice::from_ref(i), byte);
}
