//! Constant matrices in the panels that tiles read, packed when they are written.

use onnxc_ir::blob::Packing;
use onnxc_ir::{DType, Tensor};

/// Rows that are read before the next column: what is written meanwhile stays in the first-level cache.
const ROWS: u64 = 16;

/// Matrices in a tensor, to `[matrix][panel][k / group][nr][group]` with zeros for the columns and rows that are not there. Strides are in elements of
/// the tensor.
#[derive(Clone, Debug)]
pub struct Panels {
    /// Element type: f32, a byte or a word.
    pub dtype: DType,
    /// Rows that are packed together: those of dot products of integers, else 1.
    pub group: usize,
    /// Where each matrix begins.
    pub starts: Vec<i64>,
    /// Rows: counts and strides, outermost first.
    pub rows: Vec<(u64, i64)>,
    /// Innermost rows with the zeros behind them; no fewer than there are.
    pub padded: u64,
    /// Columns and their stride.
    pub cols: (u64, i64),
    /// Columns of a panel.
    pub nr: u32,
    /// Bits that change in every byte, but not in zeros that fill up: 0x80 takes 128 from a u8. Zero for all else.
    pub flip: u8,
}

impl Panels {
    /// Steps of k in a panel.
    pub fn panel_steps(&self) -> u64 {
        (self.panel_bytes() / self.step_bytes()) as u64
    }

    /// Bytes of a step of k.
    pub fn step_bytes(&self) -> usize {
        self.group * self.nr as usize * self.dtype.bytes() as usize
    }

    /// Panels of a matrix.
    pub fn panels(&self) -> usize {
        self.cols.0.div_ceil(u64::from(self.nr)) as usize
    }

    /// Bytes of a panel.
    fn panel_bytes(&self) -> usize {
        let outer: u64 = self.rows[..self.rows.len() - 1].iter().map(|r| r.0).product();
        let k = (outer * self.padded).next_multiple_of(self.group as u64);
        (k * u64::from(self.nr) * self.dtype.bytes()) as usize
    }

    /// Writes a panel: the columns from `first` on of the matrix at `start`.
    fn fill<const BYTES: usize>(&self, from: &[[u8; BYTES]], start: i64, first: u64, out: &mut [[u8; BYTES]]) {
        let (nr, group) = (self.nr as usize, self.group);
        let columns = (self.cols.0 - first).min(u64::from(self.nr)) as usize;
        let start = start + first as i64 * self.cols.1;
        let (count, stride) = self.rows[self.rows.len() - 1];
        let mut outer = vec![start];
        for (n, step) in &self.rows[..self.rows.len() - 1] {
            outer = outer.iter().flat_map(|at| (0..*n as i64).map(move |i| at + i * step)).collect();
        }
        for (block, base) in outer.into_iter().enumerate() {
            let row = block * self.padded as usize;
            if self.cols.1 == 1 && group == 1 {
                for r in 0..count as usize {
                    let (at, to) = ((base + r as i64 * stride) as usize, (row + r) * nr);
                    out[to..to + columns].copy_from_slice(&from[at..at + columns]);
                }
                continue;
            }
            for some in (0..count).step_by(ROWS as usize) {
                for column in 0..columns {
                    let at = base + column as i64 * self.cols.1;
                    for r in some..(some + ROWS).min(count) {
                        let k = row + r as usize;
                        out[(k / group * nr + column) * group + k % group] =
                            from[(at + r as i64 * stride) as usize].map(|b| b ^ self.flip);
                    }
                }
            }
        }
    }
}

impl Packing for Panels {
    fn bytes(&self) -> u64 {
        (self.starts.len() * self.panels() * self.panel_bytes()) as u64
    }

    fn parts(&self) -> usize {
        self.starts.len() * self.panels()
    }

    fn part(&self, from: &Tensor, part: usize) -> Vec<u8> {
        let (start, first) = (self.starts[part / self.panels()], (part % self.panels()) as u64 * u64::from(self.nr));
        let mut out = vec![0u8; self.panel_bytes()];
        match self.dtype.bytes() {
            4 => self.fill(from.bytes().as_chunks::<4>().0, start, first, out.as_chunks_mut::<4>().0),
            2 => self.fill(from.bytes().as_chunks::<2>().0, start, first, out.as_chunks_mut::<2>().0),
            _ => self.fill(from.bytes().as_chunks::<1>().0, start, first, out.as_chunks_mut::<1>().0),
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::tile;

    fn packed(how: &Panels, from: &Tensor) -> Vec<u8> {
        let all: Vec<u8> = (0..how.parts()).flat_map(|p| how.part(from, p)).collect();
        assert_eq!(all.len() as u64, how.bytes());
        all
    }

    #[test]
    fn f32_panels_are_those_of_the_tile() {
        let (k, n, nr) = (37, 21, 8);
        let values: Vec<f32> = (0..2 * k * n).map(|i| i as f32).collect();
        let from = Tensor::from_vec(&[2, k, n], values.clone());
        for (row, col) in [(n, 1), (1, k)] {
            let get = |m: usize, r: usize, c: usize| values[m * (k * n) as usize + r * row as usize + c * col as usize];
            let want: Vec<u8> =
                (0..2).flat_map(|m| tile::pack_f32(k as usize, n as usize, nr as usize, |r, c| get(m, r, c))).collect();
            let rows = vec![(k, row as i64)];
            let starts = vec![0, (k * n) as i64];
            let how = Panels { dtype: DType::F32, group: 1, starts, rows, padded: k, cols: (n, col as i64), nr, flip: 0 };
            assert_eq!(packed(&how, &from), want);
        }
    }

    #[test]
    fn rows_and_bytes_are_filled_up_with_zeros() {
        let (filters, channels, taps, nr) = (5usize, 3usize, 4usize, 4usize);
        let values: Vec<u8> = (0..filters * channels * taps).map(|i| (i * 7 + 1) as u8).collect();
        let from = Tensor::from_vec(&[5, 3, 4], values.clone());
        let get = |k: usize, f: usize| {
            let (tap, channel) = (k / 4, k % 4);
            if channel < channels { values[(f * channels + channel) * taps + tap] ^ 0x80 } else { 0 }
        };
        let want = tile::pack_bytes((taps * 4, 4), filters, nr, get);
        let rows = vec![(taps as u64, 1), (channels as u64, taps as i64)];
        let cols = (filters as u64, (channels * taps) as i64);
        let how = Panels { dtype: DType::U8, group: 4, starts: vec![0], rows, padded: 4, cols, nr: nr as u32, flip: 0x80 };
        assert_eq!(packed(&how, &from), want);
    }
}
