//! How far the answers of a compressed model are from those of the dense one.
//!
//! Without labels the metric is agreement: the share of samples that get the same decision. A few hundred samples count in steps of half a point, so that
//! beside what is counted the loss of accuracy is estimated from margins. A sample's margin is by how much (in log-probability) its decision leads;
//! compression changes margins, by amounts that are seen on all samples; a sample of a small margin would have been decided otherwise by the change that its
//! neighbour got. The mean over pairs of neighbours has the resolution of pairs. Another decision costs the difference of the probabilities that the dense
//! model gives to both: of two that it holds for equally likely, the other one is right as often.

use onnxc_ir::{DType, Graph, TensorType};
use serde::{Deserialize, Serialize};

use crate::taps::floats;
use crate::{Error, Result};

/// Which decision is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    /// The largest element of the first output: top-1 agreement.
    Top1,
    /// The largest element at each step, repeats joined and class 0 dropped: agreement of the best paths of CTC (Graves et al., 2006).
    Path,
    /// No decision: signal to noise, as a share: 100 % minus the noise's power over the signal's.
    Signal,
}

impl Metric {
    /// The metric for a model with this first output.
    pub fn of(output: &TensorType) -> Metric {
        let shape = output.const_shape().unwrap_or_default();
        let large: Vec<u64> = shape.iter().copied().filter(|n| *n > 1).collect();
        match large.len() {
            1 => Metric::Top1,
            2 if shape.last().is_some_and(|n| *n > 2) && shape.len() == 3 => Metric::Path,
            _ => Metric::Signal,
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Top1 => "top-1 agreement with the dense model",
            Metric::Path => "agreement of best paths with the dense model",
            Metric::Signal => "signal power less noise power, against the dense model",
        }
    }
}

/// The dense model's answers.
pub struct Judge {
    metric: Metric,
    /// Elements of a row of decisions.
    classes: usize,
    answers: Vec<Vec<f32>>,
    /// Outputs are probabilities already.
    probabilities: bool,
}

/// What the judge says.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Score {
    /// Counted agreement, 0 to 1.
    pub agreement: f64,
    /// Expected loss of accuracy, from margins, 0 to 1.
    pub expected: f64,
    /// A bound of it that holds with a probability of 90 %.
    pub bound: f64,
    /// Mean divergence of the answers (Kullback-Leibler, nats), or noise over signal.
    pub divergence: f64,
    /// Signal over noise of the first output, in decibels.
    pub sqnr: f64,
    /// Mean cosine of the first output.
    pub cosine: f64,
}

impl Score {
    /// What the contract limits: the larger one of the agreement that is lost and the bound of the loss of accuracy that is expected.
    pub fn drop(&self) -> f64 {
        (1.0 - self.agreement).max(self.bound)
    }
}

impl Judge {
    /// A judge over the first outputs of the dense model, one for each sample.
    ///
    /// # Errors
    /// When these are no f32 of known extents.
    pub fn new(graph: &Graph, metric: Metric, answers: &[Vec<Vec<u8>>]) -> Result<Judge> {
        let (name, ty) = (&graph.value(graph.outputs[0]).name, graph.ty(graph.outputs[0]));
        let shape = ty.const_shape().unwrap_or_default();
        let all: u64 = shape.iter().product();
        if ty.dtype != DType::F32 || ty.const_shape().is_none() || all == 0 {
            let why =
                format!("the first output, {name:?}, is {ty}: compression compares f32 of known extents with the dense model's");
            return Err(Error::Input(format!("{why}; make the scores that the decision comes from the first output")));
        }
        let classes = if metric == Metric::Path { shape.last().copied().unwrap_or(1) } else { all } as usize;
        let answers: Vec<Vec<f32>> = answers.iter().map(|a| floats(&a[0])).collect();
        let is_share =
            |row: &[f32]| row.iter().all(|p| (0.0..=1.001).contains(p)) && (row.iter().sum::<f32>() - 1.0).abs() < 1e-2;
        let probabilities = answers.iter().all(|a| a.chunks(classes.max(1)).all(is_share));
        Ok(Judge { metric, classes, answers, probabilities })
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Compares answers to the same samples, from sample `first` on.
    pub fn score(&self, others: &[Vec<Vec<u8>>]) -> Score {
        let (mut signal, mut noise, mut cosine, mut divergence) = (0.0, 0.0, 0.0, 0.0);
        let mut margins: Vec<(f64, f64)> = Vec::new();
        let mut same = 0usize;
        for (answer, other) in self.answers.iter().zip(others) {
            let other = floats(&other[0]);
            let (mut xx, mut yy, mut xy) = (0.0f64, 0.0f64, 0.0f64);
            for (x, y) in answer.iter().zip(&other) {
                let (x, y) = (f64::from(*x), f64::from(*y));
                (xx, yy, xy) = (xx + x * x, yy + y * y, xy + x * y);
                noise += (x - y) * (x - y);
            }
            signal += xx;
            cosine += if xx > 0.0 && yy > 0.0 { xy / (xx * yy).sqrt() } else { 1.0 };
            if self.metric == Metric::Signal {
                continue;
            }
            let (mut before, mut after) = (f64::INFINITY, f64::INFINITY);
            let rows = (answer.len() / self.classes) as f64;
            for (a, b) in answer.chunks(self.classes).zip(other.chunks(self.classes)) {
                let (a, b) = (self.logs(a), self.logs(b));
                let decided = largest(&a);
                before = before.min(lead(&a, decided));
                after = after.min(lead(&b, decided));
                divergence += a.iter().zip(&b).map(|(a, b)| a.exp() * (a - b)).sum::<f64>().max(0.0) / rows;
            }
            let agrees = self.decision(answer) == self.decision(&other);
            same += usize::from(agrees);
            margins.push((before, if agrees { after.max(0.0) } else { after.min(-1e-9) }));
        }
        let n = self.answers.len().min(others.len()).max(1) as f64;
        let ratio = if signal > 0.0 { noise / signal } else { 0.0 };
        let sqnr = if ratio > 0.0 { -10.0 * ratio.log10() } else { 200.0 };
        let cosine = cosine / n;
        if self.metric == Metric::Signal {
            return Score { agreement: 1.0 - ratio, expected: ratio, bound: ratio, divergence: ratio, sqnr, cosine };
        }
        let (expected, bound) = match self.metric {
            // Most steps of a path are near ties of a class with the blank beside it, which decide nothing: what is counted has to do, with the doubt of half
            // a sample (Krichevsky and Trofimov, 1981) in the place of a bound.
            Metric::Path => ((n - same as f64) / n, (n - same as f64 + 0.5) / (n + 1.0)),
            _ => expected_loss(&mut margins),
        };
        Score { agreement: same as f64 / n, expected, bound, divergence: divergence / n, sqnr, cosine }
    }

    /// Log-probabilities of a row.
    fn logs(&self, row: &[f32]) -> Vec<f64> {
        if self.probabilities {
            return row.iter().map(|p| f64::from(*p).max(1e-9).ln()).collect();
        }
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
        row.iter().map(|x| f64::from(x - most) - sum.ln()).collect()
    }

    fn decision(&self, answer: &[f32]) -> Vec<usize> {
        let mut path: Vec<usize> = answer.chunks(self.classes).map(largest).collect();
        if self.metric == Metric::Path {
            path.dedup();
            path.retain(|class| *class != 0);
        }
        path
    }
}

fn largest<T: PartialOrd + Copy>(row: &[T]) -> usize {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = i;
        }
    }
    best
}

/// By how much element `i` leads the others; negative when it does not.
fn lead(row: &[f64], i: usize) -> f64 {
    let others = row.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, x)| *x);
    row[i] - others.fold(f64::NEG_INFINITY, f64::max)
}

/// The loss that is expected when samples get the changes of their neighbours in the order of margins, and its 90 % bound.
fn expected_loss(margins: &mut [(f64, f64)]) -> (f64, f64) {
    margins.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = margins.len();
    if n == 0 {
        return (0.0, 0.0);
    }
    let near = (n / 8).max(4).min(n);
    // Of two decisions with this margin between them and nothing else likely, the difference of probabilities is tanh(margin / 2).
    let cost = |margin: f64| (margin / 2.0).tanh();
    let (mut mean, mut square) = (0.0, 0.0);
    for (i, (margin, _)) in margins.iter().enumerate() {
        let first = i.saturating_sub(near / 2).min(n - near);
        let others = &margins[first..first + near];
        let share = others.iter().filter(|(before, after)| margin + (after - before) < 0.0).count() as f64 / near as f64;
        mean += share * cost(*margin) / n as f64;
        square += share * cost(*margin).powi(2) / n as f64;
    }
    // One-sided 90 % of a normal distribution.
    (mean, mean + 1.2816 * ((square - mean * mean).max(0.0) / n as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(classes: u64, answers: &[Vec<f32>]) -> Judge {
        let mut graph = Graph::new("f");
        let y = graph.add_input("y", TensorType::fixed(DType::F32, &[1, classes]));
        graph.outputs.push(y);
        Judge::new(&graph, Metric::Top1, &raw(answers)).unwrap()
    }

    fn raw(answers: &[Vec<f32>]) -> Vec<Vec<Vec<u8>>> {
        answers.iter().map(|a| vec![a.iter().flat_map(|x| x.to_le_bytes()).collect()]).collect()
    }

    #[test]
    fn agreement_counts_decisions_and_margins_see_what_is_near() {
        let dense: Vec<Vec<f32>> = (0..100).map(|i| vec![0.1 * i as f32, 0.0, -3.0]).collect();
        let judge = judge(3, &dense);
        let same = judge.score(&raw(&dense));
        assert_eq!((same.agreement, same.expected), (1.0, 0.0));
        // Every margin shrinks by 0.45: those below change their decision.
        let moved: Vec<Vec<f32>> = dense.iter().map(|a| vec![a[0] - 0.45, a[1], a[2]]).collect();
        let score = judge.score(&raw(&moved));
        assert!((score.agreement - 0.95).abs() < 0.011, "{score:?}");
        // Margins of 0 to 0.4 are lost: the mean of tanh(margin / 2) over five of a hundred samples.
        assert!((score.expected - 0.005).abs() < 0.002 && score.bound > score.expected, "{score:?}");
        assert_eq!(score.drop(), 1.0 - score.agreement);
        assert!(same.drop() < 1e-9);
        assert!(score.divergence > 0.0 && score.sqnr < 40.0);
    }

    #[test]
    fn decisions_that_are_made_already_are_refused() {
        let mut graph = Graph::new("f");
        let y = graph.add_input("label", TensorType::fixed(DType::I64, &[1]));
        graph.outputs.push(y);
        let error = Judge::new(&graph, Metric::of(graph.ty(y)), &[vec![vec![0; 8]]]).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("\"label\"") && e.contains("i64")));
    }

    #[test]
    fn paths_join_repeats_and_drop_blanks() {
        let mut graph = Graph::new("f");
        let y = graph.add_input("y", TensorType::fixed(DType::F32, &[1, 4, 3]));
        graph.outputs.push(y);
        let path = |classes: [usize; 4]| -> Vec<f32> {
            classes.iter().flat_map(|c| (0..3).map(move |i| if i == *c { 5.0 } else { 0.0 })).collect()
        };
        assert_eq!(Metric::of(graph.ty(y)), Metric::Path);
        let judge = Judge::new(&graph, Metric::Path, &raw(&[path([1, 1, 0, 2]), path([1, 1, 0, 2])])).unwrap();
        let score = judge.score(&raw(&[path([1, 0, 2, 2]), path([1, 0, 1, 2])]));
        assert_eq!(score.agreement, 0.5);
    }
}
