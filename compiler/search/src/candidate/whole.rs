//! The whole matrix: only what its weights are changes.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Balance, Mask, Moments, Repair, prune};

use super::{Applied, Curve, Form, Site, Treated};
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

    fn curve(&self, _: &Site, _: (&Moments, &Moments), _: Method) -> Option<Curve> {
        None
    }

    fn fitted(&self, site: &Site, _: f64, known: (&Moments, &Moments), method: Method) -> Treated {
        let judged = (known.0, Some(known.1));
        if method.repair == Repair::None || known.0.cross.is_none() {
            let coded = site.part(&site.matrix()).fitted(judged, None, method);
            return Treated::single(coded, &vec![0.0; site.layer.n], 0.0, 1.0);
        }
        // Layers before it pass on something else than those of the dense model: it makes up for that.
        let Method { repair, damping, .. } = method;
        let all = prune(
            &site.matrix(),
            known.0,
            Some(known.1),
            &site.shape(),
            &[1.0],
            Mask::Magnitude,
            repair,
            Balance::Equal,
            damping,
        );
        let one = all.into_iter().next().expect("internal: search: one density, one result");
        let coded = site.part(&one.weights).fitted(judged, None, method);
        Treated::single(coded, &one.bias_shift, one.check_error.unwrap_or(one.error), 1.0)
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
