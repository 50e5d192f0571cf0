//! `matmul`: product of stacks of matrices, with numpy's broadcasting.
//!
//! Operands: a, b, then those of the epilogue. Beside an a of f32 b may be integers of type i8.

use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance, View};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType, ValueId};

use super::product::{Product, Stack};
use super::shapes as matrix;
use crate::common::elements::{f64s, from_f64s, from_scalars, scalars};
use crate::common::sample::add_relu;
use crate::common::{coded, epilogue, nest, sample, tile};
use crate::composed::contrib::{attention, distance, nbits};
use crate::composed::{attention::ATTENTION, einsum::EINSUM, flex_attention::FLEX_ATTENTION, fourier::DFT};
use onnxc_ir::scalar_eval::Scalar;

pub(crate) static MATMUL: OpDef = OpDef {
    name: "matmul",
    onnx: &[
        Import { domain: "", name: "MatMul", opsets: (1, NEWEST), build: |cx| cx.forward("matmul") },
        Import { domain: "com.microsoft", name: "FusedMatMul", opsets: (1, NEWEST), build: fused },
        Import { domain: "com.microsoft", name: "TransposeMatMul", opsets: (1, NEWEST), build: fused },
        ATTENTION,
        EINSUM,
        DFT,
        FLEX_ATTENTION,
        attention::ATTENTION,
        attention::QATTENTION,
        distance::CDIST,
        attention::MULTI_HEAD,
        nbits::MATMUL_NBITS,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

/// Operands before those of the epilogue.
pub(crate) const OWN: usize = 2;

/// `alpha * op(A) * op(B)`: transposes, product, scale. `transBatchA` rotates the first dimension behind the others but one.
fn fused(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let attrs = cx.attrs().clone();
    let operand = |cx: &mut dyn ImportCx, i: usize, side: &str| -> OpResult<ValueId> {
        let id = cx.input(i)?;
        let rank = cx.ty(i)?.rank();
        let flag = |name: &str| attrs.int(&format!("{name}{side}")).unwrap_or(0) != 0;
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        if flag("transBatch") && rank > 2 {
            perm = (1..rank as i64 - 1).chain([0, rank as i64 - 1]).collect();
        }
        if flag("trans") && rank > 1 {
            perm.swap(rank - 2, rank - 1);
        }
        if perm.is_sorted() {
            return Ok(id);
        }
        cx.node1("transpose", &[id], Attrs::default().with("perm", Attr::Ints(perm)))
    };
    let (a, b) = (operand(cx, 0, "A")?, operand(cx, 1, "B")?);
    let y = cx.node1("matmul", &[a, b], Attrs::default())?;
    let alpha = attrs.float("alpha").unwrap_or(1.0);
    if alpha == 1.0 {
        return Ok(vec![y]);
    }
    let dtype = cx.graph().ty(y).dtype;
    let alpha = cx.constant(from_f64s(dtype, &[], [f64::from(alpha)])?);
    Ok(vec![cx.node1("mul", &[y, alpha], Attrs::default())?])
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    crate::schedule::check(cx.attrs)?;
    coded::check(cx, OWN)?;
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if !(a.dtype.is_float() || a.dtype.is_int()) {
        return Err(OpError::new(format!("matrices of {} are not supported", a.dtype)));
    }
    Ok(vec![TensorType::new(epilogue::result_dtype(cx.attrs, a.dtype), matrix::infer_shape(a, b)?)])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (a, b) = (cx.input(0), cx.input(1));
    let shape = cx.out_shape(0);
    let n = shape.iter().product::<u64>() as usize;
    let raw = if a.dtype().is_float() {
        let (av, bv, mut y) = (f64s(a)?, f64s(b)?, vec![0f64; n]);
        matrix::products(a.shape(), b.shape(), |o, i, j| y[o] += av[i] * bv[j]);
        from_f64s(a.dtype(), &shape, y)?
    } else {
        let (av, bv, mut y) = (scalars(a)?, scalars(b)?, vec![0i128; n]);
        matrix::products(a.shape(), b.shape(), |o, i, j| y[o] = y[o].wrapping_add(av[i].int() * bv[j].int()));
        from_scalars(a.dtype(), &shape, y.into_iter().map(Scalar::Int))?
    };
    Ok(vec![epilogue::apply(cx, raw, OWN)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (mut a, mut b, mut y) = (cx.input(0), cx.input(1), cx.output(0));
    nest::broadcasts(cx, OWN, &y.view)?;
    // Vectors are matrices of one row (left) or column (right), which the result does not show.
    let mut hidden = Vec::new();
    if a.view.shape.len() == 1 {
        insert_one(&mut a, 0);
        hidden.push(y.view.shape.len() - usize::from(b.view.shape.len() > 1));
    }
    if b.view.shape.len() == 1 {
        insert_one(&mut b, 1);
        hidden.push(y.view.shape.len() + hidden.len());
    }
    hidden.iter().for_each(|at| insert_one(&mut y, *at));
    let shape = y.view.shape.clone();
    let rank = shape.len();
    let (m, n, k) = (y.view.extent(rank - 2), y.view.extent(rank - 1), a.view.extent(a.view.shape.len() - 1));
    let all = y.view.dims();
    for (i, arg) in [&a, &b].into_iter().enumerate() {
        let dims = arg.view.dims();
        let (outer, last) = dims.split_at(dims.len() - 2);
        nest::same_extents(i, outer, &all[rank - dims.len()..])?;
        nest::same_extent(i, &last[1 - i], &k.dim())?;
    }
    let with = |last: [u64; 2]| [&shape[..rank - 2], &last].concat();
    let (program, operands) = tile::epilogue(cx, OWN, a.dtype);
    let original = cx.output(0).view.shape;
    let operands = operands.into_iter().map(|o| {
        // Operands broadcast to the result as it is shown; its hidden dimensions of one are theirs too.
        let strides = tile::broadcast_strides(&o, &original);
        let view = View { shape: original.clone(), open: Vec::new(), strides, offset: o.view.offset };
        let mut o = Arg { view, ..o };
        hidden.iter().for_each(|at| insert_one(&mut o, *at));
        Stack::of(&o, &shape)
    });
    let product = Product {
        outer: y.view.extents()[..rank - 2].to_vec(),
        operands: operands.collect(),
        a: Stack::of(&a, &with([m.bound, k.bound])),
        b: Stack::of(&b, &with([k.bound, n.bound])),
        m,
        k,
        n,
        y: Stack::of(&y, &shape),
        bias: None,
        program,
    };
    product.emit(cx)
}

fn insert_one(arg: &mut Arg, at: usize) {
    arg.view.shape.insert(at, 1);
    arg.view.strides.insert(at, 0);
    if !arg.view.open.is_empty() {
        arg.view.open.insert(at, None);
    }
}

fn samples() -> Vec<Sample> {
    let data = |a: &[u64], b: &[u64]| sample::plain(vec![sample::f32s(a), sample::f32s(b)]);
    let weights = |a: &[u64], b: &[u64]| sample::plain(vec![sample::f32s(a), sample::const_f32s(b)]);
    let fused = |a: &[u64], b: &[u64], c: &[u64]| {
        let attrs = Attrs::default().with("epilogue", add_relu());
        sample::sample(attrs, vec![sample::f32s(a), sample::const_f32s(b), sample::f32s(c)])
    };
    let all = vec![
        data(&[3, 5], &[5, 7]),
        data(&[2, 3, 4, 6], &[2, 3, 6, 33]),
        data(&[2, 1, 5, 8], &[3, 8, 4]),
        data(&[9], &[9, 20]),
        data(&[4, 17], &[17]),
        data(&[6], &[6]),
        data(&[3, 2, 5], &[5, 1]),
        weights(&[1, 40], &[40, 130]),
        weights(&[29, 64], &[64, 48]),
        weights(&[2, 15, 31], &[31, 17]),
        weights(&[5, 1, 7], &[5, 7, 9]),
        fused(&[2, 13, 20], &[20, 40], &[2, 13, 40]),
        fused(&[2, 13, 90], &[90, 1], &[1]),
        fused(&[2, 13, 200], &[200, 3], &[3]),
        fused(&[2, 13, 20], &[20, 40], &[40]),
        fused(&[2, 13, 20], &[20, 40], &[13, 1]),
        sample::plain(vec![sample::data(DType::I32, &[3, 4]), sample::data(DType::I32, &[4, 5])]),
        sample::plain(vec![sample::data(DType::F64, &[3, 4]), sample::data(DType::F64, &[4, 5])]),
        sample::plain(vec![sample::data(DType::F16, &[2, 3, 4]), sample::data(DType::F16, &[4, 5])]),
        sample::plain(vec![sample::data(DType::U64, &[2, 3]), sample::data(DType::U64, &[3, 2])]),
        data(&[2, 0], &[0, 3]),
    ];
    // With lists from 21 on.
    let all = sample::and_sparse(all, &[7, 8, 9, 10, 11, 13], 1, (1, 0));
    let mut all = sample::and_coded(all, &[7, 8, 9, 10, 11, 12, 13, 21, 22, 23, 24, 25], 1);
    // Even and odd rows, a last panel with fewer columns, rows that are more than a chunk, a second half without the last block, panels that are fetched
    // ahead, and what halves are not made of.
    let first = all.len();
    all.extend([
        weights(&[40, 64], &[64, 192]),
        weights(&[1, 29, 64], &[64, 90]),
        weights(&[431, 16], &[16, 70]),
        weights(&[3, 2], &[2, 2]),
        weights(&[17, 300], &[300, 128]),
        fused(&[1, 33, 20], &[20, 40], &[1, 33, 40]),
        fused(&[26, 20], &[20, 76], &[76]),
        fused(&[26, 20], &[20, 76], &[26, 1]),
        weights(&[30, 21], &[21, 40]),
        weights(&[1, 40], &[40, 130]),
    ]);
    let last = all.len();
    sample::and_strassen(all, first..last)
}
