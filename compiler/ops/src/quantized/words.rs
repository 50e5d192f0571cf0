//! Bytes that are filled and copied as words where their layout permits it: a vector has four times as many then, and needs no packs.

use onnxc_ir::DType;
use onnxc_ir::lir::{BufKind, Expr};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, View};
use onnxc_ir::scalar::BinOp;

use crate::common::nest::{self, ExprExt, int};

/// Bytes of a word.
const WORD: u64 = 4;

/// The same memory as words.
fn as_words(cx: &mut LowerCx, of: &Arg, view: View) -> Arg {
    let buf = cx.func.buf(DType::I32, BufKind::Same(of.buf));
    Arg { buf, dtype: DType::I32, view, constant: None }
}

/// Fills dense bytes with one value.
pub(super) fn fill_bytes(cx: &mut LowerCx, all: &Arg, byte: Expr) {
    let n: u64 = all.view.shape.iter().product();
    if !n.is_multiple_of(WORD) {
        let byte = cx.let_(byte);
        return nest::fill(cx, all, &Expr::Var(byte));
    }
    let low = Expr::bin(BinOp::And, byte.cast_from(all.dtype, DType::I32), int(DType::I32, 0xff));
    let word = cx.let_(low.mul(int(DType::I32, 0x0101_0101)));
    let words = as_words(cx, all, View::contiguous(&[n / WORD]));
    nest::fill(cx, &words, &Expr::Var(word));
}

/// Copies bytes between views of one shape if their layout is one of words; with `flip` unsigned ones become signed by taking 128 off, or the other way.
pub(super) fn copy_bytes(cx: &mut LowerCx, from: &Arg, to: &Arg, flip: bool) -> bool {
    // Dimensions that are neighbours in both are one: extent, strides.
    let extents = from.view.extents();
    let mut runs: Vec<(Extent, i64, i64)> = Vec::new();
    for d in nest::dense_last(0..extents.len(), &to.view) {
        let (n, a, b) = (extents[d].clone(), from.view.strides[d], to.view.strides[d]);
        match runs.last_mut() {
            Some(outer) if n.open.is_none() && outer.1 == a * n.bound as i64 && outer.2 == b * n.bound as i64 => {
                *outer = (outer.0.times(&n), a, b);
            }
            _ => runs.push((n, a, b)),
        }
    }
    let whole = |offset: i64| offset.rem_euclid(WORD as i64) == 0;
    let fits = runs.split_last().is_some_and(|((n, a, b), outer)| {
        let near = n.open.is_none() && n.bound.is_multiple_of(WORD) && (*a, *b) == (1, 1);
        near && whole(from.view.offset) && whole(to.view.offset) && outer.iter().all(|(_, a, b)| whole(*a) && whole(*b))
    });
    if !fits {
        return false;
    }
    let last = runs.len() - 1;
    runs.iter_mut().for_each(|run| *run = (run.0.clone(), run.1 / WORD as i64, run.2 / WORD as i64));
    runs[last] = (Extent::from(runs[last].0.bound / WORD), 1, 1);
    let shape: Vec<Extent> = runs.iter().map(|run| run.0.clone()).collect();
    let steps = |of: fn(&(Extent, i64, i64)) -> i64| runs.iter().map(of).collect::<Vec<i64>>();
    let (a, b) = (steps(|run| run.1), steps(|run| run.2));
    let from = as_words(cx, from, nest::view(&shape, a, from.view.offset / WORD as i64));
    let to = as_words(cx, to, nest::view(&shape, b.clone(), to.view.offset / WORD as i64));
    cx.for_each(&shape, &b, |cx, at| {
        let word = cx.load(&from, at);
        let flipped = |word| Expr::bin(BinOp::Xor, word, int(DType::I32, i64::from(0x8080_8080u32 as i32)));
        cx.store(&to, at, if flip { flipped(word) } else { word });
    });
    true
}
