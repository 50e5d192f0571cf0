//! ONNX `CenterCropPad`: the middle of a tensor, or the tensor in the middle of zeros.

use onnxc_ir::ValueId;
use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};

use super::Build;
use crate::at_run_time::{Guess, assume, or_declared};
use crate::common::axes::{axis, unknown};

/// ONNX `CenterCropPad`.
pub(crate) const CENTER_CROP_PAD: Import = Import { domain: "", name: "CenterCropPad", opsets: (18, NEWEST), build: import };

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let axes = cx.attrs().ints("axes").map(<[i64]>::to_vec);
    or_declared(cx, build, |b, to| {
        let axes = axes.unwrap_or_else(|| (0..to.len() as i64).collect());
        let wanted = axes.iter().map(|a| axis(*a, to.len()).map(|d| to[d])).collect::<OpResult<Vec<u64>>>()?;
        assume(b, build, to, vec![vec![Guess::new(1, wanted)]])
    })
}

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, rank) = (cx.input(0)?, cx.ty(0)?.rank());
    let wanted = cx.const_input(1).and_then(|t| t.to_i64s()).ok_or_else(|| unknown("the shape"))?;
    let all: Vec<i64> = (0..rank as i64).collect();
    let axes = cx.attrs().ints("axes").unwrap_or(&all).to_vec();
    if axes.len() != wanted.len() || wanted.iter().any(|n| !(0..=1 << 31).contains(n)) {
        return Err(OpError::new(format!("shape {wanted:?} does not give extents for axes {axes:?}")));
    }
    let mut b = Build(cx);
    let mut y = x;
    let (shape, mut pads) = (b.shape(x)?, vec![0i64; 2 * rank]);
    for (a, to) in axes.iter().zip(&wanted) {
        let d = axis(*a, rank)?;
        let from = shape[d] as i64;
        if *to < from {
            let start = (from - to) / 2;
            y = b.slice(y, d as i64, (start, start + to, 1))?;
        } else {
            let before = (to - from) / 2;
            (pads[d], pads[rank + d]) = (before, to - from - before);
        }
    }
    if pads.iter().any(|p| *p != 0) {
        let pads = b.ints(&pads);
        y = b.op("pad", &[y, pads])?;
    }
    Ok(vec![y])
}
