//! What a search tells of the model that it found: every layer with what it became and what it nearly became, the whole before and after, and what
//! compression without a choice would have given for the same loss.

use serde::{Deserialize, Serialize};

use crate::assemble::rounded;
use crate::candidate::Pick;
use crate::metric::Score;
use crate::price::Objective;
use crate::recipe::Layer;
use crate::search::{Found, Search};
use crate::{Result, Taken};

/// The report, which recipes keep.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The machine that times are predicted for.
    pub target: String,
    /// The metric.
    pub metric: String,
    /// What was little, and of what.
    pub objective: String,
    /// How many samples there are.
    pub samples: usize,
    /// They were generated, since there were none: the score is not that of inputs which the model will see.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
    /// On samples that the model was not computed from.
    pub score: Score,
    /// What the contract limits, 0 to 1.
    pub drop: f64,
    /// Distance of the choice from the best one for its limit of error, as a part of its price.
    pub optimality_gap: f64,
    /// The dense model.
    pub dense: Taken,
    /// The compressed model.
    pub compressed: Taken,
    /// The cheapest models that lose no more, without a choice.
    #[serde(default)]
    pub baselines: Vec<Baseline>,
    /// All layers.
    #[serde(default)]
    pub layers: Vec<Row>,
}

/// The cheapest model of one way to treat all layers alike.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// The way.
    pub name: String,
    /// The model; none where every one loses more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Uniform>,
}

/// A model in which all layers are alike.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Uniform {
    /// Share of multiplications that is left.
    pub density: f64,
    /// What it loses.
    pub drop: f64,
    /// What it takes.
    pub taken: Taken,
}

/// A layer. Pairs are before and after; times, energy and bytes are estimates for the layer by itself.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The ONNX nodes that it does the work of.
    pub name: String,
    /// What it became.
    pub chosen: String,
    /// Relative error of its result.
    pub error: f64,
    /// Its part of the divergence of the answers.
    pub divergence: f64,
    /// Multiplications.
    pub macs: (u64, u64),
    /// Bytes of weights.
    pub bytes: (u64, u64),
    /// Microseconds.
    pub us: (f64, f64),
    /// Microjoules.
    pub uj: (f64, f64),
    /// What it would have become next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<RunnerUp>,
}

/// The second best candidate of a layer at the price of error that the limit makes.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct RunnerUp {
    /// What it is.
    pub kind: String,
    /// Its part of the divergence.
    pub divergence: f64,
    /// Its microseconds.
    pub us: f64,
    /// Its bytes of weights.
    pub bytes: u64,
}

/// A kind of candidate for people: `int8 pruned 0.3`, `as it was`.
pub fn kind(pick: &Pick) -> String {
    if *pick == Pick::DENSE {
        return "as it was".to_string();
    }
    let numbers = format!("{:?}", pick.weights).to_lowercase();
    if pick.form == Pick::DENSE.form { numbers } else { format!("{numbers} {} {}", pick.form.name(), pick.density) }
}

/// The name of an objective.
pub fn objective(of: Objective) -> &'static str {
    match of {
        Objective::Latency => "latency",
        Objective::Size => "size",
        Objective::Ram => "ram",
        Objective::Energy => "energy",
        Objective::Macs => "macs",
    }
}

impl Search<'_> {
    /// The report of a model; `baselines` are computed for what it may lose.
    ///
    /// # Errors
    /// When a model has no code.
    pub fn report(&self, found: &Found, baselines: bool) -> Result<Report> {
        let allowed = if self.goal.max_drop.is_finite() { self.goal.max_drop } else { found.score.drop() };
        let uniform = if baselines { self.baselines(allowed)? } else { Vec::new() };
        let row =
            |p: crate::baseline::Point| Uniform { density: p.density, drop: rounded(p.score.drop()), taken: short(&p.taken) };
        Ok(Report {
            target: self.subject.backend.target(),
            metric: self.metric().to_string(),
            objective: objective(self.goal.objective).to_string(),
            samples: self.subject.samples.count,
            generated: self.subject.samples.are_generated(),
            score: found.score.rounded(),
            drop: rounded(found.score.drop()),
            optimality_gap: rounded(found.gap),
            dense: short(&self.dense()?),
            compressed: short(&self.taken(found)?),
            baselines: uniform.into_iter().map(|(name, p)| Baseline { name: name.to_string(), model: p.map(row) }).collect(),
            layers: (0..self.layers().len()).map(|n| self.row(found, n)).collect(),
        })
    }

    fn row(&self, found: &Found, n: usize) -> Row {
        let (layer, chosen) = (&self.layers()[n], found.chosen.picks[n]);
        let price = |of: Objective, kind: usize| self.prices.table(of).of[n][kind];
        // What the layer behind does not read is not computed.
        let share = self.prices.share(&found.chosen.picks, n);
        let pair = |of: Objective, scale: f64| (rounded(price(of, 0) * scale), rounded(price(of, chosen) * share * scale));
        let bytes = |kind: usize, share: f64| (price(Objective::Size, kind) * share).round() as u64;
        let stated = found.assembled.recipe.layers.iter().find(|l| l.name == layer.name);
        let runner_up = self.runner_up(found, n).map(|k| RunnerUp {
            kind: kind(&self.kinds[k]),
            divergence: rounded(self.choices.error(n, k)),
            us: rounded(price(Objective::Latency, k) * share * 1e6),
            bytes: bytes(k, share),
        });
        Row {
            name: layer.name.clone(),
            chosen: kind(&self.kinds[chosen]),
            error: stated.map_or(0.0, |l| l.error),
            divergence: rounded(self.choices.error(n, chosen)),
            macs: (layer.macs(), (layer.macs() as f64 * share * stated.map_or(1.0, Layer::multiplied)).round() as u64),
            bytes: (bytes(0, 1.0), bytes(chosen, share)),
            us: pair(Objective::Latency, 1e6),
            uj: pair(Objective::Energy, 1e6),
            runner_up,
        }
    }

    /// The candidate of a layer with the least price, that of its error included, but for the one that was chosen.
    fn runner_up(&self, found: &Found, n: usize) -> Option<usize> {
        let of = if self.goal.objective == Objective::Ram { Objective::Latency } else { self.goal.objective };
        let whole = |k: &usize| self.prices.table(of).of[n][*k] + found.chosen.weight * self.choices.error(n, *k);
        let others = self.choices.kinds(n).filter(|k| *k != found.chosen.picks[n]);
        others.min_by(|a, b| whole(a).total_cmp(&whole(b)))
    }
}

fn short(taken: &Taken) -> Taken {
    Taken { seconds: rounded(taken.seconds), joules: rounded(taken.joules), ..*taken }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Recipe, VERSION};

    fn row(name: &str, runner_up: Option<RunnerUp>) -> Row {
        Row {
            name: name.to_string(),
            chosen: "int8 pruned 0.3".to_string(),
            error: 0.02,
            divergence: 1e-5,
            macs: (1000, 300),
            bytes: (4000, 400),
            us: (12.0, 3.5),
            uj: (9.0, 0.1),
            runner_up,
        }
    }

    #[test]
    fn recipes_keep_reports_with_a_line_for_each_layer() {
        let next = RunnerUp { kind: "int8".to_string(), divergence: 1e-6, us: 5.0, bytes: 1000 };
        let taken = Taken { seconds: 1e-3, joules: 1e-5, weight_bytes: 4000, arena_bytes: 64, macs: 1000 };
        let report = Report {
            target: "some cpu".to_string(),
            metric: "the \"metric\"".to_string(),
            objective: "latency".to_string(),
            samples: 7,
            generated: true,
            score: Score { agreement: 1.0, ..Score::default() },
            drop: 0.0,
            optimality_gap: 0.01,
            dense: taken,
            compressed: taken,
            baselines: vec![Baseline { name: "uniform".to_string(), model: Some(Uniform { density: 0.5, drop: 0.01, taken }) }],
            layers: vec![row("first", Some(next)), row("a line\nand another", None)],
        };
        let recipe = Recipe { version: VERSION, report: Some(report), ..Recipe::default() };
        let text = recipe.text().unwrap();
        assert_eq!(Recipe::parse(&text).unwrap(), recipe);
        assert_eq!(text.lines().filter(|l| l.contains("int8 pruned 0.3")).count(), 2, "{text}");
        let without = Recipe { report: None, ..recipe };
        assert!(!without.text().unwrap().contains("report"));
    }
}
