//! By how much decisions lead, how likely texts are, and what is expected to be lost when compression changes that.
//!
//! A few hundred samples count in steps of half a point, so that beside what is counted the loss of accuracy is estimated from margins. A sample's margin is by
//! how much (in log-probability) its decision leads; compression changes margins, by amounts that are seen on all samples; a sample of a small margin would
//! have been decided otherwise by the change that its neighbour got. The mean over pairs of neighbours has the resolution of pairs. Another decision costs the
//! difference of the probabilities that the dense model gives to both: of two that it holds for equally likely, the other one is right as often.

/// An answer's scores of classes, as log-probabilities. Texts have many rows of many classes, of which few are looked at.
pub(crate) struct Row<'a> {
    values: &'a [f32],
    /// The largest of them and the logarithm of the sum of exponentials of what others are below it; `None`: they are probabilities.
    scale: Option<(f32, f64)>,
}

impl<'a> Row<'a> {
    /// Of probabilities or of logits.
    pub(crate) fn new(values: &'a [f32], probabilities: bool) -> Row<'a> {
        let scale = || {
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = values.iter().map(|x| f64::from(x - most).exp()).sum();
            (most, sum.ln())
        };
        Row { values, scale: (!probabilities).then(scale) }
    }

    /// The logarithm of a class's probability.
    fn log(&self, class: usize) -> f64 {
        self.log_of(self.values[class])
    }

    fn log_of(&self, value: f32) -> f64 {
        match self.scale {
            None => f64::from(value).max(1e-9).ln(),
            Some((most, sum)) => f64::from(value - most) - sum,
        }
    }

    /// Of all classes.
    pub(crate) fn logs(&self) -> impl Iterator<Item = f64> {
        self.values.iter().map(|x| self.log_of(*x))
    }

    /// The class of the largest value.
    pub(crate) fn largest(&self) -> usize {
        crate::metric::largest(self.values)
    }

    /// By how much the best of some classes, ascending, leads the others; negative when it does not.
    fn lead(&self, some: &[usize]) -> f64 {
        let most = |values: &[f32]| values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut others, mut from) = (f32::NEG_INFINITY, 0);
        for class in some {
            others = others.max(most(self.values.get(from..*class).unwrap_or_default()));
            from = class + 1;
        }
        let others = others.max(most(&self.values[from..]));
        let best = some.iter().map(|class| self.log(*class)).fold(f64::NEG_INFINITY, f64::max);
        if others == f32::NEG_INFINITY { f64::INFINITY } else { best - self.log_of(others) }
    }
}

/// By how much each row's class of `path` leads the others, the least of all rows; negative when one does not.
pub(crate) fn of_classes(rows: &[Row], path: &[usize]) -> f64 {
    rows.iter().zip(path).map(|(row, class)| row.lead(&[*class])).fold(f64::INFINITY, f64::min)
}

/// By how much the text of a best path of CTC leads those that differ from it by another class at one step: most steps are near ties of a class with the blank
/// (class 0) beside it or with its own repeat, which leave the text as it is. Negative when a step's largest class makes it another text.
pub(crate) fn of_text(rows: &[Row], path: &[usize]) -> f64 {
    let step = |(t, row): (usize, &Row)| {
        let neighbours = (t.checked_sub(1).map(|t| path[t]), path.get(t + 1).copied());
        let text = around(path[t], neighbours);
        // Of other classes than these the text would have a character that it does not have.
        let same = [Some(path[t]), Some(0), neighbours.0, neighbours.1].into_iter().flatten();
        let mut same: Vec<usize> = same.filter(|c| around(*c, neighbours) == text).collect();
        same.sort_unstable();
        row.lead(&same)
    };
    rows.iter().take(path.len()).enumerate().map(step).fold(f64::INFINITY, f64::min)
}

/// How far the probability of a text has moved (Kullback-Leibler, nats), of each of its characters as if all of them were as likely as each other, and summed up.
/// What moves a character by a step, or a near tie of a class with the blank beside it, is no divergence of texts, while it is most of the divergence of steps.
pub(crate) fn of_texts(before: &[Row], after: &[Row], text: &[i64]) -> f64 {
    let characters = text.len().max(1) as f64;
    let [p, q] = [before, after].map(|rows| (log_likelihood(rows, text) / characters).exp().clamp(1e-9, 1.0 - 1e-9));
    characters * (p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln()).max(0.0)
}

/// The logarithm of the probability of a text: of all paths that spell it (the forward variables of Graves et al., "Connectionist Temporal Classification",
/// 2006, section 4.1, scaled step by step).
fn log_likelihood(rows: &[Row], text: &[i64]) -> f64 {
    // Blanks stand around and between characters.
    let states = 2 * text.len() + 1;
    let class = |state: usize| if state.is_multiple_of(2) { 0 } else { text[state / 2] as usize };
    let mut alpha = vec![0.0; states];
    let mut sum = 0.0;
    for (step, row) in rows.iter().enumerate() {
        let before = |state: usize, back: usize| state.checked_sub(back).map_or(0.0, |state| alpha[state]);
        let skips = |state: usize| state > 2 && class(state) != 0 && class(state) != class(state - 2);
        let reached = |state: usize| match step {
            0 => f64::from(state < 2),
            _ => before(state, 0) + before(state, 1) + if skips(state) { before(state, 2) } else { 0.0 },
        };
        let next: Vec<f64> = (0..states).map(|state| reached(state) * row.log(class(state)).exp()).collect();
        let all: f64 = next.iter().sum();
        if all <= 0.0 {
            return f64::NEG_INFINITY;
        }
        sum += all.ln();
        alpha = next.iter().map(|x| x / all).collect();
    }
    sum + alpha[states.saturating_sub(2)..].iter().sum::<f64>().ln()
}

/// What a class and the one behind it add to the text.
fn around(class: usize, (before, behind): (Option<usize>, Option<usize>)) -> [usize; 2] {
    let seen = |class: usize, before: Option<usize>| if before == Some(class) { 0 } else { class };
    let [first, second] = [seen(class, before), behind.map_or(0, |behind| seen(behind, Some(class)))];
    // Blanks are not read.
    if first == 0 { [second, 0] } else { [first, second] }
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

    fn rows<const N: usize>(values: &[[f32; N]], probabilities: bool) -> Vec<Row<'_>> {
        values.iter().map(|row| Row::new(row, probabilities)).collect()
    }

    #[test]
    fn texts_lead_by_steps_that_would_change_them() {
        let lead = |of: fn(&[Row], &[usize]) -> f64, values: &[[f32; 3]], path: &[usize]| {
            (of(&rows(values, false), path) * 1e6).round() / 1e6
        };
        // "1": a blank or the repeat at the ends leave it; a 2 in the second step, or nothing in it, does not.
        let near = [[0.0, -0.1, -5.0], [-4.0, 0.0, -3.0], [-0.2, 0.0, -6.0]];
        assert_eq!(lead(of_text, &near, &[0, 1, 1]), 3.0);
        // Without the last step's class the second one carries it alone.
        assert_eq!(lead(of_text, &near, &[0, 1, 0]), 3.0);
        assert_eq!(lead(of_classes, &near, &[0, 1, 1]), 0.1);
        // "11": the blank between is all that makes it two.
        let two = [[-9.0, 0.0, -9.0], [0.0, -0.5, -2.0], [-9.0, 0.0, -9.0]];
        assert_eq!(lead(of_text, &two, &[1, 0, 1]), 0.5);
        // Another text is largest.
        assert_eq!(lead(of_text, &two, &[1, 1, 1]), -0.5);
    }

    #[test]
    fn texts_are_as_likely_as_all_paths_that_spell_them() {
        let values = [[0.5f32, 0.25, 0.25], [0.125, 0.625, 0.25], [0.625, 0.25, 0.125], [0.25, 0.5, 0.25]];
        let rows_of = rows(&values, true);
        let mut sums = std::collections::BTreeMap::<Vec<i64>, f64>::new();
        for number in 0..3usize.pow(4) {
            let path: Vec<usize> = (0..4).map(|step| number / 3usize.pow(step) % 3).collect();
            let probability: f64 = path.iter().zip(&values).map(|(class, row)| f64::from(row[*class])).product();
            *sums.entry(spelt(&path).iter().map(|c| *c as i64).collect()).or_default() += probability;
        }
        for (text, sum) in &sums {
            assert!((log_likelihood(&rows_of, text).exp() - sum).abs() < 1e-12, "{text:?}");
        }
        assert!(sums.contains_key(&vec![1, 1]) && log_likelihood(&rows_of, &[1, 1, 1]) == f64::NEG_INFINITY);
        // What comes a step later is the same text.
        let text = |path: [usize; 4]| path.map(|peak| [0, 1, 2].map(|class| if class == peak { 0.98f32 } else { 0.01 }));
        let (now, later, other) = (text([1, 0, 2, 0]), text([0, 1, 0, 2]), text([1, 0, 1, 0]));
        let apart = |a: &[[f32; 3]], b: &[[f32; 3]]| of_texts(&rows(a, true), &rows(b, true), &[1, 2]);
        assert!(apart(&now, &later) < 1e-3 && apart(&now, &other) > 2.0);
        assert_eq!(apart(&now, &now), 0.0);
    }

    fn spelt(path: &[usize]) -> Vec<usize> {
        let mut path = path.to_vec();
        path.dedup();
        path.retain(|class| *class != 0);
        path
    }

    /// Steps that leave a text as it is are those that spell the same one.
    #[test]
    fn steps_that_count_are_those_that_spell_another_text() {
        for number in 0..3usize.pow(5) {
            let path: Vec<usize> = (0..5).map(|step| number / 3usize.pow(step) % 3).collect();
            for step in 0..5 {
                for class in (0..3).filter(|class| *class != path[step]) {
                    let mut other = path.clone();
                    other[step] = class;
                    // Nothing but this class is near.
                    let mut values: Vec<[f32; 3]> =
                        path.iter().map(|own| [0, 1, 2].map(|c| if c == *own { 0.0 } else { -8.0 })).collect();
                    values[step][class] = -1.0;
                    let near = (of_text(&rows(&values, false), &path) - 1.0).abs() < 1e-6;
                    assert_eq!(near, spelt(&other) != spelt(&path), "{path:?} and {other:?}");
                }
            }
        }
    }
}
