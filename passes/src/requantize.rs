//! The last division of an epilogue that ends in integers goes into the constants before it.
//!
//! What   `quantize(f(sum * w + b), s)` = `round(f'(sum * (w * g) + b * g))`, where `f'` is `f` for such sums and has the `1 / s`:
//!        - products, sums and bounds pass a factor on to their operands until it meets constants;
//!        - so they do with a constant operand of positive numbers that a whole is multiplied by (channels that compression has made alike): bounds of 0 let it pass;
//!        - `x * clamp(x * c + d, low, high) / s` = `a * clamp(a + g * d / c, g * low / c, g * high / c)` with `a = g * x`, `g = sqrt(c / s)`: hard swish;
//!        - `float(sum) * w + b` = `float(sum + round(b / w)) * w` for sums of integers, which begin with the constant.
//! When   after fusion: programs are whole, and what reads their results is settled.
//! Why    where products are dot products of bytes, epilogues take half of the time; hard swish and its quantisation are 7 operations instead of 12.
//! Class  bounded: constants are rounded once more, scales of sums to 22 digits (`onnxc_ir::float_sums`), so that a result that lay next to a half becomes its
//!        other neighbour; at most one quantisation step.
//! Misses functions that a factor cannot pass; divisions of what no constant is before, which stay exact.

use std::collections::BTreeMap;

use onnxc_egraph::RuleClass;
use onnxc_ir::float_sums;
use onnxc_ir::graph::Node;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram, UnOp};
use onnxc_ir::{Attr, DType, Graph, Tensor};

use crate::fuse::epilogue::KERNELS;
use crate::with_bodies;

/// What this does to numbers.
pub const CLASS: RuleClass = RuleClass::Bounded;

/// The graph with shorter epilogues, bodies included.
pub fn run(graph: &Graph) -> Graph {
    let mut out = with_bodies(graph, &run).unwrap_or_else(|| graph.clone());
    for n in 0..out.nodes.len() {
        shorten(&mut out, n);
    }
    // Steps that share a constant have multiples of it each.
    out.make_names_unique();
    out
}

fn shorten(graph: &mut Graph, n: usize) -> Option<()> {
    let node = &graph.nodes[n];
    let (attr, own, lead) = place(node)?;
    let program = node.attrs.program(attr)?;
    let input = |k: u8| usize::from(k).checked_sub(lead).and_then(|k| *node.inputs.get(own + k)?);
    let constant = |k: u8| graph.constant(input(k)?).filter(|t| t.dtype() == DType::F32);
    let mut short = shortened(program, &constant, SUMS.contains(&node.op.name))?;
    let (args, reads) = (program.n_args(), |k: usize| short.program.nodes.iter().any(|n| n.op == ScalarOp::Arg(k as u8)));
    let kept: Vec<usize> = (0..args + short.made.len()).filter(|k| *k < lead || reads(*k)).collect();
    let mut operands = Vec::new();
    for k in kept.iter().filter(|k| **k >= lead) {
        operands.push(match k.checked_sub(args).map(|m| short.made[m]) {
            None => (input(*k as u8)?, None),
            Some((of, Times::Factor(factor))) => (input(of)?, Some(times(constant(of)?, factor, &constant, &|x| x)?)),
            Some((of, Times::Short(factor))) => (input(of)?, Some(times(constant(of)?, factor, &constant, &float_sums::short)?)),
            Some((of, Times::Reciprocal(by))) => (input(of)?, Some(steps(constant(of)?, constant(by)?)?)),
        });
    }
    for (new, old) in kept.iter().enumerate() {
        short
            .program
            .nodes
            .iter_mut()
            .filter(|n| n.op == ScalarOp::Arg(*old as u8))
            .for_each(|n| n.op = ScalarOp::Arg(new as u8));
    }
    let operands: Vec<_> = operands
        .into_iter()
        .map(|(id, scaled)| match scaled {
            None => Some(id),
            Some(values) => Some(graph.add_const(&format!("{}.scaled", graph.value(id).name), values)),
        })
        .collect();
    let node = &mut graph.nodes[n];
    node.inputs.truncate(own);
    node.inputs.extend(operands);
    node.attrs = std::mem::take(&mut node.attrs).with(attr, Attr::Program(short.program));
    Some(())
}

/// Operators whose epilogues begin with sums of integers that can begin with something.
const SUMS: [&str; 2] = ["conv_integer", "matmul_integer"];

/// The attribute with the program of a node, how many inputs the program does not have, and how many operands of it are no inputs.
fn place(node: &Node) -> Option<(&'static str, usize, usize)> {
    if node.op.name == "map" {
        return Some(("program", 0, 0));
    }
    KERNELS.iter().find(|(name, _)| *name == node.op.name).map(|(_, own)| ("epilogue", *own, 1))
}

/// The elements of a constant times a factor, made `shorter`.
fn times(t: &Tensor, factor: Factor, constant: Constants, shorter: &dyn Fn(f32) -> f32) -> Option<Tensor> {
    let of = t.to_vec::<f32>();
    let each = match factor.each {
        Some(k) => constant(k)?.to_vec::<f32>(),
        None => vec![1.0; of.len()],
    };
    let one = |(x, f): (&f32, &f32)| shorter((f64::from(*x) * f64::from(*f) * factor.all) as f32);
    let values: Vec<f32> = of.iter().zip(&each).map(one).collect();
    values.iter().all(|x| *x == 0.0 || sane(f64::from(*x))).then(|| Tensor::from_vec(t.shape(), values))
}

/// The elements of a constant in steps of another one of the same shape, to the nearest integer; `None` where one is so large that sums could leave i32 or lose
/// digits as floats.
fn steps(t: &Tensor, by: &Tensor) -> Option<Tensor> {
    const MOST: f64 = 4_194_304.0;
    let (of, by) = (t.to_vec::<f32>(), (by.shape() == t.shape()).then(|| by.to_vec::<f32>())?);
    let values = of.iter().zip(by).map(|(x, step)| (f64::from(*x) / f64::from(step)).round_ties_even());
    let values: Vec<i32> = values.map(|x| (x.abs() < MOST).then_some(x as i32)).collect::<Option<_>>()?;
    Some(Tensor::from_vec(t.shape(), values))
}

/// Far from overflow and from subnormal numbers, which not every target computes with.
fn sane(x: f64) -> bool {
    x.is_finite() && (1e-30..1e30).contains(&x.abs())
}

/// A number above 0, and a constant operand of such numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Factor {
    all: f64,
    each: Option<u8>,
}

impl Factor {
    fn of(all: f64) -> Factor {
        Factor { all, each: None }
    }
}

/// What a constant is multiplied with.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Times {
    Factor(Factor),
    /// The same with 22 digits, so that sums can be floats by their bits.
    Short(Factor),
    /// One over another operand, rounded to an integer.
    Reciprocal(u8),
}

/// A shorter program.
struct Short {
    program: ScalarProgram,
    /// Operands behind those of the old program: which one each is, times what.
    made: Vec<(u8, Times)>,
}

/// Longer programs come from no fusion; they stay as they are.
const MOST_NODES: usize = 512;

/// The constant that an operand is.
type Constants<'a, 't> = &'a dyn Fn(u8) -> Option<&'t Tensor>;

/// The program without the division before its last rounding, if it is shorter so. `sums`: operand 0 is a sum of integers that can begin with something.
fn shortened(program: &ScalarProgram, constant: Constants, sums: bool) -> Option<Short> {
    if program.nodes.len() > MOST_NODES {
        return None;
    }
    // Hard swish of sums is shorter with its factor in their scales, too.
    let whole = || (program.dtype(program.result()) == DType::F32).then_some((program.result(), program.result(), 1.0));
    let (out, made, nodes) = (ScalarProgram::default(), Vec::new(), vec![None; program.nodes.len()]);
    let mut at = Rewriting { program, constant, sums, out, made, whole: nodes };
    if let Some((quotient, x, scale)) = divided(program).or_else(whole) {
        at.whole[quotient as usize] = at.times(x, Factor::of(1.0 / scale));
    }
    let result = at.whole(program.result());
    let short = at.out.finish(result);
    let numbered = program.n_args() + at.made.len() <= usize::from(u8::MAX);
    (numbered && work(&short) < work(program)).then_some(Short { program: short, made: at.made })
}

/// Operations; divisions count as the two that they become, what sums begin with is free.
fn work(program: &ScalarProgram) -> usize {
    let of = |op: ScalarOp| match op {
        ScalarOp::Arg(_) | ScalarOp::Const(_) => 0,
        ScalarOp::Bin(BinOp::Div, ..) => 2,
        _ => 1,
    };
    let is_start = |op: ScalarOp| {
        let operand = |n: NodeIx| matches!(program.nodes[n as usize].op, ScalarOp::Arg(_));
        matches!(op, ScalarOp::Bin(BinOp::Add, sum, start) if program.dtype(sum) == DType::I32 && operand(sum) && operand(start))
    };
    program.nodes.iter().filter(|n| !is_start(n.op)).map(|n| of(n.op)).sum()
}

/// The quotient at the end of a program that nothing but bounds, a rounding and a zero point follow; what is divided, and by what.
fn divided(program: &ScalarProgram) -> Option<(NodeIx, NodeIx, f64)> {
    let op = |n: NodeIx| program.nodes[n as usize].op;
    let is_constant = |n: NodeIx| matches!(op(n), ScalarOp::Const(_));
    let (mut at, mut rounded) = (program.result(), false);
    if !program.dtype(at).is_int() {
        return None;
    }
    loop {
        at = match op(at) {
            ScalarOp::Cast(x) if program.dtype(at).is_int() => x,
            ScalarOp::Un(UnOp::Round, x) => {
                rounded = true;
                x
            }
            ScalarOp::Bin(BinOp::Add, x, c) if !rounded && is_constant(c) => x,
            ScalarOp::Bin(BinOp::Min | BinOp::Max, x, c) if is_constant(c) => x,
            ScalarOp::Bin(BinOp::Min | BinOp::Max, c, x) if is_constant(c) => x,
            ScalarOp::Bin(BinOp::Div, x, c) if rounded && program.dtype(at) == DType::F32 => {
                let scale = number(program, c).filter(|s| *s > 0.0 && sane(*s))?;
                return Some((at, x, scale));
            }
            _ => return None,
        };
    }
}

/// A float constant.
fn number(program: &ScalarProgram, n: NodeIx) -> Option<f64> {
    let node = program.nodes[n as usize];
    match node.op {
        ScalarOp::Const(bits) if node.dtype == DType::F32 => Some(f64::from_bits(bits)),
        _ => None,
    }
}

/// `clamp(x * factor + offset, low, high)`, bounds in the order in which they come.
struct Clamped {
    factor: f64,
    offset: f64,
    bounds: Vec<(BinOp, f64)>,
}

struct Rewriting<'a, 't> {
    program: &'a ScalarProgram,
    constant: Constants<'a, 't>,
    sums: bool,
    out: ScalarProgram,
    made: Vec<(u8, Times)>,
    /// Nodes as they were.
    whole: Vec<Option<NodeIx>>,
}

impl Rewriting<'_, '_> {
    fn op(&self, n: NodeIx) -> ScalarOp {
        self.program.nodes[n as usize].op
    }

    /// The node as it was.
    fn whole(&mut self, n: NodeIx) -> NodeIx {
        if let Some(at) = self.whole[n as usize] {
            return at;
        }
        if let Some(at) = self.started(n, Factor::of(1.0)) {
            self.whole[n as usize] = Some(at);
            return at;
        }
        let node = self.program.nodes[n as usize];
        let operands: BTreeMap<NodeIx, NodeIx> = node.op.operands().map(|o| (o, self.whole(o))).collect();
        let at = self.out.push(node.op.map_operands(|o| operands[&o]), node.dtype);
        self.whole[n as usize] = Some(at);
        at
    }

    fn float(&mut self, x: f64) -> Option<NodeIx> {
        let x = f64::from(x as f32);
        (x == 0.0 || sane(x)).then(|| self.out.float(x, DType::F32))
    }

    /// The node times a factor above 0, by no more operations than the node has; `None` where that needs another one.
    fn times(&mut self, n: NodeIx, factor: Factor) -> Option<NodeIx> {
        if self.program.dtype(n) != DType::F32 {
            return None;
        }
        if let Some(at) = self.started(n, factor) {
            return Some(at);
        }
        match self.op(n) {
            ScalarOp::Const(bits) if factor.each.is_none() || f64::from_bits(bits) == 0.0 => {
                self.float(f64::from_bits(bits) * factor.all)
            }
            ScalarOp::Arg(k) if self.takes(k, factor) => Some(self.scaled(k, factor)),
            ScalarOp::Bin(BinOp::Mul, a, b) => {
                if let Some((x, by)) = [(a, b), (b, a)].into_iter().find_map(|(x, t)| Some((x, self.clamped(t, x)?))) {
                    return if factor.each.is_none() { self.hard_swish(x, &by, factor.all) } else { None };
                }
                let sides = [(a, b), (b, a)].into_iter();
                if let Some(at) = sides.clone().find_map(|(x, by)| self.times(x, self.joined(factor, by)?)) {
                    return Some(at);
                }
                sides.into_iter().find_map(|(x, other)| {
                    let x = self.times(x, factor)?;
                    let other = self.whole(other);
                    Some(self.out.bin(BinOp::Mul, other, x))
                })
            }
            ScalarOp::Bin(op @ (BinOp::Add | BinOp::Sub | BinOp::Min | BinOp::Max), a, b) => {
                let (a, b) = (self.times(a, factor)?, self.times(b, factor)?);
                Some(self.out.bin(op, a, b))
            }
            _ => None,
        }
    }

    /// Both factors, where the second is a constant operand of numbers above 0 and the first has none yet.
    fn joined(&self, factor: Factor, by: NodeIx) -> Option<Factor> {
        let ScalarOp::Arg(k) = self.op(by) else { return None };
        let numbers = (self.constant)(k).filter(|_| factor.each.is_none())?.to_vec::<f32>();
        numbers.iter().all(|x| *x > 0.0 && sane(f64::from(*x))).then_some(Factor { each: Some(k), ..factor })
    }

    /// Is this a constant operand that can be multiplied by a factor, element by element?
    fn takes(&self, k: u8, factor: Factor) -> bool {
        let shape = |k: u8| (self.constant)(k).map(|t| t.shape().iter().copied().skip_while(|n| *n == 1).collect::<Vec<u64>>());
        let own = shape(k);
        own.is_some() && factor.each.is_none_or(|each| shape(each) == own)
    }

    /// A constant operand times a factor.
    fn scaled(&mut self, k: u8, factor: Factor) -> NodeIx {
        if factor == Factor::of(1.0) { self.out.arg(k, DType::F32) } else { self.operand(k, Times::Factor(factor), DType::F32) }
    }

    fn operand(&mut self, k: u8, times: Times, dtype: DType) -> NodeIx {
        let at = self.made.iter().position(|m| *m == (k, times)).unwrap_or(self.made.len());
        if at == self.made.len() {
            self.made.push((k, times));
        }
        self.out.arg((self.program.n_args() + at) as u8, dtype)
    }

    /// `factor * (float(sum) * w + b)`, where the sum can begin with `b`.
    fn started(&mut self, n: NodeIx, factor: Factor) -> Option<NodeIx> {
        let ScalarOp::Bin(BinOp::Add, a, b) = self.op(n) else { return None };
        if !self.sums || self.program.dtype(n) != DType::F32 {
            return None;
        }
        let operand = |n: NodeIx| match self.op(n) {
            ScalarOp::Arg(k) if (self.constant)(k).is_some() => Some(k),
            _ => None,
        };
        let sum = |n: NodeIx| matches!(self.op(n), ScalarOp::Cast(sum) if self.op(sum) == ScalarOp::Arg(0) && self.program.dtype(sum) == DType::I32);
        let (product, offset) = operand(b).map(|k| (a, k)).or_else(|| Some((b, operand(a)?)))?;
        let ScalarOp::Bin(BinOp::Mul, x, y) = self.op(product) else { return None };
        let scale = operand(y).filter(|_| sum(x)).or_else(|| operand(x).filter(|_| sum(y))).filter(|k| self.takes(*k, factor))?;
        // The sum begins in one way only.
        let casts = self.program.nodes.iter().filter(|n| n.op.operands().any(|o| self.op(o) == ScalarOp::Arg(0))).count();
        let products = self.program.nodes.iter().filter(|n| n.op.operands().any(sum)).count();
        if casts != 1 || products != 1 {
            return None;
        }
        steps((self.constant)(offset)?, (self.constant)(scale)?)?;
        let start = self.operand(offset, Times::Reciprocal(scale), DType::I32);
        let sum = self.out.arg(0, DType::I32);
        let sum = self.out.bin(BinOp::Add, sum, start);
        let real = self.out.cast(sum, DType::F32);
        let scale = if factor == Factor::of(1.0) {
            self.out.arg(scale, DType::F32)
        } else {
            self.operand(scale, Times::Short(factor), DType::F32)
        };
        Some(self.out.bin(BinOp::Mul, real, scale))
    }

    /// The node as bounds of a multiple of `x`.
    fn clamped(&self, mut n: NodeIx, x: NodeIx) -> Option<Clamped> {
        let number = |n| number(self.program, n);
        let mut bounds = Vec::new();
        while let ScalarOp::Bin(op @ (BinOp::Min | BinOp::Max), a, b) = self.op(n) {
            let (inner, bound) = number(b).map(|c| (a, c)).or_else(|| Some((b, number(a)?)))?;
            bounds.push((op, bound));
            n = inner;
        }
        let mut offset = 0.0;
        if let ScalarOp::Bin(BinOp::Add, a, b) = self.op(n) {
            (n, offset) = number(b).map(|c| (a, c)).or_else(|| Some((b, number(a)?)))?;
        }
        let ScalarOp::Bin(BinOp::Mul, a, b) = self.op(n) else { return None };
        let factor = if a == x { number(b)? } else { number(a).filter(|_| b == x)? };
        bounds.reverse();
        (factor > 0.0 && !bounds.is_empty()).then_some(Clamped { factor, offset, bounds })
    }

    /// `factor * x * clamped`.
    fn hard_swish(&mut self, x: NodeIx, by: &Clamped, factor: f64) -> Option<NodeIx> {
        let root = (by.factor * factor).sqrt();
        let a = match self.times(x, Factor::of(root)) {
            Some(a) => a,
            None => {
                let (x, root) = (self.whole(x), self.float(root)?);
                self.out.bin(BinOp::Mul, x, root)
            }
        };
        let mut t = a;
        if by.offset != 0.0 {
            let offset = self.float(by.offset / by.factor * root)?;
            t = self.out.bin(BinOp::Add, t, offset);
        }
        for (op, bound) in &by.bounds {
            let bound = self.float(bound / by.factor * root)?;
            t = self.out.bin(*op, t, bound);
        }
        Some(self.out.bin(BinOp::Mul, a, t))
    }
}
