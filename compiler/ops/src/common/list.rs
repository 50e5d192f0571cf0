//! Products with weights that are mostly zero: lists of the steps of k that are left.
//!
//! A panel of `nr` columns goes over those steps only at which some column has a weight that is not zero: positions in the window and input channels, or
//! groups of four channels for 8-bit integers. Any zeros that the columns of a panel share are turned into time; the kernel pays one index for `nr` times
//! the height of the tile multiplications. Ma et al., "PCONV", 2020, and Guan et al., "CoCoPIE", 2021, have patterns of such positions in groups of filters.
//!
//! A weight of zero gives zero with every number but infinities and NaN, which a list does not see. Weights that were multiplied by a mask have zeros of
//! either sign, and so have their products; sums begin with 0, or a bias, and a zero that is added to them changes none but a zero, of which the sign at most.

use onnxc_ir::blob::{Blob, Packing};
use onnxc_ir::kernel::NUMBERS;
use onnxc_ir::lir::{BufId, Expr};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::target::{PAIR, SHORT_SUM, sum_size};
use onnxc_ir::{DType, Tensor};

use super::coded::{self, Numbers, Table};
use super::nest::{self, ExprExt};
use super::panels::Panels;
use super::tile;
use crate::schedule::Schedule;

/// The steps of all panels of a packed matrix, or of several that follow each other.
#[derive(Clone, Debug)]
pub struct List {
    /// Of each step the byte offset in A, an i32.
    offsets: BufId,
    /// Where the steps of each panel begin among all; one more entry says where the last ones end.
    starts: BufId,
    /// How many there are in all.
    steps: u64,
    /// Panels.
    panels: u64,
    /// Where B begins for each panel, in units of `step` elements.
    places: BufId,
    /// Elements of B in a step, or in a row of words.
    step: i64,
    /// All steps of outer dimensions have the same list, and their steps in B are elements.
    repeated: bool,
}

/// Where the tile of a panel finds its steps.
#[derive(Clone)]
pub(super) struct Steps {
    /// Element of B, and the one behind the panel.
    pub b: Expr,
    pub next: Expr,
    /// The list.
    pub offsets: (BufId, Expr),
    /// How many steps.
    pub count: Expr,
}

impl List {
    /// A list of rows of A, beginning at `starts` for each panel of `nr` columns, of matrices of f32 that follow each other and have the same rows left.
    pub(crate) fn of_rows(cx: &mut LowerCx, rows: &[Vec<usize>], nr: u32) -> List {
        let offsets = rows.iter().flatten().flat_map(|row| (4 * *row as i32).to_le_bytes()).collect();
        let starts: Vec<i64> = std::iter::once(0).chain(rows.iter().scan(0, |sum, r| Some(step(sum, r.len())))).collect();
        let steps = starts[rows.len()] as u64;
        let (offsets, starts) = (cx.const_buf(DType::I32, offsets), nest::table(cx, &starts));
        List { offsets, starts, steps, panels: rows.len() as u64, places: starts, step: i64::from(nr), repeated: true }
    }

    /// The steps of a panel of the matrix at `b`.
    pub(super) fn of_panel(&self, b: &Expr, panel: &Expr) -> Steps {
        let (matrix, panel) =
            if self.repeated { (b.clone(), panel.clone()) } else { (Expr::Int(0), b.clone().add(panel.clone())) };
        let after = panel.clone().add(Expr::Int(1));
        let start = nest::at(self.starts, panel.clone());
        let end = nest::at(self.starts, after.clone());
        let b = matrix.clone().add(nest::at(self.places, panel).times(self.step));
        let next = matrix.add(nest::at(self.places, after).times(self.step));
        Steps { b, next, offsets: (self.offsets, start.clone()), count: end.minus(start) }
    }

    /// Steps of all panels of a matrix, of which there are so many.
    pub(super) fn steps_of(&self, panels: u64) -> u64 {
        self.steps * panels / self.panels.max(1)
    }
}

fn step(sum: &mut i64, n: usize) -> i64 {
    *sum += n as i64;
    *sum
}

/// Constant weights as tiles read them.
pub(crate) struct Packed {
    /// Panels.
    pub buf: BufId,
    /// Type of B of the tile.
    pub dtype: DType,
    /// The steps that they have, if that is not all.
    pub list: Option<List>,
    /// The table that they are numbers of.
    pub table: Option<BufId>,
}

/// Constant weights in panels, and the list of their steps if the schedule permits one and some steps are zero; numbers if there is a table. `nest` is the
/// k loop, with strides in elements of A.
pub(crate) fn pack(cx: &mut LowerCx, tensor: &Tensor, how: Panels, nest: &[(u64, i64)], table: Option<Table>) -> Packed {
    if Schedule::of(cx.attrs).sparse
        && let Some(listed) = pack_listed(cx, tensor, &how, nest, table.as_ref())
    {
        return listed;
    }
    let Some(table) = table else {
        let dtype = how.dtype;
        return Packed { buf: cx.blob_buf(dtype, Blob::packed(tensor.clone(), how)), dtype, list: None, table: None };
    };
    let elements = cx.const_buf(DType::I8, table.bytes());
    let buf = cx.blob_buf(DType::U32, Blob::packed(tensor.clone(), Numbers { panels: how, table }));
    Packed { buf, dtype: DType::U4, list: None, table: Some(elements) }
}

/// Do products of so many steps with these signed bytes add up within 16 bits, as [`pack`] brings the steps together ([`SHORT_SUM`])?
pub(crate) fn adds_up(cx: &LowerCx, tensor: &Tensor, how: &Panels, nest: &[(u64, i64)], together: u32) -> bool {
    let mut counts = tile::byte_nest(nest, DType::I8).into_iter().map(|level| level.0 as usize);
    let run = counts.rfind(|count| *count > 1).unwrap_or(1);
    let panels = || (0..how.parts()).map(|part| how.part(tensor, part));
    let sparse = Schedule::of(cx.attrs).sparse;
    // Whether a list can name steps that are far away depends on which are left.
    if sparse && offsets(nest, DType::I8).contains(&None) {
        return false;
    }
    // A list of all steps is none.
    let listed = sparse && panels().any(|panel| (kept(&panel, how).len() as u64) < how.panel_steps());
    panels().all(|panel| {
        let step = |n: usize| &panel[n * how.step_bytes()..(n + 1) * how.step_bytes()];
        let steps: Vec<&[u8]> = match listed {
            true => kept(&panel, how).into_iter().map(step).collect(),
            false => (0..how.panel_steps() as usize).map(step).collect(),
        };
        let run = if listed { steps.len().max(1) } else { run };
        steps.chunks(run).flat_map(|run| run.chunks(together as usize)).all(is_short)
    })
}

/// Do the weights that are added to each word, of steps that go together, add up to little enough?
fn is_short(steps: &[&[u8]]) -> bool {
    let words = steps.first().map_or(0, |step| step.len() / PAIR);
    let of_word = |word: usize| steps.iter().flat_map(move |step| &step[word * PAIR..(word + 1) * PAIR]);
    (0..words).all(|word| sum_size(of_word(word).map(|w| i32::from(*w as i8))) <= SHORT_SUM)
}

fn pack_listed(cx: &mut LowerCx, tensor: &Tensor, how: &Panels, nest: &[(u64, i64)], table: Option<&Table>) -> Option<Packed> {
    let dtype = how.dtype;
    let of_a = match how.group {
        1 => DType::F32,
        2 => DType::I16,
        _ => DType::I8,
    };
    let places = offsets(nest, of_a);
    let (mut starts, mut words, mut list, mut all) = (vec![0i64], vec![0i64], Vec::new(), 0);
    for part in 0..how.parts() {
        let steps = kept(&how.part(tensor, part), how);
        all += how.panel_steps();
        list.extend(steps.iter().filter_map(|step| places.get(*step).copied().flatten()).flat_map(i32::to_le_bytes));
        starts.push(starts[part] + steps.len() as i64);
        words.push(words[part] + steps.len().div_ceil(NUMBERS as usize) as i64);
    }
    tensor.release();
    let steps = starts[how.parts()] as u64;
    let far = list.len() as u64 != 4 * steps;
    if steps == 0 || steps == all || far {
        return None;
    }
    let (panels, step) = (how.parts() as u64, (how.step_bytes() as u64 / dtype.bytes()) as i64);
    let (offsets, starts) = (cx.const_buf(DType::I32, list), nest::table(cx, &starts));
    let kept = Kept { panels: how.clone(), steps, numbers: table.map(|t| (t.clone(), words[how.parts()] as u64)) };
    let (places, of_tile, of_memory) = match table {
        Some(_) => (nest::table(cx, &words), DType::U4, DType::U32),
        None => (starts, dtype, dtype),
    };
    let buf = cx.blob_buf(of_memory, Blob::packed(tensor.clone(), kept));
    let list = Some(List { offsets, starts, steps, panels, places, step, repeated: false });
    Some(Packed { buf, dtype: of_tile, list, table: table.map(|t| cx.const_buf(DType::I8, t.bytes())) })
}

/// The byte offset in A of each step of a nest; none where it has more than 32 bits.
fn offsets(nest: &[(u64, i64)], dtype: DType) -> Vec<Option<i32>> {
    let mut all = vec![0i64];
    for (n, step) in tile::byte_nest(nest, dtype) {
        all = all.iter().flat_map(|at| (0..i64::from(n)).map(move |i| at + i * step)).collect();
    }
    all.into_iter().map(|at| i32::try_from(at).ok()).collect()
}

/// The steps of a packed panel that are not zero.
fn kept(panel: &[u8], how: &Panels) -> Vec<usize> {
    panel.chunks(how.step_bytes()).enumerate().filter(|(_, step)| !how.dtype.all_zero(step)).map(|(n, _)| n).collect()
}

/// [`Panels`] without the steps that are zero.
#[derive(Clone)]
struct Kept {
    panels: Panels,
    /// How many steps are left.
    steps: u64,
    /// The table that they are numbers of, and how many rows of words they have.
    numbers: Option<(Table, u64)>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept {{ {:?} {:?} }}", self.panels, self.numbers.as_ref().map(|n| &n.0))
    }
}

impl Packing for Kept {
    fn bytes(&self) -> u64 {
        match &self.numbers {
            Some((_, words)) => words * 4 * u64::from(self.panels.nr),
            None => self.steps * self.panels.step_bytes() as u64,
        }
    }

    fn parts(&self) -> usize {
        self.panels.parts()
    }

    fn part(&self, from: &Tensor, part: usize) -> Vec<u8> {
        let (all, step) = (self.panels.part(from, part), self.panels.step_bytes());
        let left: Vec<u8> = kept(&all, &self.panels).into_iter().flat_map(|n| &all[n * step..(n + 1) * step]).copied().collect();
        match &self.numbers {
            Some((table, _)) => coded::listed(table, &left, self.panels.nr as usize),
            None => left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packing_has_the_steps_that_are_left() {
        // Three rows of two panels; the second row is zero in the first panel, the others in the second.
        let from = Tensor::from_vec::<f32>(&[3, 4], vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 6.0, 7.0, 8.0, 0.0, 0.0]);
        let rows = vec![(3, 4)];
        let panels = Panels { dtype: DType::F32, group: 1, starts: vec![0], rows, padded: 3, cols: (4, 1), nr: 2, flip: 0 };
        let how = Kept { panels, steps: 3, numbers: None };
        let bytes = |values: [f32; 4]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(how.part(&from, 0), bytes([1.0, 0.0, 7.0, 8.0]));
        assert_eq!(how.part(&from, 1), bytes([5.0, 6.0, 0.0, 0.0])[..8]);
        assert_eq!(how.bytes(), 24);
    }

    #[test]
    fn offsets_are_those_of_the_nest() {
        assert_eq!(offsets(&[(2, 100), (3, 1)], DType::F32), [0, 4, 8, 400, 404, 408].map(Some));
        // Four channels are one step.
        assert_eq!(offsets(&[(2, 100), (8, 1)], DType::I8), [0, 4, 100, 104].map(Some));
        assert_eq!(offsets(&[(2, 1 << 30)], DType::F32), [Some(0), None]);
    }
}
