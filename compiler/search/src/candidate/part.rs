//! Weights on their way to numbers: those of a layer, or of one that takes a part of its place.
//!
//! Channels of what becomes integers may be multiplied by factors before ([`equalise`]). Masks, fits and splits know nothing of these: weights are divided by them,
//! and moments are made those of the products, only when weights are rounded.

use std::borrow::Cow;

use onnxc_passes::compress::equalise;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Matrix, Moments, Shape};

use super::{Coded, Numbers};
use crate::assemble::Method;

/// Weights that are to become numbers.
pub struct Part<'a> {
    /// The layer that has them.
    pub layer: &'a Weighted,
    /// What they are for operands that are not multiplied.
    pub weights: &'a Matrix,
    /// What the channels of its operand are multiplied by, if they are.
    pub factors: Option<Vec<f32>>,
    /// What they become.
    pub numbers: &'static dyn Numbers,
}

impl Part<'_> {
    /// The weights for the operand as it becomes.
    pub fn divided(&self) -> Cow<'_, Matrix> {
        let divided = |factors| Cow::Owned(equalise::divided(self.layer, self.weights, factors));
        self.factors.as_deref().map_or(Cow::Borrowed(self.weights), divided)
    }

    /// Moments of the operand as it becomes.
    pub fn moments<'m>(&self, moments: &'m Moments) -> Cow<'m, Moments> {
        let multiplied = |factors| Cow::Owned(equalise::multiplied(self.layer, moments, factors));
        self.factors.as_deref().map_or(Cow::Borrowed(moments), multiplied)
    }

    /// Those with which the layer's result changes least; as [`Numbers::fitted`].
    pub fn fitted(
        &self,
        (fit, check): (&Moments, Option<&Moments>),
        kept: Option<(&Shape, &[Vec<u32>])>,
        method: Method,
    ) -> Coded {
        let (fit, check) = (self.moments(fit), check.map(|check| self.moments(check)));
        self.numbers.fitted(self.layer, &self.divided(), (&fit, check.as_deref()), kept, method)
    }

    /// The same without moments.
    pub fn rough(&self) -> Coded {
        self.numbers.rough(self.layer, &self.divided())
    }
}
