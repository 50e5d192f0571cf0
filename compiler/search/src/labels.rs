//! What answers decide, and how many decisions are right: by labels, or by what the dense model decides.
//!
//! A decision is a list of class numbers: one class, the five largest ones, the string of a best path, the class of each pixel. So is a label, and a measure
//! compares lists of both.

use std::collections::BTreeMap;

use onnxc_ir::{Tensor, TensorType};

use crate::metric::Metric;
use crate::{Error, Result};

/// What is right, for each sample in its order.
#[derive(Clone, PartialEq, Debug)]
pub enum Labels {
    /// Class numbers.
    Classes(Vec<Vec<i64>>),
    /// The values that the first output ought to have.
    Values(Vec<Vec<f32>>),
}

/// A padding of strings: no class, or the blank.
const PADDING: i64 = 0;

impl Labels {
    /// From an array whose leading axis counts `count` samples, for a model with this first output. Classes are whole numbers, one for a sample; strings of
    /// classes end with zeros or negative numbers; masks have the extents of the output's image; signals those of the output.
    ///
    /// # Errors
    /// When there are too few, or they do not fit metric or output.
    pub fn new(metric: Metric, output: &TensorType, array: &Tensor, count: usize) -> Result<Labels> {
        let wrong = |why: String| Err(Error::Input(format!("labels are {}{:?}: {why}", array.dtype(), array.shape())));
        if array.shape().first() != Some(&(count as u64)) {
            return wrong(format!("the leading axis must count the {count} samples"));
        }
        let Some(values) = array.to_f64s() else { return wrong("they must be numbers".to_string()) };
        let each = values.len() / count.max(1);
        let shape = output.const_shape().unwrap_or_default();
        let want = match metric {
            Metric::Top1 | Metric::Top5 | Metric::F1 => Some(1),
            Metric::Path | Metric::Characters => None,
            Metric::Iou => Some(shape.iter().skip(2).product::<u64>() as usize),
            Metric::Signal => Some(shape.iter().product::<u64>() as usize),
        };
        if let Some(want) = want.filter(|want| *want != each) {
            return wrong(format!("a sample has {each} of them, {} needs {want} with an output of {output}", metric.flag()));
        }
        let rows = values.chunks(each.max(1));
        if metric == Metric::Signal {
            return Ok(Labels::Values(rows.map(|row| row.iter().map(|x| *x as f32).collect()).collect()));
        }
        if values.iter().any(|x| x.fract() != 0.0) {
            return wrong(format!("{} needs numbers of classes, and some are no whole numbers", metric.flag()));
        }
        let string = |row: Vec<i64>| -> Vec<i64> {
            if metric.is_string() { row.into_iter().filter(|c| *c > PADDING).collect() } else { row }
        };
        Ok(Labels::Classes(rows.map(|row| string(row.iter().map(|x| *x as i64).collect())).collect()))
    }

    /// Those of some samples.
    pub fn of(&self, samples: &[usize]) -> Labels {
        match self {
            Labels::Classes(all) => Labels::Classes(samples.iter().map(|i| all[*i].clone()).collect()),
            Labels::Values(all) => Labels::Values(samples.iter().map(|i| all[*i].clone()).collect()),
        }
    }

    /// A fingerprint of all of them.
    pub fn fingerprint(&self) -> String {
        match self {
            Labels::Classes(all) => crate::work::key("labels", &[&format!("{all:?}")]),
            Labels::Values(all) => crate::work::key("labels", &[&format!("{all:?}")]),
        }
    }
}

/// How right decisions are, 0 to 1. `decided` and `truth` are of the same samples.
///
/// - top1, top5: the share of samples whose class is the largest, among the five largest.
/// - path: the share of strings that are equal; characters: one less the edit distance (Levenshtein, 1966) over the length, of all strings together.
/// - f1: the mean over the classes that occur of 2 TP / (2 TP + FP + FN) (macro F1 of the largest class).
/// - iou: the mean over the classes that occur in the truth of intersection over union, each of all samples' pixels (Everingham et al., "The PASCAL Visual
///   Object Classes Challenge", 2010).
pub fn measure<T: AsRef<[i64]>>(metric: Metric, decided: &[T], truth: &[T]) -> f64 {
    let decided: Vec<&[i64]> = decided.iter().map(AsRef::as_ref).collect();
    let truth: Vec<&[i64]> = truth.iter().map(AsRef::as_ref).collect();
    let pairs = || decided.iter().zip(&truth);
    let n = decided.len().min(truth.len()).max(1) as f64;
    let share = |right: &dyn Fn(&[i64], &[i64]) -> bool| pairs().filter(|(d, t)| right(d, t)).count() as f64 / n;
    match metric {
        Metric::Top1 => share(&|d, t| d.first() == t.first()),
        Metric::Top5 => share(&|d, t| t.first().is_some_and(|t| d.contains(t))),
        Metric::Path => share(&|d, t| d == t),
        Metric::Characters => {
            let wrong: usize = pairs().map(|(d, t)| edits(d, t)).sum();
            let all: usize = truth.iter().map(|t| t.len()).sum();
            1.0 - wrong as f64 / all.max(1) as f64
        }
        Metric::F1 | Metric::Iou => by_class(metric, &decided, &truth),
        Metric::Signal => 1.0,
    }
}

/// The mean over classes of what hits, false and missed ones of each make.
fn by_class(metric: Metric, decided: &[&[i64]], truth: &[&[i64]]) -> f64 {
    // Class: hits, decided, true.
    let mut counts: BTreeMap<i64, [f64; 3]> = BTreeMap::new();
    for (d, t) in decided.iter().zip(truth).flat_map(|(d, t)| d.iter().zip(*t)) {
        counts.entry(*d).or_default()[1] += 1.0;
        counts.entry(*t).or_default()[2] += 1.0;
        counts.entry(*t).or_default()[0] += f64::from(u8::from(d == t));
    }
    let score = |[hits, decided, truth]: &[f64; 3]| match metric {
        Metric::F1 => Some(2.0 * hits / (decided + truth)),
        _ => (*truth > 0.0).then(|| hits / (decided + truth - hits)),
    };
    let scores: Vec<f64> = counts.values().filter_map(score).collect();
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}

/// The edit distance of two strings.
fn edits(a: &[i64], b: &[i64]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let (mut before, mut left) = (row[0], i + 1);
        row[0] = left;
        for (j, y) in b.iter().enumerate() {
            left = (left + 1).min(row[j + 1] + 1).min(before + usize::from(x != y));
            (before, row[j + 1]) = (row[j + 1], left);
        }
    }
    row[b.len()]
}

/// Parts that are left out in turn.
const PARTS: usize = 10;

/// The loss of a measure from `before` to `after` and a bound of it that holds with a probability of 90 %: its standard error by the jackknife over parts of
/// the samples (Quenouille, "Notes on bias in estimation", 1956), and the doubt of half a sample at least (Krichevsky and Trofimov, 1981).
pub fn loss(metric: Metric, before: &[Vec<i64>], after: &[Vec<i64>], truth: &[Vec<i64>]) -> (f64, f64) {
    let of = |without: Option<usize>| -> f64 {
        let part = |list: &'_ [Vec<i64>]| -> Vec<Vec<i64>> {
            list.iter().enumerate().filter(|(i, _)| without != Some(i % PARTS)).map(|(_, x)| x.clone()).collect()
        };
        let truth = part(truth);
        measure(metric, &part(before), &truth) - measure(metric, &part(after), &truth)
    };
    let all = of(None);
    let parts: Vec<f64> = (0..PARTS).map(|p| of(Some(p))).collect();
    let mean = parts.iter().sum::<f64>() / PARTS as f64;
    let square = parts.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() * (PARTS - 1) as f64 / PARTS as f64;
    let n = truth.len() as f64;
    let lost = all.max(0.0);
    let doubt = (n * lost + 0.5) / (n + 1.0);
    (lost, doubt.max(lost + 1.2816 * square.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::DType;

    #[test]
    fn measures_are_those_of_their_definitions() {
        let of = |m: Metric, d: &[&[i64]], t: &[&[i64]]| measure(m, d, t);
        assert_eq!(of(Metric::Top1, &[&[1], &[2]], &[&[1], &[3]]), 0.5);
        assert_eq!(of(Metric::Top5, &[&[1, 7, 3, 4, 5], &[2, 0, 1, 4, 5]], &[&[7], &[3]]), 0.5);
        assert_eq!(of(Metric::Path, &[&[1, 2], &[1]], &[&[1, 2], &[1, 1]]), 0.5);
        // One character is missing, one is another: 2 of 5.
        assert!((of(Metric::Characters, &[&[1, 2], &[4, 5]], &[&[1, 2, 3], &[4, 6]]) - 0.6).abs() < 1e-12);
        // Class 0: 1 hit, 1 missed; class 1: 1 hit, 1 false.
        assert!((of(Metric::F1, &[&[0], &[1], &[1]], &[&[0], &[0], &[1]]) - 2.0 / 3.0).abs() < 1e-12);
        // Pixels of 0: 1 of 2; of 1: 1 of 2; those of class 2 are true nowhere.
        assert!((of(Metric::Iou, &[&[0, 1, 1]], &[&[0, 0, 1]]) - 0.5).abs() < 1e-12);
        assert!((of(Metric::Iou, &[&[0, 2]], &[&[0, 0]]) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn strings_differ_by_edits() {
        let distance = |a: &str, b: &str| {
            let codes = |s: &str| s.bytes().map(i64::from).collect::<Vec<_>>();
            edits(&codes(a), &codes(b))
        };
        assert_eq!((distance("kitten", "sitting"), distance("", "abc"), distance("abc", "")), (3, 3, 3));
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn a_loss_has_a_bound_above_it() {
        let truth: Vec<Vec<i64>> = (0..200).map(|i| vec![i % 4]).collect();
        let wrong = |every: usize| -> Vec<Vec<i64>> {
            truth.iter().enumerate().map(|(i, t)| if i % every == 3 { vec![9] } else { t.clone() }).collect()
        };
        let (before, after) = (wrong(50), wrong(20));
        let (lost, bound) = loss(Metric::Top5, &before, &after, &truth);
        assert!((lost - 0.03).abs() < 1e-12 && bound > lost && bound < 0.07, "{lost} {bound}");
        let none = loss(Metric::Top5, &before, &before, &truth);
        assert_eq!(none, (0.0, 0.5 / 201.0));
        // Better than before is no loss.
        assert_eq!(loss(Metric::Top1, &after, &before, &truth).0, 0.0);
    }

    #[test]
    fn labels_that_do_not_fit_are_told() {
        let output = TensorType::fixed(DType::F32, &[1, 2, 3, 4]);
        let told = |metric, shape: &[u64]| {
            let n = shape.iter().product::<u64>() as usize;
            let array = Tensor::from_vec(shape, vec![1i64; n]);
            Labels::new(metric, &output, &array, 5).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(told(Metric::Top1, &[4]).contains("5 samples"));
        assert!(told(Metric::Top1, &[5, 2]).contains("needs 1"));
        assert!(told(Metric::Iou, &[5, 3, 3]).contains("needs 12"));
        assert_eq!(told(Metric::Iou, &[5, 3, 4]), "");
        let strings = Tensor::from_vec(&[2, 4], vec![3i32, 3, 0, 0, 7, 1, 2, -1]);
        let labels = Labels::new(Metric::Path, &output, &strings, 2).unwrap();
        assert_eq!(labels, Labels::Classes(vec![vec![3, 3], vec![7, 1, 2]]));
        let halves = Tensor::from_vec(&[1], vec![0.5f32]);
        assert!(Labels::new(Metric::Top1, &output, &halves, 1).is_err());
    }
}
