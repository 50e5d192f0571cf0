//! A part of the positions, which all outputs of a panel share; what is left is fitted again.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{self, Balance, Damping, Mask, Matrix, Moments, Repair, prune};

use super::{Applied, Curve, Form, Site, Treated};
use crate::assemble::Method;
use crate::recipe::Layer;
use crate::search::Goal;

/// Shares of positions that are tried.
const DENSITIES: &[f64] = &[0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.16, 0.11, 0.08];
/// The densities whose effects on the answers are measured ([`Curve::probes`]).
const PROBES: [f64; 3] = [0.5, 0.8, 0.22];

/// The form.
pub struct Pruned;

impl Form for Pruned {
    fn name(&self) -> &'static str {
        "pruned"
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.pruning
    }

    fn densities(&self) -> &'static [f64] {
        DENSITIES
    }

    fn fits(&self, layer: &Weighted) -> bool {
        layer.groups == 1 && layer.k() >= 8 && layer.n >= 4
    }

    fn by_panels(&self) -> bool {
        true
    }

    fn curve(&self, site: &Site, known: (&Moments, &Moments), method: Method) -> Option<Curve> {
        let all = dropped(site, DENSITIES, known, method);
        let error = |p: &compress::Pruned| p.check_error.unwrap_or(p.error);
        let at = |d: f64| DENSITIES.iter().position(|x| *x == d).expect("internal: search: probes are some of the densities");
        Some(Curve {
            errors: DENSITIES.iter().zip(&all).map(|(d, p)| (*d, error(p))).collect(),
            probes: PROBES.map(|d| (error(&all[at(d)]), all[at(d)].weights.clone())),
        })
    }

    fn fitted(&self, site: &Site, density: f64, known: (&Moments, &Moments), method: Method) -> Treated {
        let one = dropped(site, &[density], known, method).into_iter().next().expect("internal: search: one density, one result");
        let (shape, kept) = (site.shape(), &one.kept[..]);
        // Groups of filters in another order are none of the layer's.
        let kept = (!method.reorder).then_some((&shape, kept));
        let coded = site.part(&one.weights).fitted((known.0, Some(known.1)), kept, method);
        Treated::single(coded, &one.bias_shift, one.check_error.unwrap_or(one.error), density)
    }

    /// Positions are dropped by size of weights, since only their number matters.
    fn rough(&self, site: &Site, density: f64) -> Treated {
        let flat = Moments::identity(site.layer.k());
        let (mask, repair, damping) = (Mask::Magnitude, Repair::None, Damping::Fixed(0.01));
        let all = prune(&site.matrix(), &flat, None, &site.shape(), &[density], mask, repair, Balance::Free, damping);
        site.rough(&all.into_iter().next().expect("internal: search: one density, one result").weights)
    }

    fn bytes(&self, site: &Site, density: f64) -> f64 {
        let weights = (site.layer.n * site.layer.k()) as f64;
        let positions = site.layer.n.div_ceil(site.subject.group) as f64 * site.layer.k() as f64 / site.numbers.unit() as f64;
        density * (weights * site.numbers.bytes() + 4.0 * positions)
    }

    fn apply(&self, cx: &mut Applied, found: &Weighted, layer: &Layer) -> Result<Vec<Node>, String> {
        cx.single(found, layer)
    }
}

/// The layer at some densities.
fn dropped(site: &Site, densities: &[f64], known: (&Moments, &Moments), method: Method) -> Vec<compress::Pruned> {
    let Method { mask, repair, damping, balance, .. } = method;
    let (matrix, shape) = (site.matrix(), site.shape());
    let all = |matrix: &Matrix| prune(matrix, known.0, Some(known.1), &shape, densities, mask, repair, balance, damping);
    if !method.reorder {
        return all(&matrix);
    }
    let order = compress::order(&matrix, known.0, &shape);
    let row = |c: &u32| matrix.values[*c as usize * matrix.k..][..matrix.k].to_vec();
    let moved = Matrix { values: order.iter().flat_map(row).collect(), ..matrix.clone() };
    all(&moved).into_iter().map(|one| back(one, &order)).collect()
}

/// A result for filters in another order, with the filters where they were.
fn back(one: compress::Pruned, order: &[u32]) -> compress::Pruned {
    let (mut weights, mut bias_shift) = (one.weights.clone(), one.bias_shift.clone());
    let k = weights.k;
    for (i, c) in order.iter().enumerate() {
        let c = *c as usize;
        weights.values[c * k..][..k].copy_from_slice(&one.weights.values[i * k..][..k]);
        bias_shift[c] = one.bias_shift[i];
    }
    compress::Pruned { weights, bias_shift, ..one }
}
