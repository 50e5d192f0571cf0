//! Flags of compression: calibration inputs, budget, what may be done.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Freedom, Machine, Model};

/// What compression has to work with, and within.
#[derive(Args, Debug, Clone, Default)]
pub struct Budget {
    /// Calibration inputs: a `.npz` with one array per input name whose leading axis counts samples, or a folder of such files. Half of them are held out to
    /// measure with.
    #[arg(long, value_name = "FILE.npz|DIR", conflicts_with = "recipe")]
    pub calib: Option<PathBuf>,
    /// How much of the metric compression may cost, in points: 1% of all decisions.
    #[arg(long, value_name = "1%", value_parser = percent, requires = "calib")]
    pub max_drop: Option<f64>,
    /// What is to be little.
    #[arg(long, value_enum, default_value_t = Objective::Latency)]
    pub objective: Objective,
    /// What is compared with the dense model; by default what the shape of the first output suggests.
    #[arg(long, value_enum, requires = "calib")]
    pub metric: Option<Metric>,
    /// Where results of searches are kept for the next one, which may have another budget or target; `onnxc/compress` in the user's cache folder by default.
    #[arg(long, value_name = "DIR", requires = "calib")]
    pub work: Option<PathBuf>,
    /// Keep nothing, and use nothing that was kept.
    #[arg(long, requires = "calib", conflicts_with = "work")]
    pub forget: bool,
    /// What compression may not do (repeatable).
    #[arg(long, value_enum, value_delimiter = ',', requires = "calib")]
    pub without: Vec<Technique>,
}

/// What is to be little.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Objective {
    /// Time of an inference on the target.
    #[default]
    Latency,
    /// Bytes of weights.
    Size,
}

/// What is compared with the dense model.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    /// The largest element of the first output.
    Top1,
    /// The best path: the largest element of each step, repeats joined, class 0 dropped (CTC).
    Path,
    /// Signal and noise.
    Signal,
}

/// A way to compress.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Technique {
    /// Integers of 8 bits.
    Int8,
    /// Weights that are dropped.
    Pruning,
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
    #[arg(long, value_name = "DIR")]
    pub front: PathBuf,
}

/// `1%` or `0.5%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').ok_or("write it in points, as in 1%")?;
    let value: f64 = number.trim().parse().map_err(|e| format!("{e}"))?;
    if (0.0..=100.0).contains(&value) { Ok(value / 100.0) } else { Err("it is between 0% and 100%".to_string()) }
}
