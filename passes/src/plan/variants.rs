//! Plans of one model for several values of its open dimensions, or in several forms, with one weight blob.

use std::collections::BTreeMap;

use onnxc_ir::Dim;
use onnxc_ir::plan::{OpenDim, Place, Plan, Variants};

use crate::memory::weights::Weights;

/// The plans so far. What they have in common of their weights is kept once.
pub struct Merge {
    names: Vec<String>,
    weights: Weights,
    plans: Vec<(Vec<(u64, u64)>, Plan)>,
}

impl Merge {
    /// For open dimensions of these names.
    pub fn new(names: Vec<String>) -> Merge {
        Merge { names, weights: Weights::default(), plans: Vec::new() }
    }

    /// Adds the plan for one range of values of each dimension.
    pub fn add(&mut self, ranges: Vec<(u64, u64)>, mut plan: Plan) {
        let moved: BTreeMap<u64, u64> = plan.weights.drain(..).map(|(at, bytes)| (at, self.weights.add(bytes))).collect();
        for step in &mut plan.steps {
            step.each_place(&mut |place| {
                // What leads to no part is the place of a constant that nobody reads.
                if let Place::Weights(at) = place {
                    *at = moved.get(at).copied().unwrap_or(0);
                }
            });
        }
        self.plans.push((ranges, plan));
    }

    /// All plans.
    ///
    /// # Errors
    /// The names of dimensions that are the extent of no input: a caller could not tell which value a buffer has.
    pub fn finish(self) -> Result<Variants, Vec<String>> {
        let (weights, bytes) = self.weights.finish();
        let mut plans = self.plans;
        for (_, plan) in &mut plans {
            (plan.weights, plan.weights_bytes) = (weights.clone(), bytes);
        }
        let (mut dims, mut unused) = (Vec::new(), Vec::new());
        for (d, name) in self.names.into_iter().enumerate() {
            let mut ranges: Vec<(u64, u64)> = plans.iter().map(|(r, _)| r[d]).collect();
            ranges.sort_unstable();
            ranges.dedup();
            match axis_of(&plans, d, &name) {
                Some((from, factor)) => dims.push(OpenDim { name, ranges, from, factor }),
                None => unused.push(name),
            }
        }
        if unused.is_empty() { Ok(Variants { dims, points: Vec::new(), plans }) } else { Err(unused) }
    }
}

/// The first axis of an input whose extent is the value of dimension `d`, or a multiple of it, in every plan; and the factor.
fn axis_of(plans: &[(Vec<(u64, u64)>, Plan)], d: usize, name: &str) -> Option<((usize, usize), u64)> {
    let inputs = &plans.first()?.1.inputs;
    let mut axes = inputs.iter().enumerate().flat_map(|(i, io)| (0..io.ty.rank()).map(move |a| (i, a)));
    let factor = |(ranges, plan): &(Vec<(u64, u64)>, Plan), (i, a): (usize, usize)| {
        let extent = plan.inputs[i].ty.shape.get(a)?;
        let value = if ranges[d].0 == ranges[d].1 { Dim::Const(ranges[d].0) } else { Dim::sym(name) };
        let factor = if *extent == value { Dim::Const(1) } else { extent.exact_div(&value)? };
        factor.as_const().filter(|k| *k > 0)
    };
    axes.find_map(|at| {
        let first = factor(plans.first()?, at)?;
        plans.iter().all(|p| factor(p, at) == Some(first)).then_some((at, first))
    })
}
