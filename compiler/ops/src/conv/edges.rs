//! Depthwise convolutions of narrow images: what their windows reach over the edges is left out, so that x needs no zeros around it.
//!
//! Rows of such images have no border in their buffer (convolutions that write them go along several rows then), and a padded copy would take as long as
//! the convolution. Outputs of a row are few enough to be code of their own each; rows whose windows see the same rows of taps are a run.

use std::ops::Range;

use onnxc_ir::DType;
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::View;

use super::Geometry;

/// The most outputs of a row.
const WIDEST: u64 = 9;
/// The most taps: beyond that kernels have loops for them.
const MOST_TAPS: u64 = 81;

/// Rows of outputs that see the same rows of taps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// The outputs.
    pub rows: Range<u64>,
    /// Their rows of taps.
    pub taps: Range<u64>,
}

/// Can a depthwise convolution leave taps out, and does it need to?
pub(super) fn fit(cx: &LowerCx, g: &Geometry, x: &Arg, y: &View, kernel: &[u64]) -> bool {
    let ([kh, kw], true) = (kernel, x.dtype == DType::F32) else { return false };
    let padded = g.pads.iter().any(|p| *p > 0);
    let there = |d: usize| cx.halos[0].at(d + 2);
    let bordered = (0..2).all(|d| there(d).0 as i64 >= g.pads[d] && there(d).1 as i64 >= g.pads[d + 2]);
    // A single output is no row: the kernel goes along the height then.
    let narrow = (2..=WIDEST).contains(&y.shape[3]) && kh * kw <= MOST_TAPS && x.view.is_fixed() && y.is_fixed();
    let seen = |d: usize| (0..y.shape[d + 2]).all(|o| !inside(g, d, o, kernel[d], x.view.shape[d + 2]).is_empty());
    padded && !bordered && narrow && x.view.strides[1] == 1 && seen(0) && seen(1)
}

/// The taps of output `o` along dimension `d` of space that are inside.
pub(super) fn inside(g: &Geometry, d: usize, o: u64, taps: u64, extent: u64) -> Range<u64> {
    let at = |tap: u64| o as i64 * g.strides[d] - g.pads[d] + tap as i64 * g.dilations[d];
    let first = (0..taps).find(|t| at(*t) >= 0).unwrap_or(taps);
    first..(first..taps).find(|t| at(*t) >= extent as i64).unwrap_or(taps)
}

/// The runs of so many rows of outputs.
pub(super) fn runs(g: &Geometry, outputs: u64, taps: u64, extent: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for o in 0..outputs {
        let taps = inside(g, 0, o, taps, extent);
        match runs.last_mut().filter(|r| r.taps == taps) {
            Some(run) => run.rows.end = o + 1,
            None => runs.push(Run { rows: o..o + 1, taps }),
        }
    }
    runs
}

/// Outputs of a row and taps of so many rows, by their numbers, that are outside.
pub(super) fn outside(g: &Geometry, outputs: u64, (rows, columns): (u64, u64), extent: u64) -> Vec<(u32, u32)> {
    let mut outside = Vec::new();
    for o in 0..outputs {
        let inside = inside(g, 1, o, columns, extent);
        let taps = (0..rows).flat_map(|r| (0..columns).map(move |c| (c, r * columns + c)));
        outside.extend(taps.filter(|(c, _)| !inside.contains(c)).map(|(_, tap)| (o as u32, tap as u32)));
    }
    outside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_leave_out_what_is_outside() {
        let g = Geometry { strides: vec![1, 1], dilations: vec![1, 1], pads: vec![1, 1, 1, 1], group: 4 };
        let run = |rows, taps| Run { rows, taps };
        assert_eq!(runs(&g, 7, 3, 7), [run(0..1, 1..3), run(1..6, 0..3), run(6..7, 0..2)]);
        assert_eq!(outside(&g, 3, (1, 3), 3), [(0, 0), (2, 2)]);
        let g = Geometry { strides: vec![2, 2], dilations: vec![1, 1], pads: vec![0, 0, 1, 1], group: 4 };
        assert_eq!(runs(&g, 4, 3, 8), [run(0..3, 0..3), run(3..4, 0..2)]);
        assert_eq!(outside(&g, 2, (2, 3), 4), [(1, 2), (1, 5)]);
    }
}
