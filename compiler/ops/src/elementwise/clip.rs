//! `clip`: `min(max(x, low), high)`. Always three operands here: importers fill in absent bounds with the ends of the type.

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult, SampleInput, Tolerance};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attrs, DType, Tensor, ValueId};

use super::{elementwise, eval, numeric_program};
use crate::common::elements::{from_scalars, not_numeric};
use crate::common::sample::{SHAPES, data, data_in, plain};

fn program(_: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    if t.len() != 3 {
        return Err(OpError::new("clip takes three operands"));
    }
    numeric_program(t, |p, a| {
        let low = p.bin(BinOp::Max, a[0], a[1]);
        p.bin(BinOp::Min, low, a[2])
    })
}

fn bound(cx: &mut dyn ImportCx, i: usize, name: &str, high: bool) -> OpResult<ValueId> {
    let dtype = cx.ty(0)?.dtype;
    if cx.opset() >= 11
        && let Some(id) = cx.opt_input(i)
    {
        let ty = cx.graph().ty(id).clone();
        if ty.dtype != dtype {
            return Err(OpError::new(format!("{name} is of type {}, the input of type {dtype}", ty.dtype)));
        }
        // The standard wants a scalar; vectors of one element occur in exported models.
        return match ty.rank() {
            0 => Ok(id),
            _ if ty.shape.iter().all(|d| d.is_one()) => {
                let shape = crate::common::import::ints(cx, &[]);
                cx.node1("reshape", &[id, shape], Attrs::default())
            }
            _ => Err(OpError::new(format!("{name} is no scalar but {ty}"))),
        };
    }
    let given = if cx.opset() < 11 { cx.attrs().float(name) } else { None };
    let value = match (given, dtype.int_range()) {
        (Some(x), _) => Scalar::Float(f64::from(x)),
        (None, Some((low_end, high_end))) => Scalar::Int(if high { high_end } else { low_end }),
        (None, None) => Scalar::Float(if high { f64::INFINITY } else { f64::NEG_INFINITY }),
    };
    Ok(cx.constant(from_scalars(dtype, &[], [value])?))
}

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let x = cx.input(0)?;
    let dtype = cx.graph().ty(x).dtype;
    if !dtype.is_float() && !dtype.is_int() {
        return Err(not_numeric(dtype));
    }
    let (low, high) = (bound(cx, 1, "min", false)?, bound(cx, 2, "max", true)?);
    cx.node("clip", &[Some(x), Some(low), Some(high)], Attrs::default())
}

fn scalar(x: f32) -> Option<SampleInput> {
    Some(SampleInput::Const(Tensor::scalar(x)))
}

elementwise!(CLIP, "clip", [Import { domain: "", name: "Clip", opsets: (6, NEWEST), build: import }], program,
eval: |cx| eval(cx, program), dims: None, Tolerance::EXACT,
|| {
    let mut all: Vec<_> = SHAPES.iter().map(|s| plain(vec![data(DType::F32, s), scalar(0.0), scalar(1.5)])).collect();
    for t in [DType::F16, DType::F64, DType::I8, DType::I64, DType::U8] {
        all.push(plain(vec![data(t, &[2, 9]), data_in(t, &[], 1.0, 1.0), data_in(t, &[], 3.0, 3.0)]));
    }
    all
});
