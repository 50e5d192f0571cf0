//! How many bytes of a buffer a function touches: each once, however often it reads them.

use std::collections::HashSet;

/// Accesses by one expression: all bytes at `base + sum of index * stride` with each index below its count.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Access {
    pub base: i64,
    /// (count, stride in bytes), ascending by stride, without overlap.
    dims: Vec<(u64, i64)>,
    /// Elements at places that are not known beside these.
    scattered: u64,
    /// Where they end, if known.
    hull: Option<(i64, i64)>,
}

impl Access {
    /// `dims` are the bytes of an element and the steps of loops, in any order; `scattered` the most places that an unknown part of the address
    /// can have, and `rest` its smallest and largest value.
    pub fn new(mut base: i64, dims: &[(u64, i64)], scattered: u64, rest: Option<(i64, i64)>) -> Access {
        let mut all: Vec<(u64, i64)> = Vec::new();
        for &(count, stride) in dims.iter().filter(|d| d.0 > 1 && d.1 != 0) {
            if stride < 0 {
                base += stride * (count as i64 - 1);
            }
            all.push((count, stride.abs()));
        }
        all.sort_unstable_by_key(|d| d.1);
        let mut merged: Vec<(u64, i64)> = Vec::new();
        for (count, stride) in all {
            match merged.last_mut() {
                // Steps that land on places of the last dimension, or on the next one behind them, lengthen it.
                Some(last) if stride % last.1 == 0 && (stride / last.1) as u64 <= last.0 => {
                    last.0 = (count - 1).saturating_mul((stride / last.1) as u64).saturating_add(last.0);
                }
                _ => merged.push((count, stride)),
            }
        }
        let end = merged.iter().fold(base, |end, (n, s)| end.saturating_add(s.saturating_mul(*n as i64 - 1)));
        let hull = rest.map(|(low, high)| (base.saturating_add(low), end.saturating_add(high).saturating_add(1)));
        Access { base, dims: merged, scattered, hull }
    }

    fn bytes(&self) -> u64 {
        self.dims.iter().fold(self.scattered, |n, d| n.saturating_mul(d.0))
    }
}

/// More different accesses than this are added up without looking for equal ones.
const MOST: usize = 1 << 12;

/// The accesses of one kind to one buffer.
#[derive(Default)]
pub(super) struct Footprint {
    seen: HashSet<Access>,
    sum: u64,
    /// First byte and the one behind the last; None when an access can be anywhere.
    hull: Option<(i64, i64)>,
    anywhere: bool,
}

impl Footprint {
    pub fn add(&mut self, access: Access) {
        if self.seen.contains(&access) {
            return;
        }
        self.sum = self.sum.saturating_add(access.bytes());
        match access.hull {
            Some((a, b)) => self.hull = Some(self.hull.map_or((a, b), |(x, y)| (x.min(a), y.max(b)))),
            None => self.anywhere = true,
        }
        if self.seen.len() < MOST {
            self.seen.insert(access);
        }
    }

    /// Bytes, no more than lie between the first and the last one. Accesses that overlap in part may be counted twice within that.
    pub fn bytes(&self) -> u64 {
        match self.hull {
            Some((a, b)) if !self.anywhere => self.sum.min(b.abs_diff(a)),
            _ => self.sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(dims: &[(u64, i64)]) -> u64 {
        Access::new(0, dims, 1, Some((0, 0))).bytes()
    }

    #[test]
    fn windows_that_overlap_are_counted_once() {
        // 3x3 windows over 58 x 58 pixels of 64 floats, by steps of 1 and of 2.
        let (pixel, row) = (256, 256 * 58);
        let window = |oh: u64, stride: i64| [(256, 1), (3, pixel), (3, row), (oh, pixel * stride), (oh, row * stride)];
        assert_eq!(bytes(&window(56, 1)), 58 * 58 * 256);
        assert_eq!(bytes(&window(28, 2)), 57 * 57 * 256);
        // A window of one pixel skips three of four.
        assert_eq!(bytes(&[(256, 1), (28, 2 * pixel), (28, 2 * row)]), 28 * 28 * 256);
        // Backwards is the same.
        assert_eq!(bytes(&[(4, 1), (10, -4)]), 40);
    }

    #[test]
    fn a_sum_stays_within_its_hull() {
        let mut f = Footprint::default();
        for tap in 0..3 {
            f.add(Access::new(4 * tap, &[(4, 1), (100, 4)], 1, Some((0, 0))));
            f.add(Access::new(4 * tap, &[(4, 1), (100, 4)], 1, Some((0, 0))));
        }
        assert_eq!(f.bytes(), 408);
        f.add(Access::new(0, &[(4, 1)], 50, None));
        assert_eq!(f.bytes(), 1400);
    }
}
