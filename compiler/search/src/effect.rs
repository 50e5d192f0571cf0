//! What errors of a layer do to the answers, from a few that were measured.

use onnxc_passes::compress::weighted::Weighted;

use crate::Result;
use crate::candidate::{Curve, Pick, Treated};
use crate::recipe::Weights;
use crate::search::Search;
use crate::walk::Walk;

/// Divergences below this one are small enough to be proportional to errors.
const SMALL: f64 = 0.2;

/// A divergence for each relative error of a layer in one form.
pub struct Effect {
    /// Relative errors with the divergences that were measured, ascending.
    measured: Vec<(f64, f64)>,
}

/// The least of both that counts as something.
const LEAST: f64 = 1e-12;
/// What a unit of relative error does at least: that a few samples do not show it does not make it free.
const LEAST_RATIO: f64 = 1e-2;

impl Effect {
    /// From relative errors and the divergences that they were measured to make.
    pub fn of(measured: impl IntoIterator<Item = (f64, f64)>) -> Effect {
        let mut measured: Vec<(f64, f64)> =
            measured.into_iter().map(|(e, d)| (e.max(LEAST), d.max(LEAST_RATIO * e).max(LEAST))).collect();
        measured.sort_by(|a, b| a.0.total_cmp(&b.0));
        Effect { measured }
    }

    /// The divergence that an error makes: in proportion to it beside what was measured, a power of it between.
    pub fn at(&self, error: f64) -> f64 {
        let after = self.measured.partition_point(|m| m.0 < error);
        match (after.checked_sub(1).map(|before| self.measured[before]), self.measured.get(after)) {
            (Some(low), Some(high)) if error.is_finite() => {
                let share = (error / low.0).ln() / (high.0 / low.0).ln();
                low.1 * (high.1 / low.1).powf(share)
            }
            (_, Some(&only)) | (Some(only), None) => only.1 * error / only.0,
            (None, None) => f64::INFINITY,
        }
    }
}

/// Runs of the model with a layer, and what is behind it, changed. What is before it runs once for all of them.
pub(crate) struct Probes<'a> {
    search: &'a Search<'a>,
    walk: Walk<'a>,
    sample: &'a [usize],
}

impl<'a> Probes<'a> {
    /// Of a layer, or of it and others behind it.
    ///
    /// # Errors
    /// When the dense model does not run on the samples.
    pub(crate) fn of(search: &'a Search, layer: &Weighted, sample: &'a [usize]) -> Result<Probes<'a>> {
        let subject = &search.subject;
        let mut walk = Walk::new(subject.backend, &subject.graph, subject.samples);
        walk.go(layer, sample)?;
        Ok(Probes { search, walk, sample })
    }

    /// What errors of a layer in a form, or of several ones together, do to the answers: a usual one, and a large one, which does more than in proportion where the
    /// model recovers from small ones; or a small one where the usual one makes them other answers altogether.
    pub(crate) fn effect(&self, curves: &[(usize, &Curve)]) -> Result<Effect> {
        let effect = |size: usize| -> Result<(f64, f64)> {
            let treated = |(n, curve): &(usize, &Curve)| {
                let site = self.search.subject.site(&self.search.subject.layers[*n], Weights::F32);
                (*n, Pick::DENSE, site.probed(&curve.probes[size]))
            };
            let error = curves.iter().map(|(_, curve)| curve.probes[size].error).sum();
            Ok((error, self.divergence(curves.iter().map(treated).collect())?))
        };
        let [usual, small, large] = [0, 1, 2];
        let first = effect(usual)?;
        if first.1 >= SMALL {
            return Ok(Effect::of([effect(small)?]));
        }
        let most: f64 = curves.iter().map(|(_, curve)| curve.probes[large].error).sum();
        let second = if most > first.0 && most.is_finite() { Some(effect(large)?) } else { None };
        Ok(Effect::of([first].into_iter().chain(second)))
    }

    /// The divergence of the answers with some layers, by number, changed to these.
    pub(crate) fn divergence(&self, layers: Vec<(usize, Pick, Treated)>) -> Result<f64> {
        let subject = &self.search.subject;
        let mut changes: Vec<Option<(Pick, Treated)>> = subject.layers.iter().map(|_| None).collect();
        layers.into_iter().for_each(|(n, pick, treated)| changes[n] = Some((pick, treated)));
        let made = subject.with(changes)?;
        Ok(self.search.judge.score(&self.walk.answers(&made.graph, self.sample)?).divergence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_effects_are_kept_and_those_between_follow_a_power() {
        let effect = Effect::of([(1e-1, 9.0), (1e-3, 9e-4)]);
        let near = |error: f64, divergence: f64| assert!((effect.at(error) / divergence - 1.0).abs() < 1e-9, "{error}");
        near(1e-3, 9e-4);
        near(1e-1, 9.0);
        near(1e-2, 9e-2);
        near(1e-4, 9e-5);
        near(2e-1, 18.0);
        assert_eq!(effect.at(0.0), 0.0);
        assert_eq!(effect.at(f64::INFINITY), f64::INFINITY);
    }

    #[test]
    fn no_error_is_free_because_some_samples_do_not_show_it() {
        assert!((Effect::of([(0.5, 0.0)]).at(0.5) - 5e-3).abs() < 1e-12);
    }
}
