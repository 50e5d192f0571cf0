//! `constant_of_shape`, `eye_like`.

use onnxc_ir::lir::{Expr, LoopKind};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType};

use crate::at_run_time::{self, or_counted};
use crate::common::axes::unknown;
use crate::common::elements::{Picker, from_scalars};
use crate::common::nest::{fill, int, number, part};
use crate::common::sample::{f32s, int_attrs, ints, plain, sample};
use crate::composed::signal_tables;

/// `constant_of_shape`: one value everywhere. Attribute `value` has one element, f32 zero by default.
pub(crate) static CONSTANT_OF_SHAPE: OpDef = OpDef {
    name: "constant_of_shape",
    onnx: &[
        Import {
            domain: "",
            name: "ConstantOfShape",
            opsets: (9, NEWEST),
            build: |cx| or_counted(cx, |cx| cx.forward("constant_of_shape"), at_run_time::constant_of_shape),
        },
        signal_tables::HANN,
        signal_tables::HAMMING,
        signal_tables::BLACKMAN,
        signal_tables::MEL_WEIGHTS,
    ],
    infer: |cx| {
        let shape = cx.as_dims(0).ok_or_else(|| match cx.constant(0) {
            Some(t) => match t.to_i64s() {
                Some(v) => OpError::new(format!("the shape {v:?} has a negative extent")),
                None => OpError::new(format!("the shape is {}, expected a vector of integers", t.dtype())),
            },
            None => unknown("the shape"),
        })?;
        Ok(vec![TensorType::new(fill_value(cx.attrs)?.dtype(), shape)])
    },
    infer_dims: None,
    eval: |cx| {
        let value = fill_value(cx.attrs)?;
        let shape = cx.out_shape(0);
        let mut out = Picker::new(value.dtype());
        (0..shape.iter().product::<u64>()).for_each(|_| out.pick(&value, 0));
        Ok(vec![out.finish(&shape)])
    },
    lower: Lower::OpenNest(|cx| {
        let (out, value) = (cx.output(0), fill_value(cx.attrs)?);
        let first = crate::common::elements::scalars(&value)?[0];
        let e = match first {
            Scalar::Float(x) => number(out.dtype, x),
            Scalar::Int(i) => int(out.dtype, i as i64),
        };
        fill(cx, &out, &e);
        Ok(())
    }),
    tolerance: Tolerance::EXACT,
    samples: || {
        let seven = Attrs::default().with("value", Attr::Tensor(Tensor::from_vec(&[1], vec![7i64])));
        vec![plain(vec![ints(&[2, 3])]), sample(seven.clone(), vec![ints(&[4])]), sample(seven, vec![ints(&[])])]
    },
};

fn fill_value(attrs: &Attrs) -> OpResult<Tensor> {
    match attrs.get("value") {
        None => Ok(Tensor::from_vec(&[1], vec![0f32])),
        Some(Attr::Tensor(t)) if t.len() == 1 => Ok(t.clone()),
        Some(_) => Err(OpError::new("attribute value must be a tensor of one element")),
    }
}

/// `eye_like`: ones on diagonal `k`, in the shape of the operand.
pub(crate) static EYE_LIKE: OpDef = OpDef {
    name: "eye_like",
    onnx: &[Import { domain: "", name: "EyeLike", opsets: (9, NEWEST), build: |cx| cx.forward("eye_like") }],
    infer: eye_type,
    infer_dims: None,
    eval: |cx| {
        let shape = cx.out_shape(0);
        let k = cx.attrs.int("k").unwrap_or(0);
        let value = |i: u64| Scalar::bool((i % shape[1]) as i64 - (i / shape[1]) as i64 == k);
        Ok(vec![from_scalars(cx.outputs[0].dtype, &shape, (0..shape[0] * shape[1]).map(value))?])
    },
    lower: Lower::OpenNest(|cx| {
        let out = cx.output(0);
        fill(cx, &out, &number(out.dtype, 0.0));
        let k = cx.attrs.int("k").unwrap_or(0);
        if !out.view.is_fixed() {
            ones_along(cx, &out, k);
            return Ok(());
        }
        let (rows, columns) = (out.view.shape[0] as i64, out.view.shape[1] as i64);
        let (row, column) = ((-k).max(0), k.max(0));
        let n = (rows - row).min(columns - column);
        if n > 0 {
            // The diagonal is a vector whose stride is the sum of both.
            let mut diagonal = part(&out, &[row, column], &[1, 1]);
            diagonal.view.strides = vec![out.view.strides[0] + out.view.strides[1]];
            diagonal.view.shape = vec![n as u64];
            fill(cx, &diagonal, &number(out.dtype, 1.0));
        }
        Ok(())
    }),
    tolerance: Tolerance::EXACT,
    samples: || {
        vec![
            plain(vec![f32s(&[3, 4])]),
            sample(int_attrs(&[("k", 1)]), vec![f32s(&[4, 4])]),
            sample(int_attrs(&[("k", -2)]), vec![f32s(&[5, 3])]),
        ]
    },
};

/// Ones on diagonal `k` of extents that come with the call.
fn ones_along(cx: &mut LowerCx, out: &Arg, k: i64) {
    let (row, column) = ((-k).max(0), k.max(0));
    let [height, width] = [(0, row), (1, column)].map(|(d, first)| cx.count(&out.view.extent(d)).add(Expr::Int(-first)));
    cx.for_range(LoopKind::Serial, Expr::Int(0), Expr::bin(BinOp::Min, height, width), 1, |cx, i| {
        let at = [row, column].map(|first| i.clone().add(Expr::Int(first)));
        cx.store(out, &at, number(out.dtype, 1.0));
    });
}

fn eye_type(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let dtype = match cx.attrs.get("dtype") {
        Some(Attr::Int(code)) => i32::try_from(*code)
            .ok()
            .and_then(DType::from_onnx)
            .ok_or_else(|| OpError::new(format!("there is no element type {code}")))?,
        Some(Attr::Type(t)) => *t,
        _ => x.dtype,
    };
    if x.rank() != 2 {
        return Err(OpError::new(format!("the input must have 2 dimensions, not {}", x.rank())));
    }
    Ok(vec![TensorType::new(dtype, x.shape.clone())])
}
