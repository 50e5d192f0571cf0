//! ONNX `MaxUnpool`: values at the places that `MaxPool` took them from, zeros elsewhere.

use onnxc_ir::ValueId;
use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};

use super::Build;
use crate::at_run_time::{Guess, assume, or_declared};
use crate::common::axes::unknown;
use crate::common::float;
use crate::common::sample::int_attrs;
use crate::common::window::{explicit_pads, kernel_shape, positive};

/// ONNX `MaxUnpool`.
pub(crate) const MAX_UNPOOL: Import = Import { domain: "", name: "MaxUnpool", opsets: (9, NEWEST), build: import };

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    or_declared(cx, build, |b, to| assume(b, build, to, vec![vec![Guess::new(2, to.iter().copied())]]))
}

/// Elements up to which results are allowed: what the attributes ask for may be any number.
const LARGEST: u64 = 1 << 40;

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, places) = (cx.input(0)?, cx.input(1)?);
    let wanted = match cx.opt_input(2) {
        Some(_) => Some(cx.const_input(2).and_then(|t| t.to_i64s()).ok_or_else(|| unknown("output_shape"))?),
        None => None,
    };
    let attrs = cx.attrs().clone();
    let mut b = Build(cx);
    let (dtype, shape) = (b.dtype(x), b.shape(x)?);
    float::check(dtype, "unpooling")?;
    let kernel = kernel_shape(&attrs, None)?;
    let (strides, pads) = (positive(&attrs, "strides", kernel.len())?, explicit_pads(&attrs, kernel.len())?);
    if shape.len() != kernel.len() + 2 || b.shape(places)? != shape {
        return Err(OpError::new(format!("x is {} and its indices {}, kernel_shape {kernel:?}", b.ty(x), b.ty(places))));
    }
    let mut whole = shape.clone();
    for (d, n) in kernel.iter().enumerate() {
        let last = (shape[d + 2] as i128 - 1) * i128::from(strides[d]);
        let extent = last + i128::from(*n) - i128::from(pads.0[d]) - i128::from(pads.1[d]);
        whole[d + 2] = u64::try_from(extent).unwrap_or(0);
    }
    let total = whole.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n <= LARGEST);
    let total = total.ok_or_else(|| OpError::new(format!("a result of {whole:?} is too large")))?;
    let count = shape.iter().product();
    let (values, places) = (b.reshape(x, &[count])?, b.reshape(places, &[count])?);
    let (zero, all) = (b.scalar(dtype, 0.0)?, b.ints(&[total as i64]));
    let empty = b.op("expand", &[zero, all])?;
    let flat = b.with("scatter_elements", &[empty, places, values], int_attrs(&[("axis", 0)]))?;
    let y = b.reshape(flat, &whole)?;
    Ok(vec![match wanted {
        Some(wanted) => grown(&mut b, y, &whole, &wanted)?,
        None => y,
    }])
}

/// Indices count in the extents that the attributes give; a larger `output_shape` adds zeros behind.
fn grown(b: &mut Build, y: ValueId, whole: &[u64], wanted: &[i64]) -> OpResult<ValueId> {
    let more: Vec<i64> = wanted.iter().zip(whole).map(|(w, n)| w.saturating_sub(*n as i64)).collect();
    if wanted.len() != whole.len() || more.iter().any(|n| !(0..1 << 30).contains(n)) {
        return Err(OpError::new(format!("output_shape {wanted:?} does not hold the {whole:?} elements that are unpooled")));
    }
    if more.iter().all(|n| *n == 0) {
        return Ok(y);
    }
    let pads: Vec<i64> = vec![0; more.len()].into_iter().chain(more).collect();
    let pads = b.ints(&pads);
    b.op("pad", &[y, pads])
}
