//! Dense linear algebra in f64: products, Cholesky factors and eigenvectors of symmetric matrices.
//!
//! Everything runs on the calling thread, so that a result does not depend on how many threads there are; layers are what runs in parallel.
//! A symmetric matrix is stored whole. Bits may differ between kinds of CPU, because sums are taken in vectors of the CPU's width.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::{evd, triangular_solve};
use faer::prelude::ReborrowMut;
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// A pivot that small, relative to the mean of the diagonal, counts as zero.
const PIVOT: f64 = 1e-13;

/// `dst += alpha a b`.
pub(super) fn add_product(dst: MatMut<'_, f64>, alpha: f64, a: MatRef<'_, f64>, b: MatRef<'_, f64>) {
    faer::linalg::matmul::matmul(dst, Accum::Add, a, b, alpha, Par::Seq);
}

/// `a b`.
pub(super) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut dst = Mat::zeros(a.nrows(), b.ncols());
    faer::linalg::matmul::matmul(dst.as_mut(), Accum::Replace, a, b, 1.0, Par::Seq);
    dst
}

/// `dst += alpha a aᵀ`, dst symmetric.
pub(super) fn add_gram(mut dst: MatMut<'_, f64>, alpha: f64, a: MatRef<'_, f64>) {
    use BlockStructure::{Rectangular, TriangularLower};
    triangular::matmul(dst.rb_mut(), TriangularLower, Accum::Add, a, Rectangular, a.transpose(), Rectangular, alpha, Par::Seq);
    mirror(dst);
}

/// `mᵀ a m` of a symmetric a.
pub(super) fn congruent(a: MatRef<'_, f64>, m: MatRef<'_, f64>) -> Mat<f64> {
    symmetric(product(m.transpose(), product(a, m).as_ref()))
}

/// The mean of a matrix and its transpose, which differ by rounding.
pub(super) fn symmetric(a: Mat<f64>) -> Mat<f64> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| 0.5 * (a[(i, j)] + a[(j, i)]))
}

/// Copies the lower triangle to the upper one.
fn mirror(mut a: MatMut<'_, f64>) {
    /// Side of the squares in which elements change places, so that both stay in the cache.
    const TILE: usize = 32;
    let n = a.nrows();
    for (top, left) in (0..n).step_by(TILE).flat_map(|i| (0..=i).step_by(TILE).map(move |j| (i, j))) {
        for i in top..(top + TILE).min(n) {
            for j in left..(left + TILE).min(i) {
                a[(j, i)] = a[(i, j)];
            }
        }
    }
}

/// Of `a + damping I` the lower Cholesky factor. Where rounding has left the matrix indefinite, the damping grows until it is not;
/// of a matrix with elements that are not finite it is the identity.
pub(super) struct Cholesky {
    factor: Mat<f64>,
}

impl Cholesky {
    /// Factor of a symmetric matrix.
    pub(super) fn new(a: MatRef<'_, f64>, damping: f64) -> Cholesky {
        let mut damping = damping.max(PIVOT * mean_diagonal(a));
        loop {
            let mut factor = a.to_owned();
            (0..a.nrows()).for_each(|i| factor[(i, i)] += damping);
            let need = llt::factor::cholesky_in_place_scratch::<f64>(a.nrows(), Par::Seq, Default::default());
            let mut space = MemBuffer::new(need);
            let stack = MemStack::new(&mut space);
            if llt::factor::cholesky_in_place(factor.as_mut(), Default::default(), Par::Seq, stack, Default::default()).is_ok() {
                (0..a.nrows()).for_each(|j| factor.col_mut(j).subrows_mut(0, j).fill(0.0));
                return Cholesky { factor };
            }
            damping = if damping > 0.0 { damping * 10.0 } else { 1.0 };
            if !damping.is_finite() {
                // Moments that are not numbers say nothing: then all positions are alike.
                return Cholesky { factor: Mat::identity(a.nrows(), a.nrows()) };
            }
        }
    }

    /// The factor, zero above the diagonal.
    pub(super) fn factor(&self) -> MatRef<'_, f64> {
        self.factor.as_ref()
    }

    /// Solves in place for each column.
    pub(super) fn solve(&self, mut rhs: MatMut<'_, f64>) {
        let l = self.factor.as_ref();
        triangular_solve::solve_lower_triangular_in_place(l, rhs.rb_mut(), Par::Seq);
        triangular_solve::solve_upper_triangular_in_place(l.transpose(), rhs, Par::Seq);
    }

    /// Solves with the factor only.
    pub(super) fn solve_lower(&self, rhs: MatMut<'_, f64>) {
        triangular_solve::solve_lower_triangular_in_place(self.factor.as_ref(), rhs, Par::Seq);
    }

    /// Solves with the factor's transpose only.
    pub(super) fn solve_transposed(&self, rhs: MatMut<'_, f64>) {
        triangular_solve::solve_upper_triangular_in_place(self.factor.transpose(), rhs, Par::Seq);
    }

    /// The inverse of the matrix.
    pub(super) fn inverse(&self) -> Mat<f64> {
        let n = self.factor.nrows();
        let mut out = Mat::zeros(n, n);
        let mut space = MemBuffer::new(llt::inverse::inverse_scratch::<f64>(n, Par::Seq));
        llt::inverse::inverse(out.as_mut(), self.factor.as_ref(), Par::Seq, MemStack::new(&mut space));
        mirror(out.as_mut());
        out
    }
}

/// The mean of the diagonal; zero for a matrix without elements.
pub(super) fn mean_diagonal(a: MatRef<'_, f64>) -> f64 {
    (0..a.nrows()).map(|i| a[(i, i)]).sum::<f64>() / a.nrows().max(1) as f64
}

/// The rows and columns of a symmetric matrix that a list names.
pub(super) fn gather(a: MatRef<'_, f64>, at: &[usize]) -> Mat<f64> {
    gather_columns(a, at, at.iter().copied())
}

/// The rows that a list names, of a range of columns.
pub(super) fn gather_rows(a: MatRef<'_, f64>, at: &[usize], columns: std::ops::Range<usize>) -> Mat<f64> {
    gather_columns(a, at, columns)
}

fn gather_columns(a: MatRef<'_, f64>, at: &[usize], columns: impl ExactSizeIterator<Item = usize>) -> Mat<f64> {
    let mut out = Mat::zeros(at.len(), columns.len());
    for (j, from) in columns.enumerate() {
        let column = a.col(from).try_as_col_major().map(|c| c.as_slice());
        let column = column.expect("internal: compress: a matrix whose columns are not contiguous");
        out.col_as_slice_mut(j).iter_mut().zip(at).for_each(|(x, &i)| *x = column[i]);
    }
    out
}

/// Eigenvectors of a symmetric matrix as columns, those of the largest eigenvalues first. The sign of each makes its largest element positive.
/// `None` for numbers that are not finite, and if the iteration does not converge.
pub(super) fn eigenvectors(a: MatRef<'_, f64>) -> Option<Mat<f64>> {
    let n = a.nrows();
    if !a.is_all_finite() {
        return None;
    }
    let mut vectors = Mat::zeros(n, n);
    let mut values = faer::diag::Diag::zeros(n);
    let need = evd::self_adjoint_evd_scratch::<f64>(n, evd::ComputeEigenvectors::Yes, Par::Seq, Default::default());
    let mut space = MemBuffer::new(need);
    let stack = MemStack::new(&mut space);
    evd::self_adjoint_evd(a, values.as_mut(), Some(vectors.as_mut()), Par::Seq, stack, Default::default()).ok()?;
    let signed = |j: usize| {
        let column = vectors.col(n - 1 - j);
        let largest = column.iter().copied().fold(0.0f64, |best, x| if x.abs() > best.abs() { x } else { best });
        (column, if largest < 0.0 { -1.0 } else { 1.0 })
    };
    let signed: Vec<_> = (0..n).map(signed).collect();
    Some(Mat::from_fn(n, n, |i, j| signed[j].1 * signed[j].0[i]))
}
