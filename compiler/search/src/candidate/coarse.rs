//! The whole matrix in integers with one step for all filters, so coarse that most weights may become zero: what an entropy coder stores in few bits.
//!
//! Numbers of 8 bits say what the integers are; the density is the share of them that is not zero, and the sweep of GPTQ makes up for the errors
//! ([`WeightRange::Share`]). Lists of positions seldom pay, since those of a panel of filters are rarely all zero: the layer multiplies as one of 8 bits does, and
//! only its bytes are fewer. So it is a candidate where weights are stored coded, and bytes are what is to be little or limited.

use onnxc_ir::graph::Node;
use onnxc_passes::compress::weighted::Weighted;
use onnxc_passes::compress::{Grid, Matrix, Moments, Rounded, Sums, WeightRange, equalise, nearest, round, round_each};

use super::{Applied, Curve, Form, Numbers, Probe, Site, Treated, bytes, whole};
use crate::assemble::Method;
use crate::recipe::Layer;
use crate::search::Goal;

/// Shares of weights that are not to become zero.
const SHARES: &[f64] = &[0.95, 0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.16, 0.11, 0.07];
/// The shares whose effects on the answers are measured ([`Curve::probes`]).
const PROBES: [f64; 3] = [0.3, 0.65, 0.11];

/// The form.
pub struct Coarse;

impl Form for Coarse {
    fn name(&self) -> &'static str {
        "coarse"
    }

    fn wanted(&self, goal: &Goal) -> bool {
        goal.pruning && goal.coded && goal.bytes_matter()
    }

    fn densities(&self) -> &'static [f64] {
        SHARES
    }

    fn fits(&self, layer: &Weighted) -> bool {
        layer.groups == 1 && !layer.is_state()
    }

    fn takes(&self, numbers: &dyn Numbers) -> bool {
        numbers.bytes() == 1.0 && !numbers.dynamic()
    }

    fn suits(&self, _: &dyn Numbers, _: &Goal) -> bool {
        true
    }

    fn multiplied(&self, _density: f64) -> f64 {
        1.0
    }

    fn curve(&self, site: &Site, known: (&Moments, &Moments), method: Method) -> Option<Curve> {
        let (weights, grids) = (site.matrix(), SHARES.iter().map(|share| grid(site, *share)).collect::<Vec<Grid>>());
        let part = site.part(&weights);
        let (fit, check) = (part.moments(known.0), part.moments(known.1));
        let all = round_each(&part.divided(), (&fit, Some(&check)), &grids, method.rounding);
        let at = |share: f64| SHARES.iter().position(|x| *x == share).expect("internal: search: probes are some of the shares");
        Some(Curve {
            errors: SHARES.iter().zip(&all).map(|(share, rounded)| (*share, on_others(rounded))).collect(),
            probes: PROBES.map(|share| probe(site, &all[at(share)])),
        })
    }

    fn fitted(&self, site: &Site, density: f64, known: (&Moments, &Moments), method: Method) -> Treated {
        let repaired = whole::repaired(site, known, method);
        let part = site.part(&repaired.weights);
        let (fit, check) = (part.moments(known.0), part.moments(known.1));
        let rounded = round(&part.divided(), (&fit, Some(&check)), &grid(site, density), None, method.rounding);
        let left = rounded.values.iter().filter(|v| **v != 0).count() as f64 / rounded.values.len().max(1) as f64;
        Treated::single(bytes::coded(site.layer, rounded), &repaired.shift, repaired.error, left)
    }

    fn rough(&self, site: &Site, density: f64) -> Treated {
        let weights = site.matrix();
        let coded = bytes::exact(site.layer, weights.n, nearest(&site.part(&weights).divided(), &grid(site, density)));
        Treated::single(coded, &vec![0.0; weights.n], 0.0, density)
    }

    fn bytes(&self, site: &Site, _: f64) -> f64 {
        whole::Whole.bytes(site, 1.0)
    }

    fn apply(&self, cx: &mut Applied, found: &Weighted, layer: &Layer) -> Result<Vec<Node>, String> {
        cx.single(found, layer)
    }
}

/// The integers of a share.
fn grid(site: &Site, share: f64) -> Grid {
    let grid = site.numbers.grid(site.layer).expect("internal: search: integers of 8 bits are those of a grid");
    // What short weights are for here is fewer digits.
    let sums = grid.sums.map(|sums| Sums { apart: true, ..sums });
    Grid { range: WeightRange::Share(share), sums, ..grid }
}

fn on_others(rounded: &Rounded) -> f64 {
    rounded.check_error.unwrap_or(rounded.error)
}

/// What the integers stand for, beside the operand as the layer has it.
fn probe(site: &Site, rounded: &Rounded) -> Probe {
    let Weighted { n, .. } = *site.layer;
    let k = site.layer.k();
    let values = rounded.values.iter().enumerate().map(|(i, v)| f32::from(*v) * rounded.scales[i / k]).collect();
    let mut weights = Matrix { n, k, values };
    if let Some(factors) = site.factors() {
        let inverse: Vec<f32> = factors.iter().map(|f| f.recip()).collect();
        weights = equalise::divided(site.layer, &weights, &inverse);
    }
    Probe { error: on_others(rounded), weights, shift: rounded.bias_shift.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Caps;
    use crate::candidate::kinds;
    use crate::price::Objective;
    use crate::recipe::Weights;

    /// Nothing is limited, and everything may be done.
    fn goal(objective: Objective, coded: bool) -> Goal {
        Goal {
            objective,
            max_drop: 0.01,
            caps: Caps::default(),
            metric: None,
            integers: true,
            short_steps: 0,
            words: false,
            weight_only: true,
            pruning: true,
            half_panels: true,
            low_rank: true,
            streams: false,
            reorder: false,
            dynamic: false,
            coded,
            method: Method::default(),
        }
    }

    #[test]
    fn it_is_tried_where_bytes_matter_and_are_those_of_coded_weights() {
        let tried = |goal: Goal| kinds(&goal).into_iter().filter(|k| k.form.name() == "coarse").collect::<Vec<_>>();
        let small = goal(Objective::Size, true);
        let weights: Vec<Weights> = tried(small).iter().map(|k| k.weights).collect();
        assert_eq!(weights, [[Weights::Int8; SHARES.len()], [Weights::Byte; SHARES.len()]].concat());
        let limited = Goal { caps: Caps { weight_bytes: Some(1e5), ..Caps::default() }, ..goal(Objective::Latency, true) };
        assert_eq!(tried(limited).len(), tried(small).len());
        let without_inputs = small.by_weights_alone();
        for other in [goal(Objective::Size, false), goal(Objective::Latency, true), without_inputs] {
            assert!(tried(other).is_empty(), "{other:?}");
        }
    }

    #[test]
    fn other_forms_have_the_numbers_that_they_are_fast_or_small_with() {
        let numbers = |goal: &Goal, form: &str| {
            let mut all: Vec<Weights> = kinds(goal).iter().filter(|k| k.form.name() == form).map(|k| k.weights).collect();
            all.dedup();
            all
        };
        use Weights::{Byte, F32, Int8, Nibble};
        for (of, coded) in [(Objective::Latency, false), (Objective::Size, false), (Objective::Size, true)] {
            let goal = goal(of, coded);
            assert_eq!(numbers(&goal, "whole"), [F32, Int8, Byte, Nibble]);
            assert_eq!(numbers(&goal, "pruned_half"), [F32]);
            assert_eq!(numbers(&goal, "low_rank"), [F32, Int8]);
            let small = of == Objective::Size;
            assert_eq!(numbers(&goal, "pruned"), if small { vec![F32, Int8, Byte, Nibble] } else { vec![F32, Int8] });
        }
    }
}
