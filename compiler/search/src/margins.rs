//! By how much decisions lead, and what is expected to be lost when compression changes that.
//!
//! A few hundred samples count in steps of half a point, so that beside what is counted the loss of accuracy is estimated from margins. A sample's margin is by
//! how much (in log-probability) its decision leads; compression changes margins, by amounts that are seen on all samples; a sample of a small margin would
//! have been decided otherwise by the change that its neighbour got. The mean over pairs of neighbours has the resolution of pairs. Another decision costs the
//! difference of the probabilities that the dense model gives to both: of two that it holds for equally likely, the other one is right as often.

/// By how much each row's class of `path` leads the others, the least of all rows; negative when one does not.
pub(crate) fn of_classes(rows: &[Vec<f64>], path: &[usize]) -> f64 {
    rows.iter().zip(path).map(|(row, class)| lead(row, |other| other == *class)).fold(f64::INFINITY, f64::min)
}

/// By how much the text of a best path of CTC leads those that differ from it by another class at one step: most steps are near ties of a class with the blank
/// (class 0) beside it or with its own repeat, which leave the text as it is. Negative when a step's largest class makes it another text.
pub(crate) fn of_text(rows: &[Vec<f64>], path: &[usize]) -> f64 {
    let step = |t: usize| {
        let neighbours = (t.checked_sub(1).map(|t| path[t]), path.get(t + 1).copied());
        let text = around(path[t], neighbours);
        // Of other classes than these the text would have a character that it does not have.
        let same = [Some(path[t]), Some(0), neighbours.0, neighbours.1].map(|c| c.filter(|c| around(*c, neighbours) == text));
        lead(&rows[t], |class| same.contains(&Some(class)))
    };
    (0..path.len()).map(step).fold(f64::INFINITY, f64::min)
}

/// What a class and the one behind it add to the text.
fn around(class: usize, (before, behind): (Option<usize>, Option<usize>)) -> [usize; 2] {
    let seen = |class: usize, before: Option<usize>| if before == Some(class) { 0 } else { class };
    let [first, second] = [seen(class, before), behind.map_or(0, |behind| seen(behind, Some(class)))];
    // Blanks are not read.
    if first == 0 { [second, 0] } else { [first, second] }
}

/// By how much the best of these elements leads the others; negative when it does not.
fn lead(row: &[f64], of: impl Fn(usize) -> bool) -> f64 {
    let most = |wanted: bool| {
        row.iter().enumerate().filter(|(i, _)| of(*i) == wanted).map(|(_, x)| *x).fold(f64::NEG_INFINITY, f64::max)
    };
    most(true) - most(false)
}

/// How many are lost at most, with a probability of 90 %, where so many were counted: the quantile of the gamma distribution that is the posterior
/// of a Poisson distribution's mean with the prior of Jeffreys, nearly (Wilson and Hilferty, "The Distribution of Chi-Square", 1931). Other priors are
/// wrong more or less often than they say (Brown, Cai and DasGupta, "Interval Estimation for a Binomial Proportion", 2001).
pub(crate) fn doubt(counted: f64) -> f64 {
    let shape = counted + 0.5;
    shape * (1.0 - 1.0 / (9.0 * shape) + NINETY / (3.0 * shape.sqrt())).powi(3)
}

/// Neighbours whose changes a sample gets: a part of all samples, and these at least. Changes of samples that hardly lead are worse than those of others, so that
/// more neighbours would make the estimate of them too good.
const NEIGHBOURS: (usize, usize) = (32, 8);
/// One-sided 90 % of a normal distribution.
const NINETY: f64 = 1.2816;

/// The loss that is expected when samples get the changes of their neighbours in the order of margins, and its 90 % bound.
///
/// Of two decisions with a margin between them and nothing else likely, the difference of probabilities is tanh(margin / 2), if the model is as sure as it is
/// right. It may be right more often (label smoothing makes it so: Müller et al., "When Does Label Smoothing Help?", 2019): the bound takes its logits twice.
pub(crate) fn expected_loss(margins: &mut [(f64, f64)]) -> (f64, f64) {
    margins.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = margins.len();
    if n == 0 {
        return (0.0, 0.0);
    }
    let near = (n / NEIGHBOURS.0).max(NEIGHBOURS.1).min(n);
    let (mut mean, mut sure, mut square) = (0.0, 0.0, 0.0);
    for (i, (margin, _)) in margins.iter().enumerate() {
        let first = i.saturating_sub(near / 2).min(n - near);
        let others = &margins[first..first + near];
        let share = others.iter().filter(|(before, after)| margin + (after - before) < 0.0).count() as f64 / near as f64;
        mean += share * (margin / 2.0).tanh() / n as f64;
        sure += share * margin.tanh() / n as f64;
        square += share * margin.tanh().powi(2) / n as f64;
    }
    (mean, sure + NINETY * ((square - sure * sure).max(0.0) / n as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_samples_show_little() {
        // Quantiles of the chi-square distribution with 1, 3 and 9 degrees of freedom, halved.
        for (counted, most) in [(0.0, 1.3528), (1.0, 3.1257), (4.0, 7.3418)] {
            assert!((doubt(counted) - most).abs() < 0.04, "{counted}: {} and not {most}", doubt(counted));
        }
    }

    #[test]
    fn texts_lead_by_steps_that_would_change_them() {
        let rows = |all: &[[f64; 3]]| all.iter().map(|r| r.to_vec()).collect::<Vec<_>>();
        // "1": a blank or the repeat at the ends leave it; a 2 in the second step, or nothing in it, does not.
        let near = rows(&[[0.0, -0.1, -5.0], [-4.0, 0.0, -3.0], [-0.2, 0.0, -6.0]]);
        assert_eq!(of_text(&near, &[0, 1, 1]), 3.0);
        // Without the last step's class the second one carries it alone.
        assert_eq!(of_text(&near, &[0, 1, 0]), 3.0);
        assert_eq!(of_classes(&near, &[0, 1, 1]), 0.1);
        // "11": the blank between is all that makes it two.
        let two = rows(&[[-9.0, 0.0, -9.0], [0.0, -0.5, -2.0], [-9.0, 0.0, -9.0]]);
        assert_eq!(of_text(&two, &[1, 0, 1]), 0.5);
        // Another text is largest.
        assert_eq!(of_text(&two, &[1, 1, 1]), -0.5);
    }

    /// Steps that leave a text as it is are those that spell the same one.
    #[test]
    fn steps_that_count_are_those_that_spell_another_text() {
        let spelt = |path: &[usize]| {
            let mut path = path.to_vec();
            path.dedup();
            path.retain(|class| *class != 0);
            path
        };
        for number in 0..3usize.pow(5) {
            let path: Vec<usize> = (0..5).map(|step| number / 3usize.pow(step) % 3).collect();
            for step in 0..5 {
                for class in (0..3).filter(|class| *class != path[step]) {
                    let mut other = path.clone();
                    other[step] = class;
                    // Nothing but this class is near.
                    let mut rows: Vec<Vec<f64>> =
                        path.iter().map(|own| (0..3).map(|c| if c == *own { 0.0 } else { -8.0 }).collect()).collect();
                    rows[step][class] = -1.0;
                    assert_eq!(of_text(&rows, &path) == 1.0, spelt(&other) != spelt(&path), "{path:?} and {other:?}");
                }
            }
        }
    }
}
