//! Strided views: evaluation, reshaping, and the checks that operators with `Lower::View` share.

use onnxc_ir::op::{Extent, Extents, View};
use onnxc_ir::{Dim, Tensor};

use super::elements::{Picker, for_coords};

/// The elements that a view of row-major `x` shows.
pub(crate) fn eval_view(x: &Tensor, view: &View) -> Tensor {
    let mut out = Picker::new(x.dtype());
    for_coords(&view.shape, |at| {
        let shift: i64 = at.iter().zip(&view.strides).map(|(i, s)| *i as i64 * s).sum();
        out.pick(x, (view.offset + shift) as usize);
    });
    out.finish(&view.shape)
}

/// The view with the same elements in row-major order under another shape, if strides can express it.
///
/// Dimensions of extent 1 are dropped, then runs of old dimensions are matched with runs of new ones of the same product; the old run must be
/// dense in itself (each stride the next one times its extent). In a run only the first extent may be open: behind an open one that is smaller than its
/// bound, the next element is not the neighbour.
pub(crate) fn reshape<S: Extents + ?Sized>(from: &View, shape: &S) -> Option<View> {
    let shape = shape.extents();
    let bounds: Vec<u64> = shape.iter().map(|n| n.bound).collect();
    let open: Vec<Option<Dim>> = shape.iter().map(|n| n.open.clone()).collect();
    if bounds.contains(&0) {
        return Some(View { offset: from.offset, ..View::contiguous(&bounds) });
    }
    let old: Vec<(Extent, i64)> =
        from.extents().into_iter().zip(from.strides.iter().copied()).filter(|(n, _)| !n.is_one()).collect();
    let mut strides = vec![0i64; shape.len()];
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < shape.len() {
        let (first_i, first_j) = (i, j);
        let (mut a, mut b) = (old[i].0.clone(), shape[j].clone());
        while a.dim() != b.dim() {
            if a.bound < b.bound {
                i += 1;
                a = a.times(&old.get(i).filter(|n| n.0.open.is_none())?.0);
            } else {
                j += 1;
                let next = shape.get(j).filter(|n| n.is_one() || b.is_one() || n.open.is_none() && a.bound > b.bound)?;
                b = b.times(next);
            }
        }
        if old[first_i..=i].windows(2).any(|w| w[0].1 != w[1].1 * w[1].0.bound as i64) {
            return None;
        }
        let mut step = old[i].1;
        for d in (first_j..=j).rev() {
            strides[d] = step;
            step *= bounds[d] as i64;
        }
        (i, j) = (i + 1, j + 1);
    }
    // What is left are dimensions of one.
    let done = old[i.min(old.len())..].is_empty() && shape[j.min(shape.len())..].iter().all(Extent::is_one);
    done.then(|| View { shape: bounds, open: Vec::new(), strides, offset: from.offset }.with_open(open))
}

/// A dense view with channels (dimension 1) innermost.
pub(crate) fn channels_last(shape: &[u64]) -> View {
    let mut view = View::contiguous(shape);
    view.strides[1] = 1;
    let mut step = shape[1] as i64;
    for d in (2..shape.len()).rev() {
        view.strides[d] = step;
        step *= shape[d] as i64;
    }
    view.strides[0] = step;
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_of_dense_views_is_dense() {
        let from = View::contiguous(&[2, 3, 4]);
        for shape in [&[24][..], &[6, 4], &[2, 12], &[1, 2, 3, 1, 4, 1], &[4, 6]] {
            assert!(reshape(&from, shape).expect("dense").is_contiguous());
        }
    }

    #[test]
    fn reshape_of_transposed_views() {
        let from = View { shape: vec![4, 3], open: Vec::new(), strides: vec![1, 4], offset: 2 };
        assert_eq!(reshape(&from, &[12]), None);
        let split = reshape(&from, &[2, 2, 3]).expect("splitting one dimension is possible");
        assert_eq!((split.strides, split.offset), (vec![2, 1, 4], 2));
        // Strides of single elements mean nothing.
        let padded = reshape(&from, &[1, 4, 1, 3]).expect("dimensions of one can be put in anywhere");
        assert_eq!((padded.strides[1], padded.strides[3]), (1, 4));
    }

    #[test]
    fn reshape_of_broadcast_views() {
        let from = View { shape: vec![5, 3], open: Vec::new(), strides: vec![0, 1], offset: 0 };
        assert_eq!(reshape(&from, &[15]), None);
        let padded = reshape(&from, &[5, 3, 1]).expect("dimensions of one can be put in anywhere");
        assert_eq!(padded.strides[..2], [0, 1]);
    }
}
