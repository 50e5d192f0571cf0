//! `split`: consecutive parts along one dimension. Operands data and lengths (optional); without lengths `num_outputs` equal parts, the last one
//! smaller if need be.

use onnxc_ir::op::{Extent, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance, View};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::at_run_time::{self, or_declared};
use crate::common::axes::{axis, unknown};
use crate::common::import::ints_input;
use crate::common::sample::{data, f32s, int_attrs, ints};
use crate::common::views::eval_view;

/// `split`
pub(crate) static SPLIT: OpDef = OpDef {
    name: "split",
    onnx: &[Import { domain: "", name: "Split", opsets: (2, NEWEST), build: |cx| or_declared(cx, import, at_run_time::split) }],
    infer,
    infer_dims: None,
    eval: |cx| {
        let x = cx.input(0);
        let at = axis(cx.attrs.int("axis").unwrap_or(0), x.shape().len())?;
        let mut start = 0;
        let parts = (0..cx.outputs.len()).map(|i| {
            let length = cx.out_shape(i)[at];
            start += length;
            eval_view(x, &part(&View::contiguous(x.shape()), at, start - length, length))
        });
        Ok(parts.collect())
    },
    lower: Lower::View(view),
    tolerance: Tolerance::EXACT,
    samples: || {
        let of = |axis, n| int_attrs(&[("axis", axis), ("num_outputs", n)]);
        vec![
            Sample { attrs: of(1, 3), inputs: vec![f32s(&[2, 9])], n_outputs: 3 },
            Sample { attrs: of(-1, 3), inputs: vec![f32s(&[2, 8])], n_outputs: 3 },
            Sample { attrs: of(0, 2), inputs: vec![data(DType::I64, &[5, 2]), ints(&[4, 1])], n_outputs: 2 },
            Sample { attrs: of(0, 3), inputs: vec![data(DType::U2, &[9])], n_outputs: 3 },
        ]
    },
};

/// Parts up to which a tensor is split.
const MOST_PARTS: u64 = 1 << 12;

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, lengths) = (cx.input(0)?, ints_input(cx, 1, "split"));
    let n = cx.attrs().int("num_outputs").unwrap_or(cx.n_outputs() as i64);
    let attrs = Attrs::default().with("axis", Attr::Int(cx.attrs().int("axis").unwrap_or(0))).with("num_outputs", Attr::Int(n));
    let inputs = if lengths.is_some() { vec![Some(x), lengths] } else { vec![Some(x)] };
    cx.node("split", &inputs, attrs)
}

/// The number of parts of equal length.
fn parts(attrs: &Attrs, outputs: usize) -> OpResult<u64> {
    let n = attrs.int("num_outputs").unwrap_or(outputs as i64);
    let valid = u64::try_from(n).ok().filter(|n| (1..=MOST_PARTS).contains(n));
    valid.ok_or_else(|| OpError::new(format!("num_outputs is {n}, it must be between 1 and {MOST_PARTS}")))
}

/// Lengths of all parts of a dimension of `n`.
fn lengths(given: Option<&Tensor>, attrs: &Attrs, n: u64, outputs: usize) -> OpResult<Vec<u64>> {
    if let Some(list) = given {
        let list = list.to_i64s().ok_or_else(|| OpError::new("split must be integers"))?;
        let list: Vec<u64> = list
            .iter()
            .map(|n| u64::try_from(*n))
            .collect::<Result<_, _>>()
            .map_err(|_| OpError::new("a part has negative length"))?;
        return match list.iter().try_fold(0u64, |sum, n| sum.checked_add(*n)) {
            Some(sum) if sum == n => Ok(list),
            _ => Err(OpError::new(format!("the parts {list:?} do not sum up to the {n} elements of the dimension"))),
        };
    }
    let parts = parts(attrs, outputs)?;
    let chunk = n.div_ceil(parts);
    Ok((0..parts).map(|i| n.saturating_sub(i * chunk).min(chunk)).collect())
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let at = axis(cx.attrs.int("axis").unwrap_or(0), x.rank())?;
    if cx.opt(1).is_some() && cx.constant(1).is_none() {
        let dims = cx.as_dims(1).ok_or_else(|| unknown("split"))?;
        return Ok(dims.into_iter().map(|d| with(x, at, d)).collect());
    }
    let parts: Vec<Dim> = match (x.shape[at].as_const(), cx.constant(1)) {
        (Some(n), given) => lengths(given, cx.attrs, n, cx.n_outputs)?.into_iter().map(Dim::Const).collect(),
        (None, Some(given)) => {
            let list = given.to_i64s().ok_or_else(|| OpError::new("split must be integers"))?;
            list.iter().map(|n| Dim::Const((*n).max(0) as u64)).collect()
        }
        (None, None) => {
            let parts = parts(cx.attrs, cx.n_outputs)?;
            vec![x.shape[at].div_ceil(&Dim::Const(parts)); parts as usize]
        }
    };
    Ok(parts.into_iter().map(|d| with(x, at, d)).collect())
}

fn with(x: &TensorType, at: usize, dim: Dim) -> TensorType {
    let mut ty = x.clone();
    ty.shape[at] = dim;
    ty
}

fn part(view: &View, at: usize, start: u64, length: u64) -> View {
    let mut out = view.clone();
    out.offset += start as i64 * view.strides[at];
    out.shape[at] = length;
    out
}

/// The planner appends the number of the result to the constants when there are several.
fn view(attrs: &Attrs, view: &View, to: &[Extent], constants: &[Option<Tensor>]) -> Option<View> {
    let at = axis(attrs.int("axis").unwrap_or(0), view.shape.len()).ok()?;
    if view.open(at).is_some() || to[at].open.is_some() {
        return None;
    }
    let length = to[at].bound;
    let own = attrs.int("num_outputs").unwrap_or(1);
    let (given, result) = match constants {
        [_, given, Some(result)] => (given.as_ref(), result.to_i64s()?[0]),
        [_, Some(result)] if own > 1 => (None, result.to_i64s()?[0]),
        _ => (constants.get(1).and_then(Option::as_ref), 0),
    };
    let all = lengths(given, attrs, view.shape[at], own as usize).ok()?;
    let start = all.get(..usize::try_from(result).ok()?)?.iter().sum();
    Some(part(view, at, start, length))
}
