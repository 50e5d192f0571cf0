//! The same with one open extent: some axis of each sample's operands is the symbol N. A value that goes into another operator brings its N to where
//! that operator wants it; everything else is made to fit by slices and repeats.

use super::{Composer, MOST_ELEMENTS, pattern_range};
use crate::open_samples::{Opening, candidates, changed};
use crate::samples::Random;
use onnxc_ir::graph::Graph;
use onnxc_ir::op::{InferCx, OpDef, OpSet, SampleInput};
use onnxc_ir::{Attr, Attrs, DType, Dim, DimBindings, Tensor, TensorType, ValueId, interp};

/// Values of N that graphs are called with, ascending; the first and the last are its range.
const SIZES: [u64; 3] = [2, 5, 9];

/// A graph with calls of several sizes.
#[derive(Debug)]
pub struct Open {
    /// The graph, with bounds for N.
    pub graph: Graph,
    /// Values of N, and for each a value per input.
    pub calls: Vec<(u64, Vec<Tensor>)>,
}

struct Opener {
    c: Composer,
    /// Least and largest value of each input.
    ranges: Vec<(f64, f64)>,
}

fn n() -> Dim {
    Dim::sym("N")
}

fn at(dim: &Dim, size: u64) -> Dim {
    dim.bind(&DimBindings::from([("N".to_string(), size)]))
}

fn sized(ty: &TensorType, size: u64) -> TensorType {
    TensorType::new(ty.dtype, ty.shape.iter().map(|d| at(d, size)).collect())
}

/// The place of N in a shape, if all other extents are numbers and not 0.
fn place(ty: &TensorType) -> Option<usize> {
    let place = ty.shape.iter().position(|d| *d == n())?;
    let known = |(d, dim): (usize, &Dim)| d == place || dim.as_const().is_some_and(|n| n > 0);
    ty.shape.iter().enumerate().all(known).then_some(place)
}

/// Elements for N = 1.
fn elements(ty: &TensorType) -> u64 {
    ty.shape.iter().map(|d| d.as_const().unwrap_or(1)).product()
}

/// The graph of a seed: 3 to 8 samples and what connects them. `None` where they do not make one.
pub fn compose(seed: u64) -> Option<Open> {
    let random = Random::new(seed);
    let composer = Composer { graph: Graph::new("random"), random, inputs: Vec::new(), values: Vec::new() };
    let mut o = Opener { c: composer, ranges: Vec::new() };
    let wanted = 3 + o.c.random.below(6);
    let (mut added, mut tries) = (0, 0);
    while added < wanted && tries < 80 {
        tries += 1;
        added += usize::from(o.sample().is_some());
    }
    let mut graph = o.c.graph;
    let used: Vec<ValueId> = graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten().copied()).collect();
    graph.outputs = o.c.values.iter().copied().filter(|id| !used.contains(id)).collect();
    if added < 3 || graph.outputs.is_empty() {
        return None;
    }
    graph.set_bounds([("N".to_string(), (SIZES[0], SIZES[SIZES.len() - 1]))].into());
    onnxc_ir::verify::verify(&graph).ok()?;
    let mut random = Random::new(seed ^ 0x5eed);
    let input = |random: &mut Random, size: u64, (id, (low, high)): (&ValueId, &(f64, f64))| {
        random.tensor(&sized(graph.ty(*id), size), *low, *high)
    };
    let calls = SIZES.map(|size| {
        let inputs: Vec<Tensor> = graph.inputs.iter().zip(&o.ranges).map(|i| input(&mut random, size, i)).collect();
        (size, inputs)
    });
    Some(Open { graph, calls: calls.into() })
}

impl Opener {
    /// Adds a sample of some operator with an open extent; one of its operands may come from an earlier node.
    fn sample(&mut self) -> Option<()> {
        let op = onnxc_ops::ALL[self.c.random.below(onnxc_ops::ALL.len())];
        let samples = (op.samples)();
        let sample = &samples[self.c.random.below(samples.len())];
        let openings: Vec<Opening> = candidates(sample).into_iter().filter(|o| o.factor == 1).collect();
        if openings.is_empty() {
            return None;
        }
        let opening = &openings[self.c.random.below(openings.len())];
        let sample = changed(sample, std::slice::from_ref(opening), |_, _| n());
        let small = |i: &SampleInput| match i {
            SampleInput::Data(ty, ..) => elements(ty) <= MOST_ELEMENTS / SIZES[SIZES.len() - 1],
            SampleInput::Const(t) => t.len() as u64 <= MOST_ELEMENTS,
        };
        if !sample.inputs.iter().flatten().all(small) || !self.holds(op, &sample.attrs, &sample.inputs, sample.n_outputs) {
            return None;
        }
        let mut ids = Vec::new();
        for input in &sample.inputs {
            ids.push(match input {
                None => None,
                Some(SampleInput::Const(t)) => Some(self.c.constant(t.clone())),
                Some(SampleInput::Data(ty, low, high)) => {
                    let fits = ty.dtype == DType::F32 && place(ty).is_some() && !self.c.values.is_empty();
                    let reuse = fits && self.c.random.next() < 0.8;
                    Some(if reuse { self.adapted(ty, *low, *high)? } else { self.input(ty, *low, *high) })
                }
            });
        }
        for id in self.c.node(op, &ids, sample.attrs.clone(), sample.n_outputs)? {
            let ty = self.c.graph.ty(id);
            if ty.dtype == DType::F32 && place(ty).is_some() && elements(ty) <= MOST_ELEMENTS {
                self.c.values.push(id);
            }
        }
        Some(())
    }

    /// Does inference say the same of N as of each of its values?
    fn holds(&self, op: &'static OpDef, attrs: &Attrs, inputs: &[Option<SampleInput>], n_outputs: usize) -> bool {
        let infer = |size: Option<u64>| {
            let ty = |i: &Option<SampleInput>| {
                i.as_ref().map(|i| match (i, size) {
                    (SampleInput::Const(t), _) => TensorType::fixed(t.dtype(), t.shape()),
                    (SampleInput::Data(ty, ..), None) => ty.clone(),
                    (SampleInput::Data(ty, ..), Some(size)) => sized(ty, size),
                })
            };
            let constant = |i: &Option<SampleInput>| match i {
                Some(SampleInput::Const(t)) => Some(t.clone()),
                _ => None,
            };
            let inputs_of: Vec<Option<TensorType>> = inputs.iter().map(ty).collect();
            let constants: Vec<Option<Tensor>> = inputs.iter().map(constant).collect();
            let dims: Vec<_> = constants.iter().map(|c| c.as_ref().and_then(interp::as_dims)).collect();
            (op.infer)(&InferCx { attrs, inputs: &inputs_of, constants: &constants, dims: &dims, n_outputs }).ok()
        };
        let Some(open) = infer(None) else { return false };
        let same = |size: u64| infer(Some(size)).is_some_and(|t| t == open.iter().map(|ty| sized(ty, size)).collect::<Vec<_>>());
        SIZES.into_iter().all(same)
    }

    fn input(&mut self, ty: &TensorType, low: f64, high: f64) -> ValueId {
        self.ranges.push((low, high));
        let name = self.c.name("x");
        self.c.graph.add_input(&name, ty.clone())
    }

    /// An earlier value in the range and shape that an operand needs.
    fn adapted(&mut self, ty: &TensorType, low: f64, high: f64) -> Option<ValueId> {
        let x = self.c.values[self.c.random.below(self.c.values.len())];
        let from = self.c.graph.ty(x).clone();
        let (first, to) = (place(&from)?, place(ty)?);
        let mut x = self.c.ranged(x, low, high)?;
        x = self.moved(x, from.rank(), first, 0)?;
        let (a, b) = (elements(&from), elements(ty));
        x = self.reshaped(x, &[a])?;
        if a < b {
            let times = self.c.ints(&[1, b.div_ceil(a)]);
            x = self.c.one("tile", &[x, times])?;
        }
        if b % a != 0 || a > b {
            let [start, end, axis] = [0, b, 1].map(|i| self.c.ints(&[i]));
            x = self.c.one("slice", &[x, start, end, axis])?;
        }
        let rest: Vec<u64> = ty.shape.iter().filter_map(Dim::as_const).collect();
        x = self.reshaped(x, &rest)?;
        x = self.moved(x, ty.rank(), 0, to)?;
        let (low_of_pattern, high_of_pattern) = pattern_range(low, high);
        let pattern = self.input(ty, low_of_pattern, high_of_pattern);
        self.c.patterned(x, pattern, low, high)
    }

    /// `[N, rest...]`.
    fn reshaped(&mut self, x: ValueId, rest: &[u64]) -> Option<ValueId> {
        let shape: Vec<i64> = std::iter::once(-1).chain(rest.iter().map(|n| *n as i64)).collect();
        let shape = self.c.constant(Tensor::from_vec(&[shape.len() as u64], shape));
        self.c.one("reshape", &[x, shape])
    }

    /// Axis `from` at the place `to`.
    fn moved(&mut self, x: ValueId, rank: usize, from: usize, to: usize) -> Option<ValueId> {
        if from == to {
            return Some(x);
        }
        let mut perm: Vec<i64> = (0..rank as i64).collect();
        let axis = perm.remove(from);
        perm.insert(to, axis);
        let attrs = Attrs::default().with("perm", Attr::Ints(perm));
        Some(self.c.node(OpSet(onnxc_ops::ALL).get("transpose")?, &[Some(x)], attrs, 1)?[0])
    }
}
