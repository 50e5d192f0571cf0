//! Flags of compression: calibration inputs, budget, what may be done.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use onnxc_passes::compress::ActivationRange;

use super::{Freedom, Machine, Model};

/// What compression has to work with, and within.
#[derive(Args, Debug, Clone, Default)]
pub struct Budget {
    /// Calibration inputs: a `.npz` with one array per input name whose leading axis counts samples, or a folder of such files. Half of them are held out to
    /// measure with. With limits or an objective but without inputs, these are generated, and only numbers of weights change.
    #[arg(long, value_name = "FILE.npz|DIR", conflicts_with = "recipe")]
    pub calib: Option<PathBuf>,
    /// How much of the metric compression may cost, in points: 1% of all decisions. That is the limit where none is given; with another limit alone, the
    /// model is the one that loses least within it.
    #[arg(long, value_name = "1%", value_parser = percent, conflicts_with = "recipe")]
    pub max_drop: Option<f64>,
    /// The longest that an inference may take, by prediction for the target (us, ms or s).
    #[arg(long, value_name = "2ms", value_parser = seconds, conflicts_with = "recipe")]
    pub max_latency: Option<f64>,
    /// The largest arena, in bytes (with K, M or G).
    #[arg(long, value_name = "200K", value_parser = super::size::bytes, conflicts_with = "recipe")]
    pub max_ram: Option<u64>,
    /// What is to be little; latency by default.
    #[arg(long, value_enum, conflicts_with = "recipe")]
    pub objective: Option<Objective>,
    /// What is compared, with the dense model or with labels; by default what the first output of floats suggests.
    #[arg(long, value_enum, conflicts_with = "recipe")]
    pub metric: Option<Metric>,
    /// What is right for each sample, so that accuracy counts instead of agreement with the dense model: a file, or the name of an array beside the inputs.
    /// Numbers of classes; for path and characters strings of them, padded with 0; for iou masks of them; for signal values.
    #[arg(long, value_name = "FILE.npy|NAME", requires = "calib")]
    pub labels: Option<String>,
    /// Where results of searches are kept for the next one, which may have another budget or target; `onnxc/compress` in the user's cache folder by default.
    #[arg(long, value_name = "DIR", conflicts_with = "recipe")]
    pub work: Option<PathBuf>,
    /// Keep nothing, and use nothing that was kept.
    #[arg(long, conflicts_with_all = ["work", "recipe"])]
    pub forget: bool,
    /// Leave out of the report what the same loss would cost with all layers alike: uniform pruning, uniform integers, both, pruning without repair. These
    /// are some ten models more to compute.
    #[arg(long, conflicts_with = "recipe")]
    pub no_baselines: bool,
    /// What compression may not do (repeatable).
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "recipe")]
    pub without: Vec<Technique>,
    /// How ranges of values that become 8-bit integers are found: with the least squared error, as all that was seen, with as many percent of the values inside
    /// (percentile=99.9), or with the least Kullback-Leibler divergence.
    #[arg(long, value_name = "mse|minmax|percentile=P|kl", value_parser = range, conflicts_with = "recipe")]
    pub range: Option<ActivationRange>,
    /// Layers that read the same channels, of a residual sum or around squeeze and excitation, may lose some of them together. It makes some models smaller and the
    /// choice for others worse.
    #[arg(long, conflicts_with = "recipe")]
    pub streams: bool,
    /// Put filters that need the same positions next to each other, wherever nothing but layers and elementwise work reads them: panels of them can leave out more at the
    /// same loss. It takes another calibration, and time for large layers.
    #[arg(long, conflicts_with = "recipe")]
    pub reorder: bool,
    /// Layers may also become integers of 8 bits whose operands get a range anew in each inference, beside those with ranges from the calibration inputs: for operands
    /// that differ much between inferences. It takes a pass over the operand, and results stay floats.
    #[arg(long, conflicts_with = "recipe")]
    pub dynamic: bool,
}

impl Budget {
    /// Is a model to be compressed? Inputs, a limit or an objective say so; a limit of size alone is no budget, since it is one of faster forms of weights too.
    pub fn wants_search(&self) -> bool {
        self.calib.is_some()
            || self.max_drop.is_some()
            || self.max_latency.is_some()
            || self.max_ram.is_some()
            || self.objective.is_some()
    }

    /// The first flag that says how to search, if there is any.
    pub fn says_how(&self) -> Option<&'static str> {
        let flags = [
            (self.metric.is_some(), "--metric"),
            (self.work.is_some(), "--work"),
            (self.forget, "--forget"),
            (self.no_baselines, "--no-baselines"),
            (!self.without.is_empty(), "--without"),
            (self.range.is_some(), "--range"),
            (self.streams, "--streams"),
            (self.reorder, "--reorder"),
            (self.dynamic, "--dynamic"),
        ];
        flags.into_iter().find_map(|(given, name)| given.then_some(name))
    }
}

/// What is to be little.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Objective {
    /// Time of an inference on the target.
    #[default]
    Latency,
    /// Bytes of weights.
    Size,
    /// Bytes of the arena.
    Ram,
    /// Energy of an inference, as an estimate from operations and bytes.
    Energy,
    /// Multiplications of an inference.
    Macs,
}

/// What is compared with the dense model, or with labels.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    /// The largest element of the output that decides.
    Top1,
    /// The class among the five largest elements.
    Top5,
    /// The best path: the largest element of each step, repeats joined, class 0 dropped (CTC); equal as a whole.
    Path,
    /// The same paths, character by character: one less the edit distance over the length.
    Characters,
    /// The largest element: 2 TP / (2 TP + FP + FN), the mean over classes (macro F1).
    F1,
    /// Masks, [1, classes, ...]: intersection over union, the mean over classes.
    Iou,
    /// Signal and noise.
    Signal,
}

/// A way to compress.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Technique {
    /// Integers of 8 bits.
    Int8,
    /// Weights of 8 and 4 bits beside operands of floats.
    WeightOnly,
    /// Weights that are dropped, by masks or as zeros of coarse integers.
    Pruning,
    /// Layers with little between them in place of one.
    LowRank,
}

/// `compress`.
#[derive(Args, Debug)]
pub struct Compress {
    /// Model.
    #[command(flatten)]
    pub model: Model,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Trade-offs.
    #[command(flatten)]
    pub freedom: Freedom,
    /// Compression.
    #[command(flatten)]
    pub budget: Budget,
    /// Models that are tried.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=200))]
    pub points: u32,
    /// Folder for front.json, front.csv, front.svg and a recipe for each point; created when missing.
    #[arg(long, value_name = "DIR", required_unless_present = "ablate")]
    pub front: Option<PathBuf>,
    /// A table of what each part of the method is good for, with all layers alike at three densities; the recipes of its models lie in a folder of the same
    /// name without the ending.
    #[arg(long, value_name = "FILE.json|FILE.csv", requires = "calib")]
    pub ablate: Option<PathBuf>,
}

/// `1%` or `0.5%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').ok_or("write it in points, as in 1%")?;
    let value: f64 = number.trim().parse().map_err(|e| format!("{e}"))?;
    if (0.0..=100.0).contains(&value) { Ok(value / 100.0) } else { Err("it is between 0% and 100%".to_string()) }
}

/// How ranges of activations are found.
fn range(text: &str) -> Result<ActivationRange, String> {
    match text {
        "mse" => return Ok(ActivationRange::Mse),
        "minmax" => return Ok(ActivationRange::MinMax),
        "kl" => return Ok(ActivationRange::Kl),
        _ => {}
    }
    let percent = text.strip_prefix("percentile=").and_then(|p| p.parse().ok()).filter(|p| (50.0..=100.0).contains(p));
    percent
        .map(ActivationRange::Percentile)
        .ok_or_else(|| "it is mse, minmax, kl, or percentile=P with P from 50 to 100".to_string())
}

/// `2ms`, `500us`, `1.5s`: in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)];
    let wrong = || format!("`{text}`: write it as 2ms, 500us or 1.5s");
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit))).ok_or_else(wrong)?;
    number.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0).map(|n| n * unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_units() {
        assert_eq!((seconds("2ms"), seconds("500us"), seconds("1.5s")), (Ok(2.0 * 1e-3), Ok(500.0 * 1e-6), Ok(1.5)));
        assert!(["2", "ms", "-1ms", "0s", "1min"].iter().all(|t| seconds(t).is_err()));
        assert_eq!((percent("1%"), percent("0.5 %")), (Ok(0.01), Ok(0.005)));
        assert!(["1", "x%", "101%", "-1%"].iter().all(|t| percent(t).is_err()));
    }

    #[test]
    fn ranges_have_names() {
        assert_eq!(range("mse"), Ok(ActivationRange::Mse));
        assert_eq!(range("percentile=99.9"), Ok(ActivationRange::Percentile(99.9)));
        assert!(["", "max", "percentile", "percentile=10", "percentile=x"].iter().all(|t| range(t).is_err()));
    }
}
