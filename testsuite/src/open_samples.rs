//! Samples of operators with open extents: the extents of a sample's operands become symbols with ranges, one at a time where inference allows that,
//! else those of equal length together; a multiple of a symbol where the operator divides the extent. What comes out is compared with the reference
//! interpreter at several sizes.

use crate::samples::{check, graph_of, guarded, inputs_of};
use onnxc_ir::dim::DimBounds;
use onnxc_ir::graph::Graph;
use onnxc_ir::op::{OpDef, Sample, SampleInput};
use onnxc_ir::plan::{Plan, Variants};
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{Dim, DimBindings, Tensor, TensorType, interp, text};
use onnxc_passes::plan::{self, Merge, PlanError};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Elements of an operand above which a sample is not opened: the interpreter runs each one at several sizes.
const MOST_ELEMENTS: u64 = 20_000;
/// Names of the symbols.
const NAMES: [&str; 2] = ["N", "M"];

/// Axes of operands that one symbol stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Opening {
    /// Operand and axis.
    axes: Vec<(usize, usize)>,
    /// Their extent in multiples of the symbol.
    pub factor: u64,
    /// The value of the symbol that gives the sample's own extents.
    value: u64,
}

/// A sample with open extents.
#[derive(Debug)]
pub struct OpenCase {
    /// The operator.
    pub op: &'static OpDef,
    /// Position in the operator's list of samples.
    pub number: usize,
    /// The operator alone, with bounds for its symbols.
    pub graph: Graph,
    /// Calls, of different sizes.
    pub calls: Vec<Call>,
}

/// One call of an [`OpenCase`].
#[derive(Debug)]
pub struct Call {
    /// Values of the symbols.
    pub dims: Vec<u64>,
    /// A value per graph input.
    pub inputs: Vec<Tensor>,
    /// The interpreter's outputs.
    pub want: Vec<Tensor>,
}

/// The cases of the operators whose name contains `only`.
pub fn cases(only: &str) -> Vec<OpenCase> {
    let of = |op: &'static OpDef| (op.samples)().into_iter().enumerate().map(move |(number, sample)| (op, number, sample));
    let samples: Vec<_> = onnxc_ops::ALL.iter().filter(|op| op.name.contains(only)).flat_map(|op| of(op)).collect();
    // Extents that do not fit together can make the interpreter panic where inference has only symbols to see; it says nothing of compiled code.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let cases = samples.into_par_iter().flat_map_iter(|(op, number, sample)| cases_of(op, number, &sample)).collect();
    std::panic::set_hook(hook);
    cases
}

/// The cases of a sample: one for each axis that can be open, alone or with the others of its length, and one with two symbols.
fn cases_of(op: &'static OpDef, number: usize, sample: &Sample) -> Vec<OpenCase> {
    let small = |i: &SampleInput| match i {
        SampleInput::Data(ty, ..) => ty.const_shape().is_some_and(|s| s.iter().product::<u64>() <= MOST_ELEMENTS),
        SampleInput::Const(_) => true,
    };
    if !sample.inputs.iter().flatten().all(small) {
        return Vec::new();
    }
    let (mut cases, mut found, mut done) = (Vec::new(), Vec::new(), BTreeSet::new());
    for opening in candidates(sample) {
        if opening.axes.iter().all(|a| done.contains(a)) {
            continue;
        }
        if let Some(case) = case(op, number, sample, std::slice::from_ref(&opening)) {
            done.extend(opening.axes.iter().copied());
            cases.push(case);
            found.push(opening);
        }
    }
    let apart = |a: &Opening, b: &Opening| a.axes.iter().all(|at| !b.axes.contains(at));
    let pairs = found.iter().enumerate().flat_map(|(i, a)| found[i + 1..].iter().map(move |b| [a.clone(), b.clone()]));
    cases.extend(pairs.filter(|[a, b]| apart(a, b)).find_map(|pair| case(op, number, sample, &pair)));
    cases
}

/// What to try, the best first: single axes, all axes of one length, pairs of them, multiples.
pub(crate) fn candidates(sample: &Sample) -> Vec<Opening> {
    let mut axes: Vec<((usize, usize), u64)> = Vec::new();
    for (i, input) in sample.inputs.iter().enumerate() {
        if let Some(SampleInput::Data(ty, ..)) = input {
            let extents = ty.const_shape().unwrap_or_default();
            axes.extend(extents.iter().enumerate().filter(|(_, n)| **n > 0).map(|(d, n)| ((i, d), *n)));
        }
    }
    let opening = |axes: Vec<(usize, usize)>, n: u64, factor: u64| Opening { axes, factor, value: n / factor };
    let mut all: Vec<Opening> = axes.iter().map(|(at, n)| opening(vec![*at], *n, 1)).collect();
    let lengths: BTreeSet<u64> = axes.iter().map(|(_, n)| *n).collect();
    for n in &lengths {
        let same: Vec<(usize, usize)> = axes.iter().filter(|(_, m)| m == n).map(|(at, _)| *at).collect();
        let pairs = same.iter().enumerate().flat_map(|(k, a)| same[k + 1..].iter().map(move |b| vec![*a, *b]));
        all.extend(pairs.map(|pair| opening(pair, *n, 1)));
        all.push(opening(same, *n, 1));
    }
    for (at, n) in &axes {
        all.extend((2..=*n).filter(|k| n.is_multiple_of(*k)).map(|k| opening(vec![*at], *n, k)));
    }
    all
}

/// The sample with the extents of some axes changed.
pub(crate) fn changed(sample: &Sample, openings: &[Opening], extent: impl Fn(usize, u64) -> Dim) -> Sample {
    let input = |(i, input): (usize, &Option<SampleInput>)| {
        input.as_ref().map(|input| match input {
            SampleInput::Const(t) => SampleInput::Const(t.clone()),
            SampleInput::Data(ty, low, high) => {
                let dim = |(d, n): (usize, &Dim)| {
                    let symbol = openings.iter().position(|o| o.axes.contains(&(i, d)));
                    symbol.map_or_else(|| n.clone(), |s| extent(s, openings[s].factor))
                };
                let shape = ty.shape.iter().enumerate().map(dim).collect();
                SampleInput::Data(TensorType::new(ty.dtype, shape), *low, *high)
            }
        })
    };
    Sample {
        attrs: sample.attrs.clone(),
        inputs: sample.inputs.iter().enumerate().map(input).collect(),
        n_outputs: sample.n_outputs,
    }
}

/// The case in which these axes are open, if inference and the interpreter take it at two sizes or more.
fn case(op: &'static OpDef, number: usize, sample: &Sample, openings: &[Opening]) -> Option<OpenCase> {
    let symbols = changed(sample, openings, |s, factor| Dim::sym(NAMES[s]).mul(&Dim::Const(factor)));
    let mut graph = graph_of(op, &symbols).ok()?;
    let mut calls = Vec::new();
    for (k, dims) in sizes(openings).into_iter().enumerate() {
        let sized = changed(sample, openings, |s, factor| Dim::Const(dims[s] * factor));
        let Some(call) = call(&graph, &sized, dims, (number * 8 + k) as u64) else {
            // Sizes ascend: what is below the sample's own may be too small, what is above it ends the range.
            if calls.len() > 1 {
                break;
            }
            calls.clear();
            continue;
        };
        calls.push(call);
    }
    if calls.len() < 2 {
        return None;
    }
    let range = |s: usize| (calls[0].dims[s], calls[calls.len() - 1].dims[s]);
    let bounds: DimBounds = (0..openings.len()).map(|s| (NAMES[s].to_string(), range(s))).collect();
    if bounds.values().any(|r| r.0 == r.1) {
        return None;
    }
    graph.set_bounds(bounds);
    Some(OpenCase { op, number, graph, calls })
}

/// Values of the symbols, ascending: one, one less than the sample's, the sample's own, a few more.
fn sizes(openings: &[Opening]) -> Vec<Vec<u64>> {
    let value = |step: usize| move |o: &Opening| [1, o.value.saturating_sub(1).max(1), o.value, o.value + 3][step];
    let mut all: Vec<Vec<u64>> = (0..4).map(|step| openings.iter().map(value(step)).collect()).collect();
    all.dedup();
    all
}

/// One size, if the interpreter takes it and the symbolic types say what comes out.
fn call(graph: &Graph, sized: &Sample, dims: Vec<u64>, seed: u64) -> Option<Call> {
    let inputs = inputs_of(sized, seed);
    // Extents that do not fit together, which inference with symbols cannot see.
    let want = guarded(|| interp::run(graph, &inputs).map_err(|e| e.to_string())).ok()?;
    let values: DimBindings = NAMES.iter().map(ToString::to_string).zip(dims.iter().copied()).collect();
    let said = |(id, t): (&onnxc_ir::ValueId, &Tensor)| {
        let shape: Option<Vec<u64>> = graph.ty(*id).shape.iter().map(|d| d.bind(&values).as_const()).collect();
        shape.as_deref() == Some(t.shape())
    };
    graph.outputs.iter().zip(&want).all(said).then_some(Call { dims, inputs, want })
}

impl OpenCase {
    /// A complaint about this case, with its graph.
    pub fn complaint(&self, place: &str, what: &str) -> String {
        format!("{} sample {} on {place}: {what}\n{}", self.op.name, self.number, text::print(&self.graph))
    }

    /// The plan for all sizes.
    ///
    /// # Errors
    /// What the planner refuses.
    pub fn plan(&self, target: &TargetDesc) -> Result<Plan, Vec<PlanError>> {
        plan::plan(&self.graph, target)
    }

    /// The plan as a model with open dimensions.
    ///
    /// # Errors
    /// A symbol that is the extent of no input.
    pub fn variants(&self, plan: Plan) -> Result<Variants, String> {
        let (names, ranges) = self.graph.bounds.iter().map(|(name, range)| (name.clone(), *range)).unzip();
        let mut all = Merge::new(names);
        all.add(ranges, plan);
        all.finish().map_err(|unused| format!("no input has the extents {unused:?}"))
    }

    /// Values of the open dimensions of a call, in the order of [`OpenCase::variants`].
    pub fn dims(&self, call: &Call) -> Vec<u64> {
        let place = |name: &String| NAMES.iter().position(|n| n == name).expect("a symbol of this file");
        self.graph.bounds.keys().map(|name| call.dims[place(name)]).collect()
    }

    /// Compares the bytes of all outputs of a call with the interpreter's.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, call: &Call, outputs: &[Vec<u8>]) -> Result<(), String> {
        check(&self.graph.nodes[0], outputs, &call.want).map_err(|e| format!("at {:?}: {e}", call.dims))
    }
}
