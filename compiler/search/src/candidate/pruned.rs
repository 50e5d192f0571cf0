//! A part of the positions, which all outputs of a panel share; what is left is fitted again.
//!
//! Panels are those of tiles of two vectors, or halves of them ([`HALVES`]) where tiles of one vector multiply nearly as fast: fewer filters that share
//! positions lose less at the same density, and a multiplication takes somewhat longer. Prices and errors decide. What an error does to the answers is
//! measured once for both: halves that came off better by chance would be chosen for it. Whole kernels of a channel are positions that go together
//! ([`super::connected`]).

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{self, Balance, Damping, Mask, Matrix, Moments, Repair, Shape, prune};

use super::{Applied, Curve, Form, Numbers, Probe, Site, Treated};
use crate::assemble::{Method, Subject};
use crate::recipe::{Layer, Weights};
use crate::search::Goal;

/// Filters from which on halves of panels are tried: more than the 16 of one of them.
const LEAST_OF_HALVES: usize = 17;

/// A form that leaves out positions.
pub struct Pruned {
    /// What recipes call it.
    pub name: &'static str,
    /// Parts of a panel, of which each has positions of its own.
    pub parts: usize,
    /// All taps of a channel are kept or dropped together.
    pub whole_kernels: bool,
    /// May weights be integers?
    pub integers: bool,
    /// Shares of positions that are tried.
    pub densities: &'static [f64],
    /// Those of them whose effects on the answers are measured ([`Curve::probes`]).
    pub probes: [f64; 3],
    /// The name of the form that leaves out what does the same to the answers.
    pub alike: &'static str,
    /// Can a layer of one group be of it?
    pub fits: fn(&Weighted) -> bool,
}

/// Panels of the target share positions.
pub const PANELS: Pruned = Pruned {
    name: "pruned",
    parts: 1,
    whole_kernels: false,
    integers: true,
    densities: &[0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.16, 0.11, 0.08],
    probes: [0.5, 0.8, 0.22],
    alike: "pruned",
    fits: |layer| layer.k() >= 8 && layer.n >= 4,
};
/// Halves of them do: tiles of bytes have none. What has no more filters than half a panel is the same in both forms. What is left out of half a panel does to the
/// answers what is left out of a whole one does.
pub const HALVES: Pruned = Pruned {
    name: "pruned_half",
    parts: 2,
    integers: false,
    fits: |layer| layer.k() >= 8 && layer.n >= LEAST_OF_HALVES,
    ..PANELS
};

impl Form for Pruned {
    fn name(&self) -> &'static str {
        self.name
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.pruning && (self.parts == 1 || goal.half_panels)
    }

    fn densities(&self) -> &'static [f64] {
        self.densities
    }

    fn takes(&self, numbers: &dyn Numbers) -> bool {
        self.integers || numbers.weights() == Weights::F32
    }

    fn suits(&self, numbers: &dyn Numbers, goal: &Goal) -> bool {
        numbers.weights() == Weights::F32 || numbers.integers() || numbers.dynamic() || goal.bytes_matter()
    }

    fn fits(&self, layer: &Weighted) -> bool {
        layer.groups == 1 && (self.fits)(layer)
    }

    fn by_panels(&self) -> bool {
        true
    }

    fn alike(&self) -> &'static str {
        self.alike
    }

    fn group(&self, subject: &Subject) -> usize {
        subject.group / self.parts
    }

    fn curve(&self, site: &Site, known: (&Moments, &Moments), method: Method) -> Option<Curve> {
        let all = self.dropped(site, self.densities, known, method);
        let error = |p: &compress::Pruned| p.check_error.unwrap_or(p.error);
        let at =
            |d: f64| self.densities.iter().position(|x| *x == d).expect("internal: search: probes are some of the densities");
        Some(Curve {
            errors: self.densities.iter().zip(&all).map(|(d, p)| (*d, error(p))).collect(),
            probes: self.probes.map(|d| Probe::of(&all[at(d)])),
        })
    }

    fn fitted(&self, site: &Site, density: f64, known: (&Moments, &Moments), method: Method) -> Treated {
        let one =
            self.dropped(site, &[density], known, method).into_iter().next().expect("internal: search: one density, one result");
        let (shape, kept) = (self.shape(site), &one.kept[..]);
        // Groups of filters in another order are none of the layer's.
        let kept = (!method.reorder).then_some((&shape, kept));
        let coded = site.part(&one.weights).fitted((known.0, Some(known.1)), kept, method);
        Treated::single(coded, &one.bias_shift, one.check_error.unwrap_or(one.error), density)
    }

    /// Positions are dropped by size of weights, since only their number matters.
    fn rough(&self, site: &Site, density: f64) -> Treated {
        let flat = Moments::identity(site.layer.k());
        let (mask, repair, damping) = (Mask::Magnitude, Repair::None, Damping::Fixed(0.01));
        let all = prune(&site.matrix(), &flat, None, &self.shape(site), &[density], mask, repair, Balance::Free, damping);
        site.rough(&all.into_iter().next().expect("internal: search: one density, one result").weights)
    }

    fn bytes(&self, site: &Site, density: f64) -> f64 {
        let weights = (site.layer.n * site.layer.k()) as f64;
        let unit = site.numbers.unit() * if self.whole_kernels { site.layer.taps } else { 1 };
        let positions = site.layer.n.div_ceil(self.group(site.subject)) as f64 * site.layer.k() as f64 / unit as f64;
        density * (weights * site.numbers.bytes() + 4.0 * positions)
    }

    fn apply(&self, cx: &mut Applied, found: &Weighted, layer: &Layer) -> Result<Vec<Node>, String> {
        cx.single(found, layer)
    }
}

impl Pruned {
    /// Which positions of the weights are kept or dropped together.
    fn shape(&self, site: &Site) -> Shape {
        Shape { group: self.group(site.subject), whole_channels: self.whole_kernels, ..site.shape() }
    }

    /// The layer at some densities.
    fn dropped(&self, site: &Site, densities: &[f64], known: (&Moments, &Moments), method: Method) -> Vec<compress::Pruned> {
        let Method { mask, repair, damping, balance, .. } = method;
        let (matrix, shape) = (site.matrix(), self.shape(site));
        let all = |matrix: &Matrix| prune(matrix, known.0, Some(known.1), &shape, densities, mask, repair, balance, damping);
        if !method.reorder {
            return all(&matrix);
        }
        let order = compress::order(&matrix, known.0, &shape);
        let row = |c: &u32| matrix.values[*c as usize * matrix.k..][..matrix.k].to_vec();
        let moved = Matrix { values: order.iter().flat_map(row).collect(), ..matrix.clone() };
        all(&moved).into_iter().map(|one| back(one, &order)).collect()
    }
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
