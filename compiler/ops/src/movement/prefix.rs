//! `prefix`: the first elements of a dimension, as many as a number says that is known only when the model runs.
//!
//! Operands: a tensor, and one i64. Attributes: `axis` (0); `count`, the symbol that the extent gets; `bound`, its largest value. No operator of ONNX:
//! the importer puts it behind operators whose result is as large as their data say ([`crate::at_run_time`]). The planner makes a view and a step of
//! it that takes the number down; when it is beyond the bound, the inference ends with `ONNXC_DATA`.

use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, SampleInput, Tolerance, View};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use crate::common::axes::axis;
use crate::common::elements::{Picker, for_coords, offset, strides};
use crate::common::sample::{f32s, int_attrs, sample};

/// `prefix`
pub(crate) static PREFIX: OpDef = OpDef {
    name: "prefix",
    onnx: &[],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::View(|attrs, from, to, _| {
        let axis = axis(attrs.int("axis").unwrap_or(0), from.shape.len()).ok()?;
        let mut view = View { shape: from.shape.clone(), ..from.clone() };
        view.shape[axis] = to[axis].bound;
        let open = (0..view.shape.len()).map(|d| if d == axis { to[d].open.clone() } else { from.open(d).cloned() });
        let open = open.collect();
        Some(view.with_open(open))
    }),
    tolerance: Tolerance::EXACT,
    samples: || {
        let of = |shape: &[u64], axis: i64, n: i64| {
            let attrs = int_attrs(&[("axis", axis), ("bound", shape[axis as usize] as i64)]);
            let attrs = attrs.with("count", Attr::Str("n".to_string()));
            sample(attrs, vec![f32s(shape), Some(SampleInput::Const(Tensor::scalar(n)))])
        };
        vec![of(&[5], 0, 3), of(&[4, 9], 1, 7), of(&[3, 5, 2], 1, 0), of(&[2, 6], 0, 2)]
    },
};

fn bound(attrs: &Attrs) -> OpResult<u64> {
    attrs.int("bound").and_then(|n| u64::try_from(n).ok()).ok_or_else(|| OpError::new("attribute bound is missing"))
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (mut ty, count) = (cx.input(0)?.clone(), cx.input(1)?);
    if count.dtype != DType::I64 || !count.shape.iter().all(Dim::is_one) {
        return Err(OpError::new(format!("the number of elements is {count}, it must be one i64")));
    }
    let (at, bound) = (axis(cx.attrs.int("axis").unwrap_or(0), ty.rank())?, bound(cx.attrs)?);
    let symbol = cx.attrs.str("count").ok_or_else(|| OpError::new("attribute count is missing"))?;
    if ty.shape[at].as_const().is_some_and(|n| n < bound) {
        return Err(OpError::new(format!("{ty} has less than {bound} elements along dimension {at}")));
    }
    ty.shape[at] = match cx.constant(1).and_then(number) {
        Some(n) => Dim::Const(within(n, bound)?),
        None => Dim::sym(symbol),
    };
    Ok(vec![ty])
}

fn number(count: &Tensor) -> Option<i64> {
    count.to_i64s()?.first().copied()
}

fn within(n: i64, bound: u64) -> OpResult<u64> {
    let n = u64::try_from(n).ok().filter(|n| *n <= bound);
    n.ok_or_else(|| OpError::new(format!("the data ask for more elements than the bound {bound}")).help("state a larger --bound"))
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let steps = strides(x.shape());
    let mut first = Picker::new(x.dtype());
    for_coords(&shape, |at| first.pick(x, offset(at, &steps)));
    Ok(vec![first.finish(&shape)])
}
