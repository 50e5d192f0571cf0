//! Few filters: neighbouring outputs of a row as further filters.
//!
//! A tile computes whole vectors of filters. `p` outputs of a row of `M` filters are one output of `p * M` filters over a kernel that is `(p - 1) * stride` columns
//! wider: filter `t * M + m` has the weights of filter `m`, `t * stride` columns farther on, and zeros beside them. With `p * M` lanes a vector is full, and
//! multiplies `(width + (p - 1) * stride) / (p * width)` times as often. Channels last, the results lie where they did.
//!
//! Sums keep their order, with products by zero in between: an infinity or NaN that an output does not see makes NaN of it.

use onnxc_ir::lower::Arg;
use onnxc_ir::op::View;
use onnxc_ir::{DType, Tensor};

use super::Geometry;
use super::lower::Conv;
use crate::common::tile::broadcast_strides;

/// Weights of such a convolution, zeros counted: few filters have few, but for kernels as large as images.
const MOST_WEIGHTS: u64 = 1 << 20;

impl Conv {
    /// The convolution that computes `p` outputs of a row as one; `None` where they do not lie as that needs.
    pub(super) fn across(&self, p: u64) -> Option<Conv> {
        let (view, last) = (&self.y.view, self.y.view.shape.len() - 1);
        let (stride, dilation) = (*self.geometry.strides.last()?, *self.geometry.dilations.last()?);
        let fits = p > 1 && self.geometry.group == 1 && dilation == 1 && view.shape[last].is_multiple_of(p);
        // Graphs that are read may ask for any number.
        let width = self.kernel.last()?.checked_add(p.saturating_sub(1).checked_mul(stride as u64)?)?;
        let rows = self.kernel[..self.kernel.len() - 1].iter().product::<u64>() * self.channels;
        p.checked_mul(self.filters)?.checked_mul(rows)?.checked_mul(width).filter(|n| *n <= MOST_WEIGHTS)?;
        if !fits || !view.is_fixed() || !self.x.view.is_fixed() || !self.lies_dense(&view.strides) {
            return None;
        }
        let shape = |shape: &[u64]| {
            let mut shape = shape.to_vec();
            (shape[1], shape[last]) = (p * shape[1], shape[last] / p);
            shape
        };
        let wide = |arg: &Arg, strides: &[i64]| {
            let mut strides = strides.to_vec();
            strides[last] *= p as i64;
            let view = View { shape: shape(&view.shape), open: Vec::new(), strides, offset: arg.view.offset };
            Arg { view, constant: None, ..arg.clone() }
        };
        let operand = |o: &Arg| {
            let strides = broadcast_strides(o, &view.shape);
            if strides.iter().all(|s| *s == 0) {
                return Some(o.clone());
            }
            self.lies_dense(&strides).then(|| wide(o, &strides))
        };
        let operands = self.operands.iter().map(operand).collect::<Option<Vec<Arg>>>()?;
        let mut kernel = self.kernel.clone();
        *kernel.last_mut()? = width;
        let mut strides = self.geometry.strides.clone();
        *strides.last_mut()? *= p as i64;
        let b = match &self.b {
            None => None,
            Some(b) => {
                Some(constant(b, Tensor::from_vec(&[p * self.filters], b.constant.as_ref()?.to_vec::<f32>().repeat(p as usize))))
            }
        };
        Some(Conv {
            geometry: Geometry { strides, ..self.geometry.clone() },
            y: wide(&self.y, &view.strides),
            w: constant(&self.w, widened(self.w.constant.as_ref()?, p as usize, stride as usize)?),
            b,
            filters: p * self.filters,
            kernel,
            x: self.x.clone(),
            program: self.program.clone(),
            operands,
            ..*self
        })
    }

    /// Filters of a pixel are neighbours, and those of the next pixel follow.
    fn lies_dense(&self, strides: &[i64]) -> bool {
        strides[1] == 1 && strides.last() == Some(&(self.filters as i64))
    }
}

fn constant(arg: &Arg, value: Tensor) -> Arg {
    Arg { view: View::contiguous(value.shape()), constant: Some(value), ..arg.clone() }
}

/// Weights `[M, C, ..., width]` as `[p * M, C, ..., width + (p - 1) * stride]`.
fn widened(w: &Tensor, p: usize, stride: usize) -> Option<Tensor> {
    let values = (w.dtype() == DType::F32).then(|| w.to_vec::<f32>())?;
    let (mut shape, width) = (w.shape().to_vec(), *w.shape().last()? as usize);
    let wide = width + (p - 1) * stride;
    (shape[0], *shape.last_mut()?) = (shape[0] * p as u64, wide as u64);
    let mut out = vec![0.0f32; p * (values.len() / width.max(1)) * wide];
    let rows = values.chunks_exact(width.max(1));
    let n = rows.len();
    for (row, weights) in rows.enumerate() {
        for t in 0..p {
            let at = (t * n + row) * wide + t * stride;
            out[at..at + width].copy_from_slice(weights);
        }
    }
    Some(Tensor::from_vec(&shape, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_move_along_the_row() {
        let w = Tensor::from_vec(&[2, 1, 1, 2], vec![1.0f32, 2.0, 3.0, 4.0]);
        let wide = widened(&w, 2, 1).expect("floats");
        assert_eq!(wide.shape(), [4, 1, 1, 3]);
        assert_eq!(wide.to_vec::<f32>(), [1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 0.0, 1.0, 2.0, 0.0, 3.0, 4.0]);
        assert_eq!(widened(&w, 2, 2).expect("floats").to_vec::<f32>()[8..12], [0.0, 0.0, 1.0, 2.0]);
    }
}
