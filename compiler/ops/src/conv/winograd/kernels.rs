//! Kernels at the points, computed when they are written.

use std::fmt;

use onnxc_ir::blob::Packing;
use onnxc_ir::kernel::k_group;
use onnxc_ir::{DType, Tensor};

use super::numbers::Numbers;
use super::points::Points;

/// Channels whose taps are read before the next filter.
const CHANNELS: usize = 8;
/// Taps of the largest kernels in each direction.
const MOST_TAPS: usize = 5;

/// `G g Gt` of all kernels, in the order in which the products read them: `[point][panel][channel][nr]`, words of two channels beside each other, zero padded, from
/// `[filter][channel][tap]`. Computed in f64, rounded once; those of integers are whole. A part has the points of a row.
pub(super) struct Kernels {
    pub points: &'static Points,
    pub numbers: Numbers,
    /// What is taken from bytes without sign.
    pub moved: i32,
    pub filters: usize,
    pub nr: usize,
    /// Channels that there are.
    pub channels: usize,
    /// Channels that each panel has: all, or those with a kernel that is not zero.
    pub left: Vec<Vec<usize>>,
}

/// The channels of each panel of kernels of so many taps in each direction, without those whose kernels are zero in all filters of the panel if these are to be left out.
pub(super) fn channels_left(
    (weights, taps): (&Tensor, usize),
    (filters, channels): (usize, usize),
    nr: usize,
    sparse: bool,
) -> Vec<Vec<usize>> {
    let size = 4 * taps * taps;
    let zero = |f: usize, c: usize| DType::F32.all_zero(&weights.bytes()[(f * channels + c) * size..][..size]);
    let left = |first: usize, c: &usize| !sparse || (first..filters.min(first + nr)).any(|f| !zero(f, *c));
    (0..filters).step_by(nr).map(|first| (0..channels).filter(|c| left(first, c)).collect()).collect()
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.left.iter().map(Vec::len).sum::<usize>();
        write!(
            f,
            "Kernels {{ m: {}, taps: {}, filters: {}, channels: {left}, nr: {} }}",
            self.points.m, self.points.taps, self.filters, self.nr
        )
    }
}

impl Kernels {
    /// A tap.
    fn tap(&self, from: &Tensor, at: usize) -> f64 {
        let bytes = from.bytes();
        match from.dtype() {
            DType::F32 => f64::from(f32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]])),
            DType::U8 => f64::from(i32::from(bytes[at]) - self.moved),
            _ => f64::from(bytes[at] as i8),
        }
    }

    /// Puts a transformed weight to its place.
    fn put(&self, out: &mut [u8], at: usize, value: f64) {
        match self.numbers {
            Numbers::Floats => out[4 * at..4 * at + 4].copy_from_slice(&(value as f32).to_le_bytes()),
            Numbers::Integers => out[2 * at..2 * at + 2].copy_from_slice(&(value.round() as i16).to_le_bytes()),
        }
    }

    /// Elements of one point.
    fn point(&self) -> usize {
        self.left.iter().map(Vec::len).sum::<usize>() * self.nr
    }
}

impl Packing for Kernels {
    fn bytes(&self) -> u64 {
        let n = self.points.kernels() as u64;
        self.numbers.factor().bytes() * n * n * self.point() as u64
    }

    fn parts(&self) -> usize {
        self.points.kernels()
    }

    fn part(&self, from: &Tensor, part: usize) -> Vec<u8> {
        let (rows, factor) = (self.points.kernel_rows(), self.numbers.factor());
        let (down, taps, group) = (&rows[part], self.points.taps, k_group(factor) as usize);
        let mut out = vec![0u8; factor.bytes() as usize * rows.len() * self.point()];
        // `G g` of a row: a number for each tap across, of each filter of a panel.
        let mut columns = vec![[[0f64; MOST_TAPS]; CHANNELS]; self.nr];
        let mut row = 0;
        for (panel, left) in self.left.iter().enumerate() {
            let first = panel * self.nr;
            let filters = self.nr.min(self.filters - first);
            for some in left.chunks(CHANNELS) {
                for (q, column) in columns[..filters].iter_mut().enumerate() {
                    for (channel, column) in some.iter().zip(column) {
                        let at = ((first + q) * self.channels + channel) * taps * taps;
                        let g = |i: usize| self.tap(from, at + i);
                        for (i, value) in column[..taps].iter_mut().enumerate() {
                            *value = down.iter().enumerate().map(|(j, d)| d * g(j * taps + i)).sum();
                        }
                    }
                }
                for (x, across) in rows.iter().enumerate() {
                    for c in 0..some.len() {
                        let (step, of_step) = ((row + c) / group, (row + c) % group);
                        for (q, column) in columns[..filters].iter().enumerate() {
                            let value: f64 = across.iter().zip(&column[c]).map(|(x, g)| x * g).sum();
                            self.put(&mut out, x * self.point() + (step * self.nr + q) * group + of_step, value);
                        }
                    }
                }
                row += some.len();
            }
        }
        out
    }
}
