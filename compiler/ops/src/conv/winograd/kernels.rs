//! Kernels at the points, computed when they are written.

use std::fmt;

use onnxc_ir::Tensor;
use onnxc_ir::blob::Packing;

use super::points::{Points, TAPS};

/// Channels whose taps are read before the next filter.
const CHANNELS: usize = 8;

/// `G g Gt` of all kernels, in the order in which the products read them: `[point][panel][channel][nr]`, zero padded, from
/// `[filter][channel][tap]`. Computed in f64, rounded once. A part has the points of a row.
pub(super) struct Kernels {
    pub points: &'static Points,
    pub filters: usize,
    pub channels: usize,
    pub nr: usize,
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernels {{ m: {}, filters: {}, channels: {}, nr: {} }}", self.points.m, self.filters, self.channels, self.nr)
    }
}

impl Kernels {
    /// Floats of one point.
    fn point(&self) -> usize {
        self.filters.div_ceil(self.nr) * self.channels * self.nr
    }
}

impl Packing for Kernels {
    fn bytes(&self) -> u64 {
        let n = self.points.n() as u64;
        4 * n * n * self.point() as u64
    }

    fn parts(&self) -> usize {
        self.points.n()
    }

    fn part(&self, from: &Tensor, part: usize) -> Vec<u8> {
        let (weights, rows) = (from.bytes().as_chunks::<4>().0, self.points.kernel_rows());
        let down = rows[part];
        let mut out = vec![0u8; 4 * rows.len() * self.point()];
        let floats = out.as_chunks_mut::<4>().0;
        // `G g` of a row: three numbers for each filter of a panel.
        let mut columns = vec![[[0f64; TAPS]; CHANNELS]; self.nr];
        for panel in 0..self.filters.div_ceil(self.nr) {
            let first = panel * self.nr;
            let filters = self.nr.min(self.filters - first);
            for some in (0..self.channels).step_by(CHANNELS) {
                let here = CHANNELS.min(self.channels - some);
                for (q, column) in columns[..filters].iter_mut().enumerate() {
                    for (c, column) in column[..here].iter_mut().enumerate() {
                        let at = ((first + q) * self.channels + some + c) * TAPS * TAPS;
                        let g = |i: usize| f64::from(f32::from_le_bytes(weights[at + i]));
                        *column = [0, 1, 2].map(|i| down[0] * g(i) + down[1] * g(3 + i) + down[2] * g(6 + i));
                    }
                }
                for (x, across) in rows.iter().enumerate() {
                    for c in 0..here {
                        let at = x * self.point() + (panel * self.channels + some + c) * self.nr;
                        for (place, column) in floats[at..at + filters].iter_mut().zip(&columns) {
                            let g = &column[c];
                            let value = across[0] * g[0] + across[1] * g[1] + across[2] * g[2];
                            *place = (value as f32).to_le_bytes();
                        }
                    }
                }
            }
        }
        out
    }
}
