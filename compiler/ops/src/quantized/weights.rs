//! Constant weights of bytes or words, read where they are.

use onnxc_ir::kernel::k_group;
use onnxc_ir::target::{PAIR, SHORT_SUM, sum_size};
use onnxc_ir::{DType, Tensor};

use crate::common::panels::Panels;

/// The filters of a tensor of integers; each has elements in an order that its user knows.
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

    /// What is taken from every element.
    pub fn moved(&self) -> i32 {
        self.moved
    }

    fn value(&self, at: usize) -> i32 {
        let bytes = self.tensor.bytes();
        match self.tensor.dtype() {
            DType::U8 => i32::from(bytes[at]) - self.moved,
            DType::I16 => i32::from(i16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]])),
            _ => i32::from(bytes[at] as i8),
        }
    }

    /// One element.
    pub fn get(&self, filter: usize, i: usize) -> i32 {
        self.value(filter * self.strides.0 + i * self.strides.1)
    }

    /// Do two neighbouring channels of a tap add up to no more than [`SHORT_SUM`], in the order in which [`Weights::panels`] brings them together?
    pub fn are_short(&self, (taps, channels): (u64, u64)) -> bool {
        let (taps, channels) = (taps as usize, channels as usize);
        let pair = |f: usize, tap: usize, first: usize| {
            sum_size((first..channels.min(first + PAIR)).map(move |channel| self.get(f, channel * taps + tap)))
        };
        let pairs = |f: usize, tap: usize| (0..channels).step_by(PAIR).map(move |first| pair(f, tap, first));
        (0..self.filters).flat_map(|f| (0..taps).flat_map(move |tap| pairs(f, tap))).all(|sum| sum <= SHORT_SUM)
    }

    /// The sums of all filters.
    pub fn sums(&self) -> Vec<i32> {
        let elements = self.tensor.len();
        if self.strides.1 == 1 {
            let of = |first: usize| (first..first + self.per_filter()).map(|at| self.value(at)).fold(0, i32::wrapping_add);
            return (0..elements).step_by(self.per_filter().max(1)).map(of).collect();
        }
        let mut sums = vec![0i32; self.filters];
        for first in (0..elements).step_by(self.filters.max(1)) {
            sums.iter_mut().zip(first..).for_each(|(s, at)| *s = s.wrapping_add(self.value(at)));
        }
        sums
    }

    /// What the elements of each filter add up to without their signs.
    pub fn sizes(&self) -> Vec<i64> {
        let of = |filter: usize| (0..self.per_filter()).map(|i| i64::from(self.get(filter, i).abs())).sum();
        (0..self.filters).map(of).collect()
    }

    /// Panels of `nr` columns for the filters of each group, for an A of type `a`; rows are taps with `padded` channels each, of which there are `channels`.
    pub fn panels(&self, groups: usize, a: DType, (taps, channels, padded): (u64, u64, u64), nr: u32) -> Panels {
        let (filters, (filter, element)) = (self.filters / groups.max(1), self.strides);
        Panels {
            dtype: self.packed(),
            group: k_group(a) as usize,
            starts: (0..groups).map(|g| (g * filters * filter) as i64).collect(),
            rows: vec![(taps, element as i64), (channels, (taps as usize * element) as i64)],
            padded,
            cols: (filters as u64, filter as i64),
            nr,
            flip: if self.moved == 128 { 0x80 } else { 0 },
        }
    }

    /// Type of panels.
    pub fn packed(&self) -> DType {
        if self.tensor.dtype() == DType::I16 { DType::I16 } else { DType::I8 }
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
                let how = w.panels(1, DType::U8, (1, 5, 8), 4);
                (0..how.parts()).flat_map(|p| how.part(w.tensor(), p)).collect::<Vec<u8>>()
            };
            assert_eq!(bytes(&filters), bytes(&columns));
        }
    }
}
