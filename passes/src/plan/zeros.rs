//! Steps that write the borders round values which padded convolutions read in place.

use onnxc_ir::lir::{BufKind, Expr, LoopKind};
use onnxc_ir::lower::{Arg, Edge, Halo, LowerCx, Side};
use onnxc_ir::op::View;
use onnxc_ir::{Attrs, DType};

use super::nodes::step_name;
use super::storage::Storage;
use super::{Draft, Planner, regions_of};

/// A step that writes the zeros, or zero points, round a value.
pub(super) fn clear(planner: &mut Planner, storage: &Storage, dtype: DType, name: &str) -> Draft {
    let fill = storage.halo.as_ref().map_or(0, |h| h.fill);
    let (step, attrs) = (step_name(planner, "border"), Attrs::default());
    let mut cx = LowerCx::new(&step, &attrs, &[], &[(dtype, storage.view.clone())], planner.target, planner.sizes);
    if !storage.view.is_fixed() {
        let out = cx.output(0);
        for side in storage.halo.iter().flat_map(Halo::open_sides) {
            clear_open(&mut cx, &out, (&side, fill), &mut Vec::new());
        }
    }
    for side in storage.halo.iter().filter(|_| storage.view.is_fixed()).flat_map(|h| h.sides(&storage.view)) {
        let to = in_words(&mut cx, joined(&side));
        cx.for_each(&to.view.clone(), &to.view.strides.clone(), |cx, at| cx.store(&to, at, filled(to.dtype, fill)));
    }
    let func = cx.finish();
    let regions = regions_of(planner, &func, &[], &[storage.region]);
    Draft::Call { func, regions, origins: vec![name.to_string()], op: "border".to_string() }
}

/// The same elements in as few dimensions as possible: rows that follow each other are one.
fn joined(side: &View) -> View {
    let mut order: Vec<usize> = (0..side.shape.len()).filter(|d| side.shape[*d] != 1).collect();
    order.sort_by_key(|d| std::cmp::Reverse(side.strides[*d]));
    let (mut shape, mut strides): (Vec<u64>, Vec<i64>) = (Vec::new(), Vec::new());
    for d in order {
        let (n, step) = (side.shape[d], side.strides[d]);
        match (shape.last_mut(), strides.last_mut()) {
            (Some(outer), Some(outer_step)) if *outer_step == step * n as i64 => (*outer, *outer_step) = (*outer * n, step),
            _ => {
                shape.push(n);
                strides.push(step);
            }
        }
    }
    View { shape, strides, offset: side.offset, open: Vec::new() }
}

/// Bytes of a word.
const WORD: u64 = 4;

/// The result seen through a view, bytes as words where whole words are all that the view has: a vector has four times as many then.
fn in_words(cx: &mut LowerCx, mut view: View) -> Arg {
    let out = cx.output(0);
    let whole = |n: i64| n.rem_euclid(WORD as i64) == 0;
    let fits = match (view.shape.split_last(), view.strides.split_last()) {
        (Some((n, _)), Some((1, others))) => {
            n.is_multiple_of(WORD) && whole(view.offset) && others.iter().all(|step| whole(*step))
        }
        _ => false,
    };
    if out.dtype.bits() != 8 || !fits {
        return Arg { view, ..out };
    }
    let last = view.shape.len() - 1;
    view.shape[last] /= WORD;
    view.strides[..last].iter_mut().for_each(|step| *step /= WORD as i64);
    view.offset /= WORD as i64;
    Arg { buf: cx.func.buf(DType::I32, BufKind::Same(out.buf)), dtype: DType::I32, view, constant: None }
}

/// An element whose bytes are all the same.
fn filled(dtype: DType, byte: u8) -> Expr {
    match (dtype, byte) {
        (DType::I8, _) => Expr::Const(dtype, i64::from(byte as i8) as u64),
        (DType::I32, _) => Expr::Const(dtype, i64::from(i32::from_le_bytes([byte; 4])) as u64),
        _ => Expr::Const(dtype, u64::from(byte)),
    }
}

/// The bytes of one part of a border of open extents.
fn clear_open(cx: &mut LowerCx, out: &Arg, (side, fill): (&Side, u8), at: &mut Vec<Expr>) {
    let d = at.len();
    let Some((lo, hi)) = side.get(d) else {
        let value = filled(out.dtype, fill);
        return cx.store(out, at, value);
    };
    let extent = out.view.extent(d);
    let mut edge = |e: &Edge| match e {
        Edge::Start(n) => Expr::Int(*n),
        Edge::End(n) => cx.count(&extent).add(Expr::Int(*n)),
    };
    let (lo, hi) = (edge(lo), edge(hi));
    let kind = if d + 1 == side.len() { LoopKind::Vector } else { LoopKind::Serial };
    cx.for_range(kind, lo, hi, 1, |cx, i| {
        at.push(i);
        clear_open(cx, out, (side, fill), at);
        at.pop();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_follow_each_other_are_one() {
        // A row of 6 pixels of 8 channels, channels last, in an image of 4 rows; then one column.
        let view = |shape: &[u64]| View { shape: shape.to_vec(), open: vec![], strides: vec![192, 1, 48, 8], offset: 8 };
        let row = joined(&view(&[1, 8, 1, 6]));
        assert_eq!((row.shape, row.strides, row.offset), (vec![48], vec![1], 8));
        let rows = joined(&view(&[1, 8, 4, 6]));
        assert_eq!((rows.shape, rows.strides), (vec![192], vec![1]));
        let column = joined(&view(&[1, 8, 4, 1]));
        assert_eq!((column.shape, column.strides), (vec![4, 8], vec![48, 1]));
    }
}
