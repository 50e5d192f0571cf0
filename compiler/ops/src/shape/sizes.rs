//! `sizes`: integers that are computed from the extents of the graph's inputs alone. No operator of ONNX: a pass puts it in the place of the nodes that
//! take shapes apart and put them together.
//!
//! Attributes: `dims`, the values as dimensions; `to`, i64 or i32; with `scalar` = 1 the result has no dimension.

use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use crate::common::nest::ExprExt;
use crate::common::sample::sample;

/// `sizes`
pub(crate) static SIZES: OpDef = OpDef {
    name: "sizes",
    onnx: &[],
    infer,
    infer_dims: Some(|cx| dims(cx.attrs).ok().map(<[Dim]>::to_vec)),
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

fn dims(attrs: &Attrs) -> OpResult<&[Dim]> {
    attrs.dims("dims").ok_or_else(|| OpError::new("attribute dims is missing"))
}

fn dtype(attrs: &Attrs) -> OpResult<DType> {
    match attrs.dtype("to") {
        Some(t @ (DType::I64 | DType::I32)) => Ok(t),
        _ => Err(OpError::new("sizes are of type i64 or i32")),
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let n = dims(cx.attrs)?.len() as u64;
    match (cx.attrs.int("scalar").unwrap_or(0) != 0, n) {
        (true, 1) => Ok(vec![TensorType::fixed(dtype(cx.attrs)?, &[])]),
        (true, n) => Err(OpError::new(format!("a scalar of {n} sizes"))),
        (false, n) => Ok(vec![TensorType::fixed(dtype(cx.attrs)?, &[n])]),
    }
}

/// The interpreter has put numbers in the place of symbols.
fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let open = |d: &Dim| OpError::new(format!("the size {d} is not known"));
    let values = dims(cx.attrs)?.iter().map(|d| d.as_const().map(|n| n as i64).ok_or_else(|| open(d)));
    let values: Vec<i64> = values.collect::<OpResult<_>>()?;
    let shape = cx.out_shape(0);
    Ok(vec![match dtype(cx.attrs)? {
        DType::I64 => Tensor::from_vec(&shape, values),
        _ => Tensor::from_vec(&shape, values.into_iter().map(|n| n as i32).collect::<Vec<i32>>()),
    }])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (out, attrs) = (cx.output(0), cx.attrs);
    for (i, dim) in dims(attrs)?.iter().enumerate() {
        let value = cx.size(dim).cast_from(DType::I64, out.dtype);
        let at = [onnxc_ir::lir::Expr::Int(i as i64)];
        cx.store(&out, &at[..out.view.shape.len()], value);
    }
    Ok(())
}

fn samples() -> Vec<Sample> {
    let of = |dims: &[u64], to: DType| {
        let list = dims.iter().copied().map(Dim::Const).collect();
        Attrs::default().with("dims", Attr::Dims(list)).with("to", Attr::Type(to))
    };
    vec![
        sample(of(&[2, 3, 5], DType::I64), vec![]),
        sample(of(&[7], DType::I32), vec![]),
        sample(of(&[9], DType::I64).with("scalar", Attr::Int(1)), vec![]),
    ]
}
