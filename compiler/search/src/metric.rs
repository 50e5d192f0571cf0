//! How far the answers of a compressed model are from those of the dense one.
//!
//! Without labels the metric is agreement: how well decisions are those of the dense model. With labels ([`crate::labels`]) it is what they say of both, and
//! what counts is the difference. Where a sample is one decision, what is counted is not all: `margins` says what is expected to be lost.

use onnxc_ir::Graph;
use serde::{Deserialize, Serialize};

use crate::assemble::rounded;
use crate::labels::{self, Labels};
use crate::margins::{self, Row, doubt, expected_loss};
use crate::outputs::{Outputs, is_share};
use crate::taps::floats;
use crate::{Error, Result};

/// Raised when answers are judged in another way, which leaves models that were made as they are.
pub(crate) const JUDGED: u32 = 2;

/// Which decision is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    /// The largest element of the output that decides: top-1 agreement.
    Top1,
    /// The largest element at each step, repeats joined and class 0 dropped: agreement of the best paths of CTC (Graves et al., 2006).
    Path,
    /// The five largest elements of the output that decides.
    Top5,
    /// Paths as of [`Metric::Path`], compared character by character.
    Characters,
    /// The largest element; the mean over classes of precision with recall.
    F1,
    /// The largest element of each pixel, `[1, classes, ...]`, or with one class the sign of a logit, half of a probability: intersection over union.
    Iou,
    /// No decision: signal to noise, as a share: 100 % minus the noise's power over the signal's.
    Signal,
}

impl Metric {
    /// Its name in reports: what labels say, or the dense model.
    pub fn name(self, labelled: bool) -> &'static str {
        match (self, labelled) {
            (Metric::Top1, false) => "top-1 agreement with the dense model",
            (Metric::Top1, true) => "top-1 accuracy by the labels",
            (Metric::Top5, false) => "the dense model's decision among the five largest",
            (Metric::Top5, true) => "top-5 accuracy by the labels",
            (Metric::Path, false) => "agreement of best paths with the dense model",
            (Metric::Path, true) => "exact match of best paths with the labels",
            (Metric::Characters, false) => "agreement of the characters of best paths with the dense model",
            (Metric::Characters, true) => "character accuracy by the labels",
            (Metric::F1, false) => "macro F1, the dense model's decisions taken for true",
            (Metric::F1, true) => "macro F1 by the labels",
            (Metric::Iou, false) => "mean intersection over union with the dense model's masks",
            (Metric::Iou, true) => "mean intersection over union with the labels",
            (Metric::Signal, false) => "signal power less noise power, against the dense model",
            (Metric::Signal, true) => "signal power less noise power, against the labels",
        }
    }

    /// Its name on the command line.
    pub fn flag(self) -> &'static str {
        match self {
            Metric::Top1 => "--metric top1",
            Metric::Top5 => "--metric top5",
            Metric::Path => "--metric path",
            Metric::Characters => "--metric characters",
            Metric::F1 => "--metric f1",
            Metric::Iou => "--metric iou",
            Metric::Signal => "--metric signal",
        }
    }

    /// Are decisions strings of classes?
    pub fn is_string(self) -> bool {
        matches!(self, Metric::Path | Metric::Characters)
    }
}

/// The dense model's answers.
pub struct Judge {
    metric: Metric,
    outputs: Outputs,
    /// Other outputs, each for all samples.
    rest: Vec<Vec<Vec<f32>>>,
    /// Elements of a row of decisions.
    classes: usize,
    /// Rows of decisions; of masks one for each pixel.
    answers: Vec<Vec<f32>>,
    /// What they decide.
    decisions: Vec<Vec<i64>>,
    labels: Option<Labels>,
    /// Outputs are probabilities already.
    probabilities: bool,
    /// Classes that lie in planes, as those of masks do.
    planes: Option<usize>,
    /// The output that decides is compared as a signal too.
    strict: bool,
}

/// How right decisions are by the labels, 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Accuracy {
    /// Those of the dense model.
    pub dense: f64,
    /// Those of the compressed model.
    pub compressed: f64,
}

/// What the judge says.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Score {
    /// Counted agreement, 0 to 1.
    pub agreement: f64,
    /// With labels: what they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// Expected loss of accuracy, from margins, 0 to 1.
    pub expected: f64,
    /// A bound of it that holds with a probability of 90 %.
    pub bound: f64,
    /// Where each sample is one decision: with a probability of 90 % no larger share of new ones is lost ([`doubt`]).
    #[serde(default)]
    pub doubt: f64,
    /// The doubt that so many samples leave if one is lost.
    #[serde(default)]
    pub least_doubt: f64,
    /// Noise over signal of the worst one of the other outputs; for generated inputs of all outputs.
    #[serde(default)]
    pub rest: f64,
    /// Mean divergence of the answers (Kullback-Leibler, nats), of strings that of their probabilities, or noise over signal; with that of other outputs.
    pub divergence: f64,
    /// Signal over noise of the output that decides, in decibels.
    pub sqnr: f64,
    /// Mean cosine of the output that decides.
    pub cosine: f64,
}

impl Score {
    /// The same with as many digits as people read.
    #[must_use]
    pub fn rounded(&self) -> Score {
        let r = |x: f64| (x * 1e6).round() / 1e6;
        let accuracy = self.accuracy.map(|a| Accuracy { dense: r(a.dense), compressed: r(a.compressed) });
        let Score { agreement, expected, bound, doubt, least_doubt, rest, divergence, sqnr, cosine, .. } = *self;
        let (agreement, expected, bound, rest, divergence) = (r(agreement), r(expected), r(bound), r(rest), rounded(divergence));
        let (doubt, least_doubt, sqnr, cosine) = (r(doubt), r(least_doubt), rounded(sqnr), r(cosine));
        Score { agreement, accuracy, expected, bound, doubt, least_doubt, rest, divergence, sqnr, cosine }
    }

    /// What is lost of the metric as it is counted: of accuracy with labels, of agreement without.
    pub fn lost(&self) -> f64 {
        self.accuracy.map_or(1.0 - self.agreement, |a| (a.dense - a.compressed).max(0.0))
    }

    /// What the contract limits: the largest one of what is lost, the bound of the loss of accuracy that is expected, and the noise of other outputs.
    pub fn drop(&self) -> f64 {
        self.lost().max(self.bound).max(self.rest)
    }

    /// Is no more lost than this? Where the samples are so few that one of them would be too many for the doubt, what is counted has to do.
    pub fn keeps(&self, allowed: f64) -> bool {
        self.drop() <= allowed + 1e-9 && (self.doubt <= allowed || self.least_doubt > allowed)
    }
}

impl Judge {
    /// A judge over the outputs of the dense model, those of one sample after those of another, and the labels of these samples.
    ///
    /// # Errors
    /// When no output is f32 of known extents, or none masks where the metric compares such.
    pub fn new(graph: &Graph, metric: Metric, answers: &[Vec<Vec<u8>>], labels: Option<Labels>) -> Result<Judge> {
        let outputs = Outputs::of(graph)?;
        let (name, ty) = (&graph.value(graph.outputs[outputs.decides]).name, outputs.ty(graph));
        let shape = ty.const_shape().unwrap_or_default();
        let all: u64 = shape.iter().product();
        let planes = match (metric, &shape[..]) {
            (Metric::Iou, [1, classes, _, ..]) => Some(*classes as usize),
            (Metric::Iou, _) => {
                return Err(Error::Input(format!(
                    "the first output, {name:?}, is {ty}: --metric iou needs masks, [1, classes, ...]"
                )));
            }
            _ => None,
        };
        let last = shape.last().copied().unwrap_or(1);
        let classes = planes.map_or(if metric.is_string() { last } else { all } as usize, |p| p.max(2));
        let rest = outputs.others.iter().map(|n| answers.iter().map(|a| floats(&a[*n])).collect()).collect();
        let answers: Vec<Vec<f32>> = answers.iter().map(|a| rows(floats(&a[outputs.decides]), planes)).collect();
        let probabilities = answers.iter().all(|a| a.chunks(classes.max(1)).all(is_share));
        let mut judge = Judge {
            metric,
            outputs,
            rest,
            classes,
            answers,
            decisions: Vec::new(),
            labels,
            probabilities,
            planes,
            strict: false,
        };
        judge.decisions = judge.answers.iter().map(|a| judge.decision(a)).collect();
        Ok(judge)
    }

    /// The output that decides is compared as a signal too, as others are: generated inputs may lead to one decision all of them.
    #[must_use]
    pub fn strict(self, strict: bool) -> Judge {
        Judge { strict, ..self }
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The name of the metric in reports.
    pub fn name(&self) -> &'static str {
        self.metric.name(self.labels.is_some())
    }

    /// Compares answers to the same samples, from the first one on.
    pub fn score(&self, others: &[Vec<Vec<u8>>]) -> Score {
        let score = self.decided(others);
        let rest =
            self.outputs.others.iter().zip(&self.rest).map(|(n, dense)| noise_over_signal(dense, others, *n)).fold(0.0, f64::max);
        let rest = if self.strict { 10f64.powf(-score.sqnr / 10.0).min(1.0).max(rest) } else { rest };
        Score { rest, divergence: score.divergence + rest, ..score }
    }

    /// The score of the output that decides.
    fn decided(&self, others: &[Vec<Vec<u8>>]) -> Score {
        let others: Vec<Vec<f32>> = others.iter().map(|o| rows(floats(&o[self.outputs.decides]), self.planes)).collect();
        let (mut signal, mut noise, mut cosine, mut divergence) = (0.0, 0.0, 0.0, 0.0);
        let mut margins: Vec<(f64, f64)> = Vec::new();
        let decided: Vec<Vec<i64>> = others.iter().map(|o| self.decision(o)).collect();
        for (i, (answer, other)) in self.answers.iter().zip(&others).enumerate() {
            let [xx, yy, xy, error] = products(answer, other);
            (signal, noise) = (signal + xx, noise + error);
            cosine += if xx > 0.0 && yy > 0.0 { xy / (xx * yy).sqrt() } else { 1.0 };
            if self.metric == Metric::Signal {
                continue;
            }
            let [a, b] = [answer, other]
                .map(|rows| rows.chunks(self.classes).map(|row| Row::new(row, self.probabilities)).collect::<Vec<_>>());
            divergence += if self.metric.is_string() { margins::of_texts(&a, &b, &self.decisions[i]) } else { of_rows(&a, &b) };
            margins.extend(self.margins(&a, &b, self.decisions[i] == decided[i]));
        }
        let n = self.answers.len().min(others.len()).max(1) as f64;
        let ratio = if signal > 0.0 { noise / signal } else { 0.0 };
        let sqnr = if ratio > 0.0 { -10.0 * ratio.log10() } else { 200.0 };
        let score = Score { divergence: divergence / n, sqnr, cosine: cosine / n, ..Score::default() };
        match &self.labels {
            Some(Labels::Values(truth)) => self.signal(score, &others, truth, ratio),
            _ if self.metric == Metric::Signal => {
                Score { agreement: 1.0 - ratio, expected: ratio, bound: ratio, divergence: ratio, ..score }
            }
            labels => self.counted(score, labels.as_ref(), &decided, &mut margins),
        }
    }

    /// The margin of a sample's decision before and after, from log-probabilities; `None` where a sample is no single decision.
    fn margins(&self, before: &[Row], after: &[Row], agrees: bool) -> Option<(f64, f64)> {
        let of = match self.metric {
            Metric::Top1 => margins::of_classes,
            Metric::Path => margins::of_text,
            _ => return None,
        };
        let path = |rows: &[Row]| rows.iter().map(Row::largest).collect::<Vec<usize>>();
        let dense = path(before);
        // The same text may be spelt by another path.
        let after = if agrees { of(after, &path(after)).max(0.0) } else { of(after, &dense).min(-1e-9) };
        Some((of(before, &dense), after))
    }

    /// A score of decisions.
    fn counted(&self, score: Score, labels: Option<&Labels>, decided: &[Vec<i64>], margins: &mut [(f64, f64)]) -> Score {
        let slices = |list: &'_ [Vec<i64>]| -> Vec<Vec<i64>> { list[..list.len().min(decided.len())].to_vec() };
        let (dense, own) = (slices(&self.decisions), slices(decided));
        let agreement = labels::measure(self.metric, &own, &dense);
        let truth = match labels {
            Some(Labels::Classes(truth)) => Some(slices(truth)),
            _ => None,
        };
        let accuracy = truth.as_ref().map(|truth| Accuracy {
            dense: labels::measure(self.metric, &dense, truth),
            compressed: labels::measure(self.metric, &own, truth),
        });
        let (expected, bound) = match self.metric {
            Metric::Top1 | Metric::Path => expected_loss(margins),
            // Where a sample is many decisions, what is counted has to do.
            metric => labels::loss(metric, &dense, &own, truth.as_ref().unwrap_or(&dense)),
        };
        let mut score = Score { agreement, accuracy, expected, bound, ..score };
        if matches!(self.metric, Metric::Top1 | Metric::Path) {
            let n = own.len().max(1) as f64;
            (score.doubt, score.least_doubt) = (doubt(score.lost() * n) / n, doubt(1.0) / n);
        }
        score
    }

    /// A score of signals against what they ought to be.
    fn signal(&self, score: Score, others: &[Vec<f32>], truth: &[Vec<f32>], ratio: f64) -> Score {
        let quality = |answers: &[Vec<f32>]| -> f64 {
            let sums = answers.iter().zip(truth).map(|(a, t)| products(t, a));
            let (signal, noise) = sums.fold((0.0, 0.0), |(s, n), [tt, _, _, error]| (s + tt, n + error));
            if signal > 0.0 { 1.0 - noise / signal } else { 1.0 }
        };
        let accuracy = Accuracy { dense: quality(&self.answers), compressed: quality(others) };
        let lost = (accuracy.dense - accuracy.compressed).max(0.0);
        Score { agreement: 1.0 - ratio, accuracy: Some(accuracy), expected: lost, bound: lost, divergence: ratio, ..score }
    }

    fn decision(&self, answer: &[f32]) -> Vec<i64> {
        if self.metric == Metric::Top5 {
            let mut order: Vec<usize> = (0..answer.len()).collect();
            order.sort_by(|a, b| answer[*b].total_cmp(&answer[*a]));
            return order.into_iter().take(5).map(|i| i as i64).collect();
        }
        let mut path: Vec<i64> = answer.chunks(self.classes).map(|row| largest(row) as i64).collect();
        if self.metric.is_string() {
            path.dedup();
            path.retain(|class| *class != 0);
        }
        path
    }
}

/// An answer as rows of classes. Of masks each pixel is a row; a mask of one class has that class and its contrary.
fn rows(answer: Vec<f32>, planes: Option<usize>) -> Vec<f32> {
    match planes {
        None => answer,
        Some(0 | 1) => {
            let shares = answer.iter().all(|p| (0.0..=1.0).contains(p));
            answer.iter().flat_map(|x| [if shares { 1.0 - x } else { 0.0 }, *x]).collect()
        }
        Some(classes) => {
            let pixels = answer.len() / classes;
            (0..answer.len()).map(|i| answer[i % classes * pixels + i / classes]).collect()
        }
    }
}

/// The noise of an output's answers over their signal; all noise where there is no signal.
fn noise_over_signal(dense: &[Vec<f32>], others: &[Vec<Vec<u8>>], output: usize) -> f64 {
    let sums = dense.iter().zip(others).map(|(d, o)| products(d, &floats(&o[output])));
    let (signal, noise) = sums.fold((0.0, 0.0), |(s, n), [xx, _, _, error]| (s + xx, n + error));
    if noise == 0.0 { 0.0 } else { noise / signal.max(f64::MIN_POSITIVE) }.min(1.0)
}

/// Sums of x², y², xy and (x - y)².
fn products(x: &[f32], y: &[f32]) -> [f64; 4] {
    x.iter().zip(y).fold([0.0; 4], |[xx, yy, xy, error], (x, y)| {
        let (x, y) = (f64::from(*x), f64::from(*y));
        [xx + x * x, yy + y * y, xy + x * y, error + (x - y) * (x - y)]
    })
}

/// The mean divergence of rows of log-probabilities.
fn of_rows(before: &[Row], after: &[Row]) -> f64 {
    let of_row = |a: &Row, b: &Row| a.logs().zip(b.logs()).map(|(a, b)| a.exp() * (a - b)).sum::<f64>().max(0.0);
    before.iter().zip(after).map(|(a, b)| of_row(a, b) / before.len() as f64).sum()
}

pub(crate) fn largest<T: PartialOrd + Copy>(row: &[T]) -> usize {
    let mut best = 0;
    for (i, x) in row.iter().enumerate() {
        if *x > row[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use onnxc_ir::{DType, TensorType};

    use super::*;

    fn judge(classes: u64, answers: &[Vec<f32>]) -> Judge {
        let mut graph = Graph::new("f");
        let y = graph.add_input("y", TensorType::fixed(DType::F32, &[1, classes]));
        graph.outputs.push(y);
        Judge::new(&graph, Metric::Top1, &raw(answers), None).unwrap()
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
    fn few_samples_are_counted() {
        let score = |n: f64, lost: f64| Score {
            agreement: 1.0 - lost / n,
            doubt: doubt(lost) / n,
            least_doubt: doubt(1.0) / n,
            ..Score::default()
        };
        assert!(score(1000.0, 2.0).keeps(0.005) && !score(1000.0, 3.0).keeps(0.005));
        // Two hundred samples cannot show one percent: they are counted.
        assert!(score(200.0, 2.0).keeps(0.01) && !score(200.0, 3.0).keeps(0.01));
    }

    #[test]
    fn other_outputs_are_signals() {
        let mut graph = Graph::new("f");
        for (name, shape) in [("scores", [1, 2]), ("state", [1, 3])] {
            let y = graph.add_input(name, TensorType::fixed(DType::F32, &shape));
            graph.outputs.push(y);
        }
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let answer = |state: f32| vec![bytes(&[3.0, 0.0]), bytes(&[0.0, state, 0.0])];
        let judge = Judge::new(&graph, Metric::Top1, &[answer(2.0)], None).unwrap();
        let score = judge.score(&[answer(1.8)]);
        assert!((score.rest - 0.01).abs() < 1e-6 && (score.drop() - 0.01).abs() < 1e-6, "{score:?}");
        assert_eq!((score.agreement, judge.score(&[answer(2.0)]).drop()), (1.0, 0.0));
    }

    #[test]
    fn a_strict_judge_compares_what_decides_as_a_signal() {
        // All samples lead to the same decision, which noise of a tenth of the power does not change.
        let dense: Vec<Vec<f32>> = (0..20).map(|_| vec![10.0, 0.0, 0.0]).collect();
        let noisy: Vec<Vec<f32>> = (0..20).map(|_| vec![10.0, 10f32.sqrt(), 0.0]).collect();
        let drop = |strict: bool| judge(3, &dense).strict(strict).score(&raw(&noisy)).drop();
        assert!(drop(false) < 1e-3 && (drop(true) - 0.1).abs() < 1e-6, "{} {}", drop(false), drop(true));
    }

    #[test]
    fn paths_join_repeats_and_drop_blanks() {
        let mut graph = Graph::new("f");
        let y = graph.add_input("y", TensorType::fixed(DType::F32, &[1, 4, 3]));
        graph.outputs.push(y);
        let path = |classes: [usize; 4]| -> Vec<f32> {
            classes.iter().flat_map(|c| (0..3).map(move |i| if i == *c { 5.0 } else { 0.0 })).collect()
        };
        let judge = Judge::new(&graph, Metric::Path, &raw(&[path([1, 1, 0, 2]), path([1, 1, 0, 2])]), None).unwrap();
        let score = judge.score(&raw(&[path([1, 0, 2, 2]), path([1, 0, 1, 2])]));
        assert_eq!(score.agreement, 0.5);
    }

    #[test]
    fn labels_say_what_is_lost() {
        let mut graph = Graph::new("f");
        let y = graph.add_input("y", TensorType::fixed(DType::F32, &[1, 3]));
        graph.outputs.push(y);
        let class = |c: usize| -> Vec<f32> { (0..3).map(|i| if i == c { 4.0 } else { 0.0 }).collect() };
        let dense: Vec<Vec<f32>> = (0..20).map(|i| class(i % 2)).collect();
        // The dense model errs at sample 0, the other one is right there and errs at 1 and 2.
        let labels = Labels::Classes((0..20).map(|i| vec![if i == 0 { 2 } else { i % 2 }]).collect());
        let judge = Judge::new(&graph, Metric::Top1, &raw(&dense), Some(labels)).unwrap();
        let mut others = dense.clone();
        (others[0], others[1], others[2]) = (class(2), class(2), class(2));
        let score = judge.score(&raw(&others));
        assert_eq!(score.accuracy, Some(Accuracy { dense: 0.95, compressed: 0.9 }));
        assert!((score.agreement - 0.85).abs() < 1e-12 && (score.lost() - 0.05).abs() < 1e-12, "{score:?}");
        assert_eq!(judge.name(), "top-1 accuracy by the labels");
        // What becomes better is no loss.
        others[1..3].clone_from_slice(&dense[1..3]);
        assert_eq!(judge.score(&raw(&others)).lost(), 0.0);
    }

    #[test]
    fn masks_are_rows_of_pixels() {
        let mut graph = Graph::new("f");
        let y = graph.add_input("y", TensorType::fixed(DType::F32, &[1, 2, 2, 2]));
        graph.outputs.push(y);
        let dense = vec![1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0];
        let judge = Judge::new(&graph, Metric::Iou, &raw(&[dense]), None).unwrap();
        // One of the two pixels of class 1 becomes class 0: 2 of 3, and 1 of 2.
        let score = judge.score(&raw(&[vec![1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]]));
        assert!((score.agreement - (2.0 / 3.0 + 0.5) / 2.0).abs() < 1e-12, "{score:?}");
        assert_eq!(
            (rows(vec![0.2, 0.9], Some(1)), rows(vec![-2.0, 3.0], Some(1))),
            (vec![0.8, 0.2, 1.0 - 0.9, 0.9], vec![0.0, -2.0, 0.0, 3.0])
        );
        let mut flat = Graph::new("f");
        let y = flat.add_input("y", TensorType::fixed(DType::F32, &[1, 3]));
        flat.outputs.push(y);
        assert!(Judge::new(&flat, Metric::Iou, &raw(&[vec![0.0; 3]]), None).is_err());
    }

    #[test]
    fn signals_are_compared_with_what_they_ought_to_be() {
        let mut graph = Graph::new("f");
        let y = graph.add_input("y", TensorType::fixed(DType::F32, &[2, 2]));
        graph.outputs.push(y);
        let labels = Labels::Values(vec![vec![1.0, 0.0, 0.0, 0.0]]);
        let judge = Judge::new(&graph, Metric::Signal, &raw(&[vec![1.0, 0.1, 0.0, 0.0]]), Some(labels)).unwrap();
        let score = judge.score(&raw(&[vec![1.0, 0.3, 0.0, 0.0]]));
        assert!((score.lost() - 0.08).abs() < 1e-6, "{score:?}");
    }
}
