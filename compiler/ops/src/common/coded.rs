//! Weights that are kept narrower than they are multiplied: signed bytes beside an operand of f32.
//!
//! They are the numbers that they are; the scale of each output is a multiplication behind the product. Where they have no more than 16 different values,
//! they are kept as numbers of four bits of the elements of a table (Han et al., "Deep Compression", 2016, section 3). Tiles make floats of both as they
//! load them; everything that is no tile (Winograd's algorithm, depthwise kernels) has floats made when compiling.

use onnxc_ir::blob::Packing;
use onnxc_ir::kernel::NUMBERS;
use onnxc_ir::lower::Arg;
use onnxc_ir::op::{InferCx, OpError, OpResult};
use onnxc_ir::{DType, Tensor};

use super::panels::Panels;

/// Can what is of type `x` be multiplied by weights of type `w`?
pub(crate) fn fits(x: DType, w: DType) -> bool {
    x == w || (x == DType::F32 && w == DType::I8)
}

/// Inference: operands 0 to `own` have one type, but for the weights, operand 1, which may be coded.
pub(crate) fn check(cx: &InferCx, own: usize) -> OpResult<()> {
    let (x, w) = (cx.input(0)?.dtype, cx.input(1)?.dtype);
    let others = (2..own).filter_map(|i| cx.opt(i)).map(|t| t.dtype);
    match others.chain((!fits(x, w)).then_some(w)).find(|t| *t != x) {
        None => Ok(()),
        Some(t) => {
            Err(OpError::new(format!("operands have different types: {x} and {t}"))
                .help("insert a Cast, or export the model again"))
        }
    }
}

/// Constant weights as floats.
pub(crate) fn floats(weights: &Tensor) -> Tensor {
    if weights.dtype() != DType::I8 {
        return weights.clone();
    }
    Tensor::from_vec(weights.shape(), weights.to_vec::<i8>().into_iter().map(f32::from).collect())
}

/// An operand whose weights, if they are coded and known, are floats.
pub(crate) fn with_floats(arg: &Arg) -> Arg {
    Arg { constant: arg.constant.as_ref().map(floats), ..arg.clone() }
}

/// The values of weights, if they are so few that a number of four bits tells them apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    values: Vec<i8>,
    /// Steps of the innermost loop, which have words of their own.
    run: u64,
}

/// Values that numbers of four bits tell apart.
const MOST: usize = 16;
/// A value without a number, while values are collected.
const NONE: u8 = u8::MAX;

impl Table {
    /// The table of weights whose products have this nest of k, if that makes them smaller.
    pub fn of(weights: Option<&Tensor>, nest: &[(u64, i64)]) -> Option<Table> {
        let weights = weights.filter(|w| w.dtype() == DType::I8)?;
        let run = nest.last()?.0;
        let mut seen = [false; 256];
        let mut count = 0;
        for b in weights.bytes() {
            if !std::mem::replace(&mut seen[usize::from(*b)], true) {
                count += 1;
                if count > MOST {
                    return None;
                }
            }
        }
        let values: Vec<i8> = (i8::MIN..=i8::MAX).filter(|v| seen[usize::from(*v as u8)]).collect();
        (run.div_ceil(NUMBERS) * 4 < run && !values.is_empty()).then_some(Table { values, run })
    }

    /// The elements as the kernel reads them.
    pub fn bytes(&self) -> Vec<u8> {
        (0..MOST).map(|i| self.values.get(i).copied().unwrap_or(0) as u8).collect()
    }

    /// Rows of words for so many steps of k.
    pub fn words(&self, steps: u64) -> u64 {
        steps / self.run * self.run.div_ceil(NUMBERS)
    }

    /// Bytes of a panel as words of numbers: rows of `nr` words for each eight of the rows of a run.
    fn coded(&self, panel: &[u8], nr: usize, run: usize) -> Vec<u8> {
        let mut numbers = [NONE; 256];
        self.values.iter().enumerate().for_each(|(n, v)| numbers[usize::from(*v as u8)] = n as u8);
        // What fills up need not be among the values: no result depends on it.
        let number = |b: u8| u32::from(Some(numbers[usize::from(b)]).filter(|n| *n != NONE).unwrap_or(0));
        let mut out = Vec::with_capacity(panel.len());
        for rows in panel.chunks((run * nr).max(1)).flat_map(|run| run.chunks(NUMBERS as usize * nr)) {
            for column in 0..nr {
                let in_column = rows[column..].iter().step_by(nr).enumerate();
                let word = in_column.fold(0, |word, (q, b)| word | number(*b) << (4 * q));
                out.extend(u32::to_le_bytes(word));
            }
        }
        out
    }
}

/// [`Panels`] of bytes as numbers of a table's elements.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    /// Bytes, one row after the other.
    pub panels: Panels,
    pub table: Table,
}

impl Packing for Numbers {
    fn bytes(&self) -> u64 {
        4 * self.table.words(self.panels.panel_steps()) * u64::from(self.panels.nr) * self.parts() as u64
    }

    fn parts(&self) -> usize {
        self.panels.parts()
    }

    fn part(&self, from: &Tensor, part: usize) -> Vec<u8> {
        self.table.coded(&self.panels.part(from, part), self.panels.nr as usize, self.table.run as usize)
    }
}

/// The steps of a list, which are one run.
pub(super) fn listed(table: &Table, panel: &[u8], nr: usize) -> Vec<u8> {
    table.coded(panel, nr, panel.len() / nr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_the_numbers_of_eight_rows() {
        // Two taps of nine channels, two columns: a word of eight rows and one of one for each tap.
        let values: Vec<i8> = (0..36).map(|i| [-7, 0, 3, 100][i * 5 % 7 % 4]).collect();
        let from = Tensor::from_vec(&[18, 2], values.clone());
        let table = Table::of(Some(&from), &[(2, 50), (9, 1)]).unwrap();
        assert_eq!(table.values, [-7, 0, 3, 100]);
        let rows = vec![(18, 2)];
        let panels = Panels { dtype: DType::I8, group: 1, starts: vec![0], rows, padded: 18, cols: (2, 1), nr: 4, flip: 0 };
        let how = Numbers { panels, table };
        let words: Vec<u32> = how.part(&from, 0).as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
        assert_eq!((words.len(), how.bytes()), (16, 64));
        for (row, column) in (0..18).flat_map(|r| [(r, 0), (r, 1)]) {
            let word = words[(row / 9 * 2 + row % 9 / 8) * 4 + column];
            let number = word >> (4 * (row % 9 % 8)) & 15;
            assert_eq!(how.table.bytes()[number as usize] as i8, values[row * 2 + column], "row {row}, column {column}");
        }
    }

    #[test]
    fn tables_are_for_few_values_and_long_loops() {
        let of = |different: usize, run: u64| {
            let values = (0..100).map(|i| (i % different) as i8).collect();
            Table::of(Some(&Tensor::from_vec::<i8>(&[100], values)), &[(2, 10), (run, 1)])
        };
        assert!(of(16, 5).is_some() && of(17, 5).is_none() && of(3, 4).is_none());
        assert!(Table::of(Some(&Tensor::from_vec::<f32>(&[1], vec![1.0])), &[(64, 1)]).is_none());
    }
}
