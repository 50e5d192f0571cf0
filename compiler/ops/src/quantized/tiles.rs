//! Convolutions of bytes by Winograd's algorithm.

use onnxc_ir::DType;
use onnxc_ir::lower::LowerCx;

use super::integer::Integer;
use crate::conv::winograd::{self, Tiled, numbers::Numbers, points::Points};

impl Integer {
    /// The points of Winograd's algorithm, if that is asked for and computes it.
    pub(super) fn points(&self, cx: &LowerCx) -> Option<&'static Points> {
        let ones = |steps: &[i64]| steps.iter().all(|s| *s == 1);
        let plain = self.group == 1 && ones(&self.dilations) && self.w_zeros.iter().all(|z| *z == 0);
        let words = winograd::fits_words(self.x.view.shape[1]) && !self.is_words() && !cx.target.word_tiles.is_empty();
        let fixed = self.x.view.is_fixed() && self.y.view.is_fixed();
        let points = winograd::points(cx.attrs).filter(|_| plain && words && fixed)?.whole()?;
        let window = self.kernel == [points.taps as u64; 2] && self.strides == [points.stride as i64; 2];
        (window && self.has_room(points)).then_some(points)
    }

    /// Have the largest sums of products 32 bits after they were multiplied by the power of two that is in results?
    fn has_room(&self, points: &Points) -> bool {
        let x = if self.x.dtype == DType::U8 { 255 } else { 128 };
        let room = i64::from(i32::MAX >> points.multiple().1) / x;
        self.weights.sizes().iter().all(|size| *size <= room)
    }

    /// The convolution by Winograd's algorithm: exact, since all its sums are, modulo 2^32.
    pub(super) fn emit_in_tiles(mut self, cx: &mut LowerCx, points: &'static Points) {
        let over = winograd::overhang(points, self.y.view.shape[2], self.y.view.shape[3]);
        self.pads.1.iter_mut().zip(over).for_each(|(pad, over)| *pad += over);
        let bordered = if self.is_padded() { self.bordered(cx) } else { Some(self.x.clone()) };
        let dense = bordered.filter(|x| x.view.strides[1] == 1);
        let x = dense.unwrap_or_else(|| self.copied(cx, &self.x, self.is_padded(), self.x.dtype, 0).arg);
        let tiled = Tiled {
            numbers: Numbers::Integers,
            x,
            channels: self.x.view.shape[1],
            filters: self.y.view.shape[1],
            weights: (self.weights.tensor().clone(), self.weights.moved()),
            bias: Some((self.start(cx, 0), 0)),
            y: self.y,
            program: self.program,
            operands: self.operands,
        };
        winograd::emit(cx, &tiled, points);
    }
}
