//! Max, min, sum, mean of any number of operands.

use onnxc_ir::DType;
use onnxc_ir::op::{Sample, Tolerance};
use onnxc_ir::scalar::BinOp;

use super::binary::{mean_program, pairs};
use super::{combine_dims, elementwise, eval, float_program, numeric_program, same};
use crate::common::sample::{data, f32s, plain};

fn samples(types: &[DType]) -> Vec<Sample> {
    let mut all = pairs(-3.0, &[]);
    all.push(plain(vec![f32s(&[7])]));
    all.push(plain(vec![f32s(&[2, 1, 5]), f32s(&[3, 1]), f32s(&[]), f32s(&[5])]));
    all.extend(types.iter().map(|t| plain(vec![data(*t, &[2, 9]), data(*t, &[9]), data(*t, &[1])])));
    all
}

macro_rules! fold {
    ($($id:ident $name:literal $onnx:literal $since:literal $program:ident $op:ident $dims:expr, $types:expr;)*) => {$(
        elementwise!($id, $name, [same!($onnx, $since, $name)],
            |_, t| $program(t, |p, a| a[1..].iter().fold(a[0], |s, x| p.bin(BinOp::$op, s, *x))),
            eval: |cx| eval(cx, |_, t| $program(t, |p, a| a[1..].iter().fold(a[0], |s, x| p.bin(BinOp::$op, s, *x)))),
            dims: $dims, Tolerance::EXACT, || samples($types));
    )*};
}

fold! {
    MAX "max" "Max" 6 numeric_program Max Some(|cx| if cx.inputs.len() == 2 { combine_dims(cx, |a, b| Some(a.max_of(b))) } else { None }),
        &[DType::F64, DType::F16, DType::I32, DType::I64, DType::U8];
    MIN "min" "Min" 6 numeric_program Min Some(|cx| if cx.inputs.len() == 2 { combine_dims(cx, |a, b| Some(a.min_of(b))) } else { None }),
        &[DType::F64, DType::F16, DType::I32, DType::I64, DType::U8];
    SUM "sum" "Sum" 6 float_program Add None, &[DType::F64, DType::F16];
}

elementwise!(MEAN, "mean", [same!("Mean", 6, "mean")], |_, t| mean_program(t),
    eval: |cx| eval(cx, |_, t| mean_program(t)), dims: None, Tolerance::POLY, || samples(&[DType::F64, DType::F16]));
