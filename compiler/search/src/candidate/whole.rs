//! The whole matrix: only what its weights are changes.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Balance, Mask, Matrix, Moments, Repair, prune};

use super::{Applied, Curve, Form, Numbers, Site, Treated};
use crate::assemble::Method;
use crate::recipe::Layer;
use crate::search::Goal;

/// The form.
pub struct Whole;

impl Form for Whole {
    fn name(&self) -> &'static str {
        "whole"
    }

    fn wanted(&self, _: &Goal) -> bool {
        true
    }

    fn densities(&self) -> &'static [f64] {
        &[1.0]
    }

    fn fits(&self, _: &Weighted) -> bool {
        true
    }

    fn takes(&self, _: &dyn Numbers) -> bool {
        true
    }

    fn suits(&self, _: &dyn Numbers, _: &Goal) -> bool {
        true
    }

    fn curve(&self, _: &Site, _: (&Moments, &Moments), _: Method) -> Option<Curve> {
        None
    }

    fn fitted(&self, site: &Site, _: f64, known: (&Moments, &Moments), method: Method) -> Treated {
        let Repaired { weights, shift, error } = repaired(site, known, method);
        let coded = site.part(&weights).fitted((known.0, Some(known.1)), None, method);
        Treated::single(coded, &shift, error, 1.0)
    }

    fn rough(&self, site: &Site, _: f64) -> Treated {
        site.rough(&site.matrix())
    }

    fn bytes(&self, site: &Site, _: f64) -> f64 {
        (site.layer.n * site.layer.k()) as f64 * site.numbers.bytes()
    }

    fn apply(&self, cx: &mut Applied, found: &Weighted, layer: &Layer) -> Result<Vec<Node>, String> {
        cx.single(found, layer)
    }
}

/// Weights of the whole matrix before they are rounded.
pub(super) struct Repaired {
    pub weights: Matrix,
    /// Added to the bias.
    pub shift: Vec<f32>,
    /// Relative error on data held out.
    pub error: f64,
}

/// The weights that make up for what layers before this one pass on, if that is something else than those of the dense model do.
pub(super) fn repaired(site: &Site, (fit, check): (&Moments, &Moments), method: Method) -> Repaired {
    let weights = site.matrix();
    if method.repair == Repair::None || fit.cross.is_none() {
        return Repaired { shift: vec![0.0; weights.n], weights, error: 0.0 };
    }
    let Method { repair, damping, .. } = method;
    let all = prune(&weights, fit, Some(check), &site.shape(), &[1.0], Mask::Magnitude, repair, Balance::Equal, damping);
    let one = all.into_iter().next().expect("internal: search: one density, one result");
    Repaired { error: one.check_error.unwrap_or(one.error), weights: one.weights, shift: one.bias_shift }
}
