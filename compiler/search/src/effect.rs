//! What errors of a layer do to the answers, from a few that were measured.

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
