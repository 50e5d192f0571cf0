//! From the operators' operands to integer products.

use onnxc_ir::DType;
use onnxc_ir::lir::{Expr, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{OpResult, View};
use onnxc_ir::scalar::{BinOp, ScalarOp, ScalarProgram};

use super::integer::{Integer, multipliers};
use super::weights::Weights;
use super::{behind, direct, requantization};
use crate::common::convolution::{groups, window};
use crate::common::nest::{self, ExprExt};
use crate::common::tile;
use crate::matmul::shapes::stacked;

/// Zero points as one value per filter, if they are known.
fn known_zeros(zero: Option<&Arg>, m: usize) -> Option<Vec<i32>> {
    let Some(zero) = zero else { return Some(vec![0; m]) };
    let values = zero.constant.as_ref()?.to_i64s()?;
    (values.len() == 1 || values.len() == m).then(|| (0..m).map(|f| values[f % values.len()] as i32).collect())
}

/// The same if tiles can multiply by these weights: words have none of their own.
fn tile_zeros(w: &Arg, zero: Option<&Arg>, m: usize) -> Option<Vec<i32>> {
    known_zeros(zero, m).filter(|zeros| w.dtype != DType::I16 || zeros.iter().all(|z| *z == 0))
}

fn ints(t: &onnxc_ir::Tensor) -> Vec<i32> {
    t.to_i64s().unwrap_or_default().into_iter().map(|v| v as i32).collect()
}

/// Lowering of `conv_integer`.
pub(super) fn conv_integer(cx: &mut LowerCx) -> OpResult<()> {
    nest::broadcasts(cx, super::conv_integer::OWN, &cx.output(0).view)?;
    let (program, operands) = tile::epilogue(cx, super::conv_integer::OWN, DType::I32);
    conv(cx, (0, 2), (1, 3), None, program, operands)
}

/// Lowering of `qlinear_conv`.
pub(super) fn qlinear_conv(cx: &mut LowerCx) -> OpResult<()> {
    let y = cx.output(0);
    nest::broadcasts(cx, super::qlinear_conv::OWN, &y.view)?;
    let m = y.view.shape[1];
    let factor = multipliers(cx, (&cx.input(1), &cx.input(4), &cx.input(6)), m, 1, y.view.shape.len());
    let (program, operands) = finish(cx, super::qlinear_conv::OWN, factor, y.view.shape.len());
    let bias = cx.opt(8);
    conv(cx, (0, 2), (3, 5), bias, program, operands)
}

/// What makes the result of a sum: requantisation by `factor`, then the epilogue of a node with `own` operands of its own.
fn finish(cx: &mut LowerCx, own: usize, factor: Arg, rank: usize) -> (ScalarProgram, Vec<Arg>) {
    let raw = cx.input(7).dtype;
    let (program, mut operands) = requantize(cx, raw, rank);
    operands.insert(0, factor);
    let (epilogue, more) = tile::epilogue(cx, own, raw);
    let program = behind(&program, program.result(), &epilogue, operands.len() as u8);
    operands.extend(more);
    (program, operands)
}

/// The program that requantises to operand 7's zero point, and the operand that it reads it from when it is not constant.
fn requantize(cx: &mut LowerCx, dtype: DType, rank: usize) -> (ScalarProgram, Vec<Arg>) {
    let zero = cx.input(7);
    if let Some(z) = zero.constant.as_ref().and_then(onnxc_ir::Tensor::to_i64s) {
        return (requantization(dtype, Some(z[0])), Vec::new());
    }
    let buf = cx.scratch(DType::I32, 1, false);
    let value = cx.load(&zero, &vec![Expr::Int(0); zero.view.shape.len()]).cast_from(zero.dtype, DType::I32);
    cx.push(Stmt::Store(buf, Expr::Int(0), value));
    let view = View { shape: vec![1; rank], open: Vec::new(), strides: vec![0; rank], offset: 0 };
    (requantization(dtype, None), vec![Arg { buf, dtype: DType::I32, view, constant: None }])
}

/// First values of sums, the program over them, and its operands.
type Begun = (Option<Vec<i32>>, ScalarProgram, Vec<Arg>);

/// What a program adds to its sums before everything else, if that is a constant for each output of dimension `axis` of `shape`; the program and operands without.
fn start(program: &ScalarProgram, operands: &[Arg], (shape, axis): (&[u64], usize)) -> Option<Begun> {
    let op = |n: u16| program.nodes[n as usize].op;
    let mut users = program.nodes.iter().filter(|n| n.op.operands().any(|o| op(o) == ScalarOp::Arg(0)));
    let (ScalarOp::Bin(BinOp::Add, a, b), None) = (users.next()?.op, users.next()) else { return None };
    let ((ScalarOp::Arg(k), ScalarOp::Arg(0)) | (ScalarOp::Arg(0), ScalarOp::Arg(k))) = (op(a), op(b)) else { return None };
    let operand = operands.get(usize::from(k).checked_sub(1)?)?;
    let values = ints(operand.constant.as_ref().filter(|_| operand.dtype == DType::I32)?);
    let strides = tile::broadcast_strides(operand, shape);
    if strides.iter().enumerate().any(|(d, step)| d != axis && *step != 0 && shape[d] > 1) {
        return None;
    }
    let first = (0..shape[axis] as usize).map(|f| values.get(f * strides[axis] as usize).copied()).collect::<Option<_>>()?;
    let mut out = ScalarProgram::default();
    let mut map: Vec<u16> = Vec::new();
    for node in &program.nodes {
        map.push(match node.op {
            ScalarOp::Arg(n) if n > k => out.arg(n - 1, node.dtype),
            ScalarOp::Bin(BinOp::Add, x, y) if (x, y) == (a, b) => out.arg(0, DType::I32),
            op => out.push(op.map_operands(|o| map[o as usize]), node.dtype),
        });
    }
    let program = out.finish(*map.last()?);
    let mut operands = operands.to_vec();
    operands.remove(usize::from(k) - 1);
    Some((Some(first), program, operands))
}

/// A convolution of operand `x.0` with zero point `x.1` by `w.0` with zero points `w.1`.
fn conv(
    cx: &mut LowerCx,
    x: (usize, usize),
    w: (usize, usize),
    bias: Option<Arg>,
    program: ScalarProgram,
    operands: Vec<Arg>,
) -> OpResult<()> {
    nest::fixed(cx, x.0, [1])?;
    nest::fixed(cx, w.0, 0..cx.input(w.0).view.shape.len())?;
    nest::fixed(cx, w.1, [0])?;
    let (x, x_zero, weights, w_zero, y) = (cx.input(x.0), cx.opt(x.1), cx.input(w.0), cx.opt(w.1), cx.output(0));
    let win = window(cx.attrs, &x.view.shape, &weights.view.shape)?;
    if cx.attrs.str("auto_pad").is_some_and(|a| a.starts_with("SAME")) {
        // The padding depends on the size.
        nest::fixed(cx, 0, (0..win.strides.len()).filter(|d| win.strides[*d] > 1).map(|d| d + 2))?;
    }
    let group = groups(cx.attrs)?;
    let m = y.view.shape[1] as usize;
    let shortened = || if bias.is_none() { start(&program, &operands, (&y.view.shape, 1)) } else { None };
    let begun = if weights.constant.is_some() { shortened() } else { None };
    let known_bias = bias.as_ref().map(|b| b.constant.as_ref().map(ints));
    let (Some(tensor), Some(w_zeros), None | Some(Some(_))) =
        (&weights.constant, tile_zeros(&weights, w_zero.as_ref(), m), &known_bias)
    else {
        return direct::conv(cx, &direct::Conv { x, x_zero, w: weights, w_zero, bias, win, group, y, program, operands });
    };
    let as_i64 = |list: &[u64]| list.iter().map(|v| *v as i64).collect();
    let (first, program, operands) = begun.unwrap_or((known_bias.flatten(), program, operands));
    let layer = Integer {
        x,
        x_zero,
        weights: Weights::of_filters(tensor, m),
        w_zeros,
        kernel: win.kernel.clone(),
        strides: as_i64(&win.strides),
        dilations: as_i64(&win.dilations),
        pads: (win.begin.clone(), win.end.clone()),
        group,
        bias: first,
        y,
        program,
        operands,
        begin: 0,
    };
    layer.emit(cx)
}

/// Lowering of `matmul_integer`.
pub(super) fn matmul_integer(cx: &mut LowerCx) -> OpResult<()> {
    nest::broadcasts(cx, super::matmul_integer::OWN, &cx.output(0).view)?;
    let (program, operands) = tile::epilogue(cx, super::matmul_integer::OWN, DType::I32);
    matmul(cx, (0, 2), (1, 3), program, operands)
}

/// Lowering of `qlinear_matmul`.
pub(super) fn qlinear_matmul(cx: &mut LowerCx) -> OpResult<()> {
    let y = cx.output(0);
    nest::broadcasts(cx, super::qlinear_matmul::OWN, &y.view)?;
    let (sa, sb, sy) = (cx.input(1), cx.input(4), cx.input(6));
    let one = |a: &Arg| a.view.shape.iter().product::<u64>() == 1;
    let rank = y.view.shape.len();
    let vector = |a: &Arg| one(a) || a.view.shape.len() == 1;
    if one(&sa) && vector(&sb) && rank > 0 && cx.input(3).view.shape.len() > 1 {
        let factor = multipliers(cx, (&sa, &sb, &sy), y.view.shape[rank - 1], rank - 1, rank);
        let (program, operands) = finish(cx, super::qlinear_matmul::OWN, factor, rank);
        return matmul(cx, (0, 2), (3, 5), program, operands);
    }
    direct::qlinear_matmul(cx)
}

/// A product of stacks of matrices; with one constant matrix on the right it is a convolution by windows of one element over the rows.
fn matmul(cx: &mut LowerCx, a: (usize, usize), b: (usize, usize), program: ScalarProgram, operands: Vec<Arg>) -> OpResult<()> {
    let (x, x_zero, w, w_zero, y) = (cx.input(a.0), cx.opt(a.1), cx.input(b.0), cx.opt(b.1), cx.output(0));
    direct::check(cx, a, b)?;
    let n = w.view.shape.last().copied().unwrap_or(1);
    let one_zero = x_zero.as_ref().is_none_or(|z| z.view.shape.iter().product::<u64>() == 1);
    let zeros = tile_zeros(&w, w_zero.as_ref(), n as usize);
    let (Some(tensor), Some(w_zeros), true, true) =
        (&w.constant, zeros, one_zero, w.view.shape.len() == 2 && x.view.shape.len() > 1)
    else {
        let operands_of = direct::Matmul { a: x, a_zero: x_zero, b: w, b_zero: w_zero, y, program, operands };
        return direct::matmul(cx, &operands_of);
    };
    // The last dimension (k, or columns) becomes the channels, all others are space.
    let turned = |arg: &Arg| {
        let (mut extents, mut strides) = (arg.view.extents(), arg.view.strides.clone());
        let (extent, stride) = (extents.pop().unwrap_or(1.into()), strides.pop().unwrap_or(0));
        extents.splice(0..0, [1.into(), extent]);
        strides.splice(0..0, [0, stride]);
        Arg { view: nest::view(&extents, strides, arg.view.offset), constant: None, ..arg.clone() }
    };
    let space = x.view.shape.len() - 1;
    let begun = start(&program, &operands, (&y.view.shape, space));
    let (bias, program, operands) = begun.unwrap_or((None, program, operands));
    let spread = |o: &Arg| {
        let strides = tile::broadcast_strides(o, &y.view.shape);
        turned(&Arg { view: View { shape: y.view.shape.clone(), open: Vec::new(), strides, offset: o.view.offset }, ..o.clone() })
    };
    let layer = Integer {
        x: turned(&x),
        x_zero,
        weights: Weights::of_columns(tensor, n as usize),
        w_zeros,
        kernel: vec![1; space],
        strides: vec![1; space],
        dilations: vec![1; space],
        pads: (vec![0; space], vec![0; space]),
        group: 1,
        bias,
        program,
        operands: operands.iter().map(spread).collect(),
        y: turned(&y),
        begin: 0,
    };
    layer.emit(cx)
}

/// Largest extents of the operands as stacks, for `direct`.
pub(super) fn stacks(a: &Arg, b: &Arg) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    stacked(&a.view.shape, &b.view.shape)
}

/// The element of a scale or zero point.
pub(super) fn element(arg: &Arg, index: Expr, to: DType) -> Expr {
    nest::at(arg.buf, index).cast_from(arg.dtype, to)
}
