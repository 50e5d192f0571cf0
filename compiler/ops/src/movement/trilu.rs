//! `trilu`: the triangle of each matrix above (attribute `upper` 1, the default) or below diagonal `k` (operand 1, 0 without it), zeros elsewhere.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attrs, DType, Tensor, TensorType};

use super::index_values;
use crate::common::elements::{Picker, for_coords, offset, strides};
use crate::common::nest::{self, ExprExt, dense_last, number, origin, rows};
use crate::common::sample::{data, data_in, f32s, int, int_attrs, plain, sample};

/// `trilu`
pub(crate) static TRILU: OpDef = OpDef {
    name: "trilu",
    onnx: &[
        Import { domain: "", name: "Trilu", opsets: (14, NEWEST), build: |cx| cx.forward("trilu") },
        Import { domain: "com.microsoft", name: "Trilu", opsets: (1, NEWEST), build: |cx| cx.forward("trilu") },
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples: || {
        let lower = int_attrs(&[("upper", 0)]);
        vec![
            plain(vec![f32s(&[5, 19])]),
            plain(vec![f32s(&[2, 4, 6]), int(-2)]),
            sample(lower.clone(), vec![f32s(&[3, 5, 4]), int(1)]),
            sample(lower.clone(), vec![data(DType::I64, &[4, 4])]),
            sample(lower.clone(), vec![data(DType::I4, &[3, 5])]),
            sample(lower.clone(), vec![data(DType::Bool, &[3, 7]), int(i64::MAX)]),
            sample(lower, vec![data(DType::F16, &[7, 33]), data_in(DType::I64, &[1], -9.0, 9.0)]),
            plain(vec![f32s(&[3, 4]), int(i64::MIN)]),
        ]
    },
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    if x.rank() < 2 {
        return Err(OpError::new(format!("the input must have 2 dimensions or more, it is {x}")));
    }
    if let Some(k) = cx.opt(1)
        && (!k.dtype.is_int() || k.shape.iter().any(|d| d.as_const().is_some_and(|n| n != 1)))
    {
        return Err(OpError::new(format!("k must be one integer, it is {k}")));
    }
    Ok(vec![x.clone()])
}

fn is_upper(attrs: &Attrs) -> bool {
    attrs.int("upper").unwrap_or(1) != 0
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let k = cx.opt(1).map(index_values).transpose()?.map_or(0, |k| k[0]);
    let (upper, dense, r) = (is_upper(cx.attrs), strides(&shape), shape.len());
    let mut out = Picker::new(x.dtype());
    for_coords(&shape, |at| {
        let diagonal = at[r - 1] as i64 - at[r - 2] as i64;
        if if upper { diagonal >= k } else { diagonal <= k } {
            out.pick(x, offset(at, &dense));
        } else {
            out.zero();
        }
    });
    Ok(vec![out.finish(&shape)])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::movable(y.dtype)?;
    let shape = y.view.extents();
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let (upper, column) = (is_upper(cx.attrs), shape.len() - 1);
    let (height, width) = (cx.count(&shape[column - 1]), cx.count(&shape[column]));
    let k = cx.opt(1);
    let within = |e: Expr, low: Expr, high: Expr| Expr::bin(BinOp::Min, Expr::bin(BinOp::Max, e, low), high);
    let zero = number(y.dtype, 0.0);
    let dims = dense_last(0..column, &y.view);
    rows(cx, &shape, &dims, nest::most_elements(&shape), &mut origin(shape.len()), &mut |cx, at| {
        // The first column of the upper triangle, or the first behind the lower one. Diagonals further away than the matrix is large are as good
        // as the one just outside, and do not overflow.
        let diagonal = match &k {
            Some(k) => {
                let zeros = vec![Expr::Int(0); k.view.shape.len()];
                let least = height.clone().times(-1).add(Expr::Int(-1));
                within(cx.load(k, &zeros).cast_from(k.dtype, DType::I64), least, width.clone())
            }
            None => Expr::Int(0),
        };
        let first = at[column - 1].clone().add(diagonal).add(Expr::Int(i64::from(!upper)));
        let first = Expr::Var(cx.let_(within(first, Expr::Int(0), width.clone())));
        for (lo, hi, keep) in [(Expr::Int(0), first.clone(), !upper), (first, width.clone(), upper)] {
            cx.for_range(LoopKind::Vector, lo, hi, 1, |cx, j| {
                let mut at = at.clone();
                at[column] = j;
                let value = if keep { cx.load(&x, &at) } else { zero.clone() };
                cx.store(&y, &at, value);
            });
        }
    });
    Ok(())
}
