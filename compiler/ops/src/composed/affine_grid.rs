//! ONNX `AffineGrid`: for each point of a regular grid, where an affine map takes it.
//!
//! A sum of the matrix's columns, each times the positions along one dimension: broadcasting makes the grid, so that no table of it is kept.

use onnxc_ir::ValueId;
use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};

use super::Build;
use crate::at_run_time::{Guess, assume, or_declared};
use crate::common::axes::unknown;
use crate::common::elements::from_f64s;
use crate::common::float;

/// ONNX `AffineGrid`.
pub(crate) const AFFINE_GRID: Import = Import { domain: "", name: "AffineGrid", opsets: (20, NEWEST), build: import };

/// The number of channels of the image makes no difference to the grid.
fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    or_declared(cx, build, |b, to| {
        let extents = to.iter().take(to.len().saturating_sub(1)).map(|n| Some(*n as i64));
        let mut size: Vec<Option<i64>> = extents.collect();
        size.insert(size.len().min(1), None);
        assume(b, build, to, vec![vec![Guess { operand: 1, values: size, modulus: None }]])
    })
}

/// Positions of `n` elements between -1 and 1, which are the middles of the outermost ones or their outer edges.
fn positions(n: u64, corners: bool) -> Vec<f64> {
    let (first, step) = match (corners, n) {
        (true, 1) => (-1.0, 0.0),
        (true, _) => (-1.0, 2.0 / (n as f64 - 1.0)),
        (false, _) => (1.0 / n as f64 - 1.0, 2.0 / n as f64),
    };
    (0..n).map(|i| first + step * i as f64).collect()
}

fn build(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let theta = cx.input(0)?;
    let size = cx.const_input(1).and_then(|t| t.to_i64s()).ok_or_else(|| unknown("the size"))?;
    let corners = cx.attrs().int("align_corners").unwrap_or(0) != 0;
    let mut b = Build(cx);
    let dtype = b.dtype(theta);
    float::check(dtype, "an affine grid")?;
    let spatial = size.len().saturating_sub(2) as u64;
    let expected = [size.first().copied().unwrap_or(0).max(0) as u64, spatial, spatial + 1];
    let extents: Vec<u64> = size.iter().skip(2).filter_map(|n| u64::try_from(*n).ok()).collect();
    if !(2..=3).contains(&spatial) || extents.len() as u64 != spatial || b.shape(theta)? != expected {
        return Err(OpError::new(format!("a grid of size {size:?} needs a theta of {expected:?}, not {}", b.ty(theta)))
            .help("size is [N, C, H, W] or [N, C, D, H, W]"));
    }
    if extents.iter().any(|n| *n > 1 << 24) {
        return Err(OpError::new(format!("a grid of size {size:?} is too large")));
    }
    let spatial = spatial as usize;
    let column = |b: &mut Build, i: usize| -> OpResult<ValueId> {
        let one = b.slice(theta, 2, (i as i64, i as i64 + 1, 1))?;
        let mut shape = vec![1; spatial + 2];
        (shape[0], shape[spatial + 1]) = (expected[0], spatial as u64);
        b.reshape(one, &shape)
    };
    let mut sum = column(&mut b, spatial)?;
    // The last dimension of the image is the first of positions.
    for (d, n) in extents.iter().enumerate() {
        let mut shape = vec![1; spatial + 1];
        shape[d] = *n;
        let along = b.0.constant(from_f64s(dtype, &shape, positions(*n, corners))?);
        let column = column(&mut b, spatial - 1 - d)?;
        let product = b.op("mul", &[column, along])?;
        sum = b.op("add", &[product, sum])?;
    }
    Ok(vec![sum])
}
