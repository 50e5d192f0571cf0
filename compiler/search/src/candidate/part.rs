//! Weights on their way to numbers: those of a layer, or of one that takes a part of its place.
//!
//! Channels of what becomes integers may be multiplied by factors before ([`equalise`]). Masks, fits and splits know nothing of these: weights are divided by them,
//! and moments are made those of the products, only when weights are rounded.

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
    /// Those with which the layer's result changes least; as [`Numbers::fitted`].
    pub fn fitted(
        &self,
        (fit, check): (&Moments, Option<&Moments>),
        kept: Option<(&Shape, &[Vec<u32>])>,
        method: Method,
    ) -> Coded {
        let Some(factors) = &self.factors else {
            return self.numbers.fitted(self.layer, self.weights, (fit, check), kept, method);
        };
        let of_products = |moments: &Moments| equalise::multiplied(self.layer, moments, factors);
        let weights = equalise::divided(self.layer, self.weights, factors);
        self.numbers.fitted(self.layer, &weights, (&of_products(fit), check.map(of_products).as_ref()), kept, method)
    }

    /// The same without moments.
    pub fn rough(&self) -> Coded {
        match &self.factors {
            Some(factors) => self.numbers.rough(self.layer, &equalise::divided(self.layer, self.weights, factors)),
            None => self.numbers.rough(self.layer, self.weights),
        }
    }
}
