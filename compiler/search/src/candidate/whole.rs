//! The whole matrix: only what its weights are changes.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::Moments;
use onnxc_passes::compress::weighted::Weighted;

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

    fn fitted(&self, site: &Site, _: f64, (moments, _): (&Moments, &Moments), method: Method) -> Treated {
        let coded = site.numbers.fitted(site.layer, &site.matrix(), moments, None, method);
        Treated::single(coded, &vec![0.0; site.layer.n], 0.0, 1.0)
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
