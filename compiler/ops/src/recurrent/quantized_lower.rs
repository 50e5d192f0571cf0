//! Code of `dynamic_quantize_lstm`: the loops of the float layers around integer tiles.
//!
//! Before each product the rows of A are scanned for their range and quantised into scratch memory. The tile's accumulators start at minus the zero point
//! of A times the column sums of B; its epilogue scales them and adds the bias. A zero point of B costs the sums of A's rows.

use onnxc_ir::DType;
use onnxc_ir::kernel::Values;
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{Extent, OpResult};
use onnxc_ir::scalar::{BinOp, ScalarProgram, UnOp};
use onnxc_ir::target::Factors;

use super::cell::{Cell, Kind};
use super::lower::{Layer, Rows, layers};
use super::quantized::Matrix;
use crate::common::nest::{ExprExt, f32_table, int, select};
use crate::common::rows::accumulate;
use crate::common::tile::{self, Operand, Outer, Product};

/// The matrices w and r.
pub(super) struct Matrices([Matrix; 2]);

pub(super) fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let matrices = Matrices(Matrix::both(|i| cx.opt(i).and_then(|arg| arg.constant))?);
    let cell = Cell::of(Kind::Lstm, cx.attrs, matrices.0[1].k as u64)?;
    layers(cx, &cell, Some(&matrices))
}

/// A dimension of A: its extent, its stride there, its stride among the quantised rows.
type Dimension = (Extent, i64, i64);

/// Quantised rows.
struct Quantized {
    buf: BufId,
    dtype: DType,
    scale: Var,
    zero: Var,
    /// Sums of the rows, where they are needed.
    sums: Option<BufId>,
}

impl Matrices {
    /// `c = a * matrix + bias` with the rows of `a` quantised together; `which` is 0 for w and 1 for r.
    pub(super) fn product(&self, layer: &Layer, cx: &mut LowerCx, a: &Rows, which: usize, c: (BufId, i64, i64)) {
        let matrix = &self.0[which];
        let columns = layer.d as usize * matrix.n..(layer.d as usize + 1) * matrix.n;
        let zeros = &matrix.zeros[columns.clone()];
        let values = &matrix.values[layer.d as usize * matrix.k * matrix.n..][..matrix.k * matrix.n];
        let padded = (matrix.k as u64).next_multiple_of(4);
        let q = quantize(cx, a, matrix.k as u64, zeros.iter().any(|z| *z != 0));
        // Starting values and factors of all columns; tiles may read them up to a panel's end.
        let sum_of = |j: usize| (0..matrix.k).map(|i| i32::from(values[i * matrix.n + j]) - zeros[j]).sum::<i32>();
        let sums: Vec<u8> = (0..matrix.n).flat_map(|j| sum_of(j).to_le_bytes()).collect();
        let sums = cx.const_buf(DType::I32, sums);
        let scales = f32_table(cx, &matrix.scales[columns]);
        let room = matrix.n as u64 + 64;
        let (start, factor) = (cx.scratch(DType::I32, room, false), cx.scratch(DType::F32, room, false));
        let (scale, zero) = (Expr::Var(q.scale), Expr::Var(q.zero));
        cx.for_(LoopKind::Vector, matrix.n as u64, |cx, j| {
            let shift = int(DType::I32, 0).minus(zero.mul(load(sums, &j)));
            cx.push(Stmt::Store(start, j.clone(), shift));
            cx.push(Stmt::Store(factor, j.clone(), scale.mul(load(scales, &j))));
        });
        let (mr, nr) = tile::choose(cx.target, Factors::Bytes, a.rows.bound, matrix.n as u64);
        let packed = cx.const_buf(
            DType::I8,
            tile::pack_bytes((matrix.k, 4), matrix.n, nr as usize, |row, column| values[row * matrix.n + column] as u8),
        );
        let (epilogue, operands) = epilogue(cx, layer, which, factor, q.sums.map(|s| (s, zeros)));
        let outer =
            a.outer.iter().map(|o| Outer { a: (a.rows.bound * padded) as i64, operands: vec![0; operands.len()], ..o.clone() });
        let mut outer: Vec<Outer> = outer.collect();
        if let (Some(o), Some(s)) = (outer.first_mut(), operands.iter().position(|o| !o.per_column)) {
            o.operands[s] = a.rows.bound as i64;
        }
        let product = Product {
            outer,
            rows: a.rows.clone(),
            cols: (matrix.n as u64).into(),
            a: (q.buf, q.dtype, 0),
            a_row: padded as i64,
            nest: vec![(padded, 1)],
            open_k: None,
            b: (packed, DType::I8, 0),
            short: 0,
            table: None,
            list: None,
            c: (c.0, DType::F32, c.1),
            c_row: c.2,
            bias: Some((start, 0)),
            epilogue,
            operands,
            nr,
            mr,
        };
        tile::emit(cx, &product);
    }
}

fn load(buf: BufId, at: &Expr) -> Expr {
    Expr::Load(buf, Box::new(at.clone()))
}

/// `(acc - zero of b * sum of a's row) * factor + bias`, as far as they are there.
fn epilogue(
    cx: &mut LowerCx,
    layer: &Layer,
    which: usize,
    factor: BufId,
    zeros: Option<(BufId, &[i32])>,
) -> (ScalarProgram, Vec<Operand>) {
    let mut operands = Vec::new();
    let mut operand = |buf: BufId, dtype: DType, row: i64| {
        operands.push(Operand { buf, dtype, start: 0, row, per_column: row == 0, values: Values::Any });
        operands.len() as u8
    };
    let mut p = ScalarProgram::default();
    let mut sum = p.arg(0, DType::I32);
    if let Some((sums, zeros)) = zeros {
        let zeros = cx.const_buf(DType::I32, zeros.iter().flat_map(|z| z.to_le_bytes()).collect());
        let row = p.arg(operand(sums, DType::I32, 1), DType::I32);
        let zero = p.arg(operand(zeros, DType::I32, 0), DType::I32);
        let part = p.bin(BinOp::Mul, row, zero);
        sum = p.bin(BinOp::Sub, sum, part);
    }
    let factor = p.arg(operand(factor, DType::F32, 0), DType::F32);
    let sum = p.cast(sum, DType::F32);
    let mut result = p.bin(BinOp::Mul, sum, factor);
    if let Some(bias) = cx.opt(3) {
        let bias = layer.row(cx, &bias, which as u64 * layer.width(), layer.width());
        let bias = p.arg(operand(bias, DType::F32, 0), DType::F32);
        result = p.bin(BinOp::Add, result, bias);
    }
    (p.finish(result), operands)
}

/// Quantises the rows of `a`, `k` elements each, into rows padded to four bytes.
fn quantize(cx: &mut LowerCx, a: &Rows, k: u64, with_sums: bool) -> Quantized {
    let padded = k.next_multiple_of(4);
    let outer: u64 = a.outer.iter().map(|o| o.n.bound).product();
    let dtype = if cx.target.i8_unsigned_a { DType::U8 } else { DType::I8 };
    let buf = cx.scratch(dtype, outer * a.rows.bound * padded, false);
    let mut dims = dims_of_rows(a, padded);
    dims.push((k.into(), a.k, 1));
    let (scale, zero) = range(cx, a, &merged(&dims, false));
    // The tile's bytes are signed on some targets: everything moves down by 128, the zero point too.
    let moved = if dtype == DType::I8 { 128 } else { 0 };
    let sums = with_sums.then(|| cx.scratch(DType::I32, outer * a.rows.bound, false));
    let dims = merged(&dims, true);
    let (inner, rows) = dims.split_last().expect("internal: rows have elements");
    let (rows, inner) =
        if with_sums || padded != k { (dims_of_rows(a, padded), (k.into(), a.k, 1)) } else { (rows.to_vec(), inner.clone()) };
    let (scale_, zero_) = (Expr::Var(scale), Expr::Var(zero));
    nest(cx, &rows, (Expr::Int(a.start), Expr::Int(0)), &mut |cx, from, to| {
        let sum = sums.map(|_| cx.let_(int(DType::I32, 0)));
        cx.for_in(LoopKind::Vector, &inner.0, |cx, i| {
            let v = load(a.buf, &from.clone().add(i.clone().times(inner.1)));
            let v = Expr::un(UnOp::Round, Expr::bin(BinOp::Div, v, scale_.clone())).add(zero_.clone());
            let v = Expr::bin(BinOp::Min, Expr::bin(BinOp::Max, v, Expr::f32(0.0)), Expr::f32(255.0));
            let v = v.cast_from(DType::F32, DType::I32).minus(int(DType::I32, moved));
            let v = Expr::Var(cx.let_(v));
            if let Some(sum) = sum {
                accumulate(cx, sum, BinOp::Add, v.clone());
            }
            cx.push(Stmt::Store(buf, to.clone().add(i), v.cast_from(DType::I32, dtype)));
        });
        for i in k..padded {
            cx.push(Stmt::Store(buf, to.clone().add(Expr::Int(i as i64)), int(dtype, 0)));
        }
        if let (Some(sums), Some(sum)) = (sums, sum) {
            let row = Expr::bin(BinOp::Div, to, Expr::Int(padded as i64));
            cx.push(Stmt::Store(sums, row, Expr::Var(sum)));
        }
    });
    let zero = cx.let_(zero_.cast_from(DType::F32, DType::I32).minus(int(DType::I32, moved)));
    Quantized { buf, dtype, scale, zero, sums }
}

/// The rows, not merged.
fn dims_of_rows(a: &Rows, padded: u64) -> Vec<Dimension> {
    let step = (a.rows.bound * padded) as i64;
    let mut dims: Vec<Dimension> = a.outer.iter().map(|o| (o.n.clone(), o.a, step)).collect();
    dims.push((a.rows.clone(), a.row, padded as i64));
    dims
}

/// Scale and zero point (in f32) of the elements of `a` together with 0.
fn range(cx: &mut LowerCx, a: &Rows, dims: &[Dimension]) -> (Var, Var) {
    let (low, high) = (cx.let_(Expr::f32(0.0)), cx.let_(Expr::f32(0.0)));
    let (inner, rows) = dims.split_last().expect("internal: rows have elements");
    nest(cx, rows, (Expr::Int(a.start), Expr::Int(0)), &mut |cx, from, _| {
        cx.for_in(LoopKind::Vector, &inner.0, |cx, i| {
            let v = Expr::Var(cx.let_(load(a.buf, &from.clone().add(i.times(inner.1)))));
            accumulate(cx, low, BinOp::Min, v.clone());
            accumulate(cx, high, BinOp::Max, v);
        });
    });
    let (low, high) = (Expr::Var(low), Expr::Var(high));
    let step = Expr::bin(BinOp::Div, high.clone().minus(low.clone()), Expr::f32(255.0));
    let none = Expr::bin(BinOp::Eq, low.clone(), high);
    let scale = cx.let_(select(none, Expr::f32(1.0), step));
    let zero = Expr::bin(BinOp::Div, Expr::f32(0.0).minus(low), Expr::Var(scale));
    let zero = Expr::bin(BinOp::Min, Expr::bin(BinOp::Max, zero, Expr::f32(0.0)), Expr::f32(255.0));
    let zero = cx.let_(Expr::un(UnOp::Round, zero));
    (scale, zero)
}

/// Neighbouring dimensions as one where A (and, if asked, the quantised rows) has no gap between them.
fn merged(dims: &[Dimension], both: bool) -> Vec<Dimension> {
    let mut out: Vec<Dimension> = Vec::new();
    for (n, from, to) in dims.iter().filter(|d| !d.0.is_one()) {
        let follows = |last: &Dimension| last.1 == from * n.bound as i64 && (!both || last.2 == to * n.bound as i64);
        match out.last_mut() {
            Some(last) if n.open.is_none() && follows(last) => *last = (last.0.times(n), *from, *to),
            _ => out.push((n.clone(), *from, *to)),
        }
    }
    if out.is_empty() { vec![(1.into(), 1, 1)] } else { out }
}

/// Serial loops over `dims`; the body gets the positions in A and among the quantised rows.
fn nest(cx: &mut LowerCx, dims: &[Dimension], at: (Expr, Expr), body: &mut dyn FnMut(&mut LowerCx, Expr, Expr)) {
    let Some(((n, from, to), rest)) = dims.split_first() else { return body(cx, at.0, at.1) };
    cx.for_in(LoopKind::Serial, n, |cx, i| {
        let next = (at.0.clone().add(i.clone().times(*from)), at.1.clone().add(i.times(*to)));
        nest(cx, rest, next, body);
    });
}
