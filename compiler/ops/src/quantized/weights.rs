//! Constant weights of bytes, read where they are.

use onnxc_ir::target::pair_size;
use onnxc_ir::{DType, Tensor};

use crate::common::panels::Panels;

/// The filters of a tensor of bytes; each has elements in an order that its user knows.
pub(super) struct Weights {
    tensor: Tensor,
    filters: usize,
    /// Elements of the tensor between filters, and between the elements of one.
    strides: (usize, usize),
    /// What is taken from every element.
    moved: i32,
}

impl Weights {
    /// `[filter][element]`.
    pub fn of_filters(tensor: &Tensor, filters: usize) -> Weights {
        let per_filter = tensor.len() / filters.max(1);
        Weights { tensor: tensor.clone(), filters, strides: (per_filter, 1), moved: 0 }
    }

    /// `[element][filter]`: a matrix whose columns are filters.
    pub fn of_columns(tensor: &Tensor, filters: usize) -> Weights {
        Weights { tensor: tensor.clone(), filters, strides: (1, filters), moved: 0 }
    }

    /// Elements of a filter.
    pub fn per_filter(&self) -> usize {
        self.tensor.len() / self.filters.max(1)
    }

    /// True for u8 elements that are not moved.
    pub fn is_unsigned(&self) -> bool {
        self.tensor.dtype() == DType::U8 && self.moved == 0
    }

    /// Takes 128 from all u8 elements: signed bytes.
    pub fn make_signed(&mut self) {
        self.moved = if self.tensor.dtype() == DType::U8 { 128 } else { 0 };
    }

    fn value(&self, byte: u8) -> i32 {
        let value = if self.tensor.dtype() == DType::U8 { i32::from(byte) } else { i32::from(byte as i8) };
        value - self.moved
    }

    /// One element.
    pub fn get(&self, filter: usize, i: usize) -> i32 {
        self.value(self.tensor.bytes()[filter * self.strides.0 + i * self.strides.1])
    }

    /// What two neighbouring channels of a tap add up to at most ([`pair_size`]), in the order in which [`Weights::panels`] brings them together.
    pub fn largest_pair(&self, (taps, channels): (u64, u64)) -> i32 {
        let (taps, channels) = (taps as usize, channels as usize);
        let at = |filter: usize, tap: usize, channel: usize| {
            if channel < channels { self.get(filter, channel * taps + tap) } else { 0 }
        };
        let pairs = |f: usize, tap: usize| (0..channels).step_by(2).map(move |c| pair_size(at(f, tap, c), at(f, tap, c + 1)));
        (0..self.filters).flat_map(|f| (0..taps).flat_map(move |tap| pairs(f, tap))).max().unwrap_or(0)
    }

    /// The sums of all filters.
    pub fn sums(&self) -> Vec<i32> {
        let bytes = self.tensor.bytes();
        if self.strides.1 == 1 {
            return bytes.chunks(self.per_filter().max(1)).map(|f| f.iter().map(|b| self.value(*b)).sum()).collect();
        }
        let mut sums = vec![0; self.filters];
        for row in bytes.chunks(self.filters.max(1)) {
            sums.iter_mut().zip(row).for_each(|(s, b)| *s += self.value(*b));
        }
        sums
    }

    /// Panels of `nr` columns for the filters of each group; rows are taps with `padded` channels each, of which there are `channels`.
    pub fn panels(&self, groups: usize, (taps, channels, padded): (u64, u64, u64), nr: u32) -> Panels {
        let (filters, (filter, element)) = (self.filters / groups.max(1), self.strides);
        Panels {
            dtype: DType::I8,
            group: 4,
            starts: (0..groups).map(|g| (g * filters * filter) as i64).collect(),
            rows: vec![(taps, element as i64), (channels, (taps as usize * element) as i64)],
            padded,
            cols: (filters as u64, filter as i64),
            nr,
            flip: if self.moved == 128 { 0x80 } else { 0 },
        }
    }

    /// What panels are made from.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

#[cfg(test)]
mod tests {
    use onnxc_ir::blob::Packing;

    use super::*;

    #[test]
    fn columns_are_the_filters_of_the_transposed_matrix() {
        let values: Vec<u8> = (0..15).map(|i| (i * 23) as u8).collect();
        let turned: Vec<u8> = (0..15).map(|i| values[i % 5 * 3 + i / 5]).collect();
        let mut filters = Weights::of_filters(&Tensor::from_vec(&[3, 5], turned), 3);
        let mut columns = Weights::of_columns(&Tensor::from_vec(&[5, 3], values), 3);
        for signed in [false, true] {
            if signed {
                filters.make_signed();
                columns.make_signed();
            }
            assert_eq!(filters.is_unsigned(), !signed);
            assert_eq!(filters.sums(), columns.sums());
            for f in 0..3 {
                assert_eq!((0..5).map(|i| columns.get(f, i)).sum::<i32>(), filters.sums()[f]);
                assert!((0..5).all(|i| filters.get(f, i) == columns.get(f, i)));
            }
            let bytes = |w: &Weights| {
                let how = w.panels(1, (1, 5, 8), 4);
                (0..how.parts()).flat_map(|p| how.part(w.tensor(), p)).collect::<Vec<u8>>()
            };
            assert_eq!(bytes(&filters), bytes(&columns));
        }
    }
}
