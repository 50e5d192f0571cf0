//! Integers of which few add up to much: those whose products are added within 16 bits ([`SHORT_SUM`]).
//!
//! Products of bytes add two neighbouring channels of a step of k, which has four, and those of several steps that go together: of a tap, or of a list of the
//! steps that a mask has left. Sums that are too large for that are rare. Weights of such a sum give way, each the more the less it counts.

use std::collections::BTreeMap;

use onnxc_ir::DType;
use onnxc_ir::kernel::k_group;
use onnxc_ir::target::{PAIR, SHORT_SUM};

/// Which integers add up to little.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sums {
    /// Channels of a tap.
    pub channels: usize,
    /// Steps that go together.
    pub steps: usize,
    /// Each step has an equal part of the sum, so that any steps may go together.
    pub apart: bool,
}

/// The sums of an output, or of outputs of which the same positions are left.
pub(super) struct Groups {
    /// Positions of each.
    members: Vec<Vec<usize>>,
    /// Which one a position is of.
    of: Vec<Option<usize>>,
    /// How readily a position gives way.
    yields: Vec<f64>,
    /// What each adds up to at most.
    room: f64,
}

impl Groups {
    /// Of all positions, or of those that are left; an error of each counts as much as said.
    pub fn new(sums: Sums, importance: &[f64], left: Option<&[usize]>) -> Groups {
        let step_size = k_group(DType::U8) as usize;
        let Sums { channels, steps, apart } = sums;
        let of_tap = channels.div_ceil(step_size);
        // Loops over one step are none: steps of any taps may follow each other.
        let apart = apart || left.is_none() && of_tap == 1;
        let step = |p: usize| p / channels * of_tap + p % channels / step_size;
        let listed: Option<BTreeMap<usize, usize>> = left.map(|left| {
            let mut all: Vec<usize> = left.iter().map(|p| step(*p)).collect();
            all.sort_unstable();
            all.dedup();
            all.into_iter().zip(0..).collect()
        });
        let together = |p: usize| match &listed {
            _ if apart => (0, step(p)),
            Some(places) => (0, places[&step(p)] / steps),
            None => (p / channels, p % channels / step_size / steps),
        };
        let mut groups: BTreeMap<(usize, usize, usize), Vec<usize>> = BTreeMap::new();
        let mut add = |p: usize| {
            let (tap, steps) = together(p);
            groups.entry((tap, steps, p % channels % step_size / PAIR)).or_default().push(p);
        };
        match left {
            Some(left) => left.iter().for_each(|p| add(*p)),
            None => (0..importance.len()).for_each(add),
        }
        let members: Vec<Vec<usize>> = groups.into_values().collect();
        let mut of = vec![None; importance.len()];
        members.iter().enumerate().for_each(|(g, members)| members.iter().for_each(|p| of[*p] = Some(g)));
        let mean = importance.iter().sum::<f64>() / importance.len().max(1) as f64;
        let yields = importance.iter().map(|i| if mean > 0.0 { 1.0 / (i / mean + 1e-6) } else { 1.0 }).collect();
        Groups { members, of, yields, room: f64::from(SHORT_SUM) / if apart { steps as f64 } else { 1.0 } }
    }

    /// The largest integer.
    pub fn widest(&self) -> f64 {
        self.room.min(f64::from(i8::MAX))
    }

    /// The positions that add up with this one.
    pub fn with(&self, p: usize) -> &[usize] {
        self.of[p].map_or(&[], |g| &self.members[g])
    }

    /// The integer for x at a position, beside others.
    pub fn beside(&self, p: usize, x: f64, others: &Others) -> f64 {
        let room = (self.room - others.taken).max(0.0);
        let over = (x.abs() + others.open - room).max(0.0);
        let share = self.yields[p] / (self.yields[p] + others.yields);
        let most = room.min(self.widest());
        super::integer(x - x.signum() * (share * over).min(x.abs()), most)
    }

    /// The nearest integers of an output's weights.
    pub fn nearest(&self, xs: &[f64], rounded: &mut [f64]) {
        rounded.iter_mut().zip(xs).for_each(|(r, x)| *r = super::integer(*x, self.widest()));
        for members in &self.members {
            let (up, down) = signed_sums(members.iter().map(|p| rounded[*p]));
            if up.max(down) <= self.room {
                continue;
            }
            for (n, &p) in members.iter().enumerate() {
                let mut others = Others::default();
                members[..n].iter().for_each(|o| others.add_rounded(xs[p], rounded[*o]));
                members[n + 1..].iter().for_each(|o| others.add_open(xs[p], xs[*o], self.yields[*o]));
                rounded[p] = self.beside(p, xs[p], &others);
            }
        }
    }

    /// How readily a position gives way.
    pub fn yields(&self, p: usize) -> f64 {
        self.yields[p]
    }

    /// What the sums of some weights reach, as a part of the room.
    pub fn reach(&self, weights: &[f32]) -> f64 {
        let sum = |members: &Vec<usize>| {
            let (up, down) = signed_sums(members.iter().map(|p| f64::from(weights[*p])));
            up.max(down)
        };
        self.members.iter().map(sum).fold(0.0, f64::max) / self.room
    }
}

/// The others that add up with a weight, of its sign.
#[derive(Default)]
pub(super) struct Others {
    /// What those that are rounded add up to.
    taken: f64,
    /// What the others do, before they are.
    open: f64,
    /// How readily these give way.
    yields: f64,
}

impl Others {
    pub fn add_rounded(&mut self, x: f64, other: f64) {
        self.taken += if x * other > 0.0 { other.abs() } else { 0.0 };
    }

    pub fn add_open(&mut self, x: f64, other: f64, yields: f64) {
        if x * other > 0.0 {
            self.open += other.abs();
            self.yields += yields;
        }
    }
}

fn signed_sums(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((0.0, 0.0), |(up, down), v| (up + v.max(0.0), down - v.min(0.0)))
}
